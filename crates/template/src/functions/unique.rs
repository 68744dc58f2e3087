//! Names made of hashes: `guid`, `uniqueString`, and the one function that is random, `newGuid`.

use super::{Args, Function, MANY, pure, scoped};
use crate::eval::{Eval, Evaluator, Frame, Place, error};
use aws_lc_rs::digest;
use serde_json::Value;
use uuid::Uuid;

pub(super) const TABLE: &[Function] =
    &[pure("guid", 1, MANY, guid), scoped("newGuid", 0, 0, new_guid), pure("uniqueString", 1, MANY, unique_string)];

/// Namespace of all GUIDs that templates make of names (as Azure's documentation of `guid` gives it).
const NAMESPACE: Uuid = Uuid::from_u128(0x11fb_06fb_712d_4ddd_98c7_e71b_bd58_8830);

/// The arguments, joined by hyphens.
fn joined(function: &str, values: &[Value]) -> Eval<String> {
    let args = Args { function, values };
    let parts: Vec<&str> = (0..values.len()).map(|i| args.str(i)).collect::<Eval<_>>()?;
    Ok(parts.join("-"))
}

/// A version 5 UUID of the arguments.
fn guid(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(NAMESPACE.as_bytes());
    context.update(joined(f, &v)?.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&context.finish().as_ref()[..16]);
    Ok(uuid::Builder::from_sha1_bytes(bytes).into_uuid().to_string().into())
}

fn new_guid(_: &str, _: Vec<Value>, _: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    if frame.place() != Place::Default {
        return error(
            "The template function 'newGuid' is not expected at this location. It can only be used in the default value of a parameter.",
        );
    }
    Ok(Uuid::new_v4().to_string().into())
}

/// 13 letters of a 64-bit hash of the arguments.
fn unique_string(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut hash = murmur(joined(f, &v)?.as_bytes());
    let mut text = String::with_capacity(13);
    for _ in 0..13 {
        let index = usize::try_from(hash >> 59).unwrap_or(0);
        text.push(char::from(LETTERS[index]));
        hash <<= 5;
    }
    Ok(text.into())
}

const C1: u32 = 0x239b_961b;
const C2: u32 = 0xab0e_9789;

/// Up to four bytes as a little-endian number.
fn word(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).rev().fold(0, |word, b| word << 8 | u32::from(*b))
}

/// MurmurHash3 with two lanes of 32 bits and seed 0: the variant behind Azure's `uniqueString`.
fn murmur(data: &[u8]) -> u64 {
    let low = |k: u32| k.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let high = |k: u32| k.wrapping_mul(C2).rotate_left(17).wrapping_mul(C1);
    let (mut h1, mut h2) = (0_u32, 0_u32);
    let mut blocks = data.chunks_exact(8);
    for block in &mut blocks {
        h1 = (h1 ^ low(word(block))).rotate_left(19).wrapping_add(h2);
        h1 = h1.wrapping_mul(5).wrapping_add(0x561c_cd1b);
        h2 = (h2 ^ high(word(&block[4..]))).rotate_left(13).wrapping_add(h1);
        h2 = h2.wrapping_mul(5).wrapping_add(0x0bca_a747);
    }
    let tail = blocks.remainder();
    if !tail.is_empty() {
        h1 ^= low(word(tail));
    }
    if tail.len() > 4 {
        h2 ^= high(word(&tail[4..]));
    }
    #[expect(clippy::cast_possible_truncation, reason = "the hash takes the length modulo 2^32")]
    let length = data.len() as u32;
    h1 ^= length;
    h2 ^= length;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = mix(h1);
    h2 = mix(h2);
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    u64::from(h2) << 32 | u64::from(h1)
}

fn mix(mut h: u32) -> u32 {
    h = (h ^ h >> 16).wrapping_mul(0x85eb_ca6b);
    h = (h ^ h >> 13).wrapping_mul(0xc2b2_ae35);
    h ^ h >> 16
}
