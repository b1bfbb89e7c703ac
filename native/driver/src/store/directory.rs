//! The journal's directory: its names, its lock, new segments and the quarantine.
//!
//! Decides which file is which and when names are durable; must not know what records say.
//!
//! `lock` is held by the process that writes. `NNNNNNNN.journal` are segments; a number is used
//! once. `NNNNNNNN.new` is a segment being filled. `quarantine/` keeps the newest segments that
//! were damaged or could not be synced.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::error::StoreError;
use super::segment::{self, Inspected, Seal, Segment};

/// Segments kept as evidence: two damaged ones and what replacing them broke.
const QUARANTINE_FILES_MAX: usize = 4;
const QUARANTINE: &str = "quarantine";

/// The segments that a directory holds.
#[derive(Default)]
pub(super) struct Survey {
    /// The one of the highest generation.
    pub active: Option<Segment>,
    /// All others with a readable header.
    pub others: Vec<Segment>,
    /// Number and size of those without.
    pub damaged: Vec<(u32, u64)>,
}

/// Opens every segment and tells the active one; refuses what is not ours to touch.
pub(super) fn survey(disk: &dyn Disk, path: &Path, writable: bool) -> Result<Survey, StoreError> {
    let refused = if writable { StoreError::refused } else { StoreError::io };
    let mut survey = Survey::default();
    for number in numbers(disk, path)? {
        let path = path.join(name_of(number));
        let file = disk.open(&path, writable).map_err(|cause| refused("open", &path, cause))?;
        if writable {
            file.settle().map_err(|cause| StoreError::io("sync", &path, cause))?;
        }
        let inspected = segment::inspect(number, file);
        match inspected.map_err(|cause| StoreError::io("read", &path, cause))? {
            Inspected::Foreign => return Err(StoreError::Foreign { path }),
            Inspected::FromTheFuture(version) => {
                return Err(StoreError::FromTheFuture { path, version });
            }
            Inspected::Damaged(bytes) => survey.damaged.push((number, bytes)),
            Inspected::Segment(segment) => {
                let highest = survey.active.as_ref().map_or(0, |active| active.seal.generation);
                if segment.seal.generation > highest {
                    survey.others.extend(survey.active.replace(segment));
                } else {
                    survey.others.push(segment);
                }
            }
        }
    }
    Ok(survey)
}

/// A locked directory.
pub(super) struct Directory {
    disk: Box<dyn Disk>,
    path: PathBuf,
    next_number: u32,
    _lock: Box<dyn Send>,
}

impl Directory {
    /// Makes the directory unless it exists, locks it and removes what was never finished.
    pub(super) fn open(disk: Box<dyn Disk>, path: &Path) -> Result<Directory, StoreError> {
        make_directory(&*disk, path)?;
        // Before the lock file is made, so that a path that is no directory says so.
        let mut used = numbers(&*disk, path)?;
        let lock_path = path.join("lock");
        let lock = disk.lock(&lock_path).map_err(|cause| match cause.kind() {
            io::ErrorKind::WouldBlock => StoreError::Locked { path: lock_path.clone() },
            _ => StoreError::refused("lock", &lock_path, cause),
        })?;
        for name in names(&*disk, path)? {
            if name.ends_with(".new") {
                let path = path.join(name);
                disk.remove(&path).map_err(|cause| StoreError::refused("remove", &path, cause))?;
            }
        }
        // An earlier process may have died between making a name and making it durable.
        disk.sync_directory(path).map_err(|cause| StoreError::refused("sync", path, cause))?;
        used.extend(numbers(&*disk, &path.join(QUARANTINE)).unwrap_or_default());
        let next_number = used.into_iter().max().map_or(1, |highest| highest.saturating_add(1));
        Ok(Directory { disk, path: path.to_path_buf(), next_number, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn survey(&self) -> Result<Survey, StoreError> {
        survey(&*self.disk, &self.path, true)
    }

    /// Where a segment lies, for messages.
    pub(super) fn path_of(&self, number: u32) -> PathBuf {
        self.path.join(name_of(number))
    }

    /// Makes a segment of zeros, durable with its name. Evidence gives way when space is short.
    pub(super) fn create_segment(&mut self, segment_bytes: u64) -> Result<Segment, StoreError> {
        loop {
            let number = self.next_number;
            self.next_number = number.saturating_add(1);
            let (unfinished, path) =
                (self.path.join(format!("{number:08}.new")), self.path_of(number));
            let cause = match self.fill(&unfinished, &path, segment_bytes) {
                Ok(file) => {
                    return Ok(Segment { number, file, seal: Seal::blank(segment_bytes) });
                }
                Err(cause) => cause,
            };
            // Best effort: the next open removes the one and takes the other for a spare.
            let _ = self.disk.remove(&unfinished);
            let _ = self.disk.remove(&path);
            match cause.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    if !self.drop_evidence(0).unwrap_or(false) {
                        return Err(StoreError::NoSpace { path, segment_bytes });
                    }
                }
                _ => return Err(StoreError::refused("create segment", &path, cause)),
            }
        }
    }

    fn fill(
        &self,
        unfinished: &Path,
        path: &Path,
        segment_bytes: u64,
    ) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.create(unfinished)?;
        segment::fill(&*file, segment_bytes)?;
        self.disk.rename(unfinished, path)?;
        self.disk.sync_directory(&self.path)?;
        Ok(file)
    }

    /// Moves a segment out of use and keeps it, at the price of the oldest kept before.
    pub(super) fn quarantine(&self, number: u32) -> io::Result<PathBuf> {
        let quarantine = self.path.join(QUARANTINE);
        match self.disk.make_directory(&quarantine) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
            _ => {}
        }
        while self.drop_evidence(QUARANTINE_FILES_MAX - 1)? {}
        let kept = quarantine.join(name_of(number));
        self.disk.rename(&self.path_of(number), &kept)?;
        self.disk.sync_directory(&quarantine)?;
        self.disk.sync_directory(&self.path)?;
        Ok(kept)
    }

    /// Removes a segment.
    pub(super) fn remove(&self, number: u32) -> Result<(), StoreError> {
        let path = self.path_of(number);
        self.disk.remove(&path).map_err(|cause| StoreError::refused("remove", &path, cause))
    }

    /// Removes the oldest segment in quarantine if there are more than `keep`; says whether.
    fn drop_evidence(&self, keep: usize) -> io::Result<bool> {
        let quarantine = self.path.join(QUARANTINE);
        let names = self.disk.list(&quarantine)?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        if numbers.len() <= keep {
            return Ok(false);
        }
        self.disk.remove(&quarantine.join(name_of(numbers[0])))?;
        Ok(true)
    }
}

fn make_directory(disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match disk.make_directory(path) {
        Ok(()) => disk
            .sync_directory(parent)
            .map_err(|cause| StoreError::refused("create directory", path, cause)),
        Err(cause) => match cause.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            io::ErrorKind::NotFound => Err(StoreError::MissingParent { path: path.to_path_buf() }),
            _ => Err(StoreError::refused("create directory", path, cause)),
        },
    }
}

fn names(disk: &dyn Disk, path: &Path) -> Result<Vec<String>, StoreError> {
    disk.list(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotADirectory => StoreError::NotADirectory { path: path.to_path_buf() },
        _ => StoreError::io("list", path, cause),
    })
}

/// Numbers of the segments in a directory, ascending.
fn numbers(disk: &dyn Disk, path: &Path) -> Result<Vec<u32>, StoreError> {
    let mut numbers: Vec<u32> =
        names(disk, path)?.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn name_of(number: u32) -> String {
    format!("{number:08}.journal")
}

fn number_of(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".journal")?.parse().ok()?;
    (name_of(number) == name).then_some(number)
}
