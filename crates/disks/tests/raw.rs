//! Raw files as disks: what is read, and which holes are seen.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use lazuli_disks::{DiskSource, RawFile};
use proptest::prelude::*;

/// Puts a disk together from `next_data` and `read_at`, as ingest does.
fn read_by_extents(disk: &dyn DiskSource) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
    let mut at = 0;
    while let Some(range) = disk.next_data(at).unwrap() {
        assert!(range.start >= at && range.start < range.end && range.end <= disk.size(), "{range:?} after {at}");
        let place = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        disk.read_at(range.start, &mut bytes[place]).unwrap();
        at = range.end;
    }
    bytes
}

#[test]
fn holes_of_a_sparse_file_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let file = File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&[7; 4096], 16 << 20).unwrap();
    file.sync_all().unwrap();

    let disk = RawFile::open(&path).unwrap();
    assert_eq!(disk.size(), 64 << 20);
    let data = disk.next_data(0).unwrap().unwrap();
    assert!(data.contains(&(16 << 20)), "{data:?}");
    assert!(data.end - data.start < 4 << 20, "a file system without SEEK_DATA? {data:?}");
    assert_eq!(disk.next_data(data.end).unwrap(), None);
    assert_eq!(disk.next_data(64 << 20).unwrap(), None);
    assert_eq!(disk.next_data(u64::MAX).unwrap(), None);

    let mut buf = [1; 8192];
    disk.read_at((16 << 20) - 4096, &mut buf).unwrap();
    assert!(buf[..4096].iter().all(|b| *b == 0) && buf[4096..].iter().all(|b| *b == 7));
}

#[test]
fn a_broken_last_sector_is_filled_with_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    std::fs::write(&path, [9; 700]).unwrap();
    let disk = RawFile::open(&path).unwrap();
    assert_eq!(disk.size(), 1024);
    let mut buf = [1; 1024];
    disk.read_at(0, &mut buf).unwrap();
    assert_eq!(buf[..700], [9; 700]);
    assert_eq!(buf[700..], [0; 324]);
}

#[test]
fn reads_outside_and_wrong_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    std::fs::write(&path, [9; 1024]).unwrap();
    let disk = RawFile::open(&path).unwrap();
    for (offset, len) in [(1024, 1), (1000, 25), (u64::MAX, 1), (u64::MAX - 3, 512)] {
        let error = disk.read_at(offset, &mut vec![0; len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{offset}+{len}");
    }
    disk.read_at(1024, &mut []).unwrap();

    assert_eq!(RawFile::open(dir.path()).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(RawFile::open(&dir.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    for len in [511, 1536] {
        let error = RawFile::with_len(File::open(&path).unwrap(), len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn extents_give_back_the_file(
        sectors in 1_usize..4096,
        writes in prop::collection::vec((0_usize..2 << 20, 1_usize..9000, 1_u8..), 0..8),
        keep in 0_usize..=4096,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        let mut want = vec![0; sectors * 512];
        let file = File::create(&path).unwrap();
        file.set_len(want.len() as u64).unwrap();
        for (at, len, value) in writes {
            let at = at % want.len();
            let end = (at + len).min(want.len());
            want[at..end].fill(value);
            file.write_all_at(&want[at..end], at as u64).unwrap();
        }
        prop_assert!(read_by_extents(&RawFile::open(&path).unwrap()) == want);

        let keep = keep.min(sectors) * 512;
        let front = RawFile::with_len(File::open(&path).unwrap(), keep as u64).unwrap();
        prop_assert!(read_by_extents(&front) == want[..keep]);
    }
}
