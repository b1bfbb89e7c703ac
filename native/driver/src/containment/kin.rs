//! Decides by our own children alone, without a search of /proc, that nobody is left of an attempt,
//! and reaps whom we have adopted.
//!
//! We are the subreaper of everything that descends from us. So each descendant of a leader that
//! has ended descends from a child of ours that is no leader; and a child stays in the kernel's
//! list until we reap it. Orphans are given to the thread that lived first, and leaders are started
//! by others: if its list is empty, nobody is left. It may miss somebody only while another on it
//! is reaped: who reads it and who reaps wait for each other.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{MutexGuard, PoisonError};

use rustix::process::{
    Pid, RawPid, Signal, WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid,
};

use super::{Cell, Containment, census, cgroup};
use crate::spawn::stop_ignoring;

/// Most zombies reaped by one call.
const REAPED_MAX: usize = 256;
/// Read of the list of children at once.
const CHUNK_BYTES: usize = 4096;

/// The kernel's list of the children, dead or alive, of the thread that lived first. Kept open:
/// each read from the beginning makes the list anew. Locked while it is read, or somebody on it
/// reaped.
#[derive(Debug, Default)]
pub(super) struct Children(Option<File>);

impl Children {
    /// `None` where the kernel keeps no lists (`CONFIG_PROC_CHILDREN`).
    fn read(&mut self) -> Option<Vec<RawPid>> {
        if self.0.is_none() {
            let first = getpid().as_raw_pid();
            self.0 = File::open(format!("/proc/self/task/{first}/children")).ok();
        }
        let list = self.0.as_ref()?;
        let (mut text, mut chunk) = (Vec::new(), [0; CHUNK_BYTES]);
        while let count @ 1.. = list.read_at(&mut chunk, text.len() as u64).ok()? {
            text.extend_from_slice(&chunk[..count]);
        }
        let text = std::str::from_utf8(&text).ok()?;
        Some(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }
}

/// Whether orphaned descendants become our children.
static ADOPTS_ORPHANS: AtomicBool = AtomicBool::new(false);

pub(super) fn adopts_orphans() -> bool {
    ADOPTS_ORPHANS.load(Ordering::Relaxed)
}

/// Makes orphaned descendants children of this process, so that they are found and reaped here.
///
/// Also undoes an inherited "ignore" of SIGCHLD, under which the kernel reaps children itself and
/// their exit statuses are lost.
///
/// # Errors
///
/// The system refuses.
pub fn become_subreaper() -> io::Result<()> {
    stop_ignoring(Signal::CHILD);
    set_child_subreaper(Some(getpid()))?;
    ADOPTS_ORPHANS.store(true, Ordering::Relaxed);
    Ok(())
}

impl Containment {
    /// Children of ours that are no leaders, dead or alive; `None` where that cannot be told. A
    /// leader is on the list only where the first thread has started it: then it is known, for it
    /// is that thread that asks.
    fn strays(&self, children: &mut Children) -> Option<Vec<Pid>> {
        let children = adopts_orphans().then(|| children.read())??;
        let leaders = self.leaders.lock();
        let strays = children.into_iter().filter(|pid| !leaders.contains(pid));
        Some(strays.filter_map(Pid::from_raw).collect())
    }

    /// Whether we have adopted nobody; false where that is not sure.
    fn has_no_stray(&self) -> bool {
        self.strays(&mut self.children()).is_some_and(|strays| strays.is_empty())
    }

    /// Whether nobody is left of an attempt whose leader has ended: none of its descendants, and
    /// nobody else in its groups; nor has anybody been adopted. False where that is not sure.
    pub fn is_deserted(&self, cell: &mut Cell) -> bool {
        let Some(leader) = &cell.target.leader else { return false };
        // A dead leader has no children any more: its end has given them to us. Nobody else has its
        // pid, for it is reaped only when its cell is given up.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let dead = Pid::from_raw(leader.pid)
            .is_some_and(|pid| matches!(waitid(WaitId::Pid(pid), ended), Ok(Some(_))));
        cell.deserted = dead && self.has_no_stray() && cell.entrances.are_empty();
        cell.deserted
    }

    /// Whether an attempt is its leader alone: that has no child, nobody else is in its groups, and
    /// nobody has been adopted. False where that is not sure. Whoever is born meanwhile is met by
    /// the sweep, like whom a search misses.
    pub fn is_alone(&self, cell: &Cell) -> bool {
        let Some(leader) = &cell.target.leader else { return false };
        // Its own lists first: who is on none of them because a parent has ended is on ours.
        has_no_child(leader.pid)
            && self.has_no_stray()
            && cell
                .target
                .groups
                .iter()
                .all(|group| cgroup::pids(group).iter().all(|&pid| pid == leader.pid))
    }

    /// Reaps adopted processes that have ended, at most 256 by one call. Never blocks, nor reaps a
    /// leader. Nothing else in this process may have children.
    pub fn reap_strays(&self) {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let mut children = self.children();
        let Some(strays) = self.strays(&mut children).or_else(|| self.dead_strays()) else {
            return;
        };
        let was_reaped = |&pid: &Pid| matches!(waitid(WaitId::Pid(pid), ended), Ok(Some(_)));
        let _ = strays.into_iter().filter(was_reaped).take(REAPED_MAX).count();
    }

    /// A panic elsewhere leaves a list that can be read.
    fn children(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adopted processes that have ended, where the kernel keeps no lists of children.
    fn dead_strays(&self) -> Option<Vec<Pid>> {
        let own = getpid().as_raw_pid();
        let mut zombies = census::census();
        zombies.retain(|process| process.parent == own && !process.alive);
        let leaders = self.leaders.if_all_known()?;
        let strays = zombies.into_iter().map(|process| process.identity.pid);
        Some(strays.filter(|pid| !leaders.contains(pid)).filter_map(Pid::from_raw).collect())
    }
}

/// By the lists of all threads of an unreaped process: one that is empty when it is read from its
/// beginning was so, whatever is said of longer ones (proc(5)). False where that is not sure.
fn has_no_child(pid: RawPid) -> bool {
    let list = |thread: fs::DirEntry| fs::read(thread.path().join("children"));
    fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|mut threads| {
        threads.all(|thread| thread.and_then(list).is_ok_and(|children| children.is_empty()))
    })
}
