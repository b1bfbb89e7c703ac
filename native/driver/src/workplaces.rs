//! Decides what becomes of the working directories of tasks: removed, kept on demand, or used again
//! for a later task.
//!
//! To make a directory and to remove it takes a file system about as long as all else that a short
//! step needs: it looks for an inode that was not in use lately, and gives blocks back. One that is
//! as it was made is renamed instead.

use std::collections::HashSet;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    CWD, Mode, OFlags, RawDir, RenameFlags, Stat, flistxattr, fstat, ioctl_getflags, mkdirat,
    openat, renameat_with,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

/// Directories that wait for a task.
const SPARES_MAX: usize = 32;
/// What their names begin with; no task's does.
const SPARE: &str = ".spare-";
/// What the name of a working directory ends with that was kept on demand.
const KEPT: &str = "kept";
/// One that holds nothing and is larger has held much, which makes it slow.
const BYTES_MAX: i64 = 4096;
/// Flags that ext4 gives a directory by itself: its blocks are extents, or within its inode.
const GIVEN_FLAGS: u32 = 0x0008_0000 | 0x1000_0000;
/// Room for the two names that every directory has, and for one more of any length.
const NAMES_BYTES: usize = 512;

/// The working directories of this run. Shared by threads, none of which waits for what another
/// does on the disk.
#[derive(Debug, Default)]
pub struct Workplaces(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Made here, and nobody is left of any attempt that was in it.
    clean: HashSet<PathBuf>,
    spares: Vec<Spare>,
    named: u64,
}

/// A directory that waits for a task.
#[derive(Debug)]
struct Spare {
    path: PathBuf,
    opened: OwnedFd,
}

impl Workplaces {
    /// Makes a directory that is missing, as the agent's own, and opens it; `None` for one that is
    /// there. Best effort: who starts a process makes what is still missing, and tells why not.
    pub fn make(&self, directory: &Path) -> Option<OwnedFd> {
        if self.known().clean.contains(directory) {
            return None;
        }
        let opened = self.provide(directory)?;
        self.known().clean.insert(directory.to_owned());
        Some(opened)
    }

    /// Gives one that waits the name of `directory`, or makes one.
    fn provide(&self, directory: &Path) -> Option<OwnedFd> {
        while let Some(spare) = self.pop() {
            match rename(&spare.path, directory) {
                Ok(()) => return Some(spare.opened),
                // An earlier step's, of an earlier run.
                Err(Errno::EXIST) => {
                    self.known().spares.push(spare);
                    return None;
                }
                Err(_) => _ = fs::remove_dir_all(spare.path),
            }
        }
        mkdirat(CWD, directory, Mode::RWXU).and_then(|()| open(directory)).ok()
    }

    /// Somebody may be left of an attempt that was in it, who would find a later task's files.
    pub fn doubt(&self, directory: &Path) {
        self.known().clean.remove(directory);
    }

    /// Ends a working directory: kept under another name, so that nobody takes it for a live one,
    /// or removed, unless a later task can have it.
    pub fn retire(&self, directory: &Path, keep: bool) {
        let clean = self.known().clean.remove(directory);
        if keep {
            let mut name = directory.as_os_str().to_owned();
            name.push(".");
            name.push(KEPT);
            let _ = fs::rename(directory, name);
        } else if !(clean && self.set_aside(directory)) {
            let _ = fs::remove_dir_all(directory);
        }
    }

    fn set_aside(&self, directory: &Path) -> bool {
        let (Some(name), Ok(opened)) = (self.name(), open(directory)) else { return false };
        let path = directory.with_file_name(name);
        let done = is_as_made(&opened) && rename(directory, &path).is_ok();
        if done {
            self.known().spares.push(Spare { path, opened });
        }
        done
    }

    /// That of one spare more, if there is room for it.
    fn name(&self) -> Option<String> {
        let mut known = self.known();
        known.named += 1;
        (known.spares.len() < SPARES_MAX).then(|| format!("{SPARE}{}", known.named))
    }

    fn pop(&self) -> Option<Spare> {
        self.known().spares.pop()
    }

    /// A panic elsewhere leaves whole lists.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Workplaces {
    fn drop(&mut self) {
        self.known().spares.iter().for_each(|spare| _ = fs::remove_dir_all(&spare.path));
    }
}

/// Removes the working directories beneath `root` that belong to no live task and are not kept, and
/// those that an earlier run had set aside.
pub fn clear_directories(root: &Path, live: &[String]) {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let kept = path.extension().is_some_and(|extension| extension == KEPT);
        if !kept && name.is_none_or(|name| !live.contains(&name)) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn open(directory: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, directory, flags, Mode::empty())
}

/// Never in the place of another, not even of an empty one.
fn rename(from: &Path, to: &Path) -> rustix::io::Result<()> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
}

/// Whether it is empty, small, and has the owner, the mode and the attributes of a new one: nothing
/// of what an earlier task has done to it would be a later one's. False where that is not sure.
fn is_as_made(opened: &OwnedFd) -> bool {
    let own = |found: Stat| {
        found.st_uid == geteuid().as_raw()
            && found.st_gid == getegid().as_raw()
            && Mode::from_raw_mode(found.st_mode) == Mode::RWXU
            && found.st_size <= BYTES_MAX
    };
    // A file system without the one or the other has none that could be set.
    let is = |answer: Result<bool, Errno>| {
        answer.unwrap_or_else(|errno| [Errno::NOTSUP, Errno::NOTTY, Errno::NOSYS].contains(&errno))
    };
    fstat(opened).is_ok_and(own)
        && is(flistxattr(opened, &mut [0_u8; 1]).map(|bytes| bytes == 0))
        && is(ioctl_getflags(opened).map(|flags| flags.bits() & !GIVEN_FLAGS == 0))
        && is_empty(opened)
}

fn is_empty(directory: &OwnedFd) -> bool {
    let mut names = [MaybeUninit::uninit(); NAMES_BYTES];
    let mut entries = RawDir::new(directory, &mut names);
    while let Some(entry) = entries.next() {
        if !entry.is_ok_and(|entry| [c".", c".."].contains(&entry.file_name())) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{IFlags, XattrFlags, ioctl_setflags, setxattr};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use tempfile::tempdir;

    fn inode(path: &Path) -> u64 {
        fs::symlink_metadata(path).expect("it is there").ino()
    }

    fn names(root: &Path) -> usize {
        fs::read_dir(root).expect("a directory").count()
    }

    /// A directory of a task that left it as it was is the next task's, also after much that came
    /// and went; nothing of it stays behind at the end.
    #[test]
    fn what_is_as_it_was_made_is_used_again() {
        let root = tempdir().expect("a directory");
        let path = |name: &str| root.path().join(name);
        let places = Workplaces::default();
        let opened =
            |name: &str| places.make(&path(name)).map(|fd| fstat(fd).expect("open").st_ino);
        let first = opened("s.one").expect("a new one");
        assert_eq!(first, inode(&path("s.one")));
        assert_eq!(opened("s.one"), None, "it is there");
        fs::write(path("s.one").join("file"), "text").expect("written");
        fs::remove_file(path("s.one").join("file")).expect("removed");
        places.retire(&path("s.one"), false);
        assert!(!path("s.one").exists());
        fs::create_dir(path("s.there")).expect("made");
        assert_eq!(opened("s.there"), None, "it is in nobody's place");
        assert_ne!(inode(&path("s.there")), first);
        assert_eq!(opened("s.two"), Some(first));
        assert_eq!(inode(&path("s.two")), first);
        let mode = fs::metadata(path("s.two")).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        places.retire(&path("s.two"), true);
        assert_eq!(inode(&path("s.two.kept")), first, "what is kept is nobody else's");
        for number in 0..2 * SPARES_MAX {
            places.make(&path(&number.to_string()));
        }
        (0..2 * SPARES_MAX).for_each(|number| places.retire(&path(&number.to_string()), false));
        assert_eq!(names(root.path()), 2 + SPARES_MAX);
        drop(places);
        assert_eq!(names(root.path()), 2);
    }

    /// What a task may do to its directory; false where this file system does not know it.
    const CHANGES: [fn(&Path) -> bool; 6] = [
        |place| fs::write(place.join("file"), "").is_ok(),
        |place| fs::create_dir(place.join("directory")).is_ok(),
        |place| fs::set_permissions(place, fs::Permissions::from_mode(0o755)).is_ok(),
        |place| setxattr(place, "user.x", b"y", XattrFlags::empty()).is_ok(),
        |place| {
            let opened = fs::File::open(place).expect("it is there");
            ioctl_setflags(opened, IFlags::NODUMP).is_ok()
        },
        |place| {
            let files: Vec<_> = (0..50).map(|it| place.join(format!("{it:0>200}"))).collect();
            files.iter().for_each(|file| fs::write(file, "").expect("written"));
            files.iter().for_each(|file| fs::remove_file(file).expect("removed"));
            fs::metadata(place).expect("it is there").len() > 4096
        },
    ];

    /// Whatever a task has done to its directory, a later one has a new one; also where somebody
    /// may be left.
    #[test]
    fn what_was_changed_is_removed() {
        let root = tempdir().expect("a directory");
        let directory = root.path().join("s.task");
        for (number, change) in CHANGES.into_iter().enumerate() {
            let places = Workplaces::default();
            places.make(&directory);
            let changed = change(&directory);
            assert!(changed || number > 2, "{number}");
            places.retire(&directory, false);
            assert!(!directory.exists());
            assert_eq!(places.known().spares.is_empty(), changed, "{number}");
        }
        let places = Workplaces::default();
        places.make(&directory);
        places.doubt(&directory);
        places.retire(&directory, false);
        assert_eq!(names(root.path()), 0);
    }
}
