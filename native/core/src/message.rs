//! The whole vocabulary of the machine: what enters it, what it asks for, what it says.

use crate::time::Instant;

/// A live task: its slot, and the generation that tells it from earlier users of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TaskRef {
    /// Slot number.
    pub slot: u16,
    /// Generation of the slot.
    pub generation: u32,
}

/// One attempt of a step, in the same form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AttemptRef {
    /// Slot number.
    pub slot: u16,
    /// Generation of the slot.
    pub generation: u32,
}

/// How a step or a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(u8)]
pub enum Outcome {
    /// Not ended yet.
    #[default]
    None = 0,
    /// Exit code 0.
    Succeeded = 1,
    /// Any other exit code, or it could not be started.
    Failed = 2,
    /// A clock ran out.
    TimedOut = 3,
    /// Somebody asked for it.
    Cancelled = 4,
    /// A memory limit was exceeded.
    OutOfMemory = 5,
    /// Ended by a signal that the agent did not send.
    Killed = 6,
    /// It may or may not have happened, and must not be repeated unasked.
    Uncertain = 7,
    /// The agent itself died too often with it in flight.
    Dead = 8,
    /// Not allowed.
    Refused = 9,
    /// Not needed, or its condition did not hold.
    Skipped = 10,
}

impl Outcome {
    /// Every outcome, in the order of its number.
    pub const ALL: [Outcome; 11] = [
        Outcome::None,
        Outcome::Succeeded,
        Outcome::Failed,
        Outcome::TimedOut,
        Outcome::Cancelled,
        Outcome::OutOfMemory,
        Outcome::Killed,
        Outcome::Uncertain,
        Outcome::Dead,
        Outcome::Refused,
        Outcome::Skipped,
    ];

    /// The outcome with a number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Outcome> {
        Outcome::ALL.get(number as usize).copied()
    }

    /// Its name in every document.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::None => "none",
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::TimedOut => "timed_out",
            Outcome::Cancelled => "cancelled",
            Outcome::OutOfMemory => "out_of_memory",
            Outcome::Killed => "killed",
            Outcome::Uncertain => "uncertain",
            Outcome::Dead => "dead",
            Outcome::Refused => "refused",
            Outcome::Skipped => "skipped",
        }
    }
}

/// Which clock ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(u8)]
pub enum Clock {
    /// None did.
    #[default]
    None = 0,
    /// From runnable to started.
    ScheduleToStart = 1,
    /// One attempt.
    StartToClose = 2,
    /// The whole task.
    ScheduleToClose = 3,
    /// The longest silence of a tool that reports.
    Heartbeat = 4,
    /// All `finally` steps together.
    Finally = 5,
}

impl Clock {
    /// Every clock, in the order of its number.
    pub const ALL: [Clock; 6] = [
        Clock::None,
        Clock::ScheduleToStart,
        Clock::StartToClose,
        Clock::ScheduleToClose,
        Clock::Heartbeat,
        Clock::Finally,
    ];

    /// The clock with a number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Clock> {
        Clock::ALL.get(number as usize).copied()
    }

    /// Its name in every document.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Clock::None => "none",
            Clock::ScheduleToStart => "schedule_to_start",
            Clock::StartToClose => "start_to_close",
            Clock::ScheduleToClose => "schedule_to_close",
            Clock::Heartbeat => "heartbeat",
            Clock::Finally => "finally",
        }
    }
}

/// The condition under which a step runs, as far as it can be told without reading results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum When {
    /// Always; or the condition needs a result and is judged when the step is loaded.
    #[default]
    Always,
    /// The outcome of the step with this index is (or is not) the given one.
    Outcome {
        /// Index of an earlier step.
        step: u8,
        /// Wanted outcome.
        outcome: Outcome,
        /// Whether it must differ instead.
        negate: bool,
    },
    /// The same for its exit code.
    ExitCode {
        /// Index of an earlier step.
        step: u8,
        /// Wanted exit code.
        code: i32,
        /// Whether it must differ instead.
        negate: bool,
    },
}

/// What the machine keeps of a step's declaration; the rest stays in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct StepHeader {
    /// Runs after the outcome of the task is fixed.
    pub finally: bool,
    /// Must not be repeated after an interruption.
    pub stop: bool,
    /// Its failure does not end the task.
    pub guarded: bool,
    /// Restarts the device; has succeeded when the boot has changed.
    pub reboot: bool,
    /// Longest wait from runnable to started, in ms; 0 is no bound.
    pub schedule_to_start_ms: u32,
    /// What each of its attempts takes from the pool, in KiB; 0 for what runs in no process.
    pub memory_kib: u32,
    /// Its condition.
    pub when: When,
}

/// A task to accept.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Submit<'a> {
    /// Returned with the answer.
    pub token: u64,
    /// Identity: 128 bits of a hash over source and id.
    pub key: u128,
    /// 64 bits of a hash over the exact body.
    pub digest: u64,
    /// Hash of who sent it.
    pub source: u64,
    /// Wall time in ms after which it is not accepted any more and its id may be forgotten.
    pub expires_ms: u64,
    /// Whether an untrusted wall clock is good enough for `expires_ms`.
    pub clock_waived: bool,
    /// Clock of the whole, in ms; 0 is none.
    pub schedule_to_close_ms: u64,
    /// Clock of all finally steps, in ms.
    pub finally_ms: u32,
    /// Higher runs first.
    pub priority: i8,
    /// Bytes of its record in the journal.
    pub bytes: u32,
    /// Steps that continuation may add.
    pub additions: u8,
    /// Main steps, then finally steps; 1 to 32.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub steps: &'a [StepHeader],
}

impl Submit<'_> {
    fn with_steps(self, steps: &[StepHeader]) -> Submit<'_> {
        Submit {
            token: self.token,
            key: self.key,
            digest: self.digest,
            source: self.source,
            expires_ms: self.expires_ms,
            clock_waived: self.clock_waived,
            schedule_to_close_ms: self.schedule_to_close_ms,
            finally_ms: self.finally_ms,
            priority: self.priority,
            bytes: self.bytes,
            additions: self.additions,
            steps,
        }
    }
}

/// The clocks and retry rule of one attempt, read from the journal with its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Spec {
    /// Clock of the attempt, in ms; at least 1.
    pub start_to_close_ms: u32,
    /// Longest silence, in ms; 0 is no bound.
    pub heartbeat_ms: u32,
    /// From SIGTERM to SIGKILL, in ms.
    pub grace_ms: u32,
    /// Attempts in all; at least 1.
    pub maximum_attempts: u8,
    /// Only failures before the program ran are retried.
    pub before_exec_only: bool,
    /// Delay before the second attempt, in ms.
    pub initial_interval_ms: u32,
    /// Factor from one delay to the next, in thousandths; at least 1000.
    pub backoff_milli: u32,
    /// Longest delay, in ms.
    pub maximum_interval_ms: u32,
    /// Largest random part taken off a delay, in thousandths of it; at most 1000.
    pub jitter_milli: u32,
}

/// Who carries an attempt out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Executor {
    /// A process, started by the driver.
    Process,
    /// The machine's own timer; the attempt succeeds after this many ms.
    Timer(u32),
    /// The host (publish, reboot), which answers with `Exited`.
    Host,
}

/// What reading a step found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Loaded {
    /// It may start.
    Start(Executor, Spec),
    /// Its condition does not hold.
    Skip,
    /// It is not allowed, or its references lead nowhere.
    Refused,
}

/// How an attempt's work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// By the memory limit.
    OutOfMemory,
}

/// What enters the machine.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Input<'a> {
    /// Time has passed.
    Timeout,
    /// A task to accept.
    Submit(Submit<'a>),
    /// A task to end, by its identity.
    Cancel {
        /// Returned with the answer.
        token: u64,
        /// Identity of the task.
        key: u128,
        /// Hash of who asks.
        source: u64,
        /// Whether policy lets this source cancel the tasks of others.
        any: bool,
        /// How long a cancel that arrives before its task is remembered, wall ms.
        expires_ms: u64,
    },
    /// All records up to this sequence number are on disk.
    Durable(u64),
    /// The journal can not be written any more.
    StoreFailed,
    /// A step was read.
    Loaded(AttemptRef, Loaded),
    /// A process runs.
    Spawned(AttemptRef),
    /// No process runs.
    SpawnFailed {
        /// Which attempt.
        attempt: AttemptRef,
        /// Whether the program certainly did not run.
        before_exec: bool,
    },
    /// The work of an attempt has ended.
    Exited {
        /// Which attempt.
        attempt: AttemptRef,
        /// How.
        exit: Exit,
        /// Whether its result asks for more steps.
        continues: bool,
    },
    /// All descendants of an attempt are gone.
    Swept(AttemptRef),
    /// An attempt reported that it lives.
    Heartbeat(AttemptRef),
    /// Steps that a result asked for.
    Extend {
        /// Returned with the answer.
        token: u64,
        /// Which task.
        task: TaskRef,
        /// The steps; none if they were refused by the host.
        #[cfg_attr(feature = "serde", serde(skip))]
        steps: &'a [StepHeader],
        /// Bytes of the record.
        bytes: u32,
    },
    /// The result of a task has reached the broker.
    Delivered(TaskRef),
    /// Start nothing more; at the given instant, stop what still runs.
    Drain {
        /// When patience ends.
        until: Instant,
    },
}

impl<'a> Input<'a> {
    /// The steps it brings; mostly none.
    #[must_use]
    pub fn steps(&self) -> &'a [StepHeader] {
        match *self {
            Input::Submit(Submit { steps, .. }) | Input::Extend { steps, .. } => steps,
            _ => &[],
        }
    }

    /// The same with other steps, which may live longer or less long.
    #[must_use]
    pub fn with_steps<'b>(&self, steps: &'b [StepHeader]) -> Input<'b> {
        match *self {
            Input::Submit(submit) => Input::Submit(submit.with_steps(steps)),
            Input::Extend { token, task, bytes, .. } => Input::Extend { token, task, steps, bytes },
            Input::Timeout => Input::Timeout,
            Input::Cancel { token, key, source, any, expires_ms } => {
                Input::Cancel { token, key, source, any, expires_ms }
            }
            Input::Durable(seq) => Input::Durable(seq),
            Input::StoreFailed => Input::StoreFailed,
            Input::Loaded(attempt, loaded) => Input::Loaded(attempt, loaded),
            Input::Spawned(attempt) => Input::Spawned(attempt),
            Input::SpawnFailed { attempt, before_exec } => {
                Input::SpawnFailed { attempt, before_exec }
            }
            Input::Exited { attempt, exit, continues } => {
                Input::Exited { attempt, exit, continues }
            }
            Input::Swept(attempt) => Input::Swept(attempt),
            Input::Heartbeat(attempt) => Input::Heartbeat(attempt),
            Input::Delivered(task) => Input::Delivered(task),
            Input::Drain { until } => Input::Drain { until },
        }
    }
}

/// What is attached to a record by the driver, which holds the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attached {
    /// Nothing.
    None,
    /// The body of the submission being handled.
    Plan,
    /// The steps of the extension being handled.
    Extension,
    /// What an attempt left behind: result, output, usage.
    Attempt(AttemptRef),
}

/// A signal of the stop ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// SIGTERM, then SIGCONT so that a stopped process can act on it.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// What the machine asks the driver to do. To be performed in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Write a record. Its bytes come from `Machine::encode`, at once.
    Append {
        /// Its sequence number.
        seq: u64,
        /// Sequence number of the task's acceptance; 0 when it concerns none.
        task: u64,
        /// What it says.
        record: crate::record::Record,
        /// What the driver adds.
        attached: Attached,
        /// Whether somebody waits for it to be durable; else it may travel with a later commit.
        urgent: bool,
    },
    /// Read a step and what it refers to; answer with `Loaded`.
    Load {
        /// For which attempt.
        attempt: AttemptRef,
        /// Acceptance of its task.
        task: u64,
        /// Index of the step.
        step: u8,
    },
    /// Start what was loaded; answer with `Spawned` or `SpawnFailed` (a process), or `Exited`
    /// (host).
    Start {
        /// Which attempt.
        attempt: AttemptRef,
        /// Acceptance of its task.
        task: u64,
        /// Index of the step.
        step: u8,
        /// Which try, from 1.
        number: u8,
        /// Who carries it out.
        host: bool,
    },
    /// Signal every process of an attempt.
    Signal {
        /// Which attempt.
        attempt: AttemptRef,
        /// What to send.
        signal: Signal,
        /// When the clock ran out that asks for it; none for a cancel or a drain.
        due: Option<Instant>,
    },
    /// Kill what is left of an attempt; answer with `Swept`.
    Sweep(AttemptRef),
    /// Forget what is held for an attempt.
    Discard(AttemptRef),
    /// Records of this task before the given sequence number are not needed any more.
    Release {
        /// Acceptance of the task.
        task: u64,
        /// First record to keep.
        keep_from: u64,
    },
}

/// The answer to a submission, a cancel or an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Answer {
    /// Whose answer it is.
    pub token: u64,
    /// The task, if it lives.
    pub task: Option<TaskRef>,
    /// What was decided.
    pub verdict: Verdict,
}

/// What was decided about a submission, a cancel or an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Verdict {
    /// Durable; it will reach one outcome.
    Accepted,
    /// The same task is known: it lives.
    Alive,
    /// The same task is known: it has ended so.
    Ended(Outcome),
    /// Not accepted, and nothing was kept.
    Refused(Reason),
    /// A cancel was taken up.
    Cancelling,
    /// A cancel came before its task and will be remembered.
    Remembered,
}

/// Why the machine refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Reason {
    /// All task slots are taken.
    BusyTasks,
    /// The step pool is full.
    BusySteps,
    /// No room in the journal.
    BusyBytes,
    /// No room to remember another id.
    BusyIds,
    /// The id is known with another body.
    IdConflict,
    /// `expires_at` has passed.
    Expired,
    /// The wall clock cannot be trusted, so expiry cannot be judged.
    ClockUntrusted,
    /// A cancel for this id came first.
    CancelledBefore,
    /// The agent is stopping.
    Draining,
    /// The journal cannot be written.
    StoreFailed,
    /// Only its source or an operator may do that.
    NotOwner,
    /// No task waits for this.
    NotWaiting,
    /// Outside the bounds of the format.
    Invalid,
}

impl Reason {
    /// Its stable code in documents.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Reason::BusyTasks => "busy_tasks",
            Reason::BusySteps => "busy_steps",
            Reason::BusyBytes => "busy_bytes",
            Reason::BusyIds => "busy_ids",
            Reason::IdConflict => "id_conflict",
            Reason::Expired => "expired",
            Reason::ClockUntrusted => "clock_untrusted",
            Reason::CancelledBefore => "cancelled_before",
            Reason::Draining => "draining",
            Reason::StoreFailed => "store_failed",
            Reason::NotOwner => "not_owner",
            Reason::NotWaiting => "not_waiting",
            Reason::Invalid => "invalid",
        }
    }
}

/// What the host must hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The answer to one of its items.
    Answer(Answer),
    /// Something about a task has changed; read its state with `Machine::view`.
    Changed(TaskRef),
    /// A step's result asks for more steps; answer with `Extend`.
    Continue {
        /// Which task.
        task: TaskRef,
        /// Index of the step that asked.
        step: u8,
    },
    /// A task is over; its history is in the journal. Answer with `Delivered`.
    Result(TaskRef),
    /// Nothing runs any more and nothing will start.
    Drained,
}
