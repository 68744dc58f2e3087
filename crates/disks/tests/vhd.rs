//! VHDs: our own against QEMU's, and hostile ones.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::qemu_img;
use lazuli_disks::DiskSource;
use lazuli_disks::vhd::{self, Footer, FooterAppended, Geometry, Kind, VhdError};
use proptest::prelude::*;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const ID: Uuid = Uuid::from_u128(0x1234_5678_9abc_def0_1122_3344_5566_7788);

/// A sparse fixed VHD with our footer and a few bytes of data.
fn write_vhd(path: &Path, size: u64) -> FooterAppended {
    let export = FooterAppended::new(size, ID, 1_700_000_000);
    let file = File::create(path).unwrap();
    file.write_all_at(b"first", 0).unwrap();
    file.write_all_at(b"last", size - 4).unwrap();
    file.write_all_at(export.split(size..size + 512).1, size).unwrap();
    export
}

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn last_512(path: &Path) -> [u8; 512] {
    let file = File::open(path).unwrap();
    let mut tail = [0; 512];
    file.read_exact_at(&mut tail, file.metadata().unwrap().len() - 512).unwrap();
    tail
}

#[test]
fn what_qemu_writes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for mib in [1, 3, 32, 2048, 130 * 1024] {
        let path = dir.path().join(format!("{mib}.vhd"));
        qemu_img(&["create", "-q", "-f", "vpc", "-o", "subformat=fixed,force_size=on", arg(&path), &format!("{mib}M")]);
        let disk = vhd::open_fixed(&path).unwrap();
        assert_eq!(disk.size(), mib * MIB);
        assert_eq!(disk.footer().kind(), Kind::Fixed);
        assert_eq!(&disk.footer().creator_application(), b"qem2");
        assert_eq!(disk.next_data(disk.size()).unwrap(), None, "the footer is not data of the disk");
        assert_eq!(disk.footer().to_bytes(), last_512(&path));
    }
}

#[test]
fn what_we_write_qemu_reads() {
    let dir = tempfile::tempdir().unwrap();
    // The last is beyond what a geometry can express.
    for mib in [1, 2, 48, 2049, 131 * 1024] {
        let path = dir.path().join(format!("{mib}.vhd"));
        let size = mib * MIB;
        let export = write_vhd(&path, size);
        assert_eq!(fs::metadata(&path).unwrap().len(), export.file_len());

        let info = qemu_img(&["info", "-f", "vpc", "--output=json", arg(&path)]);
        assert!(info.contains(&format!("\"virtual-size\": {size},")), "{info}");

        let raw = dir.path().join("disk.raw");
        let file = File::create(&raw).unwrap();
        file.write_all_at(b"first", 0).unwrap();
        file.write_all_at(b"last", size - 4).unwrap();
        qemu_img(&["compare", "-f", "vpc", "-F", "raw", arg(&path), arg(&raw)]);

        let disk = vhd::open_fixed(&path).unwrap();
        let mut last = [0; 4];
        disk.read_at(size - 4, &mut last).unwrap();
        assert_eq!((&last, disk.size(), disk.footer().unique_id()), (b"last", size, ID));
        assert_eq!(disk.footer().created(), 1_700_000_000);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn geometry_is_qemus() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhd");
    // Without force_size QEMU picks a size that its geometry expresses exactly.
    for mib in [1, 8, 30, 100, 504, 505, 1025, 8000, 33_000, 100_000] {
        qemu_img(&["create", "-q", "-f", "vpc", "-o", "subformat=fixed", arg(&path), &format!("{mib}M")]);
        let footer = Footer::parse(&last_512(&path)).unwrap();
        assert_eq!(Geometry::of(footer.disk_size()), footer.geometry(), "{} bytes", footer.disk_size());
    }
}

#[test]
fn dynamic_and_differencing_are_named_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dynamic.vhd");
    qemu_img(&["create", "-q", "-f", "vpc", "-o", "subformat=dynamic,force_size=on", arg(&path), "64M"]);
    let error = vhd::open_fixed(&path).unwrap_err();
    assert!(matches!(error, VhdError::NotFixed { kind: Kind::Dynamic }), "{error}");
    assert!(error.to_string().contains("qemu-img convert"), "{error}");

    // Also when an upload was rounded up to a MiB, so that only the copy in front is left.
    OpenOptions::new().write(true).open(&path).unwrap().set_len(2 * MIB + 512).unwrap();
    assert!(matches!(vhd::open_fixed(&path).unwrap_err(), VhdError::NotFixed { kind: Kind::Dynamic }));

    let path = dir.path().join("differencing.vhd");
    write_vhd(&path, MIB);
    let mut tail = last_512(&path);
    tail[63] = 4;
    rewrite_checksum(&mut tail);
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&tail, MIB).unwrap();
    assert!(matches!(vhd::open_fixed(&path).unwrap_err(), VhdError::NotFixed { kind: Kind::Differencing }));
}

/// The rule of the specification, written a second time.
fn rewrite_checksum(footer: &mut [u8; 512]) {
    footer[64..68].fill(0);
    let sum: u32 = footer.iter().map(|b| u32::from(*b)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
}

#[test]
fn each_fault_has_its_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhd");
    let open = |edit: &dyn Fn(&File)| -> VhdError {
        write_vhd(&path, 2 * MIB);
        edit(&OpenOptions::new().write(true).open(&path).unwrap());
        vhd::open_fixed(&path).unwrap_err()
    };

    let error = open(&|f| f.write_all_at(&[0; 8], 2 * MIB).unwrap());
    assert!(matches!(error, VhdError::BadCookie { found, format: None } if found == [0; 8]), "{error}");
    let error = open(&|f| {
        f.write_all_at(b"QFI\xfb", 0).unwrap();
        f.write_all_at(b"garbage!", 2 * MIB).unwrap();
    });
    assert!(matches!(error, VhdError::BadCookie { format: Some("a qcow2 image"), .. }), "{error}");
    let error = open(&|f| f.write_all_at(&[1], 2 * MIB + 500).unwrap());
    assert!(matches!(error, VhdError::BadChecksum { .. }), "{error}");
    let error = open(&|f| {
        f.set_len(MIB).unwrap();
        f.write_all_at(&Footer::fixed(2 * MIB, ID, 0).to_bytes(), MIB).unwrap();
    });
    assert!(matches!(error, VhdError::SizeMismatch { footer, file } if (footer, file) == (2 * MIB, MIB)), "{error}");
    let error = open(&|f| f.write_all_at(&Footer::fixed(2 * MIB + 512, ID, 0).to_bytes(), 2 * MIB + 512).unwrap());
    assert!(matches!(error, VhdError::SizeNotAligned { size } if size == 2 * MIB + 512), "{error}");
    let error = open(&|f| f.set_len(511).unwrap());
    assert!(matches!(error, VhdError::TooShort { len: 511 }), "{error}");
    let error = open(&|f| {
        f.set_len(0).unwrap();
        f.write_all_at(&Footer::fixed(0, ID, 0).to_bytes(), 0).unwrap();
    });
    assert!(matches!(error, VhdError::TooShort { len: 512 }), "{error}");
    let error = vhd::open_fixed(&PathBuf::from("/nonexistent/disk.vhd")).unwrap_err();
    assert!(matches!(&error, VhdError::Io(e) if e.kind() == std::io::ErrorKind::NotFound), "{error}");
}

#[test]
fn an_export_is_stable_and_splits_at_the_footer() {
    let export = FooterAppended::new(MIB, ID, 1_700_000_000);
    let footer = Footer::fixed(MIB, ID, 1_700_000_000).to_bytes();
    assert_eq!(export.file_len(), MIB + 512);
    assert_eq!(export.split(0..100), (0..100, &[][..]));
    assert_eq!(export.split(MIB - 8..MIB + 8), (MIB - 8..MIB, &footer[..8]));
    assert_eq!(export.split(MIB + 500..MIB + 9000), (MIB..MIB, &footer[500..]));
    assert_eq!(export.split(MIB + 512..u64::MAX), (MIB..MIB, &[][..]));
    // Times before 2000 and after 2136 do not wrap round.
    assert_eq!(Footer::fixed(MIB, ID, i64::MIN).created(), 946_684_800);
    assert_eq!(Footer::fixed(MIB, ID, i64::MAX).created(), 946_684_800 + i64::from(u32::MAX));
}

proptest! {
    #[test]
    fn footers_round_trip(size in any::<u64>(), id in any::<u128>(), created in any::<i64>()) {
        let footer = Footer::fixed(size, Uuid::from_u128(id), created);
        let bytes = footer.to_bytes();
        prop_assert_eq!(&Footer::parse(&bytes).unwrap(), &footer);
        prop_assert_eq!(footer.disk_size(), size);
        let mut again = bytes;
        rewrite_checksum(&mut again);
        prop_assert_eq!(again, bytes);
        let g = footer.geometry();
        let sectors = u64::from(g.cylinders) * u64::from(g.heads) * u64::from(g.sectors_per_track);
        prop_assert!(sectors <= size / 512);
    }

    #[test]
    fn strange_footers_do_no_harm(
        mut tail in prop::collection::vec(any::<u8>(), 512),
        head in prop::collection::vec(any::<u8>(), 0..600),
        len in any::<u64>(),
        cookie: bool,
        checksum: bool,
    ) {
        if cookie { tail[..8].copy_from_slice(&vhd::COOKIE); }
        let mut tail: [u8; 512] = tail.try_into().unwrap();
        if checksum { rewrite_checksum(&mut tail); }
        match vhd::judge(&head, &tail, len) {
            Ok(footer) => prop_assert_eq!(footer.disk_size() + 512, len),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        if cookie && checksum {
            prop_assert_eq!(Footer::parse(&tail).unwrap().to_bytes(), tail);
        }
    }

    #[test]
    fn one_flipped_bit_is_found(bit in 0_usize..4096) {
        let mut bytes = Footer::fixed(30 << 30, ID, 1_700_000_000).to_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Footer::parse(&bytes).is_err());
    }

    #[test]
    fn truncated_files_are_refused(len in 0_u64..2 * MIB + 512) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vhd");
        write_vhd(&path, 2 * MIB);
        OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
        prop_assert!(vhd::open_fixed(&path).is_err());
    }
}
