//! Reading the journal back: a fold over its records, then one judgement per task.

use crate::actions::End;
use crate::arena::{NO_STEP, NONE};
use crate::ids::Kind;
use crate::machine::Machine;
use crate::message::{Attached, Clock, Outcome};
use crate::record::{Malformed, Record};
use crate::table::State;
use crate::time::Now;

/// Agent time and wall time as far as the records tell, across restarts of the agent and the
/// device.
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Timeline {
    last: Option<Now>,
    /// Nanoseconds known to have passed since the first record.
    passed_ns: u64,
    /// The newest trusted wall time; time used for expiry never runs behind it.
    floor_ms: u64,
    /// What the wall clock has said since it was last trusted, never running back.
    assumed_ms: u64,
    /// Some reading was not trusted.
    doubted: bool,
    /// The last start was followed by an orderly stop.
    clean: bool,
    opened: bool,
}

impl Timeline {
    /// Moves on to a reading of the clocks. False when an unknown time has passed since the last
    /// one.
    pub(crate) fn see(&mut self, now: Now) -> bool {
        let known = match self.last {
            None => Some(0),
            Some(last) if last.boot == now.boot => Some(now.at.0.saturating_sub(last.at.0)),
            Some(last) if last.trusted && now.trusted => {
                now.wall_ms.checked_sub(last.wall_ms).map(|ms| ms.saturating_mul(1_000_000))
            }
            Some(_) => None,
        };
        self.passed_ns = self.passed_ns.saturating_add(known.unwrap_or(0));
        if now.trusted {
            self.floor_ms = self.floor_ms.max(now.wall_ms);
            self.assumed_ms = 0;
        } else {
            let passed_ms = known.unwrap_or(0) / 1_000_000;
            self.assumed_ms = (self.assumed_ms.saturating_add(passed_ms)).max(now.wall_ms);
            self.doubted = true;
        }
        self.last = Some(now);
        known.is_some()
    }

    /// Milliseconds known to have passed since the first record.
    fn passed_ms(&self) -> u64 {
        self.passed_ns / 1_000_000
    }

    /// The latest wall time that is certain to have been reached.
    pub(crate) fn wall_ms(&self) -> u64 {
        self.floor_ms
    }

    /// The wall time for who accepts tasks without a trusted clock: whatever it says, but it never
    /// runs back.
    pub(crate) fn assumed_ms(&self) -> u64 {
        self.floor_ms.max(self.assumed_ms)
    }
}

/// Why a journal cannot be folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayError {
    /// A record is not what its kind says.
    Malformed(Malformed),
    /// More live tasks, steps or ids than the limits allow: they were lowered since.
    AboveLimits,
}

impl From<Malformed> for ReplayError {
    fn from(malformed: Malformed) -> ReplayError {
        ReplayError::Malformed(malformed)
    }
}

impl Machine {
    /// Folds one record in. Call it for each record in order of sequence, before anything else.
    ///
    /// # Errors
    /// [`ReplayError`]; the machine is then of no further use.
    pub fn replay(
        &mut self,
        seq: u64,
        task: u64,
        kind: u8,
        payload: &[u8],
    ) -> Result<(), ReplayError> {
        let (record, stamp, headers, attached) = Record::decode(kind, payload)?;
        self.next_seq = self.next_seq.max(seq + 1);
        self.durable_seq = self.durable_seq.max(seq);
        self.now = stamp.now;
        if !self.timeline.see(stamp.now) {
            for task in &mut self.arena.tasks {
                task.flags.clock_uncertain |= task.state != State::Free;
            }
        }
        match record {
            Record::Opened => (self.timeline.opened, self.timeline.clean) = (true, false),
            Record::Stopped => self.timeline.clean = true,
            Record::Checkpoint => {}
            Record::Accepted(accepted) => {
                let steps = accepted.steps as usize;
                while steps > self.arena.free_steps() as usize {
                    self.bury()?;
                }
                let id = self.replay_id(accepted.key)?;
                let slot = match self.arena.free_task() {
                    Some(slot) => slot,
                    None => self.bury()?,
                };
                self.place(slot, id, seq, &accepted, headers.iter());
                self.recovering += 1;
                let used_ms = self.timeline.passed_ms();
                self.arena.tasks[slot as usize].used_ms = used_ms;
            }
            Record::Tombstone { key, expires_ms } => {
                let id = self.replay_id(key)?;
                self.ids.set(id, key, 0, seq, expires_ms, Kind::Tombstone);
            }
            Record::Delivered { key, digest, expires_ms, outcome } => {
                let id = match self.slot_of(task) {
                    Some(slot) => {
                        let id = self.arena.tasks[slot as usize].id;
                        self.free_task_slot(slot);
                        self.recovering -= 1;
                        id
                    }
                    None => self.replay_id(key)?,
                };
                self.released.push((task, seq));
                self.ids.set(id, key, digest, task, expires_ms, Kind::Ended(outcome));
            }
            other => {
                if let Some(slot) = self.slot_of(task) {
                    self.fold(slot, other, headers.iter().collect(), attached.len() as u64)?;
                }
            }
        }
        Ok(())
    }

    /// A place for an id. An older entry of the same key, and expired ones when the table is full,
    /// had been forgotten when the record was written; they are read again until a compaction drops
    /// them. What an untrusted clock said then may not be known any more; but if any had expired by
    /// it, then so had the first to expire.
    fn replay_id(&mut self, key: u128) -> Result<u16, ReplayError> {
        let stale =
            self.ids.find(key).filter(|id| !matches!(self.ids.get(*id).kind, Kind::Live(_)));
        if let Some(id) = stale {
            self.release_id(id);
        }
        while self.ids.free_slot().is_none() {
            let forgotten = match self.ids.expired(self.timeline.wall_ms()) {
                None if self.timeline.doubted => self.ids.first_to_expire(),
                expired => expired,
            };
            match forgotten {
                Some(id) => self.release_id(id),
                None => {
                    self.bury()?;
                }
            }
        }
        self.ids.free_slot().ok_or(ReplayError::AboveLimits)
    }

    fn release_id(&mut self, id: u16) {
        self.released.push((self.ids.get(id).seq, u64::MAX));
        self.ids.forget(id);
    }

    /// More live than ever could at once: the delivery of one is among the records that are gone.
    /// Results are told in turn, so it was the oldest that had finished before; or else its end is
    /// gone as well. Returns its slot, free.
    fn bury(&mut self) -> Result<u16, ReplayError> {
        let (slot, task) = (0..self.limits.tasks)
            .map(|slot| (slot, self.arena.tasks[slot as usize]))
            .filter(|(_, task)| task.state != State::Free && task.flags.gap)
            .min_by_key(|(_, task)| (!task.flags.perhaps_delivered, task.accepted_seq))
            .ok_or(ReplayError::AboveLimits)?;
        self.free_task_slot(slot);
        self.recovering -= 1;
        let outcome = match task.outcome {
            Outcome::None => Outcome::Uncertain,
            known => known,
        };
        self.ids.set_kind(task.id, Kind::Ended(outcome));
        Ok(slot)
    }

    /// What the store must release again after a replay: pairs of a task and the first record to
    /// keep.
    pub fn take_released(&mut self) -> Vec<(u64, u64)> {
        core::mem::take(&mut self.released)
    }

    /// Some records are gone, the next has number `next_seq`. Every task that lives here may have
    /// lost some of its history.
    pub fn replay_gap(&mut self, next_seq: u64) {
        // A number that was lost must not be given again: the store would refuse it.
        self.next_seq = self.next_seq.max(next_seq);
        self.durable_seq = self.durable_seq.max(next_seq.saturating_sub(1));
        for task in &mut self.arena.tasks {
            let lives = task.state != State::Free;
            task.flags.gap |= lives;
            task.flags.perhaps_delivered |= lives && task.flags.finished;
        }
    }

    fn fold(
        &mut self,
        slot: u16,
        record: Record,
        headers: Vec<crate::message::StepHeader>,
        attached_bytes: u64,
    ) -> Result<(), ReplayError> {
        let Some(at) = self.step_named(slot, &record) else {
            // The record that added the step is among those that are gone.
            let flags = &mut self.arena.tasks[slot as usize].flags;
            flags.lost_steps = true;
            return if flags.gap { Ok(()) } else { Err(Malformed::Value.into()) };
        };
        self.skip_before(slot, at);
        if let Record::Extended { steps, .. } = record {
            while u16::from(steps) > self.arena.free_steps() {
                self.bury()?;
            }
        }
        let boot = self.now.boot;
        let task = &mut self.arena.tasks[slot as usize];
        match record {
            Record::Started { attempt, suspicions, .. } => {
                (task.current, task.flags.in_flight) = (at, true);
                (task.suspicions, task.boot) = (suspicions, boot);
                self.arena.steps[at as usize].attempts = attempt;
            }
            Record::Tried { attempt, .. } => {
                (task.current, task.flags.in_flight, task.suspicions) = (at, false, 0);
                self.arena.steps[at as usize].attempts = attempt;
            }
            Record::Interrupted { .. } => {
                (task.current, task.flags.in_flight) = (at, false);
                let step = &mut self.arena.steps[at as usize];
                step.attempts = step.attempts.saturating_sub(1);
            }
            Record::Ended { attempt, outcome, clock, code, continues, unreaped, .. } => {
                (task.current, task.flags.in_flight, task.suspicions) = (at, false, 0);
                task.flags.planning = continues;
                task.flags.unreaped |= unreaped;
                task.outcome_clock = clock;
                if clock == Clock::ScheduleToClose {
                    task.ending = Outcome::TimedOut;
                }
                let step = &mut self.arena.steps[at as usize];
                (step.attempts, step.outcome, step.code) = (attempt, outcome, code);
            }
            Record::Extended { after, steps } => {
                task.flags.planning = false;
                // The host refused: the step that asked is the one that failed.
                task.flags.refused_plan = steps == 0;
                let reserve =
                    u64::from(steps) * u64::from(self.limits.ended_bytes) + attached_bytes;
                self.add_steps(slot, after, headers.into_iter(), reserve);
            }
            Record::CancelRequested if !task.flags.finally => task.ending = Outcome::Cancelled,
            Record::Decided { outcome, step, clock } => {
                self.note_decided(slot, outcome, step, clock);
            }
            Record::Finished => {
                task.flags.finished = true;
                self.skip_open_steps(slot, true);
            }
            _ => {}
        }
        Ok(())
    }

    /// The slot of the step that a record is about, `NONE` if it is about none; nothing if it is
    /// not known.
    fn step_named(&self, slot: u16, record: &Record) -> Option<u16> {
        let index = match *record {
            Record::Started { step, .. }
            | Record::Tried { step, .. }
            | Record::Interrupted { step }
            | Record::Ended { step, .. }
            | Record::Extended { after: step, .. } => step,
            _ => return Some(NONE),
        };
        let first = self.arena.tasks[slot as usize].first;
        self.arena.steps_of(first).find(|at| self.arena.steps[*at as usize].index == index)
    }

    /// Steps run in order and a skip leaves no record: what was passed without an end was skipped.
    fn skip_before(&mut self, slot: u16, at: u16) {
        let mut passed = self.arena.tasks[slot as usize].first;
        while at != NONE && passed != at && passed != NONE {
            let step = &mut self.arena.steps[passed as usize];
            if step.outcome == Outcome::None {
                step.outcome = Outcome::Skipped;
            }
            passed = step.next;
        }
    }

    /// Ends the replay: records the start and, with the next calls, judges each task. All processes
    /// of an earlier run must be gone by now.
    pub fn recovered(&mut self, now: Now) {
        self.unclean = self.timeline.opened && !self.timeline.clean;
        self.now = now;
        if !self.timeline.see(now) {
            for task in &mut self.arena.tasks {
                task.flags.clock_uncertain |= task.state != State::Free;
            }
        }
        let passed = self.timeline.passed_ms();
        for task in &mut self.arena.tasks {
            if task.state == State::Free {
                continue;
            }
            let used_ms = passed - task.used_ms;
            task.used_ms = used_ms;
            if task.flags.finally {
                task.close_at = now.at.after_ms(u64::from(task.finally_ms));
            } else if task.schedule_to_close_ms > 0 {
                let left = task.schedule_to_close_ms.saturating_sub(used_ms);
                task.close_at = now.at.after_ms(left);
            }
        }
        for slot in 0..self.limits.tasks {
            self.keep_books(slot);
        }
        self.append_opened();
        self.start_backlog();
    }

    /// What the journal says of one task, put into a state.
    pub(crate) fn judge(&mut self, slot: u16) {
        if self.lost_its_decision(slot) {
            self.decide_again(slot);
        } else if self.arena.tasks[slot as usize].flags.finished {
            self.arena.tasks[slot as usize].state = State::Reporting;
            return;
        }
        let task = self.arena.tasks[slot as usize];
        if task.flags.finished {
            return self.finish(slot);
        }
        let doubtful = task.flags.lost_steps || self.has_stop_step(task.first);
        if task.flags.gap && !task.flags.finally && doubtful {
            return self.decide(slot, Outcome::Uncertain, self.index_of(task.current), Clock::None);
        }
        if task.flags.gap && task.flags.finally {
            self.give_up_stop_steps(slot);
        }
        if task.flags.in_flight {
            return self.judge_in_flight(slot);
        }
        if task.ending != Outcome::None && !task.flags.finally {
            let (outcome, clock) = self.ending(slot);
            return self.decide(slot, outcome, self.index_of(task.current), clock);
        }
        if task.flags.refused_plan && !task.flags.finally {
            let step = self.index_of(task.current);
            return self.decide(slot, Outcome::Failed, step, Clock::None);
        }
        if task.flags.planning && !task.flags.finally {
            self.arena.tasks[slot as usize].state = State::Planning;
            return;
        }
        self.resume(slot);
    }

    /// Whether the record of the decision is among those that are gone: what follows one is there.
    fn lost_its_decision(&self, slot: u16) -> bool {
        let task = &self.arena.tasks[slot as usize];
        let begun = |at: u16| {
            let step = &self.arena.steps[at as usize];
            step.header.finally && (step.attempts > 0 || step.outcome != Outcome::None)
        };
        let follows = task.flags.finished || self.arena.steps_of(task.first).any(begun);
        follows && !task.flags.finally
    }

    /// Nobody knows any more how the main steps ended; what has cleaned up does not do so again.
    fn decide_again(&mut self, slot: u16) {
        let (outcome, clock) = (Outcome::Uncertain, Clock::None);
        let record = Record::Decided { outcome, step: NO_STEP, clock };
        let seq = self.append(slot, record, Attached::None, true);
        let in_flight = self.arena.tasks[slot as usize].flags.in_flight;
        self.note_decided(slot, outcome, NO_STEP, clock);
        let now = self.now.at;
        let task = &mut self.arena.tasks[slot as usize];
        task.flags.in_flight = in_flight;
        task.awaited_seq = seq;
        task.close_at = now.after_ms(u64::from(task.finally_ms));
    }

    /// What cleans up and must not be repeated may have run behind a gap: it does not run, except
    /// that what is known to be under way is judged by itself.
    fn give_up_stop_steps(&mut self, slot: u16) {
        let task = self.arena.tasks[slot as usize];
        let mut next = task.first;
        while next != NONE {
            let step = &mut self.arena.steps[next as usize];
            let under_way = task.flags.in_flight && next == task.current;
            if step.header.finally && step.header.stop && !under_way {
                step.outcome = match step.outcome {
                    Outcome::None => Outcome::Uncertain,
                    known => known,
                };
            }
            next = step.next;
        }
    }

    fn judge_in_flight(&mut self, slot: u16) {
        let task = self.arena.tasks[slot as usize];
        let step = self.arena.steps[task.current as usize];
        let end = |outcome| End {
            outcome,
            clock: Clock::None,
            code: 0,
            continues: false,
            attached: Attached::None,
        };
        let same_boot = task.boot == self.now.boot;
        if step.header.reboot && !same_boot {
            return self.end_step(slot, end(Outcome::Succeeded));
        }
        if step.header.stop {
            return self.end_step(slot, end(Outcome::Uncertain));
        }
        if task.ending == Outcome::Cancelled && !task.flags.finally {
            return self.end_step(slot, end(Outcome::Cancelled));
        }
        let suspicions = task.suspicions + u8::from(self.unclean && same_boot);
        if suspicions >= self.limits.suspicions {
            return self.end_step(slot, end(Outcome::Dead));
        }
        let task = &mut self.arena.tasks[slot as usize];
        task.suspicions = suspicions;
        task.flags.in_flight = false;
        let at = task.current as usize;
        self.arena.steps[at].attempts = self.arena.steps[at].attempts.saturating_sub(1);
        self.resume(slot);
    }

    /// Goes on where the records end.
    fn resume(&mut self, slot: u16) {
        let task = self.arena.tasks[slot as usize];
        let Some(step) = self.arena.steps.get(task.current as usize).copied() else {
            return self.go_to(slot, task.first);
        };
        if step.outcome == Outcome::None {
            self.go_to(slot, task.current);
        } else {
            self.advance(slot, task.outcome_clock);
        }
    }

    fn has_stop_step(&self, first: u16) -> bool {
        self.arena.steps_of(first).any(|at| self.arena.steps[at as usize].header.stop)
    }

    fn index_of(&self, step: u16) -> u8 {
        self.arena.steps.get(step as usize).map_or(crate::arena::NO_STEP, |step| step.index)
    }
}
