//! The steps of a machine with Windows, all of them PowerShell. What is longer than a command line is written into the machine as a file
//! and removed again.
//!
//! No Windows was there to try them on: `docs/image-builder.md` says what they were tested with.

mod update;

use std::time::{Duration, Instant};

use super::restart::Restart;
use super::script::Script;
use super::sha2_hex::Sha256Hex;
use super::{Exit, Session, StepError, check_hash, deprovision, failed};
use crate::communicator::winrm::powershell::{encoded, quoted, with};
use crate::inventory::{self, Inventory};

pub use update::Updates;

/// Where a template's own script for the end is looked for.
pub const OVERRIDE: &str = r"C:\DeprovisioningScript.ps1";
/// Of all users, so that another one can run what lies here.
const FOLDER: &str = r"C:\Windows\Temp";
const RUN: &str = include_str!("run.ps1");
const ELEVATED: &str = include_str!("elevated.ps1");
const DEPROVISION: &str = include_str!("deprovision.ps1");
const INVENTORY: &str = include_str!("inventory.ps1");
/// Without a mark Windows PowerShell takes a file for one of the system's code page.
const UTF8_MARK: &str = "\u{feff}";
const SYSTEM: &str = "SYSTEM";
/// In seconds since 1970, by the machine's clock.
const BOOT: &str = "$ProgressPreference = 'SilentlyContinue'
[DateTimeOffset]$boot = (Get-CimInstance Win32_OperatingSystem).LastBootUpTime
$boot.ToUnixTimeSeconds()";
/// Packer's, which templates expect.
const RESTART: &str = "shutdown /r /f /t 0 /c \"packer restart\"";
/// The time of a boot is reckoned from clock and uptime, and shifts when the clock is set right.
const SHIFT: u64 = 10;

/// As whom a script runs.
#[derive(Clone, Copy)]
pub enum RunAs<'a> {
    /// Over the connection itself.
    BuildUser,
    /// The build user, by the task scheduler with the highest rights.
    Elevated {
        user: &'a str,
        password: &'a str,
    },
    System,
}

/// The script that inline commands are.
pub fn inline(commands: &[String]) -> String {
    let mut script = UTF8_MARK.to_owned();
    for command in commands {
        script.push_str(command);
        script.push_str("\r\n");
    }
    script
}

/// As Windows writes an exit code.
fn signed(code: u32) -> i64 {
    i64::from(code.cast_signed())
}

fn another_boot(before: &str, now: &str) -> bool {
    match (before.parse::<u64>(), now.parse::<u64>()) {
        (Ok(before), Ok(now)) => before.abs_diff(now) > SHIFT,
        _ => before != now,
    }
}

fn new_file(kind: &str) -> String {
    format!(r"{FOLDER}\lazuli-{kind}-{}.ps1", uuid::Uuid::new_v4().simple())
}

impl Session {
    /// Runs a script of PowerShell to its end.
    ///
    /// # Errors
    /// As [`Session::script`].
    pub async fn power_shell(&mut self, step: &str, script: &Script<'_>, run_as: RunAs<'_>) -> Result<(), StepError> {
        let begin = Instant::now();
        let path = new_file("script");
        let size = self.write(step, &path, script.content, script.sha256).await?;
        self.log.say(step, &format!("runs a script of {size} bytes"));
        let exit = self.run_file(step, &path, run_as).await?;
        let codes: Vec<i64> = script.exit_codes.iter().copied().map(signed).collect();
        self.judge(step, begin, exit, signed, &codes)
    }

    /// Restarts the machine: `command` and `check` are lines for `cmd.exe`.
    ///
    /// # Errors
    /// A machine that does not obey, or is not back in `time`.
    pub async fn windows_restart(
        &mut self,
        step: &str,
        command: Option<&str>,
        check: Option<&str>,
        time: Duration,
    ) -> Result<(), StepError> {
        let boot = encoded(BOOT);
        let how = Restart { boot: &boot, another: another_boot, command: command.unwrap_or(RESTART), check };
        self.restarted(step, &how, time).await
    }

    /// Generalizes the machine. The connection still stands afterwards; what it needs, and `user`, go when the image is first started.
    ///
    /// # Errors
    /// What Sysprep, or the template's own script, says.
    pub async fn windows_deprovision(&mut self, user: &str) -> Result<(), StepError> {
        let (step, begin) = (deprovision::STEP, Instant::now());
        self.log.say(step, "generalizes the machine");
        let path = new_file("deprovision");
        self.write(step, &path, with(&[("override", OVERRIDE), ("user", user)], DEPROVISION).as_bytes(), None).await?;
        let exit = self.run_file(step, &path, RunAs::BuildUser).await?;
        self.judge(step, begin, exit, signed, &[0])
    }

    /// Asks the machine what is installed in it.
    ///
    /// # Errors
    /// A machine that cannot be asked.
    pub async fn windows_inventory(&mut self) -> Result<Inventory, StepError> {
        let list = self.ask(inventory::STEP, &encoded(INVENTORY)).await?;
        let inventory = inventory::windows(&list.unwrap_or_default());
        self.log.say(inventory::STEP, &format!("{} programs and hotfixes are installed", inventory.packages.len()));
        Ok(inventory)
    }

    async fn write(
        &mut self,
        step: &str,
        path: &str,
        mut bytes: &[u8],
        sha256: Option<&str>,
    ) -> Result<u64, StepError> {
        let mut content = Sha256Hex::new(&mut bytes);
        let size = self.connection.upload(path, "", &mut content).await.map_err(|e| failed(step, e))?;
        check_hash(step, size, &content.finish(), sha256)?;
        Ok(size)
    }

    /// Runs a script that lies in the machine; it is gone afterwards.
    async fn run_file(&mut self, step: &str, path: &str, run_as: RunAs<'_>) -> Result<Exit, StepError> {
        let (user, input) = match run_as {
            RunAs::BuildUser => return self.run(step, &encoded(&with(&[("path", path)], RUN)), b"").await,
            // PowerShell reads it for the pipeline.
            RunAs::Elevated { user, password } => (user, format!("{password}\r\n")),
            RunAs::System => (SYSTEM, String::new()),
        };
        let password = if input.is_empty() { "" } else { " -Password @($input)[0]" };
        let runner = new_file("elevated");
        self.write(step, &runner, ELEVATED.as_bytes(), None).await?;
        self.log.say(step, &format!("by the task scheduler, as {user}"));
        let (runner, path, user) = (quoted(&runner), quoted(path), quoted(user));
        let call = format!("& {runner} -Path {path} -User {user}{password}\nexit $LASTEXITCODE");
        self.run(step, &encoded(&call), input.as_bytes()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::communicator::winrm::powershell::MAX_LINE;

    #[test]
    fn inline_commands_are_one_script() {
        let commands = ["Write-Output 'ü'".to_owned(), "exit 3".to_owned()];
        assert_eq!(inline(&commands), "\u{feff}Write-Output 'ü'\r\nexit 3\r\n");
    }

    #[test]
    fn boots_are_told_apart() {
        assert!(!another_boot("1700000000", "1700000002"), "the clock was set right");
        assert!(another_boot("1700000000", "1700000095"));
        assert!(another_boot("", "1700000095"));
    }

    #[test]
    fn exit_codes_are_those_of_windows() {
        assert_eq!((signed(3010), signed(u32::MAX)), (3010, -1));
    }

    #[test]
    fn what_is_no_file_is_a_command_line() {
        for script in [BOOT.to_owned(), INVENTORY.to_owned(), with(&[("path", &new_file("deprovision"))], RUN)] {
            let line = encoded(&script);
            assert!(line.len() < MAX_LINE, "{}: {script}", line.len());
        }
    }
}
