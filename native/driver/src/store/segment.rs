//! One segment: its header, and the walk over its records through any damage.
//!
//! Decides whether bytes are ours, and where the records end; must not decide what a loss means.
//!
//! The header is the seal: it is written only after every copied record is durable, so a segment
//! whose copying was interrupted still shows its older generation and is never taken for the
//! newest. It exists twice, in two pages. The second copy follows the sync of the first, so no
//! power cut damages both. Little-endian, zeros up to 64 bytes:
//!
//! ```text
//! 0 magic | 8 version u32 | 12 CRC-32C of all else u32 | 16 generation u64 | 24 instance u64
//! 32 segment bytes u64 | 40 end of the sealed records u64 | 48 newest number when sealed u64
//! ```

use std::io;

use super::disk::DiskFile;
use super::record::{ALIGNMENT, END_MARK, Gap, HEADER_BYTES, Header, SEQ_MAX, record_bytes};
use super::{Recovered, UNSYNCED_BYTES_MAX, crc};

/// Where the first record lies: behind the second header copy.
pub(super) const RECORDS_START: u64 = 4096 + SEAL_BYTES as u64;
const SEAL_OFFSETS: [u64; 2] = [0, 4096];
const SEAL_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"limpetJ\n";
const VERSION: u32 = 1;

/// Read at a time: a few hundred records, and small beside the agent's budget.
const WINDOW_BYTES: u64 = 64 * 1024;

/// What a segment's header says. The pair of generation and instance is used only once ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seal {
    /// 0 for a segment that was never active; the highest one is the active segment's.
    pub generation: u64,
    pub instance: u64,
    pub segment_bytes: u64,
    pub sealed_end: u64,
    pub sealed_seq: u64,
}

impl Seal {
    /// The header of a segment that holds nothing yet.
    pub(super) fn blank(segment_bytes: u64) -> Seal {
        let (sealed_end, sealed_seq) = (RECORDS_START, 0);
        Seal { generation: 0, instance: 0, segment_bytes, sealed_end, sealed_seq }
    }

    /// What every record's sum in this segment begins with.
    pub(super) fn seed(&self) -> u32 {
        let sum = crc::extend(0, &self.generation.to_le_bytes());
        crc::extend(sum, &self.instance.to_le_bytes())
    }

    fn encode(&self) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let fields =
            [self.generation, self.instance, self.segment_bytes, self.sealed_end, self.sealed_seq];
        for (field, place) in fields.iter().zip(bytes[16..].chunks_exact_mut(8)) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let sum = sum_of(&bytes);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The seal and the version of the format it belongs to; only this version's fields mean much.
    fn decode(bytes: &[u8; SEAL_BYTES]) -> Option<(u32, Seal)> {
        let word =
            |at: usize| bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        let long =
            |at: usize| bytes[at..].first_chunk().map_or(0, |long| u64::from_le_bytes(*long));
        if bytes[0..8] != MAGIC || word(12) != sum_of(bytes) {
            return None;
        }
        let seal = Seal {
            generation: long(16),
            instance: long(24),
            segment_bytes: long(32),
            sealed_end: long(40),
            sealed_seq: long(48),
        };
        let sane = super::allowed_size(seal.segment_bytes)
            && (RECORDS_START..seal.segment_bytes).contains(&seal.sealed_end)
            && seal.generation.max(seal.sealed_seq) <= SEQ_MAX;
        (sane || word(8) != VERSION).then_some((word(8), seal))
    }
}

fn sum_of(bytes: &[u8; SEAL_BYTES]) -> u32 {
    crc::extend(crc::extend(0, &bytes[..12]), &bytes[16..])
}

/// An open segment file.
pub(super) struct Segment {
    pub number: u32,
    pub file: Box<dyn DiskFile>,
    pub seal: Seal,
}

/// What a file with a segment's name turned out to be.
pub(super) enum Inspected {
    Segment(Segment),
    /// Ours, but no header copy passes its sum: its bytes.
    Damaged(u64),
    Foreign,
    FromTheFuture(u32),
}

/// Looks at the header of a file.
pub(super) fn inspect(number: u32, file: Box<dyn DiskFile>) -> io::Result<Inspected> {
    let size = file.size()?;
    let (mut newest, mut ours): (Option<Seal>, bool) = (None, size < SEAL_BYTES as u64);
    for offset in SEAL_OFFSETS.into_iter().filter(|at| at + SEAL_BYTES as u64 <= size) {
        let mut bytes = [0; SEAL_BYTES];
        file.read_at(&mut bytes, offset)?;
        // Zeros are what a file system leaves of a block it lost; another program's file has more.
        ours |= bytes[0..8] == MAGIC || bytes == [0; SEAL_BYTES];
        match Seal::decode(&bytes) {
            Some((VERSION, seal)) if newest.is_none_or(|n| n.generation < seal.generation) => {
                newest = Some(seal);
            }
            Some((version, _)) if version != VERSION => {
                return Ok(Inspected::FromTheFuture(version));
            }
            _ => {}
        }
    }
    Ok(match newest {
        Some(seal) => Inspected::Segment(Segment { number, file, seal }),
        None if ours => Inspected::Damaged(size),
        None => Inspected::Foreign,
    })
}

/// Where the records of a segment end.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Where the next record goes.
    pub offset: u64,
    /// The newest number that this segment knows of, even if its record was dropped.
    pub last_seq: u64,
    /// Bytes of an unfinished write behind it.
    pub torn_bytes: u64,
    /// Whether something before the tail did not pass.
    pub damaged: bool,
}

/// Fills a new file with zeros, so that no later write needs space, and gives it a header.
pub(super) fn fill(file: &dyn DiskFile, segment_bytes: u64) -> io::Result<()> {
    write_zeros(file, 0, segment_bytes)?;
    for offset in SEAL_OFFSETS {
        file.write_at(&Seal::blank(segment_bytes).encode(), offset)?;
    }
    file.sync()
}

fn write_zeros(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; WINDOW_BYTES.min(to - from) as usize];
    for offset in (from..to).step_by(WINDOW_BYTES as usize) {
        file.write_at(&zeros[..WINDOW_BYTES.min(to - offset) as usize], offset)?;
    }
    Ok(())
}

impl Tail {
    fn advance(&mut self, offset: u64, last_seq: u64, seal: &Seal) {
        let sealed = if offset >= seal.sealed_end { seal.sealed_seq } else { 0 };
        (self.offset, self.last_seq) = (offset, last_seq.max(sealed));
    }
}

impl Segment {
    /// Makes this segment the newest, once everything below `seal.sealed_end` is durable.
    pub(super) fn seal(&mut self, seal: Seal) -> io::Result<()> {
        self.seal = seal;
        self.file.write_at(&seal.encode(), SEAL_OFFSETS[0])?;
        self.file.sync()?;
        self.file.write_at(&seal.encode(), SEAL_OFFSETS[1])
    }

    /// Writes zeros over an unfinished write and renews a header copy that was left behind.
    pub(super) fn mend(&self, tail: u64, torn_bytes: u64) -> io::Result<()> {
        let mut mended = torn_bytes > 0;
        write_zeros(&*self.file, tail, tail + torn_bytes)?;
        for offset in SEAL_OFFSETS {
            let mut copy = [0; SEAL_BYTES];
            self.file.read_at(&mut copy, offset)?;
            if copy != self.seal.encode() {
                self.file.write_at(&self.seal.encode(), offset)?;
                mended = true;
            }
        }
        if mended { self.file.sync() } else { Ok(()) }
    }

    /// Hands out every record that passes, with its offset, and a gap wherever some are missing.
    /// Behind damage it searches on, eight bytes at a time, to the end of the segment.
    pub(super) fn walk(&self, visit: &mut dyn FnMut(u64, Recovered<'_>)) -> io::Result<Tail> {
        let end = self.file.size()?.min(self.seal.segment_bytes);
        let (file, seed) = (&*self.file, self.seal.seed());
        let mut window = Window { file, seed, end, start: 0, bytes: Vec::new() };
        let mut tail = Tail::default();
        let mut offset = RECORDS_START;
        tail.advance(offset, 0, &self.seal);
        while offset + HEADER_BYTES <= end {
            let Some((header, payload)) = window.record(offset, tail.last_seq)? else {
                offset += ALIGNMENT;
                continue;
            };
            if offset > tail.offset {
                tail.damaged = true;
                let (first_lost, next_seq) = (tail.last_seq + 1, header.seq());
                if first_lost < next_seq {
                    let bytes = offset - tail.offset;
                    visit(tail.offset, Gap { first_lost, next_seq, bytes }.into());
                }
            }
            let (found, last_seq) = match header {
                Header::Record { task, seq, kind, .. } => {
                    (Recovered::Record { task, seq, kind, payload }, seq)
                }
                Header::Gap(gap) => (gap.into(), gap.next_seq - 1),
            };
            visit(offset, found);
            offset += record_bytes(header.payload_bytes());
            tail.advance(offset, last_seq, &self.seal);
        }
        tail.torn_bytes = window.bytes_before_end_mark(tail.offset)?;
        Ok(tail)
    }
}

impl From<Gap> for Recovered<'_> {
    fn from(Gap { first_lost, next_seq, bytes }: Gap) -> Self {
        Recovered::Gap { first_lost, next_seq, bytes }
    }
}

/// A bounded view that moves over a segment.
struct Window<'a> {
    file: &'a dyn DiskFile,
    seed: u32,
    end: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    fn bytes(&mut self, offset: u64, length: u64) -> io::Result<&[u8]> {
        let held = self.start..=self.start + self.bytes.len() as u64;
        if !held.contains(&offset) || !held.contains(&(offset + length)) {
            let wanted = length.max(WINDOW_BYTES).min(self.end - offset);
            self.bytes.resize(wanted as usize, 0);
            self.start = offset;
            self.file.read_at(&mut self.bytes, offset)?;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.bytes[from..from + length as usize])
    }

    /// The record at `offset`, if there is one that passes and comes after `last_seq`.
    fn record(&mut self, offset: u64, last_seq: u64) -> io::Result<Option<(Header, &[u8])>> {
        let seed = self.seed;
        let Some(header) = Header::decode(self.bytes(offset, HEADER_BYTES)?, seed) else {
            return Ok(None);
        };
        let length = header.payload_bytes();
        if header.seq() <= last_seq || offset + record_bytes(length) > self.end {
            return Ok(None);
        }
        let payload = self.bytes(offset + HEADER_BYTES, length)?;
        let passes = match header {
            Header::Record { payload_crc, .. } => crc::extend(0, payload) == payload_crc,
            Header::Gap(_) => true,
        };
        Ok(passes.then_some((header, payload)))
    }

    /// Bytes from `tail` to the zeros that end the records, as far as one commit can reach.
    fn bytes_before_end_mark(&mut self, tail: u64) -> io::Result<u64> {
        let reach = self.end.min(tail + UNSYNCED_BYTES_MAX);
        let mut offset = tail;
        while offset + HEADER_BYTES <= reach {
            if self.bytes(offset, HEADER_BYTES)? == END_MARK {
                return Ok(offset - tail);
            }
            offset += ALIGNMENT;
        }
        Ok(reach.saturating_sub(tail))
    }
}
