//! The bytes of one record: a 32-byte header, the payload, zeros up to a multiple of eight.
//!
//! Decides the frame; knows neither files nor what a payload means. Little-endian:
//!
//! ```text
//! 0 magic u16 | 2 kind u8 | 3 flags u8 | 4 length u32 | 8 task u64 | 16 seq u64
//! 24 CRC-32C of the payload u32 | 28 CRC-32C of the bytes 0..28, seeded by the segment u32
//! ```
//!
//! The header has a sum of its own, so a search through damage tests 32 bytes per position and
//! never sums a payload because of a length that nobody vouches for. The seed makes records of
//! another generation, and payloads that look like records, fail.
//!
//! A *gap mark* (flag 1) stands where records were lost, so that the loss outlives compaction:
//! `seq` is the first lost number, `task` the first one present again, `length` how many bytes
//! were damaged; no payload follows. It is never larger than what it stands for.

use super::crc;

/// Bytes of a record's header; also of the zeros that end the records of a segment.
pub(super) const HEADER_BYTES: u64 = 32;
const HEADER: usize = HEADER_BYTES as usize;

/// Zeros after the newest record: a header position that holds them is a clean end.
pub(super) const END_MARK: [u8; HEADER] = [0; HEADER];

/// Most bytes one payload may have: a task's body with room to spare, a quarter of what may wait
/// for a commit.
pub const PAYLOAD_BYTES_MAX: u64 = 256 * 1024;

/// Numbers above this have never been given; whoever wrote one meant to make the next overflow.
pub(super) const SEQ_MAX: u64 = u64::MAX / 2;

/// Records begin at multiples of this many bytes.
pub(super) const ALIGNMENT: u64 = 8;

const MAGIC: u16 = 0x706C;
const FLAG_GAP: u8 = 1;

/// Bytes that a record with a payload of `payload_bytes` takes in a segment.
pub const fn record_bytes(payload_bytes: u64) -> u64 {
    HEADER_BYTES + payload_bytes.next_multiple_of(ALIGNMENT)
}

/// What lies at a place in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    Record { task: u64, seq: u64, kind: u8, length: u32, payload_crc: u32 },
    Gap(Gap),
}

/// Numbers `first_lost..next_seq` are missing, `bytes` of the segment were damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub first_lost: u64,
    pub next_seq: u64,
    pub bytes: u64,
}

impl Header {
    /// The number that orders this record among the others.
    pub(super) fn seq(&self) -> u64 {
        match *self {
            Header::Record { seq, .. } => seq,
            Header::Gap(gap) => gap.first_lost,
        }
    }

    /// Bytes of payload behind the header.
    pub(super) fn payload_bytes(&self) -> u64 {
        match *self {
            Header::Record { length, .. } => u64::from(length),
            Header::Gap(_) => 0,
        }
    }

    pub(super) fn encode(&self, seed: u32) -> [u8; HEADER] {
        let (kind, flags, length, task, seq, payload_crc) = match *self {
            Header::Record { task, seq, kind, length, payload_crc } => {
                (kind, 0, length, task, seq, payload_crc)
            }
            Header::Gap(gap) => {
                let bytes = u32::try_from(gap.bytes).unwrap_or(u32::MAX);
                (0, FLAG_GAP, bytes, gap.next_seq, gap.first_lost, 0)
            }
        };
        let mut bytes = [0; HEADER];
        bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2] = kind;
        bytes[3] = flags;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[8..16].copy_from_slice(&task.to_le_bytes());
        bytes[16..24].copy_from_slice(&seq.to_le_bytes());
        bytes[24..28].copy_from_slice(&payload_crc.to_le_bytes());
        let sum = crc::extend(seed, &bytes[..28]);
        bytes[28..32].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The header in these bytes; `None` unless its sum is right and its length allowed.
    pub(super) fn decode(bytes: &[u8], seed: u32) -> Option<Header> {
        let bytes = bytes.first_chunk::<HEADER>()?;
        if bytes[0..2] != MAGIC.to_le_bytes()
            || u32_at(bytes, 28) != crc::extend(seed, &bytes[..28])
        {
            return None;
        }
        let (length, task, seq) = (u32_at(bytes, 4), u64_at(bytes, 8), u64_at(bytes, 16));
        if seq > SEQ_MAX {
            return None;
        }
        match bytes[3] {
            0 if u64::from(length) <= PAYLOAD_BYTES_MAX => Some(Header::Record {
                task,
                seq,
                kind: bytes[2],
                length,
                payload_crc: u32_at(bytes, 24),
            }),
            FLAG_GAP if (seq + 1..=SEQ_MAX).contains(&task) => {
                Some(Header::Gap(Gap { first_lost: seq, next_seq: task, bytes: u64::from(length) }))
            }
            _ => None,
        }
    }
}

/// Adds a whole record to `buffer`. `length` of the payload must be within the bound.
pub(super) fn encode_record(
    buffer: &mut Vec<u8>,
    (task, seq, kind): (u64, u64, u8),
    payload: &[&[u8]],
    seed: u32,
) {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    assert!(length as u64 <= PAYLOAD_BYTES_MAX, "the caller checks the length");
    let payload_crc = payload.iter().fold(0, |sum, part| crc::extend(sum, part));
    let header = Header::Record { task, seq, kind, length: length as u32, payload_crc };
    buffer.extend_from_slice(&header.encode(seed));
    for part in payload {
        buffer.extend_from_slice(part);
    }
    let padding = record_bytes(length as u64) - HEADER_BYTES - length as u64;
    buffer.extend_from_slice(&END_MARK[..padding as usize]);
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A sum that fits makes no number possible that leaves no next one.
    #[test]
    fn numbers_without_a_next_one_are_no_records() {
        let record = |seq| Header::Record { task: 1, seq, kind: 1, length: 0, payload_crc: 0 };
        let gap = |next_seq| Header::Gap(Gap { first_lost: 5, next_seq, bytes: 8 });
        for (header, read) in [
            (record(SEQ_MAX), true),
            (record(SEQ_MAX + 1), false),
            (record(u64::MAX), false),
            (gap(SEQ_MAX), true),
            (gap(SEQ_MAX + 1), false),
            (gap(u64::MAX), false),
        ] {
            assert_eq!(Header::decode(&header.encode(7), 7).is_some(), read, "{header:?}");
        }
    }

    proptest! {
        /// A header says after decoding what was encoded, and only under its own seed.
        #[test]
        fn headers_come_back(task: u64, seq in 0..=SEQ_MAX, kind: u8, length in 0u32..=262_144,
                             sum: u32, seed: u32, other: u32) {
            let header = Header::Record { task, seq, kind, length, payload_crc: sum };
            let bytes = header.encode(seed);
            prop_assert_eq!(Header::decode(&bytes, seed), Some(header));
            prop_assert_eq!(Header::decode(&bytes, other).is_some(), other == seed);
        }

        /// No bytes make decoding panic, and none but the magic's pass for a header.
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(Header::decode(&bytes, 7), None);
        }
    }
}
