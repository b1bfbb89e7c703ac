//! CRC-32C (Castagnoli), the checksum of everything in a journal segment.
//!
//! Decides how bytes are summed; knows nothing of records. One table lookup per byte is a few
//! hundred MB/s, far above any flash card; replace it with the CPU's instruction when it is not.

/// The Castagnoli polynomial 0x1EDC6F41 of RFC 3720 section 12.1, bit-reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL * (crc & 1));
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// Continues `crc` (0 to begin) over `bytes`: `extend(extend(0, a), b)` is the sum of `a` then `b`.
pub(super) fn extend(crc: u32, bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!crc, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)])
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
        assert_eq!(extend(extend(0, b"1234"), b"56789"), extend(0, b"123456789"));
    }
}
