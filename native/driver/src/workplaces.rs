//! Decides what becomes of the working directories of tasks: removed, kept on demand, or used again
//! for a later task.
//!
//! To make a directory and to remove it takes a file system about as long as all else that a short
//! step needs: it looks for an inode that was not in use lately, and gives blocks back. One that is
//! as it was made is renamed instead.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    CWD, Mode, OFlags, RawDir, RenameFlags, Stat, flistxattr, fstat, ioctl_getflags, mkdirat,
    openat, renameat_with,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

/// Directories that wait for a task: as many as attempts may run at once by any configuration.
const SPARES_MAX: usize = 64;
/// What their names begin with, unless there was no time to rename them; no task's does.
const SPARE: &str = ".spare-";
/// What the name of a working directory ends with that was kept on demand.
const KEPT: &str = "kept";
/// One that holds nothing and is larger has held much, which makes it slow.
const BYTES_MAX: i64 = 4096;
/// Flags that ext4 gives a directory by itself: its blocks are extents, or within its inode.
const GIVEN_FLAGS: u32 = 0x0008_0000 | 0x1000_0000;
/// Room for the two names that every directory has, and for one more of any length.
const NAMES_BYTES: usize = 512;

/// The working directories of this run. Shared by threads: names are given under the lock, for the
/// kernel lets one at a time change those in a directory anyway; all else is done without it.
#[derive(Debug)]
pub struct Workplaces {
    root: PathBuf,
    /// `None` where there is nothing to open: then none is used again.
    opened: Option<OwnedFd>,
    known: Mutex<Known>,
}

/// Directories by their names in the root.
#[derive(Debug, Default)]
struct Known {
    /// Made here, and nobody is left of any attempt that was in it.
    clean: HashSet<OsString>,
    spares: Vec<Spare>,
    named: u64,
}

/// A directory that waits for a task.
#[derive(Debug)]
struct Spare {
    name: OsString,
    opened: OwnedFd,
    /// It still has the name of the task that left it.
    is_tasks: bool,
}

impl Workplaces {
    /// Those directly beneath `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Workplaces {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, &root, flags, Mode::empty()).ok();
        Workplaces { root, opened, known: Mutex::default() }
    }

    /// Makes a directory that is missing, as the agent's own, and opens it; `None` for one that is
    /// there. Best effort: who starts a process makes what is still missing, and tells why not.
    pub fn make(&self, directory: &Path) -> Option<OwnedFd> {
        let (root, name) = self.place(directory)?;
        let reused = self.reuse(root, name).ok()?;
        let made = || mkdirat(root, name, Mode::RWXU).and_then(|()| open(root, name)).ok();
        let opened = reused.or_else(made)?;
        self.known().clean.insert(name.to_owned());
        Some(opened)
    }

    /// Gives one that waits, if any does, the name `name`. [`Errno::EXIST`] where that is taken.
    fn reuse(&self, root: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Option<OwnedFd>> {
        let mut known = self.known();
        if known.clean.contains(name) {
            return Err(Errno::EXIST);
        }
        while let Some(spare) = known.spares.pop() {
            match rename(root, &spare.name, name) {
                Ok(()) => return Ok(Some(spare.opened)),
                Err(Errno::EXIST) => {
                    known.spares.push(spare);
                    // It waits itself; or it is an earlier step's, of an earlier run.
                    let found = known.spares.iter().position(|spare| spare.name == name);
                    let found = found.ok_or(Errno::EXIST)?;
                    return Ok(Some(known.spares.swap_remove(found).opened));
                }
                Err(_) => _ = fs::remove_dir_all(self.root.join(spare.name)),
            }
        }
        Ok(None)
    }

    /// Somebody may be left of an attempt that was in it, who would find a later task's files.
    pub fn doubt(&self, directory: &Path) {
        if let Some(name) = directory.file_name() {
            self.known().clean.remove(name);
        }
    }

    /// Ends a working directory: kept under another name, so that nobody takes it for a live one,
    /// or removed, unless a later task can have it.
    pub fn retire(&self, directory: &Path, keep: bool) {
        let place = self.place(directory);
        let clean = place.filter(|(_, name)| self.known().clean.remove(*name));
        if keep {
            let mut name = directory.as_os_str().to_owned();
            name.push(".");
            name.push(KEPT);
            let _ = fs::rename(directory, name);
        } else if !clean.is_some_and(|(root, name)| self.set_aside(root, name)) {
            let _ = fs::remove_dir_all(directory);
        }
    }

    /// Lets it wait for the next task, for now under the name it has: by then there may be one.
    fn set_aside(&self, root: BorrowedFd<'_>, name: &OsStr) -> bool {
        let Some(opened) = open(root, name).ok().filter(is_as_made) else { return false };
        let mut known = self.known();
        let has_room = known.spares.len() < SPARES_MAX;
        if has_room {
            known.spares.push(Spare { name: name.to_owned(), opened, is_tasks: true });
        }
        has_room
    }

    /// Whether something waits under the name of a task that is over.
    pub fn is_untidy(&self) -> bool {
        self.known().spares.iter().any(|spare| spare.is_tasks)
    }

    /// Gives all that waits a name that is no task's. For whoever has nothing else to do.
    pub fn tidy(&self) {
        let Some(root) = &self.opened else { return };
        let mut known = self.known();
        let Known { spares, named, .. } = &mut *known;
        for spare in spares.iter_mut().filter(|spare| spare.is_tasks) {
            *named += 1;
            let name = OsString::from(format!("{SPARE}{named}"));
            // One that is gone is found out when it is to be used.
            let _ = rename(root.as_fd(), &spare.name, &name);
            (spare.name, spare.is_tasks) = (name, false);
        }
    }

    /// Where a directory is, and its name there.
    fn place<'a>(&'a self, directory: &'a Path) -> Option<(BorrowedFd<'a>, &'a OsStr)> {
        Some((self.opened.as_ref()?.as_fd(), directory.file_name()?))
    }

    /// A panic elsewhere leaves whole lists.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Workplaces {
    fn drop(&mut self) {
        let known = self.known();
        known.spares.iter().for_each(|spare| _ = fs::remove_dir_all(self.root.join(&spare.name)));
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

fn open(root: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(root, name, flags, Mode::empty())
}

/// Never in the place of another, not even of an empty one.
fn rename(root: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
    renameat_with(root, from, root, to, RenameFlags::NOREPLACE)
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

    /// Which directory a task gets; `None` where it is there.
    fn given(places: &Workplaces, name: &str) -> Option<u64> {
        places.make(&places.root.join(name)).map(|fd| fstat(fd).expect("open").st_ino)
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
        let places = Workplaces::new(root.path().to_owned());
        let opened = |name| given(&places, name);
        let first = opened("s.one").expect("a new one");
        assert_eq!(first, inode(&path("s.one")));
        assert_eq!(opened("s.one"), None, "it is there");
        fs::write(path("s.one").join("file"), "text").expect("written");
        fs::remove_file(path("s.one").join("file")).expect("removed");
        places.retire(&path("s.one"), false);
        places.tidy();
        assert!(!path("s.one").exists() && !places.is_untidy());
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

    /// Under load a directory goes from task to task by one change of its name; a task whose name
    /// one still has gets that one.
    #[test]
    fn what_waits_keeps_its_name_until_there_is_time() {
        let root = tempdir().expect("a directory");
        let path = |name: &str| root.path().join(name);
        let places = Workplaces::new(root.path().to_owned());
        let opened = |name| given(&places, name);
        let both = [opened("s.one"), opened("s.two")];
        ["s.one", "s.two"].iter().for_each(|name| places.retire(&path(name), false));
        assert!(places.is_untidy());
        assert_eq!(opened("s.one"), both[0], "its own, though another waits in front of it");
        assert_eq!(opened("s.one"), None, "now it is there");
        assert_eq!(opened("s.three"), both[1]);
        assert!(!path("s.two").exists() && !places.is_untidy());
        assert_eq!(names(root.path()), 2);
        ["s.one", "s.three"].iter().for_each(|name| places.retire(&path(name), false));
        fs::remove_dir(path("s.one")).expect("removed");
        places.tidy();
        assert!(!path("s.three").exists());
        let next = [opened("s.four"), opened("s.five")];
        assert!(next.contains(&both[1]) && !next.contains(&None), "one that is gone is not missed");
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
            let places = Workplaces::new(root.path().to_owned());
            places.make(&directory);
            let changed = change(&directory);
            assert!(changed || number > 2, "{number}");
            places.retire(&directory, false);
            places.tidy();
            assert!(!directory.exists());
            assert_eq!(places.known().spares.is_empty(), changed, "{number}");
        }
        let places = Workplaces::new(root.path().to_owned());
        places.make(&directory);
        places.doubt(&directory);
        places.retire(&directory, false);
        assert_eq!(names(root.path()), 0);
    }
}
