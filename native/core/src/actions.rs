//! What the cells of the table do. Each action leaves its task in a state the table allows.

use crate::arena::{Attempt, Cause, NO_STEP, NONE, Task};
use crate::ids::Kind;
use crate::machine::Machine;
use crate::message::{Attached, Clock, Effect, Executor, Outcome, Signal, StepHeader};
use crate::record::{Accepted, Record};
use crate::table::{Action, State, Trigger};
use crate::time::Instant;

/// How an attempt, and with it perhaps its step, ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub outcome: Outcome,
    pub clock: Clock,
    pub code: i32,
    pub continues: bool,
    pub attached: Attached,
}

impl End {
    fn plain(outcome: Outcome, clock: Clock) -> End {
        End { outcome, clock, code: 0, continues: false, attached: Attached::None }
    }
}

impl Machine {
    pub(crate) fn act(&mut self, slot: u16, trigger: Trigger, action: Action) {
        match action {
            Action::Admit => self.admit(slot),
            Action::Load => self.load(slot),
            Action::Launch => self.launch(slot),
            Action::Skip => self.end_unstarted(slot, End::plain(Outcome::Skipped, Clock::None)),
            Action::Refuse => self.end_unstarted(slot, End::plain(Outcome::Refused, Clock::None)),
            Action::MissStart => {
                self.end_unstarted(slot, End::plain(Outcome::TimedOut, Clock::ScheduleToStart));
            }
            Action::Run => self.run(slot),
            Action::FailStart => self.fail_start(slot),
            Action::Sweep => self.sweep(slot),
            Action::Beat => self.beat(slot),
            Action::Stop => self.stop(slot, trigger),
            Action::Kill => self.kill(slot),
            Action::GiveUp => self.give_up(slot),
            Action::Settle => self.settle(slot),
            Action::Mark => self.mark(slot, trigger),
            Action::Abandon => self.abandon(slot, trigger),
            Action::Requeue => self.requeue(slot),
            Action::Retry => self.queue(slot),
            Action::EndTask => self.end_task(slot, trigger),
            Action::Extend => self.resume_extended(slot),
            Action::Offer => self.task(slot).state = State::Reporting,
            Action::Forget => self.forget(slot),
            Action::Judge => self.judge(slot),
        }
    }

    fn task(&mut self, slot: u16) -> &mut Task {
        &mut self.arena.tasks[slot as usize]
    }

    fn attempt(&mut self, slot: u16) -> &mut Attempt {
        let attempt = self.arena.tasks[slot as usize].attempt;
        &mut self.arena.attempts[attempt as usize]
    }

    fn current(&self, slot: u16) -> crate::arena::Step {
        self.arena.steps[self.arena.tasks[slot as usize].current as usize]
    }

    // --- towards the start ----------------------------------------------------------------------

    /// Fills a free slot. Used for a new task and for one that is read back.
    pub(crate) fn place(
        &mut self,
        slot: u16,
        id: u16,
        seq: u64,
        accepted: &Accepted,
        headers: impl Iterator<Item = StepHeader>,
    ) {
        let first = self.arena.link_steps(NONE, 0, headers);
        let task = self.task(slot);
        *task = Task {
            state: State::Recovering,
            generation: task.generation.wrapping_add(1),
            accepted_seq: seq,
            source: accepted.source,
            schedule_to_close_ms: accepted.schedule_to_close_ms,
            finally_ms: accepted.finally_ms,
            reserved: accepted.reserved,
            id,
            first,
            priority: accepted.priority,
            steps: accepted.steps,
            additions: accepted.additions,
            ..Task::FREE
        };
        self.live_bytes += u64::from(accepted.reserved);
        let (key, digest) = (accepted.key, accepted.digest);
        self.ids.set(id, key, digest, seq, accepted.expires_ms, Kind::Live(slot));
    }

    /// A task that was just accepted waits for its first turn.
    pub(crate) fn begin(&mut self, slot: u16) {
        let first = self.arena.tasks[slot as usize].first;
        self.task(slot).current = first;
        self.queue(slot);
    }

    fn queue(&mut self, slot: u16) {
        let now = self.now.at;
        let timeout = self.current(slot).header.schedule_to_start_ms;
        let task = self.task(slot);
        task.state = State::Queued;
        task.queued_at = now;
        task.phase_at = match timeout {
            0 => Instant::NEVER,
            ms => now.after_ms(u64::from(ms)),
        };
    }

    fn admit(&mut self, slot: u16) {
        let step = self.current(slot);
        let at = self.arena.tasks[slot as usize].current as usize;
        let number = step.attempts.saturating_add(1);
        self.arena.steps[at].attempts = number;
        let suspicions = self.arena.tasks[slot as usize].suspicions;
        let record = Record::Started { step: step.index, attempt: number, suspicions };
        let seq = self.append(slot, record, Attached::None, step.header.stop);
        let durable = self.durable_seq;
        let task = self.task(slot);
        if step.header.stop {
            task.awaited_seq = seq;
        }
        // A step that may be repeated needs no durable intent, but what was accepted or decided
        // before it must be durable before anything is done on its behalf.
        if task.awaited_seq > durable {
            task.state = State::Committing;
        } else {
            self.load(slot);
        }
    }

    fn load(&mut self, slot: u16) {
        let task = self.arena.tasks[slot as usize];
        let step = self.current(slot).index;
        let attempt = self.attempt_ref(task.attempt);
        self.effect(Effect::Load { attempt, task: task.accepted_seq, step });
        self.task(slot).state = State::Loading;
    }

    fn launch(&mut self, slot: u16) {
        let now = self.now.at;
        let (task, step) = (self.arena.tasks[slot as usize], self.current(slot));
        let found = self.attempt(slot);
        found.close_at = now.after_ms(u64::from(found.spec.start_to_close_ms));
        let (close_at, executor) = (found.close_at, found.executor);
        let attempt = self.attempt_ref(task.attempt);
        let (state, phase_at) = match executor {
            Executor::Timer(ms) => {
                let timer_at = now.after_ms(u64::from(ms));
                self.attempt(slot).timer_at = timer_at;
                (State::Running, close_at.min(timer_at))
            }
            Executor::Host => (State::Running, close_at),
            Executor::Process => (State::Starting, close_at),
        };
        if !matches!(executor, Executor::Timer(_)) {
            let host = executor == Executor::Host;
            let (task, step, number) = (task.accepted_seq, step.index, step.attempts);
            self.effect(Effect::Start { attempt, task, step, number, host });
        }
        let task = self.task(slot);
        (task.state, task.phase_at) = (state, phase_at);
    }

    fn run(&mut self, slot: u16) {
        let now = self.now.at;
        let attempt = self.attempt(slot);
        attempt.process = true;
        if attempt.spec.heartbeat_ms > 0 {
            attempt.heartbeat_at = now.after_ms(u64::from(attempt.spec.heartbeat_ms));
        }
        let (cause, close_at) = (attempt.cause, attempt.close_at);
        if cause == Cause::None {
            let task = self.task(slot);
            (task.state, task.phase_at) = (State::Running, close_at);
        } else {
            // Its clock may have run out before there was a process to signal.
            let clock = cause == Cause::Clock(Clock::StartToClose);
            self.terminate(slot, Some(close_at).filter(|due| clock && *due <= now));
        }
    }

    // --- the stop ladder ------------------------------------------------------------------------

    /// Notes why the attempt or the task is to end. The first reason wins, except that the end of
    /// the task outweighs the end of one attempt.
    fn mark(&mut self, slot: u16, trigger: Trigger) {
        let ending = match trigger {
            Trigger::CloseOver => Outcome::TimedOut,
            Trigger::Cancel => Outcome::Cancelled,
            _ => Outcome::None,
        };
        let task = self.task(slot);
        if ending != Outcome::None {
            task.close_at = Instant::NEVER;
            if task.ending == Outcome::None {
                task.ending = ending;
            }
        }
        if task.attempt == NONE {
            return;
        }
        if task.state == State::Starting && trigger == Trigger::PhaseOver {
            task.phase_at = Instant::NEVER;
        }
        let cause = match trigger {
            Trigger::Interrupt => Cause::Interrupted,
            Trigger::PhaseOver => Cause::Clock(Clock::StartToClose),
            Trigger::HeartbeatOver => Cause::Clock(Clock::Heartbeat),
            _ => Cause::Ending,
        };
        // What has ended by itself has ended so, whatever comes while its descendants are removed.
        let ended = task.state == State::Sweeping;
        let attempt = self.attempt(slot);
        let replaced = if attempt.cause == Cause::None { !ended } else { cause == Cause::Ending };
        if replaced {
            attempt.cause = cause;
        }
    }

    fn stop(&mut self, slot: u16, trigger: Trigger) {
        let attempt = *self.attempt(slot);
        let done = attempt.timer_at <= self.now.at && attempt.timer_at <= attempt.close_at;
        if trigger == Trigger::PhaseOver && done {
            self.attempt(slot).exit = Outcome::Succeeded;
            return self.settle(slot);
        }
        self.mark(slot, trigger);
        let due = self.passed(slot);
        if attempt.process { self.terminate(slot, due) } else { self.settle(slot) }
    }

    fn terminate(&mut self, slot: u16, due: Option<Instant>) {
        let now = self.now.at;
        let attempt = self.attempt_ref(self.arena.tasks[slot as usize].attempt);
        self.effect(Effect::Signal { attempt, signal: Signal::Terminate, due });
        let grace = u64::from(self.attempt(slot).spec.grace_ms);
        let task = self.task(slot);
        (task.state, task.phase_at) = (State::Stopping, now.after_ms(grace));
    }

    fn kill(&mut self, slot: u16) {
        let (now, reap) = (self.now.at, u64::from(self.limits.reap_ms));
        let attempt = self.attempt_ref(self.arena.tasks[slot as usize].attempt);
        let due = self.passed(slot);
        self.effect(Effect::Signal { attempt, signal: Signal::Kill, due });
        let task = self.task(slot);
        (task.state, task.phase_at) = (State::Killing, now.after_ms(reap));
    }

    fn beat(&mut self, slot: u16) {
        let now = self.now.at;
        let attempt = self.attempt(slot);
        if attempt.spec.heartbeat_ms > 0 {
            attempt.heartbeat_at = now.after_ms(u64::from(attempt.spec.heartbeat_ms));
        }
    }

    fn sweep(&mut self, slot: u16) {
        if !self.attempt(slot).process {
            return self.settle(slot);
        }
        let (now, reap) = (self.now.at, u64::from(self.limits.reap_ms));
        let attempt = self.attempt_ref(self.arena.tasks[slot as usize].attempt);
        self.effect(Effect::Sweep(attempt));
        let task = self.task(slot);
        (task.state, task.phase_at) = (State::Sweeping, now.after_ms(reap));
    }

    // --- the end of an attempt ------------------------------------------------------------------

    fn give_up(&mut self, slot: u16) {
        self.task(slot).flags.unreaped = true;
        self.attempt(slot).lost = true;
        if self.attempt(slot).exit == Outcome::None {
            self.attempt(slot).exit = Outcome::Killed;
        }
        self.settle(slot);
    }

    fn settle(&mut self, slot: u16) {
        let attempt = *self.attempt(slot);
        let attached = Attached::Attempt(self.attempt_ref(self.arena.tasks[slot as usize].attempt));
        let (outcome, clock) = match attempt.cause {
            Cause::None => (attempt.exit, Clock::None),
            Cause::Clock(clock) => (Outcome::TimedOut, clock),
            Cause::Ending => self.ending(slot),
            Cause::Interrupted => (Outcome::Uncertain, Clock::None),
        };
        let continues = attempt.continues && outcome == Outcome::Succeeded;
        self.conclude(slot, End { outcome, clock, code: attempt.code, continues, attached });
    }

    fn fail_start(&mut self, slot: u16) {
        self.attempt(slot).exit = Outcome::Failed;
        self.attempt(slot).code = -1;
        self.settle(slot);
    }

    pub(crate) fn ending(&mut self, slot: u16) -> (Outcome, Clock) {
        let task = self.task(slot);
        match task.ending {
            Outcome::Cancelled => (Outcome::Cancelled, Clock::None),
            _ if task.flags.finally => (Outcome::TimedOut, Clock::Finally),
            _ => (Outcome::TimedOut, Clock::ScheduleToClose),
        }
    }

    /// The attempt is over: again, or the step is over too.
    fn conclude(&mut self, slot: u16, end: End) {
        let (attempt, step) = (*self.attempt(slot), self.current(slot));
        let task = self.arena.tasks[slot as usize];
        let ran = !attempt.before_exec;
        if attempt.cause == Cause::Interrupted && task.ending == Outcome::None {
            if !step.header.stop || !ran {
                self.append(slot, Record::Interrupted { step: step.index }, Attached::None, true);
                return self.put_back(slot);
            }
        } else if task.ending == Outcome::None && self.may_retry(slot, end.outcome) {
            let record =
                Record::Tried { step: step.index, attempt: step.attempts, outcome: end.outcome };
            self.append(slot, record, end.attached, false);
            let delay = self.retry_delay_ms(slot);
            self.release_attempt(slot);
            let now = self.now.at;
            let task = self.task(slot);
            task.suspicions = 0;
            (task.state, task.phase_at) = (State::Backoff, now.after_ms(delay));
            return;
        }
        self.end_step(slot, end);
    }

    fn may_retry(&mut self, slot: u16, outcome: Outcome) -> bool {
        let (attempt, step) = (*self.attempt(slot), self.current(slot));
        let failed = matches!(
            outcome,
            Outcome::Failed | Outcome::TimedOut | Outcome::Killed | Outcome::OutOfMemory
        );
        let proven = attempt.before_exec;
        let allowed = if step.header.stop || attempt.spec.before_exec_only { proven } else { true };
        let unreaped = self.arena.tasks[slot as usize].flags.unreaped;
        failed && allowed && !unreaped && step.attempts < attempt.spec.maximum_attempts
    }

    /// `initial_interval * backoff ^ (attempts - 1)`, capped, less a random part up to the jitter.
    fn retry_delay_ms(&mut self, slot: u16) -> u64 {
        let (spec, attempts) = (self.attempt(slot).spec, self.current(slot).attempts);
        let cap = u64::from(spec.maximum_interval_ms.max(spec.initial_interval_ms));
        let mut delay = u64::from(spec.initial_interval_ms);
        for _ in 1..attempts {
            delay = (delay * u64::from(spec.backoff_milli) / 1000).min(cap);
        }
        let spread = delay * u64::from(spec.jitter_milli.min(1000)) / 1000;
        let random = self.random();
        delay - if spread == 0 { 0 } else { random % (spread + 1) }
    }

    /// Gives the attempt slot back; what cannot be killed keeps it until it is seen to die.
    fn release_attempt(&mut self, slot: u16) {
        let attempt = self.arena.tasks[slot as usize].attempt;
        if attempt == NONE {
            return;
        }
        let reference = self.attempt_ref(attempt);
        let found = &mut self.arena.attempts[attempt as usize];
        if found.lost {
            found.task = NONE;
        } else {
            found.free();
            self.live -= 1;
            self.effect(Effect::Discard(reference));
        }
        self.task(slot).attempt = NONE;
    }

    /// Ends a step none of whose processes ever ran in this attempt.
    fn end_unstarted(&mut self, slot: u16, end: End) {
        let attempt = self.arena.tasks[slot as usize].attempt;
        let attached = match attempt {
            NONE => Attached::None,
            live => Attached::Attempt(self.attempt_ref(live)),
        };
        self.end_step(slot, End { attached, ..end });
    }

    fn abandon(&mut self, slot: u16, trigger: Trigger) {
        self.mark(slot, trigger);
        let (outcome, clock) = self.ending(slot);
        self.end_unstarted(slot, End::plain(outcome, clock));
    }

    fn append_interrupted(&mut self, slot: u16) {
        let step = self.current(slot).index;
        self.append(slot, Record::Interrupted { step }, Attached::None, true);
    }

    fn requeue(&mut self, slot: u16) {
        self.append_interrupted(slot);
        self.put_back(slot);
    }

    fn put_back(&mut self, slot: u16) {
        self.release_attempt(slot);
        let at = self.arena.tasks[slot as usize].current as usize;
        self.arena.steps[at].attempts = self.arena.steps[at].attempts.saturating_sub(1);
        self.queue(slot);
    }

    pub(crate) fn end_step(&mut self, slot: u16, end: End) {
        let task = self.arena.tasks[slot as usize];
        let step = self.current(slot);
        let record = Record::Ended {
            step: step.index,
            attempt: step.attempts,
            outcome: end.outcome,
            clock: end.clock,
            code: end.code,
            continues: end.continues,
            unreaped: task.flags.unreaped,
        };
        self.append(slot, record, end.attached, true);
        self.release_attempt(slot);
        let found = &mut self.arena.steps[task.current as usize];
        (found.outcome, found.code) = (end.outcome, end.code);
        let task = self.task(slot);
        task.suspicions = 0;
        task.phase_at = Instant::NEVER;
        if task.ending != Outcome::None {
            let (outcome, clock) = self.ending(slot);
            return self.finish_or_decide(slot, outcome, clock);
        }
        if end.continues && !task.flags.finally {
            task.state = State::Planning;
            return;
        }
        self.advance(slot, end.clock);
    }

    // --- from step to step ----------------------------------------------------------------------

    /// Goes on behind the current step, which has ended.
    pub(crate) fn advance(&mut self, slot: u16, clock: Clock) {
        let (task, step) = (self.arena.tasks[slot as usize], self.current(slot));
        let fine = matches!(step.outcome, Outcome::Succeeded | Outcome::Skipped);
        if !task.flags.finally && !fine {
            let outcome = match step.outcome {
                Outcome::Uncertain => Some(Outcome::Uncertain),
                Outcome::Dead => Some(Outcome::Dead),
                _ if step.header.guarded => None,
                _ => Some(Outcome::Failed),
            };
            if let Some(outcome) = outcome {
                return self.decide(slot, outcome, step.index, clock);
            }
        }
        self.go_to(slot, step.next);
    }

    /// Queues the first step from `next` on whose condition holds, or ends the phase.
    pub(crate) fn go_to(&mut self, slot: u16, next: u16) {
        let task = self.arena.tasks[slot as usize];
        let mut next = next;
        while next != NONE {
            let step = self.arena.steps[next as usize];
            if step.header.finally && !task.flags.finally {
                break;
            }
            if step.outcome == Outcome::None && self.holds(task.first, step.header.when) {
                self.task(slot).current = next;
                return self.queue(slot);
            }
            if step.outcome == Outcome::None {
                // Not recorded: replay comes to the same answer from the same outcomes.
                self.arena.steps[next as usize].outcome = Outcome::Skipped;
            }
            next = step.next;
        }
        if task.flags.finally {
            self.finish(slot);
        } else {
            self.decide(slot, Outcome::Succeeded, NO_STEP, Clock::None);
        }
    }

    /// Fixes the outcome, then runs what must run at the end.
    pub(crate) fn decide(&mut self, slot: u16, outcome: Outcome, step: u8, clock: Clock) {
        let seq = self.append(slot, Record::Decided { outcome, step, clock }, Attached::None, true);
        self.note_decided(slot, outcome, step, clock);
        let now = self.now.at;
        let task = self.task(slot);
        task.awaited_seq = seq;
        task.close_at = now.after_ms(u64::from(task.finally_ms));
        if matches!(outcome, Outcome::Dead | Outcome::Refused) {
            return self.finish(slot);
        }
        self.start_finally(slot);
    }

    /// The books of a decision; also used when it is read back.
    pub(crate) fn note_decided(&mut self, slot: u16, outcome: Outcome, step: u8, clock: Clock) {
        let task = self.task(slot);
        (task.outcome, task.outcome_step, task.outcome_clock) = (outcome, step, clock);
        task.ending = Outcome::None;
        (task.flags.finally, task.flags.in_flight) = (true, false);
        self.skip_open_steps(slot, false);
    }

    /// Every step that will not be started any more is skipped.
    pub(crate) fn skip_open_steps(&mut self, slot: u16, finally_too: bool) {
        let mut next = self.arena.tasks[slot as usize].first;
        while next != NONE {
            let found = &mut self.arena.steps[next as usize];
            if (finally_too || !found.header.finally) && found.outcome == Outcome::None {
                found.outcome = Outcome::Skipped;
            }
            next = found.next;
        }
    }

    fn start_finally(&mut self, slot: u16) {
        let first = self.arena.tasks[slot as usize].first;
        let is_finally = |at: &u16| self.arena.steps[*at as usize].header.finally;
        let next = self.arena.steps_of(first).find(is_finally).unwrap_or(NONE);
        self.go_to(slot, next);
    }

    pub(crate) fn finish(&mut self, slot: u16) {
        self.skip_open_steps(slot, true);
        let seq = self.append(slot, Record::Finished, Attached::None, true);
        let task = self.task(slot);
        task.awaited_seq = seq;
        (task.close_at, task.phase_at) = (Instant::NEVER, Instant::NEVER);
        task.state = State::Closing;
    }

    fn finish_or_decide(&mut self, slot: u16, outcome: Outcome, clock: Clock) {
        let task = self.arena.tasks[slot as usize];
        if task.flags.finally {
            return self.finish(slot);
        }
        let step = self.arena.steps.get(task.current as usize).map_or(NO_STEP, |step| step.index);
        self.decide(slot, outcome, step, clock);
    }

    fn end_task(&mut self, slot: u16, trigger: Trigger) {
        self.mark(slot, trigger);
        let (outcome, clock) = self.ending(slot);
        self.finish_or_decide(slot, outcome, clock);
    }

    fn resume_extended(&mut self, slot: u16) {
        let step = self.current(slot);
        if self.arena.tasks[slot as usize].flags.refused_plan {
            self.decide(slot, Outcome::Failed, step.index, Clock::None);
        } else {
            self.go_to(slot, step.next);
        }
    }

    fn forget(&mut self, slot: u16) {
        let task = self.arena.tasks[slot as usize];
        let entry = *self.ids.get(task.id);
        let record = Record::Delivered {
            key: entry.key,
            digest: entry.digest,
            expires_ms: u64::from(entry.expires_s) * 1000,
            outcome: task.outcome,
        };
        let keep_from = self.append(slot, record, Attached::None, false);
        self.effect(Effect::Release { task: task.accepted_seq, keep_from });
        self.ids.set_kind(task.id, Kind::Ended(task.outcome));
        self.free_task_slot(slot);
        self.offer_next();
    }

    /// Empties a slot whose task is over; its generation goes on.
    pub(crate) fn free_task_slot(&mut self, slot: u16) {
        let task = self.arena.tasks[slot as usize];
        self.live_bytes -= u64::from(task.reserved);
        if task.flags.reported {
            self.reports -= 1;
        }
        self.arena.give_steps(task.first);
        *self.task(slot) = Task { generation: task.generation, ..Task::FREE };
    }
}
