//! The two cyclic redundancy checks that disk formats use, both reflected: CRC-32 (GPT) and CRC-32C (VHDX).

const CRC32: [u32; 256] = table(0xedb8_8320);
const CRC32C: [u32; 256] = table(0x82f6_3b78);

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut value = byte;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ polynomial } else { value >> 1 };
            bit += 1;
        }
        table[byte as usize] = value;
        byte += 1;
    }
    table
}

fn run(table: &[u32; 256], bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, b| (crc >> 8) ^ table[usize::from(crc.to_le_bytes()[0] ^ b)])
}

pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    run(&CRC32, bytes)
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    run(&CRC32C, bytes)
}

#[cfg(test)]
mod tests {
    /// The check values of the two algorithms.
    #[test]
    fn check_values() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
    }
}
