//! Is a pack what it says? Pure: bytes in, what is wrong out.

use std::collections::HashSet;

use bytes::Bytes;

use crate::codec::{decode_frame, part_of};
use crate::id::ChunkId;
use crate::index::Location;
use crate::log::Key;
use crate::pack::{self, Check, Frame, Part, TRAILER_LEN};

/// What one zone's copy of a pack is worth.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Why its table cannot be used.
    pub table: Option<String>,
    /// Bytes are wrong that are no blob's: the magic at the start, or such as unpacking does not need.
    pub frame: Option<&'static str>,
    /// Blobs whose bytes are right, with their full ids.
    pub good: Vec<ChunkId>,
    /// Blobs whose bytes are wrong.
    pub bad: Vec<Key>,
    /// Blobs that the index sees in this pack and the pack does not have there.
    pub absent: Vec<Key>,
}

impl Checked {
    pub(crate) fn is_whole(&self) -> bool {
        self.table.is_none() && self.frame.is_none() && self.bad.is_empty() && self.absent.is_empty()
    }

    /// In words, for a person.
    pub(crate) fn detail(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.table.clone());
        words.extend(self.frame.map(str::to_owned));
        if !self.bad.is_empty() {
            words.push(format!("{} of its {} blobs do not match their hash", self.bad.len(), self.total()));
        }
        if !self.absent.is_empty() {
            words.push(format!("{} blobs that the index sees in it are not there", self.absent.len()));
        }
        words.join("; ")
    }

    fn total(&self) -> usize {
        self.good.len() + self.bad.len()
    }
}

/// Checks a whole pack, `bytes`, against its own table and against `indexed`, what the index sees in it, in the order
/// of its places. A frame that is as it was written is unpacked only if `deep`.
pub(crate) fn check_pack(bytes: &Bytes, indexed: &[(Key, Location)], deep: bool) -> Checked {
    let mut checked = Checked::default();
    if !pack::has_magic(bytes) {
        checked.frame = Some("it does not begin as a pack does");
    }
    match table_of(bytes) {
        Ok(frames) => {
            for frame in &frames {
                let written = as_written(bytes, frame);
                if written == Some(true) && !deep {
                    checked.good.extend(frame.blobs.iter().map(|b| b.id));
                    continue;
                }
                let bad_before = checked.bad.len();
                let plain = plain_of(bytes, frame.offset, frame.stored_len, frame.raw, frame.plain_len);
                for Part { id, at, len } in frame.blobs.iter().copied() {
                    let sound = plain.as_ref().is_some_and(|p| part_of(p, frame.kind, id, at, len).is_ok());
                    if sound { checked.good.push(id) } else { checked.bad.push(id.into()) }
                }
                if written == Some(false) && checked.bad.len() == bad_before {
                    checked.frame = Some("a frame is not as it was written, though its blobs are right");
                }
            }
            let held: HashSet<Place> = frames.iter().flat_map(places_of).collect();
            let absent = indexed.iter().filter(|(key, at)| !held.contains(&place_of(*key, at)));
            checked.absent = absent.map(|(key, _)| *key).collect();
        }
        Err(why) => {
            checked.table = Some(why);
            for frame in frames_of(indexed) {
                let sound = sound_blobs(bytes, frame);
                let found: HashSet<Key> = sound.iter().map(|(id, ..)| Key::from(*id)).collect();
                checked.good.extend(sound.into_iter().map(|(id, ..)| id));
                checked.bad.extend(frame.iter().map(|(key, _)| *key).filter(|key| !found.contains(key)));
            }
        }
    }
    checked
}

/// Where a blob lies: its frame's offset, stored and plain length, then its place and length in the frame; and how the
/// frame is to be read and checked.
type Place = (Key, [u32; 5], (u8, bool, Option<Check>));

fn places_of(frame: &Frame) -> impl Iterator<Item = Place> {
    let how = (frame.kind as u8, frame.raw, frame.check);
    let place = move |b: &Part| (b.id.into(), [frame.offset, frame.stored_len, frame.plain_len, b.at, b.len], how);
    frame.blobs.iter().map(place)
}

fn place_of(key: Key, at: &Location) -> Place {
    (key, [at.offset, at.stored_len, at.frame_len, at.at, at.plain_len], (at.kind as u8, at.raw, at.check))
}

/// What the index sees in a pack, frame by frame.
pub(super) fn frames_of(indexed: &[(Key, Location)]) -> impl Iterator<Item = &[(Key, Location)]> {
    indexed.chunk_by(|(_, a), (_, b)| a.same_frame(b))
}

/// Of the blobs of one frame those that are in the pack where the index says, with their full ids and plain bytes.
pub(super) fn sound_blobs(bytes: &Bytes, frame: &[(Key, Location)]) -> Vec<(ChunkId, Location, Bytes)> {
    let Some((_, at)) = frame.first() else { return Vec::new() };
    let Some(plain) = plain_of(bytes, at.offset, at.stored_len, at.raw, at.frame_len) else { return Vec::new() };
    let sound = |(key, at): &(Key, Location)| {
        let end = at.at.checked_add(at.plain_len)? as usize;
        let blob = (end <= plain.len()).then(|| plain.slice(at.at as usize..end))?;
        let id = at.kind.id_of(&blob);
        (Key::from(id) == *key).then_some((id, *at, blob))
    };
    frame.iter().filter_map(sound).collect()
}

/// Whether a frame's stored bytes are those that were written; `None` if the pack does not tell.
fn as_written(bytes: &Bytes, frame: &Frame) -> Option<bool> {
    let start = frame.offset as usize;
    let stored = bytes.get(start..start + frame.stored_len as usize);
    frame.check.map(|check| stored.is_some_and(|s| Check::of(s) == check))
}

/// The plain bytes of a frame, not verified.
fn plain_of(bytes: &Bytes, offset: u32, stored_len: u32, raw: bool, plain_len: u32) -> Option<Bytes> {
    let (start, end) = (offset as usize, offset.checked_add(stored_len)? as usize);
    let stored = (end <= bytes.len()).then(|| bytes.slice(start..end))?;
    decode_frame(raw, plain_len, &stored)
}

/// The frames that the pack's own table names.
fn table_of(bytes: &Bytes) -> Result<Vec<Frame>, String> {
    let why = |e: crate::error::ChunkError| match e {
        crate::error::ChunkError::Corrupt { detail, .. } => detail,
        other => other.to_string(),
    };
    let short = || "it is shorter than a trailer".to_owned();
    let trailer_at = bytes.len().checked_sub(TRAILER_LEN).ok_or_else(short)?;
    let table = pack::table_len(&bytes[trailer_at..]).map_err(why)?;
    let table_at = usize::try_from(table).ok().and_then(|t| trailer_at.checked_sub(t)).ok_or_else(short)?;
    pack::parse_tail(&bytes[table_at..], bytes.len() as u64).map_err(why)
}
