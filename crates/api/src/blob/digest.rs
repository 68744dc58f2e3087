//! The checksums of the data plane: MD5, and the CRC-64 of Azure Storage (that of NVMe: reflected polynomial
//! 0x9A6C9329AC4BC9B5, inverted at both ends, written as eight little-endian bytes).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

const POLYNOMIAL: u64 = 0x9A6C_9329_AC4B_C9B5;
/// Bytes taken at a time.
const LANES: usize = 8;

/// `TABLES[k][b]`: what byte `b` becomes with `k` zero bytes behind it.
static TABLES: [[u64; 256]; LANES] = tables();

const fn tables() -> [[u64; 256]; LANES] {
    let mut tables = [[0; 256]; LANES];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut lane = 1;
    while lane < LANES {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[lane - 1][byte];
            tables[lane][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            byte += 1;
        }
        lane += 1;
    }
    tables
}

fn crc64(data: &[u8]) -> u64 {
    !extended(!0, data)
}

/// The state of a checksum after further bytes; it begins as all ones and is inverted at the end.
fn extended(mut crc: u64, data: &[u8]) -> u64 {
    let low = |value: u64| usize::from(value.to_le_bytes()[0]);
    let (words, rest) = data.as_chunks::<LANES>();
    for word in words {
        let mixed = (crc ^ u64::from_le_bytes(*word)).to_le_bytes();
        crc = (0..LANES).fold(0, |sum, i| sum ^ TABLES[LANES - 1 - i][usize::from(mixed[i])]);
    }
    for byte in rest {
        crc = TABLES[0][low(crc ^ u64::from(*byte))] ^ (crc >> 8);
    }
    crc
}

/// Both checksums of what passes by.
pub(super) struct Running {
    md5: Md5,
    crc64: u64,
}

impl Running {
    pub fn new() -> Self {
        Self { md5: Md5::new(), crc64: !0 }
    }

    pub fn update(&mut self, data: &[u8]) {
        self.md5.update(data);
        self.crc64 = extended(self.crc64, data);
    }

    /// MD5 and CRC-64 as in their headers.
    pub fn end(self) -> (String, String) {
        (STANDARD.encode(self.md5.finalize()), STANDARD.encode((!self.crc64).to_le_bytes()))
    }
}

/// As in `x-ms-content-crc64`.
pub(super) fn crc64_text(data: &[u8]) -> String {
    STANDARD.encode(crc64(data).to_le_bytes())
}

/// As in `Content-MD5`.
pub(super) fn md5_text(data: &[u8]) -> String {
    STANDARD.encode(Md5::digest(data))
}

/// Whether a header's text is base64 of so many bytes.
pub(super) fn is_digest(text: &str, len: usize) -> bool {
    STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-64/NVME.
    #[test]
    fn crc64_of_the_digits() {
        assert_eq!(crc64(b"123456789"), 0xAE8B_1486_0A79_9888);
        assert_eq!(crc64(b""), 0);
    }

    /// Bytes taken eight at a time count as bytes taken one at a time.
    #[test]
    fn crc64_of_all_lengths() {
        let data: Vec<u8> = (0..100_u8).map(|i| i.wrapping_mul(37)).collect();
        for len in 0..data.len() {
            let mut crc = !0_u64;
            for byte in &data[..len] {
                crc ^= u64::from(*byte);
                for _ in 0..8 {
                    crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
                }
            }
            assert_eq!(crc64(&data[..len]), !crc, "{len}");
        }
    }

    #[test]
    fn pieces_count_as_the_whole() {
        let data: Vec<u8> = (0..=255).collect();
        let mut running = Running::new();
        for piece in data.chunks(37) {
            running.update(piece);
        }
        assert_eq!(running.end(), (md5_text(&data), crc64_text(&data)));
    }

    #[test]
    fn md5_of_nothing() {
        assert_eq!(md5_text(b""), "1B2M2Y8AsgTpgAmY7PhCfg==");
        assert!(is_digest("1B2M2Y8AsgTpgAmY7PhCfg==", 16) && !is_digest("1B2M", 16) && !is_digest("§", 16));
    }
}
