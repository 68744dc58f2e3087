//! The framing of WebSocket (RFC 6455), without I/O: what a console needs of it.
//!
//! ```text
//! 0        FIN(1) 000 opcode(4)      1 text, 2 binary, 0 continuation, 8 close, 9 ping, 10 pong
//! 1        MASK(1) length(7)         126: two bytes of length follow, 127: eight
//! ...      mask(4) if MASK           clients mask, servers do not
//! ...      payload
//! ```
//! A message's parts are given on as they come: a console is a stream.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// No console says more at once.
const MOST: u64 = 1 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Close,
    Ping,
    Pong,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Data(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close,
}

/// The value of `Sec-WebSocket-Accept` for a client's key.
pub fn accept(key: &str) -> String {
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()))
}

/// The value of a client's `Sec-WebSocket-Key`.
pub fn new_key(random: [u8; 16]) -> String {
    BASE64_STANDARD.encode(random)
}

/// One whole frame; `mask`: as clients must send it.
pub fn frame(kind: Kind, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let opcode = match kind {
        Kind::Text => 1,
        Kind::Close => 8,
        Kind::Ping => 9,
        Kind::Pong => 10,
    };
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ ..126), _) => frame.push(masked | short),
        (_, Ok(medium)) => {
            frame.push(masked | 126);
            frame.extend(medium.to_be_bytes());
        }
        _ => {
            frame.push(masked | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(mask.iter().flatten());
    let mask = mask.unwrap_or_default();
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Takes bytes as they come, gives messages.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

/// Bytes that are no frame of a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a WebSocket frame that is understood here")]
pub struct BadFrame;

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`BadFrame`] for reserved bits, unknown opcodes and frames beyond a mebibyte.
    pub fn message(&mut self) -> Result<Option<Message>, BadFrame> {
        let [head, length, rest @ ..] = self.bytes.as_slice() else { return Ok(None) };
        if head & 0x70 != 0 {
            return Err(BadFrame);
        }
        let (len, rest) = match length & 0x7f {
            126 => match rest.split_first_chunk() {
                Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((len, rest)) => (u64::from_be_bytes(*len), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        let len = usize::try_from(len).ok().filter(|_| len <= MOST).ok_or(BadFrame)?;
        let (mask, rest) = match length & 0x80 {
            0 => ([0; 4], rest),
            _ => match rest.split_first_chunk() {
                Some((mask, rest)) => (*mask, rest),
                None => return Ok(None),
            },
        };
        let Some(payload) = rest.get(..len) else { return Ok(None) };
        let payload: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let opcode = head & 0x0f;
        let used = self.bytes.len() - rest.len() + len;
        self.bytes.drain(..used);
        Ok(Some(match opcode {
            0..=2 => Message::Data(payload),
            8 => Message::Close,
            9 => Message::Ping(payload),
            10 => Message::Pong,
            _ => return Err(BadFrame),
        }))
    }
}

/// Bytes as text, piece by piece: what is cut in the middle of a character waits for the rest, what is no UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
pub struct Text {
    rest: Vec<u8>,
}

impl Text {
    pub fn take(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            _ => {
                // Invalid in the middle: the end may still be cut off.
                let tail = self.rest.len().saturating_sub(3);
                let cut = (tail..self.rest.len()).find(|at| {
                    std::str::from_utf8(&self.rest[*at..])
                        .is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
                });
                cut.unwrap_or(self.rest.len())
            }
        };
        let text = String::from_utf8_lossy(&self.rest[..whole]).into_owned();
        self.rest.drain(..whole);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(frame(Kind::Text, b"Hello", None), b"\x81\x05Hello");
        let masked = frame(Kind::Text, b"Hello", Some([0x37, 0xfa, 0x21, 0x3d]));
        assert_eq!(masked, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn frames_come_back_whatever_their_length_and_cuts() {
        for len in [0, 1, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..len).map(|n: u32| n.to_le_bytes()[0]).collect();
            for mask in [None, Some([1, 2, 3, 4])] {
                let mut decoder = Decoder::default();
                let bytes = frame(Kind::Text, &payload, mask);
                let (last, first) = bytes.split_last().unwrap();
                decoder.push(first);
                assert_eq!(decoder.message(), Ok(None), "{len}");
                decoder.push(&[*last, 0x8a, 0]);
                assert_eq!(decoder.message(), Ok(Some(Message::Data(payload.clone()))), "{len}");
                assert_eq!(decoder.message(), Ok(Some(Message::Pong)));
                assert_eq!(decoder.message(), Ok(None));
            }
        }
        let mut decoder = Decoder::default();
        decoder.push(&[0x81, 127, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(decoder.message(), Err(BadFrame), "too long to wait for");
        let mut decoder = Decoder::default();
        decoder.push(&[0xc1, 0]);
        assert_eq!(decoder.message(), Err(BadFrame), "compressed");
    }

    #[test]
    fn characters_are_not_torn() {
        let mut text = Text::default();
        assert_eq!(text.take(b"a\xc3"), "a");
        assert_eq!(text.take(b"\xa9b"), "\u{e9}b");
        assert_eq!(text.take(b"x\xffy\xe2\x82"), "x\u{fffd}y");
        assert_eq!(text.take(b"\xac"), "\u{20ac}");
    }
}
