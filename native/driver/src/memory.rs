//! What the sampler finds out about live attempts, and where the other threads meet it: the board
//! lists who is to be looked at, each attempt's watch holds what was found, rows are for the host.
//!
//! Nobody waits here: each lock is held for a copy only, and the timer reads watches without one.

use crate::containment::{Footprint, Scope};
use crate::names::pack_attempt;
use limpet_core::message::AttemptRef;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long after the host has asked for rows they are renewed.
const ASKED_FOR: Duration = Duration::from_secs(5);
/// Between two looks at an attempt that the kernel keeps: only the name of its largest process is
/// wanted, should it be killed.
pub(crate) const KEPT_PAUSE: Duration = Duration::from_millis(250);
/// Such a one is looked at first when it is between one and two of these old: most are over before.
const KEPT_FIRST: Duration = Duration::from_millis(125);
/// Most rows at once: with at most 450 bytes each they fit the host's buffer.
const ROWS_MAX: usize = 1024;

/// An attempt that runs a process.
#[derive(Debug)]
pub struct Subject {
    /// Its name in the machine.
    pub attempt: AttemptRef,
    /// Sequence number of its task's acceptance.
    pub task: u64,
    /// Index of its step.
    pub step: u8,
    /// Name of its step.
    pub name: String,
    /// Which try.
    pub number: u32,
    /// Name of its task's directory: the source (`+` for `.`), a point, the id.
    pub directory: String,
    /// What its processes are told by.
    pub scope: Scope,
    /// Its memory in bytes, if it has a limit.
    pub limit_bytes: Option<u64>,
    /// Whether nothing but the sampler keeps that.
    pub sampled: bool,
    /// Bytes of private writable memory that the kernel lets each of its processes have.
    pub backstop_bytes: Option<u64>,
    /// What is found out about it.
    pub watch: Arc<Watch>,
}

/// What was found out about the memory of one attempt. Written by the sampler, read by the timer.
#[derive(Debug, Default)]
pub struct Watch {
    excess: OnceLock<Excess>,
    starved: OnceLock<Footprint>,
    peak_bytes: AtomicU64,
    largest: Mutex<Option<Footprint>>,
}

/// An attempt that had more than its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excess {
    /// What its processes had together.
    pub bytes: u64,
    /// The largest of them.
    pub largest: Footprint,
}

impl Watch {
    /// Set before the first of its processes is killed for it, so that whoever sees one of them
    /// end finds it.
    #[must_use]
    pub fn excess(&self) -> Option<&Excess> {
        self.excess.get()
    }

    /// A process that came so near to its backstop that an allocation may have been refused to it.
    #[must_use]
    pub fn starved(&self) -> Option<&Footprint> {
        self.starved.get()
    }

    /// The most that was seen; `None` before the first look.
    #[must_use]
    pub fn peak_bytes(&self) -> Option<u64> {
        Some(self.peak_bytes.load(Ordering::Acquire)).filter(|&bytes| bytes > 0)
    }

    /// The largest process at the last look, if one was found and nobody writes it just now.
    #[must_use]
    pub fn largest(&self) -> Option<Footprint> {
        match self.largest.try_lock() {
            Ok(largest) => largest.clone(),
            Err(TryLockError::Poisoned(error)) => error.into_inner().clone(),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn exceed(&self, excess: Excess) {
        let _ = self.excess.set(excess);
    }

    pub(crate) fn starve(&self, process: Footprint) {
        let _ = self.starved.set(process);
    }

    pub(crate) fn saw(&self, bytes: u64) {
        self.peak_bytes.fetch_max(bytes, Ordering::AcqRel);
    }

    pub(crate) fn saw_largest(&self, process: Option<Footprint>) {
        *self.largest.lock().unwrap_or_else(PoisonError::into_inner) = process;
    }
}

/// One attempt's memory, for the host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// As events name it.
    pub attempt: u64,
    /// Sequence number of its task's acceptance.
    pub task: u64,
    /// Index of its step.
    pub step: u8,
    /// Name of its step.
    pub name: String,
    /// Which try.
    pub number: u32,
    /// Name of its task's directory: the source (`+` for `.`), a point, the id.
    pub directory: String,
    /// What it has now.
    pub bytes: u64,
    /// The most it was seen to have.
    pub peak_bytes: u64,
    /// What it may have.
    pub limit_bytes: Option<u64>,
    /// Its processes.
    pub processes: u32,
}

impl Row {
    /// Of a subject that has so much in so many processes.
    pub(crate) fn new(subject: &Subject, bytes: u64, peak_bytes: u64, processes: u32) -> Row {
        Row {
            attempt: pack_attempt(subject.attempt),
            task: subject.task,
            step: subject.step,
            name: subject.name.clone(),
            number: subject.number,
            directory: subject.directory.clone(),
            bytes,
            peak_bytes,
            limit_bytes: subject.limit_bytes,
            processes,
        }
    }
}

/// Rows as the host reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rows {
    /// How old they are; `None` before the first ones were made, a moment after the first call.
    pub age_ms: Option<u64>,
    /// One per attempt that runs a process, at most 1024.
    pub attempts: Vec<Row>,
}

/// Who is to be looked at, and what the host wants to know.
#[derive(Debug, Default)]
pub struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// With the instants since when they are there.
    subjects: HashMap<AttemptRef, (Instant, Arc<Subject>)>,
    /// When the sampler has to see the newest list, which it has not seen.
    new: Option<Instant>,
    asked: Option<Instant>,
    rows: Vec<Row>,
    made: Option<Instant>,
    stalled_until: Option<Instant>,
    closed: bool,
}

/// What the sampler is told when it is to work.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Everybody who is to be looked at, if that may have changed.
    pub subjects: Option<Vec<Arc<Subject>>>,
    /// When rows are to be made, if they are.
    pub rows_due: Option<Instant>,
}

impl Board {
    /// Has an attempt looked at from now on.
    pub fn watch(&self, subject: Subject) {
        let mut state = self.lock();
        let sooner = state.expect(subject.sampled);
        state.subjects.insert(subject.attempt, (Instant::now(), Arc::new(subject)));
        self.tell(sooner);
    }

    /// Lets an attempt go.
    pub fn forget(&self, attempt: AttemptRef) {
        let mut state = self.lock();
        let removed = state.subjects.remove(&attempt);
        let sooner = removed.is_some_and(|(_, subject)| state.expect(subject.sampled));
        self.tell(sooner);
    }

    /// Memory of every attempt, about a second old while somebody asks at least every 5 s.
    #[must_use]
    pub fn rows(&self) -> Rows {
        let mut state = self.lock();
        let now = Instant::now();
        if !state.is_asked(now) {
            (state.made, state.rows) = (None, Vec::new());
            self.changed.notify_one();
        }
        state.asked = Some(now);
        let age = state.made.map(|made| now.saturating_duration_since(made));
        let age_ms = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        Rows { age_ms, attempts: state.rows.clone() }
    }

    /// For tests: the sampler does nothing for a while.
    pub fn stall(&self, time: Duration) {
        self.lock().stalled_until = Some(Instant::now() + time);
        self.changed.notify_one();
    }

    /// Ends the sampler.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    pub(crate) fn put_rows(&self, mut rows: Vec<Row>, made: Instant) {
        rows.truncate(ROWS_MAX);
        let mut state = self.lock();
        (state.rows, state.made) = (rows, Some(made));
    }

    /// Waits until an instant (for ever without one) or until there is news; `None` once closed.
    pub(crate) fn wait(&self, until: Option<Instant>, pause: Duration) -> Option<Turn> {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            let stalled_until = state.stalled_until.filter(|&end| now < end);
            let rows_due = state.rows_due(now, pause);
            let due = until.into_iter().chain(rows_due).chain(state.new).min();
            if due.is_some_and(|due| due <= now) && stalled_until.is_none() {
                let is_asked = rows_due.is_some_and(|due| due <= now);
                let subjects = state.new.take().map(|_| state.seen(now, is_asked));
                return Some(Turn { subjects, rows_due });
            }
            state = match stalled_until.or(due) {
                Some(due) => {
                    let waited = self.changed.wait_timeout(state, due - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        None
    }

    fn tell(&self, sooner: bool) {
        if sooner {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Those that are to be looked at: `all` of them, or who is old enough; the list is due again
    /// while there are others.
    fn seen(&mut self, now: Instant, all: bool) -> Vec<Arc<Subject>> {
        let is_grown = |since: Instant| now.saturating_duration_since(since) >= KEPT_FIRST;
        let subjects = self.subjects.values();
        let seen = subjects.filter(|(since, it)| all || it.sampled || is_grown(*since));
        let seen: Vec<_> = seen.map(|(_, subject)| Arc::clone(subject)).collect();
        if seen.len() < self.subjects.len() {
            self.new = Some(now + KEPT_FIRST);
        }
        seen
    }

    /// Has the sampler see the list: at once, or where the kernel keeps the limit, a moment later.
    /// Whether that is earlier than it knows.
    fn expect(&mut self, at_once: bool) -> bool {
        let now = Instant::now();
        let due = if at_once { now } else { now + KEPT_FIRST };
        let sooner = self.new.is_none_or(|new| due < new);
        if sooner {
            self.new = Some(due);
        }
        sooner
    }

    fn is_asked(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| now < asked + ASKED_FOR)
    }

    fn rows_due(&self, now: Instant, pause: Duration) -> Option<Instant> {
        self.is_asked(now).then(|| self.made.map_or(now, |made| made + pause))
    }
}
