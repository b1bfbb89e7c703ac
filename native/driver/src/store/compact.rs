//! Copies everything alive into another segment, in order, and seals it.
//!
//! Decides the order of durability: records, sync, seal, sync. Must not decide what becomes of
//! the segment it copied from.

use std::io;

use super::crc;
use super::disk::DiskFile;
use super::live::{Entry, LiveSet, Place};
use super::record::{END_MARK, Gap, HEADER_BYTES, Header, encode_record, record_bytes};
use super::segment::{RECORDS_START, Seal, Segment};

/// Written at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Where the live records are now.
pub(super) struct Source<'a> {
    pub file: &'a dyn DiskFile,
    pub seed: u32,
    /// The bytes from `unsynced_from` on, which the file is not asked for: after a failed sync
    /// it may never have had them.
    pub unsynced: &'a [u8],
    pub unsynced_from: u64,
}

/// What came of it.
pub(super) struct Compacted {
    pub live: LiveSet,
    pub tail: u64,
    /// Records that no longer passed their checksum and became gaps.
    pub lost: u64,
}

/// Copies and seals; on an error the target is of no use and the source as it was.
pub(super) fn compact(
    source: &Source<'_>,
    live: &LiveSet,
    target: &mut Segment,
    seal: Seal,
) -> io::Result<Compacted> {
    let mut compacted = Compacted { live: LiveSet::default(), tail: RECORDS_START, lost: 0 };
    let (mut chunk, mut written, mut payload) = (Vec::new(), RECORDS_START, Vec::new());
    for entry in live.in_order() {
        let gap = match entry {
            Entry::Gap(gap) => gap,
            Entry::Record { task, seq, place } => {
                if source.read(task, seq, place, &mut payload)? {
                    encode_record(&mut chunk, (task, seq, place.kind), &[&payload], seal.seed());
                    compacted.keep(task, seq, place);
                    written = flush_full(&mut chunk, written, target)?;
                    continue;
                }
                compacted.lost += 1;
                let bytes = record_bytes(u64::from(place.length));
                Gap { first_lost: seq, next_seq: seq + 1, bytes }
            }
        };
        chunk.extend_from_slice(&Header::Gap(gap).encode(seal.seed()));
        compacted.live.insert_gap(gap);
        compacted.tail += HEADER_BYTES;
    }
    chunk.extend_from_slice(&END_MARK);
    target.file.write_at(&chunk, written)?;
    target.file.sync()?;
    target.seal(Seal { sealed_end: compacted.tail, ..seal })?;
    Ok(compacted)
}

fn flush_full(chunk: &mut Vec<u8>, written: u64, target: &Segment) -> io::Result<u64> {
    if chunk.len() < CHUNK_BYTES {
        return Ok(written);
    }
    target.file.write_at(chunk, written)?;
    let written = written + chunk.len() as u64;
    chunk.clear();
    Ok(written)
}

impl Compacted {
    fn keep(&mut self, task: u64, seq: u64, place: Place) {
        self.live.insert(task, seq, Place { offset: self.tail as u32, ..place });
        self.tail += record_bytes(u64::from(place.length));
    }
}

impl Source<'_> {
    /// Reads a payload; `false` if what lies there is not the record it should be.
    pub(super) fn read(
        &self,
        task: u64,
        seq: u64,
        place: Place,
        payload: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let (offset, length) = (u64::from(place.offset), place.length as usize);
        let whole = HEADER_BYTES as usize + length;
        payload.clear();
        if offset >= self.unsynced_from {
            let bytes = &self.unsynced[(offset - self.unsynced_from) as usize..];
            payload.extend_from_slice(&bytes[..whole]);
        } else {
            payload.resize(whole, 0);
            self.file.read_at(payload, offset)?;
        }
        let header = Header::decode(payload, self.seed);
        payload.drain(..HEADER_BYTES as usize);
        let (length, payload_crc) = (place.length, crc::extend(0, payload));
        Ok(header == Some(Header::Record { task, seq, kind: place.kind, length, payload_crc }))
    }
}
