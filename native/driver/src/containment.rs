//! Decides how every descendant of an attempt is found and killed: by its control group where the
//! kernel lends us one, and in every tier also by marker, session, parent and adoption.
//!
//! Knows nothing of clocks, outcomes or how a process is started.
//!
//! # Order of calls
//!
//! [`become_subreaper`] and [`Containment::sweep_leftovers`] come before the first attempt. Then,
//! for each attempt: its leader exits (its pidfd is readable), [`Containment::empty`], and only
//! then [`Containment::bury`] reaps the leader and gives its [`Cell`] up. An unreaped leader pins
//! its pid, which is what makes the session search safe, and a held cell keeps
//! [`Containment::reap_strays`] from taking the leader's exit status.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, RawPid, Signal, getpid};

use crate::budget::{Budget, Caps, OVERSHOOT_BYTES};
use crate::spawn::MARKER;
pub use caps::caps_here;
pub use cell::Cell;
use census::{Identity, Leader, Process, carries, census};
pub(crate) use cgroup::Entrances;
use cgroup::Hierarchy;
pub(crate) use footprint::{is_swapping, number};
use kin::Children;
pub use kin::become_subreaper;
use limits::Controllers;
pub use limits::{Limits, Meter, Usage};
pub use members::{Births, Cheap, Footprint, Members, Scope};

mod caps;
mod cell;
mod census;
mod cgroup;
mod footprint;
mod kin;
mod limits;
mod members;

/// How long a sweep waits for what it has killed. A process in an uninterruptible sleep can take
/// longer; it is then counted as remaining and a later sweep may find it gone.
pub const SWEEP_LIMIT: Duration = Duration::from_secs(2);
/// The same for the sweep at start, which may meet many attempts at once.
pub const LEFTOVERS_LIMIT: Duration = Duration::from_secs(10);
/// Searches before the first kill, in which whatever is found is stopped so that it cannot fork.
const HALT_PASSES: u32 = 4;
/// Rounds of search and kill. One is enough for anything that does not outrun [`HALT_PASSES`].
const KILL_PASSES: u32 = 32;
/// Processes whose end is awaited at once, which bounds the descriptors a sweep holds.
const AWAITED_MAX: usize = 64;
/// See [`Containment::backstop_bytes`].
const BACKSTOP_TIMES: u64 = 4;
const BACKSTOP_BYTES: u64 = 512 << 20;
const SMALL_CAP_BYTES: u64 = 256 << 20;
/// Longest instance id.
const INSTANCE_BYTES: usize = 64;

/// What attempts are contained by, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// A writable tree of control groups, version 2.
    CgroupV2,
    /// A writable hierarchy of version 1.
    CgroupV1,
    /// Best effort: environment marker, session, parents, adoption.
    Marker,
}

/// What this system lends, as results, presence and `doctor` report it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tiers {
    /// What finds descendants: `cgroup_v2`, `cgroup_v1` or `marker`.
    pub containment: &'static str,
    /// What keeps an attempt within its memory: `cgroup_v2`, `cgroup_v1` or `sampled`.
    pub memory: &'static str,
}

/// Finds and kills the descendants of this instance's attempts. Shared by threads.
#[derive(Debug)]
pub struct Containment {
    instance: String,
    /// Before what they are made of, so that they are given up first.
    ready: Mutex<Vec<Cell>>,
    hierarchy: Option<Hierarchy>,
    controllers: Controllers,
    shared: Option<Shared>,
    leaders: Arc<Leaders>,
    children: Mutex<Children>,
}

/// A capped group with the agent and its steps.
#[derive(Debug, Clone, Copy)]
struct Shared {
    cap_bytes: u64,
    /// What all steps may have of it.
    pool_bytes: u64,
}

/// Who is a leader. Never locked during a fork, which may wait for a slow disk.
#[derive(Debug, Default)]
struct Leaders {
    /// Pids from their fork until their cell is dropped.
    pids: Mutex<BTreeSet<RawPid>>,
    /// Forks under way, whose children are not registered yet.
    forks: AtomicU32,
}

/// What is looked for.
#[derive(Debug, Clone)]
struct Target {
    /// Beginning of the environment entry that marks it.
    needle: Vec<u8>,
    groups: Vec<PathBuf>,
    leader: Option<Leader>,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Processes killed, the leader not counted.
    pub killed: u32,
    /// Processes found alive after the last kill (the leader counted).
    pub remaining: u32,
}

impl Containment {
    /// The best tier this system lends to `instance`, a stable id of the state directory: letters,
    /// digits, `-` and `_`, at most 64 bytes.
    ///
    /// # Panics
    ///
    /// When `instance` is anything else: it is made by us.
    pub fn probe(instance: &str) -> Containment {
        Self::of_tier(instance, Tier::CgroupV2)
            .or_else(|| Self::of_tier(instance, Tier::CgroupV1))
            .unwrap_or_else(|| Self::marker_only(instance))
    }

    /// Containment of exactly this tier, or `None` when this system does not lend it.
    pub fn of_tier(instance: &str, tier: Tier) -> Option<Containment> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        assert!(!instance.is_empty() && instance.len() <= INSTANCE_BYTES);
        assert!(instance.bytes().all(plain));
        let hierarchy = match tier {
            Tier::CgroupV2 => Some(Hierarchy::second_version(instance)?),
            Tier::CgroupV1 => Some(Hierarchy::first_version(instance)?),
            Tier::Marker => None,
        };
        let controllers = hierarchy.as_ref().map(|found| Controllers::probe(instance, found));
        let controllers = controllers.unwrap_or_default();
        Some(Containment {
            instance: instance.to_owned(),
            ready: Mutex::default(),
            hierarchy,
            controllers,
            shared: None,
            leaders: Arc::default(),
            children: Mutex::default(),
        })
    }

    /// The best-effort tier, which needs nothing but `/proc`.
    pub fn marker_only(instance: &str) -> Containment {
        Self::of_tier(instance, Tier::Marker).expect("the marker needs nothing of the system")
    }

    /// `cgroup_v2`, `cgroup_v1` or `marker`, as results and `doctor` report it.
    pub fn tier(&self) -> &'static str {
        match self.hierarchy.as_ref().map_or(Tier::Marker, |hierarchy| hierarchy.tier) {
            Tier::CgroupV2 => "cgroup_v2",
            Tier::CgroupV1 => "cgroup_v1",
            Tier::Marker => "marker",
        }
    }

    /// Both axes, by their names.
    pub fn tiers(&self) -> Tiers {
        Tiers { containment: self.tier(), memory: self.controllers.memory_tier() }
    }

    /// Why control groups of version 2 are writable and yet keep no limits.
    pub fn obstacle(&self) -> Option<&str> {
        self.hierarchy.as_ref()?.obstacle.as_deref()
    }

    /// How much memory the kernel lets the agent and its steps have.
    pub fn caps(&self) -> Caps {
        self.controllers.caps()
    }

    /// Lets backstops be no higher than `budget` has room for.
    pub fn heed(&mut self, budget: &Budget) {
        let (cap_bytes, pool_bytes) = (budget.cap_bytes, budget.pool_bytes);
        self.shared = budget.cap_group.as_ref().map(|_| Shared { cap_bytes, pool_bytes });
    }

    /// Those of `limits` that nothing here keeps, by their names in a task.
    pub fn not_enforced(&self, limits: &Limits) -> Vec<&'static str> {
        self.controllers.not_enforced(limits)
    }

    /// Whether nothing of the kernel's keeps an attempt within its memory, so that its processes
    /// must be looked at.
    pub fn samples_memory(&self) -> bool {
        self.controllers.memory_tier() == "sampled"
    }

    /// Bytes of private writable memory that the kernel lets each process of an attempt have, where
    /// its memory is only looked at: what ends a runaway while nobody can look.
    ///
    /// It is counted touched or not (mappings without access are not), so it is no limit of what is
    /// used. Four times the limit is left to programs that reserve ahead in proportion, and 512 MiB
    /// to what takes the same whatever the limit: 64 threads with stacks of 8 MiB. But no more than
    /// the cap that the agent shares with its steps; and where that is small, beside the limit only
    /// its share of what is reserved for those that are noticed late, or the kernel would end
    /// somebody of its own choice.
    pub fn backstop_bytes(&self, limits: &Limits) -> Option<u64> {
        let limit = limits.memory_bytes.filter(|_| self.samples_memory())?;
        let usual = limit.saturating_mul(BACKSTOP_TIMES).saturating_add(BACKSTOP_BYTES);
        Some(match self.shared {
            None => usual,
            Some(Shared { cap_bytes, pool_bytes }) if cap_bytes <= SMALL_CAP_BYTES => {
                limit.saturating_add(OVERSHOOT_BYTES * limit.min(pool_bytes) / pool_bytes)
            }
            Some(Shared { cap_bytes, .. }) => usual.min(cap_bytes),
        })
    }

    /// Forks the leader of `cell` with `fork` and registers it, so that nobody takes it for a stray
    /// in between.
    pub(crate) fn start<E>(
        &self,
        cell: &mut Cell,
        fork: impl FnOnce() -> Result<Pid, E>,
    ) -> Result<Pid, E> {
        self.leaders.forks.fetch_add(1, Ordering::SeqCst);
        let forked = fork();
        if let Ok(leader) = forked {
            self.leaders.lock().insert(leader.as_raw_pid());
            cell.target.leader = Some(Leader::new(leader.as_raw_pid()));
        }
        self.leaders.forks.fetch_sub(1, Ordering::SeqCst);
        forked
    }

    /// Sends `signal` once to everything in the cell except its leader, which the caller signals
    /// by its pidfd.
    pub fn signal(&self, cell: &Cell, signal: Signal) {
        if self.is_alone(cell) {
            return;
        }
        let leader = cell.target.leader();
        for member in self.members(&cell.target) {
            if Some(member) != leader {
                let _ = member.signal(signal);
            }
        }
    }

    /// Kills everything in the cell (its leader too, should it live) until nothing is found, then
    /// removes its group. Blocks for at most [`SWEEP_LIMIT`] and a few searches of `/proc`. To be
    /// called by the thread that starts leaders and reaps.
    pub fn sweep(&self, cell: &Cell) -> Swept {
        self.clear(&cell.target, SWEEP_LIMIT)
    }

    /// Kills whatever an earlier run of this instance has left, and removes its groups. Only before
    /// the first attempt: it spares none. Blocks for at most [`LEFTOVERS_LIMIT`].
    pub fn sweep_leftovers(&self) -> Swept {
        self.ready().clear();
        let mut groups = self.hierarchy.as_ref().map(Hierarchy::groups).unwrap_or_default();
        groups.extend(self.controllers.groups());
        let needle = format!("{MARKER}={}:", self.instance).into_bytes();
        self.clear(&Target { needle, groups, leader: None }, LEFTOVERS_LIMIT)
    }

    /// Everything alive that belongs to `target`.
    ///
    /// The census comes first and what is known of a pid after it, so that an identity whose
    /// process still lives when it is signalled has lived through all of it: what was learned of
    /// its pid in between was learned of it.
    fn members(&self, target: &Target) -> BTreeSet<Identity> {
        let mut living = census();
        living.retain(|process| process.alive);
        let grouped: BTreeSet<RawPid> =
            target.groups.iter().flat_map(|group| cgroup::pids(group)).collect();
        let leader = target.leader();
        let session = leader.filter(|&leader| is_unreaped(leader)).map(|leader| leader.pid);
        let since = leader.map_or(0, |leader| leader.start);
        let adopting = self.adopting(target);
        let belongs = |process: &Process| {
            let pid = process.identity.pid;
            grouped.contains(&pid)
                || adopting.as_ref().is_some_and(|adopting| adopting.includes(process))
                || process.identity.start >= since
                    && (Some(process.session) == session || carries(pid, &target.needle))
        };
        let (mut members, mut others): (Vec<_>, Vec<_>) =
            living.into_iter().partition(|process| belongs(process));
        let mut next = 0;
        while let Some(parent) = members.get(next).map(|member| member.identity) {
            // A child is never older than its parent; if it seems so, the parent's pid was reused.
            let (children, rest) = others.into_iter().partition(|process| {
                process.parent == parent.pid && process.identity.start >= parent.start
            });
            others = rest;
            members.extend::<Vec<_>>(children);
            next += 1;
        }
        members.into_iter().map(|member| member.identity).collect()
    }

    /// How orphans without a marker are told: they are children of ours (as subreaper) that we did
    /// not start, in a session of their own. With one attempt alive they can only be of that one
    /// or of an earlier one that hid them; with several they stay until the last one ends.
    fn adopting(&self, target: &Target) -> Option<Adopting> {
        let leader = target.leader.as_ref()?.pid;
        if !kin::adopts_orphans() {
            return None;
        }
        let alone = self.leaders.if_all_known()?.iter().all(|&other| other == leader);
        // From /proc, not getsid(2): where our session began outside our pid namespace (`docker
        // exec`), its number here is 0, which rustix takes for impossible.
        let own = census::read(getpid().as_raw_pid())?;
        let (parent, session) = (own.identity.pid, own.session);
        alone.then_some(Adopting { parent, leader, session })
    }

    fn clear(&self, target: &Target, limit: Duration) -> Swept {
        let deadline = Instant::now() + limit;
        let mut killed = BTreeSet::new();
        let mut members = self.halt(target);
        for _ in 0..KILL_PASSES {
            let done = members.is_empty() && target.population() == 0;
            if done || Instant::now() >= deadline {
                break;
            }
            let mut awaited = Vec::new();
            for &member in &members {
                let Some(pidfd) = member.signal(Signal::KILL) else {
                    continue;
                };
                killed.insert(member);
                if awaited.len() < AWAITED_MAX {
                    awaited.push(pidfd);
                }
            }
            for group in &target.groups {
                cgroup::kill(group);
                self.hierarchy.iter().for_each(|hierarchy| hierarchy.release(group));
            }
            await_end(awaited, deadline);
            members = self.members(target);
        }
        let remaining = members.len().max(target.population());
        if remaining == 0 {
            target.groups.iter().for_each(|group| _ = cgroup::remove(group));
        }
        let leader = target.leader();
        let stragglers = killed.iter().filter(|&&member| Some(member) != leader).count();
        Swept { killed: count(stragglers), remaining: count(remaining) }
    }

    /// Keeps what belongs to `target` from forking, so that the kills meet all of it, and returns
    /// what was found.
    fn halt(&self, target: &Target) -> BTreeSet<Identity> {
        let mut halted = BTreeSet::new();
        for _ in 0..HALT_PASSES {
            // Before the search: what forks and exits all the time is never met by one.
            if let (Some(hierarchy), 1..) = (&self.hierarchy, target.population()) {
                target.groups.iter().for_each(|group| hierarchy.halt(group));
            }
            let members = self.members(target);
            if members.is_subset(&halted) {
                return members;
            }
            for member in members {
                if halted.insert(member) {
                    let _ = member.signal(Signal::STOP);
                }
            }
        }
        self.members(target)
    }
}

impl Target {
    /// The leader, as long as it can be told from who has its pid later.
    fn leader(&self) -> Option<Identity> {
        self.leader.as_ref()?.identity()
    }

    /// Processes in its groups, whether a census meets them or not.
    fn population(&self) -> usize {
        self.groups.iter().map(|group| cgroup::pids(group).len()).sum()
    }
}

impl Leaders {
    /// A panic elsewhere leaves a plain set, which is never half changed.
    fn lock(&self) -> MutexGuard<'_, BTreeSet<RawPid>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All leaders that a census taken before can have met, or `None` while a fork is under way.
    fn if_all_known(&self) -> Option<MutexGuard<'_, BTreeSet<RawPid>>> {
        (self.forks.load(Ordering::SeqCst) == 0).then(|| self.lock())
    }
}

struct Adopting {
    parent: RawPid,
    leader: RawPid,
    session: RawPid,
}

impl Adopting {
    fn includes(&self, process: &Process) -> bool {
        process.parent == self.parent
            && process.identity.pid != self.leader
            && process.session != self.session
    }
}

/// A leader that was not reaped, dead or alive, keeps its pid, and with it the number of its
/// session, from being given to anybody else.
fn is_unreaped(leader: Identity) -> bool {
    census::read(leader.pid).is_some_and(|seen| seen.identity == leader)
}

/// Waits until all of them have ended, or the deadline.
fn await_end(mut pidfds: Vec<OwnedFd>, deadline: Instant) {
    while !pidfds.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(timeout) = Timespec::try_from(left) else {
            return;
        };
        let mut polled: Vec<PollFd<'_>> =
            pidfds.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)).collect();
        if left.is_zero() || !matches!(poll(&mut polled, Some(&timeout)), Ok(1..)) {
            return;
        }
        let ended: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
        let mut ended = ended.into_iter();
        pidfds.retain(|_| ended.next() == Some(false));
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A backstop leaves room to reserve, as far as there is any: under a small cap all of them
    /// together are within the pool and what is reserved beside it.
    #[test]
    fn backstops_are_as_high_as_there_is_room() {
        let mut containment = Containment::marker_only("backstops");
        let backstop = |containment: &Containment, mib: u64| {
            let limits = Limits { memory_bytes: Some(mib * MIB), ..Limits::default() };
            containment.backstop_bytes(&limits).map(|bytes| bytes / MIB)
        };
        assert_eq!(backstop(&containment, 64), Some(768));
        for (cap_mib, pool_mib, limit_mib, expected) in
            [(32, 6, 3, 7), (32, 6, 6, 14), (256, 100, 25, 27), (600, 500, 64, 600)]
        {
            containment.heed(&Budget {
                cap_bytes: cap_mib * MIB,
                cap_group: Some(PathBuf::from("/x")),
                pool_bytes: pool_mib * MIB,
                ..Budget::default()
            });
            assert_eq!(backstop(&containment, limit_mib), Some(expected));
        }
        assert_eq!(containment.backstop_bytes(&Limits::default()), None, "no limit, no backstop");
    }
}
