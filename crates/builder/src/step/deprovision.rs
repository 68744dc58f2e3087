//! Takes out of a Linux machine what makes it this one, so that others can be made of its disk.
//!
//! In this order: the script that the image's author left at [`OVERRIDE`]; the Azure agent, as Image Builder calls it; for images
//! whose only agent is cloud-init what the Azure agent would have done.

use std::time::Instant;

use super::{Session, StepError};
use crate::communicator::quoted;

/// Where a template's own script for this is looked for.
pub const OVERRIDE: &str = "/tmp/DeprovisioningScript.sh";

pub(super) const STEP: &str = "deprovision";

impl Session {
    /// The connection still stands afterwards, its user is gone.
    ///
    /// # Errors
    /// What the script says.
    pub async fn deprovision(&mut self, user: &str) -> Result<(), StepError> {
        let begin = Instant::now();
        self.log.say(STEP, "generalizes the machine");
        let exit = self.run(STEP, &command(user), b"").await?;
        self.judge(STEP, begin, exit, i64::from, &[0])
    }
}

fn command(user: &str) -> String {
    let script = script(user);
    format!("sudo -n /bin/sh -c {}", quoted(&script))
}

/// As root. A user that is logged in is removed all the same (`userdel --force`).
fn script(user: &str) -> String {
    format!(
        "if [ -f {OVERRIDE} ]; then
  echo 'runs {OVERRIDE}'
  /bin/sh {OVERRIDE}
  s=$?; rm -f {OVERRIDE}; exit $s
elif [ -x /usr/sbin/waagent ]; then
  /usr/sbin/waagent -force -deprovision+user && export HISTSIZE=0 && sync
elif command -v cloud-init >/dev/null; then
  set -e
  cloud-init clean --logs
  : > /etc/machine-id
  rm -f /var/lib/dbus/machine-id /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
  rm -f /etc/sudoers.d/90-cloud-init-users /root/.bash_history /var/lib/systemd/random-seed /etc/hostname
  rm -f /var/lib/dhcp/*.leases /tmp/lazuli-script-*.sh
  userdel --force --remove {user} 2>/dev/null || userdel --force {user}
  sync
else
  echo 'the machine has neither waagent nor cloud-init: leave a script at {OVERRIDE} that generalizes it' >&2
  exit 3
fi"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_azure_agent_is_called_as_image_builder_calls_it() {
        let script = script("packer");
        assert!(script.contains("/usr/sbin/waagent -force -deprovision+user && export HISTSIZE=0 && sync"), "{script}");
        let first = script.find(OVERRIDE).unwrap();
        assert!(first < script.find("waagent").unwrap(), "the author's own script comes first");
    }
}
