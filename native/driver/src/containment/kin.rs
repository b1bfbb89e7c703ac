//! Decides by our own children alone, without a search of /proc, that nobody is left of an attempt,
//! and reaps whom we have adopted.
//!
//! We are the subreaper of everything that descends from us. So each descendant of a leader that
//! has ended descends from a child of ours that is no leader; and a child stays in the kernel's
//! list until we reap it. If the lists hold leaders only, nobody is left. They may miss somebody
//! only while another is reaped: that is done by the thread that reads them, which also starts
//! leaders.

use std::fs;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{
    Pid, RawPid, Signal, WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid,
};
use rustix::thread::gettid;

use super::{Cell, Containment, census};
use crate::spawn::stop_ignoring;

/// Most zombies reaped by one call.
const REAPED_MAX: usize = 256;

/// The children, dead or alive, that we have adopted or that the calling thread has started. `None`
/// where the kernel keeps no lists (`CONFIG_PROC_CHILDREN`).
fn children() -> Option<Vec<RawPid>> {
    // Orphans are given to the thread that lived first; no other forks.
    let (first, own) = (getpid().as_raw_pid(), gettid().as_raw_pid());
    let mut found = Vec::new();
    for thread in [first, own].into_iter().take(1 + usize::from(first != own)) {
        let list = fs::read_to_string(format!("/proc/self/task/{thread}/children")).ok()?;
        found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<RawPid>().ok()));
    }
    Some(found)
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
    /// Children of ours that are no leaders, dead or alive; `None` where that cannot be told.
    pub(super) fn strays(&self) -> Option<Vec<Pid>> {
        let children = adopts_orphans().then(children)??;
        let leaders = self.leaders.if_all_known()?;
        let strays = children.into_iter().filter(|pid| !leaders.contains(pid));
        Some(strays.filter_map(Pid::from_raw).collect())
    }

    /// Whether nobody is left of an attempt whose leader has ended: none of its descendants, and
    /// nobody else in its groups, which are removed; nor has anybody been adopted. False where that
    /// is not sure.
    pub fn is_deserted(&self, cell: &Cell) -> bool {
        let Some(leader) = cell.target.leader else { return false };
        // A dead leader has no children any more: its end has given them to us. Nobody else has its
        // pid, for it is reaped only when its cell is given up.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let dead = Pid::from_raw(leader.pid)
            .is_some_and(|pid| matches!(waitid(WaitId::Pid(pid), ended), Ok(Some(_))));
        // The kernel removes no group that holds a process or another group.
        let removed = |group| match fs::remove_dir(group) {
            Err(error) => error.kind() == ErrorKind::NotFound,
            Ok(()) => true,
        };
        dead && self.strays().is_some_and(|strays| strays.is_empty())
            && cell.target.groups.iter().all(removed)
    }

    /// Reaps adopted processes that have ended, at most 256 by one call. Never blocks, nor reaps a
    /// leader. Nothing else in this process may have children.
    pub fn reap_strays(&self) {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let Some(strays) = self.strays().or_else(|| self.dead_strays()) else { return };
        let was_reaped = |&pid: &Pid| matches!(waitid(WaitId::Pid(pid), ended), Ok(Some(_)));
        let _ = strays.into_iter().filter(was_reaped).take(REAPED_MAX).count();
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
