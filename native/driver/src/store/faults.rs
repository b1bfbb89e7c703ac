//! A disk in memory that fails on demand and forgets in a power cut what was not synced.
//!
//! Like Linux, a sync that fails drops what it could not write: a second one would succeed and
//! mean nothing. A write that fails may have happened in part. With [`POWER_GONE`] nothing happens
//! any more, and what is unsynced awaits the cut.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile};

/// The failure of a device that is already off.
pub(super) const POWER_GONE: io::ErrorKind = io::ErrorKind::NotConnected;

/// What a sector of a real device keeps or loses as a whole.
const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub(super) struct FaultyDisk(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    files: Vec<Contents>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Names as they were after each change since the last directory sync.
    history: Vec<BTreeMap<PathBuf, usize>>,
    locked: bool,
    calls: u64,
    failing: Option<(u64, u64)>,
    kind: Option<io::ErrorKind>,
}

#[derive(Default, Clone)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

struct FaultyFile {
    disk: FaultyDisk,
    index: usize,
}

struct Lock(FaultyDisk);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.world().locked = false;
    }
}

/// Repeatable randomness (xorshift).
pub(super) struct Dice(pub u64);

impl Dice {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}

impl FaultyDisk {
    /// Calls number `first` to `last`, counted from now, fail: those that change something, and
    /// with `Other` and [`POWER_GONE`] all of them.
    pub(super) fn fail(&self, first: u64, last: u64, kind: io::ErrorKind) {
        let mut world = self.world();
        (world.calls, world.failing, world.kind) = (0, Some((first, last)), Some(kind));
    }

    /// Whether the calls reached the first one that should fail; nothing fails any more.
    pub(super) fn recover(&self) -> bool {
        let mut world = self.world();
        let failing = world.failing.take();
        failing.is_some_and(|(first, _)| world.calls >= first)
    }

    /// A power cut: unsynced sectors survive or not, each for itself; names only in order.
    pub(super) fn cut_power(&self, dice: &mut Dice) {
        let mut world = self.world();
        let mood = dice.below(3);
        for file in &mut world.files {
            for (offset, bytes) in std::mem::take(&mut file.pending) {
                let end = offset + bytes.len();
                let mut from = offset;
                while from < end {
                    let to = ((from / SECTOR + 1) * SECTOR).min(end);
                    if mood == 0 || (mood == 1 && dice.below(2) == 0) {
                        write(&mut file.durable, from, &bytes[from - offset..to - offset]);
                    }
                    from = to;
                }
            }
            file.now = file.durable.clone();
        }
        let history = std::mem::take(&mut world.history);
        let kept = dice.below(history.len() + 1);
        if let Some(last) = kept.checked_sub(1) {
            world.durable_names = history[last].clone();
        }
        world.names = world.durable_names.clone();
    }

    /// Names of all files, as the system would list them.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.world().names.keys().cloned().collect()
    }

    /// Replaces a file's bytes, durably.
    pub(super) fn put(&self, path: &Path, bytes: &[u8]) {
        let mut world = self.world();
        let index = world.names[path];
        let (now, durable) = (bytes.to_vec(), bytes.to_vec());
        world.files[index] = Contents { now, durable, pending: Vec::new() };
    }

    pub(super) fn get(&self, path: &Path) -> Vec<u8> {
        let world = self.world();
        world.files[world.names[path]].now.clone()
    }

    /// A disk of its own with the same contents.
    pub(super) fn copied(&self) -> FaultyDisk {
        let world = self.world();
        let (names, files) = (world.names.clone(), world.files.clone());
        let durable_names = names.clone();
        FaultyDisk(Arc::new(Mutex::new(World { files, names, durable_names, ..World::default() })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call; the error if it is one that should fail.
    fn call(&self, changes: bool) -> (MutexGuard<'_, World>, io::Result<()>) {
        let mut world = self.world();
        world.calls += 1;
        let fails = world.failing.is_some_and(|(a, b)| (a..=b).contains(&world.calls));
        let concerned =
            |kind: &io::ErrorKind| changes || matches!(*kind, io::ErrorKind::Other | POWER_GONE);
        let kind = world.kind.filter(|kind| fails && concerned(kind));
        (world, kind.map_or(Ok(()), |kind| Err(kind.into())))
    }

    fn change_names(&self, change: impl FnOnce(&mut World) -> io::Result<()>) -> io::Result<()> {
        let (mut world, allowed) = self.call(true);
        allowed?;
        change(&mut world)?;
        let names = world.names.clone();
        world.history.push(names);
        Ok(())
    }

    fn file(&self, index: usize) -> Box<dyn DiskFile> {
        Box::new(FaultyFile { disk: self.clone(), index })
    }
}

fn write(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[offset..end].copy_from_slice(bytes);
}

fn unless_off(allowed: &io::Result<()>) -> io::Result<()> {
    match allowed {
        Err(cause) if cause.kind() == POWER_GONE => Err(POWER_GONE.into()),
        _ => Ok(()),
    }
}

impl Disk for FaultyDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.change_names(|world| match world.names.insert(path.to_path_buf(), usize::MAX) {
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
            None => Ok(()),
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let (world, allowed) = self.call(false);
        allowed?;
        world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let inside = world.names.keys().filter(|name| name.parent() == Some(path));
        let names = inside.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned()));
        Ok(names.collect())
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Send>> {
        let (mut world, allowed) = self.call(true);
        allowed?;
        assert!(!std::mem::replace(&mut world.locked, true), "one store at a time");
        Ok(Box::new(Lock(self.clone())))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut index = 0;
        self.change_names(|world| {
            index = world.files.len();
            world.files.push(Contents::default());
            let replaced = world.names.insert(path.to_path_buf(), index);
            assert!(replaced.is_none(), "a number is used once");
            Ok(())
        })?;
        Ok(self.file(index))
    }

    fn open(&self, path: &Path, _writable: bool) -> io::Result<Box<dyn DiskFile>> {
        let (world, allowed) = self.call(false);
        allowed?;
        Ok(self.file(*world.names.get(path).ok_or(io::ErrorKind::NotFound)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change_names(|world| {
            let index = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            world.names.insert(to.to_path_buf(), index);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change_names(|world| {
            world.names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
        })
    }

    fn sync_directory(&self, _path: &Path) -> io::Result<()> {
        let (mut world, allowed) = self.call(true);
        allowed?;
        world.durable_names = world.names.clone();
        world.history.clear();
        Ok(())
    }
}

impl DiskFile for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        let (world, allowed) = self.disk.call(false);
        allowed?;
        Ok(world.files[self.index].now.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let (world, allowed) = self.disk.call(false);
        allowed?;
        let (now, from) = (&world.files[self.index].now, offset as usize);
        let found = now.get(from..from + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut world, allowed) = self.disk.call(true);
        unless_off(&allowed)?;
        // A write that fails has done half of its work.
        let bytes = if allowed.is_err() { &bytes[..bytes.len() / 2] } else { bytes };
        let file = &mut world.files[self.index];
        write(&mut file.now, offset as usize, bytes);
        file.pending.push((offset as usize, bytes.to_vec()));
        allowed
    }

    fn sync(&self) -> io::Result<()> {
        let (mut world, allowed) = self.disk.call(true);
        unless_off(&allowed)?;
        let file = &mut world.files[self.index];
        let pending = std::mem::take(&mut file.pending);
        allowed?;
        for (offset, bytes) in pending {
            write(&mut file.durable, offset, &bytes);
        }
        Ok(())
    }

    fn settle(&self) -> io::Result<()> {
        self.sync()?;
        let mut world = self.disk.world();
        let file = &mut world.files[self.index];
        file.now = file.durable.clone();
        Ok(())
    }
}
