//! Stores of earlier formats are read, replicated, and written on: cut as they were made, with packs of today. They are
//! written here by hand, from the formats' descriptions.

mod common;

use std::path::Path;

use common::*;
use lazuli_chunks::{ChunkError, ManifestId, Problem, Region, ScrubOptions, StoreParams};

const PACK: &str = "0190a0b0c0d0700080000000000000ab";

/// A blob: its id, its kind, its plain bytes, and whether its frame is compressed.
#[derive(Clone)]
struct Blob {
    id: [u8; 32],
    kind: u8,
    plain: Vec<u8>,
    packed: bool,
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
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

/// A pack of these frames, and the payload of its record in the index log. Format 1 has frames of one blob.
fn pack_of(format: u8, frames: &[Vec<Blob>]) -> (Vec<u8>, Vec<u8>) {
    let mut pack = b"LZPACK\x00".to_vec();
    pack.push(format);
    let (mut table, mut log) = (Vec::new(), Vec::new());
    for blobs in frames {
        let plain: Vec<u8> = blobs.iter().flat_map(|b| b.plain.clone()).collect();
        let Blob { kind, packed, .. } = blobs[0];
        let stored = if packed { zstd::bulk::compress(&plain, 3).unwrap() } else { plain.clone() };
        let numbers = [len(&pack), len(&stored), len(&plain)].into_iter().flat_map(u32::to_le_bytes);
        let flags = [kind, u8::from(!packed)];
        let count = u16::try_from(blobs.len()).unwrap().to_le_bytes();
        if format == 1 {
            table.extend(blobs[0].id);
            log.extend(&blobs[0].id[..20]);
        }
        table.extend(numbers.clone().chain(flags));
        log.extend(numbers);
        log.push(kind | u8::from(!packed) << 4);
        if format == 1 {
            table.extend([0, 0]);
        } else {
            table.extend(count);
            log.extend(count);
            let mut at = 0;
            for b in blobs {
                table.extend(b.id);
                table.extend(len(&b.plain).to_le_bytes());
                log.extend(&b.id[..20]);
                log.extend((((at / 4096) << 26) | len(&b.plain)).to_le_bytes());
                at += len(&b.plain);
            }
        }
        pack.extend(stored);
    }
    pack.extend(&table);
    pack.extend(if format == 1 { u32::try_from(frames.len()).unwrap() } else { len(&table) }.to_le_bytes());
    pack.extend([0; 4]);
    pack.extend(blake3::hash(&table).as_bytes());
    pack.extend(b"LZPKEND");
    pack.push(format);
    let mut payload = vec![if format == 1 { 1 } else { 4 }];
    payload.extend(hex::decode(PACK).unwrap());
    payload.extend((pack.len() as u64).to_le_bytes());
    payload.extend(log);
    (pack, payload)
}

/// Writes the store of one disk of these chunks, each with its offset; returns its manifest.
fn write_store(dir: &Path, format: u8, size: u64, chunks: &[(u32, Vec<u8>)], with_index: bool) -> ManifestId {
    let blobs: Vec<Blob> =
        chunks.iter().enumerate().map(|(n, (_, plain))| blob(0, plain.clone(), n % 2 == 0)).collect();
    let extents: Vec<_> = chunks.iter().zip(&blobs).map(|((at, plain), b)| (*at, len(plain), b.id)).collect();
    let data: u32 = chunks.iter().map(|(_, plain)| len(plain)).sum();
    let segment = blob(1, items(b"LZSEGM\x00\x01", &[], &extents), true);
    let fixed = [size, u64::from(data), 64 << 20];
    let root = blob(2, items(b"LZROOT\x00\x01", &fixed, &[(0, data, segment.id)]), false);
    let manifest = ManifestId(root.id);
    // The first two share a frame where the format has that.
    let per_frame = if format == 1 { 1 } else { 2 };
    let mut frames: Vec<Vec<Blob>> = blobs.chunks(per_frame).map(<[_]>::to_vec).collect();
    frames.extend([vec![segment], vec![root]]);

    let (pack, payload) = pack_of(format, &frames);
    let folder = dir.join("packs").join(&PACK[30..]);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(PACK), &pack).unwrap();
    std::fs::write(dir.join("store.json"), serde_json::to_vec_pretty(&head_of(format)).unwrap()).unwrap();
    if with_index {
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

fn head_of(format: u8) -> StoreParams {
    if format == 1 { StoreParams::format_1() } else { StoreParams::format_2() }
}

fn head_in(dir: &Path) -> StoreParams {
    serde_json::from_slice(&std::fs::read(dir.join("store.json")).unwrap()).unwrap()
}

/// A disk of four chunks, and these.
fn four_chunks() -> (Vec<u8>, Vec<(u32, Vec<u8>)>) {
    let mut bytes = vec![0; 3 * MIB + 512];
    let places = [(0, 8 * BLOCK), (8 * BLOCK, 3 * BLOCK), (20 * BLOCK, 32 * BLOCK), (3 * MIB, 512)];
    let mut chunks = Vec::new();
    for (at, len) in places {
        let data = noise(at as u64 + 1, len);
        bytes[at..at + len].copy_from_slice(&data);
        chunks.push((u32::try_from(at).unwrap(), data));
    }
    (bytes, chunks)
}

#[tokio::test]
async fn stores_of_earlier_formats_are_read_and_written_on() {
    for (format, with_index) in [(1, true), (1, false), (2, true), (2, false)] {
        let what = format!("format {format}, index: {with_index}");
        let dir = tempfile::tempdir().unwrap();
        let (bytes, chunks) = four_chunks();
        let manifest = write_store(dir.path(), format, bytes.len() as u64, &chunks, with_index);
        let old = std::fs::read(dir.path().join("store.json")).unwrap();
        assert_eq!(String::from_utf8_lossy(&old).contains("fileTail"), format > 1, "format 1 had no such rule");
        if with_index {
            let reader = Region::open_read_only(config(dir.path())).await.unwrap();
            assert!(read_all(&reader, manifest).await == bytes, "{what}");
            assert_eq!(head_in(dir.path()), head_of(format), "who only reads changes nothing");
        }

        let region = open(dir.path()).await;
        // Earlier versions refuse it from now on; nothing else is new.
        assert_eq!(head_in(dir.path()), StoreParams { format: 3, ..head_of(format) }, "{what}");
        assert!(read_all(&region, manifest).await == bytes, "{what}");
        let (progress, cancel) = Default::default();
        let report = region.scrub(&ScrubOptions::default(), &progress, &cancel).await.unwrap();
        assert!(report.is_sound() && report.findings.iter().all(|f| f.problem == Problem::Missing), "{report:#?}");
        // A region of today's format takes the image in and has it whole.
        let other = tempfile::tempdir().unwrap();
        let today = open(other.path()).await;
        today.replicate_from(&region, manifest, &progress, &cancel).await.unwrap();
        assert!(read_all(&today, manifest).await == bytes, "{what}");

        // What is added is cut by the same rule, so it finds what there is.
        let same = ingest(&region, &bytes).await;
        let again = ingest(&region, &bytes).await;
        assert_eq!((again.manifest, again.stored_bytes), (same.manifest, 0));
        drop(region);
        let region = open(dir.path()).await;
        assert!(read_all(&region, same.manifest).await == bytes);
        today.replicate_from(&region, same.manifest, &progress, &cancel).await.unwrap();
        assert!(read_all(&today, same.manifest).await == bytes, "{what}");
        region.collect_garbage(&[same.manifest]).await.unwrap();
        region.rebuild_index().await.unwrap();
        assert!(read_all(&region, same.manifest).await == bytes);
        for region in [&region, &today] {
            let deep = ScrubOptions { deep: true, ..ScrubOptions::default() };
            let report = region.scrub(&deep, &progress, &cancel).await.unwrap();
            assert!(report.is_sound(), "{what}: {report:#?}");
        }
    }
}

#[tokio::test]
async fn damage_in_a_pack_without_checks_is_never_replicated() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, chunks) = four_chunks();
    let manifest = write_store(dir.path(), 2, bytes.len() as u64, &chunks, true);
    let file = pack_files(dir.path()).remove(0);
    let mut pack = std::fs::read(&file).unwrap();
    pack[30_000] ^= 4;
    std::fs::write(&file, pack).unwrap();
    let (region, other) = (open(dir.path()).await, tempfile::tempdir().unwrap());
    let (progress, cancel) = Default::default();
    let result = open(other.path()).await.replicate_from(&region, manifest, &progress, &cancel).await;
    assert!(matches!(result, Err(ChunkError::Corrupt { .. })), "{result:?}");
}
