//! The built binary as a server or a worker of its own, with everything below a temporary folder.
//!
//! When a [`TestServer`] is dropped, its server, host process and guests are gone, and its log has been looked through
//! for panics. A test that leaves processes behind fails.

use crate::arm::Arm;
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

/// A debug build on a loaded machine.
const READY: Duration = Duration::from_secs(120);
const STOPPED: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);

/// A server, or a worker of one, that was started by this test.
#[derive(Debug)]
pub struct TestServer {
    program: PathBuf,
    role: Role,
    arguments: Vec<OsString>,
    folder: TempDir,
    child: Option<Child>,
    credentials: Value,
    starts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Worker,
}

impl Role {
    fn subcommand(self) -> &'static str {
        match self {
            Self::Server => "serve",
            Self::Worker => "worker",
        }
    }

    /// How its ready line begins.
    fn ready(self) -> &'static str {
        match self {
            Self::Server => "lazuli ready: https://",
            Self::Worker => "lazuli worker ready: ",
        }
    }
}

impl TestServer {
    /// A new server on its own folder and port.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// The same, with more arguments for `lazuli serve`.
    pub async fn start_with(arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_program(program()?, arguments).await
    }

    /// The same, of another binary than the one under test.
    pub async fn start_program(program: PathBuf, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut server = Self::new(program, Role::Server, arguments)?;
        server.restart().await?;
        Ok(server)
    }

    /// A worker of this server, with these arguments for `lazuli worker`.
    pub async fn worker(&self, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut worker = Self::new(self.program.clone(), Role::Worker, arguments)?;
        std::fs::create_dir(worker.dir())?;
        std::fs::copy(self.dir().join("secrets.key"), worker.dir().join("secrets.key"))?;
        worker.restart().await?;
        Ok(worker)
    }

    fn new(program: PathBuf, role: Role, arguments: &[&str]) -> anyhow::Result<Self> {
        Ok(Self {
            program,
            role,
            arguments: arguments.iter().map(Into::into).collect(),
            // Short: the host's sockets lie below it.
            folder: tempfile::Builder::new().prefix("lz").tempdir()?,
            child: None,
            credentials: Value::Null,
            starts: 0,
        })
    }

    /// Starts the server that was killed or stopped, and waits until it is ready.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "the server runs already");
        self.starts += 1;
        let ready = self.folder.path().join(format!("ready-{}", self.starts));
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let child = self
            .command(self.role.subcommand())
            .args(["--listen", "127.0.0.1:0"])
            .args(&self.arguments)
            .env("LAZULI_LOG", "info")
            .stdin(Stdio::null())
            .stdout(File::create(&ready)?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        self.wait_ready(&ready).await?;
        if self.role == Role::Server {
            self.credentials = serde_json::from_slice(&std::fs::read(self.dir().join("credentials.json"))?)?;
        }
        Ok(())
    }

    async fn wait_ready(&mut self, out: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            let line = std::fs::read_to_string(out)?;
            if line.ends_with('\n') {
                ensure!(line.starts_with(self.role.ready()), "an unknown ready line: {line}");
                ensure!(line.lines().count() == 1, "more than the ready line on stdout: {line}");
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().context("not started")?.try_wait()? {
                self.child = None;
                bail!("the server ended ({status}) before it was ready:\n{}", last_lines(&self.log()));
            }
            ensure!(Instant::now() < deadline, "the server was not ready in time:\n{}", last_lines(&self.log()));
            tokio::time::sleep(STEP).await;
        }
    }

    /// `kill -9`: what a power cut is to the process. The host process and the guests run on.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the server does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Kills all processes of the folder, guests and all: what a power cut is to the computer.
    pub async fn power_cut(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + STOPPED;
        loop {
            // Again and again: a server that sees its host die before its own end starts another one.
            let pids: Vec<String> = self.processes().into_iter().map(|(pid, _)| pid.to_string()).collect();
            if pids.is_empty() {
                break;
            }
            ensure!(Instant::now() < deadline, "processes survive their kill: {:?}", self.processes());
            // Some of them may be gone already.
            Command::new("kill").arg("-KILL").args(pids).stderr(Stdio::null()).status()?;
            tokio::time::sleep(STEP).await;
        }
        self.child.take().context("the server does not run")?.wait()?;
        Ok(())
    }

    /// What runs for this server: process id and command line.
    pub fn processes(&self) -> Vec<(u32, String)> {
        processes_naming(&self.dir())
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().context("the server does not run")?;
        let sent = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status()?;
        ensure!(sent.success(), "cannot signal the server");
        let deadline = Instant::now() + STOPPED;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                child.kill()?;
                bail!("the server did not stop when asked to:\n{}", last_lines(&self.log()));
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// Memory that the server occupies now.
    pub fn resident_mib(&self) -> anyhow::Result<u64> {
        let pid = self.child.as_ref().context("the server does not run")?.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().next().context("no VmRSS")?.parse()?;
        Ok(kib / 1024)
    }

    /// The data folder.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("d")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("serve.log")
    }

    /// What the server logged, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// What the host process logged.
    pub fn host_log(&self) -> String {
        std::fs::read_to_string(self.dir().join("host/host.log")).unwrap_or_default()
    }

    /// An entry of `credentials.json`.
    pub fn credential(&self, name: &str) -> &str {
        self.credentials[name].as_str().unwrap_or_default()
    }

    /// A subcommand of the same binary on the same data folder.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(subcommand).arg("--data-dir").arg(self.dir());
        command
    }

    /// A client signed in as the owner.
    pub async fn arm(&self) -> anyhow::Result<Arm> {
        Arm::sign_in(&self.credentials).await
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        if self.dir().exists() {
            let out = self.command("stop").args(["--guests", "--force"]).output()?;
            ensure!(out.status.success(), "lazuli stop: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        let left = self.processes();
        ensure!(left.is_empty(), "processes are left behind: {left:?}");
        for log in [self.log(), self.host_log()] {
            let panic = log.lines().find(|l| l.contains("panicked at"));
            ensure!(panic.is_none(), "a panic in the log: {}", panic.unwrap_or_default());
        }
        Ok(())
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            // First what is wrong: what follows is long.
            eprintln!("the server left something behind: {error:#}");
            eprintln!("--- serve.log\n{}\n--- host.log\n{}", last_lines(&self.log()), last_lines(&self.host_log()));
            // A second panic would hide the first.
            assert!(std::thread::panicking(), "{error:#}");
        }
    }
}

/// The end of a log, without the requests that were answered.
pub fn last_lines(log: &str) -> String {
    const LINES: usize = 40;
    let told: Vec<&str> = log.lines().filter(|l| !l.contains(" INFO lazuli_api::app: request ")).collect();
    told[told.len().saturating_sub(LINES)..].join("\n")
}

/// `LAZULI_BIN`, or the binary that cargo built beside this test.
fn program() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("LAZULI_BIN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let beside = test.ancestors().skip(1).take(2).map(|folder| folder.join("lazuli"));
    let found = beside.into_iter().find(|p| p.is_file());
    found.with_context(|| "the binary is not built: cargo build -p lazuli, or name one in LAZULI_BIN".to_owned())
}

/// Processes with the folder on their command line: a server, a host, a QEMU.
fn processes_naming(folder: &Path) -> Vec<(u32, String)> {
    let folder = folder.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|p| {
        let pid = p.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(p.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    });
    lines.filter(|(_, line)| line.contains(&folder)).collect()
}
