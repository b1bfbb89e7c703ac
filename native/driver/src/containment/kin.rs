//! Decides by our own children alone, without a search of /proc, that nobody is left of an attempt,
//! and reaps whom we have adopted.
//!
//! We are the subreaper of everything that descends from us. So each descendant of a leader that
//! has ended descends from a child of ours that is no leader; and a child stays in the kernel's
//! list until we reap it. If the lists hold leaders only, nobody is left. They may miss somebody
//! only while another is reaped: that is done by the thread that reads them, which also starts
//! leaders.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{
    Pid, RawPid, Signal, WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid,
};
use rustix::thread::gettid;

use super::{Cell, Containment, census};
use crate::spawn::stop_ignoring;

/// Most zombies reaped by one call.
const REAPED_MAX: usize = 256;
/// Read of a list of children at once.
const CHUNK_BYTES: usize = 4096;

/// The kernel's lists of the children of one of our threads and of the first one, kept open: each
/// read from the beginning makes the list anew.
#[derive(Debug)]
struct Lists {
    of: [RawPid; 2],
    files: Vec<File>,
}

impl Lists {
    fn open([first, own]: [RawPid; 2]) -> Option<Lists> {
        let threads = [first, own].into_iter().take(1 + usize::from(first != own));
        let open = |thread| File::open(format!("/proc/self/task/{thread}/children")).ok();
        Some(Lists { of: [first, own], files: threads.map(open).collect::<Option<_>>()? })
    }

    fn read(&self) -> Option<Vec<RawPid>> {
        let mut text = Vec::new();
        for list in &self.files {
            let mut chunk = [0; CHUNK_BYTES];
            let mut at = 0;
            loop {
                let count = list.read_at(&mut chunk, at).ok()?;
                if count == 0 {
                    break;
                }
                text.extend_from_slice(&chunk[..count]);
                at += count as u64;
            }
        }
        let text = std::str::from_utf8(&text).ok()?;
        Some(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }
}

thread_local! {
    static LISTS: RefCell<Option<Lists>> = const { RefCell::new(None) };
}

/// The children, dead or alive, that we have adopted or that the calling thread has started. `None`
/// where the kernel keeps no lists (`CONFIG_PROC_CHILDREN`).
fn children() -> Option<Vec<RawPid>> {
    // Orphans are given to the thread that lived first; no other forks.
    let of = [getpid().as_raw_pid(), gettid().as_raw_pid()];
    LISTS.with_borrow_mut(|lists| {
        if lists.as_ref().is_none_or(|lists| lists.of != of) {
            *lists = Lists::open(of);
        }
        lists.as_ref()?.read()
    })
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
    /// nobody else in its groups; nor has anybody been adopted. False where that is not sure.
    pub fn is_deserted(&self, cell: &mut Cell) -> bool {
        let Some(leader) = &cell.target.leader else { return false };
        // A dead leader has no children any more: its end has given them to us. Nobody else has its
        // pid, for it is reaped only when its cell is given up.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let dead = Pid::from_raw(leader.pid)
            .is_some_and(|pid| matches!(waitid(WaitId::Pid(pid), ended), Ok(Some(_))));
        cell.deserted = dead
            && self.strays().is_some_and(|strays| strays.is_empty())
            && cell.entrances.are_empty();
        cell.deserted
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
