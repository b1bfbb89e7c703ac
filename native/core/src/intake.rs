//! What the host hands in: tasks to accept, to end, to extend. Judged first, then taken whole or
//! refused.

use crate::ids::Kind;
use crate::limits::TASK_STEPS_MAX;
use crate::machine::Machine;
use crate::message::{Attached, Effect, Reason, StepHeader, Submit, TaskRef, Verdict};
use crate::record::{Accepted, Record};
use crate::table::{State, Trigger};
use crate::time::Instant;

impl Machine {
    pub(crate) fn submit(&mut self, submit: &Submit<'_>) {
        self.forget_expired(submit.clock_waived);
        match self.judge_submit(submit) {
            Ok((slot, id)) => self.accept(submit, slot, id),
            Err((task, verdict)) => self.answer(submit.token, task, verdict),
        }
    }

    fn judge_submit(&self, submit: &Submit<'_>) -> Result<(u16, u16), (Option<TaskRef>, Verdict)> {
        let refuse = |reason| Err((None, Verdict::Refused(reason)));
        if let Some(id) = self.ids.find(submit.key) {
            let entry = self.ids.get(id);
            return match entry.kind {
                Kind::Tombstone => refuse(Reason::CancelledBefore),
                _ if entry.digest != submit.digest => refuse(Reason::IdConflict),
                Kind::Ended(outcome) => Err((None, Verdict::Ended(outcome))),
                Kind::Live(slot) => Err((Some(self.arena.task_ref(slot)), Verdict::Alive)),
                Kind::Free => refuse(Reason::Invalid),
            };
        }
        let count = submit.steps.len();
        let bytes = self.reserve(submit.bytes, count);
        if count == 0 || count > TASK_STEPS_MAX as usize || submit.steps[0].finally {
            return refuse(Reason::Invalid);
        }
        if self.draining {
            return refuse(Reason::Draining);
        }
        if self.store_failed {
            return refuse(Reason::StoreFailed);
        }
        if !self.now.trusted && !submit.clock_waived {
            return refuse(Reason::ClockUntrusted);
        }
        let wall_ms = match self.now.trusted {
            true => self.timeline.wall_ms(),
            false => self.timeline.assumed_ms(),
        };
        if submit.expires_ms <= wall_ms {
            return refuse(Reason::Expired);
        }
        if count > self.arena.free_steps() as usize {
            return refuse(Reason::BusySteps);
        }
        if self.live_bytes + bytes > self.limits.live_bytes {
            return refuse(Reason::BusyBytes);
        }
        let Some(slot) = self.arena.free_task() else { return refuse(Reason::BusyTasks) };
        let Some(id) = self.ids.free_slot() else { return refuse(Reason::BusyIds) };
        Ok((slot, id))
    }

    fn reserve(&self, bytes: u32, steps: usize) -> u64 {
        u64::from(bytes) + (steps as u64 + 1) * u64::from(self.limits.ended_bytes)
    }

    fn accept(&mut self, submit: &Submit<'_>, slot: u16, id: u16) {
        let reserved = u32::try_from(self.reserve(submit.bytes, submit.steps.len()))
            .expect("live_bytes bounds the reserve");
        let steps = u8::try_from(submit.steps.len()).expect("judged");
        let accepted = Accepted {
            key: submit.key,
            digest: submit.digest,
            source: submit.source,
            expires_ms: submit.expires_ms,
            schedule_to_close_ms: submit.schedule_to_close_ms,
            finally_ms: submit.finally_ms,
            reserved,
            priority: submit.priority,
            additions: submit.additions,
            steps,
        };
        let seq = self.next_seq;
        self.place(slot, id, seq, &accepted, submit.steps.iter().copied());
        let written = self.append_for(seq, Record::Accepted(accepted), Attached::Plan, true);
        assert!(written == seq);
        self.stats.accepted += 1;
        let now = self.now.at;
        let task = &mut self.arena.tasks[slot as usize];
        task.awaited_seq = seq;
        task.close_at = match submit.schedule_to_close_ms {
            0 => Instant::NEVER,
            ms => now.after_ms(ms),
        };
        let task = self.arena.task_ref(slot);
        self.answer(submit.token, Some(task), Verdict::Accepted);
        self.begin(slot);
        self.settle_books(slot);
    }

    pub(crate) fn cancel(
        &mut self,
        token: u64,
        key: u128,
        source: u64,
        any: bool,
        expires_ms: u64,
    ) {
        self.forget_expired(false);
        let Some(id) = self.ids.find(key) else {
            let Some(id) = self.ids.free_slot() else {
                return self.answer(token, None, Verdict::Refused(Reason::BusyIds));
            };
            let seq = self.next_seq;
            self.append_for(seq, Record::Tombstone { key, expires_ms }, Attached::None, true);
            self.ids.set(id, key, 0, seq, expires_ms, Kind::Tombstone);
            return self.answer(token, None, Verdict::Remembered);
        };
        match self.ids.get(id).kind {
            Kind::Live(slot) if !any && self.arena.tasks[slot as usize].source != source => {
                self.answer(token, None, Verdict::Refused(Reason::NotOwner));
            }
            // Too late for the outcome, and cancelling what cleans up would leave things dirty.
            Kind::Live(slot) if self.arena.tasks[slot as usize].flags.finally => {
                let outcome = self.arena.tasks[slot as usize].outcome;
                self.answer(token, None, Verdict::Ended(outcome));
            }
            Kind::Live(slot) => {
                let task = self.arena.task_ref(slot);
                self.append(slot, Record::CancelRequested, Attached::None, true);
                self.fire(slot, Trigger::Cancel);
                self.answer(token, Some(task), Verdict::Cancelling);
            }
            Kind::Ended(outcome) => self.answer(token, None, Verdict::Ended(outcome)),
            Kind::Tombstone | Kind::Free => self.answer(token, None, Verdict::Remembered),
        }
    }

    pub(crate) fn extend(&mut self, token: u64, task: TaskRef, steps: &[StepHeader], bytes: u32) {
        let waiting = self.view(task).is_some_and(|view| view.state == State::Planning);
        if !waiting {
            return self.answer(token, None, Verdict::Refused(Reason::NotWaiting));
        }
        let count = steps.len();
        let found = &self.arena.tasks[task.slot as usize];
        let more = count as u64 * u64::from(self.limits.ended_bytes) + u64::from(bytes);
        let too_many = count + found.steps as usize > TASK_STEPS_MAX as usize
            || count > found.additions as usize
            || steps.iter().any(|step| step.finally);
        let refusal = if too_many {
            Some(Reason::Invalid)
        } else if count > self.arena.free_steps() as usize {
            Some(Reason::BusySteps)
        } else if self.live_bytes + more > self.limits.live_bytes {
            Some(Reason::BusyBytes)
        } else {
            None
        };
        if let Some(reason) = refusal {
            return self.answer(token, Some(task), Verdict::Refused(reason));
        }
        let after = self.view(task).map_or(0, |view| view.step);
        self.add_steps(task.slot, after, steps.iter().copied(), more);
        let steps = u8::try_from(count).expect("bounded by the task's ceiling");
        let attached = if count == 0 { Attached::None } else { Attached::Extension };
        self.arena.tasks[task.slot as usize].flags.refused_plan = count == 0;
        let seq = self.append(task.slot, Record::Extended { after, steps }, attached, true);
        self.arena.tasks[task.slot as usize].awaited_seq = seq;
        self.fire(task.slot, Trigger::Extended);
        self.answer(token, Some(task), Verdict::Accepted);
    }

    /// Chains further steps behind one; the caller has checked that they fit.
    pub(crate) fn add_steps(
        &mut self,
        slot: u16,
        after: u8,
        headers: impl ExactSizeIterator<Item = StepHeader>,
        reserve: u64,
    ) {
        let task = self.arena.tasks[slot as usize];
        let count = u8::try_from(headers.len()).expect("checked by the caller");
        let found =
            self.arena.steps_of(task.first).find(|s| self.arena.steps[*s as usize].index == after);
        let Some(behind) = found else { return };
        self.arena.link_steps(behind, task.steps, headers);
        let task = &mut self.arena.tasks[slot as usize];
        task.steps += count;
        task.additions -= count.min(task.additions);
        // A journal may claim any reserve; both sums take the same part of it.
        let room = u32::MAX - task.reserved;
        let reserve = u32::try_from(reserve).unwrap_or(u32::MAX).min(room);
        task.reserved += reserve;
        self.live_bytes += u64::from(reserve);
    }

    /// With `clock_waived` a full table may also be cleared by a clock that is not trusted: a
    /// device that never learns the time must not be full for ever.
    fn forget_expired(&mut self, clock_waived: bool) {
        // At most two per call keeps the call short; submissions come faster than ids expire only
        // until the table is full, and then each makes room for the next.
        for _ in 0..2 {
            let full = self.ids.free_slot().is_none();
            let wall_ms = match clock_waived && !self.now.trusted && full {
                true => self.timeline.assumed_ms(),
                false => self.timeline.wall_ms(),
            };
            let Some(id) = self.ids.expired(wall_ms) else { return };
            let task = self.ids.get(id).seq;
            self.ids.forget(id);
            self.effect(Effect::Release { task, keep_from: u64::MAX });
        }
    }
}
