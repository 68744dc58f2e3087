//! A PostgreSQL server for tests, from the distribution's package: on a unix socket in a directory of its own, gone
//! with the process that started it, even when that process is killed.
//!
//! Its default collation is ICU's English one, so that a query that forgets to ask for byte-wise order is found out.
//! It does not sync to disk: it proves behaviour, not durability.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail, ensure};

/// Where Debian keeps the server's programs, one directory a version.
const PACKAGES: &str = "/usr/lib/postgresql";
const INSTALL: &str = "install the server: apt-get install postgresql";
const USER: &str = "lazuli";

/// Arguments: directory, programs. Says `ready`, then lives until its standard input is closed, which happens at the
/// latest when the test process dies; then stops the server and removes the directory.
const SCRIPT: &str = r#"
set -e
trap '' INT TERM HUP
cd "$1"
exec 2> log 3>&1 1>&2
"$2/initdb" -D data -U lazuli --auth=trust --no-sync --no-instructions --encoding=UTF8 \
    --locale-provider=icu --icu-locale=en-US --locale=C.UTF-8
cat >> data/postgresql.conf <<CONF
listen_addresses = ''
unix_socket_directories = '$1'
fsync = off
full_page_writes = off
autovacuum = off
shared_buffers = 32MB
max_connections = 300
CONF
"$2/pg_ctl" -D data -w -t 120 -l log start 3>&-
echo ready >&3
exec 3>&-
cat > /dev/null || true
"$2/pg_ctl" -D data -w -m immediate stop || true
cd /
rm -rf "$1"
"#;

/// A running server; it is stopped and its files are removed when this is dropped.
#[derive(Debug)]
pub struct Postgres {
    directory: PathBuf,
    programs: PathBuf,
    databases: AtomicU64,
    /// Open for as long as the server shall run.
    input: Option<ChildStdin>,
    keeper: Child,
}

impl Postgres {
    /// Starts a server (one to three seconds).
    ///
    /// # Errors
    /// Where the programs are not installed or the server does not start; the message says what to do, or holds the
    /// server's log.
    pub fn start() -> anyhow::Result<Self> {
        let programs = programs()?;
        let directory = tempfile::Builder::new().prefix("lazuli-pg-").tempdir()?.keep();
        let mut command = unprivileged(&directory)?;
        let mut keeper = command
            .args(["sh", "-c", SCRIPT, "sh"])
            .args([&directory, &programs])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A test runner kills the whole group of a test that hangs; the keeper must outlive that to clean up.
            .process_group(0)
            .spawn()
            .context("cannot run setpriv or env")?;
        let input = keeper.stdin.take();
        let output = keeper.stdout.take().context("no standard output")?;
        let server = Self { directory, programs, databases: AtomicU64::new(0), input, keeper };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "ready\n", "PostgreSQL does not start:\n{}", server.log());
        Ok(server)
    }

    /// The server of this test process, started when first asked for.
    ///
    /// # Panics
    /// As [`Postgres::start`] fails.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<Postgres> = OnceLock::new();
        SERVER.get_or_init(|| Self::start().expect("a PostgreSQL server is needed"))
    }

    /// Makes an empty database and returns its URL.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn database(&self) -> anyhow::Result<String> {
        self.copy("template1")
    }

    /// Makes a copy of the database behind `url`, to which nobody may be connected, and returns the copy's URL.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn copy_of(&self, url: &str) -> anyhow::Result<String> {
        let name = url.strip_prefix("postgres:///").and_then(|rest| rest.split('?').next());
        self.copy(name.context("not a database of this server")?)
    }

    fn copy(&self, template: &str) -> anyhow::Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let output = Command::new(self.programs.join("createdb"))
            .arg("--host")
            .arg(&self.directory)
            .args(["--username", USER, "--template", template, &name])
            .output()?;
        ensure!(output.status.success(), "createdb: {}", String::from_utf8_lossy(&output.stderr));
        Ok(format!("postgres:///{name}?host={}&user={USER}", self.directory.display()))
    }

    /// Ends all connections to all databases but leaves the server running, as a fail-over would.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn disconnect_everybody(&self) -> anyhow::Result<()> {
        let output = Command::new(self.programs.join("psql"))
            .arg("--host")
            .arg(&self.directory)
            .args(["--username", USER, "--dbname", "template1", "--no-psqlrc", "--command"])
            .arg("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL")
            .output()?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn log(&self) -> String {
        let mut text = Vec::new();
        let read = File::open(self.directory.join("log")).and_then(|mut log| log.read_to_end(&mut text));
        match read {
            Ok(_) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("(no log: {error})"),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.input.take());
        // A failure here leaves a directory under the temporary one, nothing else.
        let _ = self.keeper.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The programs of the newest installed version.
fn programs() -> anyhow::Result<PathBuf> {
    let mut versions = Vec::new();
    for entry in std::fs::read_dir(PACKAGES).with_context(|| format!("{PACKAGES} is missing; {INSTALL}"))? {
        let entry = entry?;
        let bin = entry.path().join("bin");
        let version = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if let Some(version) = version
            && ["initdb", "pg_ctl", "postgres", "createdb"].iter().all(|program| bin.join(program).exists())
        {
            versions.push((version, bin));
        }
    }
    match versions.into_iter().max() {
        Some((_, bin)) => Ok(bin),
        None => bail!("no PostgreSQL server under {PACKAGES}; {INSTALL}"),
    }
}

/// A command that runs its arguments as a user that PostgreSQL accepts: it refuses root. `directory` is made that
/// user's.
fn unprivileged(directory: &Path) -> anyhow::Result<Command> {
    use std::os::unix::fs::MetadataExt as _;

    if std::fs::metadata(directory)?.uid() != 0 {
        return Ok(Command::new("env"));
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let (name, uid, gid) = ["postgres", "nobody"]
        .into_iter()
        .find_map(|wanted| {
            let line = users.lines().find(|line| line.split(':').next() == Some(wanted))?;
            let mut ids = line.split(':').skip(2).map(str::parse::<u32>);
            Some((wanted, ids.next()?.ok()?, ids.next()?.ok()?))
        })
        .context("no user postgres or nobody to run PostgreSQL as")?;
    std::os::unix::fs::chown(directory, Some(uid), Some(gid)).with_context(|| format!("chown to {name}"))?;
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned(), "--".to_owned()]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::Postgres;

    #[test]
    fn starts_copies_databases_and_leaves_nothing() {
        let server = Postgres::start().unwrap();
        let first = server.database().unwrap();
        let copy = server.copy_of(&first).unwrap();
        assert_ne!(first, copy);
        let directory = server.directory.clone();
        assert!(directory.exists());
        drop(server);
        assert!(!directory.exists());
    }
}
