//! Real machines: QEMU runs the tiny guest. Slow (a boot takes seconds under emulation) and hungry, so one at a time.

mod support;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use lazuli_disks::{ChangedSource, Qcow2};
use lazuli_vmm::host::{Host, HostClient, HostConfig};
use lazuli_vmm::hypervisor::{Qemu, QemuConfig};
use lazuli_vmm::qmp::Qmp;
use lazuli_vmm::spec::{DiskSpec, Generation, PowerState, VmSpec};
use serde_json::json;
use support::{
    Files, TestHost, conformance, is_ready, machine, on_lan, short_dir, ssh_key, status_is, tiny_guest, until, with_ssh,
};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

/// Guests do not compete for the processor.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// An address of the loopback that no other run of the tests uses.
fn public_address(number: u8) -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + number, high, low.max(1))
}

struct Keys {
    private: PathBuf,
    public: String,
}

fn keys(dir: &Path) -> Keys {
    let (private, public) = ssh_key(dir);
    Keys { private, public }
}

/// Runs a command in the guest with the system's own ssh.
fn ssh(address: Ipv4Addr, keys: &Keys, command: &str) -> Result<String, String> {
    let output = Command::new("ssh")
        .args(["-q", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=20", "-i"])
        .arg(&keys.private)
        .args([&format!("azureuser@{address}"), command])
        .stdin(Stdio::null())
        .output()
        .expect("ssh is missing: install the package openssh-client");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Ready does not mean that ssh answers yet, here as on Azure.
async fn ssh_in_the_end(address: Ipv4Addr, keys: &Keys, command: &str) -> String {
    until(&format!("ssh to {address} runs '{command}'"), async || {
        tokio::task::block_in_place(|| ssh(address, keys, command).ok())
    })
    .await
}

async fn qemu(host_dir: &Path) -> Arc<Qemu> {
    Arc::new(Qemu::find(QemuConfig::default(), host_dir).await.expect("QEMU"))
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_qemu_does_what_every_hypervisor_must() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let host = TestHost::start(&host_dir, qemu(&host_dir).await).await;
    conformance(&host.client, machine(dir.path(), &tiny_guest(), 4)).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_gen2_boots_and_answers_ssh() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let host = TestHost::start(&host_dir, qemu(&host_dir).await).await;
    let keys = keys(dir.path());
    let address = public_address(2);
    let mut spec = machine(dir.path(), &tiny_guest(), 5);
    spec.generation = Generation::V2;
    with_ssh(&mut spec, address, &keys.public);
    host.client.define_and_start(&spec).await.expect("it starts");
    status_is(&host.client, spec.id, "it is ready", is_ready).await;
    assert_eq!(ssh_in_the_end(address, &keys, "hostname").await, spec.name);
    assert_eq!(ssh_in_the_end(address, &keys, "ls -d /sys/firmware/efi").await, "/sys/firmware/efi");
    let uuid = ssh_in_the_end(address, &keys, "sudo cat /sys/class/dmi/id/product_uuid").await;
    assert_eq!(uuid.to_lowercase(), spec.id.to_string());
    assert_eq!(banner(&host.client, &spec).await, "SSH-2.0-");
    host.client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");
    host.stop().await;
}

/// What the guest's sshd begins with, over a private link.
async fn banner(client: &HostClient, spec: &VmSpec) -> String {
    let mut stream = client.connect(spec.id, 22).await.expect("a link to the guest");
    let mut banner = [0; 8];
    stream.read_exact(&mut banner).await.expect("sshd says who it is");
    String::from_utf8_lossy(&banner).into_owned()
}

/// A host in a process of its own, that can be killed.
struct HostProcess(Child);

impl HostProcess {
    async fn start(host_dir: &Path) -> (Self, HostClient) {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "host_process", "--ignored", "--nocapture"])
            .env("LAZULI_TEST_HOST_DIR", host_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("this program can be run again");
        let client = HostClient::new(HostConfig::socket(host_dir));
        let pid = child.id();
        until("the host process answers", async || client.info().await.ok().filter(|i| i.pid == pid)).await;
        (Self(child), client)
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it ends");
    }
}

/// Not a test: the program of [`HostProcess`].
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by other tests as a process of its own"]
async fn host_process() {
    let Some(dir) = std::env::var_os("LAZULI_TEST_HOST_DIR") else { return };
    let dir = PathBuf::from(dir);
    let config = HostConfig::new(&dir, Arc::new(Files), qemu(&dir).await);
    Host::run(config, CancellationToken::new()).await.expect("the host runs");
}

/// What the engine tells of a machine that did not come up is the end of its console.
#[tokio::test(flavor = "multi_thread")]
async fn vm_disk_that_does_not_boot_says_so_on_its_console() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let host = TestHost::start(&host_dir, qemu(&host_dir).await).await;
    let zeros = dir.path().join("zeros.raw");
    std::fs::File::create(&zeros).and_then(|file| file.set_len(20 << 20)).expect("a file of zeros");
    let mut spec = machine(dir.path(), &zeros, 6);
    spec.generation = Generation::V2;
    host.client.define_and_start(&spec).await.expect("it starts");
    until("the firmware gives up", async || {
        let status = host.client.status(spec.id).await.expect("a status");
        assert!(!is_ready(&status));
        status.console_tail.contains("BdsDxe").then_some(())
    })
    .await;
    host.client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_survives_the_death_of_its_host() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let keys = keys(dir.path());
    let address = public_address(1);
    let mut spec = machine(dir.path(), &tiny_guest(), 4);
    with_ssh(&mut spec, address, &keys.public);
    let (host, client) = HostProcess::start(&host_dir).await;
    client.define_and_start(&spec).await.expect("it starts");
    status_is(&client, spec.id, "it is ready", is_ready).await;
    assert_eq!(ssh_in_the_end(address, &keys, "hostname").await, spec.name);
    // A process of the guest that lives through everything that follows, until the restart.
    ssh_in_the_end(address, &keys, "(sleep 100000 >/dev/null 2>&1 </dev/null & echo $! >/tmp/alive)").await;
    let boot = ssh_in_the_end(address, &keys, "cat /proc/sys/kernel/random/boot_id").await;

    host.kill();
    assert!(client.info().await.is_err());
    let (host, client) = HostProcess::start(&host_dir).await;
    let adopted = client.status(spec.id).await.expect("the next host knows it");
    assert_eq!(adopted.power, PowerState::Running);
    assert!(is_ready(&adopted));
    let alive = "kill -0 $(cat /tmp/alive) && cat /proc/sys/kernel/random/boot_id";
    assert_eq!(ssh_in_the_end(address, &keys, alive).await, boot, "the same boot");
    // Reads of the image go on: the whole disk is more than the guest has cached.
    let before = client.status(spec.id).await.expect("a status").nbd;
    ssh_in_the_end(address, &keys, "sudo sh -c 'echo 3 >/proc/sys/vm/drop_caches; cat /dev/vda >/dev/null'").await;
    let after = client.status(spec.id).await.expect("a status").nbd;
    assert!(after.bytes > before.bytes + (1 << 20), "{before:?} {after:?}");

    restarted_and_off(&client, &spec, address, &keys, &boot).await;
    client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");
    host.kill();
}

/// A restart is a new boot of the same machine; the power button ends it in good order.
async fn restarted_and_off(client: &HostClient, spec: &VmSpec, address: Ipv4Addr, keys: &Keys, boot: &str) {
    ssh_in_the_end(address, keys, "sudo sh -c 'echo kept >/var/kept; sync'").await;
    assert_eq!(client.restart(spec.id).await.expect("it restarts").power, PowerState::Running);
    assert_eq!(ssh_in_the_end(address, keys, "cat /var/kept").await, "kept");
    assert_ne!(ssh_in_the_end(address, keys, "cat /proc/sys/kernel/random/boot_id").await, boot);

    // The guest's own reset is not the end of it, its own shutdown is.
    let boot = ssh_in_the_end(address, keys, "cat /proc/sys/kernel/random/boot_id").await;
    let _ = ssh(address, keys, "sudo reboot");
    until("it has rebooted", async || {
        let now = tokio::task::block_in_place(|| ssh(address, keys, "cat /proc/sys/kernel/random/boot_id"));
        now.ok().filter(|now| *now != boot)
    })
    .await;
    assert_eq!(client.status(spec.id).await.expect("a status").power, PowerState::Running);
    let _ = ssh(address, keys, "sudo poweroff");
    let off = status_is(client, spec.id, "it is off", |s| s.power == PowerState::Stopped).await;
    assert_eq!(off.error, None);
}

/// A QEMU that hangs is neither started a second time nor reported as stopped; it can still be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn vm_that_hangs_can_still_be_deleted() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let host = TestHost::start(&host_dir, qemu(&host_dir).await).await;
    let spec = machine(dir.path(), &tiny_guest(), 7);
    host.client.define_and_start(&spec).await.expect("it starts");
    host.stop().await;
    let stop = Command::new("pkill").args(["-STOP", "-f", &format!("uuid {}", spec.id)]).status();
    assert!(stop.expect("pkill is missing: install the package procps").success());

    let host = TestHost::start(&host_dir, qemu(&host_dir).await).await;
    let status = host.client.status(spec.id).await.expect("a status");
    assert_eq!(status.power, PowerState::Crashed);
    assert!(status.error.expect("a reason").contains("did not answer"));
    host.client.start(spec.id).await.expect_err("it must not run twice");
    host.client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");
    let found = Command::new("pgrep").args(["-f", &format!("uuid {}", spec.id)]).status().expect("pgrep");
    assert!(!found.success(), "it is gone");
    host.stop().await;
}

/// Disks come and go under a running guest, LUNs as asked for; what all of them hold at one instant is captured while it
/// writes; a host that dies in the middle of it leaves nothing in QEMU and nothing on disk.
#[tokio::test(flavor = "multi_thread")]
async fn vm_disks_come_go_and_are_captured_while_it_runs() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let keys = keys(dir.path());
    let address = public_address(5);
    let mut spec = machine(dir.path(), &tiny_guest(), 8);
    with_ssh(&mut spec, address, &keys.public);
    let (host, client) = HostProcess::start(&host_dir).await;
    client.define_and_start(&spec).await.expect("it starts");
    status_is(&client, spec.id, "it is ready", is_ready).await;
    let disk = |lun: u8| DiskSpec {
        lun: Some(lun),
        overlay: dir.path().join(format!("disks/data{lun}.qcow2")),
        size_bytes: 64 << 20,
        base: None,
        read_only: false,
    };
    spec.data_disks = vec![disk(5), disk(9)];
    client.redefine(&spec).await.expect("disks are attached");
    let luns = "ls -d /sys/block/sd*/device/scsi_device/* | sed 's/.*://' | sort -n | xargs";
    assert_eq!(ssh_in_the_end(address, &keys, luns).await, "5 9");
    // The same number on both, one after the other, again and again: a copy of one instant has them at most one apart.
    let writer = "for d in /sys/block/sd*; do case $(ls $d/device/scsi_device) in *:5) a=/dev/${d##*/};; *:9) b=/dev/${d##*/};; esac; done; \
        sudo sh -c \"(n=0; while [ ! -e /tmp/stop ]; do n=\\$((n+1)); \
        for x in $a $b; do printf '%08d' \\$n | dd of=\\$x conv=notrunc,fsync bs=8 2>/dev/null; done; echo \\$n > /tmp/n; done) >/dev/null 2>&1 </dev/null &\"";
    ssh_in_the_end(address, &keys, writer).await;
    until("it has written", async || {
        let n = tokio::task::block_in_place(|| ssh(address, &keys, "cat /tmp/n")).ok()?;
        n.parse::<u64>().ok().filter(|n| *n >= 3)
    })
    .await;
    let number = |file: &Path| {
        let mut bytes = [0; 8];
        ChangedSource::read_at(&Qcow2::open(file).expect("a copy"), 0, &mut bytes).expect("its first sector");
        std::str::from_utf8(&bytes).expect("digits").parse::<u64>().expect("a number")
    };
    for _ in 0..5 {
        let captured = client.capture(spec.id, &[None, Some(5), Some(9)]).await.expect("it is captured");
        let (first, second) = (number(&captured.files[1]), number(&captured.files[2]));
        assert!(first == second || first == second + 1, "{first} {second}");
        client.discard(spec.id, captured.id).await.expect("it is discarded");
    }

    // A host dies with a capture under way: as slow as can be, begun by hand in its words.
    let captured = client.capture(spec.id, &[Some(5)]).await.expect("it is captured");
    host.kill();
    let monitor = lazuli_vmm::hypervisor::VmFiles::new(&host_dir, spec.id).monitor();
    begin_slow_capture(&monitor, &captured.files[0]).await;
    let (host, client) = HostProcess::start(&host_dir).await;
    assert!(!captured.files[0].exists(), "nothing is left on disk");
    let again = client.capture(spec.id, &[Some(5)]).await.expect("nothing is left in QEMU");
    client.discard(spec.id, again.id).await.expect("it is discarded");

    ssh_in_the_end(address, &keys, "touch /tmp/stop").await;
    spec.data_disks.remove(0);
    client.redefine(&spec).await.expect("a disk is detached");
    assert_eq!(ssh_in_the_end(address, &keys, luns).await, "9");
    let last = ssh_in_the_end(address, &keys, "cat /tmp/n").await;
    assert!(last.parse::<u64>().expect("a number") >= 3, "the guest wrote on");
    client.delete(spec.id, &[]).await.expect("it is deleted");
    host.kill();
}

/// What a host does at the beginning of a capture, at one byte a second.
async fn begin_slow_capture(monitor: &Path, target: &Path) {
    let (qmp, _events) = Qmp::connect(monitor).await.expect("QEMU answers");
    let file = json!({"driver": "file", "filename": target});
    let node = json!({"node-name": "capture-lun5", "driver": "qcow2", "file": file, "backing": null});
    qmp.execute("blockdev-add", node).await.expect("a node");
    let job = json!({"job-id": "capture-lun5", "device": "lun5", "target": "capture-lun5", "sync": "top",
        "auto-dismiss": false, "speed": 1});
    qmp.execute("blockdev-backup", job).await.expect("a job");
}

/// A whole Debian with the unmodified agents; `LAZULI_GUEST_DEBIAN` is what `scripts/guest/debian` makes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes under emulation; run with LAZULI_GUEST_DEBIAN set"]
async fn vm_debian_provisions_itself() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let image = PathBuf::from(std::env::var_os("LAZULI_GUEST_DEBIAN").expect("LAZULI_GUEST_DEBIAN is set"));
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let host = TestHost::start(&host_dir, qemu(&host_dir).await).await;
    let keys = keys(dir.path());
    let address = public_address(3);
    let mut spec = machine(dir.path(), &image, 6);
    spec.cpus = 2;
    spec.memory_mib = 1024;
    with_ssh(&mut spec, address, &keys.public);
    host.client.define_and_start(&spec).await.expect("it starts");
    let ready = status_is(&host.client, spec.id, "it is ready", is_ready).await;
    eprintln!("{:?}, {:?}", ready.provisioning, ready.nbd);
    assert_eq!(ssh_in_the_end(address, &keys, "hostname").await, spec.name);
    assert_eq!(ssh_in_the_end(address, &keys, "systemd-detect-virt").await, "microsoft");
    assert_eq!(ssh_in_the_end(address, &keys, "sudo -n id -u").await, "0");
    let status = host.client.status(spec.id).await.expect("a status");
    eprintln!("{:?}, agent {:?}", status.nbd, status.agent.map(|a| (a.version, a.status, a.os_version)));
    let off = host.client.power_off(spec.id, false).await.expect("it obeys the power button");
    assert_eq!(off.power, PowerState::Stopped);
    host.client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");
    host.stop().await;
}

/// A guest that takes its address, and has the LAN's host for a neighbour: `on-a-lan` runs this program again in namespaces of its own.
#[tokio::test(flavor = "multi_thread")]
async fn vm_is_a_host_of_a_lan() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/on-a-lan");
    let mut command = tokio::process::Command::new(script);
    command.arg(std::env::current_exe().expect("this program")).args([
        "--exact",
        "on_a_lan",
        "--ignored",
        "--nocapture",
    ]);
    command.env("LAZULI_GUEST_TINY", tiny_guest()).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.expect("bash");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test, beside a LAN"]
async fn on_a_lan() {
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let mut spec = machine(dir.path(), &tiny_guest(), 4);
    let bridge = on_lan(&mut spec, "br0");
    let host = TestHost::on_lans(&host_dir, qemu(&host_dir).await, vec![bridge]).await;
    host.client.define_and_start(&spec).await.expect("it starts");
    status_is(&host.client, spec.id, "it is ready", is_ready).await;
    let peer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/lan-host.py");
    let ask = async || {
        let mut asks = tokio::process::Command::new("ip");
        asks.args(["netns", "exec", "lan", "python3"]).arg(&peer).args(["ask", "192.168.50.132", "22"]);
        let said = asks.stderr(Stdio::null()).output().await.expect("ip");
        String::from_utf8(said.stdout).ok().filter(|banner| banner.trim() == "SSH-2.0-")
    };
    until("the LAN's host sees sshd", ask).await;
    assert_eq!(banner(&host.client, &spec).await, "SSH-2.0-", "and this machine's programs by a private link");
    host.client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");
    host.stop().await;
}
