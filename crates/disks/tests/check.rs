//! BY-1: what is found on disks, and how people read it.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{System, raw_disk};
use lazuli_disks::check::{self, Date, Generation, OsState, Report, Severity, Wanted};
use lazuli_disks::{DiskSource, format};

const TODAY: Date = Date(2026, 11, 28);

fn look(path: &Path, generation: Option<Generation>, state: Option<OsState>) -> Report {
    let image = format::open(path).unwrap();
    let disk: Arc<dyn DiskSource> = Arc::from(image.disk);
    check::check(&disk, &Wanted { generation, state, format: Some(image.format), today: TODAY }).unwrap()
}

/// The findings of a system as `severity code: message`, without those of no weight.
fn findings(system: &System, generation: Generation, state: OsState) -> String {
    let dir = tempfile::tempdir().unwrap();
    let report = look(&system.build(dir.path()), Some(generation), Some(state));
    let heavy = report.findings.iter().filter(|f| f.severity != Severity::Info);
    heavy.map(|f| format!("{} {}: {}\n", f.severity.name(), f.code, f.message)).collect()
}

fn guest(name: &str, script: &str) -> std::path::PathBuf {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set; set it to what `scripts/guest/{script}` prints"))
        .into()
}

/// Debian's kernel of the day.
fn without_kernel(report: &Report) -> String {
    report.kernels.iter().fold(report.to_string(), |text, version| text.replace(version.as_str(), "KERNEL"))
}

#[test]
fn by_1_the_debian_guest() {
    let path = guest("LAZULI_GUEST_DEBIAN", "debian");
    let report = look(&path, Some(Generation::V2), Some(OsState::Generalized));
    assert!(report.passed() && report.bios && report.uefi, "{report}");
    assert_eq!(report.agents, ["cloud-init"]);
    insta::assert_snapshot!("debian", without_kernel(&report));
    assert!(look(&path, Some(Generation::V1), Some(OsState::Specialized)).passed());
}

#[test]
fn by_1_the_tiny_guest() {
    let path = guest("LAZULI_GUEST_TINY", "tiny");
    let report = look(&path, Some(Generation::V1), Some(OsState::Specialized));
    insta::assert_snapshot!("tiny", without_kernel(&report));
}

#[test]
fn a_sound_system_has_no_findings_of_weight() {
    for generation in [Generation::V1, Generation::V2] {
        assert_eq!(findings(&System::debian(), generation, OsState::Generalized), "");
    }
}

#[test]
fn by_1_the_loader_must_fit_the_generation() {
    let mut system = System::debian();
    system.boot_code = false;
    insta::assert_snapshot!(findings(&system, Generation::V1, OsState::Specialized), @"error boot-generation: generation V1 boots with BIOS, but the first sector holds no boot code");
    let mut system = System::debian();
    system.loader = Some("EFI/debian/grubx64.efi");
    insta::assert_snapshot!(findings(&system, Generation::V2, OsState::Specialized), @r"error boot-generation: there is no \EFI\BOOT\BOOTX64.EFI (there is \EFI\DEBIAN); a new machine has no boot entries that name another loader");
    system.table = "label: dos\nstart=4096, size=12288, type=83, bootable\n";
    insta::assert_snapshot!(findings(&system, Generation::V2, OsState::Specialized), @"error boot-generation: generation V2 boots with UEFI, but there is no EFI system partition");
    assert_eq!(findings(&system, Generation::V1, OsState::Specialized), "");
}

#[test]
fn by_1_the_kernel_needs_its_drivers() {
    let mut system = System::debian();
    system.with("lib/modules/6.1.0/modules.dep", "kernel/virtio_pci.ko:\nkernel/virtio_net.ko:\nkernel/hv_vmbus.ko:\n");
    insta::assert_snapshot!("drivers", findings(&system, Generation::V2, OsState::Generalized));
    let mut system = System::debian();
    system.initramfs(&["usr/lib/modules/6.1.0/virtio_pci.ko"]);
    insta::assert_snapshot!(findings(&system, Generation::V2, OsState::Generalized), @"error initramfs: the initramfs of kernel 6.1.0 lacks virtio_blk, so that it will not find its disk");
    system.without("boot/initrd.img-6.1.0");
    insta::assert_snapshot!(findings(&system, Generation::V2, OsState::Generalized), @"error initramfs: kernel 6.1.0 has no initramfs in /boot, but needs modules to reach its disk");
    system.with("lib/modules/6.1.0/modules.builtin", "kernel/virtio_blk.ko\nkernel/virtio-pci.ko\n");
    assert_eq!(findings(&system, Generation::V2, OsState::Generalized), "", "built in");
    system.without("boot/vmlinuz-6.1.0");
    insta::assert_snapshot!(findings(&system, Generation::V2, OsState::Generalized), @"error kernel: there is no kernel in /boot");
}

/// GS-5, GS-6, GS-10.
#[test]
fn by_1_a_generalized_image_needs_an_agent_that_provisions() {
    let mut system = System::debian();
    system.with("etc/cloud/cloud.cfg", "datasource_list: [ Ec2, None ]\n");
    insta::assert_snapshot!("datasources", findings(&system, Generation::V2, OsState::Generalized));
    system.with("etc/cloud/cloud.cfg.d/91-azure.cfg", "datasource_list:\n- Azure\n");
    assert_eq!(findings(&system, Generation::V2, OsState::Generalized), "", "the later file counts");
    system.with("etc/cloud/cloud-init.disabled", "");
    insta::assert_snapshot!("disabled", findings(&system, Generation::V2, OsState::Generalized));
    system.without("usr/bin/cloud-init");
    insta::assert_snapshot!("no-agent", findings(&system, Generation::V2, OsState::Generalized));
    assert_eq!(findings(&system, Generation::V2, OsState::Specialized), "", "a specialized one needs none");
    system.with("usr/sbin/waagent", "#!\n");
    system.with("etc/waagent.conf", "Provisioning.Agent=cloud-init\n");
    insta::assert_snapshot!("waagent-delegates", findings(&system, Generation::V2, OsState::Generalized));
    system.with("etc/waagent.conf", "Provisioning.Agent=auto\n");
    assert_eq!(findings(&system, Generation::V2, OsState::Generalized), "");
}

/// GS-12.
#[test]
fn by_1_what_a_generalized_image_should_not_carry() {
    let mut system = System::debian();
    system.with("etc/ssh/ssh_host_rsa_key", "secret");
    system.with("etc/ssh/ssh_host_rsa_key.pub", "public");
    system.with("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    system.with("var/lib/cloud/instance/x", "1");
    system.with("var/lib/waagent/provisioned", "1");
    insta::assert_snapshot!("leftovers", findings(&system, Generation::V2, OsState::Generalized));
    assert_eq!(findings(&system, Generation::V2, OsState::Specialized), "");
    let mut clean = System::debian();
    clean.with("etc/machine-id", "uninitialized\n");
    assert_eq!(findings(&clean, Generation::V2, OsState::Generalized), "");
}

#[test]
fn by_0_a_distribution_out_of_support_is_told() {
    let mut system = System::debian();
    system.with("etc/os-release", "ID=\"centos\"\nVERSION_ID=\"7\"\nPRETTY_NAME=\"CentOS Linux 7 (Core)\"\n");
    system.with("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n");
    system.with("boot/grub/grub.cfg", "linux /boot/vmlinuz-6.1.0 quiet\n");
    insta::assert_snapshot!("old", findings(&system, Generation::V2, OsState::Specialized));
}

#[test]
fn a_disk_that_is_no_system_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    raw_disk(&path, 3_000_000 / 512 * 512, &[(5000, vec![1; 5000])]);
    let report = look(&path, None, None);
    assert!(!report.passed());
    insta::assert_snapshot!("empty", report.to_string());
}
