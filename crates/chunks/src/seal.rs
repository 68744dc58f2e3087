//! Packs sealed at rest: what a store holds of them is ciphertext, whoever reads them through [`Zones`](crate::store::Zones)
//! sees them plain. Nothing above knows; deduplication, index and replication do not change.
//!
//! ```text
//! offset 0   magic   "LZSEAL\x00\x01"
//!        8   key     the id of the key [u8; 8]
//!       16   blocks  for each 16 KiB of the plain pack (the last: what is left): ciphertext, tag [u8; 16]
//! ```
//! Block `n` is AES-256-GCM-SIV under a key for this pack alone (BLAKE3 of the region's key and the pack's id), with `n` as
//! nonce and the pack's id as additional data: a block is worth nothing in another place or another pack. A pack's id is
//! chosen once and the pack is immutable, so no nonce comes twice with other bytes; and if it ever did (a repair of a
//! pack that somebody changed), this mode tells no more than whether two blocks are the same.
//! That a pack was cut off at a block's end is seen by its trailer.
//!
//! A pack's id says that it is sealed: its version is 8, that of others 7 (see [`is_sealed`]). Whoever opens a pack tries
//! the keys in turn: the newest seals, those before it open what they sealed.
//!
//! Must never: write a key anywhere, hand out a block whose tag is wrong.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::{Buf, Bytes, BytesMut};
use object_store::path::Path;
use uuid::Uuid;

use crate::error::{ChunkError, Result};

const MAGIC: &[u8; 8] = b"LZSEAL\x00\x01";
pub(crate) const HEADER: usize = 16;
/// A small read opens two of them at most.
const BLOCK: usize = 16 << 10;
const TAG: usize = 16;
const SEALED_BLOCK: usize = BLOCK + TAG;
/// As `store.json` names it.
pub(crate) const CIPHER: &str = "AES-256-GCM-SIV";

#[derive(Clone)]
struct Key {
    /// Names it without telling it.
    id: [u8; 8],
    secret: [u8; 32],
}

/// The keys of a region: the first seals what is written, all of them open what is there.
#[derive(Clone)]
pub struct SealingKeys(Arc<Vec<Key>>);

/// Not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 64 hexadecimal digits (make one with: openssl rand -hex 32)")]
pub struct ParseKeyError;

impl SealingKeys {
    /// Of keys as they stand in files and variables, the newest first; `None` if there are none.
    ///
    /// # Errors
    /// [`ParseKeyError`] if one is no key.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Option<Self>, ParseKeyError> {
        let parse = |text: &str| {
            let mut secret = [0; 32];
            hex::decode_to_slice(text.trim(), &mut secret).map_err(|_| ParseKeyError)?;
            let id = blake3::derive_key("lazuli sealed packs: key id v1", &secret);
            Ok(Key { id: *id.first_chunk().expect("8 of 32 bytes"), secret })
        };
        let keys: Vec<Key> = texts.into_iter().map(parse).collect::<Result<_, _>>()?;
        Ok((!keys.is_empty()).then(|| Self(Arc::new(keys))))
    }

    /// Whether this is what a pack begins with that the newest key sealed.
    pub(crate) fn sealed_by_newest(&self, begin: &[u8]) -> bool {
        begin.starts_with(MAGIC) && begin[MAGIC.len()..].starts_with(&self.0[0].id)
    }

    /// The names of the keys, the newest first.
    pub fn ids(&self) -> Vec<String> {
        self.0.iter().map(|k| hex::encode(k.id)).collect()
    }

    /// Seals a pack, `pieces` one after the other, with the newest key.
    pub(crate) fn seal(&self, pack: Uuid, pieces: &[Bytes]) -> Result<Bytes> {
        let key = &self.0[0];
        let plain_len: usize = pieces.iter().map(Bytes::len).sum();
        let mut out = BytesMut::with_capacity(HEADER + plain_len + plain_len.div_ceil(BLOCK) * TAG);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&key.id);
        let cipher = PackCipher::new(key, pack);
        let mut rest = pieces.iter().cloned();
        let mut piece = rest.next().unwrap_or_default();
        let mut left = plain_len;
        for number in 0.. {
            if left == 0 {
                break;
            }
            let len = left.min(BLOCK);
            let start = out.len();
            while out.len() < start + len {
                if !piece.has_remaining() {
                    piece = rest.next().unwrap_or_default();
                    continue;
                }
                let take = piece.len().min(start + len - out.len());
                out.extend_from_slice(&piece.split_to(take));
            }
            let tag = cipher.seal(number, &mut out[start..])?;
            out.extend_from_slice(&tag);
            left -= len;
        }
        Ok(out.freeze())
    }

    /// Exactly `wanted` of the plain pack, from `sealed`, what the store has in [`sealed_range`].
    pub(crate) fn open_range(&self, pack: Uuid, wanted: &Range<u64>, sealed: &[u8]) -> Result<Bytes> {
        let first = wanted.start / BLOCK as u64;
        let mut plain = self.open_blocks(pack, first, sealed)?;
        let short = || ChunkError::corrupt(format!("pack {pack}"), "it is shorter than its index says");
        let within = |n: u64| usize::try_from(n - first * BLOCK as u64).map_err(|_| short());
        let (start, end) = (within(wanted.start)?, within(wanted.end)?);
        if end > plain.len() {
            return Err(short());
        }
        plain.truncate(end);
        plain.advance(start);
        Ok(plain.freeze())
    }

    fn open_blocks(&self, pack: Uuid, first: u64, sealed: &[u8]) -> Result<BytesMut> {
        for key in self.0.iter() {
            let cipher = PackCipher::new(key, pack);
            let mut plain = BytesMut::zeroed(plain_len_of_blocks(sealed.len()));
            let mut whole = true;
            let mut opened = false;
            for ((number, from), to) in (first..).zip(sealed.chunks(SEALED_BLOCK)).zip(plain.chunks_mut(BLOCK)) {
                whole = cipher.open(number, from, to);
                if !whole {
                    break;
                }
                opened = true;
            }
            if whole {
                return Ok(plain);
            }
            if opened {
                // It is this key, and something behind is damaged.
                break;
            }
        }
        let keys = self.ids().join(", ");
        let detail = format!("what is sealed there does not open with any of the keys given ({keys})");
        Err(ChunkError::corrupt(format!("pack {pack}"), detail))
    }

    /// A whole pack for who judges its parts: blocks that cannot be opened are zeros, which no hash in a pack matches. An
    /// error, the key's name, if it is sealed with a key that is not given.
    pub(crate) fn open_whole(&self, pack: Uuid, sealed: &[u8]) -> Result<Bytes, String> {
        let Some((header, blocks)) = sealed.split_at_checked(HEADER) else { return Ok(Bytes::new()) };
        let (magic, id) = header.split_at(MAGIC.len());
        let mut best: Option<(usize, &Key, BytesMut)> = None;
        for key in self.0.iter() {
            let cipher = PackCipher::new(key, pack);
            let mut plain = BytesMut::zeroed(plain_len_of_blocks(blocks.len()));
            let each = (0..).zip(blocks.chunks(SEALED_BLOCK)).zip(plain.chunks_mut(BLOCK));
            let opened = each.map(|((number, from), to)| cipher.open(number, from, to)).filter(|o| *o).count();
            let all = opened == blocks.len().div_ceil(SEALED_BLOCK);
            if best.as_ref().is_none_or(|(count, ..)| opened > *count) {
                best = Some((opened, key, plain));
            }
            if all {
                break;
            }
        }
        match best {
            Some((0, ..)) | None if magic == MAGIC && !self.0.iter().any(|k| k.id == id) => Err(hex::encode(id)),
            Some((_, key, mut plain)) => {
                if magic != MAGIC || id != key.id {
                    // Damage that opening does not need is damage still: the plain magic says so.
                    let len = plain.len().min(MAGIC.len());
                    plain[..len].fill(0);
                }
                Ok(plain.freeze())
            }
            None => Ok(Bytes::new()),
        }
    }
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealingKeys").field(&self.ids()).finish()
    }
}

/// What seals and opens the blocks of one pack.
struct PackCipher {
    key: LessSafeKey,
    pack: Uuid,
}

impl PackCipher {
    fn new(key: &Key, pack: Uuid) -> Self {
        let material = [key.secret.as_slice(), pack.as_bytes()].concat();
        let secret = blake3::derive_key("lazuli sealed packs: key of a pack v1", &material);
        let unbound = UnboundKey::new(&AES_256_GCM_SIV, &secret).expect("32 bytes are a key");
        Self { key: LessSafeKey::new(unbound), pack }
    }

    fn nonce(number: u64) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&self, number: u64, block: &mut [u8]) -> Result<[u8; TAG]> {
        let aad = Aad::from(self.pack.as_bytes());
        let tag = self.key.seal_in_place_separate_tag(Self::nonce(number), aad, block).map_err(ChunkError::worker)?;
        tag.as_ref().try_into().map_err(ChunkError::worker)
    }

    /// Opens a sealed block into `plain`, which is as long as it holds; `false`, and zeros, if it is not right.
    fn open(&self, number: u64, sealed: &[u8], plain: &mut [u8]) -> bool {
        let Some((text, tag)) = sealed.split_last_chunk::<TAG>() else { return false };
        let aad = Aad::from(self.pack.as_bytes());
        let opened = self.key.open_separate_gather(Self::nonce(number), aad, text, tag, plain).is_ok();
        if !opened {
            plain.fill(0);
        }
        opened
    }
}

/// The sealed pack whose object this is, wherever it is kept.
pub(crate) fn from_key(key: &Path) -> Option<Uuid> {
    let id = Uuid::try_parse(key.filename()?).ok()?;
    is_sealed(id).then_some(id)
}

/// A new pack's id, by which it is known to be sealed or not.
pub(crate) fn new_pack(sealed: bool) -> Uuid {
    let id = Uuid::now_v7();
    if sealed { with_version(id, 8) } else { id }
}

/// Whether the store has this pack sealed.
pub(crate) fn is_sealed(pack: Uuid) -> bool {
    pack.get_version_num() == 8
}

/// When a pack's id was chosen, sealed or not.
pub(crate) fn time_of(pack: Uuid) -> Option<uuid::Timestamp> {
    if is_sealed(pack) { with_version(pack, 7).get_timestamp() } else { pack.get_timestamp() }
}

fn with_version(id: Uuid, version: u8) -> Uuid {
    let mut bytes = id.into_bytes();
    bytes[6] = (bytes[6] & 0x0f) | (version << 4);
    Uuid::from_bytes(bytes)
}

/// What of the sealed pack holds `plain`; the last block may end before.
pub(crate) fn sealed_range(plain: &Range<u64>) -> Range<u64> {
    let place = |block: u64| HEADER as u64 + block * SEALED_BLOCK as u64;
    place(plain.start / BLOCK as u64)..place(plain.end.div_ceil(BLOCK as u64))
}

/// How long the plain pack is whose sealed one has this length.
pub(crate) fn plain_len(sealed: u64) -> u64 {
    let blocks = sealed.saturating_sub(HEADER as u64);
    blocks.saturating_sub(blocks.div_ceil(SEALED_BLOCK as u64) * TAG as u64)
}

fn plain_len_of_blocks(sealed: usize) -> usize {
    sealed.saturating_sub(sealed.div_ceil(SEALED_BLOCK) * TAG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";

    fn keys(texts: &[&str]) -> SealingKeys {
        SealingKeys::parse(texts.iter().copied()).unwrap().unwrap()
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
    }

    fn part(sealed: &[u8], wanted: &Range<u64>) -> Vec<u8> {
        let range = sealed_range(wanted);
        let end = usize::try_from(range.end).unwrap().min(sealed.len());
        sealed[usize::try_from(range.start).unwrap().min(end)..end].to_vec()
    }

    proptest! {
        #[test]
        fn any_part_opens_to_what_was_sealed(len in 0usize..80_000, cuts in proptest::collection::vec(1usize..30_000, 0..5), a: u32, b: u32) {
            let (plain, pack, keys) = (bytes(len), new_pack(true), keys(&[NEW]));
            let mut whole = Bytes::from(plain.clone());
            let mut pieces: Vec<Bytes> = cuts.iter().map(|cut| whole.split_to((*cut).min(whole.len()))).collect();
            pieces.push(whole);
            let sealed = keys.seal(pack, &pieces).unwrap();
            prop_assert_eq!(plain_len(sealed.len() as u64), len as u64);
            prop_assert!(keys.open_whole(pack, &sealed).unwrap() == plain);
            let (a, b) = (u64::from(a) % (len as u64 + 1), u64::from(b) % (len as u64 + 1));
            let wanted = a.min(b)..a.max(b);
            let opened = keys.open_range(pack, &wanted, &part(&sealed, &wanted)).unwrap();
            prop_assert!(opened == plain[usize::try_from(wanted.start).unwrap()..usize::try_from(wanted.end).unwrap()]);
            let beyond = a..len as u64 + 1;
            prop_assert!(keys.open_range(pack, &beyond, &part(&sealed, &beyond)).is_err());
        }

        #[test]
        fn a_changed_byte_is_never_handed_out(len in 1usize..60_000, at: usize, flip in 1u8..) {
            let (plain, pack, keys) = (bytes(len), new_pack(true), keys(&[NEW]));
            let mut sealed = keys.seal(pack, &[plain.clone().into()]).unwrap().to_vec();
            let at = HEADER + at % (sealed.len() - HEADER);
            sealed[at] ^= flip;
            let all = 0..len as u64;
            prop_assert!(keys.open_range(pack, &all, &part(&sealed, &all)).is_err());
            // All but the block that was hit is there still.
            let opened = keys.open_whole(pack, &sealed).unwrap();
            let hit = (at - HEADER) / SEALED_BLOCK * BLOCK;
            for (i, (a, b)) in opened.iter().zip(&plain).enumerate() {
                let right = if (hit..hit + BLOCK).contains(&i) { *a == 0 } else { a == b };
                prop_assert!(right, "at {}", i);
            }
        }

        #[test]
        fn junk_never_panics(junk in proptest::collection::vec(any::<u8>(), 0..40_000), a in 0u64..40_000, b in 0u64..40_000) {
            let (keys, pack) = (keys(&[NEW, OLD]), new_pack(true));
            let wanted = a.min(b)..a.max(b);
            prop_assert!(wanted.is_empty() || keys.open_range(pack, &wanted, &part(&junk, &wanted)).is_err());
            if let Ok(opened) = keys.open_whole(pack, &junk) {
                prop_assert!(opened.iter().all(|b| *b == 0));
            }
            prop_assert!(plain_len(junk.len() as u64) <= junk.len() as u64);
        }
    }

    #[test]
    fn old_keys_open_and_the_newest_seals() {
        let (pack, plain) = (new_pack(true), Bytes::from(bytes(50_000)));
        let sealed = keys(&[OLD]).seal(pack, std::slice::from_ref(&plain)).unwrap();
        let both = keys(&[NEW, OLD]);
        let range = 20_000..30_000;
        assert_eq!(both.open_range(pack, &range, &part(&sealed, &range)).unwrap(), plain[20_000..30_000]);
        assert_eq!(both.open_whole(pack, &sealed).unwrap(), plain);
        assert_ne!(both.seal(pack, std::slice::from_ref(&plain)).unwrap(), sealed);
        let refused = keys(&[NEW]).open_whole(pack, &sealed).unwrap_err();
        assert_eq!(refused, keys(&[OLD]).ids()[0]);
        assert!(keys(&[NEW]).open_range(pack, &range, &part(&sealed, &range)).is_err());
        // Nor under another pack's name.
        assert!(both.open_range(new_pack(true), &range, &part(&sealed, &range)).is_err());
    }

    #[test]
    fn keys_are_read_and_never_shown() {
        let two = keys(&[&format!(" {NEW}\n"), OLD]);
        assert!(!format!("{two:?}").contains("0102"), "{two:?}");
        assert_ne!(two.ids()[0], two.ids()[1]);
        for text in ["", "12", &NEW[1..], &format!("{OLD}00"), &NEW.replace('f', "g")] {
            assert_eq!(SealingKeys::parse([text]).unwrap_err(), ParseKeyError);
        }
        assert!(SealingKeys::parse([]).unwrap().is_none());
    }

    #[test]
    fn an_id_says_whether_its_pack_is_sealed_and_when_it_was_made() {
        let (plain, sealed) = (new_pack(false), new_pack(true));
        assert_eq!((is_sealed(plain), is_sealed(sealed)), (false, true));
        let second = |id| time_of(id).unwrap().to_unix().0;
        assert!(second(sealed) - second(plain) < 60);
    }
}
