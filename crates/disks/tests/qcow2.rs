//! The qcow2 reader against files that QEMU's own tools write, and against files that nobody should write.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use lazuli_disks::{ChangeKind, Qcow2, Qcow2Error};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn tool(program: &str, dir: &Path, args: &[&str]) -> bool {
    let output = Command::new(program).current_dir(dir).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("cannot run {program} ({e}): install the package qemu-utils"));
    if !output.status.success() {
        eprintln!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

fn qemu_img(dir: &Path, args: &[&str]) {
    assert!(tool("qemu-img", dir, args), "qemu-img {args:?} failed");
}

fn qemu_io(dir: &Path, file: &str, commands: &[String]) {
    let mut args = vec!["-f", "qcow2"];
    for command in commands {
        args.extend(["-c", command.as_str()]);
    }
    args.push(file);
    assert!(tool("qemu-io", dir, &args), "qemu-io {commands:?} failed");
}

/// `base` (zeros beyond its end) with what the file changes.
fn merged(disk: &Qcow2, base: &[u8]) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(disk.size()).unwrap()];
    let len = base.len().min(out.len());
    out[..len].copy_from_slice(&base[..len]);
    let mut at = 0;
    while let Some((range, kind)) = disk.next_allocated(at).unwrap() {
        assert!(range.start >= at && !range.is_empty() && range.end <= disk.size(), "{range:?} after {at}");
        let part = &mut out[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        match kind {
            ChangeKind::Zero => part.fill(0),
            ChangeKind::Data => disk.read_at(range.start, part).unwrap(),
        }
        at = range.end;
    }
    out
}

/// What QEMU reads.
fn converted(dir: &Path, file: &str) -> Vec<u8> {
    qemu_img(dir, &["convert", "-O", "raw", file, "out.raw"]);
    fs::read(dir.join("out.raw")).unwrap()
}

#[test]
fn a_disk_without_a_base_reads_as_qemu_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    // The size is no multiple of the cluster; the last cluster is short in the file.
    qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "d.qcow2", "9963008"]);
    let disk = Qcow2::open(&dir.path().join("d.qcow2")).unwrap();
    assert_eq!((disk.size(), disk.names_base()), (9_963_008, false));
    assert_eq!(disk.next_allocated(0).unwrap(), None);
    let writes = ["write -P 1 5000 100", "write -P 2 65536 1M", "write -z 256k 128k", "write -P 7 9962496 512"];
    qemu_io(dir.path(), "d.qcow2", &writes.map(str::to_owned));
    let disk = Qcow2::open(&dir.path().join("d.qcow2")).unwrap();
    assert_eq!(merged(&disk, &[]), converted(dir.path(), "d.qcow2"));
    let zeros = disk.next_allocated(256 << 10).unwrap();
    assert_eq!(zeros, Some((256 << 10..384 << 10, ChangeKind::Zero)));
    // From within a cluster, and beyond the end.
    assert_eq!(disk.next_allocated(6000).unwrap().unwrap().0.start, 6000);
    assert_eq!(disk.next_allocated(1 << 40).unwrap(), None);
    assert!(matches!(disk.read_at(9_962_496, &mut [0; 513]), Err(Qcow2Error::OutOfRange { .. })));
    assert!(matches!(disk.read_at(5 * MIB, &mut [0; 512]), Err(Qcow2Error::Unallocated(at)) if at == 5 * MIB));
}

#[test]
fn a_grown_overlay_and_version_2_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("base.raw"), vec![9; 2 << 20]).unwrap();
    for (name, compat) in [("v2.qcow2", "compat=0.10"), ("v3.qcow2", "compat=1.1")] {
        qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "-o", compat, "-F", "raw", "-b", "base.raw", name, "3M"]);
        qemu_io(dir.path(), name, &["write -P 3 1M 4k".into()]);
        qemu_img(dir.path(), &["resize", "-q", name, "700M"]);
        qemu_io(dir.path(), name, &["write -P 4 600M 4k".into()]);
        let disk = Qcow2::open(&dir.path().join(name)).unwrap();
        assert_eq!((disk.size(), disk.names_base()), (700 * MIB, true));
        assert!(merged(&disk, &vec![9; 2 << 20]) == converted(dir.path(), name), "{name}");
    }
}

#[test]
fn what_it_does_not_know_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let open = |name: &str| Qcow2::open(&path(name)).map(drop);
    qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "ext.qcow2", "8M"]);
    assert!(matches!(open("ext.qcow2"), Err(Qcow2Error::Unsupported(_))));
    qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "-o", "data_file=raw.img,data_file_raw=on", "x.qcow2", "8M"]);
    assert!(matches!(open("x.qcow2"), Err(Qcow2Error::Unsupported(_))));
    qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "plain.qcow2", "8M"]);
    qemu_io(dir.path(), "plain.qcow2", &["write -P 1 0 1M".into()]);

    let good = fs::read(path("plain.qcow2")).unwrap();
    let poked = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(path("bad.qcow2"), bad).unwrap();
        open("bad.qcow2").unwrap_err()
    };
    assert!(matches!(poked(0, b"X"), Qcow2Error::NotQcow2));
    assert!(matches!(poked(7, &[4]), Qcow2Error::Version(4)));
    assert!(matches!(poked(35, &[2]), Qcow2Error::Encrypted));
    assert!(matches!(poked(79, &[2]), Qcow2Error::MarkedCorrupt));
    assert!(matches!(poked(72, &[1]), Qcow2Error::Unsupported(_)));
    assert!(matches!(poked(23, &[8]), Qcow2Error::Header(_)));
    assert!(matches!(poked(31, &[1]), Qcow2Error::Header(_)), "no whole sectors");
    assert!(matches!(poked(24, &[1]), Qcow2Error::Header(_)), "a size of exabytes");
    assert!(matches!(poked(26, &[1]), Qcow2Error::Header(_)), "a size beyond its L1 table");
    assert!(matches!(poked(40, &[1]), Qcow2Error::Header(_)), "an L1 table beyond the file");
    fs::write(path("bad.qcow2"), &good[..80]).unwrap();
    assert!(matches!(open("bad.qcow2"), Err(Qcow2Error::Header(_))));
    fs::write(path("bad.qcow2"), b"").unwrap();
    assert!(matches!(open("bad.qcow2"), Err(Qcow2Error::NotQcow2)));
}

#[test]
fn a_cut_file_is_an_error_and_never_a_wrong_byte() {
    let dir = tempfile::tempdir().unwrap();
    qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "d.qcow2", "8M"]);
    qemu_io(dir.path(), "d.qcow2", &["write -P 1 0 2M".into()]);
    let good = fs::read(dir.path().join("d.qcow2")).unwrap();
    fs::write(dir.path().join("d.qcow2"), &good[..good.len() - (1 << 20)]).unwrap();
    let disk = Qcow2::open(&dir.path().join("d.qcow2")).unwrap();
    assert!(matches!(disk.read_at(0, &mut vec![0; 2 << 20]), Err(Qcow2Error::Table { table: "L2", .. })));
}

#[derive(Debug, Clone)]
enum Step {
    Write(u8, u64, u64),
    Zero(u64, u64),
    Discard(u64, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0u64..15_000, 1u64..2_000);
    let step = prop_oneof![
        3 => (any::<u8>(), range()).prop_map(|(p, (at, len))| Step::Write(p, at * 512, len * 512)),
        1 => range().prop_map(|(at, len)| Step::Zero(at * 512, len * 512)),
        1 => range().prop_map(|(at, len)| Step::Discard(at * 512, len * 512)),
    ];
    proptest::collection::vec(step, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn any_overlay_reads_as_qemu_reads_it(
        steps in steps(),
        cluster in prop_oneof![Just("512"), Just("4k"), Just("64k"), Just("2M")],
        base_sectors in 0usize..16_000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let base: Vec<u8> = (0..base_sectors * 512).map(|i| u8::try_from(i / 512 % 251).unwrap() + 1).collect();
        fs::write(dir.path().join("base.raw"), &base).unwrap();
        let options = format!("cluster_size={cluster}");
        qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "-o", &options, "-F", "raw", "-b", "base.raw", "o.qcow2", "9M"]);
        let commands: Vec<String> = steps.iter().map(|s| match s {
            Step::Write(p, at, len) => format!("write -P {p} {at} {len}"),
            Step::Zero(at, len) => format!("write -z {at} {len}"),
            Step::Discard(at, len) => format!("discard {at} {len}"),
        }).collect();
        qemu_io(dir.path(), "o.qcow2", &commands);
        let disk = Qcow2::open(&dir.path().join("o.qcow2")).unwrap();
        prop_assert!(merged(&disk, &base) == converted(dir.path(), "o.qcow2"));
    }
}

/// A small valid file, its header and tables at the front.
fn sample() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "d.qcow2", "64M"]);
    qemu_io(dir.path(), "d.qcow2", &["write -P 1 0 64k".into(), "write -P 2 40M 8k".into(), "write -z 1M 8k".into()]);
    fs::read(dir.path().join("d.qcow2")).unwrap()
}

#[test]
fn hostile_files_end_in_errors() {
    let sample = sample();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 400, ..ProptestConfig::default() });
    let spot = prop_oneof![2 => 0usize..112, 3 => 0..sample.len()];
    let pokes = proptest::collection::vec((spot, any::<u8>()), 1..12);
    runner
        .run(&(pokes, 0..=sample.len()), |(pokes, cut)| {
            let mut bytes = sample.clone();
            for (at, value) in pokes {
                bytes[at] = value;
            }
            // Mostly whole.
            if cut % 3 == 0 {
                bytes.truncate(cut);
            }
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            let Ok(disk) = Qcow2::from_file(file) else { return Ok(()) };
            let mut at = 0;
            let mut buf = vec![0; 64 << 10];
            for _ in 0..300 {
                let Ok(Some((range, kind))) = disk.next_allocated(at) else { break };
                prop_assert!(range.start >= at && !range.is_empty() && range.end <= disk.size());
                let len = usize::try_from(range.end - range.start).unwrap().min(buf.len());
                if kind == ChangeKind::Data {
                    let _ = disk.read_at(range.start, &mut buf[..len]);
                }
                at = range.end;
            }
            Ok(())
        })
        .unwrap();
}
