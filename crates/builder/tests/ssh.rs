//! Steps against a real sshd (Debian's openssh-server), one process a connection, as the user who runs the tests.

mod support;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lazuli_builder::communicator::ssh::{HostKey, SshCommunicator, UserKey};
use lazuli_builder::log::{Log, MAX_STEP, Masker};
use lazuli_builder::step::{Playbook, Script, inline};
use lazuli_builder::{Communicator, CommunicatorError, Connect, Exit, Session, StepError};
use support::{Collected, Kept, PATIENCE};
use tempfile::TempDir;
use tokio::net::UnixStream;

const SSHD: &str = "/usr/sbin/sshd";

/// A machine whose every connection is a process `sshd -i`.
struct Machine {
    dir: TempDir,
    key: UserKey,
    host: HostKey,
    user: String,
    running: Mutex<Vec<Child>>,
}

impl Machine {
    fn start() -> Arc<Self> {
        assert!(Path::new(SSHD).exists(), "{SSHD} is missing: install the package openssh-server (scripts/setup)");
        let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned();
        if user == "root" {
            // sshd asks for it when it may change its user.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let machine = Self {
            dir: TempDir::new().unwrap(),
            key: UserKey::from_seed(&[7; 32]),
            host: HostKey::default(),
            user,
            running: Mutex::default(),
        };
        machine.new_host_key();
        fs::write(machine.path("authorized"), machine.key.public_line()).unwrap();
        let lines = [
            format!("HostKey {}", machine.path("host").display()),
            format!("AuthorizedKeysFile {}", machine.path("authorized").display()),
            "StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no".to_owned(),
        ];
        fs::write(machine.path("config"), lines.join("\n") + "\n").unwrap();
        Arc::new(machine)
    }

    fn new_host_key(&self) {
        for name in ["host", "host.pub"] {
            let _ = fs::remove_file(self.path(name));
        }
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(self.path("host")).status();
        assert!(made.unwrap().success());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// One more sshd, and the stream to it.
    fn stream(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = theirs.into_std().unwrap();
        theirs.set_nonblocking(false).unwrap();
        let input = OwnedFd::from(theirs.try_clone().unwrap());
        let child = Command::new(SSHD)
            .args(["-i", "-e", "-f"])
            .arg(self.path("config"))
            .stdin(input)
            .stdout(OwnedFd::from(theirs))
            .stderr(Stdio::null())
            .spawn();
        self.running.lock().unwrap().push(child.unwrap());
        ours
    }

    async fn communicator(&self) -> Result<SshCommunicator, CommunicatorError> {
        SshCommunicator::connect(self.stream(), &self.user, &self.key, &self.host).await
    }

    async fn session(self: &Arc<Self>) -> (Session, Arc<Kept>) {
        let kept = Arc::new(Kept::default());
        let log = Log::new(kept.clone(), Masker::new(["hunter22".to_owned()]));
        let connect: Arc<dyn Connect> = Arc::new(Door(Arc::clone(self)));
        (Session::open(connect, log, PATIENCE).await.unwrap(), kept)
    }

    /// Every sshd dies.
    fn kill(&self) {
        for child in self.running.lock().unwrap().iter_mut() {
            let _ = child.kill();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in self.running.lock().unwrap().iter_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Door(Arc<Machine>);

#[async_trait]
impl Connect for Door {
    async fn connect(&self) -> Result<Box<dyn Communicator>, CommunicatorError> {
        Ok(Box::new(self.0.communicator().await?))
    }
}

async fn run(session: &mut Session, step: &str, script: &str) -> Result<(), StepError> {
    session.script(step, &Script { content: script.as_bytes(), sha256: None, exit_codes: &[0] }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_have_outputs_and_exit_codes() {
    let machine = Machine::start();
    let mut ssh = machine.communicator().await.unwrap();
    let mut output = Collected::default();
    let exit = ssh.exec("cat; echo err >&2; exit 7", b"out\n", &mut output).await.unwrap();
    assert_eq!((exit, &output.out[..], &output.err[..]), (Exit::Code(7), &b"out\n"[..], &b"err\n"[..]));
    assert_eq!(ssh.exec("kill -KILL $$", b"", &mut ()).await.unwrap(), Exit::Signal("KILL".to_owned()));
    // There is no input to wait for.
    assert_eq!(ssh.exec("cat", b"", &mut ()).await.unwrap(), Exit::Code(0));
    ssh.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_key_is_pinned_and_the_users_key_is_asked_for() {
    let machine = Machine::start();
    drop(machine.communicator().await.unwrap());
    let before = machine.host.fingerprint().unwrap();
    assert!(before.starts_with("SHA256:"), "{before}");

    let stranger = UserKey::from_seed(&[8; 32]);
    let denied = SshCommunicator::connect(machine.stream(), &machine.user, &stranger, &machine.host).await;
    assert!(matches!(denied, Err(CommunicatorError::Denied { .. })));

    machine.new_host_key();
    match machine.communicator().await.map(drop) {
        Err(CommunicatorError::HostKey { before: told, now }) => assert!(told == before && now != before),
        other => panic!("{other:?}"),
    }

    let (ours, theirs) = tokio::io::duplex(64);
    drop(theirs);
    let dead = SshCommunicator::connect(ours, &machine.user, &machine.key, &machine.host).await;
    assert!(matches!(dead, Err(CommunicatorError::Unreachable(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_arrive_whole_or_not_at_all() {
    let machine = Machine::start();
    let (mut session, _) = machine.session().await;
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(|i| i.to_le_bytes()).take(5_000_001).collect();
    session.file("a file", &machine.text("it's here"), &mut &bytes[..], None).await.unwrap();
    assert!(fs::read(machine.path("it's here")).unwrap() == bytes);
    let mode = fs::metadata(machine.path("it's here")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);

    let wrong = session.file("a file", &machine.text("x"), &mut &b"abc"[..], Some(&"0".repeat(64))).await;
    assert!(matches!(wrong, Err(StepError::Hash { size: 3, .. })), "{wrong:?}");
    let nowhere = session.file("a file", "/nowhere/at/all", &mut &bytes[..], None).await.unwrap_err();
    assert!(nowhere.to_string().contains("/nowhere/at/all"), "{nowhere}");
    // More than anybody takes: the disk is full at once.
    let full = session.file("a file", "/dev/full", &mut &bytes[..], None).await.unwrap_err();
    assert!(full.to_string().contains("No space left on device"), "{full}");
    session.file("a file", &machine.text("after"), &mut &b"abc"[..], None).await.expect("the session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_are_run_and_logged() {
    let machine = Machine::start();
    let (mut session, log) = machine.session().await;
    let script = inline(&["echo one; echo two >&2".to_owned(), "echo the secret is hunter22".to_owned()]);
    run(&mut session, "say", &script).await.unwrap();
    let failed = run(&mut session, "fail", &inline(&["false".to_owned(), "echo never".to_owned()])).await.unwrap_err();
    assert!(matches!(&failed, StepError::ExitCode { code: 1, .. }), "{failed}");
    let allowed = Script { content: b"exit 3", sha256: None, exit_codes: &[0, 3] };
    session.script("three", &allowed).await.unwrap();
    let altered = Script { content: b"exit 0", sha256: Some("00"), exit_codes: &[0] };
    assert!(matches!(session.script("altered", &altered).await, Err(StepError::Hash { .. })));
    session.close().await;
    let text = log.all();
    // Without times; the two streams come in any order.
    let mut lines: Vec<&str> = text.lines().filter(|l| !l.contains(" after ")).map(|l| &l[25..]).collect();
    lines.sort_unstable();
    insta::assert_snapshot!(lines.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_binary_output_takes_bounded_room() {
    let machine = Machine::start();
    let (mut session, log) = machine.session().await;
    run(&mut session, "flood", "head -c 100000000 /dev/urandom; echo end >&2").await.unwrap();
    let all = log.all();
    assert!(all.contains("more bytes of output are not kept"), "the flood is told");
    // Bytes that are no text become three each.
    assert!((all.len() as u64) < 5 * MAX_STEP, "{} bytes", all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_stay_are_not_waited_for() {
    let machine = Machine::start();
    let (mut session, log) = machine.session().await;
    let begin = Instant::now();
    // Both outputs stay open, and one of the children goes on printing.
    let pids = machine.text("pids");
    let script = format!(
        "sleep 300 & echo $! > {pids}\n(while :; do echo tick; sleep 0.1; done) & echo $! >> {pids}\necho done"
    );
    run(&mut session, "daemon", &script).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    run(&mut session, "next", &format!("echo next; kill $(cat {pids})")).await.unwrap();
    assert!(log.all().contains("[next] out: next"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_told_as_such() {
    let machine = Machine::start();
    let (mut session, log) = machine.session().await;
    let (ended, ()) = tokio::join!(run(&mut session, "hang", "echo begun; exec sleep 30"), async {
        log.until("begun").await;
        machine.kill();
    });
    let error = ended.unwrap_err();
    assert!(matches!(error, StepError::Lost { .. }), "{error:?}");
    let error = run(&mut session, "later", "true").await.unwrap_err();
    assert!(matches!(error, StepError::Lost { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_installed_is_listed() {
    let machine = Machine::start();
    let (mut session, _) = machine.session().await;
    let inventory = session.inventory().await.unwrap();
    assert_eq!(inventory.os, "debian");
    let server = inventory.packages.iter().find(|p| p.name == "openssh-server").expect("dpkg's list");
    assert!(!server.version.is_empty() && !server.architecture.is_empty());
}

/// Debian's ansible-core, in the machine at the other end of the connection (here: this one).
#[tokio::test(flavor = "multi_thread")]
async fn a_playbook_is_run_in_the_machine() {
    let ansible = Command::new("ansible-playbook").arg("--version").output();
    assert!(ansible.is_ok(), "ansible-playbook is missing: install the package ansible-core (scripts/setup)");
    let machine = Machine::start();
    let (mut session, log) = machine.session().await;
    let playbook = "- hosts: all
  gather_facts: false
  tasks:
    - name: leave a mark
      ansible.builtin.copy:
        content: '{{ mark }}'
        dest: '{{ place }}'
    - name: fail where it is wanted
      ansible.builtin.fail:
        msg: as it was asked for
      when: broken | default(false)
";
    let of = |content: &'static str, extra_vars: &'static str| Playbook {
        content: content.as_bytes(),
        sha256: None,
        extra_vars,
    };
    let place = machine.text("mark");
    let variables = format!(r#"{{"mark": "it's \"here\" {{}} $HOME", "place": "{place}"}}"#);
    let marked = Playbook { content: playbook.as_bytes(), sha256: None, extra_vars: &variables };
    session.ansible("mark", &marked).await.unwrap();
    assert_eq!(fs::read_to_string(&place).unwrap(), "it's \"here\" {} $HOME");
    assert!(log.all().contains("[mark] out: TASK [leave a mark]"), "{}", log.all());

    let broken = variables.replace("\"mark\":", "\"broken\": true, \"mark\":");
    let failed = Playbook { extra_vars: &broken, ..marked.clone() };
    let failed = session.ansible("fail", &failed).await.unwrap_err();
    assert!(matches!(failed, StepError::ExitCode { code: 2, .. }), "{failed}");
    assert!(log.all().contains("as it was asked for"), "{}", log.all());

    let nobody = session.ansible("nobody", &of("- hosts: web\n  tasks: []\n", "{}")).await.unwrap_err();
    assert!(matches!(nobody, StepError::ExitCode { code: 3, .. }), "{nobody}");
    assert!(log.all().contains("a play of the playbook is for hosts that are not here"), "{}", log.all());
    let nonsense = session.ansible("nonsense", &of("- hosts: [", "{}")).await.unwrap_err();
    assert!(matches!(nonsense, StepError::ExitCode { .. }), "{nonsense}");
    let altered = Playbook { sha256: Some("00"), ..marked };
    assert!(matches!(session.ansible("altered", &altered).await, Err(StepError::Hash { .. })));
}
