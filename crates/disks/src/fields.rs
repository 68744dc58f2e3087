//! Integers at fixed places of on-disk structures. The caller has seen that the structure is long enough: a place beyond its
//! end is a mistake of the parser, never of its input.

/// `name(raw, at)`: the integer whose first byte is `raw[at]`.
macro_rules! fields {
    ($($name:ident: $kind:ty = $from:ident;)*) => {$(
        pub(crate) fn $name(raw: &[u8], at: usize) -> $kind {
            let bytes = &raw[at..at + size_of::<$kind>()];
            <$kind>::$from(bytes.try_into().expect("as long as the integer"))
        }
    )*};
}

fields! {
    le_u16: u16 = from_le_bytes;
    le_u32: u32 = from_le_bytes;
    le_u64: u64 = from_le_bytes;
    be_u32: u32 = from_be_bytes;
    be_u64: u64 = from_be_bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_order_is_the_name_s() {
        let raw = [0xff, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!((le_u16(&raw, 1), le_u32(&raw, 1), le_u64(&raw, 1)), (0x0201, 0x0403_0201, 0x0807_0605_0403_0201));
        assert_eq!((be_u32(&raw, 5), be_u64(&raw, 1)), (0x0506_0708, 0x0102_0304_0506_0708));
    }
}
