//! Reads of a store that is far away: what was read is kept on disk, verified, and a start is fetched ahead of the machine.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::*;
use lazuli_chunks::{Cache, FrameCache, ManifestId, Region, RegionConfig, TracedReader, Traces};

/// What a machine reads when it starts: short runs all over its disk, always in the same order.
fn start(len: usize) -> Vec<(usize, usize)> {
    let mut state = 42u64;
    let mut draw = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % n
    };
    let runs: Vec<(usize, usize)> = (0..100).map(|_| (draw(len / BLOCK - 40) * BLOCK, draw(8) + 1)).collect();
    runs.into_iter().flat_map(|(at, n)| (0..n).map(move |i| (at + i * 4 * BLOCK, BLOCK))).collect()
}

struct Far {
    store: Arc<FaultyStore>,
    region: Region,
}

/// A process that reads the store in `dir`, as if it were far away.
async fn far(dir: &Path, frames: Option<FrameCache>) -> Far {
    let store = FaultyStore::new(dir);
    let mut cfg = RegionConfig { cache: Cache::new(64 << 20), frames, ..config(dir) };
    cfg.stores = vec![Arc::clone(&store) as _];
    let region = Region::open_read_only(cfg).await.unwrap();
    store.gets.store(0, Ordering::Relaxed);
    store.got_bytes.store(0, Ordering::Relaxed);
    Far { store, region }
}

impl Far {
    fn cost(&self) -> (u64, u64) {
        (self.store.gets.load(Ordering::Relaxed), self.store.got_bytes.load(Ordering::Relaxed))
    }

    async fn boot(&self, traces: &Traces, manifest: ManifestId, bytes: &[u8]) -> TracedReader {
        let reader = traces.follow(self.region.reader(manifest).await.unwrap());
        read(&reader, &start(bytes.len()), bytes).await;
        reader
    }
}

async fn read(reader: &TracedReader, reads: &[(usize, usize)], bytes: &[u8]) {
    for (at, len) in reads {
        let mut out = vec![0; *len];
        reader.read_at(*at as u64, &mut out).await.unwrap();
        assert!(out == bytes[*at..at + len]);
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_asks_for_little_and_a_restarted_host_for_nothing() {
    let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes = noise(301, 64 * MIB);
    let manifest = ingest(&open(dir.path()).await, &bytes).await.manifest;
    let traces = Traces::open(&kept.path().join("traces")).unwrap();
    let none = Traces::open(&kept.path().join("none")).unwrap();

    let first = far(dir.path(), None).await;
    drop(first.boot(&traces, manifest, &bytes).await);
    let (requests, read_first) = first.cost();
    // The trace is written when the first machine's export ends, or its start is over.
    let traced = far(dir.path(), None).await;
    let reader = traces.follow(traced.region.reader(manifest).await.unwrap());
    let reads = start(bytes.len());
    read(&reader, &reads[..1], &bytes).await;
    // A machine has other things to do, too.
    until("what the first start read is fetched", || reader.fetched_ahead()).await;
    let ahead = traced.cost().0;
    read(&reader, &reads[1..], &bytes).await;
    let (requests_traced, read_traced) = traced.cost();
    let waited = requests_traced - ahead;
    println!(
        "without a trace {requests} requests for {read_first} bytes; with one {requests_traced} for {read_traced}, of them {waited} while the machine waits"
    );
    assert!(waited * 10 <= requests && requests_traced <= requests, "{requests_traced}, {waited} late, of {requests}");
    assert!(read_traced * 100 < read_first * 125, "{read_traced} bytes, {read_first} without a trace");

    let frames = || FrameCache::open(&kept.path().join("frames"), 256 << 20).unwrap();
    let cache = frames();
    let filling = far(dir.path(), Some(cache.clone())).await;
    let reader = filling.region.reader(manifest).await.unwrap();
    for pass in 0..20 {
        // Frames that came while too many were being written are kept the next time.
        let region = far(dir.path(), Some(cache.clone())).await;
        drop(region.boot(&none, manifest, &bytes).await);
        if pass > 0 && region.cost().0 <= 1 {
            break;
        }
        until("what is being written is written", || cache.used() > 0).await;
    }
    drop(reader);
    // A new process: memory is empty, the folder is not.
    let again = far(dir.path(), Some(frames())).await;
    drop(again.boot(&none, manifest, &bytes).await);
    let (requests_kept, read_kept) = again.cost();
    println!("with frames on disk {requests_kept} requests for {read_kept} bytes");
    assert!(
        requests_kept <= 2 && read_kept * 100 < read_first,
        "{requests_kept} requests, {read_kept} of {read_first} bytes"
    );

    // Every file is damaged or gone: nothing wrong is handed out, everything is fetched again.
    for (n, file) in walk(&kept.path().join("frames")).into_iter().enumerate() {
        match n % 3 {
            0 => std::fs::remove_file(file).unwrap(),
            1 => std::fs::write(file, "junk").unwrap(),
            _ => {
                let mut bytes = std::fs::read(&file).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(file, bytes).unwrap();
            }
        }
    }
    let damaged = far(dir.path(), Some(frames())).await;
    drop(damaged.boot(&none, manifest, &bytes).await);
    assert!(damaged.cost().1 * 100 > read_first * 90, "all of it is fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_trace_is_replaced_by_a_start_and_by_nothing_else() {
    let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes = noise(302, 32 * MIB);
    let manifest = ingest(&open(dir.path()).await, &bytes).await.manifest;
    let traces = Traces::open(kept.path()).unwrap();
    let file = kept.path().join(manifest.to_string());
    let age = |days: u64| {
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 24 * 3600);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(then).unwrap();
    };
    // The beginning is the same, what follows is not.
    let reads = |from: usize| -> Vec<(usize, usize)> {
        let places = (0..200).map(|n| if n < 40 { n } else { n + from });
        places.map(|place| (place << 16, 16 << 10)).collect()
    };
    let start = async |reads: &[(usize, usize)]| {
        let far = far(dir.path(), None).await;
        read(&traces.follow(far.region.reader(manifest).await.unwrap()), reads, &bytes).await;
        std::fs::read(&file).unwrap()
    };
    let first = start(&reads(0)).await;
    age(6);
    assert!(start(&reads(200)).await == first, "it is young");
    age(8);
    assert!(start(&reads(200)[40..]).await == first, "a machine that runs is no start");
    let second = start(&reads(200)).await;
    assert!(second != first && second.len() == first.len());
    assert!(start(&reads(0)).await == second, "it is young again");
}

/// What a start read of a store that is near is fetched ahead by the first start elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_of_another_host_is_followed_by_the_first_start_here() {
    let (dir, there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes = noise(303, 32 * MIB);
    let region = open(dir.path()).await;
    let manifest = ingest(&region, &bytes).await.manifest;
    let reads = start(bytes.len());
    let recorded = Traces::open(there.path()).unwrap();
    assert_eq!(recorded.of(manifest), None);
    let near = recorded.record(region.reader(manifest).await.unwrap());
    read(&near, &reads[..10], &bytes).await;
    assert_eq!(recorded.of(manifest), None, "too little for a start");
    read(&near, &reads[10..], &bytes).await;
    let trace = recorded.of(manifest).expect("the machine runs on, and what it read is known");
    drop(near);
    assert_eq!(recorded.of(manifest), Some(trace.clone()), "and kept");
    let covered = Traces::covers(&trace).unwrap();
    let places: std::collections::BTreeSet<usize> = reads.iter().map(|(at, _)| at >> 14).collect();
    assert_eq!((covered, trace.len() % 512), ((places.len() as u64) << 14, 0));

    let traces = Traces::open(here.path()).unwrap();
    assert!(traces.take_over(manifest, &trace[..trace.len() - 1]).is_err() && !traces.knows(manifest));
    traces.take_over(manifest, &trace).unwrap();
    let far = far(dir.path(), None).await;
    let reader = traces.follow(far.region.reader(manifest).await.unwrap());
    read(&reader, &reads[..1], &bytes).await;
    until("what the other host's start read is fetched", || reader.fetched_ahead()).await;
    let ahead = far.cost().0;
    read(&reader, &reads[1..], &bytes).await;
    assert!((far.cost().0 - ahead) * 10 <= ahead, "{} of {ahead} requests late", far.cost().0 - ahead);
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let folders = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path());
    folders.flat_map(|f| std::fs::read_dir(f).unwrap()).map(|f| f.unwrap().path()).collect()
}
