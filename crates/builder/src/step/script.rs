//! Shell scripts, as Packer's shell provisioner runs them: a file in `/tmp`, made executable, run as the build user. What needs root
//! says `sudo` itself.

use std::time::Instant;

use super::{Exit, Session, StepError, check_hash, failed, seconds};
use crate::communicator::quoted;
use crate::step::sha2_hex::Sha256Hex;

/// A script and how it is judged.
#[derive(Debug, Clone)]
pub struct Script<'a> {
    pub content: &'a [u8],
    /// SHA-256 in hex, where it is known.
    pub sha256: Option<&'a str>,
    /// What it may end with.
    pub exit_codes: &'a [u32],
}

/// The script that inline commands are: one after the other, until one fails (Packer's `inline_shebang`).
pub fn inline(commands: &[String]) -> String {
    let mut script = "#!/bin/sh -e\n".to_owned();
    for command in commands {
        script.push_str(command);
        script.push('\n');
    }
    script
}

impl Session {
    /// Runs a script to its end.
    ///
    /// # Errors
    /// Another exit code than allowed; a connection that is lost before the end.
    pub async fn script(&mut self, step: &str, script: &Script<'_>) -> Result<(), StepError> {
        let begin = Instant::now();
        let path = format!("/tmp/lazuli-script-{}.sh", uuid::Uuid::new_v4().simple());
        let mut content = script.content;
        let mut content = Sha256Hex::new(&mut content);
        let size = self.connection.upload(&path, "700", &mut content).await.map_err(|e| failed(step, e))?;
        check_hash(step, size, &content.finish(), script.sha256)?;
        self.log.say(step, &format!("runs a script of {size} bytes"));
        let file = quoted(&path);
        let exit = self.run(step, &format!("{file}; s=$?; rm -f {file}; exit $s"), b"").await?;
        let codes: Vec<i64> = script.exit_codes.iter().copied().map(i64::from).collect();
        self.judge(step, begin, exit, i64::from, &codes)
    }

    /// Says in the log how a script has ended, and whether that is allowed. `read`: an exit code as its system writes it.
    pub(super) fn judge(
        &self,
        step: &str,
        begin: Instant,
        exit: Exit,
        read: fn(u32) -> i64,
        codes: &[i64],
    ) -> Result<(), StepError> {
        let step_name = step.to_owned();
        let (said, judged) = match exit {
            Exit::Code(code) if codes.contains(&read(code)) => (format!("ended with exit code {}", read(code)), Ok(())),
            Exit::Code(code) => {
                let code = read(code);
                let error = StepError::ExitCode { step: step_name, code, allowed: allowed(codes) };
                (format!("failed with exit code {code}"), Err(error))
            }
            Exit::Signal(signal) => {
                let said = format!("was killed by the signal {signal}");
                (said, Err(StepError::Killed { step: step_name, signal }))
            }
            Exit::Lost => ("the connection was lost".to_owned(), Err(StepError::Lost { step: step_name })),
        };
        self.log.say(step, &format!("{said} after {}", seconds(begin)));
        judged
    }
}

fn allowed(codes: &[i64]) -> String {
    let codes: Vec<String> = codes.iter().map(i64::to_string).collect();
    match codes.as_slice() {
        [one] => format!("allowed is {one}"),
        _ => format!("allowed are {}", codes.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_commands_are_one_script() {
        let commands = ["echo one".to_owned(), "sudo apt-get update".to_owned()];
        assert_eq!(inline(&commands), "#!/bin/sh -e\necho one\nsudo apt-get update\n");
    }

    #[test]
    fn allowed_codes() {
        assert_eq!(allowed(&[0]), "allowed is 0");
        assert_eq!(allowed(&[0, 3010]), "allowed are 0, 3010");
    }
}
