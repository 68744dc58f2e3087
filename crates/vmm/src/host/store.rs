//! What the host remembers of a machine, in memory and on disk.
//!
//! `vm.json` is the definition; `state.json` ([`Saved`]) is what must survive the host process: guests report Ready only
//! once, and only the host knows whether a machine that is not running ought to be. Both are written whole, flushed and
//! renamed into place, mode 0600. Everything else of a status is found out anew by the next host.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::hypervisor::VmFiles;
use crate::provisioning::wire_server::News;
use crate::provisioning::{Reports, latch};
use crate::spec::{AgentStatus, DiskReads, PowerState, ProvisioningState, VmSpec, VmStatus};

/// Bytes of the console that a status shows.
const CONSOLE_TAIL: u64 = 2000;

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    provisioning: ProvisioningState,
    /// When the machine was first switched on; provisioning is timed from there.
    first_start_ms: Option<i64>,
    /// Ought it to run.
    wanted_on: bool,
}

struct State {
    spec: Arc<VmSpec>,
    saved: Saved,
    power: PowerState,
    agent: Option<AgentStatus>,
    error: Option<String>,
}

/// One machine's definition and condition. Changes wake those who [`watch`](Record::changes).
pub struct Record {
    pub id: Uuid,
    pub files: VmFiles,
    state: Mutex<State>,
    counter: watch::Sender<u64>,
}

impl Record {
    /// Defines a machine: makes its folder and writes its definition.
    pub fn create(host_dir: &Path, spec: VmSpec) -> io::Result<Self> {
        let files = VmFiles::new(host_dir, spec.id);
        private_dir(&files.dir)?;
        private_dir(&files.run)?;
        let provisioning = match spec.provisioning {
            Some(_) => ProvisioningState::Waiting,
            None => ProvisioningState::NotNeeded,
        };
        let saved = Saved { provisioning, first_start_ms: None, wanted_on: false };
        let record = Self::new(files, spec, saved);
        record.save(&record.state())?;
        // The definition last: without it the folder counts for nothing.
        record.save_spec(&record.spec())?;
        Ok(record)
    }

    /// Reads a machine that an earlier host defined.
    pub fn load(host_dir: &Path, id: Uuid) -> io::Result<Self> {
        let files = VmFiles::new(host_dir, id);
        private_dir(&files.run)?;
        let spec: VmSpec = read_json(&files.dir.join("vm.json"))?;
        if spec.id != id {
            return Err(io::Error::other("its definition names another machine"));
        }
        let saved = read_json(&files.dir.join("state.json"))?;
        Ok(Self::new(files, spec, saved))
    }

    fn new(files: VmFiles, spec: VmSpec, saved: Saved) -> Self {
        let state = State { spec: Arc::new(spec), saved, power: PowerState::Stopped, agent: None, error: None };
        // Counters of successive hosts must not repeat one another.
        let counter = u64::try_from(now_ms()).unwrap_or(1).max(1);
        let id = state.spec.id;
        Self { id, files, state: Mutex::new(state), counter: watch::Sender::new(counter) }
    }

    pub fn spec(&self) -> Arc<VmSpec> {
        Arc::clone(&self.state().spec)
    }

    /// Replaces the definition, on disk first.
    pub fn set_spec(&self, spec: VmSpec) -> io::Result<()> {
        self.save_spec(&spec)?;
        let mut state = self.state();
        state.spec = Arc::new(spec);
        self.changed(&state);
        Ok(())
    }

    pub fn provisioning(&self) -> ProvisioningState {
        self.state().saved.provisioning.clone()
    }

    pub fn wanted_on(&self) -> bool {
        self.state().saved.wanted_on
    }

    /// Notes, before acting on it, whether the machine ought to run.
    pub fn want(&self, on: bool) -> io::Result<()> {
        let mut state = self.state();
        let mut saved = state.saved.clone();
        saved.wanted_on = on;
        if on && saved.first_start_ms.is_none() {
            saved.first_start_ms = Some(now_ms());
        }
        self.replace(&mut state, saved)
    }

    pub fn set_power(&self, power: PowerState, error: Option<String>) {
        let mut state = self.state();
        if state.power == power && state.error == error {
            return;
        }
        tracing::info!(vm.id = %self.id, vm.name = %state.spec.name, ?power, error = error.as_deref(), "power state");
        state.power = power;
        state.error = error;
        self.changed(&state);
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.counter.subscribe()
    }

    pub fn status(&self, nbd: DiskReads) -> VmStatus {
        let console_tail = tail(&self.files.console_log(), CONSOLE_TAIL).unwrap_or_default();
        let state = self.state();
        VmStatus {
            id: self.id,
            name: state.spec.name.clone(),
            power: state.power,
            provisioning: state.saved.provisioning.clone(),
            agent: state.agent.clone(),
            error: state.error.clone(),
            nbd,
            console_tail: String::from_utf8_lossy(&console_tail).into_owned(),
            generation_counter: *self.counter.borrow(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock, so that nobody sees the new state with the old counter.
    fn changed(&self, _locked: &State) {
        self.counter.send_modify(|n| *n += 1);
    }

    /// On disk first, then in memory.
    fn replace(&self, state: &mut State, saved: Saved) -> io::Result<()> {
        if state.saved != saved {
            let before = std::mem::replace(&mut state.saved, saved);
            if let Err(e) = self.save(state) {
                state.saved = before;
                return Err(e);
            }
        }
        Ok(())
    }

    fn save(&self, state: &State) -> io::Result<()> {
        write_json(&self.files.dir.join("state.json"), &state.saved)
    }

    fn save_spec(&self, spec: &VmSpec) -> io::Result<()> {
        write_json(&self.files.dir.join("vm.json"), spec)
    }

    fn health(&self, report: &latch::Report) -> io::Result<()> {
        let mut state = self.state();
        let first = state.saved.first_start_ms.unwrap_or_else(now_ms);
        let after_ms = u64::try_from(now_ms() - first).unwrap_or(0);
        let Some(next) = latch::apply(&state.saved.provisioning, report, after_ms) else { return Ok(()) };
        tracing::info!(vm.id = %self.id, vm.name = %state.spec.name, provisioning = ?next, "the guest reported");
        let saved = Saved { provisioning: next, ..state.saved.clone() };
        self.replace(&mut state, saved)?;
        self.changed(&state);
        Ok(())
    }

    fn agent(&self, status: AgentStatus) {
        let status = AgentStatus { received_ms: now_ms(), ..status };
        let mut state = self.state();
        let said = |a: &AgentStatus| (a.version.clone(), a.status.clone(), a.message.clone());
        let news = state.agent.as_ref().map(said) != Some(said(&status));
        state.agent = Some(status);
        // The agent reports every few seconds; only what it says anew wakes anybody.
        if news {
            self.changed(&state);
        }
    }
}

impl Reports for Record {
    fn news(&self, news: News) -> io::Result<()> {
        match news {
            News::Health(report) => self.health(&report),
            News::Agent(status) => {
                self.agent(status);
                Ok(())
            }
        }
    }
}

/// The machines defined under `host_dir`.
pub fn defined(host_dir: &Path) -> io::Result<Vec<Uuid>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(host_dir.join("vms"))? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|n| n.parse::<Uuid>().ok());
        // A folder without definition was being made or removed when a host died.
        if let Some(id) = id
            && entry.path().join("vm.json").exists()
        {
            ids.push(id);
        }
    }
    ids.sort();
    Ok(ids)
}

/// Makes a folder, and those above it, that only its owner may enter.
pub fn private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Guests must not fill the host's disk through their console: a log that is larger than this...
const LOG_LIMIT: u64 = 8 << 20;
/// ...is cut down to this much.
const LOG_KEPT: u64 = 1 << 20;

/// Cuts logs that have grown too large. Their writers append, so what they write next follows what was kept; what they
/// write at this very moment may be lost.
pub fn trim_logs(files: &VmFiles) {
    for path in [files.console_log(), files.hypervisor_log()] {
        if let Err(e) = trim(&path) {
            tracing::warn!(path = %path.display(), error = %e, "a log cannot be cut");
        }
    }
}

fn trim(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > LOG_LIMIT => {}
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => return Ok(()),
    }
    let kept = tail(path, LOG_KEPT)?;
    let mut file = File::options().append(true).open(path)?;
    file.set_len(0)?;
    file.write_all(&kept)
}

/// The last `max` bytes of a file; nothing of one that is not there.
pub fn tail(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(max)))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<T> {
    let bytes = std::fs::read(path)?;
    serde_json::from_slice(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Whole or not at all, also across a power cut.
fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(&serde_json::to_vec_pretty(value).map_err(io::Error::other)?)?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::provisioning::tests::example;

    #[test]
    fn what_must_survive_the_host_does() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::create(dir.path(), example()).unwrap();
        record.want(true).unwrap();
        record.news(News::Health(latch::Report::Ready)).unwrap();
        let counter = *record.changes().borrow();
        drop(record);

        assert_eq!(defined(dir.path()).unwrap(), [example().id]);
        let record = Record::load(dir.path(), example().id).unwrap();
        assert_eq!(*record.spec(), example());
        assert!(record.wanted_on());
        assert!(matches!(record.provisioning(), ProvisioningState::Ready { .. }));
        assert!(*record.changes().borrow() >= counter - 1, "counters do not start over");
    }

    #[test]
    fn secrets_are_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::create(dir.path(), example()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&record.files.dir.join("vm.json")), 0o600);
        assert_eq!(mode(&record.files.dir), 0o700);
        assert_eq!(mode(&record.files.run), 0o700);
    }

    #[test]
    fn an_agent_that_repeats_itself_wakes_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::create(dir.path(), example()).unwrap();
        let changes = record.changes();
        let agent = |status: &str| {
            News::Agent(AgentStatus {
                received_ms: 0,
                version: "2".into(),
                status: status.into(),
                message: String::new(),
                os_name: String::new(),
                os_version: String::new(),
                computer_name: String::new(),
                report: serde_json::Value::Null,
            })
        };
        let counter = |status: &str| {
            record.news(agent(status)).unwrap();
            *changes.borrow()
        };
        let first = counter("Ready");
        assert_eq!(counter("Ready"), first);
        assert_ne!(counter("NotReady"), first);
        assert!(record.status(DiskReads::default()).agent.unwrap().received_ms > 0);
    }

    #[test]
    fn a_log_that_grew_is_cut_under_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let files = VmFiles::new(dir.path(), Uuid::nil());
        std::fs::create_dir_all(&files.dir).unwrap();
        let mut writer = File::options().append(true).create(true).open(files.console_log()).unwrap();
        writer.write_all(&vec![b'x'; 9 << 20]).unwrap();
        writer.write_all(b"before").unwrap();
        trim_logs(&files);
        writer.write_all(b" after").unwrap();
        assert_eq!(std::fs::metadata(files.console_log()).unwrap().len(), LOG_KEPT + 6);
        assert_eq!(tail(&files.console_log(), 12).unwrap(), b"before after");
    }

    #[test]
    fn a_tail_is_the_end_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(tail(&path, 5).unwrap(), b"");
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(tail(&path, 4).unwrap(), b"6789");
        assert_eq!(tail(&path, 100).unwrap(), b"0123456789");
    }
}
