//! The disks that are stored.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use lazuli_disks::{DiskSource, RawFile, vhd};

const BLOCK: usize = 4096;

pub fn is_vhd(file: &Path) -> bool {
    file.extension().is_some_and(|e| e.eq_ignore_ascii_case("vhd"))
}

pub fn open(file: &Path) -> Result<Arc<dyn DiskSource>> {
    Ok(if is_vhd(file) { Arc::new(vhd::open_fixed(file)?) } else { Arc::new(RawFile::open(file)?) })
}

pub fn data_bytes(disk: &dyn DiskSource) -> Result<u64> {
    let (mut at, mut sum) = (0, 0);
    while let Some(run) = disk.next_data(at)? {
        sum += run.end - run.start;
        at = run.end;
    }
    Ok(sum)
}

/// Two disks whose second shares most with the first, at other offsets.
pub fn samples(dir: &Path) -> Result<Vec<PathBuf>> {
    let text: Vec<u8> = (0..200_000u64)
        .flat_map(|i| format!("{:x} lies at {i}\n", i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes())
        .collect();
    let block = |n: usize| &text[n * BLOCK % (text.len() - BLOCK)..][..BLOCK];
    let make = |name: &str, shift: usize, changed: usize| {
        let mut bytes = vec![0; 32 << 20];
        for (i, out) in bytes.chunks_exact_mut(BLOCK).skip(shift).enumerate().filter(|(i, _)| i % 64 < 40) {
            out.copy_from_slice(block(if i < changed { i + 7 } else { i }));
            out[..8].copy_from_slice(&i.to_le_bytes());
        }
        let path = dir.join(name);
        std::fs::write(&path, bytes).map(|()| path)
    };
    Ok(vec![make("first.raw", 0, 0)?, make("second.raw", 11, 300)?])
}

/// A disk of 1 TiB that holds the data of `model` until it is 5 GiB, each time with other bytes (xored with a number) and
/// in another place. Returns its bytes of data.
pub fn sparse(model: &Path, out: &Path) -> Result<u64> {
    let model = open(model)?;
    let file = File::create(out)?;
    file.set_len(1 << 40)?;
    let mut written = 0u64;
    let mut block = [0; BLOCK];
    for copy in 1..u8::MAX {
        let base = u64::from(copy - 1) * (64 << 30);
        let mut at = 0;
        while let Some(run) = model.next_data(at)? {
            at = run.start;
            let mut bytes = Vec::new();
            for from in (run.start..run.end).step_by(BLOCK) {
                let len = usize::try_from(run.end - from)?.min(BLOCK);
                model.read_at(from, &mut block[..len])?;
                let zero = block[..len].iter().all(|b| *b == 0);
                if !zero {
                    bytes.extend(block[..len].iter().map(|b| b ^ copy));
                }
                if zero || bytes.len() >= 1 << 20 || from + BLOCK as u64 >= run.end {
                    file.write_all_at(&bytes, base + at)?;
                    written += bytes.len() as u64;
                    at = from + len as u64;
                    bytes.clear();
                }
            }
            at = run.end;
        }
        if written >= 5 << 30 || copy == 15 {
            break;
        }
    }
    file.sync_all()?;
    Ok(written)
}
