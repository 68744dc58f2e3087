//! The frames that the index knows, by number: 32 bytes each. A frame's place in its pack, its lengths and its check
//! are kept once for all its blobs.

use std::collections::HashSet;

use crate::id::BlobKind;
use crate::log::Key;
use crate::pack::{Check, Frame};

const RAW_BIT: u32 = 1 << 31;
const KIND_SHIFT: u32 = 29;
const LEN_MASK: u32 = (1 << KIND_SHIFT) - 1;
/// A frame that is no more; its number is free.
const NO_PACK: u32 = u32::MAX;
/// Frames are kept in blocks of this many, so that growing copies nothing and leaves little unused.
const BLOCK: usize = 1 << 16;

#[derive(Debug, Clone, Copy)]
pub(super) struct FrameSlot {
    pub pack: u32,
    pub offset: u32,
    /// stored length, kind << 29, raw << 31
    stored: u32,
    pub plain_len: u32,
    /// All zero: there is none.
    check: [u8; 16],
}

impl FrameSlot {
    pub(super) fn new(pack: u32, frame: &Frame<Key>) -> Self {
        let flags = (frame.kind as u32) << KIND_SHIFT | if frame.raw { RAW_BIT } else { 0 };
        let stored = frame.stored_len & LEN_MASK | flags;
        let check = frame.check.map_or([0; 16], |c| c.0);
        Self { pack, offset: frame.offset, stored, plain_len: frame.plain_len, check }
    }

    pub(super) fn stored_len(&self) -> u32 {
        self.stored & LEN_MASK
    }

    pub(super) fn kind(&self) -> BlobKind {
        BlobKind::from_u8((self.stored >> KIND_SHIFT & 0b11) as u8).expect("written from a kind")
    }

    pub(super) fn raw(&self) -> bool {
        self.stored & RAW_BIT != 0
    }

    pub(super) fn check(&self) -> Option<Check> {
        (self.check != [0; 16]).then_some(Check(self.check))
    }
}

#[derive(Debug, Default)]
pub(super) struct Frames {
    blocks: Vec<Vec<FrameSlot>>,
    free: Vec<u32>,
}

impl Frames {
    /// Takes a frame in and tells its number.
    pub(super) fn add(&mut self, slot: FrameSlot) -> u32 {
        if let Some(number) = self.free.pop() {
            self.blocks[number as usize / BLOCK][number as usize % BLOCK] = slot;
            return number;
        }
        if self.blocks.last().is_none_or(|b| b.len() == BLOCK) {
            // The first block grows as needed: most regions are small.
            let room = if self.blocks.is_empty() { 0 } else { BLOCK };
            self.blocks.push(Vec::with_capacity(room));
        }
        let full = (self.blocks.len() - 1) * BLOCK;
        let last = self.blocks.last_mut().expect("one was just made");
        last.push(slot);
        u32::try_from(full + last.len() - 1).expect("fewer than 2^32 frames")
    }

    pub(super) fn get(&self, number: u32) -> &FrameSlot {
        &self.blocks[number as usize / BLOCK][number as usize % BLOCK]
    }

    /// Frees the numbers of all frames of these packs. No key may name them any more.
    pub(super) fn remove_packs(&mut self, packs: &HashSet<u32>) {
        for (number, slot) in self.blocks.iter_mut().flatten().enumerate() {
            if packs.contains(&slot.pack) {
                slot.pack = NO_PACK;
                self.free.push(u32::try_from(number).expect("fewer than 2^32 frames"));
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let slots: usize = self.blocks.iter().map(Vec::capacity).sum();
        slots * size_of::<FrameSlot>() + self.free.capacity() * size_of::<u32>()
    }
}
