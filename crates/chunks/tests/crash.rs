//! The crash suite: a process that ingests, replicates, collects, scrubs and repairs is killed at random moments.
//! Whatever it acknowledged is there afterwards, a scrub finds nothing wrong, and a collection frees what was left over.
//!
//! `LAZULI_CRASH_KILLS` says how often (20 unless told; `scripts/test long crash` takes 200), `LAZULI_CRASH_SEED` repeats
//! a run.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::*;
use lazuli_chunks::{
    Cache, ManifestId, Problem, Progress, Region, RegionConfig, ScrubOptions, ScrubReport, local_store,
};
use tokio_util::sync::CancellationToken;

const DIR: &str = "LAZULI_CRASH_DIR";
const REGIONS: [(&str, usize); 2] = [("eastus", 2), ("westus", 1)];
/// So many disks are alive in a region; older ones are let go.
const ALIVE: usize = 5;

fn zone(dir: &Path, region: &str, number: usize) -> PathBuf {
    dir.join(region).join(format!("zone{number}"))
}

async fn open_region(dir: &Path, (name, zones): (&str, usize)) -> Region {
    let stores = (0..zones).map(|z| local_store(&zone(dir, name, z)).unwrap()).collect();
    let index_dir = dir.join(name).join("index");
    // One is sealed, and what it takes in from the other too.
    let keys = (name == "westus").then(|| sealing_keys(&[7])).flatten();
    Region::open(RegionConfig { name: name.into(), stores, index_dir, cache: Cache::new(8 << 20), keys, frames: None })
        .await
        .unwrap()
}

/// Disks share most of their bytes with some other.
fn disk_of(seed: u64) -> Vec<u8> {
    [noise(seed % 4, 2 * MIB), noise(1000 + seed, MIB / 2), noise(seed % 7 + 50, MIB)].concat()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What is alive in each region, oldest first. Lines of the journal: `+ region seed manifest` once the store has
/// acknowledged a disk, `- region manifest` before a collection may take it.
type Alive = BTreeMap<String, Vec<(u64, ManifestId)>>;

fn alive(journal: &Path) -> Alive {
    let mut alive = Alive::new();
    let text = fs::read_to_string(journal).unwrap_or_default();
    // A line that was torn was never acknowledged.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["+", region, seed, manifest] => {
                let disks = alive.entry(region.into()).or_default();
                let manifest = manifest.parse().unwrap();
                disks.retain(|(_, m)| *m != manifest);
                disks.push((seed.parse().unwrap(), manifest));
            }
            ["-", region, manifest] => {
                let manifest: ManifestId = manifest.parse().unwrap();
                alive.get_mut(region).unwrap().retain(|(_, m)| *m != manifest);
            }
            _ => panic!("the journal is broken: {line}"),
        }
    }
    alive
}

fn note(journal: &Path, line: &str) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(journal).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
    file.sync_data().unwrap();
}

fn cut_torn_line(journal: &Path) {
    if let Ok(text) = fs::read_to_string(journal) {
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        fs::OpenOptions::new().write(true).open(journal).unwrap().set_len(whole as u64).unwrap();
    }
}

/// What is killed. Not a test of its own: it runs until it is killed.
#[test]
#[ignore = "the process that the crash suite kills"]
fn child() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let seed: u64 = std::env::var("LAZULI_CRASH_SEED").unwrap().parse().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(work(&dir, Random(seed)));
}

async fn work(dir: &Path, mut random: Random) {
    let journal = dir.join("journal");
    cut_torn_line(&journal);
    let (east, west) = (open_region(dir, REGIONS[0]).await, open_region(dir, REGIONS[1]).await);
    println!("ready");
    let (none, never) = (Progress::new(), CancellationToken::new());
    loop {
        let held = alive(&journal);
        let in_east = held.get("eastus").cloned().unwrap_or_default();
        match random.below(6) {
            0..=2 => {
                let seed = random.below(40);
                let done = east.ingest(MemDisk::new(disk_of(seed)), &none, &never).await.unwrap();
                note(&journal, &format!("+ eastus {seed} {}", done.manifest));
            }
            3 if !in_east.is_empty() => {
                let (seed, manifest) = in_east[usize::try_from(random.below(in_east.len() as u64)).unwrap()];
                west.replicate_from(&east, manifest, &none, &never).await.unwrap();
                note(&journal, &format!("+ westus {seed} {manifest}"));
            }
            4 => {
                for region in [&east, &west] {
                    let disks = held.get(region.name()).cloned().unwrap_or_default();
                    let (old, keep) = disks.split_at(disks.len().saturating_sub(ALIVE));
                    old.iter().for_each(|(_, m)| note(&journal, &format!("- {} {m}", region.name())));
                    let keep: Vec<_> = keep.iter().map(|(_, m)| *m).collect();
                    region.collect_garbage(&keep).await.unwrap();
                }
            }
            _ => {
                // Something to mend: a pack of one zone is lost.
                let packs = pack_files(&zone(dir, "eastus", 1));
                if !packs.is_empty() {
                    let victim = &packs[usize::try_from(random.below(packs.len() as u64)).unwrap()];
                    let _ = fs::remove_file(victim);
                }
                let options = ScrubOptions { repair: true, ..ScrubOptions::default() };
                east.scrub(&options, &none, &never).await.unwrap();
            }
        }
    }
}

#[test]
fn random_kills_lose_nothing_that_was_acknowledged() {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap());
    let kills = number("LAZULI_CRASH_KILLS").unwrap_or(20);
    let seed = number("LAZULI_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()) * 7919);
    println!("LAZULI_CRASH_SEED={seed}");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut acknowledged = 0;
    for kill in 0..kills {
        run_and_kill(dir.path(), &mut random);
        acknowledged += runtime.block_on(judge(dir.path(), kill));
    }
    println!("{kills} kills, {acknowledged} times a disk was alive afterwards");
    assert!(acknowledged > 0);
}

fn run_and_kill(dir: &Path, random: &mut Random) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env("LAZULI_CRASH_SEED", random.below(u64::from(u32::MAX)).to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let ready = out.lines().map_while(Result::ok).any(|line| line.contains("ready"));
    assert!(ready, "the child ended by itself: {:?}", child.wait());
    #[expect(clippy::disallowed_methods, reason = "the kill comes at a random moment")]
    std::thread::sleep(Duration::from_millis(random.below(700)));
    assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Opens what the killed process left; returns how many disks were alive.
async fn judge(dir: &Path, kill: u64) -> usize {
    let alive = alive(&dir.join("journal"));
    let mut count = 0;
    for at in REGIONS {
        let region = open_region(dir, at).await;
        let disks = alive.get(at.0).cloned().unwrap_or_default();
        let manifests: Vec<ManifestId> = disks.iter().map(|(_, m)| *m).collect();
        let repair = ScrubOptions { manifests: Some(manifests.clone()), repair: true, ..ScrubOptions::default() };
        let report = scrub(&region, &repair).await;
        assert!(report.is_sound(), "after kill {kill}: {report:#?}");
        // Only what the child removed itself may have been wrong.
        let harmless = |p: Problem| matches!(p, Problem::Missing | Problem::Unreferenced);
        assert!(report.findings.iter().all(|f| harmless(f.problem)), "after kill {kill}: {report:#?}");
        if let Some((seed, manifest)) = disks.last() {
            assert!(read_all(&region, *manifest).await == disk_of(*seed), "after kill {kill}");
        }
        region.collect_garbage(&manifests).await.unwrap();
        let clean = scrub(&region, &ScrubOptions { repair: false, ..repair }).await;
        let packs = |f: &&lazuli_chunks::Finding| f.object == lazuli_chunks::Object::Pack;
        assert_eq!(clean.findings.iter().find(packs), None, "garbage is left after kill {kill}");
        count += disks.len();
    }
    count
}

async fn scrub(region: &Region, options: &ScrubOptions) -> ScrubReport {
    region.scrub(options, &Progress::new(), &CancellationToken::new()).await.unwrap()
}
