//! A store of format 1 is read, and written on as it was made. It is written here by hand, from the format's description.

mod common;

use std::path::Path;

use common::*;
use lazuli_chunks::{ManifestId, Problem, ScrubOptions, StoreParams};

const PACK: &str = "0190a0b0c0d0700080000000000000ab";

/// A blob: its id, its kind, its plain bytes, and whether it is compressed.
struct Blob {
    id: [u8; 32],
    kind: u8,
    plain: Vec<u8>,
    packed: bool,
}

fn blob(kind: u8, plain: Vec<u8>, packed: bool) -> Blob {
    let id = match kind {
        0 => *blake3::hash(&plain).as_bytes(),
        1 => blake3::derive_key("lazuli chunks segment v1", &plain),
        _ => blake3::derive_key("lazuli chunks root v1", &plain),
    };
    Blob { id, kind, plain, packed }
}

fn items(magic: &[u8], fixed: &[u64], items: &[(u32, u32, [u8; 32])]) -> Vec<u8> {
    let mut out = magic.to_vec();
    fixed.iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend(u32::try_from(items.len()).unwrap().to_le_bytes());
    for (a, b, id) in items {
        out.extend(a.to_le_bytes());
        out.extend(b.to_le_bytes());
        out.extend(id);
    }
    out
}

/// Writes the store of one disk of these chunks, each with its offset; returns its manifest.
fn write_store(dir: &Path, size: u64, chunks: &[(u32, Vec<u8>)], with_index: bool) -> ManifestId {
    let mut blobs: Vec<Blob> =
        chunks.iter().enumerate().map(|(n, (_, plain))| blob(0, plain.clone(), n % 2 == 0)).collect();
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    let extents: Vec<_> = chunks.iter().zip(&blobs).map(|((at, plain), b)| (*at, len(plain), b.id)).collect();
    let data: u32 = chunks.iter().map(|(_, plain)| len(plain)).sum();
    let segment = blob(1, items(b"LZSEGM\x00\x01", &[], &extents), true);
    let fixed = [size, u64::from(data), 64 << 20];
    let root = blob(2, items(b"LZROOT\x00\x01", &fixed, &[(0, data, segment.id)]), false);
    let manifest = ManifestId(root.id);
    blobs.extend([segment, root]);

    let mut pack = b"LZPACK\x00\x01".to_vec();
    let (mut table, mut log) = (Vec::new(), Vec::new());
    for b in &blobs {
        let stored = if b.packed { zstd::bulk::compress(&b.plain, 3).unwrap() } else { b.plain.clone() };
        let numbers = [len(&pack), len(&stored), len(&b.plain)];
        table.extend(b.id);
        log.extend(&b.id[..20]);
        for n in numbers {
            table.extend(n.to_le_bytes());
            log.extend(n.to_le_bytes());
        }
        table.extend([b.kind, u8::from(!b.packed), 0, 0]);
        log.push(b.kind | u8::from(!b.packed) << 4);
        pack.extend(stored);
    }
    pack.extend(&table);
    pack.extend(u32::try_from(blobs.len()).unwrap().to_le_bytes());
    pack.extend([0; 4]);
    pack.extend(blake3::hash(&table).as_bytes());
    pack.extend(b"LZPKEND\x01");
    let folder = dir.join("packs").join(&PACK[30..]);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(PACK), &pack).unwrap();
    std::fs::write(dir.join("store.json"), serde_json::to_vec_pretty(&StoreParams::format_1()).unwrap()).unwrap();
    if with_index {
        let mut payload = vec![1];
        payload.extend(hex::decode(PACK).unwrap());
        payload.extend((pack.len() as u64).to_le_bytes());
        payload.extend(log);
        let mut out = b"LZINDEX\x01".to_vec();
        out.extend([5; 16]);
        out.extend(len(&payload).to_le_bytes());
        out.extend((!len(&payload)).to_le_bytes());
        out.extend(&blake3::hash(&payload).as_bytes()[..8]);
        out.extend(payload);
        std::fs::create_dir_all(dir.join("index")).unwrap();
        std::fs::write(dir.join("index/index.log"), out).unwrap();
    }
    manifest
}

#[tokio::test]
async fn a_store_of_format_1_is_read_and_written_on() {
    for with_index in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let size = 3 * MIB + 512;
        let mut bytes = vec![0; size];
        let places = [(0, 8 * BLOCK), (8 * BLOCK, 3 * BLOCK), (20 * BLOCK, 32 * BLOCK), (3 * MIB, 512)];
        let mut chunks = Vec::new();
        for (at, len) in places {
            let data = noise(at as u64 + 1, len);
            bytes[at..at + len].copy_from_slice(&data);
            chunks.push((u32::try_from(at).unwrap(), data));
        }
        let manifest = write_store(dir.path(), size as u64, &chunks, with_index);
        let head = std::fs::read(dir.path().join("store.json")).unwrap();
        assert!(!String::from_utf8_lossy(&head).contains("fileTail"), "format 1 had no such rule");

        let region = open(dir.path()).await;
        assert!(read_all(&region, manifest).await == bytes, "index: {with_index}");
        let (progress, cancel) = Default::default();
        let report = region.scrub(&ScrubOptions::default(), &progress, &cancel).await.unwrap();
        assert!(report.is_sound() && report.findings.iter().all(|f| f.problem == Problem::Missing), "{report:#?}");
        // What is added is cut by the same rule, so it finds what there is.
        let same = ingest(&region, &bytes).await;
        let again = ingest(&region, &bytes).await;
        assert_eq!((again.manifest, again.stored_bytes), (same.manifest, 0));
        assert!(read_all(&region, same.manifest).await == bytes);
        region.collect_garbage(&[same.manifest]).await.unwrap();
        region.rebuild_index().await.unwrap();
        assert!(read_all(&region, same.manifest).await == bytes);
        assert_eq!(std::fs::read(dir.path().join("store.json")).unwrap(), head);
        // A region of today's format takes the image in and has it whole.
        let other = tempfile::tempdir().unwrap();
        let today = open(other.path()).await;
        today.replicate_from(&region, same.manifest, &progress, &cancel).await.unwrap();
        assert!(read_all(&today, same.manifest).await == bytes);
    }
}
