//! Every bound of the machine, validated once, and the bytes that follow from it.

use crate::arena::{Attempt, Step, Task};
use crate::ids::Entry;
use crate::message::{Answer, Effect};
use core::mem::size_of;

/// Ceilings that no configuration exceeds; the arena's size is promised for these.
pub const TASKS_MAX: u16 = 1024;
/// Steps of all live tasks together.
pub const STEPS_MAX: u16 = 4096;
/// Steps of one task, continuation included.
pub const TASK_STEPS_MAX: u8 = 32;
/// Attempts that run at once.
pub const ATTEMPTS_MAX: u16 = 64;
/// Task ids remembered at once, live ones included.
pub const IDS_MAX: u16 = 4096;
/// Bytes that the arena may take at the ceilings.
pub const ARENA_BYTES_MAX: usize = 512 * 1024;
/// Answers to the host that may wait; the driver submits nothing while this many are pending.
pub const ANSWERS_MAX: usize = 128;
/// Tasks looked at in one call while a backlog is worked off, so that one call stays short.
pub const BATCH: usize = 32;
/// Effects of one call: a batch in which each task ends, records and starts, and a full admission.
pub const EFFECTS_MAX: usize = BATCH * 6 + ATTEMPTS_MAX as usize * 3;

/// The configured bounds of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Limits {
    /// Live tasks, 1 to [`TASKS_MAX`].
    pub tasks: u16,
    /// Steps of all live tasks, 1 to [`STEPS_MAX`].
    pub steps: u16,
    /// Attempts at once, 1 to [`ATTEMPTS_MAX`].
    pub attempts: u16,
    /// Remembered ids, `tasks` to [`IDS_MAX`].
    pub ids: u16,
    /// Journal bytes that live tasks may hold, reserve for their ends included: two ends to 4 GiB.
    pub live_bytes: u64,
    /// Journal bytes reserved for the end of each step, 1 to 256 KiB.
    pub ended_bytes: u32,
    /// Results handed to the host and not yet delivered; further ones wait in the journal.
    pub reports: u16,
    /// Unclean exits with one attempt in flight after which its task is `dead`.
    pub suspicions: u8,
    /// How long a process may survive SIGKILL before its attempt is given up as `unreaped`.
    pub reap_ms: u32,
    /// How often a record of the time is written while a task lives.
    pub checkpoint_ms: u32,
    /// Memory that all attempts together may have, in KiB; at least 1.
    pub pool_kib: u32,
    /// How long a step waits for memory before those behind it leave it what becomes free.
    pub patience_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            tasks: TASKS_MAX,
            steps: STEPS_MAX,
            attempts: 16,
            ids: IDS_MAX,
            live_bytes: 8 * 1024 * 1024,
            ended_bytes: 8 * 1024,
            reports: 32,
            suspicions: 3,
            reap_ms: 10_000,
            checkpoint_ms: 60_000,
            pool_kib: u32::MAX,
            patience_ms: 5_000,
        }
    }
}

/// One term of the arena's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// What is counted.
    pub name: &'static str,
    /// How many.
    pub count: usize,
    /// Bytes of one.
    pub bytes: usize,
    /// Why this many.
    pub reason: &'static str,
}

impl Limits {
    /// Whether every bound is within its ceiling; the error names the first that is not.
    ///
    /// # Errors
    /// A sentence with the bound and its range.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("tasks", u64::from(self.tasks), 1, u64::from(TASKS_MAX)),
            ("steps", u64::from(self.steps), 1, u64::from(STEPS_MAX)),
            ("attempts", u64::from(self.attempts), 1, u64::from(ATTEMPTS_MAX)),
            ("ids", u64::from(self.ids), u64::from(self.tasks), u64::from(IDS_MAX)),
            ("live_bytes", self.live_bytes, u64::from(self.ended_bytes) * 2, u64::from(u32::MAX)),
            ("ended_bytes", u64::from(self.ended_bytes), 1024, 256 * 1024),
            ("reports", u64::from(self.reports), 1, 64),
            ("suspicions", u64::from(self.suspicions), 1, 100),
            ("reap_ms", u64::from(self.reap_ms), 1, 600_000),
            ("checkpoint_ms", u64::from(self.checkpoint_ms), 1_000, 3_600_000),
            ("pool_kib", u64::from(self.pool_kib), 1, u64::from(u32::MAX)),
            ("patience_ms", u64::from(self.patience_ms), 1, 600_000),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(format!("cannot use limit {name} = {value}: not {low} to {high}"));
            }
        }
        Ok(())
    }

    /// The arena as a sum with a reason for each term.
    #[must_use]
    pub fn arithmetic(&self) -> [Term; 7] {
        let term = |name, count, bytes, reason| Term { name, count, bytes, reason };
        [
            term("tasks", self.tasks as usize, size_of::<Task>(), "one slot per live task"),
            term("due", self.tasks as usize, 8, "earliest deadline of each, scanned at every call"),
            term("steps", self.steps as usize, size_of::<Step>(), "one pool for all live tasks"),
            term("attempts", self.attempts as usize, size_of::<Attempt>(), "one per live process"),
            term("ids", self.ids as usize, size_of::<Entry>(), "an id is kept until it expires"),
            term("effects", EFFECTS_MAX, size_of::<Effect>(), "the most that one call can ask for"),
            term("answers", ANSWERS_MAX, size_of::<(u64, Answer)>(), "one per question under way"),
        ]
    }

    /// Bytes of the arena: the sum of [`Limits::arithmetic`].
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        self.arithmetic().iter().map(|term| term.count * term.bytes).sum()
    }
}
