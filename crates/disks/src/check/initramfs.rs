//! Which kernel modules an initramfs holds: cpio archives one after the other (first the processor's microcode, then the rest), each
//! plain or compressed.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};

use super::linux::module_name;

/// Bytes that are unpacked.
const MOST: u64 = 512 << 20;
const MOST_NAME: u64 = 4096;
/// Archives in one file.
const MOST_ARCHIVES: usize = 4;
/// zstd's own default bound: 2^27, the largest window without long mode.
const WINDOW_LOG: u32 = 27;

/// The names of the modules, or why they cannot be told.
pub(super) fn modules(file: impl Read) -> Result<BTreeSet<String>, String> {
    let mut file = BufReader::with_capacity(1 << 16, file.take(MOST));
    let mut found = BTreeSet::new();
    for _ in 0..MOST_ARCHIVES {
        skip_zeros(&mut file).map_err(|e| e.to_string())?;
        let head = file.fill_buf().map_err(|e| e.to_string())?;
        let result = match head {
            [] => return Ok(found),
            [b'0', b'7', b'0', b'7', b'0', ..] => archive(&mut file, &mut found),
            [0x1f, 0x8b, ..] => unpacked(flate2::bufread::MultiGzDecoder::new(&mut file), &mut found),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => unpack_zstd(&mut file, &mut found),
            [0xfd, b'7', b'z', ..] => return Err("it is compressed with xz".to_owned()),
            [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..] => {
                return Err("it is compressed with lz4".to_owned());
            }
            [b'B', b'Z', ..] => return Err("it is compressed with bzip2".to_owned()),
            _ => return Err("it is of an unknown format".to_owned()),
        };
        result.map_err(|error| format!("it is damaged ({error})"))?;
    }
    Ok(found)
}

fn unpack_zstd(file: &mut impl BufRead, found: &mut BTreeSet<String>) -> io::Result<()> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
    decoder.window_log_max(WINDOW_LOG)?;
    unpacked(decoder, found)
}

/// The archives in a compressed stream.
fn unpacked(stream: impl Read, found: &mut BTreeSet<String>) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(1 << 16, stream.take(MOST));
    loop {
        skip_zeros(&mut stream)?;
        if stream.fill_buf()?.is_empty() {
            return Ok(());
        }
        archive(&mut stream, found)?;
    }
}

/// One cpio archive of the "new ASCII" format: 110 characters of header, name and data, each filled up to four bytes.
fn archive(stream: &mut impl BufRead, found: &mut BTreeSet<String>) -> io::Result<()> {
    loop {
        let mut header = [0; 110];
        stream.read_exact(&mut header)?;
        if !header.starts_with(b"07070") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no cpio header"));
        }
        let (len, name_len) = (hex(&header[54..62])?, hex(&header[94..102])?);
        if name_len > MOST_NAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a name is too long"));
        }
        let mut name = vec![0; usize::try_from(name_len).unwrap_or_default()];
        stream.read_exact(&mut name)?;
        skip(stream, padding(110 + name_len))?;
        let name = String::from_utf8_lossy(&name);
        let name = name.trim_end_matches('\0');
        if name == "TRAILER!!!" {
            return Ok(());
        }
        found.extend(module_name(name));
        skip(stream, len + padding(len))?;
    }
}

fn padding(len: u64) -> u64 {
    len.next_multiple_of(4) - len
}

fn hex(digits: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(digits).map_err(io::Error::other)?;
    u64::from_str_radix(text, 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn skip(stream: &mut impl BufRead, len: u64) -> io::Result<()> {
    let skipped = io::copy(&mut stream.take(len), &mut io::sink())?;
    if skipped < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn skip_zeros(stream: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buf = stream.fill_buf()?;
        let zeros = buf.iter().take_while(|b| **b == 0).count();
        let done = zeros < buf.len() || buf.is_empty();
        stream.consume(zeros);
        if done {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, data: &[u8]) -> Vec<u8> {
        let mut out =
            format!("070701{:048x}{:08x}{:032x}{:08x}{:08x}", 0, data.len(), 0, name.len() + 1, 0).into_bytes();
        assert_eq!(out.len(), 110);
        out.extend(name.bytes().chain([0]));
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(data);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn cpio(names: &[&str]) -> Vec<u8> {
        let mut out: Vec<u8> = names.iter().flat_map(|n| entry(n, b"hello")).collect();
        out.extend(entry("TRAILER!!!", b""));
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    #[test]
    fn modules_are_found_behind_microcode_and_in_every_known_compression() {
        let microcode = cpio(&["kernel/x86/microcode/GenuineIntel.bin"]);
        let main = cpio(&[
            "usr",
            "usr/lib/modules/6.1/kernel/drivers/block/virtio_blk.ko",
            "usr/lib/modules/6.1/virtio-pci.ko.xz",
        ]);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gz, &main).unwrap();
        for main in [main.clone(), gz.finish().unwrap(), zstd::bulk::compress(&main, 1).unwrap()] {
            let found = modules(&[microcode.clone(), main].concat()[..]).unwrap();
            assert_eq!(found.into_iter().collect::<Vec<_>>(), ["virtio_blk", "virtio_pci"]);
        }
        assert_eq!(modules(&b"\xfd7zXZ\0"[..]).unwrap_err(), "it is compressed with xz");
        assert!(modules(&microcode[..100]).unwrap_err().contains("damaged"));
        assert!(modules(&b"nothing"[..]).unwrap_err().contains("unknown"));
    }
}
