//! Decides which control groups an attempt gets: new ones, or those that an earlier attempt has
//! left as it found them. To make and remove groups takes the kernel longer than to start a
//! program.
//!
//! Groups are used again only where a controller counts their memory: it tells what was left in
//! them. Without one, whoever looks at the processes of the earlier attempt could take those of the
//! later one for them.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::cgroup::{self, Entrances};
use super::{Containment, Leaders, Limits, Meter, Swept, Target};
use crate::spawn::{AttemptName, MARKER};

/// Cells that wait for an attempt: as many as may run at once by any configuration, so that none is
/// removed only to be made again. There are never more than did run at once.
const READY_MAX: usize = 64;
/// Cached files and the like that an earlier attempt may leave in groups that are used again: of
/// their next limit one part in so many, and never more than this.
const LEFT_SHARE: u64 = 16;
const LEFT_BYTES_MAX: u64 = 1 << 20;

/// One attempt's containment. Sweep it, then reap the leader, then drop it.
#[derive(Debug)]
pub struct Cell {
    pub(super) target: Target,
    meter: Option<Arc<Meter>>,
    pub(super) entrances: Arc<Entrances>,
    leaders: Arc<Leaders>,
    /// The limits that its groups were given last.
    limits: Limits,
    /// What an earlier attempt has left in its groups.
    left_bytes: u64,
    /// Nobody was in its groups when its leader had ended.
    pub(super) deserted: bool,
}

impl Containment {
    /// An empty cell for one attempt, within `limits`.
    ///
    /// # Errors
    ///
    /// `name` belongs to another instance, or its groups cannot be made or limited.
    pub fn create(&self, name: &AttemptName, limits: &Limits) -> io::Result<Cell> {
        if name.instance != self.instance {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is of another instance"));
        }
        let mut cell = self.take_ready(limits).map_or_else(|| self.build(), Ok)?;
        // The NUL that ends the entry keeps attempt 1 from matching attempt 10.
        cell.target.needle = format!("{MARKER}={}\0", name.marker()).into_bytes();
        let built = cell.target.groups.len();
        self.controllers.provide(limits, &mut cell.target.groups)?;
        if cell.target.groups.len() > built {
            cell.entrances = Arc::new(Entrances::open(&cell.target.groups)?);
        }
        // Also those that it had: whoever was there as root may have changed them.
        self.controllers.limit(limits, &cell.target.groups, &cell.entrances)?;
        cell.limits = *limits;
        Ok(cell)
    }

    /// Has a cell ready for the next attempt: to make its groups takes the kernel about as long as
    /// to start a program in them. Whoever calls this has nothing else to do.
    pub fn prepare(&self) {
        let mut ready = self.ready();
        if ready.is_empty() {
            // Should it fail, the next attempt tries and tells.
            ready.extend(self.build());
        }
    }

    /// Ends whoever is left in a cell whose leader has ended, and reaps who was adopted from it.
    /// Searches for nobody where it is sure that nobody is left. Otherwise as
    /// [`Containment::sweep`].
    pub fn empty(&self, cell: &mut Cell) -> Swept {
        if self.is_deserted(cell) {
            return Swept { killed: 0, remaining: 0 };
        }
        let swept = self.sweep(cell);
        self.reap_strays();
        swept
    }

    /// Reaps the leader of a cell that was swept, if it has ended, and gives the cell up, or keeps
    /// it for an attempt to come.
    pub fn bury(&self, cell: Cell) {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if let Some(leader) = &cell.target.leader {
            leader.release();
            let _ = Pid::from_raw(leader.pid).map(|pid| waitid(WaitId::Pid(pid), ended));
        }
        let Some(cell) = cell.renewed() else { return };
        let mut ready = self.ready();
        if ready.len() == READY_MAX {
            // The one that nobody wanted for longest.
            ready.remove(0);
        }
        ready.push(cell);
    }

    /// A cell that `limits` can be written over: no limit stays of those that it had.
    fn take_ready(&self, limits: &Limits) -> Option<Cell> {
        let mut ready = self.ready();
        let most = limits.memory_bytes.unwrap_or(u64::MAX) / LEFT_SHARE;
        let fits = |cell: &Cell| cell.left_bytes <= most && limits.cover(&cell.limits);
        let found = ready.iter().rposition(fits)?;
        Some(ready.remove(found))
    }

    /// A cell of nobody's, with the groups that every attempt has.
    fn build(&self) -> io::Result<Cell> {
        let mut cell = Cell {
            target: Target { needle: Vec::new(), groups: Vec::new(), leader: None },
            meter: None,
            entrances: Arc::default(),
            leaders: Arc::clone(&self.leaders),
            limits: Limits::default(),
            left_bytes: 0,
            deserted: false,
        };
        if let Some(hierarchy) = &self.hierarchy {
            cell.target.groups.push(hierarchy.create()?);
            cell.meter = self.controllers.count(&mut cell.target.groups)?.map(Arc::new);
            cell.entrances = Arc::new(Entrances::open(&cell.target.groups)?);
        }
        Ok(cell)
    }

    /// A panic elsewhere leaves whole cells.
    pub(super) fn ready(&self) -> MutexGuard<'_, Vec<Cell>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cell {
    /// The attempt's control groups, one per hierarchy; their process lists are `cgroup.procs`.
    pub fn groups(&self) -> &[PathBuf] {
        &self.target.groups
    }

    /// Whether it was sure that nobody was left of its attempt when that was looked for last.
    pub fn is_deserted(&self) -> bool {
        self.deserted
    }

    /// The ways into its control groups.
    pub(crate) fn entrances(&self) -> Arc<Entrances> {
        Arc::clone(&self.entrances)
    }

    /// What tells the memory it takes, where anything does: of this attempt until the cell is given
    /// up.
    pub fn meter(&self) -> Option<Arc<Meter>> {
        self.meter.clone()
    }

    /// Itself as if new, if next to nothing is left of its attempt.
    fn renewed(mut self) -> Option<Cell> {
        let left = self.meter.as_ref().filter(|_| self.deserted)?.renew()?;
        if left > LEFT_BYTES_MAX {
            return None;
        }
        self.forget_leader();
        (self.left_bytes, self.deserted) = (left, false);
        Some(self)
    }

    fn forget_leader(&mut self) {
        if let Some(leader) = self.target.leader.take() {
            leader.release();
            self.leaders.lock().remove(&leader.pid);
        }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // Those of who was swept are gone, or still held.
        if self.deserted || self.target.leader.is_none() {
            self.target.groups.iter().for_each(|group| _ = cgroup::remove(group));
        }
        self.forget_leader();
    }
}
