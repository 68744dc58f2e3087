//! Restarts a Linux machine and waits until it is back: the same host key, another boot.

use std::time::{Duration, Instant};

use super::{ASK_AGAIN, CommunicatorError, Exit, Session, StepError, failed, seconds};
use crate::communicator::{Communicator, Connect, Output, Stream};

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";
/// `systemctl` returns before the machine goes down, others may not.
const RESTART: &str = "sudo -n systemctl reboot 2>/dev/null || sudo -n reboot";
/// A machine that goes down may take its connection along, or leave it hanging.
const OBEYS: Duration = Duration::from_secs(20);

impl Session {
    /// # Errors
    /// A machine that does not obey, or is not back in `time`.
    pub async fn restart(&mut self, step: &str, time: Duration) -> Result<(), StepError> {
        let begin = Instant::now();
        let before = self.ask(step, BOOT_ID).await?;
        self.log.say(step, "restarts the machine");
        let mut said = Said(String::new());
        let asked = tokio::time::timeout(OBEYS, self.connection.exec(RESTART, &mut said)).await;
        match asked {
            Ok(Ok(Exit::Code(0) | Exit::Lost | Exit::Signal(_))) | Ok(Err(CommunicatorError::Lost(_))) | Err(_) => {}
            Ok(Ok(Exit::Code(_))) => {
                return Err(StepError::NoRestart { step: step.to_owned(), said: said.0.trim().to_owned() });
            }
            Ok(Err(error)) => return Err(failed(step, error)),
        }
        self.connection.close().await;
        let mut last = None;
        while begin.elapsed() < time {
            tokio::time::sleep(ASK_AGAIN).await;
            // The old boot may still answer for a moment.
            match new_boot(&*self.connect, before.as_deref()).await {
                Ok(Some(connection)) => {
                    self.connection = connection;
                    self.log.say(step, &format!("the machine is back after {}", seconds(begin)));
                    return Ok(());
                }
                Ok(None) => {}
                Err(error @ CommunicatorError::HostKey { .. }) => return Err(failed(step, error)),
                Err(error) => last = Some(error),
            }
        }
        Err(StepError::NotBack { step: step.to_owned(), time, last })
    }
}

/// A connection, if it is to another boot than before.
async fn new_boot(
    connect: &dyn Connect,
    before: Option<&str>,
) -> Result<Option<Box<dyn Communicator>>, CommunicatorError> {
    let mut connection = connect.connect().await?;
    let mut id = Said(String::new());
    let exit = connection.exec(BOOT_ID, &mut id).await?;
    Ok((exit == Exit::Code(0) && before != Some(id.0.as_str())).then_some(connection))
}

struct Said(String);

impl Output for Said {
    fn take(&mut self, _stream: Stream, bytes: &[u8]) {
        if self.0.len() < 1024 {
            self.0.push_str(&String::from_utf8_lossy(bytes));
        }
    }
}
