//! The machine's outside: what comes in is sorted to a task and a trigger, what goes out is queued.

use crate::arena::{Arena, NONE, TaskFlags};
use crate::ids::Ids;
use crate::limits::{ANSWERS_MAX, BATCH, EFFECTS_MAX, Limits};
use crate::marks::Marks;
use crate::message::{
    Answer, Attached, AttemptRef, Effect, Exit, Input, Loaded, Outcome, TaskRef, Verdict,
};
use crate::record::Record;
use crate::recovery::Timeline;
use crate::table::{Cell, State, Trigger, cell};
use crate::time::{Instant, Now};
use std::collections::VecDeque;

/// Numbers for health reports; they only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Stats {
    /// Inputs handled.
    pub inputs: u64,
    /// Tasks accepted since the start.
    pub accepted: u64,
    /// Attempts admitted since the start.
    pub attempts: u64,
    /// Triggers that the table says cannot happen.
    pub never: u64,
    /// Inputs about tasks or attempts that are gone.
    pub stale: u64,
}

/// What the host may know of a live task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Sequence number of its acceptance.
    pub accepted_seq: u64,
    /// Where it is.
    pub state: State,
    /// Index of the step at hand; 255 before the first.
    pub step: u8,
    /// Which try of that step.
    pub attempt: u8,
    /// Its outcome, once fixed.
    pub outcome: Outcome,
    /// Facts that are either so or not.
    pub flags: TaskFlags,
}

/// The machine. See the crate's documentation for its four methods.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Machine {
    pub(crate) limits: Limits,
    pub(crate) arena: Arena,
    pub(crate) ids: Ids,
    pub(crate) now: Now,
    pub(crate) next_seq: u64,
    pub(crate) durable_seq: u64,
    urgent_seq: u64,
    pub(crate) live: u16,
    pub(crate) live_bytes: u64,
    pub(crate) recovering: u16,
    pub(crate) timeline: Timeline,
    /// The agent died last time, rather than stop.
    pub(crate) unclean: bool,
    /// Filled while the journal is read, empty ever after.
    pub(crate) released: Vec<(u64, u64)>,
    pub(crate) stats: Stats,
    pub(crate) draining: bool,
    pub(crate) reports: u16,
    /// Empty between two calls of `handle`.
    #[cfg_attr(feature = "serde", serde(skip))]
    effects: VecDeque<Effect>,
    /// Answers in the order of the questions, each with the record that must be durable first.
    pub(crate) answers: VecDeque<(u64, Answer)>,
    /// Tasks that the host has not heard of since they changed.
    pub(crate) dirty: Marks,
    /// Tasks that are `Queued`.
    pub(crate) queued: Marks,
    /// Tasks that have an attempt.
    pub(crate) busy: Marks,
    /// Tasks that have ended and whose result has not been delivered.
    pub(crate) ended: Marks,
    /// Tasks whose clock runs.
    pub(crate) going: Marks,
    /// The least of all that is due; `None` after it was taken away, until somebody asks.
    pub(crate) nearest: Option<Instant>,
    /// Tasks still to be looked at after a commit or a restart.
    backlog: u16,
    drain_at: Instant,
    pub(crate) drained_told: bool,
    checkpoint_at: Instant,
    pub(crate) store_failed: bool,
    random: u64,
}

impl Machine {
    /// An empty machine. Everything it will ever need is allocated here.
    ///
    /// # Errors
    /// When a limit is out of its range.
    pub fn new(limits: Limits, seed: u64, now: Now) -> Result<Machine, String> {
        limits.check()?;
        Ok(Machine {
            arena: Arena::new(&limits),
            ids: Ids::new(limits.ids),
            now,
            next_seq: 1,
            durable_seq: 0,
            urgent_seq: 0,
            live: 0,
            live_bytes: 0,
            recovering: 0,
            timeline: Timeline::default(),
            unclean: false,
            released: Vec::new(),
            stats: Stats::default(),
            draining: false,
            reports: 0,
            effects: VecDeque::with_capacity(EFFECTS_MAX),
            answers: VecDeque::with_capacity(ANSWERS_MAX),
            dirty: Marks::new(limits.tasks),
            queued: Marks::new(limits.tasks),
            busy: Marks::new(limits.tasks),
            ended: Marks::new(limits.tasks),
            going: Marks::new(limits.tasks),
            nearest: None,
            backlog: limits.tasks,
            drain_at: Instant::NEVER,
            drained_told: false,
            checkpoint_at: Instant::NEVER,
            store_failed: false,
            random: seed,
            limits,
        })
    }

    /// The only way in. Bounded work, no allocation. Effects must be polled before the next call.
    ///
    /// # Panics
    /// If effects of the previous call were left behind, or time ran backwards: bugs of the caller.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        assert!(self.effects.is_empty(), "effects must be drained before the next input");
        assert!(now.at >= self.now.at, "time must not run backwards");
        self.now = now;
        self.timeline.see(now);
        self.stats.inputs += 1;
        match input {
            Input::Timeout => self.fire_due(),
            Input::Submit(submit) => self.submit(&submit),
            Input::Cancel { token, key, source, any, expires_ms } => {
                self.cancel(token, key, source, any, expires_ms);
            }
            Input::Durable(seq) => {
                self.durable_seq = self.durable_seq.max(seq);
                self.backlog = 0;
            }
            Input::StoreFailed => self.store_failed = true,
            Input::Loaded(attempt, loaded) => self.loaded(attempt, loaded),
            Input::Spawned(attempt) => self.fire_attempt(attempt, Trigger::Spawned),
            Input::SpawnFailed { attempt, before_exec } => {
                self.spawn_failed(attempt, before_exec);
            }
            Input::Exited { attempt, exit, continues } => self.exited(attempt, exit, continues),
            Input::Swept(attempt) => self.fire_attempt(attempt, Trigger::Swept),
            Input::Heartbeat(attempt) => self.fire_attempt(attempt, Trigger::Heartbeat),
            Input::Extend { token, task, steps, bytes } => self.extend(token, task, steps, bytes),
            Input::Delivered(task) => self.fire_task(task, Trigger::Delivered),
            Input::Drain { until } => {
                self.draining = true;
                self.drain_at = until;
            }
        }
        self.work_backlog();
        self.admit_waiting();
        self.checkpoint();
        self.nearest = Some(self.nearest_due());
    }

    /// The earliest instant at which `handle(now, Timeout)` has something to do. May change with
    /// any call of `handle`. Zero means at once.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        if self.backlog < self.limits.tasks {
            return Instant(0);
        }
        self.nearest_due().min(self.drain_at).min(self.checkpoint_at)
    }

    /// The next thing the driver must do, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether another submission, cancel or extension can be answered; ask before handing one in.
    #[must_use]
    pub fn can_take(&self) -> bool {
        self.answers.len() < ANSWERS_MAX
    }

    /// Writes the fixed part of an `Append` into `out`; call it before the next `handle`.
    ///
    /// # Panics
    /// If `out` is shorter than [`crate::record::FIXED_BYTES_MAX`].
    pub fn encode(&self, task: u64, record: &Record, out: &mut [u8]) -> usize {
        let steps = || {
            let slot = self.slot_of(task);
            let first = slot.map_or(NONE, |slot| self.arena.tasks[slot as usize].first);
            self.arena.steps_of(first).map(|step| &self.arena.steps[step as usize])
        };
        match *record {
            Record::Accepted(_) => record.encode(self.now, steps().map(|step| step.header), out),
            Record::Extended { after, steps: count } => {
                let behind = steps().skip_while(move |step| step.index != after).skip(1);
                record.encode(self.now, behind.take(count as usize).map(|step| step.header), out)
            }
            _ => record.encode(self.now, core::iter::empty(), out),
        }
    }

    /// What is known of a live task.
    #[must_use]
    pub fn view(&self, task: TaskRef) -> Option<View> {
        let found = self.arena.tasks.get(task.slot as usize)?;
        if found.generation != task.generation || found.state == State::Free {
            return None;
        }
        let step = self.arena.steps.get(found.current as usize);
        Some(View {
            accepted_seq: found.accepted_seq,
            state: found.state,
            step: step.map_or(crate::arena::NO_STEP, |step| step.index),
            attempt: step.map_or(0, |step| step.attempts),
            outcome: found.outcome,
            flags: found.flags,
        })
    }

    /// The task that a live attempt belongs to.
    #[must_use]
    pub fn task_of_attempt(&self, attempt: AttemptRef) -> Option<TaskRef> {
        let found = self.arena.attempts.get(attempt.slot as usize)?;
        let own = found.live && found.generation == attempt.generation && found.task != NONE;
        own.then(|| self.arena.task_ref(found.task))
    }

    /// Whether the nearest deadline of the task that a live attempt belongs to has passed.
    #[must_use]
    pub fn is_late(&self, attempt: AttemptRef, at: Instant) -> bool {
        let task = self.task_of_attempt(attempt);
        task.is_some_and(|task| self.arena.due[task.slot as usize] <= at)
    }

    /// References to all live tasks, in slot order.
    pub fn tasks(&self) -> impl Iterator<Item = TaskRef> + '_ {
        let live = |slot: &u16| self.arena.tasks[*slot as usize].state != State::Free;
        (0..self.limits.tasks).filter(live).map(|slot| self.arena.task_ref(slot))
    }

    /// The live task whose acceptance has this sequence number.
    #[must_use]
    pub fn task_accepted_as(&self, seq: u64) -> Option<TaskRef> {
        self.slot_of(seq).map(|slot| self.arena.task_ref(slot))
    }

    /// How each step of a live task has ended so far, in order of execution.
    pub fn outcomes(&self, task: TaskRef) -> impl Iterator<Item = (u8, Outcome)> + '_ {
        let first = match self.view(task) {
            Some(_) => self.arena.tasks[task.slot as usize].first,
            None => NONE,
        };
        self.arena.steps_of(first).map(|slot| {
            let step = &self.arena.steps[slot as usize];
            (step.index, step.outcome)
        })
    }

    /// Where its arena lies in memory: places and bytes, for whoever wants it to stay there.
    #[must_use]
    pub fn places(&self) -> [(*const u8, usize); 4] {
        self.arena.places()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Journal bytes that live tasks hold, reserve included.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Number of live attempts; those given up as unreaped count too.
    #[must_use]
    pub fn live_attempts(&self) -> u16 {
        self.live
    }

    /// The newest wall time in ms that a record or a call vouched for; 0 when none did.
    #[must_use]
    pub fn known_wall_ms(&self) -> u64 {
        self.timeline.wall_ms()
    }

    /// Sequence number that the next record will get.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    // --- to the actions -------------------------------------------------------------------------

    /// Looks the cell up, acts, checks where that led, and keeps the books of the slot.
    pub(crate) fn fire(&mut self, slot: u16, trigger: Trigger) {
        let from = self.arena.tasks[slot as usize].state;
        match cell(from, trigger) {
            Cell::Never => self.stats.never += 1,
            Cell::Ignore => {}
            Cell::Do(action) => {
                self.act(slot, trigger, action);
                let to = self.arena.tasks[slot as usize].state;
                assert!(action.leads_to().contains(&to), "{from:?} {trigger:?} {action:?} {to:?}");
                self.settle_books(slot);
            }
        }
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        assert!(self.effects.len() < EFFECTS_MAX);
        self.effects.push_back(effect);
    }

    /// Asks for a record; returns its sequence number.
    pub(crate) fn append(
        &mut self,
        slot: u16,
        record: Record,
        attached: Attached,
        urgent: bool,
    ) -> u64 {
        let task = self.arena.tasks[slot as usize].accepted_seq;
        self.append_for(task, record, attached, urgent)
    }

    pub(crate) fn append_for(
        &mut self,
        task: u64,
        record: Record,
        attached: Attached,
        urgent: bool,
    ) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        if urgent {
            self.urgent_seq = seq;
        }
        self.effect(Effect::Append { seq, task, record, attached, urgent });
        seq
    }

    pub(crate) fn attempt_ref(&self, attempt: u16) -> AttemptRef {
        AttemptRef { slot: attempt, generation: self.arena.attempts[attempt as usize].generation }
    }

    /// A number from the seed; the same seed gives the same numbers in the same order.
    pub(crate) fn random(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014): one addition of state, full period.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn slot_of(&self, accepted_seq: u64) -> Option<u16> {
        let is = |t: &crate::arena::Task| t.state != State::Free && t.accepted_seq == accepted_seq;
        u16::try_from(self.arena.tasks.iter().position(is)?).ok()
    }

    // --- from the inputs ------------------------------------------------------------------------

    /// Queues an answer. It leaves in turn, and not before every urgent record asked for so far is
    /// durable: whoever hears it may forget the question.
    pub(crate) fn answer(&mut self, token: u64, task: Option<TaskRef>, verdict: Verdict) {
        assert!(self.answers.len() < ANSWERS_MAX, "ask can_take first");
        self.answers.push_back((self.urgent_seq, Answer { token, task, verdict }));
    }

    fn fire_task(&mut self, task: TaskRef, trigger: Trigger) {
        if self.view(task).is_some() {
            self.fire(task.slot, trigger);
        } else {
            self.stats.stale += 1;
        }
    }

    /// The task slot of a live attempt. An attempt that its task has given up is freed when its end
    /// is heard of at last; anything older is counted.
    fn task_of(&mut self, attempt: AttemptRef, last: bool) -> Option<u16> {
        let current = self.arena.attempts.get_mut(attempt.slot as usize);
        let Some(found) = current.filter(|a| a.live && a.generation == attempt.generation) else {
            self.stats.stale += 1;
            return None;
        };
        if found.task != NONE {
            return Some(found.task);
        }
        if last {
            found.free();
            self.live -= 1;
            self.effect(Effect::Discard(attempt));
        }
        None
    }

    fn fire_attempt(&mut self, attempt: AttemptRef, trigger: Trigger) {
        if let Some(slot) = self.task_of(attempt, trigger == Trigger::Swept) {
            self.fire(slot, trigger);
        }
    }

    /// Whether the table acts on a trigger; else what comes with it must leave no trace.
    fn awaits(&self, slot: u16, trigger: Trigger) -> bool {
        matches!(cell(self.arena.tasks[slot as usize].state, trigger), Cell::Do(_))
    }

    fn loaded(&mut self, attempt: AttemptRef, loaded: Loaded) {
        let Some(slot) = self.task_of(attempt, true) else {
            self.effect(Effect::Discard(attempt));
            return;
        };
        let awaited = self.awaits(slot, Trigger::LoadedStart);
        // The answer may come before the timer is served; nothing starts after the deadline.
        let over = self.arena.tasks[slot as usize].close_at <= self.now.at;
        let trigger = match loaded {
            Loaded::Start(..) if awaited && over => Trigger::CloseOver,
            Loaded::Start(executor, spec) => {
                if awaited {
                    let found = &mut self.arena.attempts[attempt.slot as usize];
                    (found.executor, found.spec) = (executor, spec);
                }
                Trigger::LoadedStart
            }
            Loaded::Skip => Trigger::LoadedSkip,
            Loaded::Refused => Trigger::LoadedRefused,
        };
        self.fire(slot, trigger);
    }

    fn spawn_failed(&mut self, attempt: AttemptRef, before_exec: bool) {
        if let Some(slot) = self.task_of(attempt, true) {
            if self.awaits(slot, Trigger::SpawnFailed) {
                self.arena.attempts[attempt.slot as usize].before_exec = before_exec;
            }
            self.fire(slot, Trigger::SpawnFailed);
        }
    }

    fn exited(&mut self, attempt: AttemptRef, exit: Exit, continues: bool) {
        let Some(slot) = self.task_of(attempt, false) else {
            self.effect(Effect::Sweep(attempt));
            return;
        };
        if self.awaits(slot, Trigger::Exited) {
            let found = &mut self.arena.attempts[attempt.slot as usize];
            found.continues = continues;
            (found.exit, found.code) = match exit {
                Exit::Code(0) => (Outcome::Succeeded, 0),
                Exit::Code(code) => (Outcome::Failed, code),
                Exit::Signal(signal) => (Outcome::Killed, signal.saturating_neg()),
                Exit::OutOfMemory => (Outcome::OutOfMemory, -9),
            };
        }
        self.fire(slot, Trigger::Exited);
    }

    /// Whether a task waits for the device to go down: that the agent must stop is how it succeeds.
    pub(crate) fn reboots(&self, slot: u16) -> bool {
        let task = &self.arena.tasks[slot as usize];
        task.state == State::Running && self.arena.steps[task.current as usize].header.reboot
    }

    fn fire_due(&mut self) {
        if self.now.at >= self.drain_at {
            self.drain_at = Instant::NEVER;
            for attempt in 0..self.limits.attempts {
                let found = self.arena.attempts[attempt as usize];
                if found.live && found.task != NONE && !self.reboots(found.task) {
                    self.fire(found.task, Trigger::Interrupt);
                }
            }
            return;
        }
        let mut budget = BATCH;
        for slot in 0..self.limits.tasks {
            if self.arena.due[slot as usize] > self.now.at {
                continue;
            }
            if budget == 0 {
                return;
            }
            budget -= 1;
            let task = &self.arena.tasks[slot as usize];
            let trigger = if task.close_at <= self.now.at {
                Trigger::CloseOver
            } else if task.phase_at <= self.now.at {
                Trigger::PhaseOver
            } else {
                Trigger::HeartbeatOver
            };
            self.fire(slot, trigger);
        }
    }

    // --- after each input -----------------------------------------------------------------------

    fn work_backlog(&mut self) {
        let mut budget = BATCH;
        while self.backlog < self.limits.tasks && budget > 0 {
            let slot = self.backlog;
            self.backlog += 1;
            let task = &self.arena.tasks[slot as usize];
            if task.state == State::Free {
                continue;
            }
            budget -= 1;
            if task.state == State::Recovering {
                self.recovering -= 1;
                self.fire(slot, Trigger::Recovered);
                continue;
            }
            let waits = matches!(task.state, State::Committing | State::Closing);
            if waits && task.awaited_seq <= self.durable_seq {
                self.fire(slot, Trigger::Durable);
            }
        }
    }

    /// Records that the agent has started; the first record of each run.
    pub(crate) fn append_opened(&mut self) {
        self.append_for(0, Record::Opened, Attached::None, true);
    }

    /// Records an orderly stop. Call it when `Drained` was heard and every effect has been
    /// performed.
    pub fn stopped(&mut self, now: Now) {
        self.now = now;
        self.append_for(0, Record::Stopped, Attached::None, true);
    }

    /// Makes the next calls judge every task that was read back.
    pub(crate) fn start_backlog(&mut self) {
        self.backlog = 0;
    }

    fn checkpoint(&mut self) {
        if self.going.is_empty() {
            self.checkpoint_at = Instant::NEVER;
        } else if self.now.at >= self.checkpoint_at {
            self.checkpoint_at = self.now.at.after_ms(u64::from(self.limits.checkpoint_ms));
            self.append_for(0, Record::Checkpoint, Attached::None, true);
        } else if self.checkpoint_at == Instant::NEVER {
            self.checkpoint_at = self.now.at.after_ms(u64::from(self.limits.checkpoint_ms));
        }
    }
}
