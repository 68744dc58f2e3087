//! Compressed pieces of images. What comes out is bounded by the room that the caller gives, never by what the input says.

use std::io;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

/// How a piece is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// RFC 1951, without a header.
    Deflate,
    /// RFC 1950.
    Zlib,
    Zstd,
}

/// The largest window (2^24 bytes) that a zstd piece may ask for: eight times what the largest cluster needs.
const WINDOW_LOG: u32 = 24;

/// Fills `out` from the front and says how far. The input may be followed by anything.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for what is not such data.
pub(crate) fn unpack(packing: Packing, data: &[u8], out: &mut [u8]) -> io::Result<usize> {
    match packing {
        Packing::Deflate => inflate(false, data, out),
        Packing::Zlib => inflate(true, data, out),
        Packing::Zstd => unzstd(data, out),
    }
}

fn inflate(header: bool, data: &[u8], out: &mut [u8]) -> io::Result<usize> {
    let mut stream = Decompress::new(header);
    loop {
        let (read, written) = (at(stream.total_in())?, at(stream.total_out())?);
        let status = stream.decompress(&data[read..], &mut out[written..], FlushDecompress::None).map_err(damaged)?;
        let done = at(stream.total_out())?;
        if status == Status::StreamEnd || done == out.len() {
            return Ok(done);
        }
        // Neither read nor written: the input is cut short.
        if at(stream.total_in())? == read && done == written {
            return Ok(done);
        }
    }
}

fn at(total: u64) -> io::Result<usize> {
    usize::try_from(total).map_err(damaged)
}

fn unzstd(data: &[u8], out: &mut [u8]) -> io::Result<usize> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
    let mut input = InBuffer::around(data);
    let mut output = OutBuffer::around(out);
    loop {
        let before = (input.pos(), output.pos());
        let left = decoder.run(&mut input, &mut output).map_err(damaged)?;
        if left == 0 || output.pos() == output.capacity() || before == (input.pos(), output.pos()) {
            return Ok(output.pos());
        }
    }
}

fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packing_is_undone_and_never_overflows() {
        use std::io::Write as _;
        let plain: Vec<u8> = (0..100_000_u32).map(|i| u8::try_from(i / 7 % 251).unwrap()).collect();
        let level = flate2::Compression::default();
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), level);
        deflate.write_all(&plain).unwrap();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), level);
        zlib.write_all(&plain).unwrap();
        let packed = [
            (Packing::Deflate, deflate.finish().unwrap()),
            (Packing::Zlib, zlib.finish().unwrap()),
            (Packing::Zstd, zstd::bulk::compress(&plain, 3).unwrap()),
        ];
        for (packing, mut data) in packed {
            let whole = data.len();
            data.extend([7; 300]);
            let mut out = vec![0; plain.len()];
            assert_eq!(unpack(packing, &data, &mut out).unwrap(), plain.len(), "{packing:?}");
            assert!(out == plain, "{packing:?}");
            let mut small = vec![0; 1000];
            assert_eq!(unpack(packing, &data, &mut small).unwrap(), 1000);
            assert!(small == plain[..1000]);
            assert!(
                unpack(packing, &data[..whole / 2], &mut out).is_ok_and(|n| n < plain.len()),
                "{packing:?} cut short"
            );
            assert!(unpack(packing, &[0xff; 64], &mut out).is_err(), "{packing:?}");
        }
    }
}
