//! The journal file: decides where a record lies, when it is durable and when it is forgotten.
//!
//! One thread owns a [`Store`]; every call may block on the disk. Payloads are opaque to it, and
//! the order of appends and commits is its caller's decision.
//!
//! The directory holds two segments of one size, filled with zeros in advance so that no later
//! write needs space. One is active and takes the records in the order of their numbers; when it
//! is full, everything alive is copied into the other, which is sealed, synced and active from
//! then on. A segment that fails to be written or synced is never tried again: the other replaces
//! it, and it is kept in quarantine like one that is found damaged at open.

mod compact;
mod crc;
mod directory;
mod disk;
mod error;
mod live;
mod open;
mod record;
mod recover;
mod segment;

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use compact::{Source, compact};
use directory::Directory;
use live::LiveSet;
use record::{END_MARK, HEADER_BYTES, encode_record};
use segment::{RECORDS_START, Seal, Segment};

pub use error::{ReadError, StoreError};
pub use open::scan;
pub use record::{PAYLOAD_BYTES_MAX, record_bytes};

/// Smallest segment: what a test needs.
pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// Largest segment: copied within seconds even by a slow card.
pub const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most bytes that wait for a commit; an append that would exceed them commits first.
pub const UNSYNCED_BYTES_MAX: u64 = 1024 * 1024;

/// Kept between commits, enough for a busy moment; a larger buffer is given back.
const UNSYNCED_BYTES_KEPT: usize = 16 * 1024;
/// Segments tried when one must be replaced: the spare and one made anew.
const SWITCH_ATTEMPTS: u32 = 2;

/// How to open a journal.
#[derive(Debug, Clone)]
pub struct Options {
    /// Size of each of the two segments: whole pages of 4096 bytes, from [`SEGMENT_BYTES_MIN`] to
    /// [`SEGMENT_BYTES_MAX`]. An existing journal is rewritten to it.
    pub segment_bytes: u64,
    /// A number that no earlier open of this journal was given: a random one. It keeps what an
    /// interrupted compaction left behind, or a payload made to look like one, from passing for
    /// a record.
    pub instance: u64,
}

impl Options {
    /// Segments of 4 MiB.
    pub fn new(instance: u64) -> Options {
        Options { segment_bytes: 4 * 1024 * 1024, instance }
    }
}

fn allowed_size(segment_bytes: u64) -> bool {
    (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes) && segment_bytes % 4096 == 0
}

/// What a journal says at open, in the order of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered<'a> {
    /// A record. Released ones reappear until a compaction has dropped them.
    Record {
        /// The task it belongs to, 0 for the agent itself.
        task: u64,
        /// Its number.
        seq: u64,
        /// What the caller called it.
        kind: u8,
        /// What the caller wrote.
        payload: &'a [u8],
    },
    /// Records that were written are missing. Reported again at each open while a task is alive
    /// that began before `next_seq`.
    Gap {
        /// The lowest number that may be lost.
        first_lost: u64,
        /// The lowest number above it that is not.
        next_seq: u64,
        /// Bytes damaged.
        bytes: u64,
    },
}

/// What opening, or a scan, has found and done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Whether there was no journal before.
    pub created: bool,
    /// Records handed out.
    pub records: u64,
    /// Bytes of an unfinished write that were cut off the end.
    pub torn_bytes: u64,
    /// Where damaged segments are kept.
    pub quarantined: Vec<PathBuf>,
    /// The newest number ever used, as far as the journal knows.
    pub last_seq: u64,
    /// As [`Store::live_bytes`].
    pub live_bytes: u64,
}

/// Counts since open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commits that had something to sync.
    pub syncs: u64,
    /// Bytes of records written, by appends and by compactions.
    pub bytes_written: u64,
    /// Times the live records were copied into another segment.
    pub compactions: u64,
    /// Segments given up because a write or a sync of them failed.
    pub poisoned: u64,
    /// Live records that a compaction could no longer read; they are gaps at the next open.
    pub lost: u64,
}

/// What becomes of the segment that a switch leaves behind.
#[derive(Clone, Copy)]
enum Fate {
    Spare,
    Quarantine,
    Remove,
}

/// An open journal, locked until it is dropped.
pub struct Store {
    directory: Directory,
    segment_bytes: u64,
    instance: u64,
    generation: u64,
    active: Segment,
    spare: Option<Segment>,
    live: LiveSet,
    /// Where the next record goes.
    tail: u64,
    last_seq: u64,
    durable_seq: u64,
    /// The records before `tail` that no commit covers yet, as they are in the segment.
    unsynced: Vec<u8>,
    /// Bytes of these that the segment was given.
    flushed: usize,
    stats: Stats,
    failed: Option<String>,
}

impl Store {
    /// Puts a record behind the newest one; durable after the next [`commit`](Self::commit), and
    /// in memory alone until that or [`flush`](Self::flush).
    ///
    /// A record of task 0 replaces the one of its kind before it. Compacts when the segment is
    /// full, which makes everything so far durable.
    ///
    /// # Errors
    /// `RecordTooLarge` and `Full` leave the journal as it was. `Failed` is permanent.
    ///
    /// # Panics
    /// If `seq` is not above every number before it, gaps included.
    pub fn append(
        &mut self,
        task: u64,
        seq: u64,
        kind: u8,
        payload: &[&[u8]],
    ) -> Result<(), StoreError> {
        self.check_usable()?;
        assert!((self.last_seq + 1..u64::MAX).contains(&seq), "record numbers only grow");
        let length: u64 = payload.iter().map(|part| part.len() as u64).sum();
        if length > PAYLOAD_BYTES_MAX {
            return Err(StoreError::RecordTooLarge { bytes: length });
        }
        let bytes = record_bytes(length);
        if self.unsynced.len() as u64 + bytes > UNSYNCED_BYTES_MAX {
            self.commit()?;
        }
        if self.tail + bytes + HEADER_BYTES > self.segment_bytes {
            if RECORDS_START + self.live.bytes() + bytes + HEADER_BYTES > self.segment_bytes {
                return Err(StoreError::Full { live_bytes: self.live.bytes() });
            }
            self.switch(Fate::Spare)?;
        }
        encode_record(&mut self.unsynced, (task, seq, kind), payload, self.active.seal.seed());
        let (offset, length) = (self.tail as u32, length as u32);
        self.live.insert(task, seq, live::Place { offset, length, kind });
        self.tail += bytes;
        self.last_seq = seq;
        self.stats.bytes_written += bytes;
        Ok(())
    }

    /// Hands every record so far to the system, by one write: they outlive this process, and no
    /// power cut. A write that fails is never repeated: everything alive moves to the other
    /// segment.
    ///
    /// # Errors
    /// `Failed`, permanently, when that fails too.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.check_usable()?;
        let end = self.unsynced.len();
        if self.flushed == end {
            return Ok(());
        }
        let offset = self.tail - (end - self.flushed) as u64;
        self.unsynced.extend_from_slice(&END_MARK);
        let written = self.active.file.write_at(&self.unsynced[self.flushed..], offset);
        self.unsynced.truncate(end);
        self.flushed = end;
        written.or_else(|_| self.replace_poisoned())
    }

    /// Makes every record so far durable; returns the newest durable number.
    ///
    /// Does nothing when nothing was appended since the last time. A sync that fails is never
    /// repeated: everything alive moves to the other segment.
    ///
    /// # Errors
    /// `Failed`, permanently, when that fails too.
    pub fn commit(&mut self) -> Result<u64, StoreError> {
        self.flush()?;
        if !self.unsynced.is_empty() {
            match self.active.file.sync() {
                Ok(()) => self.all_durable(),
                Err(_) => self.replace_poisoned()?,
            }
            self.stats.syncs += 1;
        }
        Ok(self.durable_seq)
    }

    /// Reads a live record's payload into `out`, which it replaces; the checksum is tested again.
    ///
    /// # Errors
    /// See [`ReadError`]; `out` is then empty.
    pub fn read(&self, task: u64, seq: u64, out: &mut Vec<u8>) -> Result<(), ReadError> {
        out.clear();
        let place = self.live.get(task, seq).ok_or(ReadError::Missing { task, seq })?;
        let outcome = match self.source().read(task, seq, place, out) {
            Ok(true) => return Ok(()),
            Ok(false) => ReadError::Damaged { task, seq },
            Err(cause) => ReadError::Io { cause },
        };
        out.clear();
        Err(outcome)
    }

    /// Number and kind of the live records of a task, in order.
    pub fn sequences(&self, task: u64) -> impl Iterator<Item = (u64, u8)> + '_ {
        self.live.records(task).map(|(seq, place)| (seq, place.kind))
    }

    /// Lets the records of a task below `keep_from` be forgotten; `u64::MAX` lets all of them.
    pub fn release(&mut self, task: u64, keep_from: u64) {
        self.live.release(task, keep_from);
    }

    /// Bytes that the live records take in a segment, each as [`record_bytes`] says.
    pub fn live_bytes(&self) -> u64 {
        self.live.bytes()
    }

    /// Whether records of this many bytes ([`record_bytes`] of each, summed) leave the live ones
    /// within half a segment, so that every compaction frees the other half.
    pub fn room_for(&self, bytes: u64) -> bool {
        self.live.bytes().saturating_add(bytes) <= self.segment_bytes / 2
    }

    /// Counts since open.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn check_usable(&self) -> Result<(), StoreError> {
        match &self.failed {
            None => Ok(()),
            Some(cause) => {
                let path = self.directory.path().to_path_buf();
                Err(StoreError::Failed { path, cause: cause.clone() })
            }
        }
    }

    fn replace_poisoned(&mut self) -> Result<(), StoreError> {
        self.stats.poisoned += 1;
        self.switch(Fate::Quarantine).map(drop)
    }

    /// Moves everything alive to another segment, durably, and makes that one active.
    /// Says where the one left behind is kept, if it is.
    fn switch(&mut self, fate: Fate) -> Result<Option<PathBuf>, StoreError> {
        self.live.forget_settled_gaps();
        let lost = self.stats.lost;
        for _ in 0..SWITCH_ATTEMPTS {
            match self.rewrite() {
                Ok(old) if self.stats.lost > lost => return Ok(self.retire(old, Fate::Quarantine)),
                Ok(old) => return Ok(self.retire(old, fate)),
                Err(error) => self.failed = Some(error.cause()),
            }
        }
        Err(self.check_usable().expect_err("every attempt has failed"))
    }

    fn rewrite(&mut self) -> Result<Segment, StoreError> {
        let mut target = match self.spare.take() {
            Some(spare) => spare,
            None => self.directory.create_segment(self.segment_bytes)?,
        };
        self.generation += 1;
        let seal = Seal {
            generation: self.generation,
            instance: self.instance,
            sealed_seq: self.last_seq,
            ..Seal::blank(self.segment_bytes)
        };
        let compacted = match compact(&self.source(), &self.live, &mut target, seal) {
            Ok(compacted) => compacted,
            Err(cause) => {
                // Best effort: what stays behind is not the newest, and at most a spare.
                let _ = self.directory.quarantine(target.number);
                let path = self.directory.path_of(target.number);
                return Err(StoreError::io("write segment", &path, cause));
            }
        };
        self.live = compacted.live;
        self.tail = compacted.tail;
        self.stats.compactions += 1;
        self.stats.bytes_written += compacted.tail - RECORDS_START;
        self.stats.lost += compacted.lost;
        self.failed = None;
        self.all_durable();
        Ok(std::mem::replace(&mut self.active, target))
    }

    /// Best effort: a segment of an older generation harms nobody, and the next switch makes its
    /// own target when there is no spare.
    fn retire(&mut self, old: Segment, fate: Fate) -> Option<PathBuf> {
        match fate {
            Fate::Spare => {
                self.spare = Some(old);
                None
            }
            Fate::Quarantine => {
                let kept = self.directory.quarantine(old.number).ok();
                self.spare = self.directory.create_segment(self.segment_bytes).ok();
                kept
            }
            Fate::Remove => {
                let _ = self.directory.remove(old.number);
                None
            }
        }
    }

    fn all_durable(&mut self) {
        self.unsynced.clear();
        self.flushed = 0;
        self.unsynced.shrink_to(UNSYNCED_BYTES_KEPT);
        self.durable_seq = self.last_seq;
    }

    fn source(&self) -> Source<'_> {
        Source {
            file: &*self.active.file,
            seed: self.active.seal.seed(),
            unsynced: &self.unsynced,
            unsynced_from: self.tail - self.unsynced.len() as u64,
        }
    }
}
