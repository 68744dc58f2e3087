//! What other parameters of the store would give: chunk sizes, the end-of-file rule, frames, zstd levels.
//!
//! ```text
//! cargo bench -p lazuli-chunks --bench parameters -- FIRST [NEXT...]     images of like content, raw or .vhd
//! ```
//! For each cutting rule: chunks and new bytes of every image beside those before it. For each frame size and level on top: stored
//! bytes with the manifest and the pack's table, processor seconds to pack all, and processor microseconds to unpack one frame.
//! Nothing is written.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use lazuli_chunks::bench::cpu_seconds;
use lazuli_chunks::chunker::{Chunker, ChunkerParams, Verdict};
use lazuli_disks::{DiskSource, RawFile, vhd};

/// Bytes of the manifest for each chunk, compressed; of the pack's table for each new chunk and each frame.
const EXTENT: usize = 35;
const ENTRY: usize = 36;
const HEAD: usize = 32;

fn main() -> Result<()> {
    let files: Vec<PathBuf> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).map(PathBuf::from).collect();
    let rule = |log: u32, min: usize, file_tail: usize| ChunkerParams {
        min: min << 10,
        mask: ((1u64 << log) - 1) << (64 - log),
        file_tail,
        ..ChunkerParams::STANDARD
    };
    // (one block in 2^log ends a chunk, least KiB, zeros that end a file)
    let rules = [(3, 8, 0), (2, 8, 0), (1, 4, 0), (4, 8, 32), (2, 4, 32)];
    for (log, min, tail) in rules {
        let mut seen = HashSet::new();
        let images =
            files.iter().map(|f| cut(&*open(f)?, rule(log, min, tail), &mut seen)).collect::<Result<Vec<_>>>()?;
        for (image, file) in images.iter().zip(&files) {
            println!(
                "1 in 2^{log}, least {min} KiB, tail {tail}: {}: {} chunks, {} new, {} MiB new",
                file.file_name().unwrap_or_default().to_string_lossy(),
                image.chunks,
                image.new.len(),
                image.new.iter().map(Vec::len).sum::<usize>() >> 20
            );
        }
        for frame in [0, 64, 128, 256] {
            for level in [-1, 1, 2, 3] {
                if (log, tail) != (4, 32) && (frame, level) != (0, 3) && (frame, level) != (128, 2) {
                    continue;
                }
                print!("    frame {frame:>3} KiB, level {level:>2}:");
                for image in &images {
                    print!("  {}", pack(image, frame << 10, level)?);
                }
                println!();
            }
        }
    }
    Ok(())
}

struct Image {
    chunks: usize,
    new: Vec<Vec<u8>>,
}

fn open(file: &Path) -> Result<Arc<dyn DiskSource>> {
    let is_vhd = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("vhd"));
    Ok(if is_vhd { Arc::new(vhd::open_fixed(file)?) } else { Arc::new(RawFile::open(file)?) })
}

fn cut(disk: &dyn DiskSource, params: ChunkerParams, seen: &mut HashSet<blake3::Hash>) -> Result<Image> {
    let mut chunker = Chunker::new(params);
    let (mut image, mut chunk, mut at) = (Image { chunks: 0, new: Vec::new() }, Vec::new(), 0);
    let mut end = |chunk: &mut Vec<u8>| {
        let chunk = std::mem::take(chunk);
        if !chunk.is_empty() {
            image.chunks += 1;
            if seen.insert(blake3::hash(&chunk)) {
                image.new.push(chunk);
            }
        }
    };
    while let Some(run) = disk.next_data(at)? {
        end(&mut chunk);
        chunker.skip_hole();
        at = run.start;
        while at < run.end {
            let mut block = vec![0; usize::try_from((run.end - at).min(4096))?];
            disk.read_at(at, &mut block)?;
            at += block.len() as u64;
            let verdict = chunker.push(&block);
            if verdict != Verdict::Zero {
                chunk.extend(block);
            }
            if verdict != Verdict::Extend {
                end(&mut chunk);
            }
        }
    }
    end(&mut chunk);
    Ok(image)
}

fn pack(image: &Image, frame: usize, level: i32) -> Result<String> {
    let mut zstd = zstd::bulk::Compressor::new(level)?;
    let mut unzstd = zstd::bulk::Decompressor::new()?;
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for chunk in &image.new {
        match frames.last_mut() {
            Some(last) if last.len() + chunk.len() <= frame => last.extend(chunk),
            _ => frames.push(chunk.clone()),
        }
    }
    let start = cpu_seconds();
    let packed = frames.iter().map(|f| zstd.compress(f)).collect::<std::io::Result<Vec<_>>>()?;
    let packing = cpu_seconds() - start;
    let start = cpu_seconds();
    for (packed, frame) in packed.iter().zip(&frames) {
        unzstd.decompress(packed, frame.len())?;
    }
    let unpacking = (cpu_seconds() - start) * 1e6 / f64::from(u32::try_from(frames.len().max(1))?);
    let stored: usize = packed.iter().zip(&frames).map(|(p, f)| p.len().min(f.len())).sum();
    let tables = image.chunks * EXTENT + image.new.len() * ENTRY + frames.len() * HEAD;
    let mib = |bytes: usize| bytes * 10 / (1 << 20);
    let all = mib(stored + tables);
    let (whole, tenth, tables) = (all / 10, all % 10, tables >> 10);
    Ok(format!("{whole}.{tenth} MiB (tables {tables} KiB) {packing:.2} s {unpacking:.0} us"))
}
