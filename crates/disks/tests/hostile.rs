//! Parsers under files that strangers made: valid images, damaged at random where it hurts most. Nothing may panic, take memory by
//! what a file says, walk without end, or read outside the disk.
//!
//! Short by default; `scripts/test long fuzz` sets `LAZULI_FUZZ_CASES`. A failure prints its seed, `LAZULI_FUZZ_SEED` repeats it.

mod common;

use std::alloc::{self, GlobalAlloc, Layout};
use std::cell::Cell;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use common::{System, bytes, noise, oracle, qemu_img, raw_disk};
use lazuli_disks::check::{self, Date, Generation, OsState, Wanted};
use lazuli_disks::{ChangedSource as _, DiskSource, Format, Qcow2, RawFile, format};

/// What one case may have in memory at a time, beyond what it began with. The largest honest need: two compressed clusters of 16 MiB
/// (VMDK), a zstd window of 16 MiB, pages of tables.
const MOST_MEMORY: usize = 96 << 20;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// Counts what this thread has.
struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A failure to count (the thread is ending) is no failure to allocate.
        let _ = NOW.try_with(|now| {
            now.set(now.get().wrapping_add(layout.size()));
            let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
        });
        // SAFETY: as the caller's.
        unsafe { alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        let _ = NOW.try_with(|now| now.set(now.get().saturating_sub(layout.size())));
        // SAFETY: as the caller's.
        unsafe { alloc::System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and says what it had in memory at most.
fn peak(work: impl FnOnce()) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    work();
    PEAK.get().saturating_sub(before)
}

/// A small generator, so that a seed says everything.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap()
    }

    /// Numbers at which parsers break.
    fn number(&mut self, len: usize) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1,
            3 => len as u64,
            4 => (len as u64).wrapping_sub(1 + self.next() % 512),
            5 => 1 << (self.next() % 64),
            6 => (1 << (self.next() % 64)) - 1,
            _ => self.next(),
        }
    }
}

fn cases() -> u64 {
    std::env::var("LAZULI_FUZZ_CASES").map_or(400, |n| n.parse().expect("LAZULI_FUZZ_CASES is a number"))
}

/// Damages a copy of the sample in a few places of `spots`, then mends what would end the parser at its door.
fn damaged(sample: &[u8], spots: &[std::ops::Range<usize>], random: &mut Random, mend: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..1 + random.below(6) {
        let spot = if random.below(4) == 0 { 0..bytes.len() } else { spots[random.below(spots.len())].clone() };
        let at = spot.start + random.below(spot.len());
        let value = random.number(bytes.len());
        let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
        let raw = if random.below(2) == 0 { value.to_be_bytes() } else { value.to_le_bytes() };
        let raw = if random.below(2) == 0 { &raw[..width] } else { &raw[8 - width..] };
        bytes[at..at + width].copy_from_slice(raw);
    }
    mend(&mut bytes);
    if random.below(6) == 0 {
        let cut = random.below(bytes.len());
        bytes.truncate(cut.next_multiple_of(512).min(bytes.len()));
    }
    bytes
}

fn file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Walks over a disk as ingest does, so far.
fn walk(disk: &dyn DiskSource) {
    let mut buf = vec![0; 64 << 10];
    let mut at = 0;
    for _ in 0..200 {
        let Ok(Some(range)) = disk.next_data(at) else { break };
        assert!(range.start >= at && range.start < range.end && range.end <= disk.size(), "{range:?} after {at}");
        let len = usize::try_from(range.end - range.start).unwrap().min(buf.len());
        let _ = disk.read_at(range.start, &mut buf[..len]);
        let _ = disk.read_at(range.end - len as u64, &mut buf[..len]);
        at = range.end;
    }
    let _ = disk.next_data(disk.size() / 2);
    let _ = disk.read_at(disk.size().saturating_sub(512), &mut buf[..512]);
    assert!(disk.read_at(disk.size(), &mut buf[..1]).is_err());
}

/// Every case of a sample.
fn attack(
    name: &str,
    sample: &[u8],
    spots: &[std::ops::Range<usize>],
    mend: impl Fn(&mut [u8]),
    run: impl Fn(std::fs::File),
) {
    let seed = std::env::var("LAZULI_FUZZ_SEED").ok().map(|s| s.parse::<u64>().expect("LAZULI_FUZZ_SEED is a number"));
    let (first, count) = seed.map_or((1, cases()), |seed| (seed, 1));
    for seed in first..first + count {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let bytes = damaged(sample, spots, &mut random, &mend);
        let file = file(&bytes);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| peak(|| run(file))));
        match result {
            Ok(peak) => assert!(peak <= MOST_MEMORY, "{name}: {peak} bytes in memory; LAZULI_FUZZ_SEED={seed}"),
            Err(_) => panic!("{name}: a panic; LAZULI_FUZZ_SEED={seed}"),
        }
    }
}

/// A seed of qemu-img's: a small disk with holes.
fn sample(args: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
    raw_disk(&raw, 6 << 20, &[(0, bytes(1, 9000)), (4 << 20, noise(1, 5000)), ((6 << 20) - 512, bytes(3, 512))]);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    qemu_img(&[&["convert", "-f", "raw"], args, &[&text(&raw), &text(&image)]].concat());
    std::fs::read(image).unwrap()
}

fn open_and_walk(expected: Format) -> impl Fn(std::fs::File) {
    move |file| {
        if let Ok(image) = format::from_file(file) {
            // A tail or magic that is gone makes it something else.
            let _ = expected;
            walk(&*image.disk);
        }
    }
}

fn vhd_sum(raw: &mut [u8], at: usize) {
    let sum: u32 = raw.iter().enumerate().filter(|(i, _)| !(at..at + 4).contains(i)).map(|(_, b)| u32::from(*b)).sum();
    raw[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

#[test]
fn vhd() {
    let sample = sample(&["-O", "vpc", "-o", "subformat=dynamic,force_size=on"]);
    let end = sample.len() - 512;
    let mend = |bytes: &mut [u8]| {
        let end = bytes.len() - 512;
        vhd_sum(&mut bytes[512..1536], 36);
        vhd_sum(&mut bytes[end..], 64);
    };
    // Footer, header, table, a bitmap.
    attack(
        "vhd",
        &sample,
        &[end + 8..end + 68, 512..576, 1536..1600, 2048..2600],
        mend,
        open_and_walk(Format::VhdDynamic),
    );
}

fn crc(bytes: &[u8], polynomial: u32) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ polynomial } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, b| (0..8).fold(crc ^ u32::from(*b), bit))
}

#[test]
fn vhdx() {
    let sample = sample(&["-O", "vhdx", "-o", "block_size=1M"]);
    let u64_at =
        |bytes: &[u8], at: usize| usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap();
    let region = 192 << 10;
    // Of the two regions either is the metadata; the table's first entries are looked at in both.
    let (one, other) = (u64_at(&sample, region + 32), u64_at(&sample, region + 64));
    let mend = |bytes: &mut [u8]| {
        for (at, len) in [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 64 << 10), (256 << 10, 64 << 10)] {
            let part = &mut bytes[at..at + len];
            part[4..8].fill(0);
            let crc = crc(part, 0x82f6_3b78);
            part[4..8].copy_from_slice(&crc.to_le_bytes());
        }
    };
    let k64 = 64 << 10;
    let spots = [
        k64..k64 + 80,
        2 * k64..2 * k64 + 80,
        region..region + 80,
        one..one + 256,
        other..other + 256,
        one + k64..one + k64 + 64,
        other + k64..other + k64 + 64,
    ];
    attack("vhdx", &sample, &spots, mend, open_and_walk(Format::Vhdx));
}

#[test]
fn qcow2() {
    for args in [
        &["-O", "qcow2", "-o", "cluster_size=4k"][..],
        &["-c", "-O", "qcow2"],
        &["-c", "-O", "qcow2", "-o", "compression_type=zstd"],
    ] {
        let sample = sample(args);
        let (l1, len) =
            (usize::try_from(u64::from_be_bytes(sample[40..48].try_into().unwrap())).unwrap(), sample.len());
        let l2 = usize::try_from(u64::from_be_bytes(sample[l1..l1 + 8].try_into().unwrap()) & 0xff_ffff_fe00).unwrap();
        let spots = [0..112, l1..l1 + 64, l2..(l2 + 4096).min(len)];
        attack("qcow2", &sample, &spots, |_| {}, open_and_walk(Format::Qcow2));
        // As an overlay, too.
        attack(
            "qcow2 overlay",
            &sample,
            &spots,
            |_| {},
            |file| {
                let Ok(overlay) = Qcow2::from_file(file) else { return };
                let mut at = 0;
                for _ in 0..100 {
                    let Ok(Some((range, _))) = overlay.next_change(at) else { break };
                    assert!(range.start >= at && !range.is_empty() && range.end <= overlay.size());
                    let _ = overlay.read_at(range.start, &mut [0; 4096]);
                    at = range.end;
                }
            },
        );
    }
}

#[test]
fn vmdk() {
    for subformat in ["monolithicSparse", "streamOptimized"] {
        let sample = sample(&["-O", "vmdk", "-o", &format!("subformat={subformat}")]);
        let len = sample.len();
        // Header, descriptor, directory and tables, the end.
        let spots = [0..80, 512..1024, 10_000..12_000, 21 * 512..30 * 512, len - 4096..len];
        let spots = spots.map(|spot| spot.start.min(len - 1)..spot.end.min(len));
        attack(subformat, &sample, &spots, |_| {}, open_and_walk(Format::Vmdk));
    }
}

/// A disk with what the check looks into: a GPT, an EFI system partition, ext4 with a system's files.
fn bootable(dir: &Path) -> Vec<u8> {
    let mut system = System::debian();
    system.ext4_options = "^metadata_csum,^has_journal";
    system.with("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n");
    system.with("etc/cloud/cloud.cfg", "datasource_list: [ NoCloud,\n Azure ]\n");
    system.with("etc/waagent.conf", "Provisioning.Agent=auto\n");
    std::fs::read(system.build(dir)).unwrap()
}

/// GPT headers with the right sums, so that what they say is looked at.
fn mend_gpt(bytes: &mut [u8]) {
    let u32_at =
        |bytes: &[u8], at: usize| usize::try_from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap();
    let len = u32_at(bytes, 512 + 80).saturating_mul(u32_at(bytes, 512 + 84));
    if len <= 1 << 20 {
        let sum = crc(&bytes[1024..1024 + len], 0xedb8_8320);
        bytes[512 + 88..512 + 92].copy_from_slice(&sum.to_le_bytes());
    }
    let header = u32_at(bytes, 512 + 12);
    if (92..=512).contains(&header) {
        bytes[512 + 16..512 + 20].fill(0);
        let sum = crc(&bytes[512..512 + header], 0xedb8_8320);
        bytes[512 + 16..512 + 20].copy_from_slice(&sum.to_le_bytes());
    }
}

#[test]
fn partitions_and_file_systems() {
    let dir = tempfile::tempdir().unwrap();
    let sample = bootable(dir.path());
    let wanted = Wanted {
        generation: Some(Generation::V2),
        state: Some(OsState::Generalized),
        format: None,
        today: Date(2026, 11, 28),
    };
    let look = |file: std::fs::File| {
        let len = file.metadata().unwrap().len();
        let Ok(disk) = RawFile::with_len(file, len) else { return };
        let disk: Arc<dyn DiskSource> = Arc::new(disk);
        let _ = check::check(&disk, &wanted).map(|report| report.to_string());
    };
    let mib = 1 << 20;
    let found = check::check(
        &(Arc::new(RawFile::with_len(file(&sample), sample.len() as u64).unwrap()) as Arc<dyn DiskSource>),
        &wanted,
    );
    let found = found.unwrap();
    assert!(found.uefi && found.os.is_some() && found.agents == ["cloud-init"], "the sample is looked into: {found}");
    let spots = [
        440..512,
        512..604,
        1024..1300,
        // FAT: boot sector, tables, root directory, data.
        mib..mib + 90,
        mib + 512..mib + 1024,
        mib + 4096..mib + 20_000,
        // ext4: superblock, group descriptors, inodes and directories.
        2 * mib + 1024..2 * mib + 2048,
        2 * mib + 2048..2 * mib + 2200,
        2 * mib + 4096..2 * mib + 400_000,
    ];
    attack("check", &sample, &spots, mend_gpt, look);
}

#[test]
fn an_mbr_with_logical_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk").to_str().unwrap().to_owned();
    std::fs::File::create(&disk).unwrap().set_len(10 << 20).unwrap();
    let script = "label: dos\nstart=2048,size=2048,type=83,bootable\nstart=4096,size=10000,type=5\nstart=6144,size=1024,type=83\nstart=9216,size=1024,type=82\n";
    std::fs::write(dir.path().join("script"), script).unwrap();
    oracle("sh", "dash", &["-c", &format!("sfdisk -q {disk} < {}", dir.path().join("script").display())]);
    let sample = std::fs::read(&disk).unwrap();
    let look = |file: std::fs::File| {
        let len = file.metadata().unwrap().len();
        let Ok(disk) = RawFile::with_len(file, len) else { return };
        let disk: Arc<dyn DiskSource> = Arc::new(disk);
        let wanted = Wanted { generation: None, state: None, format: None, today: Date(2026, 11, 28) };
        let report = check::check(&disk, &wanted).unwrap();
        for (partition, _) in &report.partitions {
            assert!(partition.start + partition.len <= disk.size());
        }
    };
    attack("mbr", &sample, &[440..512, 4096 * 512 + 440..4096 * 512 + 512], |_| {}, look);
}
