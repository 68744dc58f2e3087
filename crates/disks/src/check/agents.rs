//! The provisioning agents and their settings; what a generalized image should not carry (GS-5, GS-6, GS-10, GS-12).

use super::OsState;
use super::report::Findings;
use super::root::Root;
use crate::table::printable;

const CLOUD_INIT: [&str; 3] = ["/usr/bin/cloud-init", "/usr/local/bin/cloud-init", "/bin/cloud-init"];
const WAAGENT: [&str; 3] = ["/usr/sbin/waagent", "/usr/bin/waagent", "/sbin/waagent"];
const WAAGENT_CONF: &str = "/etc/waagent.conf";

/// The agents that are installed.
pub(super) fn check(root: &Root, state: Option<OsState>, found: &mut Findings) -> Vec<&'static str> {
    let (cloud_init, waagent) = (root.any(&CLOUD_INIT), root.any(&WAAGENT));
    let mut agents = Vec::new();
    if cloud_init {
        agents.push("cloud-init");
    }
    if waagent {
        agents.push("waagent");
    }
    match state {
        Some(OsState::Specialized) => {
            if agents.is_empty() {
                found.info("agent", "no agent is installed, which a specialized image does not need", "");
            }
        }
        Some(OsState::Generalized) | None => {
            let provisions =
                (cloud_init && cloud_init_works(root, found)) | (waagent && waagent_works(root, cloud_init, found));
            if !provisions {
                no_agent(state, agents.is_empty(), found);
            }
        }
    }
    if state == Some(OsState::Generalized) {
        leftovers(root, found);
    }
    agents
}

fn no_agent(state: Option<OsState>, none: bool, found: &mut Findings) {
    let message = if none {
        "neither cloud-init nor waagent is installed: nothing takes the user, key and name of a new machine, nor reports it ready"
    } else {
        "no installed agent will provision a new machine"
    };
    let advice = "install cloud-init (Debian: `apt install cloud-init`), or use the image as specialized";
    if state == Some(OsState::Generalized) {
        found.error("agent", message, advice);
    } else {
        found.warning("agent", message, advice);
    }
}

/// Whether cloud-init will run and take its data from Azure's data source.
fn cloud_init_works(root: &Root, found: &mut Findings) -> bool {
    if root.exists("/etc/cloud/cloud-init.disabled") {
        found.warning("cloud-init", "cloud-init is switched off by /etc/cloud/cloud-init.disabled", "remove that file");
        return false;
    }
    let mut list = root.text("/etc/cloud/cloud.cfg").and_then(|text| datasources(&text));
    let folder = "/etc/cloud/cloud.cfg.d";
    for name in root.names(folder).into_iter().filter(|n| n.ends_with(".cfg")) {
        // The last file wins.
        list = root.text(&format!("{folder}/{name}")).and_then(|text| datasources(&text)).or(list);
    }
    match list {
        // Without a list all are tried, Azure among them.
        None => true,
        Some(list) if list.iter().any(|name| name == "Azure") => true,
        Some(list) => {
            found.error(
                "cloud-init",
                format!("cloud-init's datasource_list [{}] does not have Azure", printable(&list.join(", "))),
                "put `datasource_list: [ Azure ]` into /etc/cloud/cloud.cfg.d/90_dpkg.cfg or a later file",
            );
            false
        }
    }
}

/// The value of `datasource_list` in a YAML file, in either of its two forms; `None`: it is not there.
fn datasources(text: &str) -> Option<Vec<String>> {
    let clean = |item: &str| item.trim().trim_matches(['"', '\'']).to_owned();
    let mut lines = text.lines().map(|line| line.split(" #").next().unwrap_or_default());
    let rest = lines.by_ref().find_map(|line| line.strip_prefix("datasource_list:"))?.trim().to_owned();
    let mut flow = rest;
    if flow.is_empty() {
        let items = lines.skip_while(|l| l.trim().is_empty());
        let mut items = items.peekable();
        if items.peek().is_some_and(|line| line.trim_start().starts_with('-')) {
            let items = items.map_while(|line| line.trim_start().strip_prefix('-').map(clean));
            return Some(items.collect());
        }
        flow = items.next().unwrap_or_default().trim().to_owned();
        return Some(flow.trim_matches(['[', ']']).split(',').map(clean).filter(|n| !n.is_empty()).collect());
    }
    // A list over several lines goes on to its bracket.
    for line in lines.take(64) {
        if flow.contains(']') {
            break;
        }
        flow.push_str(line);
    }
    let inside = flow.trim_start_matches('[').split(']').next().unwrap_or_default();
    Some(inside.split(',').map(clean).filter(|n| !n.is_empty()).collect())
}

/// Whether waagent will provision, by its settings.
fn waagent_works(root: &Root, cloud_init: bool, found: &mut Findings) -> bool {
    let Some(conf) = root.text(WAAGENT_CONF) else {
        found.info("waagent", format!("waagent has no {WAAGENT_CONF}: its defaults hold"), "");
        return true;
    };
    let value = |key: &str| setting(&conf, key).unwrap_or_default().to_lowercase();
    if value("Provisioning.Enabled") == "n" {
        return false;
    }
    match value("Provisioning.Agent").as_str() {
        "disabled" => false,
        "cloud-init" if !cloud_init => {
            found.error(
                "waagent",
                format!("{WAAGENT_CONF} leaves provisioning to cloud-init, which is not installed"),
                "set Provisioning.Agent=auto, or install cloud-init",
            );
            false
        }
        // It only waits for the other.
        "cloud-init" => false,
        "auto" | "waagent" | "" => true,
        other => {
            found.warning(
                "waagent",
                format!("{WAAGENT_CONF} has an unknown Provisioning.Agent={}", printable(other)),
                "set it to auto",
            );
            true
        }
    }
}

fn setting<'a>(conf: &'a str, key: &str) -> Option<&'a str> {
    conf.lines().find_map(|line| line.trim().strip_prefix(key)?.trim_start().strip_prefix('=')).map(str::trim)
}

/// What makes machines from a generalized image alike that should differ, or keeps an agent from provisioning again.
fn leftovers(root: &Root, found: &mut Findings) {
    let deprovision =
        "run `cloud-init clean --logs --machine-id` or `waagent -deprovision` in the machine before it is captured";
    if root.exists("/var/lib/waagent/provisioned") {
        found.error(
            "leftover-waagent",
            "waagent believes that the machine is provisioned (/var/lib/waagent/provisioned)",
            deprovision,
        );
    }
    if root.exists("/var/lib/cloud/instance") {
        found.warning(
            "leftover-cloud-init",
            "cloud-init's state of the last machine is still in /var/lib/cloud",
            deprovision,
        );
    }
    let is_key = |name: &String| name.starts_with("ssh_host_") && name.ends_with("_key");
    let keys = root.names("/etc/ssh").into_iter().filter(is_key).count();
    if keys > 0 {
        found.warning(
            "leftover-host-keys",
            format!(
                "{keys} SSH host keys are in /etc/ssh: all machines would share them, unless the agent makes new ones"
            ),
            deprovision,
        );
    }
    // Empty or "uninitialized": systemd makes one at the first boot.
    let id = root.text("/etc/machine-id").unwrap_or_default();
    if !id.trim().is_empty() && id.trim() != "uninitialized" {
        found.warning("leftover-machine-id", "/etc/machine-id is set: all machines would have the same", deprovision);
    }
    if root.exists("/etc/udev/rules.d/70-persistent-net.rules") {
        found.warning(
            "leftover-network",
            "/etc/udev/rules.d/70-persistent-net.rules ties the network to the last machine's card",
            "remove that file",
        );
    }
    if root.len("/root/.bash_history").is_some_and(|len| len > 0) {
        found.info("leftover-history", "root's shell history is in the image (/root/.bash_history)", deprovision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasource_lists_are_read_in_each_form() {
        let list = |text: &str| datasources(text).map(|l| l.join(" "));
        assert_eq!(list("users: []\n"), None);
        assert_eq!(list("# x\ndatasource_list: [ Azure ]\n").unwrap(), "Azure");
        assert_eq!(list("datasource_list: ['NoCloud', \"Azure\", None] # all\n").unwrap(), "NoCloud Azure None");
        assert_eq!(list("datasource_list: [ NoCloud,\n  Azure ]\nx: 1\n").unwrap(), "NoCloud Azure");
        assert_eq!(list("datasource_list:\n  - Ec2\n  - None\nx: 1\n").unwrap(), "Ec2 None");
        assert_eq!(list("datasource_list:\n- Azure\n").unwrap(), "Azure");
        assert_eq!(list("datasource_list: []\n").unwrap(), "");
    }

    #[test]
    fn settings_of_waagent_are_read() {
        let conf = "# Provisioning.Agent=x\n Provisioning.Agent = auto \nProvisioning.Enabled=n\n";
        assert_eq!(setting(conf, "Provisioning.Agent"), Some("auto"));
        assert_eq!(setting(conf, "Provisioning.Enabled"), Some("n"));
        assert_eq!(setting(conf, "ResourceDisk.Format"), None);
    }
}
