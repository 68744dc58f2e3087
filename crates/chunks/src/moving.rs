//! Blobs on their way into other packs, of this region or another: read in few large ranges, nothing twice.
//!
//! A frame that is wanted whole moves as it is stored: its check tells that it is what was written, so it is not unpacked.
//! A frame of which only a part is wanted, and one of a pack without checks, is unpacked, each blob verified by its id,
//! and a part is packed anew. Bytes that are neither the one nor the other never leave here.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::codec::StoredFrame;
use crate::error::{ChunkError, Result};
use crate::id::{BlobKind, ChunkId};
use crate::index::Location;
use crate::pack::{Check, Part};
use crate::reader::{fetch_frames, read_sound};
use crate::region::Inner;

/// Frames that lie one after the other are read in pieces of this size: a cut line loses no more than the pieces
/// under way.
const READ: u32 = 2 << 20;
/// Parts of frames are asked for in steps of this many plain bytes.
const PARTS: u64 = 2 << 20;

/// What is read in one go.
#[derive(Debug)]
pub(crate) enum Step {
    Whole(Run),
    /// To be unpacked; those of a frame are together.
    Parts(Vec<ChunkId>),
}

/// Whole frames, one right after the other in a pack.
#[derive(Debug)]
pub(crate) struct Run {
    pack: Uuid,
    range: Range<u32>,
    frames: Vec<Whole>,
}

/// A frame all of whose blobs are wanted.
#[derive(Debug)]
struct Whole {
    offset: u32,
    stored_len: u32,
    plain_len: u32,
    kind: BlobKind,
    raw: bool,
    check: Check,
    blobs: Vec<Part>,
}

/// How to read these blobs, each named once: runs in the order of their packs, then the parts.
pub(crate) fn steps(mut located: Vec<(ChunkId, Location)>) -> Vec<Step> {
    located.sort_unstable_by_key(|(_, at)| (at.pack, at.offset, at.at));
    let mut runs: Vec<Run> = Vec::new();
    let mut parts: Vec<Vec<ChunkId>> = Vec::new();
    let mut part_bytes = PARTS;
    for blobs in located.chunk_by(|(_, a), (_, b)| a.same_frame(b)) {
        let pack = blobs[0].1.pack;
        if let Some(frame) = whole(blobs) {
            let end = frame.offset + frame.stored_len;
            match runs.last_mut() {
                Some(run) if run.pack == pack && run.range.end == frame.offset && end - run.range.start <= READ => {
                    run.range.end = end;
                    run.frames.push(frame);
                }
                _ => runs.push(Run { pack, range: frame.offset..end, frames: vec![frame] }),
            }
            continue;
        }
        if part_bytes >= PARTS {
            parts.push(Vec::new());
            part_bytes = 0;
        }
        let last = parts.last_mut().expect("one was just made if there was none");
        last.extend(blobs.iter().map(|(id, _)| *id));
        part_bytes += blobs.iter().map(|(_, at)| u64::from(at.plain_len)).sum::<u64>();
    }
    runs.into_iter().map(Step::Whole).chain(parts.into_iter().map(Step::Parts)).collect()
}

/// The frame of these blobs, in the order of their places, if they are all that is in it and it can be checked.
fn whole(blobs: &[(ChunkId, Location)]) -> Option<Whole> {
    let at = blobs[0].1;
    let check = at.check?;
    let mut end = 0;
    for (_, blob) in blobs {
        (blob.at == end).then_some(())?;
        end += blob.plain_len;
    }
    let Location { offset, stored_len, frame_len: plain_len, kind, raw, .. } = at;
    let part = |(id, at): &(ChunkId, Location)| Part { id: *id, at: at.at, len: at.plain_len };
    let blobs = blobs.iter().map(part).collect();
    (end == plain_len).then_some(Whole { offset, stored_len, plain_len, kind, raw, check, blobs })
}

/// Reads a step; every frame of it is verified.
pub(crate) async fn fetch(inner: &Arc<Inner>, step: Step) -> Result<Vec<StoredFrame>> {
    let run = match step {
        Step::Parts(ids) => return fetch_frames(inner, &ids).await,
        Step::Whole(run) => Arc::new(run),
    };
    let checked = Arc::clone(&run);
    // Hashing takes less than a millisecond, and the bytes are in the processor's cache now.
    let here = 2 * READ as usize;
    match read_sound(inner, run.pack, run.range.clone(), here, move |bytes| checked.verify(&bytes)).await {
        // A collection moved it, or it is damaged in every zone: the blobs tell which, each for itself.
        Err(ChunkError::NotFound { .. } | ChunkError::Corrupt { .. }) => {
            let ids: Vec<ChunkId> = run.frames.iter().flat_map(|f| &f.blobs).map(|b| b.id).collect();
            fetch_frames(inner, &ids).await
        }
        other => other,
    }
}

impl Run {
    /// The frames in `bytes`, what the pack has in `range`, if each is what was written.
    fn verify(&self, bytes: &Bytes) -> Result<Vec<StoredFrame>> {
        let frame = |f: &Whole| {
            let start = (f.offset - self.range.start) as usize;
            let (within, bytes) = (bytes, bytes.slice(start..start + f.stored_len as usize));
            if Check::of(&bytes) != f.check {
                let what = format!("a frame of pack {} at byte {}", self.pack, f.offset);
                return Err(ChunkError::corrupt(what, "it is not what was written"));
            }
            let Whole { plain_len, kind, raw, check, .. } = *f;
            let within = Some((within.clone(), start));
            Ok(StoredFrame { kind, raw, plain_len, check, bytes, within, blobs: f.blobs.clone() })
        };
        self.frames.iter().map(frame).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Frames of a pack, one after the other: stored length, blocks of each blob and whether it is wanted, whether there is
    /// a check.
    type Frames = Vec<(u32, Vec<(u32, bool)>, bool)>;

    fn frames() -> impl Strategy<Value = Frames> {
        let blobs = proptest::collection::vec((1u32..8, prop_oneof![3 => Just(true), 1 => Just(false)]), 1..6);
        proptest::collection::vec((1u32..900_000, blobs, prop_oneof![4 => Just(true), 1 => Just(false)]), 0..20)
    }

    proptest! {
        /// Each blob is asked for once; whole frames with checks in runs without gaps, all others as parts, by frame.
        #[test]
        fn everything_wanted_is_in_one_step(frames in frames(), rotate: usize) {
            let mut located = Vec::new();
            let mut offset = 8;
            let (mut moved, mut unpacked) = (Vec::new(), Vec::new());
            for (n, (stored_len, blobs, checked)) in frames.iter().enumerate() {
                let frame_len = blobs.iter().map(|(blocks, _)| blocks * 4096).sum();
                let mut at = 0;
                let whole = *checked && blobs.iter().all(|(_, wanted)| *wanted);
                for (i, (blocks, wanted)) in blobs.iter().enumerate() {
                    let id = BlobKind::Chunk.id_of(&[n.to_le_bytes(), i.to_le_bytes()].concat());
                    let check = checked.then_some(Check([7; 16]));
                    let (plain_len, kind) = (blocks * 4096, BlobKind::Chunk);
                    let pack = Uuid::nil();
                    let place =
                        Location { pack, offset, stored_len: *stored_len, frame_len, at, plain_len, kind, raw: false, check };
                    at += plain_len;
                    if *wanted {
                        located.push((id, place));
                        if whole { moved.push(id) } else { unpacked.push(id) }
                    }
                }
                offset += stored_len;
            }
            if !located.is_empty() {
                let by = rotate % located.len();
                located.rotate_left(by);
            }
            let (mut in_runs, mut in_parts) = (Vec::new(), Vec::new());
            for step in steps(located) {
                match step {
                    Step::Whole(run) => {
                        let mut end = run.range.start;
                        for frame in &run.frames {
                            prop_assert_eq!(frame.offset, end);
                            end += frame.stored_len;
                        }
                        prop_assert_eq!(run.range.end, end);
                        prop_assert!(run.range.end - run.range.start <= READ || run.frames.len() == 1);
                        in_runs.extend(run.frames.into_iter().flat_map(|f| f.blobs).map(|b| b.id));
                    }
                    Step::Parts(ids) => in_parts.extend(ids),
                }
            }
            prop_assert_eq!(in_runs, moved);
            prop_assert_eq!(in_parts, unpacked);
        }
    }
}
