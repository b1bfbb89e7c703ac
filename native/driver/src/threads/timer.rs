//! The timer's thread: owner of the machine. It waits for the nearest deadline, a message or a
//! descriptor, tells the machine, and performs what the machine asks for.
//!
//! It touches no disk, no network, no name service and no `exec`, and never waits for another
//! thread: its inbox is emptied without blocking, what it sends is kept when a queue is full, and
//! the host's queue is only tried. So nothing that is slow moves a deadline.

use crate::clock::Clock;
use crate::containment::Tiers;
use crate::host::{Outbound, Request, Submission, Told};
use crate::launch::Work;
use crate::names;
use crate::plan::Report;
use crate::prepare::Prepared;
use crate::recording::Recorder;
use crate::spawn::SpawnError;
use crate::threads::attempt::{LEADER, Live, PLACE_SHIFT};
use crate::threads::gather::Gather;
use crate::threads::spawner::{self, Running};
use crate::threads::vigil::Vigil;
use crate::threads::{journal, realtime};
use limpet_core::message::{AttemptRef, Executor, Exit, Input, Loaded, Submit, TaskRef};
use limpet_core::{Instant, Machine};
use limpet_rings::inbox::{Mailbox, Patient};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Messages that may wait for the timer; whoever finds it full waits.
pub const INBOX_MAX: usize = 512;
/// Messages handled at one turn, so that descriptors and deadlines have theirs.
const MESSAGES_MAX: usize = 64;
/// How long to wait before another look at what was busy: the host's queue, a full ring.
const RETRY_NS: u64 = 200_000;
/// The inbox's place among the descriptors; pipes and leaders have numbers of attempts.
const INBOX_TOKEN: u64 = u64::MAX - 1;

/// What other threads tell the timer.
#[derive(Debug)]
pub enum Message {
    /// Everything up to this record is on disk.
    Durable(u64),
    /// The journal cannot be written any more.
    StoreFailed(String),
    /// A step was read.
    Loaded {
        /// For which attempt.
        attempt: AttemptRef,
        /// What was found.
        prepared: Box<Prepared>,
    },
    /// A process was created, or not.
    Spawned {
        /// For which attempt.
        attempt: AttemptRef,
        /// Its descriptors, or why there is none.
        spawned: Box<Result<Running, SpawnError>>,
    },
    /// An attempt's descendants are gone.
    Swept {
        /// Of which attempt.
        attempt: AttemptRef,
        /// How many were killed.
        killed: u32,
        /// How many would not die.
        remaining: u32,
    },
    /// An attempt's task has more in its directory than it may.
    Full {
        /// Which attempt.
        attempt: AttemptRef,
        /// How much, as a sentence.
        detail: String,
    },
    /// A task's working directory is not needed any more.
    Retire {
        /// Which.
        directory: PathBuf,
        /// Whether to keep it for somebody to look at.
        keep: bool,
    },
    /// Pass a stall on to the journal and the spawner; for tests.
    Stall(Duration),
    /// End the thread; what runs is killed.
    Close,
}

/// The sending side of the timer's inbox, for threads that may wait.
pub type Inbox = limpet_rings::inbox::Inbox<Message>;

/// Who a task slot belongs to, for the host.
#[derive(Debug, Clone, Default)]
pub struct Owner {
    /// The task's id.
    pub id: String,
    /// Who sent it.
    pub source: String,
    /// What of it the host is told.
    pub report: Report,
    /// Whether the host knows that it lives.
    pub known: bool,
}

/// Everything the thread starts with.
pub struct Parts {
    /// The machine, recovered.
    pub machine: Machine,
    /// Owners of the tasks that were read back.
    pub owners: Vec<Owner>,
    /// Its clocks.
    pub clock: Clock,
    /// Its inbox.
    pub messages: Mailbox<Message>,
    /// What the host asks. Apart, because a request may have to wait until answers have left, and
    /// what those wait for comes from the other threads.
    pub requests: Mailbox<Request>,
    /// Towards the host.
    pub host: Outbound,
    /// Towards the disk.
    pub journal: Patient<journal::Order>,
    /// Towards the spawners, of which each has its own attempts.
    pub spawners: Vec<Patient<spawner::Order>>,
    /// Stable id of the state directory.
    pub instance: String,
    /// What contains attempts and keeps them within their limits, for results.
    pub tiers: Tiers,
    /// Where counters are left for whoever asks.
    pub stats: Arc<Mutex<limpet_core::machine::Stats>>,
}

/// The thread's state.
pub struct Timer {
    pub(super) parts: Parts,
    vigil: Vigil,
    pub(super) recorder: Recorder,
    pub(super) live: Vec<Option<Live>>,
    buffer: Box<[u8]>,
    /// The bytes that belong to the submission or extension at hand.
    pub(super) attached: Vec<u8>,
    pub(super) held: Option<Request>,
    pub(super) listing: Option<Vec<TaskRef>>,
    /// What could not be put into the host's queue yet; at most one per live attempt.
    pub(super) told: VecDeque<Told>,
    pub(super) retry: bool,
    /// Something was written in this turn that somebody waits for.
    pub(super) urgent: bool,
    /// Whether that, and all else for the journal, may wait for later turns.
    pub(super) gather: Gather,
    closing: bool,
}

impl Timer {
    /// Makes the state; `run` is the thread.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(parts: Parts, attempts: u16) -> std::io::Result<Timer> {
        let vigil = Vigil::new()?;
        vigil.add(&parts.messages.wake, INBOX_TOKEN)?;
        Ok(Timer {
            recorder: Recorder::new(&parts.machine),
            parts,
            vigil,
            live: (0..attempts).map(|_| None).collect(),
            buffer: vec![0; 16 * 1024].into_boxed_slice(),
            attached: Vec::new(),
            held: None,
            listing: None,
            told: VecDeque::new(),
            retry: false,
            urgent: false,
            gather: Gather::new(attempts.into()),
            closing: false,
        })
    }

    /// Lets the calling thread come before every ordinary one, for `run`; or if it is not asked to
    /// be `realtime`, before most of them where that is allowed.
    ///
    /// # Errors
    /// A sentence that names what the kernel refuses.
    pub fn raise(&self, realtime: bool) -> Result<(), String> {
        if realtime {
            return realtime::enter(&self.parts.machine.places());
        }
        realtime::prefer();
        Ok(())
    }

    /// Works until it is told to close. If it panics, what led to that is kept in `recordings`.
    pub fn run(mut self, recordings: &Path) {
        let worked = catch_unwind(AssertUnwindSafe(|| self.work()));
        if let Err(panic) = worked {
            // The last that this process does: now it may wait for the disk.
            let _ = self.recorder.take("panicked").write(recordings);
            resume_unwind(panic);
        }
        self.close();
    }

    fn work(&mut self) {
        self.perform();
        while !self.closing {
            self.tell();
            self.wait();
            self.keep_time();
            for place in 0.. {
                let Some(token) = self.vigil.ready(place) else { break };
                if token == INBOX_TOKEN {
                    self.parts.messages.wake.rest();
                } else {
                    self.ready(token);
                    self.keep_time();
                }
            }
            self.turn();
        }
    }

    /// Everything of one turn but the wait.
    pub(crate) fn turn(&mut self) {
        self.read_inbox();
        self.keep_time();
        if let Some(recording) = self.recorder.due(self.parts.clock.at()) {
            self.parts.journal.send(journal::Order::Record(Box::new(recording)));
        }
        self.send();
    }

    /// Lets the other threads have what this turn has for them.
    pub(super) fn send(&mut self) {
        self.parts.spawners.iter_mut().for_each(Patient::flush);
        let waits = self.urgent || !self.parts.journal.is_empty();
        if waits && !self.gather.holds(self.parts.clock.at()) {
            if std::mem::take(&mut self.urgent) {
                self.parts.journal.send(journal::Order::Commit);
            }
            self.parts.journal.flush();
        }
    }

    /// The earliest instant at which a turn has something to do.
    pub(crate) fn next_deadline(&self) -> Instant {
        self.parts.machine.next_deadline().min(self.gather.until())
    }

    fn wait(&mut self) {
        let mut until = self.next_deadline();
        let mut now = self.parts.clock.at();
        let full = self.parts.journal.is_full() || self.parts.spawners.iter().any(Patient::is_full);
        if self.retry || full {
            until = until.min(Instant(now.0 + RETRY_NS));
        }
        if self.held.is_some() && self.parts.machine.can_take() {
            until = now;
        }
        let nap = self.gather.nap(now).min(until);
        if nap > now {
            self.vigil.sleep(nap);
            now = self.parts.clock.at();
        }
        self.vigil.wait(until, now);
    }

    /// Whether the machine's nearest deadline has come: then nothing else comes before it.
    pub(super) fn is_due(&self) -> bool {
        self.parts.machine.next_deadline() <= self.parts.clock.at()
    }

    /// Tells the machine if a deadline has come; between any two pieces of other work.
    fn keep_time(&mut self) {
        if !self.is_due() {
            return;
        }
        // Who has ended in time is not late because nobody looked.
        for place in 0.. {
            let Some(token) = self.vigil.ready(place) else { break };
            let attempt = attempt_of(token);
            let leader = token >> PLACE_SHIFT == LEADER;
            if leader && self.parts.machine.is_late(attempt, self.parts.clock.at()) {
                self.ready(token);
            }
        }
        self.feed(Input::Timeout);
    }

    // --- inputs ---------------------------------------------------------------------------------

    pub(crate) fn feed(&mut self, input: Input<'_>) {
        let now = self.parts.clock.now();
        self.recorder.input(&self.parts.machine, now, &input);
        self.parts.machine.handle(now, input);
        self.perform();
    }

    fn read_inbox(&mut self) {
        let mut more = self.read_requests(MESSAGES_MAX);
        for left in (0..MESSAGES_MAX).rev() {
            let Some(message) = self.parts.messages.take() else { break };
            self.message(message);
            self.keep_time();
            more |= left == 0;
        }
        if more {
            // Come back without waiting.
            self.parts.messages.wake.wake();
        }
    }

    /// Takes requests; whether there may be more that need not wait.
    fn read_requests(&mut self, most: usize) -> bool {
        if let Some(request) = self.held.take() {
            self.request(request);
        }
        for _ in 0..most {
            if self.held.is_some() {
                // The host makes room when it polls, and nudges; until then there is no hurry.
                return false;
            }
            let Some(request) = self.parts.requests.take() else { return false };
            self.request(request);
            self.keep_time();
        }
        true
    }

    pub(crate) fn message(&mut self, message: Message) {
        match message {
            Message::Durable(seq) => self.feed(Input::Durable(seq)),
            Message::StoreFailed(detail) => {
                let text = serde_json::json!({"code": "store_failed", "detail": detail});
                self.told.push_back(Told::Trouble { text: text.to_string() });
                self.feed(Input::StoreFailed);
            }
            Message::Loaded { attempt, prepared } => self.loaded(attempt, *prepared),
            Message::Spawned { attempt, spawned } => self.spawned(attempt, *spawned),
            Message::Swept { attempt, killed, remaining } => {
                let now_ms = self.parts.clock.at().0 / 1_000_000;
                let live = self.live.get_mut(attempt.slot as usize).and_then(Option::as_mut);
                if let Some(live) = live.filter(|live| live.reference == attempt) {
                    live.stragglers = killed;
                    live.is_held = remaining > 0;
                    live.bury();
                    live.close(&mut self.buffer, now_ms);
                }
                // What would not die keeps its attempt until the machine's own clock gives it up.
                if remaining == 0 {
                    self.feed(Input::Swept(attempt));
                }
            }
            Message::Full { attempt, detail } => {
                if let Some(live) = self.live_of(attempt) {
                    live.fill(detail);
                }
            }
            Message::Retire { directory, keep } => {
                // The last one has no more attempts than any other.
                if let Some(spawner) = self.parts.spawners.last_mut() {
                    spawner.send(spawner::Order::Retire { directory, keep });
                }
            }
            Message::Stall(time) => {
                self.parts.journal.send(journal::Order::Stall(time));
                let spawners = self.parts.spawners.iter_mut();
                spawners.for_each(|spawner| spawner.send(spawner::Order::Stall(time)));
            }
            Message::Close => {
                // What was asked before is heard first.
                self.read_requests(INBOX_MAX);
                self.closing = true;
            }
        }
    }

    pub(crate) fn request(&mut self, request: Request) {
        let asks =
            matches!(request, Request::Submit(_) | Request::Cancel { .. } | Request::Extend { .. });
        if asks && !self.parts.machine.can_take() {
            // Its answer has no room yet: it waits, and with it what is asked after it.
            self.held = Some(request);
            return;
        }
        match request {
            Request::Submit(submission) => self.submit(*submission),
            Request::Cancel { token, key, source, any, expires_ms } => {
                self.feed(Input::Cancel { token, key, source, any, expires_ms });
            }
            Request::Extend { token, task, headers, bytes } => {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                self.attached = bytes;
                self.feed(Input::Extend { token, task, steps: &headers, bytes: length });
            }
            Request::Delivered(task) => self.feed(Input::Delivered(task)),
            Request::HostDone { attempt, exit, detail } => {
                let wall_ms = self.parts.clock.wall_ms();
                if let Some(live) = self.live_of(attempt) {
                    live.told_exit(exit, detail, wall_ms);
                    self.feed(Input::Exited { attempt, exit, continues: false });
                }
            }
            Request::Record => {
                let recording = Box::new(self.recorder.take("asked"));
                self.parts.journal.send(journal::Order::Record(recording));
            }
            Request::List => self.listing = Some(self.parts.machine.tasks().collect()),
            Request::Drain { patience_ms } => {
                let until = self.parts.clock.at().after_ms(patience_ms);
                self.feed(Input::Drain { until });
            }
        }
    }

    fn submit(&mut self, submission: Submission) {
        self.attached = submission.plan;
        let submit = Submit {
            token: submission.token,
            key: names::key(&submission.source, &submission.id),
            digest: submission.digest,
            source: names::source(&submission.source),
            expires_ms: submission.expires_ms,
            clock_waived: submission.clock_waived,
            schedule_to_close_ms: submission.schedule_to_close_ms,
            finally_ms: submission.finally_ms,
            priority: submission.priority,
            bytes: u32::try_from(self.attached.len()).unwrap_or(u32::MAX),
            additions: submission.additions,
            steps: &submission.headers,
        };
        let seq = self.parts.machine.next_seq();
        self.feed(Input::Submit(submit));
        if let Some(task) = self.parts.machine.task_accepted_as(seq) {
            let Submission { id, source, report, .. } = submission;
            let owner = Owner { id, source, report, known: true };
            self.parts.owners[task.slot as usize] = owner;
        }
        self.attached = Vec::new();
    }

    pub(super) fn live_of(&mut self, attempt: AttemptRef) -> Option<&mut Live> {
        let slot = self.live.get_mut(attempt.slot as usize)?;
        slot.as_mut().filter(|live| live.reference == attempt)
    }

    /// Whose attempt it is from its start to its end.
    pub(super) fn spawner_of(&mut self, attempt: AttemptRef) -> &mut Patient<spawner::Order> {
        let count = self.parts.spawners.len();
        &mut self.parts.spawners[usize::from(attempt.slot) % count]
    }

    fn loaded(&mut self, attempt: AttemptRef, prepared: Prepared) {
        let mut live = Live::new(attempt);
        live.tiers = self.parts.tiers;
        let loaded = match prepared {
            Prepared::Start { work, spec } => {
                let executor = match &work {
                    Work::Process(_) => Executor::Process,
                    Work::Sleep(time) => {
                        Executor::Timer(u32::try_from(time.as_millis()).unwrap_or(u32::MAX))
                    }
                    Work::Publish { .. } | Work::Reboot => Executor::Host,
                };
                let bounds = spec.bounds();
                (live.work, live.spec) = (Some(work), Some(*spec));
                Loaded::Start(executor, bounds)
            }
            Prepared::Skip => Loaded::Skip,
            Prepared::Refused(refusal) => {
                live.reason = Some((refusal.code.to_owned(), refusal.detail));
                Loaded::Refused
            }
            Prepared::Damaged(detail) => {
                live.reason = Some(("journal_damaged".to_owned(), detail));
                Loaded::Refused
            }
        };
        self.live[attempt.slot as usize] = Some(live);
        self.feed(Input::Loaded(attempt, loaded));
    }

    fn spawned(&mut self, attempt: AttemptRef, spawned: Result<Running, SpawnError>) {
        self.gather.answered();
        let live = self.live.get_mut(attempt.slot as usize).and_then(Option::as_mut);
        let Some(live) = live.filter(|live| live.reference == attempt) else { return };
        match spawned {
            Ok(running) => {
                live.runs(running, &self.vigil);
                self.feed(Input::Spawned(attempt));
            }
            Err(error) => {
                live.is_held = false;
                live.reason = Some((error.code.to_owned(), error.detail));
                let before_exec = error.before_exec;
                self.feed(Input::SpawnFailed { attempt, before_exec });
            }
        }
    }

    /// A pipe has something, or a leader has ended.
    fn ready(&mut self, token: u64) {
        let place = usize::try_from(token >> PLACE_SHIFT).unwrap_or(usize::MAX);
        let attempt = attempt_of(token);
        let now_ms = self.parts.clock.at().0 / 1_000_000;
        let wall_ms = self.parts.clock.wall_ms();
        let Some(live) = self.live.get_mut(attempt.slot as usize).and_then(Option::as_mut) else {
            return;
        };
        if live.reference != attempt {
            return;
        }
        if place < 3 {
            let lines = live.read(place, &mut self.buffer, now_ms);
            if !self.parts.journal.is_full() {
                // A busy disk is not made to wait for logs, nor are they kept in memory for it.
                for (task, file, bytes) in live.take_logged() {
                    self.parts.journal.send(journal::Order::Spool { task, file, bytes });
                    self.gather.hurry();
                }
            }
            if lines > 0 {
                self.feed(Input::Heartbeat(attempt));
            }
        } else if live.notice_exit(&mut self.buffer, now_ms, wall_ms) {
            for (task, file, bytes) in live.take_logged() {
                self.parts.journal.send(journal::Order::Spool { task, file, bytes });
            }
            let (exit, continues) = (live.exit().unwrap_or(Exit::Signal(0)), live.continues());
            self.feed(Input::Exited { attempt, exit, continues });
        }
    }

    /// Ends what still runs, records an orderly stop if nothing did, and lets the others end.
    fn close(mut self) {
        let running = self.live.iter().flatten().any(|live| live.pid.is_some());
        for live in self.live.iter().flatten() {
            live.signal(limpet_core::message::Signal::Kill);
        }
        if !running {
            self.parts.machine.stopped(self.parts.clock.now());
            self.perform();
        }
        // Nobody may wait for room in an inbox that is not read any more.
        drop(self.parts.messages);
        for spawner in self.parts.spawners {
            spawner.close(spawner::Order::Close);
        }
        self.parts.journal.close(journal::Order::Close);
    }
}

/// Whose descriptor a token names.
fn attempt_of(token: u64) -> AttemptRef {
    names::unpack_attempt(token & (u64::MAX >> (64 - PLACE_SHIFT)))
}
