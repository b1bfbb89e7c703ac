//! What the host must hear. Events are not queued: each changed task has a mark, so nothing can
//! overflow while the host sleeps.

use crate::arena::NONE;
use crate::machine::Machine;
use crate::message::Event;
use crate::table::State;

impl Machine {
    /// The next thing the host must hear. At most one event per changed task is ever pending, so
    /// there is nothing that could overflow while the host sleeps.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.answers.front().is_some_and(|(seq, _)| *seq <= self.durable_seq) {
            return self.answers.pop_front().map(|(_, answer)| Event::Answer(answer));
        }
        while let Some(slot) = self.dirty.take() {
            if let Some(event) = self.event_of(slot) {
                return Some(event);
            }
        }
        let awaited =
            self.arena.attempts.iter().any(|a| a.live && a.task != NONE && !self.reboots(a.task));
        if self.draining && !awaited && !self.drained_told && self.recovering == 0 {
            self.drained_told = true;
            return Some(Event::Drained);
        }
        None
    }

    fn event_of(&mut self, slot: u16) -> Option<Event> {
        let task = self.arena.task_ref(slot);
        let found = &mut self.arena.tasks[slot as usize];
        match found.state {
            State::Free => None,
            State::Reporting if found.flags.reported => None,
            State::Reporting if self.reports < self.limits.reports => {
                found.flags.reported = true;
                self.reports += 1;
                Some(Event::Result(task))
            }
            State::Planning => {
                let step = self.arena.steps[found.current as usize].index;
                Some(Event::Continue { task, step })
            }
            _ => Some(Event::Changed(task)),
        }
    }

    /// After a delivery: the oldest result that found no room may be offered now.
    pub(crate) fn offer_next(&mut self) {
        let waits = |slot: &u16| {
            let task = &self.arena.tasks[*slot as usize];
            // The books of what was delivered just now are not settled yet.
            task.state == State::Reporting && !task.flags.reported && !self.dirty.has(*slot)
        };
        let next = self
            .ended
            .iter()
            .filter(waits)
            .min_by_key(|slot| self.arena.tasks[*slot as usize].accepted_seq);
        if let Some(slot) = next {
            self.mark_dirty(slot);
        }
    }
}
