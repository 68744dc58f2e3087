//! Disks as files of other formats, held against qemu-img; and that any range of them can be had alone.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{bytes, data_bytes, disks, noise, qemu_img, raw_disk, read_by_extents};
use lazuli_disks::export::{ExportError, Identity, ImageFile, Target, copy, packed};
use lazuli_disks::{DiskSource, Format, RawFile, format};
use proptest::prelude::*;
use uuid::Uuid;

const IDENTITY: Identity =
    Identity { id: Uuid::from_u128(0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00), created: 1_700_000_000 };

/// What is asked for, what it is then, and qemu-img's name for it.
const TARGETS: [(Target, Format, &str); 5] = [
    (Target::Raw, Format::Raw, "raw"),
    (Target::Vhd, Format::Vhd, "vpc"),
    (Target::VhdDynamic, Format::VhdDynamic, "vpc"),
    (Target::Vhdx, Format::Vhdx, "vhdx"),
    (Target::Qcow2, Format::Qcow2, "qcow2"),
];

fn open(path: &Path) -> Arc<dyn DiskSource> {
    Arc::new(RawFile::open(path).unwrap())
}

fn image(path: &Path, target: Target) -> ImageFile {
    ImageFile::new(open(path), target, IDENTITY).unwrap()
}

fn written(source: &dyn DiskSource, path: &Path) {
    let _ = fs::remove_file(path);
    let far = AtomicU64::new(0);
    let progress = |at| {
        far.fetch_max(at, Ordering::Relaxed);
    };
    copy::to_file(source, &File::create(path).unwrap(), 3, &progress).unwrap();
    assert_eq!(far.into_inner(), source.size(), "progress ends at the end");
}

fn holds(raw: &Path, image: &Path, format: Format, qemu: &str) {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    qemu_img(&["compare", "-f", "raw", "-F", qemu, &text(raw), &text(image)]);
    if matches!(format, Format::Qcow2 | Format::Vhdx) {
        qemu_img(&["check", "-q", "-f", qemu, &text(image)]);
    }
    let (opened, want) = (format::open(image).unwrap(), fs::read(raw).unwrap());
    assert_eq!(opened.format, format);
    let found = read_by_extents(&*opened.disk);
    assert!(found[..want.len()] == want && found[want.len()..].iter().all(|b| *b == 0), "{format}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
    #[test]
    fn every_format_out_is_the_disk_for_qemu_and_for_us((size, parts) in disks(), from in 0.0..1.0, len in 0_usize..300_000) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("out"));
        raw_disk(&raw, size, &parts);
        for (target, format, qemu) in TARGETS {
            let made = image(&raw, target);
            written(&made, &out);
            holds(&raw, &out, format, qemu);
            // Any range alone is that of the whole.
            let whole = fs::read(&out).unwrap();
            prop_assert_eq!(whole.len() as u64, made.size());
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "any place will do")]
            let from = (whole.len() as f64 * from) as usize;
            let to = (from + len).min(whole.len());
            let mut part = vec![9; to - from];
            made.read_at(from as u64, &mut part).unwrap();
            prop_assert!(part == whole[from..to], "{target:?} {from}..{to}");
        }
        for packing in [packed::Packing::Zlib, packed::Packing::Zstd] {
            let _ = fs::remove_file(&out);
            packed::write(&open(&raw), &File::create(&out).unwrap(), packing, 2, &|_| {}).unwrap();
            holds(&raw, &out, Format::Qcow2, "qcow2");
        }
    }
}

#[test]
fn a_large_sparse_disk_costs_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("out"));
    let parts = [(0, bytes(1, 100_000)), (700 << 30, noise(3, 5 << 20)), ((1 << 40) - 512, noise(4, 512))];
    raw_disk(&raw, 1 << 40, &parts);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    for (target, _, qemu) in TARGETS {
        written(&image(&raw, target), &out);
        let used = fs::metadata(&out).unwrap().blocks() * 512;
        assert!(used < 40 << 20, "{target:?}: {used}");
        // QEMU does not know the holes of a VHDX, and would read a tebibyte of zeros.
        if target != Target::Vhdx {
            qemu_img(&["compare", "-f", "raw", "-F", qemu, &text(&raw), &text(&out)]);
        }
        let disk = format::open(&out).unwrap().disk;
        assert!(data_bytes(&*disk) < 40 << 20, "{target:?}");
        for (at, bytes) in &parts {
            let mut found = vec![0; bytes.len()];
            disk.read_at(*at, &mut found).unwrap();
            assert!(found == *bytes, "{target:?} at {at}");
        }
    }
    fs::remove_file(&out).unwrap();
    packed::write(&open(&raw), &File::create(&out).unwrap(), packed::Packing::Zstd, 2, &|_| {}).unwrap();
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", &text(&raw), &text(&out)]);
    qemu_img(&["check", "-q", "-f", "qcow2", &text(&out)]);
}

#[test]
fn a_dynamic_vhd_has_a_largest_size() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    raw_disk(&raw, 2041 << 30, &[]);
    let error = ImageFile::new(open(&raw), Target::VhdDynamic, IDENTITY).unwrap_err();
    assert!(matches!(error, ExportError::TooLarge { .. }));
    insta::assert_snapshot!(error.to_string(), @"a disk of 2191507062784 bytes does not fit a dynamic VHD, which holds at most 2190433320960");
}

#[test]
fn the_same_disk_always_gives_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    raw_disk(&raw, 9 << 20, &[(1 << 20, bytes(1, 70_000))]);
    for (target, ..) in TARGETS {
        let read = || {
            let made = image(&raw, target);
            let mut whole = vec![0; usize::try_from(made.size()).unwrap()];
            made.read_at(0, &mut whole).unwrap();
            whole
        };
        assert!(read() == read(), "{target:?}");
    }
}

/// A reader that fails is an error of the copy, not a file that ends early.
#[test]
fn a_disk_that_cannot_be_read_ends_the_copy() {
    struct Bad;
    impl DiskSource for Bad {
        fn size(&self) -> u64 {
            64 << 20
        }
        fn next_data(&self, from: u64) -> std::io::Result<Option<std::ops::Range<u64>>> {
            Ok((from < self.size()).then_some(from..self.size()))
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
            buf.fill(1);
            if offset >= 20 << 20 { Err(std::io::Error::other("bad sector")) } else { Ok(()) }
        }
    }
    let error = copy::to_file(&Bad, &tempfile::tempfile().unwrap(), 3, &|_| {}).unwrap_err();
    assert_eq!(error.to_string(), "bad sector");
    let disk: Arc<dyn DiskSource> = Arc::new(Bad);
    let file = tempfile::tempfile().unwrap();
    assert!(packed::write(&disk, &file, packed::Packing::Zstd, 2, &|_| {}).is_err());
    assert!(format::from_file(file).is_err(), "a half-written file is no qcow2");
}
