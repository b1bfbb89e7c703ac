//! What passes between the host and the timer thread, and the queue towards the host.
//!
//! The timer never waits for the host: it tries the lock, and leaves events in the machine, which
//! needs no memory for them, while the queue is full or taken.

use crate::plan::Report;
use limpet_core::message::{AttemptRef, Exit, StepHeader, TaskRef};
use std::os::fd::OwnedFd;

/// Events that may wait for the host before the timer keeps further ones in the machine.
pub const QUEUE_MAX: usize = 256;
/// Bytes of one event's text; what is built for the host is cut to fit.
pub const TEXT_BYTES_MAX: usize = 240 * 1024;

/// What the host asks for.
#[derive(Debug)]
pub enum Request {
    /// Accept a task: checked, with its headers derived.
    Submit(Box<Submission>),
    /// End a task.
    Cancel {
        /// Returned with the answer.
        token: u64,
        /// Identity of the task.
        key: u128,
        /// Hash of who asks.
        source: u64,
        /// Whether it may cancel the tasks of others.
        any: bool,
        /// How long a cancel that comes first is remembered, wall ms.
        expires_ms: u64,
    },
    /// Add the steps that a result asked for; none refuses them.
    Extend {
        /// Returned with the answer.
        token: u64,
        /// Which task.
        task: TaskRef,
        /// Headers of the steps.
        headers: Vec<StepHeader>,
        /// The steps as journaled.
        bytes: Vec<u8>,
    },
    /// A result has reached the broker.
    Delivered(TaskRef),
    /// The host has carried out what an attempt asked of it.
    HostDone {
        /// Which attempt.
        attempt: AttemptRef,
        /// How it went.
        exit: Exit,
        /// What went wrong, for the result.
        detail: Option<String>,
    },
    /// Tell the state of every live task.
    List,
    /// Write down what the machine was told lately.
    Record,
    /// Start nothing more; stop what runs after so many milliseconds.
    Drain {
        /// Patience in ms.
        patience_ms: u64,
    },
}

/// A task that passed every check that needs no state.
#[derive(Debug)]
pub struct Submission {
    /// Returned with the answer.
    pub token: u64,
    /// The task's id.
    pub id: String,
    /// Who sent it.
    pub source: String,
    /// Hash of the exact body.
    pub digest: u64,
    /// Wall ms until which it is accepted.
    pub expires_ms: u64,
    /// Whether an untrusted clock is good enough.
    pub clock_waived: bool,
    /// Clock of the whole; 0 is none.
    pub schedule_to_close_ms: u64,
    /// Clock of all finally steps, ms.
    pub finally_ms: u32,
    /// Higher runs first.
    pub priority: i8,
    /// What of it the host is told.
    pub report: Report,
    /// Steps that continuation may add.
    pub additions: u8,
    /// Headers of the steps.
    pub headers: Vec<StepHeader>,
    /// The plan as journaled.
    pub plan: Vec<u8>,
}

/// What the host hears.
#[derive(Debug)]
pub enum Told {
    /// The answer to a submission, a cancel or an extension.
    Answer {
        /// Whose answer.
        token: u64,
        /// The task, if it lives.
        task: u64,
        /// See `ffi`: one number per verdict.
        verdict: u32,
        /// JSON: code, detail, outcome as they apply.
        text: String,
    },
    /// A task's state has changed.
    Changed {
        /// The task.
        task: u64,
        /// JSON: id, source, state, step, attempt, outcome, sequence, progress, report.
        text: String,
    },
    /// A task is over.
    Result {
        /// The task.
        task: u64,
        /// Its history, as [`crate::history::History`] has it.
        text: String,
        /// Bytes of the first object in it.
        head: usize,
    },
    /// Work for the host.
    Work {
        /// The attempt, to be named in `HostDone`.
        attempt: u64,
        /// JSON: what to do.
        text: String,
    },
    /// A result asks for more steps.
    Continue {
        /// The task.
        task: u64,
        /// Index of the step that asked.
        step: u8,
        /// JSON: plan, extensions, next.
        text: String,
    },
    /// The uplink changed its stage.
    Link {
        /// Which connection.
        epoch: u64,
        /// Number of the stage.
        stage: u32,
        /// The host's end of the connection, with the stage `up`.
        end: Option<OwnedFd>,
        /// JSON: code, detail.
        text: String,
    },
    /// The end of a list of tasks.
    Listed,
    /// Nothing runs any more.
    Drained,
    /// What the machine was told lately is written down, or could not be.
    Recorded {
        /// JSON: file, or fault.
        text: String,
    },
    /// The driver cannot go on as it should.
    Trouble {
        /// JSON: code, detail.
        text: String,
    },
}

/// The queue towards the host; made with a capacity of [`QUEUE_MAX`].
pub type Outbound = limpet_rings::outbound::Outbound<Told>;
