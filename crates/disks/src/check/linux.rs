//! The kernel and how it is started: has it the drivers for the devices that it will find, here (virtio) and on Azure (Hyper-V)?

use std::collections::BTreeSet;

use super::initramfs;
use super::report::Findings;
use super::root::Root;
use crate::table::printable;

/// A driver, and what it is for.
type Driver = (&'static str, &'static str);

/// Without these, a machine has no disk to boot from, or no network to be provisioned over.
const VIRTIO: [Driver; 3] =
    [("virtio_pci", "the virtio bus"), ("virtio_blk", "the OS disk"), ("virtio_net", "the network")];
const VIRTIO_DATA: Driver = ("virtio_scsi", "data disks and the provisioning disc");
const HYPER_V: [Driver; 3] = [("hv_vmbus", "the bus"), ("hv_storvsc", "disks"), ("hv_netvsc", "the network")];
/// What must be there before the root file system is.
const EARLY: [&str; 2] = ["virtio_pci", "virtio_blk"];
/// Kernels that are looked at.
const MOST_KERNELS: usize = 4;

/// The versions of the installed kernels.
pub(super) fn check(root: &Root, found: &mut Findings) -> Vec<String> {
    let boot = root.boot_names("");
    // Some keep it, or a link to it, in the root folder.
    let top = root.names("/");
    let images: Vec<&String> = boot.iter().chain(&top).filter(|n| n.starts_with("vmlinuz")).collect();
    let versions: Vec<String> = root
        .names("/lib/modules")
        .into_iter()
        .filter(|v| root.exists(&format!("/lib/modules/{v}/modules.dep")))
        .collect();
    if images.is_empty() && !versions.iter().any(|v| root.exists(&format!("/lib/modules/{v}/vmlinuz"))) {
        found.error(
            "kernel",
            "there is no kernel in /boot",
            "install one (Debian: linux-image-cloud-amd64 or linux-image-amd64)",
        );
        return Vec::new();
    }
    for version in versions.iter().take(MOST_KERNELS) {
        drivers(root, version, &boot, found);
    }
    if versions.is_empty() {
        let config = root.boot_names("").into_iter().find(|n| n.starts_with("config-"));
        match config.and_then(|name| root.boot_text(&format!("/{name}"))) {
            Some(config) => from_config(&config, found),
            None => found.info(
                "drivers",
                "the kernel has no modules in /lib/modules and no configuration in /boot: which drivers it has cannot be told",
                "",
            ),
        }
    }
    settings(root, found);
    if versions.is_empty() {
        images.into_iter().map(|n| printable(n)).collect()
    } else {
        versions.iter().map(|v| printable(v)).collect()
    }
}

fn drivers(root: &Root, version: &str, boot: &[String], found: &mut Findings) {
    let list = |name: &str| names(&root.text(&format!("/lib/modules/{version}/{name}")).unwrap_or_default());
    let (builtin, modules) = (list("modules.builtin"), list("modules.dep"));
    let has = |name: &str| builtin.contains(name) || modules.contains(name);
    missing(has, &format!("kernel {}", printable(version)), found);
    let early: Vec<&str> = EARLY.into_iter().filter(|d| modules.contains(*d) && !builtin.contains(*d)).collect();
    if early.is_empty() {
        return;
    }
    let image = [format!("initrd.img-{version}"), format!("initramfs-{version}.img"), format!("initrd-{version}")];
    let Some(image) = image.into_iter().find(|name| boot.contains(name)) else {
        let message =
            format!("kernel {} has no initramfs in /boot, but needs modules to reach its disk", printable(version));
        found.error("initramfs", message, "make one (`update-initramfs -c -k all`, `dracut --regenerate-all`)");
        return;
    };
    let Some(file) = root.boot_open(&format!("/{image}")) else { return };
    match initramfs::modules(file) {
        Ok(inside) => {
            let lacks: Vec<&str> = early.into_iter().filter(|d| !inside.contains(*d)).collect();
            if !lacks.is_empty() {
                found.error(
                    "initramfs",
                    format!("the initramfs of kernel {} lacks {}, so that it will not find its disk", printable(version), lacks.join(", ")),
                    "build it for any machine (dracut: `hostonly=no` or `add_drivers+=\" virtio_blk virtio_pci \"`; initramfs-tools: MODULES=most)",
                );
            }
        }
        Err(why) => {
            found.info("not-looked-into", format!("/boot/{} was not looked into: {why}", printable(&image)), "")
        }
    }
}

fn missing(has: impl Fn(&str) -> bool, kernel: &str, found: &mut Findings) {
    let lacking = |drivers: &[Driver]| -> Vec<String> {
        drivers.iter().filter(|(name, _)| !has(name)).map(|(name, what)| format!("{name} ({what})")).collect()
    };
    let install = "install a kernel that has them (Debian: linux-image-cloud-amd64 or linux-image-amd64)";
    let needed = lacking(&VIRTIO);
    if !needed.is_empty() {
        found.error("drivers-virtio", format!("{kernel} lacks {}", needed.join(", ")), install);
    }
    let data = lacking(&[VIRTIO_DATA]);
    if !data.is_empty() {
        found.warning("drivers-virtio", format!("{kernel} lacks {}", data.join(", ")), install);
    }
    let azure = lacking(&HYPER_V);
    if !azure.is_empty() {
        found.warning(
            "drivers-hyper-v",
            format!("{kernel} lacks {} of Hyper-V: it runs here, but not on Azure", azure.join(", ")),
            install,
        );
    }
}

/// Without a list of modules: what the kernel's configuration says.
fn from_config(config: &str, found: &mut Findings) {
    let option = |name: &str| match name {
        "virtio_pci" => "CONFIG_VIRTIO_PCI",
        "virtio_blk" => "CONFIG_VIRTIO_BLK",
        "virtio_net" => "CONFIG_VIRTIO_NET",
        "virtio_scsi" => "CONFIG_SCSI_VIRTIO",
        "hv_vmbus" => "CONFIG_HYPERV",
        "hv_storvsc" => "CONFIG_HYPERV_STORAGE",
        _ => "CONFIG_HYPERV_NET",
    };
    // There are no modules, so that only what is built in counts.
    missing(|name| config.lines().any(|line| line.strip_prefix(option(name)) == Some("=y")), "the kernel", found);
}

/// The names of modules in a list of their paths, with `_` for `-` as the kernel has it.
pub(super) fn names(list: &str) -> BTreeSet<String> {
    let path = |line: &str| line.split(':').next().unwrap_or_default().trim().to_owned();
    list.lines().filter_map(|line| module_name(&path(line))).collect()
}

/// `kernel/drivers/block/virtio_blk.ko.xz` is `virtio_blk`.
pub(super) fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, rest) = file.split_once(".ko")?;
    (rest.is_empty() || rest.starts_with('.')).then(|| name.replace('-', "_"))
}

/// The boot loader's settings and the mounts.
fn settings(root: &Root, found: &mut Findings) {
    let mut text: Vec<String> = ["/grub/grub.cfg", "/grub2/grub.cfg", "/extlinux/extlinux.conf"]
        .iter()
        .filter_map(|p| root.boot_text(p))
        .collect();
    let entries = root.boot_names("/loader/entries");
    text.extend(
        entries.iter().take(MOST_KERNELS).filter_map(|name| root.boot_text(&format!("/loader/entries/{name}"))),
    );
    if !text.is_empty() && !text.iter().any(|t| t.contains("console=ttyS0") || t.contains("console=ttyAMA0")) {
        found.warning(
            "serial-console",
            "the kernel's command line has no console=ttyS0: boot diagnostics and the serial console stay empty",
            "add `console=tty1 console=ttyS0` to GRUB_CMDLINE_LINUX in /etc/default/grub and run `update-grub`",
        );
    }
    let fstab = root.text("/etc/fstab").unwrap_or_default();
    let lines = fstab.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let by_name: Vec<String> = lines
        .filter_map(|line| line.split_whitespace().next())
        .filter(|device| {
            ["/dev/sd", "/dev/hd", "/dev/xvd", "/dev/nvme", "/dev/vd"].iter().any(|d| device.starts_with(d))
        })
        .map(printable)
        .collect();
    if !by_name.is_empty() {
        found.warning(
            "device-names",
            format!("/etc/fstab names {}, which may be another disk on another machine", by_name.join(", ")),
            "use UUID=... (`blkid` shows it)",
        );
    }
}
