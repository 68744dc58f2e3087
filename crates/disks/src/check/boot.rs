//! The boot loader against the declared generation: what a BIOS starts from the first sector, what UEFI finds without any variable.

use std::io;

use super::fat::Fat;
use super::report::{Findings, Report};
use super::{Filesystem, Generation, Partition, Scheme, Table, Use, Wanted};
use crate::DiskSource;
use crate::table::printable;

/// What UEFI starts from a disk that it has never seen (UEFI 2.10, 3.5.1.1).
const LOADERS: [&str; 2] = ["BOOTX64.EFI", "BOOTAA64.EFI"];

pub(super) fn check(
    disk: &dyn DiskSource,
    table: Option<&Table>,
    wanted: &Wanted,
    report: &mut Report,
    found: &mut Findings,
) -> io::Result<()> {
    let esp = report.partitions.iter().find(|(p, _)| p.kind == Use::EfiSystem).cloned();
    let uefi = match &esp {
        Some((partition, filesystem)) => loader(disk, partition, *filesystem)?,
        None => Loader::NoPartition,
    };
    report.uefi = matches!(uefi, Loader::Found);
    report.bios = table.is_some_and(|table| boots_with_bios(table, report));
    match wanted.generation {
        Some(Generation::V2) if !report.uefi => no_uefi(&uefi, report.bios, found),
        Some(Generation::V1) if !report.bios => no_bios(table, report, found),
        None if !report.bios && !report.uefi => {
            found.error(
                "boot-loader",
                "neither a BIOS nor UEFI finds a boot loader on it",
                "take the disk that the system starts from, or install a boot loader (`grub-install`)",
            );
        }
        _ => {}
    }
    Ok(())
}

/// A BIOS starts the first sector; GRUB on a GPT goes on from a partition of its own, others from an active one.
fn boots_with_bios(table: &Table, report: &Report) -> bool {
    let has = |test: &dyn Fn(&Partition) -> bool| report.partitions.iter().any(|(p, _)| test(p));
    table.boot_code
        && match table.scheme {
            // The gap before the first partition holds the rest of the loader, or the active partition's first sector does.
            Scheme::Mbr => !table.partitions.is_empty(),
            Scheme::Gpt => has(&|p| p.kind == Use::BiosBoot) || has(&|p| p.active),
        }
}

enum Loader {
    NoPartition,
    NotFat,
    /// Other folders of `\EFI`, in which systems keep their own.
    Missing(Vec<String>),
    Found,
}

fn loader(disk: &dyn DiskSource, partition: &Partition, filesystem: Option<Filesystem>) -> io::Result<Loader> {
    if filesystem != Some(Filesystem::Fat) {
        return Ok(Loader::NotFat);
    }
    let Some(fat) = Fat::open(disk, partition)? else { return Ok(Loader::NotFat) };
    let boot = fat.list(&["EFI", "BOOT"])?.unwrap_or_default();
    let is_loader = |name: &str| LOADERS.contains(&name);
    if boot.iter().any(|e| !e.is_directory && e.len > 0 && is_loader(&e.name)) {
        return Ok(Loader::Found);
    }
    let folders = fat.list(&["EFI"])?.unwrap_or_default().into_iter();
    Ok(Loader::Missing(
        folders.filter(|e| e.is_directory && e.name != "BOOT").take(8).map(|e| printable(&e.name)).collect(),
    ))
}

fn no_uefi(loader: &Loader, bios: bool, found: &mut Findings) {
    let or_v1 = if bios { "; or use it as generation V1, for which it has a boot loader" } else { "" };
    let (message, advice) = match loader {
        Loader::NoPartition => (
            "generation V2 boots with UEFI, but there is no EFI system partition".to_owned(),
            format!(
                "convert the system to UEFI (GPT, an EFI system partition, `grub-install --target=x86_64-efi --removable`){or_v1}"
            ),
        ),
        Loader::NotFat => (
            "generation V2 boots with UEFI, but the EFI system partition holds no sound FAT file system".to_owned(),
            format!("make it anew with `mkfs.vfat` and install the boot loader again{or_v1}"),
        ),
        Loader::Missing(folders) => {
            let kept = if folders.is_empty() {
                String::new()
            } else {
                format!(" (there is \\EFI\\{})", folders.join(", \\EFI\\"))
            };
            (
                format!(
                    "there is no \\EFI\\BOOT\\BOOTX64.EFI{kept}; a new machine has no boot entries that name another loader"
                ),
                format!(
                    "install it for removable media too: `grub-install --target=x86_64-efi --removable` or `--force-extra-removable`{or_v1}"
                ),
            )
        }
        Loader::Found => return,
    };
    found.error("boot-generation", message, advice);
}

fn no_bios(table: Option<&Table>, report: &Report, found: &mut Findings) {
    let or_v2 = if report.uefi { "; or use it as generation V2, for which it has a boot loader" } else { "" };
    let message = match table {
        None => "generation V1 boots with BIOS, but there is no partition table",
        Some(table) if !table.boot_code => "generation V1 boots with BIOS, but the first sector holds no boot code",
        Some(table) if table.scheme == Scheme::Gpt => {
            "generation V1 boots with BIOS, but the GPT has no BIOS boot partition"
        }
        Some(_) => "generation V1 boots with BIOS, but there is no partition to boot from",
    };
    found.error(
        "boot-generation",
        message,
        format!("install a loader for BIOS: `grub-install --target=i386-pc`{or_v2}"),
    );
}
