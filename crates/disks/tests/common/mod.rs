//! What the tests of disks share: oracles (programs that others wrote for the same formats), and disks with known bytes.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use lazuli_disks::DiskSource;
use proptest::prelude::*;

/// Runs `program` and returns what it printed.
///
/// # Panics
/// If the program is missing (saying how to get it) or fails.
pub fn oracle(program: &str, package: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .output()
        .unwrap_or_else(|e| panic!("cannot run {program} ({e}); get it with: apt-get install {package}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn qemu_img(args: &[&str]) -> String {
    oracle("qemu-img", "qemu-utils", args)
}

/// A sparse raw disk with these bytes at these places (cut at its end).
pub fn raw_disk(path: &Path, size: u64, parts: &[(u64, Vec<u8>)]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, bytes) in parts {
        let at = at % size;
        let len = usize::try_from(size - at).unwrap().min(bytes.len());
        file.write_all_at(&bytes[..len], at).unwrap();
    }
}

/// Bytes that compress, and differ from place to place.
pub fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i / 13 + i % 7 + usize::from(seed)) % 251).unwrap()).collect()
}

/// Bytes that do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Disks of odd sizes, with holes, and data anywhere: also at both ends.
pub fn disks() -> impl Strategy<Value = (u64, Vec<(u64, Vec<u8>)>)> {
    let part = (any::<u32>(), 1_usize..200_000, any::<u8>(), any::<bool>()).prop_map(|(at, len, seed, compresses)| {
        (u64::from(at), if compresses { bytes(seed, len) } else { noise(u64::from(seed), len) })
    });
    (1_u64..40_000, prop::collection::vec(part, 0..5), any::<bool>(), any::<bool>()).prop_map(
        |(sectors, mut parts, first, last)| {
            let size = sectors * 512;
            if first {
                parts.push((0, bytes(1, 512)));
            }
            if last {
                parts.push((size - 512, noise(2, 512)));
            }
            (size, parts)
        },
    )
}

/// Puts a disk together from `next_data` and `read_at`, as ingest does, in reads of odd sizes.
pub fn read_by_extents(disk: &dyn DiskSource) -> Vec<u8> {
    let mut whole = vec![0; usize::try_from(disk.size()).unwrap()];
    let mut at = 0;
    while let Some(range) = disk.next_data(at).unwrap() {
        assert!(range.start >= at && range.start < range.end && range.end <= disk.size(), "{range:?} after {at}");
        let mut from = range.start;
        while from < range.end {
            let to = (from + 100_001).min(range.end);
            let place = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
            disk.read_at(from, &mut whole[place]).unwrap();
            from = to;
        }
        at = range.end;
    }
    whole
}

/// Bytes that a disk says may be data.
pub fn data_bytes(disk: &dyn DiskSource) -> u64 {
    let (mut at, mut sum) = (0, 0);
    while let Some(range) = disk.next_data(at).unwrap() {
        sum += range.end - range.start;
        at = range.end;
    }
    sum
}

const MIB: usize = 1 << 20;
const ESP: usize = MIB;
const ROOT: usize = 2 * MIB;
const ROOT_LEN: usize = 6 * MIB;

/// A small installed system: 10 MiB with an EFI system partition and ext4.
pub struct System {
    /// What sfdisk is told.
    pub table: &'static str,
    /// What the EFI system partition holds, by folders and name.
    pub loader: Option<&'static str>,
    pub boot_code: bool,
    pub ext4_options: &'static str,
    files: Vec<(String, Vec<u8>)>,
}

impl System {
    /// One in which nothing is missing: both boot loaders, a kernel with its modules, an initramfs, cloud-init.
    pub fn debian() -> Self {
        let modules = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_scsi", "hv_vmbus", "hv_storvsc", "hv_netvsc"];
        let list: String = modules.iter().map(|m| format!("kernel/{m}.ko.xz:\n")).collect();
        let mut system = Self {
            table: "label: gpt\nfirst-lba: 34\nstart=34, size=100, type=21686148-6449-6E6F-744E-656564454649\n\
                    start=2048, size=2048, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n\
                    start=4096, size=12288, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n",
            loader: Some("EFI/BOOT/BOOTX64.EFI"),
            boot_code: true,
            ext4_options: "^has_journal",
            files: Vec::new(),
        };
        system.with("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
        system.with("etc/fstab", "UUID=1 / ext4 defaults 0 1\n");
        system.with("boot/grub/grub.cfg", "linux /boot/vmlinuz-6.1.0 root=UUID=1 console=ttyS0\n");
        system.with("boot/vmlinuz-6.1.0", "kernel");
        system.with("lib/modules/6.1.0/modules.dep", &list);
        system.with("lib/modules/6.1.0/modules.builtin", "kernel/ext4.ko\n");
        system.with("usr/bin/cloud-init", "#!/bin/sh\n");
        system.initramfs(&["usr/lib/modules/6.1.0/virtio_blk.ko", "usr/lib/modules/6.1.0/virtio_pci.ko"]);
        system
    }

    /// Adds a file, or replaces it.
    pub fn with(&mut self, path: &str, text: &str) {
        self.put(path, text.as_bytes().to_vec());
    }

    pub fn without(&mut self, path: &str) {
        self.files.retain(|(name, _)| name != path);
    }

    fn put(&mut self, path: &str, bytes: Vec<u8>) {
        self.without(path);
        self.files.push((path.to_owned(), bytes));
    }

    /// An initramfs with these files, compressed with zstd.
    pub fn initramfs(&mut self, names: &[&str]) {
        let mut cpio = Vec::new();
        for name in names.iter().chain(&["TRAILER!!!"]) {
            let header = format!("070701{:048x}{:08x}{:032x}{:08x}{:08x}{name}\0", 0, 0, 0, name.len() + 1, 0);
            cpio.extend(header.into_bytes());
            cpio.resize(cpio.len().next_multiple_of(4), 0);
        }
        self.put("boot/initrd.img-6.1.0", zstd::bulk::compress(&cpio, 1).unwrap());
    }

    pub fn build(&self, dir: &Path) -> PathBuf {
        let text = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        for (name, bytes) in &self.files {
            let path = dir.join("root").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let (ext4, esp, disk) = (text("ext4"), text("esp"), text("disk"));
        File::create(&ext4).unwrap().set_len(ROOT_LEN as u64).unwrap();
        oracle("mke2fs", "e2fsprogs", &["-q", "-t", "ext4", "-O", self.ext4_options, "-d", &text("root"), &ext4]);
        File::create(&esp).unwrap().set_len(MIB as u64).unwrap();
        oracle("mkfs.vfat", "dosfstools", &[&esp]);
        if let Some(loader) = self.loader {
            std::fs::write(text("loader"), "loader").unwrap();
            let folders: Vec<&str> = loader.match_indices('/').map(|(at, _)| &loader[..at]).collect();
            for folder in folders {
                oracle("mmd", "mtools", &["-i", &esp, &format!("::/{folder}")]);
            }
            oracle("mcopy", "mtools", &["-i", &esp, &text("loader"), &format!("::/{loader}")]);
        }
        File::create(&disk).unwrap().set_len(10 * MIB as u64).unwrap();
        std::fs::write(text("script"), self.table).unwrap();
        oracle("sh", "dash", &["-c", &format!("sfdisk -q {disk} < {}", text("script"))]);
        let mut bytes = std::fs::read(&disk).unwrap();
        bytes[ESP..ESP + MIB].copy_from_slice(&std::fs::read(&esp).unwrap());
        bytes[ROOT..ROOT + ROOT_LEN].copy_from_slice(&std::fs::read(&ext4).unwrap());
        if self.boot_code {
            bytes[..4].copy_from_slice(b"\xeb\x63\x90\x10");
        }
        std::fs::write(&disk, bytes).unwrap();
        PathBuf::from(disk)
    }
}
