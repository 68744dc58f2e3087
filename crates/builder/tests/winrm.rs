//! Steps of Windows against a WinRM listener (tests/winrm) whose commands run in `sh`, and that listener against clients that others
//! wrote. What PowerShell, Sysprep and Windows Update would do is not shown: no Windows was there.

mod support;

use std::fs;
use std::io::{self, BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lazuli_builder::communicator::winrm::{Dial, Login, WinrmCommunicator, Wire};
use lazuli_builder::log::{Log, MAX_STEP, Masker};
use lazuli_builder::step::Script;
use lazuli_builder::step::windows::{OVERRIDE, RunAs, Updates, inline};
use lazuli_builder::{Communicator, CommunicatorError, Connect, Exit, Session, StepError};
use support::{Collected, Kept, PATIENCE};
use tempfile::TempDir;
use tokio::net::TcpStream;

const USER: &str = "packer";
const PASSWORD: &str = "Corr3ct-h<o>rse&\"1'";

/// A machine that listens, with the certificate that was made for it.
struct Machine {
    dir: TempDir,
    certificate: Vec<u8>,
    port: u16,
    orders: Mutex<ChildStdin>,
    listener: Child,
}

fn own(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/winrm").join(path)
}

impl Machine {
    fn start() -> Arc<Self> {
        let dir = TempDir::new().unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(dir.path().join("cert.pem"), certificate.pem()).unwrap();
        fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        fs::create_dir_all(dir.path().join("c/windows/temp")).unwrap();
        let mut listener = Command::new("python3")
            .arg(own("listener.py"))
            .arg(dir.path())
            .args([USER, PASSWORD])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is missing: install it with scripts/setup");
        let mut line = String::new();
        BufReader::new(listener.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("the listener prints its port");
        let orders = Mutex::new(listener.stdin.take().unwrap());
        Arc::new(Self { dir, certificate: certificate.der().to_vec(), port, orders, listener })
    }

    fn login(&self) -> Login {
        Login { user: USER.to_owned(), password: PASSWORD.to_owned(), certificate: self.certificate.clone() }
    }

    async fn communicator(&self) -> Result<WinrmCommunicator, CommunicatorError> {
        WinrmCommunicator::connect(Arc::new(Port(self.port)), &self.login()).await
    }

    async fn session(self: &Arc<Self>) -> (Session, Arc<Kept>) {
        let kept = Arc::new(Kept::default());
        let log = Log::new(kept.clone(), Masker::new([PASSWORD.to_owned()]));
        let connect: Arc<dyn Connect> = Arc::new(Door(Arc::clone(self)));
        (Session::open(connect, log, PATIENCE).await.unwrap(), kept)
    }

    /// A path of Windows, as it lies here.
    fn local(&self, path: &str) -> PathBuf {
        self.dir.path().join("c").join(path.trim_start_matches(r"C:\").replace('\\', "/").to_lowercase())
    }

    /// The machine restarts by itself.
    fn restarts(&self) {
        self.orders.lock().unwrap().write_all(b"restart\n").unwrap();
    }

    /// What the steps left in the folder for temporary files.
    fn left(&self) -> usize {
        fs::read_dir(self.local(r"C:\Windows\Temp")).unwrap().count()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.listener.kill();
        let _ = self.listener.wait();
    }
}

struct Port(u16);

#[async_trait]
impl Dial for Port {
    async fn dial(&self) -> io::Result<Box<dyn Wire>> {
        Ok(Box::new(TcpStream::connect(("127.0.0.1", self.0)).await?))
    }
}

struct Door(Arc<Machine>);

#[async_trait]
impl Connect for Door {
    async fn connect(&self) -> Result<Box<dyn Communicator>, CommunicatorError> {
        Ok(Box::new(self.0.communicator().await?))
    }
}

async fn run(session: &mut Session, step: &str, lines: &[&str], run_as: RunAs<'_>) -> Result<(), StepError> {
    let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let content = inline(&lines);
    let script = Script { content: content.as_bytes(), sha256: None, exit_codes: &[0] };
    session.power_shell(step, &script, run_as).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_serves_clients_of_others_too() {
    let cache = std::env::var_os("LAZULI_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache"));
    let python = cache.join("bin/python-winrm");
    assert!(python.exists(), "{} is missing; get it with: scripts/setup python", python.display());
    let machine = Machine::start();
    let output = Command::new(python)
        .arg(own("clients.py"))
        .args([&machine.port.to_string(), USER, PASSWORD])
        .arg(machine.dir.path().join("cert.pem"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    insta::assert_snapshot!(said);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_have_inputs_outputs_and_exit_codes() {
    let machine = Machine::start();
    let mut winrm = machine.communicator().await.unwrap();
    let mut output = Collected::default();
    let exit = winrm.exec("cat; echo 'err & <more>' >&2; exit 7", b"out\n", &mut output).await.unwrap();
    assert_eq!((exit, &output.out[..], &output.err[..]), (Exit::Code(7), &b"out\n"[..], &b"err & <more>\n"[..]));
    // More input than one message holds comes whole and in order.
    let long: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut output = Collected::default();
    assert_eq!(winrm.exec("cat", &long, &mut output).await.unwrap(), Exit::Code(0));
    assert!(output.out == long);
    // Nobody reads it.
    assert_eq!(winrm.exec("exec 0<&-; exit 3", &long, &mut ()).await.unwrap(), Exit::Code(3));
    let bad = winrm.exec("echo \0", b"", &mut ()).await.unwrap_err();
    assert!(bad.to_string().contains("a character that XML cannot hold"), "{bad}");
    winrm.close().await;
    let closed = winrm.exec("true", b"", &mut ()).await.unwrap_err();
    assert!(matches!(closed, CommunicatorError::Lost(_)), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_pinned_and_the_password_is_asked_for() {
    let (machine, other) = (Machine::start(), Machine::start());
    let stranger = Login { certificate: other.certificate.clone(), ..machine.login() };
    let refused = WinrmCommunicator::connect(Arc::new(Port(machine.port)), &stranger).await.map(drop);
    assert!(matches!(refused, Err(CommunicatorError::Certificate)), "{refused:?}");
    let wrong = Login { password: "wrong".to_owned(), ..machine.login() };
    let denied = WinrmCommunicator::connect(Arc::new(Port(machine.port)), &wrong).await.map(drop);
    assert!(matches!(denied, Err(CommunicatorError::Denied { .. })), "{denied:?}");
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let nobody = WinrmCommunicator::connect(Arc::new(Port(port)), &machine.login()).await.map(drop);
    assert!(matches!(nobody, Err(CommunicatorError::Unreachable(_))), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_arrive_whole_or_not_at_all() {
    let machine = Machine::start();
    let (mut session, _) = machine.session().await;
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).take(5_000_001).collect();
    let path = r"C:\Build Artifacts\it's here.bin";
    session.file("a file", path, &mut &bytes[..], None).await.unwrap();
    assert!(fs::read(machine.local(path)).unwrap() == bytes, "its folder was made for it");
    session.file("a file", r"C:\empty", &mut &b""[..], None).await.unwrap();
    assert_eq!(fs::read(machine.local(r"C:\empty")).unwrap(), b"");

    let wrong = session.file("a file", r"C:\x", &mut &b"abc"[..], Some(&"0".repeat(64))).await;
    assert!(matches!(wrong, Err(StepError::Hash { size: 3, .. })), "{wrong:?}");
    let nowhere = session.file("a file", r"Q:\nowhere", &mut &bytes[..], None).await.unwrap_err();
    assert!(nowhere.to_string().contains(r"Could not find a part of the path 'Q:\nowhere'"), "{nowhere}");
    // It ends while there is more to send.
    let mut endless = tokio::io::repeat(7);
    let full = session.file("a file", r"C:\full", &mut endless, None).await.unwrap_err();
    assert!(full.to_string().contains("not enough space on the disk"), "{full}");
    session.file("a file", r"C:\after", &mut &b"abc"[..], None).await.expect("the session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_are_run_and_logged() {
    let machine = Machine::start();
    let (mut session, log) = machine.session().await;
    let own = RunAs::Elevated { user: USER, password: PASSWORD };
    run(&mut session, "say", &["echo as $RUN_AS; echo two >&2", "echo secret: $LAZULI_PASSWORD"], RunAs::BuildUser)
        .await
        .unwrap();
    run(&mut session, "elevated", &["echo as $RUN_AS"], own).await.unwrap();
    run(&mut session, "system", &["echo as $RUN_AS"], RunAs::System).await.unwrap();
    let failed = run(&mut session, "fail", &["false", "echo never"], RunAs::BuildUser).await.unwrap_err();
    assert!(matches!(&failed, StepError::ExitCode { code: 1, .. }), "{failed}");
    let failed = run(&mut session, "fail as system", &["exit 5"], RunAs::System).await.unwrap_err();
    assert!(matches!(&failed, StepError::ExitCode { code: 5, .. }), "{failed}");
    let allowed = Script { content: b"exit 3", sha256: None, exit_codes: &[0, 3] };
    session.power_shell("three", &allowed, RunAs::BuildUser).await.unwrap();
    let altered = Script { content: b"exit 0", sha256: Some("00"), exit_codes: &[0] };
    assert!(matches!(session.power_shell("altered", &altered, RunAs::BuildUser).await, Err(StepError::Hash { .. })));
    let stranger = RunAs::Elevated { user: USER, password: "wrong" };
    assert!(run(&mut session, "stranger", &["echo never"], stranger).await.is_err());
    session.close().await;
    let text = log.all();
    // Without times; the two streams come in any order.
    let mut lines: Vec<&str> = text.lines().filter(|l| !l.contains(" after ")).map(|l| &l[25..]).collect();
    lines.sort_unstable();
    insta::assert_snapshot!(lines.join("\n"));
    // What was altered was never run, nor was what a stranger brought.
    assert_eq!(machine.left(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_comes_while_a_script_runs_and_takes_bounded_room() {
    let machine = Machine::start();
    let (mut session, log) = machine.session().await;
    let gate = machine.dir.path().join("gate").display().to_string();
    let waits = format!("echo begun; until [ -e {gate} ]; do sleep 0.1; done; echo ended");
    let lines = [waits.as_str()];
    let (ended, ()) = tokio::join!(run(&mut session, "waits", &lines, RunAs::BuildUser), async {
        log.until("out: begun").await;
        fs::write(&gate, "").unwrap();
    });
    ended.unwrap();
    log.until("out: ended").await;
    run(&mut session, "flood", &["head -c 40000000 /dev/urandom; echo end >&2"], RunAs::BuildUser).await.unwrap();
    let all = log.all();
    assert!(all.contains("more bytes of output are not kept"), "the flood is told");
    // Bytes that are no text become three each.
    assert!((all.len() as u64) < 5 * MAX_STEP, "{} bytes", all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_waited_for() {
    let machine = Machine::start();
    let (mut session, log) = machine.session().await;
    // The check is asked until the machine can be worked on.
    let ready = machine.dir.path().join("ready").display().to_string();
    let check = format!("test -e {ready} || {{ touch {ready}; exit 1; }}");
    session.windows_restart("restart", None, Some(&check), PATIENCE).await.unwrap();
    run(&mut session, "after", &["echo here"], RunAs::BuildUser).await.unwrap();
    assert!(log.all().contains("the machine is back after") && log.all().contains("[after] out: here"));

    let refused =
        session.windows_restart("restart", Some("echo cannot >&2; exit 5"), None, PATIENCE).await.unwrap_err();
    assert!(matches!(&refused, StepError::NoRestart { said, .. } if said == "cannot"), "{refused}");
    let stays = session.windows_restart("restart", Some("true"), None, Duration::from_secs(3)).await.unwrap_err();
    assert!(matches!(stays, StepError::NotBack { .. }), "{stays}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_restarts_the_machine_is_told_as_lost() {
    let machine = Machine::start();
    let (mut session, log) = machine.session().await;
    let (ended, ()) =
        tokio::join!(run(&mut session, "hang", &["echo begun; exec sleep 60"], RunAs::BuildUser), async {
            log.until("out: begun").await;
            machine.restarts();
        });
    let error = ended.unwrap_err();
    assert!(matches!(error, StepError::Lost { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_are_installed_round_by_round() {
    let machine = Machine::start();
    let (mut session, log) = machine.session().await;
    let filters = ["exclude:$_.Title -like '*Preview*'".to_owned(), "include:$true".to_owned()];
    let updates = Updates { criteria: None, filters: &filters, limit: 20 };
    // A restart, another look, one that fails once, nothing left.
    fs::write(machine.dir.path().join("updates"), "101 102 103").unwrap();
    session.windows_update("update", &updates).await.unwrap();
    let text = log.all();
    assert_eq!(text.matches("the machine is back").count(), 2, "{text}");
    assert!(text.contains("looks for updates (round 4)") && text.contains("there are no updates to install"), "{text}");
    let script = fs::read_to_string(machine.dir.path().join("update.ps1")).unwrap();
    assert!(script.contains("$filters = @('exclude:$_.Title -like ''*Preview*''', 'include:$true')\n$limit = 20"));
    assert_eq!(machine.left(), 0);

    fs::write(machine.dir.path().join("updates"), "103 103 103 103").unwrap();
    let failed = session.windows_update("update", &updates).await.unwrap_err();
    assert!(matches!(failed, StepError::ExitCode { code: 103, .. }), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_generalized_by_sysprep_or_the_authors_own_script() {
    let machine = Machine::start();
    let (mut session, log) = machine.session().await;
    let inventory = session.windows_inventory().await.unwrap();
    assert_eq!(inventory.os, "Microsoft Windows Server 2022");
    assert_eq!(inventory.packages.len(), 2, "{:?}", inventory.packages);
    session.windows_deprovision(USER).await.unwrap();
    assert!(machine.dir.path().join("generalized").exists());
    assert!(log.all().contains("[deprovision] out: IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE"), "{}", log.all());

    session.file("own", OVERRIDE, &mut &b"echo my own; exit 9"[..], None).await.unwrap();
    let failed = session.windows_deprovision(USER).await.unwrap_err();
    assert!(matches!(failed, StepError::ExitCode { code: 9, .. }), "{failed}");
    assert!(log.all().contains("[deprovision] out: my own"), "{}", log.all());
    assert!(!machine.local(OVERRIDE).exists());
}
