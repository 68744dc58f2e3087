//! Secure boot and TPM on real machines: a Debian whose boot loaders are signed starts, an unsigned guest does not.

mod support;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use lazuli_vmm::hypervisor::{Process, Qemu, QemuConfig};
use lazuli_vmm::spec::{Generation, PowerState, TrustedLaunch, VmSpec};
use lazuli_vmm::uefi::{Database, Signature, UefiKeys, VariableStore, signatures};
use support::{TestHost, is_ready, machine, short_dir, signed_guest, ssh_key, status_is, tiny_guest, until, with_ssh};

fn trusted(dir: &Path, image: &Path) -> VmSpec {
    let mut spec = machine(dir, image, 9);
    spec.generation = Generation::V2;
    spec.trusted_launch =
        Some(TrustedLaunch { secure_boot: true, vtpm: true, state: dir.join("disks/web09.state"), keys: None });
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

/// A loopback address of this test's own.
fn own_address(network: u8) -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, network, high, low.max(1))
}

const SECURE_BOOT: &str =
    "sudo od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

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
    let (key, public) = ssh_key(dir.path());
    let address = own_address(73);
    let mut spec = trusted(dir.path(), &signed_guest());
    spec.memory_mib = 1024;
    with_ssh(&mut spec, address, &public);
    host.client.define_and_start(&spec).await.expect("it starts");
    status_is(&host.client, spec.id, "it is ready", is_ready).await;

    assert_eq!(ssh(address, &key, SECURE_BOOT).await, "1", "the firmware says that secure boot is enabled");
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

    // Deallocated: nothing of it runs. A machine from that disk has the same TPM, though it lies elsewhere now.
    ssh(address, &key, "sync").await;
    host.client.power_off(spec.id, false).await.expect("it obeys the power button");
    let kept = host.client.firmware(spec.id).await.expect("it is off").expect("its TPM keeps something");
    let launch = spec.trusted_launch.clone().expect("it was given");
    host.client.delete(spec.id, std::slice::from_ref(&launch.state)).await.expect("it is forgotten");
    assert!(!tpm_runs(&host_dir), "the TPM went with its machine");
    assert!(!launch.state.exists());
    let moved = TrustedLaunch { state: launch.state.with_file_name("web09-1.state"), ..launch };
    let again = VmSpec { provisioning: None, trusted_launch: Some(moved), ..spec.clone() };
    host.client.define(&again).await.expect("it is defined");
    host.client.put_firmware(again.id, &kept).await.expect("it begins with what it kept");
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

/// A certificate that nothing was signed with.
fn stranger(dir: &Path) -> Signature {
    let certificate = dir.join("certificate.der");
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=Nobody",
        "-outform",
        "DER",
        "-keyout",
    ]);
    let output = openssl.arg(dir.join("key.pem")).arg("-out").arg(&certificate).output();
    assert!(output.expect("openssl is missing: install the package openssl").status.success());
    Signature::X509(std::fs::read(certificate).expect("a certificate"))
}

/// What the boot loader of the signed guest is signed with, as the firmware's own keys have it.
fn microsofts() -> Signature {
    let flash =
        std::fs::read("/usr/share/OVMF/OVMF_VARS_4M.ms.fd").expect("there is no OVMF: install the package ovmf");
    let store = VariableStore::parse(flash).expect("variables");
    let (name, vendor) = Database::Db.variable();
    let found = signatures(store.get(name, vendor).expect("a db")).expect("lists");
    let of_others = |s: &Signature| matches!(s, Signature::X509(der) if der.windows(31).any(|w| w == b"Microsoft Corporation UEFI CA 2"));
    found.into_iter().find(of_others).expect("Microsoft's certificate for others")
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_keys_of_an_image_decide_what_starts() {
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let qemu = Arc::new(Qemu::find(QemuConfig::default(), &host_dir).await.expect("QEMU"));
    let host = TestHost::start(&host_dir, qemu).await;
    let (key, public) = ssh_key(dir.path());
    let address = own_address(74);
    let own = stranger(dir.path());
    let mut keys =
        UefiKeys { pk: Some(own.clone()), kek: vec![own.clone()], db: vec![own.clone()], ..UefiKeys::default() };
    let mut spec = trusted(dir.path(), &signed_guest());
    spec.memory_mib = 1024;
    with_ssh(&mut spec, address, &public);

    // The certificate of its boot loader is not among them.
    let launch = |keys: &UefiKeys, name: &str| TrustedLaunch {
        secure_boot: true,
        vtpm: true,
        state: dir.path().join("disks").join(name),
        keys: Some(keys.clone()),
    };
    spec.trusted_launch = Some(launch(&keys, "without.state"));
    host.client.define_and_start(&spec).await.expect("it starts");
    until("the firmware refuses the boot loader", async || {
        let status = host.client.status(spec.id).await.expect("a status");
        assert!(!is_ready(&status), "nothing must start that these keys do not know");
        status.console_tail.contains("Access Denied").then_some(())
    })
    .await;
    host.client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");

    keys.db.push(microsofts());
    keys.dbx.push(Signature::Sha256([7; 32]));
    spec.trusted_launch = Some(launch(&keys, "with.state"));
    host.client.define_and_start(&spec).await.expect("it starts");
    status_is(&host.client, spec.id, "it is ready", is_ready).await;
    assert_eq!(ssh(address, &key, SECURE_BOOT).await, "1", "the firmware says that secure boot is enabled");
    // What the firmware itself shows, behind four bytes of attributes.
    let given = [keys.pk.as_slice(), &keys.kek, &keys.db, &keys.dbx];
    for (database, given) in Database::ALL.into_iter().zip(given) {
        let (name, vendor) = database.variable();
        let shown = ssh(address, &key, &format!("sudo base64 -w0 /sys/firmware/efi/efivars/{name}-{vendor}")).await;
        let shown = base64::engine::general_purpose::STANDARD.decode(shown).expect("base64");
        assert_eq!(signatures(&shown[4..]).expect("lists"), given, "{name}");
    }
    host.client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");
    host.stop().await;
}
