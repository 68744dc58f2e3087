//! The TPM 2.0 of a machine: a process of its own, `swtpm`, beside the machine's QEMU.
//!
//! ```text
//! swtpm listens ──> QEMU starts and connects ──> QEMU ends, however it does ──> swtpm ends by itself (`--terminate`)
//! ```
//! It needs nothing of the process that started it, so it outlives the host together with its QEMU and no host has to adopt
//! it. One that never got a QEMU (the host died between the two) is ended before the next start. What the guest seals lies in
//! the state folder, which belongs to the OS disk; two TPMs must never run on one folder.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::process::Process;
use super::qemu::{io_error, own_session, private_dir, private_file, with_log};
use super::{HypervisorError, VmFiles};

/// How long it may take until it listens.
const START_TIME: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long it may take to notice that its machine is gone.
const END_TIME: Duration = Duration::from_secs(2);

/// Starts the TPM of a machine whose QEMU starts next. Returns when it listens on [`VmFiles::tpm`].
pub(super) async fn start(files: &VmFiles, state: &Path) -> Result<(), HypervisorError> {
    end(files).await?;
    private_dir(state).map_err(|e| io_error("cannot make the folder of the TPM's state", e))?;
    // Written when it listens.
    let listens = files.run.join("tpm.pid");
    for old in [&listens, &files.tpm()] {
        match std::fs::remove_file(old) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("cannot remove an old socket", e)),
            _ => {}
        }
    }
    let log = private_file(&files.tpm_log()).map_err(|e| io_error("cannot write the TPM's log", e))?;
    let errors = log.try_clone().map_err(|e| io_error("cannot write the TPM's log", e))?;
    let mut command = Command::new("swtpm");
    command.args(arguments(files, state, &listens)?).current_dir("/");
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    own_session(&mut command);
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => HypervisorError::Missing {
            what: "swtpm, which machines with a TPM need,".into(),
            advice: "install the package swtpm".into(),
        },
        _ => io_error("cannot run swtpm", e),
    })?;
    let deadline = Instant::now() + START_TIME;
    loop {
        let ended = child.try_wait().map_err(|e| io_error("cannot watch the TPM", e))?;
        let why = match ended {
            Some(status) => format!("the machine's TPM ended with {status}"),
            None if listens.exists() => return Ok(()),
            None if Instant::now() > deadline => "the machine's TPM does not listen".to_owned(),
            None => {
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
        };
        // Already gone, or must go.
        let _ = child.kill().await;
        return Err(HypervisorError::Start(with_log(&why, &files.tpm_log())));
    }
}

/// Makes sure that the TPM of a machine that does not run is gone too.
pub(super) async fn end(files: &VmFiles) -> Result<(), HypervisorError> {
    let failed = |e| io_error("cannot end a machine's TPM", e);
    let control = control(files);
    while let Some(process) = Process::find(|line| is_ours(line, &control)) {
        if tokio::time::timeout(END_TIME, process.ended()).await.is_err() {
            process.kill().map_err(failed)?;
            process.ended().await.map_err(failed)?;
        }
    }
    Ok(())
}

fn control(files: &VmFiles) -> String {
    format!("type=unixio,path={},mode=0600", files.tpm().to_string_lossy())
}

fn is_ours(command_line: &[u8], control: &str) -> bool {
    let mut words = command_line.split(|b| *b == 0);
    words.any(|word| word == b"--ctrl") && words.next() == Some(control.as_bytes())
}

/// swtpm takes its options apart at commas and knows no way to write one.
fn arguments(files: &VmFiles, state: &Path, listens: &Path) -> Result<Vec<String>, HypervisorError> {
    let (state, listens) = (state.to_string_lossy(), listens.to_string_lossy());
    if [&state, &listens].iter().any(|path| path.contains(',')) {
        let why = "a machine with a TPM needs a data folder without commas in its path";
        return Err(HypervisorError::Start(why.into()));
    }
    let words = ["socket", "--tpm2", "--terminate", "--ctrl"].map(str::to_owned);
    let more = [control(files), "--tpmstate".into(), format!("dir={state},mode=0600"), "--pid".into()];
    Ok(words.into_iter().chain(more).chain([format!("file={listens}")]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[tokio::test]
    async fn one_that_never_got_a_machine_is_ended_and_its_state_stays() {
        let dir = tempfile::Builder::new().prefix("lz").tempdir_in("/tmp").unwrap();
        let files = VmFiles::new(dir.path(), Uuid::new_v4());
        for folder in [&files.dir, &files.run] {
            private_dir(folder).unwrap();
        }
        let state = dir.path().join("os.state/tpm");
        let found = || Process::find(|line| is_ours(line, &control(&files)));
        start(&files, &state).await.expect("swtpm is missing: install the package swtpm");
        assert!(found().is_some());
        // As after a host that died: the next start does not stumble over it.
        let begun = Instant::now();
        start(&files, &state).await.unwrap();
        assert!(begun.elapsed() < 4 * END_TIME);
        end(&files).await.unwrap();
        assert!(found().is_none());
        assert!(state.is_dir());
    }

    #[test]
    fn a_comma_is_refused_in_words() {
        let files = VmFiles::new(Path::new("/a,b"), Uuid::nil());
        let error = arguments(&files, Path::new("/s"), &files.run.join("tpm.pid")).unwrap_err();
        assert!(error.to_string().contains("without commas"), "{error}");
    }
}
