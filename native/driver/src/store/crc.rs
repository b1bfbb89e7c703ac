//! CRC-32C (Castagnoli), the checksum of everything in a journal segment.
//!
//! Decides how bytes are summed; knows nothing of records. Eight bytes at a time, a table for each
//! ("slicing by 8", Kounavis and Berry 2005), which any processor can do.

/// The Castagnoli polynomial 0x1EDC6F41 of RFC 3720 section 12.1, bit-reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;
const SLICE_BYTES: usize = 8;

/// What a byte adds to the sum when it is followed by as many more as the table's place tells.
static TABLES: [[u32; 256]; SLICE_BYTES] = tables();

const fn tables() -> [[u32; 256]; SLICE_BYTES] {
    let mut tables = [[0; 256]; SLICE_BYTES];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 * SLICE_BYTES {
            crc = (crc >> 1) ^ (POLYNOMIAL * (crc & 1));
            bit += 1;
            if bit % 8 == 0 {
                tables[bit / 8 - 1][byte] = crc;
            }
        }
        byte += 1;
    }
    tables
}

/// Continues `crc` (0 to begin) over `bytes`: `extend(extend(0, a), b)` is the sum of `a` then `b`.
pub(super) fn extend(crc: u32, bytes: &[u8]) -> u32 {
    let slices = bytes.chunks_exact(SLICE_BYTES);
    let rest = slices.remainder();
    let crc = slices.fold(!crc, |crc, slice| {
        let [a, b, c, d] = crc.to_le_bytes();
        let summed = slice.iter().zip([a, b, c, d, 0, 0, 0, 0]).zip(TABLES.iter().rev());
        summed.fold(0, |crc, ((byte, before), table)| crc ^ table[usize::from(byte ^ before)])
    });
    let [table, ..] = &TABLES;
    !rest.iter().fold(crc, |crc, byte| (crc >> 8) ^ table[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::extend;

    #[test]
    fn agrees_with_the_published_check_values() {
        assert_eq!(extend(0, b"123456789"), 0xE306_9283);
        // RFC 3720 appendix B.4: 32 bytes of zeros, 32 bytes of ones.
        assert_eq!(extend(0, &[0; 32]), 0x8A91_36AA);
        assert_eq!(extend(0, &[0xFF; 32]), 0x62A8_AB43);
    }

    #[test]
    fn sums_in_pieces_like_in_one() {
        let bytes: Vec<u8> = (0..=255).collect();
        let whole = extend(0, &bytes);
        for cut in 0..bytes.len() {
            let (first, rest) = bytes.split_at(cut);
            assert_eq!(extend(extend(0, first), rest), whole);
        }
    }
}
