//! What searches over all tasks want to know of each, noted when a task changes: so none of them
//! looks at every task, at every input.

use crate::machine::Machine;
use crate::table::State;
use crate::time::Instant;

impl Machine {
    pub(crate) fn nearest_due(&self) -> Instant {
        // Scan of at most 1024 instants, about a microsecond; a heap when there are ten times as
        // many.
        let scan = || self.arena.due.iter().copied().min().unwrap_or(Instant::NEVER);
        self.nearest.unwrap_or_else(scan)
    }

    pub(crate) fn settle_books(&mut self, slot: u16) {
        self.keep_books(slot);
        self.mark_dirty(slot);
    }

    /// Notes what searches over all tasks want to know of one.
    pub(crate) fn keep_books(&mut self, slot: u16) {
        let task = &self.arena.tasks[slot as usize];
        let beat = match task.state {
            State::Running => self.arena.attempts[task.attempt as usize].heartbeat_at,
            _ => Instant::NEVER,
        };
        let due = match task.state {
            State::Free | State::Recovering | State::Closing | State::Reporting => Instant::NEVER,
            _ => task.close_at.min(task.phase_at).min(beat),
        };
        let over = matches!(task.state, State::Free | State::Closing | State::Reporting);
        self.going.put(slot, !over);
        self.ended.put(slot, task.state == State::Reporting);
        self.queued.put(slot, task.state == State::Queued);
        self.busy.put(slot, task.state.has_attempt());
        let before = std::mem::replace(&mut self.arena.due[slot as usize], due);
        self.nearest = match self.nearest {
            Some(nearest) if due <= nearest => Some(due),
            Some(nearest) if before > nearest => Some(nearest),
            _ => None,
        };
    }

    /// The task's nearest deadline, if it has passed; it stands until the present input is handled.
    pub(crate) fn passed(&self, slot: u16) -> Option<Instant> {
        Some(self.arena.due[slot as usize]).filter(|due| *due <= self.now.at)
    }

    pub(crate) fn mark_dirty(&mut self, slot: u16) {
        self.dirty.put(slot, true);
    }
}
