//! A journal that somebody has damaged: whatever is handed out had been written, and the rest of it
//! is a gap, a refusal, or a tail that was cut.

use crate::bytes::Bytes;
use limpet_driver::store::{Options, Recovered, SEGMENT_BYTES_MIN, Store};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;

type Written = BTreeMap<u64, (u64, u8, Vec<u8>)>;

/// A sound journal: its files, and what is in it.
struct Sound {
    files: Vec<(String, Vec<u8>)>,
    written: Written,
}

static SOUND: LazyLock<Sound> = LazyLock::new(|| {
    let directory = scratch();
    let mut written = Written::new();
    let (mut store, _) = open(directory.path(), &mut Written::new(), 1).expect("a new journal");
    for seq in 1..=40_u64 {
        let (task, kind) = (seq % 5, u8::try_from(seq % 14).expect("small") + 1);
        let payload = vec![kind; usize::try_from(seq * 7 % 90).expect("small")];
        store.append(task, seq, kind, &[&payload]).expect("room");
        written.insert(seq, (task, kind, payload));
        if seq % 8 == 0 {
            store.commit().expect("a disk");
        }
    }
    drop(store);
    let files = names(directory.path()).into_iter().map(|path| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read(&path).expect("read"))
    });
    Sound { files: files.collect(), written }
});

/// Memory instead of a disk, where the system has that: a search opens thousands in a second.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a directory")
}

fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("listed");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    names.retain(|path| path.is_file());
    names.sort();
    names
}

/// The journal, and the newest number that it knows of.
fn open(directory: &Path, found: &mut Written, instance: u64) -> Option<(Store, u64)> {
    let options = Options { segment_bytes: SEGMENT_BYTES_MIN, ..Options::new(instance) };
    let mut visit = |one: Recovered<'_>| {
        if let Recovered::Record { task, seq, kind, payload } = one {
            found.insert(seq, (task, kind, payload.to_vec()));
        }
    };
    Store::open(directory, &options, &mut visit)
        .ok()
        .map(|(store, report)| (store, report.last_seq))
}

/// Each four bytes of `data` damage one place: which file, how, where.
pub fn damaged(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut files = SOUND.files.clone();
    while !bytes.is_empty() && !files.is_empty() {
        let (file, how, place) = (bytes.byte(), bytes.byte(), usize::from(bytes.short()));
        let count = files.len();
        let content = &mut files[usize::from(file) % count].1;
        // Most of a segment is zeroes yet to be written: records are at its beginning.
        let place = if how & 1 == 0 { place % 4096 } else { place };
        match (content.get_mut(place), how % 7) {
            (Some(_), 6) => content.truncate(place),
            (Some(byte), _) => *byte ^= how | 1,
            (None, _) => {}
        }
    }
    let directory = scratch();
    for (name, content) in &files {
        fs::write(directory.path().join(name), content).expect("written");
    }
    let mut found = Written::new();
    let Some((mut store, last_seq)) = open(directory.path(), &mut found, 2) else { return };
    for (seq, record) in &found {
        assert_eq!(SOUND.written.get(seq), Some(record), "record {seq} was never written");
    }
    // It is a journal like any other from here on.
    let (seq, payload) = (last_seq + 1, b"after".as_slice());
    store.append(9, seq, 3, &[payload]).expect("room");
    store.commit().expect("a disk");
    drop(store);
    let mut again = Written::new();
    open(directory.path(), &mut again, 3).expect("it has been set right");
    assert_eq!(again.get(&seq), Some(&(9, 3, payload.to_vec())));
}
