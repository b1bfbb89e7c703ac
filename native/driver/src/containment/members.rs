//! Decides which processes an attempt's memory is summed over, without a search of all of /proc
//! for each look: what was born since the last one is told by the pids given away since.
//!
//! Whoever is known here goes before the agent when the device runs out of memory. Knows nothing of
//! limits. A process that is missed here is missed in a sum and not in a kill, which searches anew.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use rustix::fd::AsFd;
use rustix::process::{Pid, RawPid, Signal, getpid};

use super::census::{self, Identity, Process, carries, census};
use super::footprint::{self, Sizes, Status};
use super::{Cell, Containment, Target, cgroup};
use crate::syscalls::{have_one_memory, release_memory};

/// Pids given away since the last look up to which each is looked at; more, and all of /proc is.
const BORN_MAX: RawPid = 256;
/// A search of all of /proc takes at most one part of so many of the time.
const SHARE: u32 = 100;
/// Between two searches that only look for what was missed.
const PAUSE: Duration = Duration::from_secs(2);
/// Processes of one attempt whose file of sizes is kept open, which bounds the descriptors.
const OPEN_MAX: usize = 2;
/// When memory runs out, steps go before everything else: the highest there is.
const OOM_SCORE: &[u8] = b"1000";
/// Times that shared pages are divided before somebody's death is put up with.
const DIVIDE_TRIES: u32 = 4;

/// What one attempt's processes are told by; outlives its [`Cell`].
#[derive(Debug, Clone)]
pub struct Scope(Target);

impl Scope {
    /// That of a cell whose leader was started.
    pub fn of(cell: &Cell) -> Scope {
        Scope(cell.target.clone())
    }
}

/// Notices births, for all attempts at once.
#[derive(Debug)]
pub struct Births {
    newest: Option<RawPid>,
    /// Given away, but not to be seen yet.
    unseen: Vec<RawPid>,
    /// Changes with every birth that was noticed, and what it was one look earlier.
    count: u64,
    earlier: u64,
    /// Births since the last search of everything.
    missed: bool,
    search_at: Instant,
}

/// The processes of one attempt, as far as they are known.
#[derive(Debug)]
pub struct Members {
    scope: Scope,
    known: Vec<Member>,
    births: u64,
    fresh: bool,
}

#[derive(Debug)]
struct Member {
    identity: Identity,
    open: Option<File>,
}

/// The sum of what is cheap to know, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cheap {
    /// Resident pages of every kind.
    pub resident: u64,
    /// The most that one process has of private writable memory, touched or not.
    pub data: u64,
    /// Processes.
    pub processes: u32,
}

/// One process and the memory that counts, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Its pid.
    pub pid: i32,
    /// Its name: at most 15 bytes, of its own choice.
    pub name: String,
    /// Anonymous, shared and swapped out.
    pub bytes: u64,
    /// Private and writable, touched or not.
    pub data: u64,
}

/// What processes have together at least, whoever shares what, given the image of each, its bytes
/// and what of them may be shared memory: only those of one image share private pages, and the
/// largest has what it has; shared memory may be the same in all.
fn least(each: impl Iterator<Item = (u64, u64, u64)>) -> u64 {
    let mut images: HashMap<u64, u64> = HashMap::new();
    let mut shared = 0;
    for (image, bytes, shmem) in each {
        let most = images.entry(image).or_default();
        *most = bytes.saturating_sub(shmem).max(*most);
        shared = shmem.max(shared);
    }
    images.values().sum::<u64>().saturating_add(shared)
}

impl Births {
    /// Knows nothing yet.
    pub fn new(now: Instant) -> Births {
        Births { newest: None, unseen: vec![], count: 1, earlier: 0, missed: true, search_at: now }
    }

    /// Adds whoever was born since the last call to the attempt it belongs to. A few microseconds
    /// while nobody was.
    pub fn notice(&mut self, containment: &Containment, all: &mut [&mut Members], now: Instant) {
        self.earlier = self.count;
        let newest = footprint::newest_pid();
        // What a new attempt has started before it was known here was born after its leader.
        let leaders = all.iter_mut().filter_map(|members| {
            let leader = members.scope.0.leader.as_ref().map(|leader| leader.pid);
            std::mem::take(&mut members.fresh).then_some(leader).flatten()
        });
        let since = leaders.chain(self.newest).min();
        if newest.is_some() && newest == since && self.unseen.is_empty() && !self.searches(now) {
            return;
        }
        self.missed |= newest != self.newest;
        self.count += u64::from(newest != self.newest);
        self.newest = newest;
        if all.iter().all(|members| members.is_grouped()) {
            return;
        }
        let born = match (since, newest) {
            (Some(since), Some(newest)) if (0..=BORN_MAX).contains(&(newest - since)) => {
                self.look_at(since, newest)
            }
            _ => self.search(now),
        };
        let more = if self.searches(now) { self.search(now) } else { Vec::new() };
        assign(containment, born.into_iter().chain(more).collect(), all);
    }

    /// The processes among the pids after `since`. One that is not there may be half made, or dead
    /// already: it is asked for once more.
    fn look_at(&mut self, since: RawPid, newest: RawPid) -> Vec<Process> {
        let mut found = Vec::new();
        found.extend(self.unseen.drain(..).filter_map(census::read));
        for pid in since + 1..=newest {
            match census::read(pid) {
                Some(process) => found.push(process),
                None => self.unseen.push(pid),
            }
        }
        found
    }

    fn searches(&self, now: Instant) -> bool {
        self.missed && now >= self.search_at
    }

    fn search(&mut self, now: Instant) -> Vec<Process> {
        if now < self.search_at {
            return Vec::new();
        }
        let began = Instant::now();
        let found = census();
        self.search_at = now + PAUSE.max(began.elapsed() * SHARE);
        self.missed = false;
        found
    }
}

impl Members {
    /// Only the leader is known at first.
    pub fn new(scope: Scope) -> Members {
        let mut members = Members { scope, known: Vec::new(), births: 0, fresh: true };
        if let Some(leader) = members.scope.0.leader() {
            members.add(leader);
        }
        members
    }

    /// Whether control groups tell who belongs to it.
    fn is_grouped(&self) -> bool {
        !self.scope.0.groups.is_empty()
    }

    /// Takes over what its control groups list, if anybody was born since. A birth is looked for
    /// twice: a pid is given away before its process is listed.
    pub fn update(&mut self, births: &Births) {
        if !self.is_grouped() || self.births == births.count {
            return;
        }
        self.births = births.earlier;
        let known: Vec<RawPid> = self.known.iter().map(|member| member.identity.pid).collect();
        let listed = self.scope.0.groups.iter().flat_map(|group| cgroup::pids(group));
        let new: Vec<_> = listed.filter(|pid| !known.contains(pid)).collect();
        for process in new.into_iter().filter_map(census::read) {
            self.add(process.identity);
        }
    }

    fn add(&mut self, identity: Identity) {
        if self.known.iter().any(|member| member.identity == identity) {
            return;
        }
        raise_oom_score(identity);
        let open = (self.known.len() < OPEN_MAX).then(|| footprint::open_sizes(identity.pid));
        self.known.push(Member { identity, open: open.flatten() });
    }

    /// The cheap sum; forgets who is gone.
    pub fn cheap(&mut self) -> Cheap {
        let mut sum = Cheap::default();
        self.known.retain(|member| {
            let Some(Sizes { resident, data }) = member.sizes() else { return false };
            sum.resident = sum.resident.saturating_add(resident);
            sum.data = sum.data.max(data);
            sum.processes += 1;
            true
        });
        sum
    }

    /// What counts, process by process, the largest first. Shared pages count in each that maps
    /// them.
    pub fn footprints(&self) -> Vec<Footprint> {
        self.measure(|_, status| status.bytes)
    }

    /// What all have at least, shared pages or not: much cheaper to know than [`Members::divided`],
    /// and exact where everybody has executed a program of its own. Whoever dies or executes one
    /// while it is read does not count.
    pub fn least(&self) -> u64 {
        least(self.known.iter().filter_map(|member| {
            let pid = member.identity.pid;
            let image = footprint::image(pid)?;
            let status = footprint::status(pid)?;
            let same = footprint::image(pid) == Some(image);
            same.then_some((image, status.bytes, status.shmem))
        }))
    }

    /// The same with shared pages divided among those who map them, which costs a walk of all
    /// pages. Who dies meanwhile leaves its share to others that may have been read before or
    /// after: then all are read again, a few times at most, and it is told whether the last time
    /// nobody died.
    pub fn divided(&self) -> (Vec<Footprint>, bool) {
        let bytes = |pid, status: &Status| footprint::proportional(pid).unwrap_or(status.bytes);
        let dead = |one: &Footprint| !census::read(one.pid).is_some_and(|seen| seen.alive);
        let mut found = Vec::new();
        for _ in 0..DIVIDE_TRIES {
            found = self.measure(bytes);
            if !found.iter().any(dead) {
                return (found, true);
            }
        }
        (found, false)
    }

    fn measure(&self, bytes: impl Fn(RawPid, &Status) -> u64) -> Vec<Footprint> {
        let status = |member: &Member| {
            let status = footprint::status(member.identity.pid)?;
            (status.thread_group == member.identity.pid).then_some((member.identity.pid, status))
        };
        let seen: HashMap<RawPid, Status> = self.known.iter().filter_map(status).collect();
        let measure = |(&pid, status): (&RawPid, &Status)| {
            let parent = seen.get(&status.parent);
            // Asked before its bytes are: who has a memory of its own never borrows again.
            let borrows = parent.is_some_and(|parent| is_borrowed(parent, pid, status));
            let bytes = if borrows { 0 } else { bytes(pid, status) };
            Footprint { pid, name: status.name.clone(), bytes, data: status.data }
        };
        let mut found: Vec<Footprint> = seen.iter().map(measure).collect();
        found.retain(|one| seen[&one.pid].state != b'Z');
        found.sort_by_key(|one| std::cmp::Reverse((one.bytes, one.pid)));
        found
    }

    /// Kills all of it: whom `order` names first, then whom a search finds.
    pub fn kill(&self, containment: &Containment, order: &[Footprint]) {
        for first in order {
            let of = |member: &&Member| member.identity.pid == first.pid;
            let member = self.known.iter().find(of);
            if let Some(pidfd) = member.and_then(|member| member.identity.signal(Signal::KILL)) {
                release_memory(pidfd.as_fd());
            }
        }
        for member in containment.members(&self.scope.0) {
            let _ = member.signal(Signal::KILL);
        }
    }

    /// A file of its control groups' that is called so; the first there is.
    pub fn group_file(&self, names: &[&str]) -> Option<File> {
        let groups = self.scope.0.groups.iter();
        let mut paths = groups.flat_map(|group| names.iter().map(|name| group.join(name)));
        paths.find_map(|path| File::open(path).ok())
    }
}

impl Member {
    /// A file that is not kept open may be of a later process with this pid: it is held against
    /// the start time.
    fn sizes(&self) -> Option<Sizes> {
        if let Some(open) = &self.open {
            return footprint::sizes(open);
        }
        let open = footprint::open_sizes(self.identity.pid)?;
        let same = census::read(self.identity.pid)?.identity == self.identity;
        same.then(|| footprint::sizes(&open)).flatten()
    }
}

/// A process between vfork and exec runs in the memory of its parent: to /proc both have all of it.
/// Where the kernel does not compare them, it is told by the parent, which waits meanwhile (but not
/// from the first moment) and so does not change.
fn is_borrowed(parent: &Status, pid: RawPid, child: &Status) -> bool {
    let pids = Pid::from_raw(child.parent).zip(Pid::from_raw(pid));
    pids.and_then(|(parent, child)| have_one_memory(parent, child)).unwrap_or_else(|| {
        parent.state == b'D' && (parent.bytes, parent.data) == (child.bytes, child.data)
    })
}

/// Lets the kernel take a step rather than the agent, should it need to take somebody; whom it
/// forks from now on, too. Best effort: a container may forbid it.
fn raise_oom_score(identity: Identity) {
    let path = format!("/proc/{}/oom_score_adj", identity.pid);
    let Ok(mut file) = File::options().write(true).open(path) else { return };
    // The file stays with the process that had the pid when it was opened.
    if census::read(identity.pid).is_some_and(|found| found.identity == identity) {
        let _ = file.write_all(OOM_SCORE);
    }
}

/// Gives each process to the attempt of its parent or session, or whose marker it carries.
fn assign(containment: &Containment, mut born: Vec<Process>, all: &mut [&mut Members]) {
    let mut owners: HashMap<RawPid, (usize, u64)> = HashMap::new();
    for (place, members) in all.iter().enumerate().filter(|(_, members)| !members.is_grouped()) {
        let leader = members.scope.0.leader();
        let known = members.known.iter().map(|member| member.identity).chain(leader);
        owners.extend(known.map(|one| (one.pid, (place, one.start))));
    }
    let leaders: HashMap<RawPid, usize> = all
        .iter()
        .enumerate()
        .filter_map(|(place, members)| Some((members.scope.0.leader()?.pid, place)))
        .collect();
    born.retain(|process| process.alive);
    // A child may have been met before its parent: until nobody finds its place any more.
    let mut left = usize::MAX;
    while born.len() < left {
        left = born.len();
        born.retain(|process| {
            let Identity { pid, start } = process.identity;
            if owners.get(&pid).is_some_and(|&(_, since)| since == start) {
                return false;
            }
            let by_parent = owners.get(&process.parent).filter(|&&(_, since)| start >= since);
            let place = by_parent.map(|&(place, _)| place);
            let Some(place) = place.or_else(|| leaders.get(&process.session).copied()) else {
                return true;
            };
            owners.insert(pid, (place, start));
            take(all[place], process);
            false
        });
    }
    let own = getpid().as_raw_pid();
    for process in born.iter().filter(|process| process.parent == own) {
        if let Some(place) = adopted(containment, process, all) {
            take(all[place], process);
        }
    }
}

/// Whose orphan of ours it is: by its marker, or because there is only one attempt that it can be
/// of. `None` for what is being started right now, too.
fn adopted(containment: &Containment, process: &Process, all: &[&mut Members]) -> Option<usize> {
    let pid = process.identity.pid;
    if containment.leaders.if_all_known()?.contains(&pid) {
        return None;
    }
    let marked = |members: &Members| carries(pid, &members.scope.0.needle);
    let alone = || match all {
        [only] => containment.adopting(&only.scope.0).filter(|it| it.includes(process)).map(|_| 0),
        _ => None,
    };
    all.iter().position(|members| marked(members)).or_else(alone)
}

/// Threads are seen like processes where they are asked for by number.
fn take(members: &mut Members, process: &Process) {
    let pid = process.identity.pid;
    if footprint::status(pid).is_some_and(|status| status.thread_group == pid) {
        members.add(process.identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages may be shared by those of one image, and shared memory by all; nothing else is.
    #[test]
    fn the_least_is_what_nobody_can_share() {
        let of = |each: &[(u64, u64, u64)]| least(each.iter().copied());
        assert_eq!(of(&[(1, 10, 0), (1, 7, 0)]), 10);
        assert_eq!(of(&[(1, 10, 0), (2, 7, 0)]), 17);
        assert_eq!(of(&[(1, 10, 4), (2, 7, 5)]), 6 + 2 + 5);
        assert_eq!(of(&[]), 0);
    }
}
