//! What is installed in a machine: the lists of dpkg, rpm, pip and Windows, as they are asked for and read.

use serde::{Deserialize, Serialize};

use crate::step::{Session, StepError};

/// Who keeps a list of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    Dpkg,
    Rpm,
    Pip,
    /// A program or a hotfix.
    Windows,
}

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    pub manager: Manager,
    pub name: String,
    pub version: String,
    /// `amd64`, `noarch`; of pip and Windows none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub architecture: String,
}

/// What is known of a machine's software.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// `ID` of `/etc/os-release`: `debian`; the caption of Windows; empty if it is not told.
    pub os: String,
    /// `VERSION_ID`: `12`.
    pub os_version: String,
    /// Sorted, each once.
    pub packages: Vec<Package>,
}

/// Reads a list.
type Read = fn(&str) -> Vec<Package>;

pub(crate) const STEP: &str = "inventory";
/// Begins the line before a list.
const LIST_OF: &str = "# list of ";
const OS_RELEASE: &str = "cat /etc/os-release 2>/dev/null";
const DPKG: &str = r"dpkg-query -W -f='${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n' 2>/dev/null";
const RPM: &str = r"rpm -qa --qf '%{NAME}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\t%{ARCH}\n' 2>/dev/null";
const PIP: &str = "python3 -m pip list --format=json --disable-pip-version-check 2>/dev/null";

impl Session {
    /// Asks the machine; a manager that it does not have is left out.
    ///
    /// # Errors
    /// A machine that cannot be asked.
    pub async fn inventory(&mut self) -> Result<Inventory, StepError> {
        let answer = self.ask(STEP, &lists()).await?.unwrap_or_default();
        let inventory = linux(&answer);
        self.log().say(STEP, &format!("{} packages are installed", inventory.packages.len()));
        Ok(inventory)
    }
}

/// All lists by one command: an emulated machine takes long to begin one.
fn lists() -> String {
    let list = |(name, command): (&str, &str)| {
        format!("if list=$({command}); then echo '{LIST_OF}{name}'; printf '%s\\n' \"$list\"; fi\n")
    };
    let lists: String = [("dpkg", DPKG), ("rpm", RPM), ("pip", PIP)].map(list).concat();
    format!("{OS_RELEASE}\n{lists}")
}

/// What [`lists`] has printed.
fn linux(answer: &str) -> Inventory {
    let (answer, begin) = (format!("\n{answer}"), format!("\n{LIST_OF}"));
    let mut parts = answer.split(&begin);
    let os = parts.next().unwrap_or_default();
    let mut packages = Vec::new();
    for (name, list) in parts.filter_map(|part| part.split_once('\n')) {
        let read: Read = match name {
            "dpkg" => dpkg,
            "rpm" => rpm,
            "pip" => pip,
            _ => continue,
        };
        packages.extend(read(list));
    }
    packages.sort();
    packages.dedup();
    Inventory { os: field(os, "ID"), os_version: field(os, "VERSION_ID"), packages }
}

fn field(os_release: &str, name: &str) -> String {
    let value = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
}

fn dpkg(list: &str) -> Vec<Package> {
    let package = |line: &str| match line.split('\t').collect::<Vec<_>>().as_slice() {
        ["installed", name, version, architecture] => Some(of(Manager::Dpkg, name, version, architecture)),
        _ => None,
    };
    list.lines().filter_map(package).collect()
}

fn rpm(list: &str) -> Vec<Package> {
    let package = |line: &str| match line.split('\t').collect::<Vec<_>>().as_slice() {
        // Keys are in rpm's database as if they were packages.
        ["gpg-pubkey", ..] => None,
        [name, version, architecture] => {
            Some(of(Manager::Rpm, name, version.strip_prefix("0:").unwrap_or(version), architecture))
        }
        _ => None,
    };
    list.lines().filter_map(package).collect()
}

fn pip(list: &str) -> Vec<Package> {
    #[derive(Deserialize)]
    struct Listed {
        name: String,
        version: String,
    }
    let listed: Vec<Listed> = serde_json::from_str(list).unwrap_or_default();
    listed.into_iter().map(|l| of(Manager::Pip, &l.name, &l.version, "")).collect()
}

/// `program⇥name⇥version`, `hotfix⇥KB…⇥`, `os⇥caption⇥version`
pub(crate) fn windows(list: &str) -> Inventory {
    let mut inventory = Inventory::default();
    for line in list.lines() {
        match line.trim_end_matches('\r').split('\t').collect::<Vec<_>>().as_slice() {
            ["os", caption, version] => {
                (inventory.os, inventory.os_version) = ((*caption).to_owned(), (*version).to_owned());
            }
            ["program" | "hotfix", name, version] => inventory.packages.push(of(Manager::Windows, name, version, "")),
            _ => {}
        }
    }
    inventory.packages.sort();
    inventory.packages.dedup();
    inventory
}

fn of(manager: Manager, name: &str, version: &str, architecture: &str) -> Package {
    Package { manager, name: name.to_owned(), version: version.to_owned(), architecture: architecture.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let list = "installed\tnginx\t1.22.1-9+deb12u3\tamd64\nconfig-files\told\t1\tall\nnonsense\n";
        assert_eq!(dpkg(list), [of(Manager::Dpkg, "nginx", "1.22.1-9+deb12u3", "amd64")]);
        let list = "bash\t0:5.1.8-9.el9\tx86_64\ngpg-pubkey\t0:1-2\t(none)\nbind\t32:9.16-1.el9\tx86_64\n";
        assert_eq!(
            rpm(list),
            [of(Manager::Rpm, "bash", "5.1.8-9.el9", "x86_64"), of(Manager::Rpm, "bind", "32:9.16-1.el9", "x86_64")]
        );
        assert_eq!(pip(r#"[{"name": "six", "version": "1.16.0"}]"#), [of(Manager::Pip, "six", "1.16.0", "")]);
        assert_eq!(pip("No module named pip"), []);
    }

    #[test]
    fn the_answer_of_a_machine_is_its_lists() {
        let answer = "ID=debian\nVERSION_ID=\"12\"\n# list of dpkg\ninstalled\tnginx\t1.22\tamd64\n# list of pip\n\
                      [{\"name\": \"six\", \"version\": \"1.16.0\"}]\n";
        let packages = vec![of(Manager::Dpkg, "nginx", "1.22", "amd64"), of(Manager::Pip, "six", "1.16.0", "")];
        assert_eq!(linux(answer), Inventory { os: "debian".into(), os_version: "12".into(), packages });
        let bare = linux("# list of dpkg\ninstalled\tnginx\t1.22\tamd64\n");
        assert_eq!((bare.os.as_str(), bare.packages.len()), ("", 1));
        assert_eq!(linux(""), Inventory::default());
    }

    /// A manager that is not there, or fails, has no list.
    #[test]
    fn lists_are_asked_of_a_shell() {
        let command = lists().replace(DPKG, "printf 'installed\\ta\\t1\\tall\\n'").replace(RPM, "echo half; false");
        let output = std::process::Command::new("sh").arg("-c").arg(command.replace(PIP, "no-such-program")).output();
        let output = output.unwrap();
        assert!(output.status.success());
        let inventory = linux(&String::from_utf8_lossy(&output.stdout));
        assert_eq!(inventory.packages, [of(Manager::Dpkg, "a", "1", "all")]);
    }

    #[test]
    fn programs_of_windows_are_read() {
        let list = "os\tMicrosoft Windows Server 2022 Datacenter\t10.0.20348\r\nprogram\t7-Zip\t24.08\r\nprogram\t7-Zip\t24.08\r\n\
                    hotfix\tKB5031364\t\r\nnonsense\r\n";
        let inventory = windows(list);
        assert_eq!(
            (inventory.os.as_str(), inventory.os_version.as_str()),
            ("Microsoft Windows Server 2022 Datacenter", "10.0.20348")
        );
        assert_eq!(
            inventory.packages,
            [of(Manager::Windows, "7-Zip", "24.08", ""), of(Manager::Windows, "KB5031364", "", "")]
        );
    }

    #[test]
    fn the_system_is_named() {
        let text = "PRETTY_NAME=\"Debian\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!((field(text, "ID"), field(text, "VERSION_ID")), ("debian".to_owned(), "12".to_owned()));
        assert_eq!(field("", "ID"), "");
    }
}
