//! QEMU's command line for a machine. Pure.
//!
//! No default devices and no configuration files: what is not here, the guest does not have. Settings that contain
//! paths or names are given as JSON, where QEMU takes it, or with commas doubled.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Launch, VmFiles};
use crate::accel::Accelerator;
use crate::spec::{DiskSpec, Generation, VmSpec};

/// How long QEMU waits for a base image whose server is away before the guest sees an error: until the next host.
const NBD_RECONNECT_SECONDS: u32 = 30 * 24 * 3600;
/// How often QEMU tries to reach the network again.
const NET_RECONNECT_MS: u32 = 500;

/// UEFI firmware: the code all machines share, and the variables each starts with a copy of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    pub code: PathBuf,
    pub variables: PathBuf,
}

/// Everything after the program's name.
pub fn arguments(launch: &Launch, accelerator: Accelerator, firmware: &Firmware) -> Vec<String> {
    let (spec, files) = (&*launch.spec, &launch.files);
    let mut line = Line(Vec::new());
    line.flag("-nodefaults").flag("-no-user-config");
    line.option("-display", "none");
    line.option("-name", format!("guest={}", escape(&spec.name)));
    line.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    line.option("-msg", "timestamp=on");
    processor(&mut line, launch, accelerator);
    identity(&mut line, spec);
    // The guest's own shutdown leaves QEMU paused until the host has seen it, whether the host runs then or later.
    line.option("-action", "shutdown=pause,reboot=reset");
    monitor_and_console(&mut line, launch);
    if spec.generation == Generation::V2 {
        pflash(&mut line, "efi-code", &firmware.code, true);
        pflash(&mut line, "efi-vars", &launch.firmware_variables(), false);
        line.option("-machine", "pflash0=efi-code,pflash1=efi-vars");
    }
    if launch.secure_boot() {
        // The guest reaches the variables through the firmware alone, which runs in system management mode; a sleep to
        // memory would be a way around it.
        line.option("-global", "driver=cfi.pflash01,property=secure,value=on");
        line.option("-global", "ICH9-LPC.disable_s3=1");
    }
    if launch.tpm_state().is_some() {
        line.option("-chardev", format!("socket,id=tpm,path={}", escape(&text(&files.tpm()))));
        line.option("-tpmdev", "emulator,id=tpm0,chardev=tpm");
        line.json("-device", json!({ "driver": "tpm-crb", "tpmdev": "tpm0" }));
    }
    disks(&mut line, launch);
    for (index, nic) in spec.nics.iter().enumerate() {
        line.json(
            "-netdev",
            json!({
                "type": "stream", "id": format!("net{index}"), "server": false,
                "addr": { "type": "unix", "path": text(&files.nic(index)) },
                "reconnect-ms": NET_RECONNECT_MS,
            }),
        );
        line.json("-device", json!({
            "driver": "virtio-net-pci", "netdev": format!("net{index}"), "mac": nic.mac.with_colons(), "romfile": "",
        }));
    }
    // For screenshots; guests that have no driver for more use it as a VGA of old.
    line.json("-device", json!({ "driver": "VGA", "vgamem_mb": 8 }));
    line.json("-device", json!({ "driver": "virtio-rng-pci" }));
    line.0
}

struct Line(Vec<String>);

impl Line {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.to_owned());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.0.extend([name.to_owned(), value.into()]);
        self
    }

    fn json(&mut self, name: &str, value: Value) -> &mut Self {
        self.option(name, value.to_string())
    }
}

/// A value within QEMU's `a=b,c=d` lists.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

/// Paths were checked to be UTF-8 when the machine was defined.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn processor(line: &mut Line, launch: &Launch, accelerator: Accelerator) {
    let spec = &launch.spec;
    line.option("-machine", if launch.secure_boot() { "q35,smm=on" } else { "q35,smm=off" });
    // With a thread a processor, emulated machines were seen to stand still in system management mode: all processors waited
    // for an interrupt that did not come.
    let one_thread = accelerator == Accelerator::Tcg && launch.secure_boot();
    line.option("-accel", if one_thread { "tcg,thread=single" } else { accelerator.name() });
    // systemd, and with it waagent's ConditionVirtualization=microsoft, goes by the hypervisor leaf of CPUID before it
    // looks at SMBIOS: the leaf must be absent (TCG) or Hyper-V's (KVM).
    line.option(
        "-cpu",
        match accelerator {
            Accelerator::Tcg => "Nehalem-v1,tcg-cpuid=off",
            Accelerator::Kvm => "host,migratable=off,hv-relaxed=on,hv-vapic=on,hv-time=on",
        },
    );
    line.option("-smp", format!("cpus={}", spec.cpus));
    line.option("-m", format!("size={}M", spec.memory_mib));
    line.option("-rtc", "base=utc");
}

/// What makes a guest believe that it is on Azure: ds-identify looks at the chassis asset tag, systemd at the version,
/// cloud-init and waagent take the UUID as the instance's id.
fn identity(line: &mut Line, spec: &VmSpec) {
    let id = spec.id;
    let digits: String = id.as_bytes().iter().map(|b| char::from(b'0' + b % 10)).collect();
    let serial: Vec<_> = [(0, 4), (4, 4), (8, 4), (12, 4)].map(|(at, n)| &digits[at..at + n]).to_vec();
    line.option("-uuid", id.to_string());
    line.option(
        "-smbios",
        format!(
            "type=1,manufacturer=Microsoft Corporation,product=Virtual Machine,version=Hyper-V UEFI Release v4.1,\
         serial=0000-0000-{},uuid={id}",
            serial.join("-")
        ),
    );
    line.option("-smbios", "type=2,manufacturer=Microsoft Corporation,product=Virtual Machine,version=7.0");
    line.option(
        "-smbios",
        "type=3,manufacturer=Microsoft Corporation,version=7.0,asset=7783-7084-3265-9085-8269-3286-77",
    );
}

/// Where QEMU listens with its monitor. No two machines of a computer have the same.
pub fn monitor(path: &Path) -> String {
    socket("monitor", path)
}

fn socket(id: &str, path: &Path) -> String {
    format!("socket,id={id},path={},server=on,wait=off", escape(&text(path)))
}

fn monitor_and_console(line: &mut Line, launch: &Launch) {
    let files = &launch.files;
    line.option("-chardev", monitor(&files.monitor()));
    line.option("-mon", "chardev=monitor,mode=control");
    let log = escape(&text(&files.console_log()));
    line.option("-chardev", format!("{},logfile={log},logappend=on", socket("console", &files.console())));
    line.option("-serial", "chardev:console");
    line.option("-chardev", socket("agent", &files.guest_agent()));
    line.json("-device", json!({ "driver": "virtio-serial-pci" }));
    line.json("-device", json!({ "driver": "virtserialport", "chardev": "agent", "name": "org.qemu.guest_agent.0" }));
}

fn pflash(line: &mut Line, node: &str, path: &Path, read_only: bool) {
    line.json(
        "-blockdev",
        json!({
            "node-name": node, "driver": "raw", "read-only": read_only,
            "file": { "driver": "file", "filename": text(path), "read-only": read_only },
        }),
    );
}

/// The OS disk on virtio-blk; data disks by LUN on a SCSI controller of their own; the provisioning disc on another.
fn disks(line: &mut Line, launch: &Launch) {
    let spec = &launch.spec;
    disk_node(line, launch, &spec.os_disk);
    line.json("-device", json!({ "driver": "virtio-blk-pci", "drive": "os", "bootindex": 1 }));
    // Always there: disks can be attached while the machine runs.
    line.json("-device", json!({ "driver": "virtio-scsi-pci", "id": "data" }));
    for disk in &spec.data_disks {
        disk_node(line, launch, disk);
        line.json("-device", data_device(disk));
    }
    if launch.provisioning_disc {
        line.json(
            "-blockdev",
            json!({
                "node-name": "provisioning", "driver": "raw", "read-only": true,
                "file": { "driver": "file", "filename": text(&launch.files.provisioning_iso()), "read-only": true },
            }),
        );
        line.json("-device", json!({ "driver": "virtio-scsi-pci", "id": "disc" }));
        line.json("-device", json!({ "driver": "scsi-cd", "bus": "disc.0", "drive": "provisioning", "id": "cd0" }));
    }
}

fn disk_node(line: &mut Line, launch: &Launch, disk: &DiskSpec) {
    for node in disk_nodes(&launch.files, disk) {
        line.json("-blockdev", node);
    }
}

/// Name of the node of a disk's base.
pub(super) fn base_node(label: &str) -> String {
    format!("{label}-base")
}

/// The nodes of a disk, for the command line or `blockdev-add`; the one that a device takes is the last.
pub(super) fn disk_nodes(files: &VmFiles, disk: &DiskSpec) -> Vec<Value> {
    let label = disk.label();
    let base = base_node(&label);
    let mut nodes = Vec::new();
    if disk.base.is_some() {
        nodes.push(json!({
            "node-name": base, "driver": "nbd", "read-only": true,
            "server": { "type": "unix", "path": text(&files.base(&label)) },
            "reconnect-delay": NBD_RECONNECT_SECONDS,
        }));
    }
    nodes.push(json!({
        "node-name": label, "driver": "qcow2", "read-only": disk.read_only, "discard": "unmap",
        "file": { "driver": "file", "filename": text(&disk.overlay), "read-only": disk.read_only, "discard": "unmap" },
        // Named here and never taken from the file, which the guest cannot write but a bug might.
        "backing": disk.base.as_ref().map(|_| base),
    }));
    nodes
}

/// Id of a data disk's device.
pub(super) fn device_id(label: &str) -> String {
    format!("disk-{label}")
}

/// The device of a data disk, for the command line or `device_add`.
pub(super) fn data_device(disk: &DiskSpec) -> Value {
    let label = disk.label();
    json!({
        "driver": "scsi-hd", "id": device_id(&label), "bus": "data.0", "scsi-id": 0, "lun": disk.lun, "drive": label,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provisioning::Fabric;
    use crate::provisioning::tests::{Nobody, example};
    use crate::provisioning::tokens::ServerTokens;
    use crate::spec::TrustedLaunch;
    use std::sync::Arc;

    fn shown(spec: VmSpec, accelerator: Accelerator) -> String {
        let spec = Arc::new(spec);
        let launch = Launch {
            files: VmFiles::new(Path::new("/var/lib/lazuli/host"), spec.id),
            provisioning_disc: spec.provisioning.is_some(),
            fabric: Fabric::new(
                Arc::clone(&spec),
                Arc::new(Nobody),
                Arc::new(ServerTokens::new("/nonexistent".into())),
                Arc::new(Nobody),
            ),
            spec,
        };
        let firmware = Firmware { code: "/usr/share/code.fd".into(), variables: "/usr/share/vars.fd".into() };
        let mut text = String::new();
        for argument in arguments(&launch, accelerator, &firmware) {
            let option = argument.starts_with('-');
            text += if text.is_empty() {
                ""
            } else if option {
                "\n"
            } else {
                " "
            };
            text += &argument;
        }
        text
    }

    #[test]
    fn a_generalized_gen1_machine() {
        insta::assert_snapshot!(shown(example(), Accelerator::Tcg));
    }

    #[test]
    fn a_specialized_gen2_machine_with_data_disks() {
        let mut spec = example();
        spec.name = "a,b\"c".into();
        spec.generation = Generation::V2;
        spec.provisioning = None;
        let blank = DiskSpec { lun: Some(5), base: None, overlay: "/d/lun,5.qcow2".into(), ..spec.os_disk.clone() };
        let image = DiskSpec { lun: Some(0), read_only: true, overlay: "/d/lun0.qcow2".into(), ..spec.os_disk.clone() };
        spec.data_disks = vec![image, blank];
        insta::assert_snapshot!(shown(spec, Accelerator::Kvm));
    }

    #[test]
    fn a_machine_with_secure_boot_and_a_tpm() {
        let mut spec = example();
        spec.generation = Generation::V2;
        spec.provisioning = None;
        let state = "/var/lib/lazuli/disks/os.state".into();
        spec.trusted_launch = Some(TrustedLaunch { secure_boot: true, vtpm: true, state, keys: None });
        insta::assert_snapshot!(shown(spec, Accelerator::Tcg));
    }
}
