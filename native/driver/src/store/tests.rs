//! What the journal keeps when the disk fails, the power goes or bytes rot: on a disk in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::faults::{Dice, FaultyDisk, POWER_GONE};
use super::record::{HEADER_BYTES, encode_record};
use super::segment::{RECORDS_START, Seal};
use super::{
    Fate, OpenReport, Options, ReadError, Recovered, SEGMENT_BYTES_MIN, Store, StoreError,
    record_bytes,
};

type Records = BTreeMap<(u64, u64), (u8, Vec<u8>)>;

/// What the journal was told, and what it answered for.
#[derive(Default)]
struct Model {
    appended: Records,
    alive: Records,
    committed: u64,
    /// Torn commits that were reported; they are reported again.
    gaps: Vec<(u64, u64)>,
    instance: u64,
}

#[derive(Debug, Default, PartialEq)]
struct Replay {
    records: Records,
    gaps: Vec<(u64, u64)>,
    report: OpenReport,
}

fn journal() -> &'static Path {
    Path::new("/journal")
}

fn open(disk: &FaultyDisk, instance: u64) -> Result<(Store, Replay), StoreError> {
    let mut replay = Replay::default();
    let mut newest = 0;
    let options = Options { segment_bytes: SEGMENT_BYTES_MIN, ..Options::new(instance) };
    let mut visit = |found: Recovered<'_>| match found {
        Recovered::Record { task, seq, kind, payload } => {
            assert!(seq > newest, "records come in order");
            newest = seq;
            replay.records.insert((task, seq), (kind, payload.to_vec()));
        }
        Recovered::Gap { first_lost, next_seq, .. } => {
            assert!(newest < first_lost && first_lost < next_seq);
            newest = next_seq - 1;
            replay.gaps.push((first_lost, next_seq));
        }
    };
    let (store, report) = Store::open_on(Box::new(disk.clone()), journal(), &options, &mut visit)?;
    assert!(store.last_seq >= newest);
    replay.report = report;
    Ok((store, replay))
}

impl Model {
    /// Opens, and takes what the journal hands out for durable from then on.
    fn open(&mut self, disk: &FaultyDisk) -> Result<Store, StoreError> {
        self.instance += 1;
        let (mut store, replay) = open(disk, self.instance)?;
        self.check(&replay);
        self.appended.retain(|key, _| replay.records.contains_key(key));
        self.alive.retain(|key, _| replay.records.contains_key(key));
        self.committed = store.last_seq;
        self.gaps = replay.gaps;
        for &(task, _) in replay.records.keys() {
            if task != 0 && self.alive.range((task, 0)..=(task, u64::MAX)).next().is_none() {
                store.release(task, u64::MAX);
            }
        }
        Ok(store)
    }

    /// Every committed live record is there, and nothing that was never written.
    fn check(&self, replay: &Replay) {
        let committed = |(_, seq): &(u64, u64)| *seq <= self.committed;
        for (key, record) in self.alive.iter().filter(|(key, _)| committed(key)) {
            assert!(replay.records.get(key) == Some(record), "committed record {key:?} is there");
        }
        let agent = self.appended.iter().filter(|(key, _)| key.0 == 0 && committed(key));
        for ((_, seq), (kind, _)) in agent {
            let mut newer = replay.records.range((0, *seq)..=(0, u64::MAX));
            assert!(
                newer.any(|(_, record)| record.0 == *kind),
                "agent record {seq} or a newer one"
            );
        }
        for (key, record) in &replay.records {
            assert!(self.appended.get(key) == Some(record), "record {key:?} was written");
        }
        for gap in replay.gaps.iter().filter(|gap| !self.gaps.contains(gap)) {
            assert!(gap.0 > self.committed, "no committed record is lost");
        }
    }

    fn append(&mut self, store: &mut Store, task: u64, bytes: usize) -> Result<(), StoreError> {
        let (seq, kind) = (store.last_seq + 1, (bytes % 3) as u8);
        let salt = seq * 7 + self.instance * 13;
        let payload: Vec<u8> = (0..bytes).map(|at| (at as u64 * 31 + salt) as u8).collect();
        self.appended.insert((task, seq), (kind, payload.clone()));
        let (head, rest) = payload.split_at(bytes / 3);
        store.append(task, seq, kind, &[head, rest])?;
        if task != 0 {
            self.alive.insert((task, seq), (kind, payload));
        }
        Ok(())
    }

    fn release(&mut self, store: &mut Store, task: u64) {
        store.release(task, u64::MAX);
        self.alive.retain(|(other, _), _| *other != task);
    }

    /// Enough of everything to compact a few times.
    fn work(&mut self, store: &mut Store, rounds: u64) -> Result<(), StoreError> {
        for _ in 0..rounds {
            let mut tasks: Vec<u64> = self.alive.keys().map(|(task, _)| *task).collect();
            tasks.dedup();
            for older in tasks.iter().rev().skip(1) {
                self.release(store, *older);
            }
            let task = store.last_seq + 1;
            for bytes in [9000, 0, 700, 3001] {
                self.append(store, task, bytes)?;
            }
            store.flush()?;
            self.append(store, 0, 64)?;
            self.committed = store.commit()?;
            let mut payload = Vec::new();
            match store.read(task, task, &mut payload) {
                Ok(()) => assert_eq!(payload, self.alive[&(task, task)].1),
                Err(ReadError::Io { .. }) => assert!(payload.is_empty()),
                Err(other) => panic!("a live record is readable: {other}"),
            }
        }
        Ok(())
    }
}

/// Runs work while calls `first..=last` fail. Says whether any did.
fn run_failing(first: u64, length: u64, seed: u64) -> bool {
    let (disk, mut model) = (FaultyDisk::default(), Model::default());
    disk.fail(first, first.saturating_add(length), ErrorKind::Other);
    let outcome = model.open(&disk).and_then(|mut store| {
        let outcome = model.work(&mut store, 12);
        if length == 0 {
            assert!(outcome.is_ok(), "an open journal survives one failure: {outcome:?}");
        }
        outcome
    });
    let reached = disk.recover();
    assert!(reached || outcome.is_ok());
    disk.cut_power(&mut Dice(seed));
    let mut store = model.open(&disk).expect("the disk works again");
    model.work(&mut store, 3).expect("the disk works again");
    reached
}

#[test]
fn no_failing_call_loses_a_committed_record() {
    let mut call = 1;
    while run_failing(call, 0, call) {
        call += 1;
    }
    assert!(call > 100, "the work makes {call} calls");
}

#[test]
fn a_disk_that_dies_at_any_call_loses_no_committed_record() {
    let mut call = 1;
    while run_failing(call, u64::MAX, call) {
        call += 1;
    }
    assert!(call > 100, "the work makes {call} calls");
}

/// A power cut is a disk that answers nothing more and forgets what it had not synced; a killed
/// process forgets nothing, and what the next one was handed out survives a cut right after.
#[test]
fn what_was_committed_or_handed_out_survives_kill_and_power_cut() {
    for seed in 1..250 {
        let (disk, mut model, mut dice) = (FaultyDisk::default(), Model::default(), Dice(seed));
        for _ in 0..6 {
            let off = dice.below(2) == 0;
            let kind = if off { POWER_GONE } else { ErrorKind::Other };
            disk.fail(1 + dice.below(150) as u64, u64::MAX, kind);
            let _ = model.open(&disk).and_then(|mut store| model.work(&mut store, 9));
            disk.recover();
            if off || dice.below(3) > 0 {
                disk.cut_power(&mut dice);
            }
            let mut store = model.open(&disk).expect("the disk works again");
            model.work(&mut store, dice.below(9) as u64).expect("the disk works again");
            drop(store);
            disk.cut_power(&mut dice);
        }
    }
}

/// A journal with a few committed records and a clean end, and what it must hand out.
fn small_journal(sealed: bool) -> (FaultyDisk, Replay, PathBuf) {
    let (disk, mut model) = (FaultyDisk::default(), Model::default());
    let mut store = model.open(&disk).expect("a new journal");
    for bytes in [40, 0, 300, 7, 64, 1, 200] {
        let task = store.last_seq / 3 + 1;
        model.append(&mut store, task, bytes).expect("room");
    }
    store.commit().expect("a sound disk");
    if sealed {
        store.switch(Fate::Spare).expect("a sound disk");
    }
    let active = store.directory.path_of(store.active.number);
    drop(store);
    let (store, replay) = open(&disk, 2).expect("a sound disk");
    assert!(replay.records == model.appended && replay.gaps.is_empty());
    assert_eq!(store.tail, RECORDS_START + used_bytes(&replay));
    (disk, replay, active)
}

fn used_bytes(replay: &Replay) -> u64 {
    replay.records.values().map(|(_, payload)| record_bytes(payload.len() as u64)).sum()
}

/// Opens a damaged journal: all records are there but `lost` of them, and whoever opens it once
/// more is told the same.
fn check_damaged(disk: &FaultyDisk, sound: &Replay, lost: &[u64], sealed: bool, context: &str) {
    let (store, damaged) = open(disk, 3).expect(context);
    let expected: Records = sound.records.clone().into_iter().collect();
    let expected = expected.into_iter().filter(|((_, seq), _)| !lost.contains(seq));
    assert!(damaged.records == expected.collect(), "{context}: the records that were not hit");
    let torn = damaged.report.torn_bytes > 0 && !sealed && lost == [sound.report.last_seq];
    for seq in lost {
        let told = damaged.gaps.iter().any(|(from, to)| (*from..*to).contains(seq));
        assert!(told || torn, "{context}: the loss of record {seq} is told");
    }
    assert_eq!(damaged.gaps.is_empty(), damaged.report.quarantined.is_empty(), "{context}");
    drop(store);
    let (_, again) = open(disk, 4).expect(context);
    assert!(again.records == damaged.records && again.gaps == damaged.gaps, "{context}: again");
}

/// Only the newest record, if no seal vouches for it, can pass for an unfinished write.
#[test]
fn any_flipped_byte_costs_at_most_its_own_record_and_is_told() {
    for sealed in [false, true] {
        let (disk, sound, active) = small_journal(sealed);
        let bytes = disk.get(&active);
        let end = RECORDS_START + used_bytes(&sound) + HEADER_BYTES;
        for offset in (0..64).chain(4096..end) {
            for flip in [0x01, 0xFF] {
                let (disk, mut bytes) = (disk.copied(), bytes.clone());
                bytes[offset as usize] ^= flip;
                disk.put(&active, &bytes);
                let lost = record_at(&sound, offset);
                let context = format!("byte {offset} ^ {flip}, sealed: {sealed}");
                check_damaged(&disk, &sound, lost.as_slice(), sealed, &context);
            }
        }
    }
}

/// Opening renews a damaged header copy, so that losing the other one later costs nothing.
#[test]
fn header_copies_are_renewed() {
    let (disk, sound, active) = small_journal(true);
    for offset in [20, 4096 + 20, 20] {
        let mut bytes = disk.get(&active);
        bytes[offset] ^= 1;
        disk.put(&active, &bytes);
        let (_, replay) = open(&disk, 3).expect("one copy is enough");
        assert!(replay.records == sound.records && replay.gaps.is_empty());
    }
}

/// Neither what an earlier generation left nor a payload made to look like a record is one.
#[test]
fn records_of_another_seal_do_not_pass() {
    let disk = FaultyDisk::default();
    let (mut store, _) = open(&disk, 1).expect("a new journal");
    let other = Seal { generation: store.active.seal.generation + 1, ..store.active.seal };
    let mut forged = Vec::new();
    encode_record(&mut forged, (1, 9, 1), &[b"forged"], other.seed());
    store.append(1, 1, 1, &[&forged]).expect("room");
    store.append(1, 2, 1, &[b"true"]).expect("room");
    store.commit().expect("a sound disk");
    let active = store.directory.path_of(store.active.number);
    drop(store);
    let mut bytes = disk.get(&active);
    bytes[RECORDS_START as usize] ^= 1;
    disk.put(&active, &bytes);
    let (_, replay) = open(&disk, 2).expect("a damaged journal opens");
    assert_eq!(replay.records, [((1, 2), (1, b"true".to_vec()))].into());
    assert_eq!(replay.gaps, [(1, 2)]);
}

/// The record whose header or payload covers a byte of the segment; padding is of no record.
fn record_at(sound: &Replay, offset: u64) -> Option<u64> {
    let mut in_order: Vec<_> = sound.records.iter().map(|((_, seq), (_, p))| (*seq, p)).collect();
    in_order.sort();
    let mut from = RECORDS_START;
    for (seq, payload) in in_order {
        if (from..from + HEADER_BYTES + payload.len() as u64).contains(&offset) {
            return Some(seq);
        }
        from += record_bytes(payload.len() as u64);
    }
    None
}

#[test]
fn any_truncation_costs_only_what_it_cut_off() {
    for sealed in [false, true] {
        let (disk, sound, active) = small_journal(sealed);
        let bytes = disk.get(&active);
        let used = RECORDS_START + used_bytes(&sound);
        for size in (0..used + 2 * HEADER_BYTES).chain([40_000, SEGMENT_BYTES_MIN - 1]) {
            let disk = disk.copied();
            disk.put(&active, &bytes[..size as usize]);
            let (_, cut) = open(&disk, 3).expect("a truncated journal opens");
            assert!(!cut.gaps.is_empty() || size >= used + HEADER_BYTES, "{size} bytes");
            for ((task, seq), record) in &sound.records {
                // The segment before the sealed one still has what it was copied from.
                let kept = end_of(&sound, *seq) <= size || (sealed && size < 64);
                let found = cut.records.get(&(*task, *seq));
                assert!(found == kept.then_some(record), "record {seq} of {size} bytes");
                let told = cut.gaps.iter().any(|(from, to)| (*from..*to).contains(seq));
                assert!(kept || told, "the loss of record {seq} of {size} bytes");
            }
            assert_eq!(cut.report.quarantined.len(), 1, "{size} bytes: the evidence is kept");
        }
    }
}

fn end_of(sound: &Replay, last: u64) -> u64 {
    let until = sound.records.iter().filter(|((_, seq), _)| *seq <= last);
    RECORDS_START + until.map(|(_, (_, p))| record_bytes(p.len() as u64)).sum::<u64>()
}

/// A record that rots while the journal is open is a read error, then a gap that stays.
#[test]
fn rot_found_by_a_compaction_becomes_a_gap() {
    let (disk, sound, active) = small_journal(false);
    let (mut store, _) = open(&disk, 3).expect("a sound disk");
    let ((task, seq), (_, payload)) =
        sound.records.iter().find(|(_, (_, payload))| payload.len() == 300).expect("written");
    let mut bytes = disk.get(&active);
    bytes[(end_of(&sound, *seq) - payload.len() as u64) as usize] ^= 4;
    disk.put(&active, &bytes);
    let refused = store.read(*task, *seq, &mut Vec::new());
    assert!(matches!(refused, Err(ReadError::Damaged { .. })), "{refused:?}");
    for seq in sound.report.last_seq + 1.. {
        store.append(99, seq, 0, &[&[7; 9000]]).expect("room");
        store.release(99, seq);
        if store.stats().compactions > 0 {
            break;
        }
    }
    assert_eq!(store.stats().lost, 1);
    let refused = store.read(*task, *seq, &mut Vec::new());
    assert!(matches!(refused, Err(ReadError::Missing { .. })), "{refused:?}");
    drop(store);
    let (mut store, replay) = open(&disk, 4).expect("a sound disk");
    assert_eq!(replay.gaps, [(*seq, *seq + 1)]);
    assert!(disk.paths().iter().any(|path| path.starts_with("/journal/quarantine/")));
    for (task, _) in replay.records.keys() {
        store.release(*task, u64::MAX);
    }
    store.switch(Fate::Spare).expect("a sound disk");
    assert_eq!(store.live_bytes(), 0, "no task is left that could span the gap");
}

/// After a failed sync that segment is never written again, and the commit has still happened.
#[test]
fn a_poisoned_segment_is_replaced_and_kept() {
    let disk = FaultyDisk::default();
    let (mut store, _) = open(&disk, 1).expect("a new journal");
    let poisoned = store.active.number;
    store.append(1, 1, 1, &[b"accepted"]).expect("room");
    disk.fail(1, 1, ErrorKind::Other);
    assert_eq!(store.commit().expect("the spare takes over"), 1);
    assert!(disk.recover() && store.active.number != poisoned);
    assert_eq!(store.stats().poisoned, 1);
    disk.cut_power(&mut Dice(1));
    drop(store);
    let (store, replay) = open(&disk, 2).expect("a sound disk");
    assert_eq!(replay.records[&(1, 1)].1, b"accepted");
    assert!(
        disk.paths()
            .contains(&store.directory.path().join(format!("quarantine/{poisoned:08}.journal")))
    );
}

/// When the spare fails as well the store says so from then on, and the disk keeps its word.
#[test]
fn two_failing_segments_are_final() {
    let disk = FaultyDisk::default();
    let (mut store, _) = open(&disk, 1).expect("a new journal");
    store.append(1, 1, 1, &[b"accepted"]).expect("room");
    store.commit().expect("a sound disk");
    store.append(1, 2, 1, &[b"ended"]).expect("room");
    disk.fail(1, u64::MAX, ErrorKind::Other);
    assert!(matches!(store.commit(), Err(StoreError::Failed { .. })));
    assert!(disk.recover(), "the disk is well again, the store knows better");
    assert!(matches!(store.append(1, 3, 1, &[]), Err(StoreError::Failed { .. })));
    assert!(matches!(store.commit(), Err(StoreError::Failed { .. })));
}

/// What a disk cannot give is refused by name, at whatever call it shows, and harms nothing.
#[test]
fn a_full_or_read_only_disk_is_named() {
    let mut no_space = BTreeSet::new();
    for (kind, call) in (1..28).flat_map(|call| {
        [ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem].map(|kind| (kind, call))
    }) {
        let disk = FaultyDisk::default();
        disk.fail(call, u64::MAX, kind);
        let refusal = open(&disk, 1).err().expect("the disk takes no writes");
        match (kind, refusal) {
            (ErrorKind::StorageFull, StoreError::NoSpace { path, segment_bytes }) => {
                assert_eq!(segment_bytes, SEGMENT_BYTES_MIN);
                no_space.insert(path);
            }
            (ErrorKind::StorageFull, StoreError::Io { cause, .. }) => {
                assert_eq!((cause.kind(), no_space.len()), (ErrorKind::StorageFull, 0));
            }
            (ErrorKind::ReadOnlyFilesystem, StoreError::ReadOnly { .. }) => {}
            // Both segments exist, and the first switch cannot be written.
            (_, StoreError::Failed { .. }) => assert_eq!(no_space.len(), 2),
            (_, refusal) => panic!("call {call}: {refusal}"),
        }
        disk.recover();
        let (_, replay) = open(&disk, 2).expect("a sound disk");
        assert!(replay.records.is_empty() && replay.gaps.is_empty());
    }
}

/// Quarantine is bounded, and gives way when the disk has no room for a segment.
#[test]
fn evidence_is_bounded() {
    let (disk, mut model) = (FaultyDisk::default(), Model::default());
    for round in 0..10 {
        let mut store = model.open(&disk).expect("a sound disk");
        model.append(&mut store, 1, 10).expect("room");
        disk.fail(1, 1, ErrorKind::Other);
        store.commit().expect("the spare takes over");
        disk.recover();
        let kept = disk.paths().iter().filter(|p| p.starts_with("/journal/quarantine/")).count();
        assert_eq!(kept, 4.min(round + 1) + 1, "segments, and the directory itself");
    }
}
