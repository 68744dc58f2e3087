//! Restarts a machine and waits until it is back: the same host key or certificate, another boot.

use std::time::{Duration, Instant};

use super::{ASK_AGAIN, CommunicatorError, Exit, Session, StepError, failed, seconds};
use crate::communicator::{Communicator, Connect, Said};

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";
/// `systemctl` returns before the machine goes down, others may not.
const RESTART: &str = "sudo -n systemctl reboot 2>/dev/null || sudo -n reboot";
/// A machine that goes down may take its connection along, or leave it hanging.
const OBEYS: Duration = Duration::from_secs(20);

/// How a system is restarted, in its own shell's lines.
pub(super) struct Restart<'a> {
    /// Prints what differs from boot to boot.
    pub boot: &'a str,
    pub another: fn(before: &str, now: &str) -> bool,
    pub command: &'a str,
    /// Ends with 0 when the machine can be worked on.
    pub check: Option<&'a str>,
}

const LINUX: Restart<'static> =
    Restart { boot: BOOT_ID, another: |before, now| before != now, command: RESTART, check: None };

impl Session {
    /// # Errors
    /// A machine that does not obey, or is not back in `time`.
    pub async fn restart(&mut self, step: &str, time: Duration) -> Result<(), StepError> {
        self.restarted(step, &LINUX, time).await
    }

    pub(super) async fn restarted(&mut self, step: &str, how: &Restart<'_>, time: Duration) -> Result<(), StepError> {
        let begin = Instant::now();
        let before = self.ask(step, how.boot).await?;
        self.log.say(step, "restarts the machine");
        let mut said = Said::default();
        let asked = tokio::time::timeout(OBEYS, self.connection.exec(how.command, b"", &mut said)).await;
        match asked {
            Ok(Ok(Exit::Code(0) | Exit::Lost | Exit::Signal(_))) | Ok(Err(CommunicatorError::Lost(_))) | Err(_) => {}
            Ok(Ok(Exit::Code(_))) => return Err(StepError::NoRestart { step: step.to_owned(), said: said.text() }),
            Ok(Err(error)) => return Err(failed(step, error)),
        }
        self.connection.close().await;
        let mut last = None;
        while begin.elapsed() < time {
            tokio::time::sleep(ASK_AGAIN).await;
            // The old boot may still answer for a moment.
            let left = time.saturating_sub(begin.elapsed());
            let asked = tokio::time::timeout(left, new_boot(&*self.connect, how, before.as_deref()));
            match asked.await.unwrap_or(Ok(None)) {
                Ok(Some(connection)) => {
                    self.connection = connection;
                    self.log.say(step, &format!("the machine is back after {}", seconds(begin)));
                    return Ok(());
                }
                Ok(None) => {}
                Err(error @ (CommunicatorError::HostKey { .. } | CommunicatorError::Certificate)) => {
                    return Err(failed(step, error));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(StepError::NotBack { step: step.to_owned(), time, last })
    }
}

/// A connection, if it is to another boot than before that can be worked on.
async fn new_boot(
    connect: &dyn Connect,
    how: &Restart<'_>,
    before: Option<&str>,
) -> Result<Option<Box<dyn Communicator>>, CommunicatorError> {
    let mut connection = connect.connect().await?;
    let mut boot = Said::default();
    let exit = connection.exec(how.boot, b"", &mut boot).await?;
    let another = exit == Exit::Code(0) && before.is_none_or(|before| (how.another)(before.trim(), &boot.text()));
    if !another {
        connection.close().await;
        return Ok(None);
    }
    if let Some(check) = how.check
        && connection.exec(check, b"", &mut ()).await? != Exit::Code(0)
    {
        connection.close().await;
        return Ok(None);
    }
    Ok(Some(connection))
}
