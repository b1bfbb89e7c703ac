//! The journal on a real file system: its format, its refusals, and a model it must agree with.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use limpet_driver::store::{
    OpenReport, Options, Recovered, SEGMENT_BYTES_MIN, Store, StoreError, record_bytes, scan,
};
use proptest::prelude::*;

type Found = Vec<(u64, u64, u8, Vec<u8>)>;

fn options(instance: u64) -> Options {
    Options { segment_bytes: SEGMENT_BYTES_MIN, ..Options::new(instance) }
}

fn gather(into: &mut Found) -> impl FnMut(Recovered<'_>) + '_ {
    |found| match found {
        Recovered::Record { task, seq, kind, payload } => {
            into.push((task, seq, kind, payload.to_vec()));
        }
        Recovered::Gap { .. } => panic!("nothing is damaged: {found:?}"),
    }
}

fn open(dir: &Path, options: &Options) -> Result<(Store, OpenReport, Found), StoreError> {
    let mut found = Vec::new();
    let (store, report) = Store::open(dir, options, &mut gather(&mut found))?;
    Ok((store, report, found))
}

fn refusal(dir: &Path) -> StoreError {
    open(dir, &options(9)).err().expect("a refusal")
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some()).collect();
    paths.sort();
    paths
}

/// CRC-32C one bit at a time, from the polynomial of RFC 3720: shares nothing with the driver's.
fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let mut crc = !seed;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    !crc
}

/// A sealed segment made by hand from the description of the format.
fn segment_by_hand(version: u32, generation: u64, instance: u64, records: &[u8]) -> Vec<u8> {
    let mut header = b"limpetJ\n".to_vec();
    header.extend(version.to_le_bytes());
    let fields = [generation, instance, SEGMENT_BYTES_MIN, 4160, 0];
    let fields: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    let padding = [0; 8];
    let sum = crc32c(crc32c(crc32c(0, &header), &fields), &padding);
    header.extend(sum.to_le_bytes());
    header.extend(fields);
    header.extend(padding);
    let mut segment = vec![0; SEGMENT_BYTES_MIN as usize];
    segment[..64].copy_from_slice(&header);
    segment[4096..4160].copy_from_slice(&header);
    segment[4160..4160 + records.len()].copy_from_slice(records);
    segment
}

fn record_by_hand(seed: u32, (task, seq, kind): (u64, u64, u8), payload: &[u8]) -> Vec<u8> {
    let mut record = vec![0x6C, 0x70, kind, 0];
    record.extend((payload.len() as u32).to_le_bytes());
    record.extend(task.to_le_bytes());
    record.extend(seq.to_le_bytes());
    record.extend(crc32c(0, payload).to_le_bytes());
    record.extend(crc32c(seed, &record).to_le_bytes());
    record.extend(payload);
    record.resize(record.len().next_multiple_of(8), 0);
    record
}

/// Version 1 is what its description says, byte for byte: made by hand, it is read.
#[test]
fn the_format_is_the_described_one() {
    let parent = tempfile::tempdir().expect("a directory");
    let seed = crc32c(crc32c(0, &5u64.to_le_bytes()), &77u64.to_le_bytes());
    let mut records = record_by_hand(seed, (1, 1, 4), b"accepted");
    records.extend(record_by_hand(seed, (1, 2, 200), b"ended"));
    let segment = segment_by_hand(1, 5, 77, &records);
    fs::write(parent.path().join("00000001.journal"), segment).expect("written");
    let (store, report, found) = open(parent.path(), &options(1)).expect("a journal");
    let expected = [(1, 1, 4, b"accepted".to_vec()), (1, 2, 200, b"ended".to_vec())];
    assert_eq!(found, expected);
    assert_eq!((report.records, report.last_seq, report.torn_bytes), (2, 2, 0));
    assert_eq!(report.live_bytes, records.len() as u64);
    assert_eq!(store.sequences(1).collect::<Vec<_>>(), [(1, 4), (2, 200)]);
}

/// A new journal has both segments in full, block for block, before the first record.
#[test]
fn space_is_taken_at_open() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("journal");
    let (_store, report, found) = open(&dir, &options(1)).expect("a new journal");
    assert!(report.created && found.is_empty() && report.quarantined.is_empty());
    let segments = segments(&dir);
    assert_eq!(segments.len(), 2);
    for path in segments {
        let metadata = fs::metadata(path).expect("a segment");
        assert_eq!(metadata.len(), SEGMENT_BYTES_MIN);
        assert!(metadata.blocks() * 512 >= SEGMENT_BYTES_MIN, "every block is allocated");
    }
}

/// One process at a time; a scan needs no lock and leaves every byte as it is.
#[test]
fn a_journal_is_locked_but_can_be_scanned() {
    let parent = tempfile::tempdir().expect("a directory");
    let (mut store, ..) = open(parent.path(), &options(1)).expect("a new journal");
    store.append(1, 1, 7, &[b"in ", b"parts"]).expect("room");
    store.flush().expect("sound");
    assert!(matches!(refusal(parent.path()), StoreError::Locked { .. }));
    let bytes = |path: &PathBuf| fs::read(path).expect("a segment");
    let before: Vec<_> = segments(parent.path()).iter().map(bytes).collect();
    let mut found = Vec::new();
    let report = scan(parent.path(), &mut gather(&mut found)).expect("a scan");
    assert_eq!(found, [(1, 1, 7, b"in parts".to_vec())]);
    assert_eq!((report.last_seq, report.live_bytes), (1, store.live_bytes()));
    assert!(before == segments(parent.path()).iter().map(bytes).collect::<Vec<_>>());
    drop(store);
    open(parent.path(), &options(2)).expect("the lock goes with its owner");
}

/// What is not ours to use is refused by name, in one sentence, and not touched.
#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    let parent = tempfile::tempdir().expect("a directory");
    let path = parent.path();
    let missing = refusal(&path.join("no/journal"));
    assert!(matches!(missing, StoreError::MissingParent { .. }), "{missing}");
    fs::write(path.join("file"), "text").expect("written");
    for file in ["file", "file/journal"] {
        let refused = refusal(&path.join(file));
        assert!(matches!(refused, StoreError::NotADirectory { .. }), "{refused}");
    }
    for segment_bytes in [0, 4096, SEGMENT_BYTES_MIN + 1, 1 << 40] {
        let refused = open(path, &Options { segment_bytes, instance: 1 }).err().expect("a refusal");
        assert!(matches!(refused, StoreError::SegmentBytes { .. }), "{refused}");
    }
    let segment = path.join("00000007.journal");
    for (bytes, foreign) in [(vec![b'x'; 9000], true), (segment_by_hand(2, 1, 1, &[]), false)] {
        fs::write(&segment, &bytes).expect("written");
        for refused in [refusal(path), scan(path, &mut |_| ()).expect_err("a refusal")] {
            match &refused {
                StoreError::Foreign { path } => assert!(foreign && *path == segment),
                StoreError::FromTheFuture { version, .. } => assert!(!foreign && *version == 2),
                other => panic!("{other}"),
            }
            let text = refused.to_string();
            assert!(text.starts_with("cannot ") && text.ends_with(')'), "{text}");
        }
        assert!(fs::read(&segment).expect("a file") == bytes && segments(path) == [&*segment]);
    }
}

/// A directory that this user may not write is named. Root may write everywhere: nothing to see.
#[test]
fn a_read_only_directory_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().expect("a directory");
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o500)).expect("set");
    match open(parent.path(), &options(1)) {
        Err(refused) => assert!(matches!(refused, StoreError::ReadOnly { .. }), "{refused}"),
        Ok(_) => assert!(rustix::process::geteuid().is_root()),
    }
}

/// Records beyond the bounds are refused and change nothing; so is a size that is too small.
#[test]
fn bounds_are_answers() {
    let parent = tempfile::tempdir().expect("a directory");
    let larger = Options { segment_bytes: 2 * SEGMENT_BYTES_MIN, instance: 1 };
    let (mut store, ..) = open(parent.path(), &larger).expect("a new journal");
    let refused = store.append(1, 1, 0, &[&vec![0; 256 * 1024 + 1]]);
    assert!(matches!(refused, Err(StoreError::RecordTooLarge { .. })));
    assert!(store.room_for(SEGMENT_BYTES_MIN) && !store.room_for(SEGMENT_BYTES_MIN + 1));
    store.append(1, 1, 0, &[&[1; 50_000]]).expect("room");
    store.append(1, 2, 0, &[&[2; 50_000]]).expect("room");
    let refused = store.append(1, 3, 0, &[&[3; 50_000]]);
    assert!(matches!(refused, Err(StoreError::Full { .. })));
    assert_eq!((store.live_bytes(), store.commit().expect("sound")), (2 * record_bytes(50_000), 2));
    drop(store);
    assert!(matches!(refusal(parent.path()), StoreError::SegmentTooSmall { .. }));
    let (mut store, _, found) = open(parent.path(), &larger).expect("untouched");
    assert_eq!(found.len(), 2);
    store.release(1, 2);
    store.append(1, 3, 0, &[&[3; 40_000]]).expect("room after a compaction");
    store.release(1, 3);
    store.append(1, 4, 0, &[&[4; 50_000]]).expect("room after a compaction");
    store.flush().expect("sound");
    drop(store);
    let (store, report, _) =
        open(parent.path(), &Options { instance: 2, ..larger }).expect("sound");
    assert_eq!((report.last_seq, store.sequences(1).last()), (4, Some((4, 0))));
}

/// Numbers are never given out twice, even when nothing is left of the records that had them.
#[test]
fn the_newest_number_outlives_its_record() {
    let parent = tempfile::tempdir().expect("a directory");
    let (mut store, ..) = open(parent.path(), &options(1)).expect("a new journal");
    let mut seq = 0;
    while store.stats().compactions < 3 {
        seq += 1;
        store.append(seq, seq, 0, &[&[0; 9000]]).expect("room");
        store.release(seq, u64::MAX);
    }
    assert_eq!(store.live_bytes(), 0);
    store.flush().expect("sound");
    drop(store);
    let (_, report, found) = open(parent.path(), &options(2)).expect("a journal");
    assert_eq!((report.last_seq, found.len()), (seq, 1));
}

/// Sizes may change between opens, in both directions, without losing a record.
#[test]
fn a_journal_moves_to_another_segment_size() {
    let parent = tempfile::tempdir().expect("a directory");
    let mut written = Found::new();
    for (round, factor) in [1, 4, 2, 1].into_iter().enumerate() {
        let segment_bytes = factor * SEGMENT_BYTES_MIN;
        let options = Options { segment_bytes, instance: round as u64 };
        let (mut store, _, found) = open(parent.path(), &options).expect("a journal");
        assert_eq!(found, written);
        let seq = round as u64 + 1;
        store.append(1, seq, 3, &[&seq.to_le_bytes()]).expect("room");
        store.commit().expect("sound");
        written.push((1, seq, 3, seq.to_le_bytes().to_vec()));
        for path in segments(parent.path()) {
            assert_eq!(fs::metadata(path).expect("a segment").len(), segment_bytes);
        }
    }
    assert_eq!(segments(parent.path()).len(), 2);
}

#[derive(Debug, Clone)]
enum Move {
    Append { task: u64, kind: u8, bytes: usize },
    Release { task: u64, back: u64 },
    Commit,
    Reopen,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        12 => (0..5u64, 0..3u8, 0..4000usize)
            .prop_map(|(task, kind, bytes)| Move::Append { task, kind, bytes }),
        4 => (0..5u64, 0..20u64).prop_map(|(task, back)| Move::Release { task, back }),
        2 => Just(Move::Commit),
        1 => Just(Move::Reopen),
    ]
}

/// The journal as a map: what it must agree with after every move.
type Model = BTreeMap<(u64, u64), (u8, Vec<u8>)>;

fn agree(store: &Store, model: &Model) {
    let mut payload = Vec::new();
    for task in 0..5 {
        let expected = model.range((task, 0)..=(task, u64::MAX));
        let expected: Vec<_> = expected.map(|((_, seq), (kind, _))| (*seq, *kind)).collect();
        assert_eq!(store.sequences(task).collect::<Vec<_>>(), expected);
    }
    for ((task, seq), (_, expected)) in model {
        store.read(*task, *seq, &mut payload).expect("a live record");
        assert!(payload == *expected);
    }
    let bytes: u64 = model.values().map(|(_, payload)| record_bytes(payload.len() as u64)).sum();
    assert_eq!(store.live_bytes(), bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Under any appends, releases, commits and restarts the live records are exactly those of a
    /// map, readable, in order, and recovery hands out at least them.
    #[test]
    fn a_journal_is_a_map(moves in prop::collection::vec(moves(), 1..150)) {
        let parent = tempfile::tempdir().expect("a directory");
        let (mut model, mut seq) = (Model::new(), 0);
        let (mut store, ..) = open(parent.path(), &options(0)).expect("a new journal");
        for (instance, step) in moves.into_iter().enumerate() {
            match step {
                Move::Append { task, kind, bytes } => {
                    if !store.room_for(record_bytes(bytes as u64)) {
                        continue;
                    }
                    seq += 1;
                    let payload = vec![seq as u8; bytes];
                    store.append(task, seq, kind, &[&payload]).expect("room");
                    model.retain(|(other, _), (older, _)| task | *other != 0 || *older != kind);
                    model.insert((task, seq), (kind, payload));
                }
                Move::Release { task, back } => {
                    let kept = (seq + 1).saturating_sub(back);
                    let keep_from = if back == 0 { u64::MAX } else { kept };
                    store.release(task, keep_from);
                    model.retain(|(other, seq), _| *other != task || *seq >= keep_from);
                }
                Move::Commit => assert_eq!(store.commit().expect("sound"), seq),
                Move::Reopen => {
                    store.flush().expect("sound");
                    drop(store);
                    let (again, report, found) =
                        open(parent.path(), &options(1 + instance as u64)).expect("a journal");
                    store = again;
                    prop_assert_eq!(report.last_seq, seq);
                    for (key, (kind, payload)) in &model {
                        prop_assert!(found.contains(&(key.0, key.1, *kind, payload.clone())));
                    }
                    for task in 0..5 {
                        // What was released is released again, as a replay does.
                        let oldest = model.range((task, 0)..=(task, u64::MAX)).next();
                        store.release(task, oldest.map_or(u64::MAX, |((_, seq), _)| *seq));
                    }
                }
            }
            agree(&store, &model);
        }
    }
}
