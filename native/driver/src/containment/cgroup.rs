//! Decides where attempts get their control groups and how a group is stopped, killed and removed.
//!
//! Knows nothing of attempts or of /proc; a process is only a number here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::{Errno, pread, pwrite, read, retry_on_intr, write};
use rustix::process::{RawPid, getpid};

use super::Tier;

/// Most bytes read of a mount table or of a list of processes.
const TABLE_BYTES: u64 = 1024 * 1024;
/// Most groups that are looked at below one attempt's (it may make its own when it is root).
const GROUPS_MAX: usize = 256;
/// A group empties an instant after its last process ended: tries, and the pause between them.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// How a hierarchy keeps its processes from forking while they are killed.
#[derive(Debug, Clone, Copy)]
struct Brake {
    file: &'static str,
    on: &'static str,
    off: &'static str,
}

/// Version 1 hierarchies in order of preference. `pids` needs no thawing; a named hierarchy has no
/// brake at all. Hierarchies that change what a process may use (cpu, cpuset) are left alone.
const FIRST_VERSION: [(&str, Option<Brake>); 3] = [
    ("pids", Some(Brake { file: "pids.max", on: "0", off: "0" })),
    ("freezer", Some(Brake { file: "freezer.state", on: "FROZEN", off: "THAWED" })),
    ("name=systemd", None),
];
const SECOND_VERSION: Brake = Brake { file: "cgroup.freeze", on: "1", off: "0" };
/// Where we go in a group of version 2 that is ours, because the kernel lends controllers only
/// below a group without processes. The dot keeps it apart from every instance's own directory.
const LEAF: &str = "limpet.agent";

/// A place below which this instance may make groups.
#[derive(Debug)]
pub(super) struct Hierarchy {
    pub base: PathBuf,
    brake: Option<Brake>,
    pub tier: Tier,
    /// Why no controller of version 2 can be lent.
    pub obstacle: Option<String>,
    /// Groups made so far.
    made: AtomicU64,
}

impl Hierarchy {
    /// The hierarchy of version 2 (with or without controllers), when its tree is writable.
    pub fn second_version(instance: &str) -> Option<Hierarchy> {
        let own = own_group("")?;
        let place = place(&own)?;
        let base = writable_base(place, instance)?;
        // In a threaded subtree a group takes no processes.
        let kind = fs::read_to_string(base.join("cgroup.type")).unwrap_or_default();
        if kind.trim() != "domain" {
            let _ = fs::remove_dir(&base);
            return None;
        }
        let obstacle = vacate(place).err();
        Some(Hierarchy {
            base,
            brake: Some(SECOND_VERSION),
            tier: Tier::CgroupV2,
            obstacle,
            made: AtomicU64::new(0),
        })
    }

    /// The best hierarchy of version 1 whose tree is writable.
    pub fn first_version(instance: &str) -> Option<Hierarchy> {
        FIRST_VERSION.iter().find_map(|(controller, brake)| {
            let base = base_of_first_version(instance, controller)?;
            Some(Hierarchy {
                base,
                brake: *brake,
                tier: Tier::CgroupV1,
                obstacle: None,
                made: AtomicU64::new(0),
            })
        })
    }

    /// Makes an empty group. Its name is a number, because it is made before it is known whose it
    /// will be, and a group of version 2 keeps its name.
    pub fn create(&self) -> io::Result<PathBuf> {
        let next = || self.base.join(self.made.fetch_add(1, Ordering::Relaxed).to_string());
        let mut group = next();
        let mut made = make(&group);
        for _ in 0..GROUPS_MAX {
            // An earlier run's, with a process that could not be killed.
            let Err(ErrorKind::ResourceBusy) = made.as_ref().map_err(io::Error::kind) else {
                break;
            };
            group = next();
            made = make(&group);
        }
        made.map(|()| group)
    }

    /// Lets the groups of this instance have a controller of version 2, if the system lends it.
    pub fn enable(&self, controller: &str) -> bool {
        let lend = |group: &Path| {
            let file = group.join("cgroup.subtree_control");
            let lent = read_table(&file).unwrap_or_default();
            lent.split_whitespace().any(|name| name == controller)
                || fs::write(file, format!("+{controller}")).is_ok()
        };
        // Some could be lent to a group with processes, but then it takes none below it.
        let second = self.tier == Tier::CgroupV2 && self.obstacle.is_none();
        second && self.base.parent().is_some_and(lend) && lend(&self.base)
    }

    /// Every group of this instance.
    pub fn groups(&self) -> Vec<PathBuf> {
        children(&self.base)
    }

    /// Keeps the processes of `group` from forking; best effort.
    pub fn halt(&self, group: &Path) {
        if let Some(brake) = self.brake {
            for group in subtree(group) {
                let _ = fs::write(group.join(brake.file), brake.on);
            }
        }
    }

    /// Lets a halted group die: what is frozen cannot. Nothing in it may run on.
    pub fn release(&self, group: &Path) {
        if let Some(brake) = self.brake.filter(|brake| brake.on != brake.off) {
            for group in subtree(group) {
                let _ = fs::write(group.join(brake.file), brake.off);
            }
        }
    }
}

/// The groups of one attempt, opened before its process is made: the ways into them, and what they
/// are looked at and limited by.
///
/// Whoever is moved to another group holds up every fork of the system until all processors have
/// come by, which takes some ten milliseconds where nobody has done so lately. The kernel knows two
/// ways without: to be born in a group of version 2, and to move one thread, one's own, between
/// groups of version 1 (Linux 5.5).
#[derive(Debug, Default)]
pub(crate) struct Entrances {
    groups: Vec<Entrance>,
}

#[derive(Debug)]
struct Entrance {
    directory: OwnedFd,
    /// Of version 2 that of processes, to read and write; of version 1 that of threads, to write.
    list: OwnedFd,
    version: Version,
    /// Files in it that were written to, by their names: groups that are used again get the same
    /// limits again and again.
    written: Mutex<Vec<(String, OwnedFd)>>,
}

/// Of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    First,
    Second,
}

impl Entrances {
    /// Into each of `groups`, of which at most one is of version 2.
    pub(crate) fn open(groups: &[PathBuf]) -> io::Result<Entrances> {
        let groups = groups.iter().map(|group| Entrance::open(group));
        Ok(Entrances { groups: groups.collect::<io::Result<_>>()? })
    }

    /// The directory of the group of version 2, to be born in.
    pub fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        let mut groups = self.groups.iter();
        groups.find(|group| group.version == Version::Second).map(|group| group.directory.as_fd())
    }

    /// Brings the calling process, which has one thread, into all; into that of version 2 only
    /// unless it `is_inside` already. Allocates nothing.
    pub fn enter(&self, is_inside: bool) -> Result<(), Errno> {
        for group in &self.groups {
            if !(is_inside && group.version == Version::Second) {
                // 0 is the writer itself.
                write(&group.list, b"0")?;
            }
        }
        Ok(())
    }

    /// Whether all are still there and hold no group, and the first no process. Nobody of ours gets
    /// into another without it, and version 1 makes a list anew for each who asks for one.
    pub(super) fn are_empty(&self) -> bool {
        self.groups.first().is_none_or(Entrance::has_no_process)
            && self.groups.iter().all(Entrance::has_no_group)
    }

    /// Writes into a file of the group in this place among those it was opened for.
    pub(super) fn write(&self, place: usize, file: &str, text: &str) -> io::Result<()> {
        Ok(self.groups.get(place).ok_or(ErrorKind::NotFound)?.write(file, text.as_bytes())?)
    }

    /// For a test: it cannot be born there.
    #[cfg(test)]
    pub fn misplace(&mut self, elsewhere: OwnedFd) {
        let mut groups = self.groups.iter_mut();
        if let Some(group) = groups.find(|group| group.version == Version::Second) {
            group.directory = elsewhere;
        }
    }
}

impl Entrance {
    fn open(group: &Path) -> io::Result<Entrance> {
        let directory = File::open(group)?.into();
        let open = |file, flags| openat(&directory, file, flags | OFlags::CLOEXEC, Mode::empty());
        let (list, version) = match open("tasks", OFlags::WRONLY) {
            Ok(list) => (list, Version::First),
            Err(Errno::NOENT) => (open("cgroup.procs", OFlags::RDWR)?, Version::Second),
            Err(errno) => return Err(errno.into()),
        };
        Ok(Entrance { directory, list, version, written: Mutex::default() })
    }

    fn write(&self, file: &str, text: &[u8]) -> Result<(), Errno> {
        // A panic elsewhere leaves a whole list.
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let place = if let Some(place) = written.iter().position(|(name, _)| name == file) {
            place
        } else {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let opened = openat(&self.directory, file, flags, Mode::empty())?;
            written.push((file.to_owned(), opened));
            written.len() - 1
        };
        // A limit on memory gives way to a signal that comes meanwhile.
        retry_on_intr(|| pwrite(&written[place].1, text, 0)).map(|_| ())
    }

    /// A removed group has no list any more.
    fn has_no_process(&self) -> bool {
        let mut some = [0; 1];
        let listed = match self.version {
            // Each read from the beginning makes the list anew.
            Version::Second => pread(&self.list, &mut some, 0),
            // Who opens it gets it as it is; read again, it is as it was up to a second ago.
            Version::First => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let list = openat(&self.directory, "cgroup.procs", flags, Mode::empty());
                list.and_then(|list| read(&list, &mut some))
            }
        };
        listed == Ok(0)
    }

    /// The kernel counts the groups in it among its links, beside its own two.
    fn has_no_group(&self) -> bool {
        fstat(&self.directory).is_ok_and(|found| found.st_nlink == 2)
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        // Refused by the kernel while an attempt's group is still there.
        let _ = fs::remove_dir(&self.base);
    }
}

/// Makes an empty group. A leftover of the same name is removed first, if it is empty.
pub(super) fn make(group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_dir(group)?;
            fs::create_dir(group)
        }
        // With its base, should another containment of this instance have taken that along.
        Err(error) if error.kind() == ErrorKind::NotFound => fs::create_dir_all(group),
        made => made,
    }
}

/// Where this instance may make groups of version 1 with `controller`.
pub(super) fn base_of_first_version(instance: &str, controller: &str) -> Option<PathBuf> {
    let own = own_group(controller)?;
    writable_base(place(&own)?, instance)
}

/// Our own group in the hierarchy of version 1 with `controller`; empty stands for version 2.
pub(super) fn own_group(controller: &str) -> Option<PathBuf> {
    own_directory(&read_table("/proc/self/mountinfo")?, &membership()?, controller)
}

/// Kills everything in `group` at once, where the kernel can (5.14, version 2 only).
pub(super) fn kill(group: &Path) {
    let file = group.join("cgroup.kill");
    if file.exists() {
        let _ = fs::write(file, "1");
    }
}

/// The processes in `group` and in the groups below it.
pub(super) fn pids(group: &Path) -> BTreeSet<RawPid> {
    let mut pids = BTreeSet::new();
    for group in subtree(group) {
        // 0 stands for a process of another pid namespace.
        pids.extend(members(&group).into_iter().filter(|&pid| pid > 0));
    }
    pids
}

/// The processes in `group` itself.
fn members(group: &Path) -> BTreeSet<RawPid> {
    let table = read_table(group.join("cgroup.procs")).unwrap_or_default();
    table.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Removes `group` and the groups below it; false when some process is still there.
pub(super) fn remove(group: &Path) -> bool {
    subtree(group).iter().rev().all(|group| {
        (0..REMOVE_TRIES).any(|_| match fs::remove_dir(group) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                std::thread::sleep(REMOVE_PAUSE);
                false
            }
            Err(error) => error.kind() == ErrorKind::NotFound,
            Ok(()) => true,
        })
    })
}

/// `group` and all below it, parents before children.
fn subtree(group: &Path) -> Vec<PathBuf> {
    let mut found = vec![group.to_path_buf()];
    let mut next = 0;
    while next < found.len() && found.len() < GROUPS_MAX {
        let below = children(&found[next]);
        found.extend(below);
        next += 1;
    }
    found
}

/// The groups directly below `group`.
pub(super) fn children(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .take(GROUPS_MAX)
        .collect()
}

/// A directory for this instance below `own`, when processes can be moved into it.
fn writable_base(own: &Path, instance: &str) -> Option<PathBuf> {
    // Moving needs the right to write to the common ancestor too, which is our own group.
    fs::OpenOptions::new().write(true).open(own.join("cgroup.procs")).ok()?;
    let base = own.join(format!("limpet-{instance}"));
    match fs::create_dir(&base) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => None,
        _ => Some(base),
    }
}

/// Where steps get their groups, given our own: in it, or beside it when it is one that was made
/// for the agent alone, by an earlier run or by whoever wants the agent capped and not its steps.
fn place(own: &Path) -> Option<&Path> {
    if own.ends_with(LEAF) { own.parent() } else { Some(own) }
}

/// Leaves `place`, a group of version 2, to the groups below it. Nobody but ourselves is moved.
///
/// # Errors
///
/// Why controllers cannot be lent to the groups below it.
fn vacate(place: &Path) -> Result<(), String> {
    // The root of all groups, which has no type, lends whoever is in it.
    if !place.join("cgroup.type").exists() {
        return Ok(());
    }
    let failed = |what: &str, why: String| {
        let group = place.display();
        Err(format!("cannot {what} control group {group}: {why} (it lends no controller)"))
    };
    let others = |pids: &BTreeSet<RawPid>| {
        let own = getpid().as_raw_pid();
        pids.iter().filter(|&&pid| pid != own).count()
    };
    let held = |count| failed("use", format!("{count} other processes are in it"));
    let inside = members(place);
    if inside.is_empty() {
        return Ok(());
    }
    if others(&inside) > 0 {
        return held(others(&inside));
    }
    let lends = fs::OpenOptions::new().write(true).open(place.join("cgroup.subtree_control"));
    let leaf = place.join(LEAF);
    let moved = lends.and_then(|_| fs::create_dir_all(&leaf));
    if let Err(cause) = moved.and_then(|()| fs::write(leaf.join("cgroup.procs"), "0")) {
        return failed("leave", cause.to_string());
    }
    // Whoever was forked or put there in between.
    match members(place).len() {
        0 => Ok(()),
        count => held(count),
    }
}

/// Where our own group of a hierarchy is mounted; an empty `controller` stands for version 2.
fn own_directory(mounts: &str, membership: &str, controller: &str) -> Option<PathBuf> {
    let wanted = |list: &str| list.split(',').any(|item| item == controller);
    let path = membership.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        wanted(fields.next()?).then(|| fields.next()).flatten()
    })?;
    let (root, point) = mounts.lines().find_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut source = source.split(' ');
        let (kind, options) = (source.next()?, source.nth(1)?);
        let fits = match controller {
            "" => kind == "cgroup2",
            _ => kind == "cgroup" && wanted(options),
        };
        // Odd characters are written as octal escapes; no system mounts control groups so.
        (fits && !point.contains('\\')).then_some((root, point))
    })?;
    let below = Path::new(path).strip_prefix(root).ok();
    let own = below.map(|below| Path::new(point).join(below)).filter(|own| own.is_dir());
    Some(own.unwrap_or_else(|| PathBuf::from(point)))
}

fn membership() -> Option<String> {
    read_table("/proc/self/cgroup")
}

fn read_table(path: impl AsRef<Path>) -> Option<String> {
    let mut table = String::new();
    File::open(path).ok()?.take(TABLE_BYTES).read_to_string(&mut table).ok()?;
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own group is found through the mount's root, as containers without their own control
    /// group namespace have it; outside of that root the mount itself is taken.
    #[test]
    fn own_group_is_found_below_a_mounted_subtree() {
        let point = std::env::temp_dir();
        let point = point.to_str().expect("a plain path");
        let mounts = format!(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             39 31 0:36 /docker/7 {point} rw,nosuid shared:9 - cgroup cgroup rw,pids\n\
             41 31 0:38 / {point} rw - cgroup2 cgroup2 rw\n"
        );
        let membership = "9:name=systemd:/\n8:cpu,pids:/docker/7\n0::/elsewhere/missing\n";
        let own = |controller| own_directory(&mounts, membership, controller);
        assert_eq!(own("pids"), Some(PathBuf::from(point)));
        assert_eq!(own(""), Some(PathBuf::from(point)));
        assert_eq!(own("freezer"), None);
        assert_eq!(own("name=systemd"), None, "it is not mounted");
    }
}
