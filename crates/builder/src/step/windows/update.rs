//! Updates of Windows, round by round: look, install, restart, until nothing is left.

use std::time::{Duration, Instant};

use super::{RunAs, UTF8_MARK, new_file, signed};
use crate::communicator::Exit;
use crate::communicator::winrm::powershell::{quoted, with};
use crate::step::{Session, StepError, seconds};

const UPDATE: &str = include_str!("update.ps1");
/// What Image Builder looks for, and which of it is taken, where the template does not say.
const CRITERIA: &str = "BrowseOnly=0 and IsInstalled=0";
const FILTER: &str = "include:$true";
/// Updates bring updates; no machine needs nearly as many rounds.
const ROUNDS: u32 = 50;
/// An update that cannot be installed may be after a restart.
const FAILURES: u32 = 3;
/// Windows configures updates while it starts.
const RESTART: Duration = Duration::from_secs(4 * 3600);
/// What the script ends with.
const DONE: u32 = 0;
const RESTART_AND_AGAIN: u32 = 101;
const AGAIN: u32 = 102;
const FAILED_RESTART_AND_AGAIN: u32 = 103;

/// Which updates are installed.
#[derive(Debug, Clone)]
pub struct Updates<'a> {
    /// In the language of the Windows Update Agent.
    pub criteria: Option<&'a str>,
    /// `include:` or `exclude:` with an expression of PowerShell on `$_`.
    pub filters: &'a [String],
    /// At a time.
    pub limit: u32,
}

fn script(updates: &Updates<'_>) -> String {
    let default = [FILTER.to_owned()];
    let filters = if updates.filters.is_empty() { &default } else { updates.filters };
    let filters: Vec<String> = filters.iter().map(|f| quoted(f)).collect();
    let set = with(&[("criteria", updates.criteria.unwrap_or(CRITERIA))], "");
    format!("{UTF8_MARK}{set}$filters = @({})\n$limit = {}\n{UPDATE}", filters.join(", "), updates.limit)
}

impl Session {
    /// Installs updates as SYSTEM, and restarts the machine as often as they ask for it.
    ///
    /// # Errors
    /// An update that cannot be installed even after restarts; updates without end.
    pub async fn windows_update(&mut self, step: &str, updates: &Updates<'_>) -> Result<(), StepError> {
        let (begin, mut failures) = (Instant::now(), 0);
        let script = script(updates);
        for round in 1..=ROUNDS {
            self.log.say(step, &format!("looks for updates (round {round})"));
            let path = new_file("update");
            self.write(step, &path, script.as_bytes(), None).await?;
            let exit = self.run_file(step, &path, RunAs::System).await?;
            match exit {
                Exit::Code(RESTART_AND_AGAIN) => self.windows_restart(step, None, None, RESTART).await?,
                Exit::Code(AGAIN) => {}
                Exit::Code(FAILED_RESTART_AND_AGAIN) if failures + 1 < FAILURES => {
                    failures += 1;
                    self.windows_restart(step, None, None, RESTART).await?;
                }
                other => return self.judge(step, begin, other, signed, &[signed(DONE)]),
            }
        }
        self.log.say(step, &format!("gives up after {}", seconds(begin)));
        Err(StepError::Updates { step: step.to_owned(), rounds: ROUNDS })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_chooses_by_data_and_not_by_code() {
        let filters = ["exclude:$_.Title -like '*Preview*'".to_owned(), "include:$true".to_owned()];
        let given = Updates { criteria: Some("IsInstalled=0'; Remove-Item C:\\"), filters: &filters, limit: 20 };
        let text = script(&given);
        let head: Vec<&str> = text.trim_start_matches(UTF8_MARK).lines().take(3).collect();
        assert_eq!(
            head,
            [
                r"$criteria = 'IsInstalled=0''; Remove-Item C:\'",
                "$filters = @('exclude:$_.Title -like ''*Preview*''', 'include:$true')",
                "$limit = 20"
            ]
        );
        let text = script(&Updates { criteria: None, filters: &[], limit: 1000 });
        assert!(
            text.contains("$criteria = 'BrowseOnly=0 and IsInstalled=0'\n$filters = @('include:$true')\n"),
            "{text}"
        );
    }
}
