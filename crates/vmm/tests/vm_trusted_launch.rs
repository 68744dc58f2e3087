//! Secure boot and TPM on real machines: a Debian whose boot loaders are signed starts, an unsigned guest does not.

mod support;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use lazuli_vmm::hypervisor::{Process, Qemu, QemuConfig};
use lazuli_vmm::spec::{Generation, PowerState, TrustedLaunch, VmSpec};
use support::{TestHost, is_ready, machine, short_dir, signed_guest, status_is, tiny_guest, until, with_ssh};

fn trusted(dir: &Path, image: &Path) -> VmSpec {
    let mut spec = machine(dir, image, 9);
    spec.generation = Generation::V2;
    spec.trusted_launch = Some(TrustedLaunch { secure_boot: true, vtpm: true, state: dir.join("disks/web09.state") });
    spec
}

fn tpm_runs(host_dir: &Path) -> bool {
    let folder = host_dir.join("run").to_str().expect("UTF-8").to_owned();
    Process::find(|line| line.starts_with(b"swtpm\0") && String::from_utf8_lossy(line).contains(&folder)).is_some()
}

/// What a command prints in the guest.
async fn ssh(address: Ipv4Addr, key: &Path, command: &str) -> String {
    until(&format!("ssh to {address} runs '{command}'"), async || {
        let mut ssh = tokio::process::Command::new("ssh");
        ssh.args(["-q", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=20", "-i"]).arg(key);
        let output = ssh.args([&format!("azureuser@{address}"), command]).output().await;
        let output = output.expect("ssh is missing: install the package openssh-client");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    })
    .await
}

/// TPM2_ReadClock: how often this TPM was switched on.
const RESETS: &str = r#"sudo python3 -c 'import os
f = os.open("/dev/tpm0", os.O_RDWR)
os.write(f, bytes.fromhex("80010000000a00000181"))
print(int.from_bytes(os.read(f, 100)[26:30], "big"))'"#;

#[tokio::test(flavor = "multi_thread")]
async fn vm_signed_guest_starts_with_secure_boot_and_keeps_its_tpm() {
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let qemu = Arc::new(Qemu::find(QemuConfig::default(), &host_dir).await.expect("QEMU"));
    let host = TestHost::start(&host_dir, qemu.clone()).await;
    let key = dir.path().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen is missing: install the package openssh-client").success());
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 73, high, low.max(1));
    let mut spec = trusted(dir.path(), &signed_guest());
    spec.memory_mib = 1024;
    // With two, under emulation, one start was seen to stand still: both processors waited for an interrupt that did not come.
    spec.cpus = 1;
    with_ssh(&mut spec, address, &std::fs::read_to_string(key.with_extension("pub")).expect("a public key"));
    host.client.define_and_start(&spec).await.expect("it starts");
    status_is(&host.client, spec.id, "it is ready", is_ready).await;

    let variable = "sudo od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    assert_eq!(ssh(address, &key, variable).await, "1", "the firmware says that secure boot is enabled");
    let lockdown = ssh(address, &key, "sudo cat /sys/kernel/security/lockdown").await;
    assert!(lockdown.contains("[integrity]"), "the kernel saw it: {lockdown}");
    assert_eq!(ssh(address, &key, "cat /sys/class/tpm/tpm0/tpm_version_major").await, "2");
    // What secure boot checked with is measured.
    let pcr7 = ssh(address, &key, "cat /sys/class/tpm/tpm0/pcr-sha256/7").await;
    assert!(pcr7.len() == 64 && pcr7.contains(|c| c != '0' && c != 'F'), "PCR 7 is set: {pcr7}");
    let resets: u64 = ssh(address, &key, RESETS).await.parse().expect("a number");

    // The host process goes, machine and TPM stay: the next host has them.
    host.stop().await;
    assert!(tpm_runs(&host_dir));
    let host = TestHost::start(&host_dir, qemu).await;
    let adopted = host.client.status(spec.id).await.expect("a status");
    assert_eq!((adopted.power, adopted.error), (PowerState::Running, None));
    assert_eq!(ssh(address, &key, RESETS).await, resets.to_string());

    // Deallocated: nothing of it runs. A machine from that disk has the same TPM.
    ssh(address, &key, "sync").await;
    host.client.power_off(spec.id, false).await.expect("it obeys the power button");
    host.client.delete(spec.id, &[]).await.expect("it is forgotten");
    assert!(!tpm_runs(&host_dir), "the TPM went with its machine");
    let again = VmSpec { provisioning: None, ..spec.clone() };
    host.client.define_and_start(&again).await.expect("it starts again");
    let later: u64 = ssh(address, &key, RESETS).await.parse().expect("a number");
    assert!(later > resets, "the same TPM, switched on once more: {later} after {resets}");
    host.client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");
    assert!(!tpm_runs(&host_dir));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_unsigned_guest_is_refused_by_its_firmware() {
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let qemu = Arc::new(Qemu::find(QemuConfig::default(), &host_dir).await.expect("QEMU"));
    let host = TestHost::start(&host_dir, qemu).await;
    let mut spec = trusted(dir.path(), &tiny_guest());
    host.client.define_and_start(&spec).await.expect("it starts");
    until("the firmware refuses the boot loader", async || {
        let status = host.client.status(spec.id).await.expect("a status");
        assert!(!is_ready(&status), "an unsigned guest must not start");
        status.console_tail.contains("Access Denied").then_some(())
    })
    .await;

    // Its secure boot is switched off: it starts.
    host.client.power_off(spec.id, true).await.expect("it is switched off");
    let launch = spec.trusted_launch.as_mut().expect("it was given");
    launch.secure_boot = false;
    host.client.redefine(&spec).await.expect("a machine that is off may change");
    host.client.start(spec.id).await.expect("it starts");
    status_is(&host.client, spec.id, "it is ready", is_ready).await;
    host.client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");
    assert!(!tpm_runs(&host_dir));
    host.stop().await;
}
