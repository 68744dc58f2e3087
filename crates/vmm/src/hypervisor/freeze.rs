//! Frozen file systems around the instant at which a running guest's disks are copied, by the guest's own agent.
//!
//! ```text
//!            ┌ DIR/vms/<id>/frozen is written
//! no agent ──┤
//!            └ freeze ─ copies begin ─ thaw, again and again until the agent says yes or the machine is gone ─ file removed
//! ```
//! A guest that stays frozen is lost to its users, so that a thaw outlives whoever asked for it: the file tells the next host
//! of a thaw that was never confirmed.

use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::VmFiles;
use crate::guest_agent::{AgentError, Port};

const THAW_AGAIN: Duration = Duration::from_secs(2);
/// How long a capture waits for the guest to write again; the thaw is not given up then.
const THAW_TIME: Duration = Duration::from_secs(30);

/// File systems that are frozen, until [`thaw`](Self::thaw) or the value's end.
pub(super) struct Frozen {
    files: VmFiles,
    port: Port,
    /// Still to be thawed, by whoever has the port's turn.
    turn: Option<OwnedMutexGuard<()>>,
}

/// Freezes, if an agent answers. A failure is none of the capture: it is then what a power cut would have left.
pub(super) async fn freeze(files: &VmFiles, port: &Port) -> Option<Frozen> {
    let turn = port.turn().await;
    let mut agent = match port.connect().await {
        Ok(agent) => agent,
        Err(AgentError::Absent) => return None,
        Err(error) => {
            tracing::warn!(%error, "the guest's agent cannot be reached");
            return None;
        }
    };
    if let Err(error) = std::fs::write(files.frozen(), "") {
        tracing::warn!(%error, "file systems are not frozen, since a host that died could not know of it");
        return None;
    }
    let frozen = Frozen { files: files.clone(), port: port.clone(), turn: Some(turn) };
    let asked = agent.freeze().await;
    // The port takes one at a time: the thaw must not wait for this.
    drop(agent);
    match asked {
        Ok(count) if count > 0 => Some(frozen),
        Ok(_) => None,
        Err(error) => {
            // Perhaps some are: dropping it thaws them.
            tracing::warn!(%error, "the guest's file systems cannot be frozen");
            None
        }
    }
}

impl Frozen {
    pub async fn thaw(mut self) {
        let Some(turn) = self.turn.take() else { return };
        let thawing = tokio::spawn(thaw(self.files.clone(), self.port.clone(), turn));
        if tokio::time::timeout(THAW_TIME, thawing).await.is_err() {
            tracing::error!(folder = %self.files.dir.display(), "a guest does not thaw its file systems; it is asked again");
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.take() {
            tokio::spawn(thaw(self.files.clone(), self.port.clone(), turn));
        }
    }
}

/// After an earlier host died: thaws what it may have left frozen.
pub(super) async fn resume(files: &VmFiles, port: &Port) {
    if files.frozen().exists() {
        tokio::spawn(thaw(files.clone(), port.clone(), port.turn().await));
    }
}

async fn thaw(files: VmFiles, port: Port, _turn: OwnedMutexGuard<()>) {
    loop {
        let asked = async { port.connect().await?.thaw().await };
        match asked.await {
            Ok(()) => break,
            // The machine is gone, and what was frozen with it.
            Err(AgentError::Port(error)) if is_gone(&error) => break,
            Err(error) => tracing::warn!(%error, "a guest does not thaw its file systems yet"),
        }
        tokio::time::sleep(THAW_AGAIN).await;
    }
    match std::fs::remove_file(files.frozen()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "the next host will thaw this guest once more");
        }
        _ => {}
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_agent::fake;
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use uuid::Uuid;

    /// An agent that fails its first thaws; what it was asked for.
    fn agent(files: &VmFiles, mut failures: u32) -> Arc<Mutex<Vec<String>>> {
        for folder in [&files.dir, &files.run] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        fake::listen(&files.guest_agent(), move |request| {
            let command = request["execute"].as_str()?.to_owned();
            log.lock().unwrap().push(command.clone());
            fake::hello(request).or_else(|| match command.as_str() {
                "guest-fsfreeze-thaw" if failures > 0 => {
                    failures -= 1;
                    Some("{\"error\": {\"desc\": \"busy\"}}\n".to_owned())
                }
                _ => Some("{\"return\": 1}\n".to_owned()),
            })
        });
        asked
    }

    fn files(dir: &Path) -> VmFiles {
        VmFiles::new(dir, Uuid::nil())
    }

    fn thaws(asked: &Arc<Mutex<Vec<String>>>) -> usize {
        asked.lock().unwrap().iter().filter(|c| *c == "guest-fsfreeze-thaw").count()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_frozen_is_thawed_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let asked = agent(&files, 2);
        let frozen = freeze(&files, &Port::new(files.guest_agent())).await.expect("the agent freezes");
        assert!(files.frozen().exists());
        frozen.thaw().await;
        assert_eq!(thaws(&asked), 3, "asked until it did");
        assert!(!files.frozen().exists());
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_host_thaws_what_the_last_one_left() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let asked = agent(&files, 0);
        let port = Port::new(files.guest_agent());
        resume(&files, &port).await;
        tokio::task::yield_now().await;
        assert_eq!(thaws(&asked), 0, "nothing was left");
        std::fs::write(files.frozen(), "").unwrap();
        resume(&files, &port).await;
        while files.frozen().exists() {
            tokio::task::yield_now().await;
        }
        assert_eq!(thaws(&asked), 1);
    }

    #[tokio::test]
    async fn a_machine_that_is_gone_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        std::fs::create_dir_all(&files.dir).unwrap();
        std::fs::write(files.frozen(), "").unwrap();
        let port = Port::new(files.guest_agent());
        thaw(files.clone(), port.clone(), port.turn().await).await;
        assert!(!files.frozen().exists());
        assert!(freeze(&files, &port).await.is_none());
    }
}
