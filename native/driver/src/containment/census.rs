//! Decides who is who in /proc: which processes exist, since when, whose they are, and how to
//! signal exactly the one that was seen.
//!
//! Knows nothing of attempts, control groups or the order in which things are killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use rustix::process::{Pid, PidfdFlags, RawPid, Signal, pidfd_open, pidfd_send_signal};

/// Longest `/proc/PID/stat` that is read; the kernel writes about 350 bytes.
const STAT_BYTES: usize = 1024;
/// How much of an environment is searched. More than any real one; a process that hides its marker
/// behind this much is still found by its control group, session or parent.
const ENVIRON_BYTES: u64 = 2 * 1024 * 1024;
/// Most processes one census returns (40 bytes each); the rest is found by the next one.
const CENSUS_MAX: usize = 16_384;
/// Longest chain of parents that is followed.
const ANCESTORS_MAX: usize = 64;

/// One process for all time in this boot: the kernel reuses a pid, but not with its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub pid: RawPid,
    /// Clock ticks since boot, as in field 22 of `/proc/PID/stat`.
    pub start: u64,
}

/// The leader of an attempt, whose start is read by who asks for it first: most attempts end before
/// anybody has. That is as good as when it was made, for until it is reaped its pid is its own, and
/// whoever reaps it says so before.
#[derive(Debug, Clone)]
pub(super) struct Leader {
    pub pid: RawPid,
    start: Arc<OnceLock<Option<u64>>>,
}

impl Leader {
    /// One that is not reaped yet.
    pub fn new(pid: RawPid) -> Leader {
        Leader { pid, start: Arc::default() }
    }

    /// `None` where /proc does not tell it, and where nobody has asked before it was reaped.
    pub fn identity(&self) -> Option<Identity> {
        let read = || read(self.pid).map(|seen| seen.identity.start);
        self.start.get_or_init(read).map(|start| Identity { pid: self.pid, start })
    }

    /// From now on its pid may be another's. Waits for who is just reading.
    pub fn release(&self) {
        self.start.get_or_init(|| None);
    }
}

/// What one line of `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub identity: Identity,
    pub parent: RawPid,
    pub session: RawPid,
    /// False for a zombie: dead, but not yet reaped.
    pub alive: bool,
}

impl Identity {
    /// A pidfd for this very process, or `None` when it is gone, even if its pid lives again.
    ///
    /// The descriptor pins a process first and the start time is read after: when both agree, the
    /// descriptor cannot be of another.
    pub fn open(self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        let now = read(self.pid)?;
        (now.identity == self && now.alive).then_some(pidfd)
    }

    /// Signals this very process and returns its pidfd, or `None` when it is gone or not ours.
    pub fn signal(self, signal: Signal) -> Option<OwnedFd> {
        let pidfd = self.open()?;
        pidfd_send_signal(&pidfd, signal).ok()?;
        Some(pidfd)
    }
}

/// The process that has `pid` now.
pub(super) fn read(pid: RawPid) -> Option<Process> {
    let mut line = [0u8; STAT_BYTES];
    let mut length = 0;
    let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
    while length < line.len() {
        match file.read(&mut line[length..]).ok()? {
            0 => break,
            count => length += count,
        }
    }
    parse(pid, &line[..length])
}

/// A name may hold spaces, parentheses and bytes of any kind, so fields are counted from the last
/// parenthesis.
fn parse(pid: RawPid, line: &[u8]) -> Option<Process> {
    let close = line.iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(&line[close + 1..]).ok()?.split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X" | "x");
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    // A zombie whose other threads still run is a living process.
    let threads: u32 = fields.nth(13)?.parse().ok()?;
    let start = fields.nth(1)?.parse().ok()?;
    let alive = !dead || threads > 1;
    Some(Process { identity: Identity { pid, start }, parent, session, alive })
}

/// Every process that can be seen, dead ones included, except this one and its ancestors.
pub(super) fn census() -> Vec<Process> {
    let spared = lineage();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawPid>().ok())
        .filter(|pid| !spared.contains(pid))
        .filter_map(read)
        .take(CENSUS_MAX)
        .collect()
}

/// This process and its ancestors: they may carry a marker (an agent that an attempt started, a
/// loader that unpacked us) and are never swept.
fn lineage() -> Vec<RawPid> {
    let mut pids = vec![Pid::as_raw(Some(rustix::process::getpid()))];
    while let Some(process) = pids.last().and_then(|&pid| read(pid)) {
        if process.parent <= 0 || pids.len() == ANCESTORS_MAX {
            break;
        }
        pids.push(process.parent);
    }
    pids
}

/// Whether the environment that `pid` was started with has an entry that begins with `needle`.
///
/// An exact entry is asked for by a needle that ends in NUL. An unreadable environment has none.
pub(super) fn carries(pid: RawPid, needle: &[u8]) -> bool {
    File::open(format!("/proc/{pid}/environ")).is_ok_and(|file| has_entry(file, needle))
}

/// Constant memory, whatever the process has put there.
fn has_entry(environ: impl Read, needle: &[u8]) -> bool {
    let mut reader = BufReader::with_capacity(4096, environ.take(ENVIRON_BYTES));
    let mut matched = Some(0);
    loop {
        let chunk = match reader.fill_buf() {
            Ok(chunk) if !chunk.is_empty() => chunk,
            _ => return false,
        };
        for &byte in chunk {
            matched = match matched {
                Some(count) if byte == needle[count] => Some(count + 1),
                _ => None,
            };
            if matched == Some(needle.len()) {
                return true;
            }
            if byte == 0 {
                matched = Some(0);
            }
        }
        let length = chunk.len();
        reader.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn child() -> (std::process::Child, Identity) {
        let child = std::process::Command::new("/bin/sh")
            .args(["-c", "read line"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let seen = read(i32::try_from(child.id()).expect("a pid")).expect("a stat line");
        (child, seen.identity)
    }

    /// A pid that was given to another process since it was seen is never signalled.
    #[test]
    fn a_reused_pid_is_not_hit() {
        let (mut child, seen) = child();
        let stale = Identity { start: seen.start.wrapping_sub(1), ..seen };
        assert!(stale.signal(Signal::KILL).is_none());
        assert!(child.try_wait().expect("a child").is_none(), "the new owner of the pid lives");
        assert!(seen.signal(Signal::KILL).is_some());
        child.wait().expect("a child");
    }

    /// A leader stays who it was when somebody first asked, and is nobody's once it was let go.
    #[test]
    fn a_leader_is_not_mistaken_for_who_has_its_pid_later() {
        let (mut child, seen) = child();
        let [asked, unasked] = [(); 2].map(|()| Leader::new(seen.pid));
        assert_eq!(asked.identity(), Some(seen));
        [&asked, &unasked].iter().for_each(|leader| leader.release());
        assert_eq!((asked.identity(), unasked.identity()), (Some(seen), None));
        child.kill().expect("a child");
        child.wait().expect("a child");
        assert_eq!(asked.clone().identity(), Some(seen));
    }

    /// A process that has ended, reaped or not, takes no more signals.
    #[test]
    fn the_dead_are_not_signalled() {
        let (mut child, seen) = child();
        let pidfd = seen.signal(Signal::KILL).expect("a live process");
        let mut polled = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, None).expect("its end");
        assert!(!read(seen.pid).expect("a zombie").alive);
        assert!(seen.signal(Signal::KILL).is_none(), "a zombie");
        child.wait().expect("a child");
        assert!(seen.signal(Signal::KILL).is_none(), "nobody");
    }

    /// A name cannot forge the fields that follow it.
    #[test]
    fn a_hostile_name_is_skipped() {
        let line = b"7 (a) Z 1 1 1 (x) S 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1 20 99 0";
        let process = parse(7, line).expect("a process");
        assert_eq!((process.parent, process.session, process.alive), (3, 5, true));
        assert_eq!(process.identity, Identity { pid: 7, start: 99 });
    }

    proptest! {
        /// No line makes the parser panic.
        #[test]
        fn any_line_is_survived(line in prop::collection::vec(any::<u8>(), 0..300)) {
            parse(1, &line);
        }

        /// The marker is found exactly when an entry begins with it, wherever it stands.
        #[test]
        fn only_whole_entries_match(
            entries in prop::collection::vec("(K=i:1)?[Ki=:12]{0,9}", 0..9),
        ) {
            let environ: Vec<u8> =
                entries.iter().flat_map(|entry| entry.bytes().chain([0])).collect();
            let expected = entries.iter().any(|entry| entry == "K=i:1");
            prop_assert_eq!(has_entry(environ.as_slice(), b"K=i:1\0"), expected);
            let expected = entries.iter().any(|entry| entry.starts_with("K=i:"));
            prop_assert_eq!(has_entry(environ.as_slice(), b"K=i:"), expected);
        }
    }
}
