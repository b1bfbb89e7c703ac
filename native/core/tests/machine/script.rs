//! The notation of the scripts. Each input is a method; what the machine asks and says in reply
//! comes back as one line of text, in order, so that an expectation is complete by being equal.
//!
//! ```text
//! a started 0.1!        a record of a: step 0, attempt 1; `!` is urgent, `+` has an attachment
//! a load 0, a start 0.1 effects; also TERM, KILL, sweep, discard, release
//! #1 accepted           the answer to the first question
//! a is running          something about a has changed, and so it stands
//! ```
//!
//! A task is a letter. Time is in milliseconds since the script began.

use limpet_core::message::{
    Answer, Attached, AttemptRef, Clock, Effect, Event, Executor, Exit, Input, Loaded, Outcome,
    Signal, Spec, StepHeader, Submit, TaskRef, Verdict, When,
};
use limpet_core::record::{FIXED_BYTES_MAX, Record};
use limpet_core::table::State;
use limpet_core::{Instant, Limits, Machine, Now};
use std::collections::BTreeMap;

pub const MS: u64 = 1_000_000;
pub const WALL_MS: u64 = 1_790_000_000_000;
pub const START: Instant = Instant(1_000_000 * MS);

pub const RERUN: StepHeader = StepHeader {
    finally: false,
    stop: false,
    guarded: false,
    reboot: false,
    schedule_to_start_ms: 0,
    memory_kib: 0,
    when: When::Always,
};
pub const STOP: StepHeader = StepHeader { stop: true, ..RERUN };
pub const REBOOT: StepHeader = StepHeader { reboot: true, ..STOP };
pub const FINALLY: StepHeader = StepHeader { finally: true, ..RERUN };

/// One attempt of ten seconds, half a second of grace.
pub const SPEC: Spec = Spec {
    start_to_close_ms: 10_000,
    heartbeat_ms: 0,
    grace_ms: 500,
    maximum_attempts: 1,
    before_exec_only: false,
    initial_interval_ms: 1_000,
    backoff_milli: 2_000,
    maximum_interval_ms: 60_000,
    jitter_milli: 0,
};

pub fn limits() -> Limits {
    // Checkpoints would be one more deadline in every script; they have tests of their own.
    Limits {
        tasks: 4,
        steps: 64,
        attempts: 2,
        ids: 8,
        checkpoint_ms: 3_600_000,
        ..Limits::default()
    }
}

/// A task to submit.
#[derive(Clone)]
pub struct Plan {
    pub name: char,
    pub steps: Vec<StepHeader>,
    pub digest: u64,
    pub source: u64,
    pub expires_ms: u64,
    pub waived: bool,
    pub close_ms: u64,
    pub priority: i8,
    pub additions: u8,
    pub bytes: u32,
}

/// Expires after a day, has no clock of its own, cleans up within a minute.
pub fn plan(name: char, steps: &[StepHeader]) -> Plan {
    Plan {
        name,
        steps: steps.to_vec(),
        digest: 1,
        source: 1,
        expires_ms: WALL_MS + 86_400_000,
        waived: false,
        close_ms: 0,
        priority: 0,
        additions: 0,
        bytes: 100,
    }
}

/// A record as it lies on the disk.
#[derive(Clone)]
pub struct Stored {
    pub seq: u64,
    pub task: u64,
    pub record: Record,
    pub bytes: Vec<u8>,
}

pub struct Script {
    pub machine: Machine,
    pub now: Now,
    pub limits: Limits,
    pub spec: Spec,
    pub executor: Executor,
    pub disk: Vec<Stored>,
    pub released: Vec<(u64, u64)>,
    pub urgent: u64,
    /// How often something was said that cannot be.
    pub never: u64,
    /// The deadline behind the last signal.
    pub signalled_for: Option<Instant>,
    names: BTreeMap<u64, char>,
    attempts: BTreeMap<(u16, u32), char>,
    token: u64,
}

impl Script {
    pub fn new() -> Script {
        Script::with(limits(), 1)
    }

    /// An agent that has just started with an empty journal.
    pub fn with(limits: Limits, seed: u64) -> Script {
        let mut script = Script::closed(limits, seed);
        assert_eq!(script.recover(), "* opened!");
        assert_eq!(script.sync(), "");
        script
    }

    fn closed(limits: Limits, seed: u64) -> Script {
        let now = Now { at: START, wall_ms: WALL_MS, trusted: true, boot: 1 };
        Script {
            machine: Machine::new(limits, seed, now).expect("limits are in range"),
            now,
            limits,
            spec: SPEC,
            executor: Executor::Process,
            disk: Vec::new(),
            released: Vec::new(),
            urgent: 0,
            never: 0,
            signalled_for: None,
            names: BTreeMap::new(),
            attempts: BTreeMap::new(),
            token: 0,
        }
    }

    // --- inputs ---------------------------------------------------------------------------------

    pub fn feed(&mut self, input: Input<'_>) -> String {
        self.machine.handle(self.now, input);
        self.collect()
    }

    pub fn collect(&mut self) -> String {
        let mut said = Vec::new();
        while let Some(effect) = self.machine.poll_effect() {
            said.push(self.perform(effect));
        }
        while let Some(event) = self.machine.poll_event() {
            said.push(self.hear(event));
        }
        let never = self.machine.stats().never;
        assert_eq!(never, self.never, "a cell that cannot happen happened: {said:?}");
        said.join("; ")
    }

    pub fn submit(&mut self, plan: &Plan) -> String {
        self.ask(plan);
        self.collect()
    }

    /// Hands a task in and does not listen.
    pub fn ask(&mut self, plan: &Plan) {
        self.token += 1;
        self.names.insert(self.machine.next_seq(), plan.name);
        let submit = Submit {
            token: self.token,
            key: plan.name as u128,
            digest: plan.digest,
            source: plan.source,
            expires_ms: plan.expires_ms,
            clock_waived: plan.waived,
            schedule_to_close_ms: plan.close_ms,
            finally_ms: 60_000,
            priority: plan.priority,
            bytes: plan.bytes,
            additions: plan.additions,
            steps: &plan.steps,
        };
        self.machine.handle(self.now, Input::Submit(submit));
    }

    pub fn cancel(&mut self, name: char) -> String {
        self.cancel_as(name, 1, false, WALL_MS + 86_400_000)
    }

    pub fn cancel_as(&mut self, name: char, source: u64, any: bool, expires_ms: u64) -> String {
        self.token += 1;
        self.names.insert(self.machine.next_seq(), name);
        let (token, key) = (self.token, name as u128);
        self.feed(Input::Cancel { token, key, source, any, expires_ms })
    }

    pub fn extend(&mut self, name: char, steps: &[StepHeader]) -> String {
        self.token += 1;
        let (token, task) = (self.token, self.task(name));
        self.feed(Input::Extend { token, task, steps, bytes: 10 })
    }

    /// Everything that was asked for so far is on disk now.
    pub fn sync(&mut self) -> String {
        self.feed(Input::Durable(self.machine.next_seq() - 1))
    }

    pub fn loaded(&mut self, name: char) -> String {
        let start = Loaded::Start(self.executor, self.spec);
        self.feed(Input::Loaded(self.attempt(name), start))
    }

    pub fn spawned(&mut self, name: char) -> String {
        self.feed(Input::Spawned(self.attempt(name)))
    }

    pub fn spawn_failed(&mut self, name: char, before_exec: bool) -> String {
        self.feed(Input::SpawnFailed { attempt: self.attempt(name), before_exec })
    }

    pub fn exited(&mut self, name: char, exit: Exit) -> String {
        self.feed(Input::Exited { attempt: self.attempt(name), exit, continues: false })
    }

    pub fn swept(&mut self, name: char) -> String {
        self.feed(Input::Swept(self.attempt(name)))
    }

    pub fn beat(&mut self, name: char) -> String {
        self.feed(Input::Heartbeat(self.attempt(name)))
    }

    pub fn delivered(&mut self, name: char) -> String {
        self.feed(Input::Delivered(self.task(name)))
    }

    pub fn drain(&mut self, until_ms: u64) -> String {
        self.feed(Input::Drain { until: START.after_ms(until_ms) })
    }

    // --- time -----------------------------------------------------------------------------------

    /// Moves the clocks without a word.
    pub fn set(&mut self, ms: u64) {
        let at = START.after_ms(ms);
        self.now.wall_ms += at.ms_since(self.now.at);
        self.now.at = at;
    }

    /// Nothing is due before this instant, to the nanosecond; then time passes and it is.
    pub fn due(&mut self, ms: u64) -> String {
        assert_eq!(self.next_ms(), Some(ms), "the next deadline");
        self.set(ms);
        let at = self.now.at;
        self.now.at = Instant(at.0 - 1);
        assert_eq!(self.feed(Input::Timeout), "", "a nanosecond early");
        self.now.at = at;
        self.feed(Input::Timeout)
    }

    /// The next deadline in whole milliseconds; none when there is none.
    pub fn next_ms(&self) -> Option<u64> {
        let next = self.machine.next_deadline();
        if next == Instant::NEVER {
            return None;
        }
        assert_eq!(next.0.saturating_sub(START.0) % MS, 0);
        Some(next.ms_since(START))
    }

    // --- shortcuts ------------------------------------------------------------------------------

    /// Answers whatever the task waits for until it is in the given state.
    pub fn until(&mut self, name: char, state: State) {
        for _ in 0..200 {
            match self.state(name) {
                now if now == state => return,
                State::Committing | State::Closing => self.sync(),
                State::Loading => self.loaded(name),
                State::Starting => self.spawned(name),
                State::Running => self.exited(name, Exit::Code(0)),
                State::Sweeping => self.swept(name),
                other => panic!("{name} waits {other:?}"),
            };
        }
        panic!("{name} never came to be {state:?}");
    }

    /// From its start to its end, the program exits so; returns what the end brought.
    pub fn run(&mut self, name: char, exit: Exit) -> String {
        self.until(name, State::Running);
        self.exited(name, exit);
        self.swept(name)
    }

    /// Answers whatever a task waits for, waits where it waits for time, and refuses further steps,
    /// until its result was told; returns all that was said on the way.
    pub fn finish(&mut self, name: char) -> String {
        let mut said = String::new();
        for _ in 0..200 {
            said += "; ";
            said += &match self.state(name) {
                State::Reporting => return said,
                State::Committing | State::Closing => self.sync(),
                State::Loading => self.loaded(name),
                State::Starting => self.spawned(name),
                State::Running | State::Stopping | State::Killing => {
                    self.exited(name, Exit::Code(0))
                }
                State::Sweeping => self.swept(name),
                State::Planning => self.extend(name, &[]),
                State::Queued | State::Backoff | State::Recovering => {
                    self.set(self.next_ms().expect("time helps"));
                    self.feed(Input::Timeout)
                }
                other => panic!("{name} waits {other:?}: {said}"),
            };
        }
        panic!("{name} does not end: {said}");
    }

    /// The outcome of a task that goes on undisturbed.
    pub fn outcome(&mut self, name: char) -> Outcome {
        self.until(name, State::Reporting);
        self.machine.view(self.task(name)).expect("it lives").outcome
    }

    /// How the steps of a live task ended, in order of execution: `0 succeeded, 1 skipped`.
    pub fn steps(&self, name: char) -> String {
        let steps = self.machine.outcomes(self.task(name));
        let text: Vec<_> = steps.map(|(index, how)| format!("{index} {}", how.name())).collect();
        text.join(", ")
    }

    // --- names ----------------------------------------------------------------------------------

    pub fn find(&self, name: char) -> Option<TaskRef> {
        let named = |task: &TaskRef| {
            let seq = self.machine.view(*task).map_or(0, |view| view.accepted_seq);
            self.names.get(&seq) == Some(&name)
        };
        self.machine.tasks().find(named)
    }

    pub fn task(&self, name: char) -> TaskRef {
        self.find(name).expect("the task lives")
    }

    pub fn state(&self, name: char) -> State {
        self.find(name)
            .and_then(|task| self.machine.view(task))
            .map_or(State::Free, |view| view.state)
    }

    pub fn attempt(&self, name: char) -> AttemptRef {
        let task = self.find(name);
        let of = |(slot, generation): &(u16, u32)| {
            let attempt = AttemptRef { slot: *slot, generation: *generation };
            (task.is_some() && self.machine.task_of_attempt(attempt) == task).then_some(attempt)
        };
        self.attempts.keys().find_map(of).expect("it has a loaded attempt")
    }

    /// Sequence number of the acceptance of a live task.
    pub fn accepted(&self, name: char) -> u64 {
        self.machine.view(self.task(name)).expect("it lives").accepted_seq
    }

    /// The same machine after a restart that finds these records; the power went, if `power`.
    pub fn restarted(&self, disk: &[Stored], power: bool) -> Script {
        let mut next = Script::closed(self.limits, 2);
        (next.now, next.spec, next.executor) = (self.now, self.spec, self.executor);
        next.disk = disk.to_vec();
        next.names = self.names.clone();
        if power {
            (next.now.at, next.now.boot) = (START, self.now.boot + 1);
        }
        next
    }

    /// Reads its records, judges every task, and says what that brought.
    pub fn recover(&mut self) -> String {
        for stored in self.disk.clone() {
            let kind = stored.record.kind();
            let read = self.machine.replay(stored.seq, stored.task, kind, &stored.bytes);
            read.expect("what was written can be read");
        }
        self.machine.recovered(self.now);
        let opened = self.collect();
        format!("{opened}; {}", self.feed(Input::Timeout)).trim_end_matches("; ").to_owned()
    }

    /// A restart that finds all records.
    pub fn restart(&self, power: bool) -> (Script, String) {
        let mut next = self.restarted(&self.disk, power);
        let said = next.recover();
        (next, said)
    }

    // --- the notation ---------------------------------------------------------------------------

    fn name(&self, accepted_seq: u64) -> char {
        if accepted_seq == 0 { '*' } else { self.names[&accepted_seq] }
    }

    fn name_of(&self, attempt: AttemptRef) -> char {
        self.attempts.get(&(attempt.slot, attempt.generation)).copied().unwrap_or_else(|| {
            let task = self.machine.task_of_attempt(attempt).and_then(|t| self.machine.view(t));
            task.map_or('?', |view| self.name(view.accepted_seq))
        })
    }

    fn perform(&mut self, effect: Effect) -> String {
        match effect {
            Effect::Append { seq, task, record, attached, urgent } => {
                let mut bytes = vec![0; FIXED_BYTES_MAX];
                let used = self.machine.encode(task, &record, &mut bytes);
                bytes.truncate(used);
                if attached != Attached::None {
                    bytes.extend_from_slice(b"0123456789");
                }
                self.disk.push(Stored { seq, task, record, bytes });
                if urgent {
                    self.urgent = seq;
                }
                let plus = if attached == Attached::None { "" } else { "+" };
                let mark = if urgent { "!" } else { "" };
                format!("{} {}{plus}{mark}", self.name(task), describe(&record))
            }
            Effect::Load { attempt, task, step } => {
                let name = self.name(task);
                self.attempts.insert((attempt.slot, attempt.generation), name);
                format!("{name} load {step}")
            }
            Effect::Start { task, step, number, host, .. } => {
                let host = if host { " by host" } else { "" };
                format!("{} start {step}.{number}{host}", self.name(task))
            }
            Effect::Signal { attempt, signal, due } => {
                self.signalled_for = due;
                let signal = if signal == Signal::Terminate { "TERM" } else { "KILL" };
                format!("{} {signal}", self.name_of(attempt))
            }
            Effect::Sweep(attempt) => format!("{} sweep", self.name_of(attempt)),
            Effect::Discard(attempt) => match self.name_of(attempt) {
                // An attempt that was never loaded leaves nothing that could be named.
                '?' => "discard".to_owned(),
                name => format!("{name} discard"),
            },
            Effect::Release { task, keep_from } => {
                self.released.push((task, keep_from));
                let all = if keep_from == u64::MAX { " all" } else { "" };
                format!("{} release{all}", self.name(task))
            }
        }
    }

    fn hear(&mut self, event: Event) -> String {
        let name = |task: TaskRef| self.name(self.machine.view(task).expect("live").accepted_seq);
        match event {
            Event::Answer(Answer { token, verdict, .. }) => {
                format!("#{token} {}", describe_verdict(verdict))
            }
            Event::Changed(task) => {
                let state = self.machine.view(task).expect("live").state;
                format!("{} is {}", name(task), state.name())
            }
            Event::Continue { task, step } => format!("{} continues behind {step}", name(task)),
            Event::Result(task) => {
                let outcome = self.machine.view(task).expect("live").outcome;
                format!("{} result {}", name(task), outcome.name())
            }
            Event::Drained => "drained".to_owned(),
        }
    }
}

fn describe(record: &Record) -> String {
    match *record {
        Record::Opened => "opened".to_owned(),
        Record::Stopped => "stopped".to_owned(),
        Record::Checkpoint => "checkpoint".to_owned(),
        Record::Accepted(_) => "accepted".to_owned(),
        Record::Started { step, attempt, suspicions: 0 } => format!("started {step}.{attempt}"),
        Record::Started { step, attempt, suspicions } => {
            format!("started {step}.{attempt} suspect {suspicions}")
        }
        Record::Tried { step, attempt, outcome } => {
            format!("tried {step}.{attempt} {}", outcome.name())
        }
        Record::Interrupted { step } => format!("interrupted {step}"),
        Record::Ended { step, attempt, outcome, clock, code, continues, unreaped } => {
            let mut text = format!("ended {step}.{attempt} {}", outcome.name());
            if clock != Clock::None {
                text += &format!(" by {}", clock.name());
            }
            if code != 0 {
                text += &format!(" code {code}");
            }
            text + if continues { " continues" } else { "" }
                + if unreaped { " unreaped" } else { "" }
        }
        Record::Extended { after, steps } => format!("extended {after} by {steps}"),
        Record::CancelRequested => "cancel requested".to_owned(),
        Record::Decided { outcome, step, clock } => {
            let at = if step == u8::MAX { String::new() } else { format!(" at {step}") };
            let by =
                if clock == Clock::None { String::new() } else { format!(" by {}", clock.name()) };
            format!("decided {}{at}{by}", outcome.name())
        }
        Record::Finished => "finished".to_owned(),
        Record::Delivered { outcome, .. } => format!("delivered {}", outcome.name()),
        Record::Tombstone { .. } => "tombstone".to_owned(),
    }
}

fn describe_verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Accepted => "accepted".to_owned(),
        Verdict::Alive => "alive".to_owned(),
        Verdict::Ended(outcome) => format!("ended {}", outcome.name()),
        Verdict::Refused(reason) => format!("refused {}", reason.code()),
        Verdict::Cancelling => "cancelling".to_owned(),
        Verdict::Remembered => "remembered".to_owned(),
    }
}
