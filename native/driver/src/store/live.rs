//! Which records are alive and where they lie: the only memory the store spends per record.
//!
//! Decides what compaction keeps; knows neither bytes nor files. Its size is bounded by the live
//! bytes, since every entry stands for at least a record header in the segment.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::record::{Gap, HEADER_BYTES, record_bytes};

/// Where a live record lies in the active segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Of its header. Segments are far below 4 GiB, and half the width is half the index.
    pub offset: u32,
    /// Of its payload, in bytes.
    pub length: u32,
    pub kind: u8,
}

/// What compaction copies.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entry {
    Record { task: u64, seq: u64, place: Place },
    Gap(Gap),
}

#[derive(Debug, Default)]
pub(super) struct LiveSet {
    places: BTreeMap<(u64, u64), Place>,
    gaps: BTreeMap<u64, Gap>,
    bytes: u64,
}

impl LiveSet {
    /// Adds a record. Of task 0, the agent itself, only the newest record of a kind is alive.
    pub(super) fn insert(&mut self, task: u64, seq: u64, place: Place) {
        if task == 0 {
            let older = self.records(0).find(|(_, older)| older.kind == place.kind);
            if let Some((older, _)) = older {
                self.remove((0, older));
            }
        }
        self.bytes += record_bytes(u64::from(place.length));
        let replaced = self.places.insert((task, seq), place);
        assert!(replaced.is_none(), "numbers only grow");
    }

    pub(super) fn insert_gap(&mut self, gap: Gap) {
        self.bytes += HEADER_BYTES;
        let replaced = self.gaps.insert(gap.first_lost, gap);
        assert!(replaced.is_none(), "numbers only grow");
    }

    pub(super) fn get(&self, task: u64, seq: u64) -> Option<Place> {
        self.places.get(&(task, seq)).copied()
    }

    /// Forgets the records of a task below `keep_from`.
    pub(super) fn release(&mut self, task: u64, keep_from: u64) {
        loop {
            let oldest = self.records(task).next();
            match oldest {
                Some((seq, _)) if seq < keep_from => self.remove((task, seq)),
                _ => return,
            }
        }
    }

    /// Forgets the gaps that no living task can span: those before the oldest one began.
    pub(super) fn forget_settled_gaps(&mut self) {
        let oldest = self.places.range((1, 0)..).next().map_or(u64::MAX, |((task, _), _)| *task);
        let before = self.gaps.len();
        self.gaps.retain(|_, gap| gap.next_seq > oldest);
        self.bytes -= HEADER_BYTES * (before - self.gaps.len()) as u64;
    }

    /// The live records of a task, in order.
    pub(super) fn records(&self, task: u64) -> impl Iterator<Item = (u64, Place)> + '_ {
        self.places.range(of_task(task)).map(|(&(_, seq), &place)| (seq, place))
    }

    /// Everything alive in the order of the numbers.
    pub(super) fn in_order(&self) -> Vec<Entry> {
        let records = self.places.iter();
        let mut entries: Vec<Entry> = records
            .map(|(&(task, seq), &place)| Entry::Record { task, seq, place })
            .chain(self.gaps.values().copied().map(Entry::Gap))
            .collect();
        entries.sort_unstable_by_key(|entry| match entry {
            Entry::Record { seq, .. } => *seq,
            Entry::Gap(gap) => gap.first_lost,
        });
        entries
    }

    /// Bytes that everything alive takes in a segment.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn remove(&mut self, key: (u64, u64)) {
        let place = self.places.remove(&key).expect("the caller has just seen it");
        self.bytes -= record_bytes(u64::from(place.length));
    }
}

fn of_task(task: u64) -> RangeInclusive<(u64, u64)> {
    (task, 0)..=(task, u64::MAX)
}
