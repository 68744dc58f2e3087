//! A playbook of Ansible, run in the machine itself by the machine's own `ansible-playbook`: whoever writes a template gets nothing of the
//! computer that builds it. The variables are in a file of the build user's own, not in a command line.

use std::time::Instant;

use super::{Session, StepError, check_hash, failed};
use crate::communicator::{Exit, Said, quoted};
use crate::step::sha2_hex::Sha256Hex;

/// A playbook, whose plays are for `localhost` (or `all`).
#[derive(Debug, Clone)]
pub struct Playbook<'a> {
    pub content: &'a [u8],
    /// SHA-256 in hex, where it is known.
    pub sha256: Option<&'a str>,
    /// A JSON object.
    pub extra_vars: &'a str,
}

impl Session {
    /// Runs a playbook to its end.
    ///
    /// # Errors
    /// A machine without Ansible; a play that is for no host here; what Ansible says.
    pub async fn ansible(&mut self, step: &str, playbook: &Playbook<'_>) -> Result<(), StepError> {
        let begin = Instant::now();
        let folder = format!("/tmp/lazuli-ansible-{}", uuid::Uuid::new_v4().simple());
        let mut said = Said::default();
        let made = self.connection.exec(&format!("mkdir -m 700 {folder}"), b"", &mut said).await;
        if made.map_err(|e| failed(step, e))? != Exit::Code(0) {
            let source = crate::CommunicatorError::Upload { path: folder, said: said.text() };
            return Err(failed(step, source));
        }
        let mut content = playbook.content;
        let mut content = Sha256Hex::new(&mut content);
        let path = format!("{folder}/playbook.yml");
        let size = self.connection.upload(&path, "600", &mut content).await.map_err(|e| failed(step, e))?;
        check_hash(step, size, &content.finish(), playbook.sha256)?;
        let mut variables = playbook.extra_vars.as_bytes();
        let path = format!("{folder}/variables.json");
        self.connection.upload(&path, "600", &mut variables).await.map_err(|e| failed(step, e))?;
        self.log.say(step, &format!("runs a playbook of {size} bytes"));
        let exit = self.run(step, &format!("/bin/sh -c {}", quoted(&script(&folder))), b"").await?;
        self.judge(step, begin, exit, i64::from, &[0])
    }
}

/// A play without hosts is a success for Ansible, and a mistake of the template.
fn script(folder: &str) -> String {
    format!(
        "cd {folder} || exit 1
trap 'rm -rf {folder}' EXIT
if ! command -v ansible-playbook >/dev/null; then
  echo 'ansible-playbook is not in the machine: install it with a Shell customizer before (on Debian: sudo apt-get install -y \
ansible-core)' >&2
  exit 127
fi
export ANSIBLE_NOCOLOR=1 ANSIBLE_NOCOWS=1 ANSIBLE_RETRY_FILES_ENABLED=0 ANSIBLE_LOCALHOST_WARNING=0 PYTHONUNBUFFERED=1
export ANSIBLE_LOCAL_TEMP={folder}/local ANSIBLE_REMOTE_TEMP={folder}/remote
set -- -i localhost, -c local -e @variables.json playbook.yml
if ansible-playbook --list-hosts \"$@\" 2>/dev/null | grep -q 'hosts (0)'; then
  echo 'a play of the playbook is for hosts that are not here: the machine is localhost' >&2
  exit 3
fi
ansible-playbook \"$@\" </dev/null"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_in_no_command_line() {
        let script = script("/tmp/x");
        assert!(
            script.contains("-e @variables.json playbook.yml") && script.contains("trap 'rm -rf /tmp/x' EXIT"),
            "{script}"
        );
    }
}
