//! Images that qemu-img wrote, read by us: every format, every byte, and no hole read.

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use common::{bytes, data_bytes, disks, noise, qemu_img, raw_disk, read_by_extents};
use lazuli_disks::{Format, ImageError, format};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// How qemu-img is asked for it, and what we call it.
struct Kind {
    name: &'static str,
    format: Format,
    args: &'static [&'static str],
}

const fn kind(name: &'static str, format: Format, args: &'static [&'static str]) -> Kind {
    Kind { name, format, args }
}

const KINDS: [Kind; 15] = [
    kind("raw", Format::Raw, &["-O", "raw"]),
    kind("vhd fixed", Format::Vhd, &["-O", "vpc", "-o", "subformat=fixed,force_size=on"]),
    kind("vhd fixed, size by cylinders", Format::Vhd, &["-O", "vpc", "-o", "subformat=fixed"]),
    kind("vhd dynamic", Format::VhdDynamic, &["-O", "vpc", "-o", "subformat=dynamic,force_size=on"]),
    kind("vhd dynamic, size by cylinders", Format::VhdDynamic, &["-O", "vpc", "-o", "subformat=dynamic"]),
    kind("vhdx", Format::Vhdx, &["-O", "vhdx"]),
    kind("vhdx, small blocks", Format::Vhdx, &["-O", "vhdx", "-o", "block_size=1M"]),
    kind("vhdx fixed", Format::Vhdx, &["-O", "vhdx", "-o", "subformat=fixed,block_size=1M"]),
    kind("qcow2 v2", Format::Qcow2, &["-O", "qcow2", "-o", "compat=0.10"]),
    kind("qcow2 v3", Format::Qcow2, &["-O", "qcow2"]),
    kind("qcow2 zlib", Format::Qcow2, &["-c", "-O", "qcow2"]),
    kind("qcow2 zlib, small clusters", Format::Qcow2, &["-c", "-O", "qcow2", "-o", "cluster_size=512"]),
    kind(
        "qcow2 zstd, large clusters",
        Format::Qcow2,
        &["-c", "-O", "qcow2", "-o", "compression_type=zstd,cluster_size=2M"],
    ),
    kind("vmdk monolithicSparse", Format::Vmdk, &["-O", "vmdk", "-o", "subformat=monolithicSparse"]),
    kind("vmdk streamOptimized", Format::Vmdk, &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
];

fn convert(kind: &Kind, from: &Path, to: &Path) {
    let mut args = vec!["convert", "-f", "raw"];
    args.extend(kind.args);
    args.extend([from.to_str().unwrap(), to.to_str().unwrap()]);
    qemu_img(&args);
}

fn check(kind: &Kind, dir: &Path, raw: &Path) {
    let image = dir.join("image");
    convert(kind, raw, &image);
    let opened = format::open(&image).unwrap();
    assert_eq!(opened.format, kind.format, "{}", kind.name);
    let (found, want) = (read_by_extents(&*opened.disk), fs::read(raw).unwrap());
    // Some round the size up.
    assert!(found.len() >= want.len(), "{}: {} of {} bytes", kind.name, found.len(), want.len());
    assert!(found[..want.len()] == want && found[want.len()..].iter().all(|b| *b == 0), "{}", kind.name);
    // Reads across holes and data.
    let mut whole = vec![7; found.len()];
    opened.disk.read_at(0, &mut whole).unwrap();
    assert!(whole == found, "{}", kind.name);
    assert!(opened.disk.read_at(opened.disk.size(), &mut [0]).is_err(), "{}", kind.name);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
    #[test]
    fn every_format_of_qemu_img_reads_as_the_disk((size, parts) in disks()) {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("disk.raw");
        raw_disk(&raw, size, &parts);
        for kind in &KINDS {
            check(kind, dir.path(), &raw);
        }
    }
}

#[test]
fn holes_are_never_data() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("disk.raw"), dir.path().join("image"));
    raw_disk(&raw, 300 << 30, &[(0, bytes(1, 4096)), (200 << 30, noise(1, 4096)), ((300 << 30) - 512, bytes(2, 512))]);
    for kind in KINDS
        .iter()
        .filter(|k| !k.name.contains("fixed") && !k.name.contains("512") && !k.name.contains("small clusters"))
    {
        // This size has no cylinders.
        if kind.name.ends_with("cylinders") {
            continue;
        }
        convert(kind, &raw, &image);
        let opened = format::open(&image).unwrap();
        assert!(data_bytes(&*opened.disk) <= 3 * (64 << 20), "{}: {}", kind.name, data_bytes(&*opened.disk));
        let mut buf = vec![0; 4096];
        opened.disk.read_at(200 << 30, &mut buf).unwrap();
        assert!(buf == noise(1, 4096), "{}", kind.name);
        fs::remove_file(&image).unwrap();
    }
}

/// What a file without our formats says it is.
fn why(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    format::open(file.path()).unwrap_err().to_string()
}

#[test]
fn what_is_not_taken_is_told_with_what_to_do() {
    let begins = |magic: &[u8]| {
        let mut bytes = magic.to_vec();
        bytes.resize(2048, 0);
        why(&bytes)
    };
    let mut vdi = vec![0; 0x40];
    vdi.extend(b"\x7f\x10\xda\xbe");
    let mut tar = vec![0; 257];
    tar.extend(b"ustar");
    let said = [
        ("empty", why(&[])),
        ("no sectors", why(&[7; 1000])),
        ("gzip", begins(b"\x1f\x8b")),
        ("xz", begins(b"\xfd7zXZ\0")),
        ("zstd", begins(b"\x28\xb5\x2f\xfd")),
        ("zip", begins(b"PK\x03\x04")),
        ("tar", begins(&tar)),
        ("vdi", begins(&vdi)),
        ("vmdk descriptor", begins(b"# Disk DescriptorFile\n")),
        ("vhd without its end", begins(b"conectix")),
        ("luks", begins(b"LUKS\xba\xbe")),
        ("vhdx, cut", begins(b"vhdxfile")),
        ("vmdk, cut", begins(b"KDMV")),
        ("qcow2, cut", begins(b"QFI\xfb")),
    ];
    let text: Vec<String> = said.iter().map(|(what, said)| format!("{what}: {said}")).collect();
    insta::assert_snapshot!("refused", text.join("\n"));
    let dir = tempfile::tempdir().unwrap();
    assert!(format::open(dir.path()).unwrap_err().to_string().contains("neither a file nor a block device"));
    assert!(matches!(format::open(&dir.path().join("none")), Err(ImageError::Io(_))));
}

/// A stranger's image must not make us read the files that it names.
#[test]
fn what_needs_another_file_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    raw_disk(&path("secret"), 8 * MIB, &[(0, bytes(1, 4096))]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &text("secret"), &text("overlay.qcow2")]);
    let args = ["create", "-q", "-f", "qcow2", "-o"];
    qemu_img(
        &[&args[..], &[&format!("data_file={},data_file_raw=on", text("data")), &text("external.qcow2"), "8M"]]
            .concat(),
    );
    qemu_img(&["create", "-q", "-f", "vmdk", &text("base.vmdk"), "8M"]);
    qemu_img(&["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", &text("base.vmdk"), &text("snapshot.vmdk")]);
    qemu_img(&["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", &text("flat.vmdk"), "8M"]);
    qemu_img(&["create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", &text("split.vmdk"), "8M"]);
    qemu_img(&["create", "-q", "-f", "vpc", "-o", "subformat=dynamic,force_size=on", &text("child.vhd"), "8M"]);
    let file = OpenOptions::new().read(true).write(true).open(path("child.vhd")).unwrap();
    make_differencing(&file, "C:\\images\\base\u{7}.vhd");
    let why = |name: &str| {
        let said = format::open(&path(name)).unwrap_err().to_string();
        format!("{name}: {}", said.replace(dir.path().to_str().unwrap(), "/dir"))
    };
    let names =
        ["overlay.qcow2", "external.qcow2", "snapshot.vmdk", "flat.vmdk", "split.vmdk", "split-s001.vmdk", "child.vhd"];
    insta::assert_snapshot!("needs-others", names.map(why).join("\n"));
}

fn vhd_checksum(bytes: &[u8], at: usize) -> [u8; 4] {
    let sum: u32 =
        bytes.iter().enumerate().filter(|(i, _)| !(at..at + 4).contains(i)).map(|(_, b)| u32::from(*b)).sum();
    (!sum).to_be_bytes()
}

fn make_differencing(file: &fs::File, parent: &str) {
    let end = file.metadata().unwrap().len() - 512;
    for at in [0, end] {
        let mut footer = [0; 512];
        file.read_exact_at(&mut footer, at).unwrap();
        footer[63] = 4;
        let sum = vhd_checksum(&footer, 64);
        footer[64..68].copy_from_slice(&sum);
        file.write_all_at(&footer, at).unwrap();
    }
    let mut header = [0; 1024];
    file.read_exact_at(&mut header, 512).unwrap();
    let name: Vec<u8> = parent.encode_utf16().flat_map(u16::to_be_bytes).collect();
    header[64..64 + name.len()].copy_from_slice(&name);
    let sum = vhd_checksum(&header, 36);
    header[36..40].copy_from_slice(&sum);
    file.write_all_at(&header, 512).unwrap();
}

/// Sectors of a dynamic VHD that its bitmap says were never written are zeros, whatever lies in the file.
#[test]
fn the_bitmap_of_a_dynamic_vhd_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("disk.raw"), dir.path().join("image"));
    raw_disk(&raw, 4 * MIB, &[(0, bytes(1, 2 << 20))]);
    convert(&KINDS[3], &raw, &image);
    let file = OpenOptions::new().read(true).write(true).open(&image).unwrap();
    let mut entry = [0; 4];
    file.read_exact_at(&mut entry, 1536).unwrap();
    let bitmap = u64::from(u32::from_be_bytes(entry)) * 512;
    // Sectors 3 and 8..16 only.
    let mut bits = [0; 512];
    bits[..2].copy_from_slice(&[0b0001_0000, 0xff]);
    file.write_all_at(&bits, bitmap).unwrap();
    let disk = format::open(&image).unwrap().disk;
    assert_eq!(disk.next_data(0).unwrap(), Some(3 * 512..4 * 512));
    assert_eq!(disk.next_data(4 * 512).unwrap(), Some(8 * 512..16 * 512));
    assert_eq!(disk.next_data(5000).unwrap(), Some(5000..16 * 512));
    assert_eq!(disk.next_data(16 * 512).unwrap(), None);
    let mut want = bytes(1, 2 << 20);
    want[..3 * 512].fill(0);
    want[4 * 512..8 * 512].fill(0);
    want[16 * 512..].fill(0);
    let mut found = vec![1; 2 << 20];
    disk.read_at(0, &mut found).unwrap();
    assert!(found == want);
}

/// A VHDX with a log was not closed; what its log would change must not be missed.
#[test]
fn a_vhdx_that_was_not_closed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.vhdx");
    qemu_img(&["create", "-q", "-f", "vhdx", path.to_str().unwrap(), "8M"]);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    for at in [64 << 10, 128 << 10] {
        let mut header = vec![0; 4096];
        file.read_exact_at(&mut header, at).unwrap();
        header[48] = 1;
        header[4..8].fill(0);
        let crc = crc32c(&header);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&header, at).unwrap();
    }
    let said = format::open(&path).unwrap_err().to_string();
    assert!(said.contains("not closed cleanly") && said.contains("qemu-img check -r all"), "{said}");
}

fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, b| (0..8).fold(crc ^ u32::from(*b), bit))
}

/// The guest writes the first sectors of its own disk: they must not decide how its disk is read.
#[test]
fn a_fixed_vhd_is_one_whatever_its_first_bytes_say() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("disk.raw"), dir.path().join("image"));
    raw_disk(&raw, 2 * MIB, &[(0, b"QFI\xfb\0\0\0\x03".to_vec())]);
    convert(&KINDS[1], &raw, &image);
    let opened = format::open(&image).unwrap();
    assert_eq!((opened.format, opened.disk.size()), (Format::Vhd, 2 * MIB));
}

#[test]
fn cut_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("disk.raw"), dir.path().join("image"));
    raw_disk(&raw, 16 * MIB, &[(0, noise(1, 3 << 20)), (10 << 20, noise(2, 3 << 20))]);
    for kind in KINDS.iter().filter(|k| k.format != Format::Raw) {
        convert(kind, &raw, &image);
        let len = fs::metadata(&image).unwrap().len();
        OpenOptions::new().write(true).open(&image).unwrap().set_len((len / 2).next_multiple_of(512)).unwrap();
        let read = format::open(&image).map_err(std::io::Error::from).and_then(|image| {
            let mut at = 0;
            while let Some(range) = image.disk.next_data(at)? {
                let mut buf = vec![0; usize::try_from(range.end - range.start).unwrap()];
                image.disk.read_at(range.start, &mut buf)?;
                at = range.end;
            }
            Ok(image.format)
        });
        // A fixed VHD without its footer cannot be told from a raw disk.
        assert!(
            read.is_err() || (kind.format == Format::Vhd && matches!(read, Ok(Format::Raw))),
            "{}: {read:?}",
            kind.name
        );
    }
}
