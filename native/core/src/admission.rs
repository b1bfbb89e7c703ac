//! Whose turn it is: which waiting task gets the next free attempt, and whether a step runs at all.

use crate::arena::Task;
use crate::machine::Machine;
use crate::message::{Outcome, When};
use crate::table::{State, Trigger};

impl Machine {
    pub(crate) fn admit_waiting(&mut self) {
        while !self.draining && !self.store_failed && self.recovering == 0 {
            let Some(attempt) = self.arena.free_attempt() else { return };
            let Some(slot) = self.next_waiting() else { return };
            self.arena.attempts[attempt as usize].claim(slot);
            self.arena.tasks[slot as usize].attempt = attempt;
            self.live += 1;
            self.stats.attempts += 1;
            self.fire(slot, Trigger::Admitted);
        }
    }

    /// Whose turn it is: by priority, then by waiting time. A suspect runs alone and before others,
    /// so that a second crash has one possible culprit.
    fn next_waiting(&self) -> Option<u16> {
        let tasks = || (0..self.limits.tasks).map(|slot| (slot, &self.arena.tasks[slot as usize]));
        // What was given up as unreaped counts no more: it may hold its slot for ever.
        let mut busy = tasks().filter(|(_, task)| task.state.has_attempt()).peekable();
        let alone = busy.peek().is_none();
        if busy.any(|(_, task)| task.suspicions > 0) {
            return None;
        }
        let queued = || tasks().filter(|(_, task)| task.state == State::Queued);
        let order =
            |(slot, task): &(u16, &Task)| (-i16::from(task.priority), task.queued_at, *slot);
        match queued().filter(|(_, task)| task.suspicions > 0).min_by_key(order) {
            Some(_) if !alone => None,
            Some((slot, _)) => Some(slot),
            None => queued().min_by_key(order).map(|(slot, _)| slot),
        }
    }

    /// Whether the part of a condition that the machine knows holds.
    pub(crate) fn holds(&self, first: u16, when: When) -> bool {
        let find = |index: u8| {
            let mut steps = self.arena.steps_of(first);
            steps.find(|slot| self.arena.steps[*slot as usize].index == index)
        };
        match when {
            When::Always => true,
            When::Outcome { step, outcome, negate } => {
                find(step).is_some_and(|s| self.arena.steps[s as usize].outcome == outcome)
                    != negate
            }
            When::ExitCode { step, code, negate } => {
                let same = find(step).is_some_and(|slot| {
                    let step = &self.arena.steps[slot as usize];
                    let exited = matches!(step.outcome, Outcome::Succeeded | Outcome::Failed);
                    exited && step.code == code
                });
                same != negate
            }
        }
    }
}
