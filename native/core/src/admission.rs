//! Whose turn it is: which waiting task gets the next free attempt and its memory, and whether a
//! step runs at all.

use crate::arena::Task;
use crate::machine::Machine;
use crate::message::{Outcome, When};
use crate::table::Trigger;

impl Machine {
    pub(crate) fn admit_waiting(&mut self) {
        while !self.draining && !self.store_failed && self.recovering == 0 {
            let Some(attempt) = self.arena.free_attempt() else { return };
            let Some(slot) = self.next_waiting() else { return };
            let memory_kib = self.share_kib(slot);
            self.arena.attempts[attempt as usize].claim(slot, memory_kib);
            self.arena.tasks[slot as usize].attempt = attempt;
            self.live += 1;
            self.stats.attempts += 1;
            self.fire(slot, Trigger::Admitted);
        }
    }

    /// Whose turn it is: by priority, then by waiting time. A suspect runs alone and before others,
    /// so that a second crash has one possible culprit.
    fn next_waiting(&self) -> Option<u16> {
        if self.queued.is_empty() {
            return None;
        }
        // What was given up as unreaped counts no more: it may hold its slot for ever.
        let alone = self.busy.is_empty();
        if self.busy.iter().any(|slot| self.arena.tasks[slot as usize].suspicions > 0) {
            return None;
        }
        let (free_kib, hoped_kib) = self.memory_left_kib();
        // What cannot be had while some process does not die stands in nobody's way.
        let queued = || {
            let tasks = self.queued.iter().map(|slot| (slot, &self.arena.tasks[slot as usize]));
            tasks.filter(|(slot, _)| self.share_kib(*slot) <= hoped_kib)
        };
        let order =
            |(slot, task): &(u16, &Task)| (-i16::from(task.priority), task.queued_at, *slot);
        if let Some((slot, _)) = queued().filter(|(_, t)| t.suspicions > 0).min_by_key(order) {
            return alone.then_some(slot);
        }
        let old =
            |task: &Task| self.now.at >= task.queued_at.after_ms(self.limits.patience_ms.into());
        let gate = queued()
            .filter(|(slot, task)| self.share_kib(*slot) > free_kib && old(task))
            .map(|task| order(&task))
            .min();
        queued()
            .filter(|(slot, _)| self.share_kib(*slot) <= free_kib)
            .filter(|task| {
                self.share_kib(task.0) == 0 || gate.is_none_or(|gate| order(task) < gate)
            })
            .min_by_key(order)
            .map(|(slot, _)| slot)
    }

    /// What the step at hand takes from the pool: never more than there is, for a journal may come
    /// from a larger one; whether it may run at all is judged when it is read.
    fn share_kib(&self, slot: u16) -> u32 {
        let current = self.arena.tasks[slot as usize].current;
        self.arena.steps[current as usize].header.memory_kib.min(self.limits.pool_kib)
    }

    /// What is left of the pool now, and once everything has ended that can be killed.
    fn memory_left_kib(&self) -> (u32, u32) {
        let held = |lost_only: bool| {
            let attempts = self.arena.attempts.iter().filter(|attempt| attempt.live);
            let attempts = attempts.filter(|attempt| attempt.lost || !lost_only);
            attempts.map(|attempt| attempt.memory_kib).sum::<u32>()
        };
        (self.limits.pool_kib - held(false), self.limits.pool_kib - held(true))
    }

    /// What live attempts have of the pool, in KiB.
    #[must_use]
    pub fn pool_held_kib(&self) -> u32 {
        self.limits.pool_kib - self.memory_left_kib().0
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
