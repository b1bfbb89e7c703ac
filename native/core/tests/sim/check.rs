//! Oracles. They see what a person outside would see: questions, answers, processes, records,
//! results. They share no code with the machine.

use crate::plan::Plan;
use limpet_core::limits::Limits;
use limpet_core::message::{Answer, AttemptRef, Outcome, Reason, Signal, StepHeader, Verdict};
use limpet_core::record::Record;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default, Clone)]
struct Known {
    accepted: bool,
    outcome: Option<Outcome>,
    cancel_asked: bool,
    /// Body and expiry of the task that was accepted last under this id.
    digest: Option<u64>,
    expires_ms: u64,
    /// Until when a cancel that came first is remembered.
    tombstone_ms: u64,
    /// Real time of its acceptance, while all time since then can be told.
    since_ms: Option<u64>,
    /// Unclean ends of the agent, without its device, that met one of its attempts.
    met: u32,
    /// A record of its is gone; or one of another, while it lived.
    damaged: bool,
    beside_damage: bool,
    /// The record that told of its id is gone: nothing can be promised.
    forgotten: bool,
    /// How often each step's program was started, over all lives of the agent.
    starts: BTreeMap<u8, u32>,
    /// Attempts that the records tell of, per step.
    attempts: BTreeMap<u8, u8>,
}

/// A question, and what the world was like when it was asked.
struct Question {
    key: u128,
    digest: u64,
    expires_ms: u64,
    waived: bool,
    any: bool,
    source: u64,
    what: What,
    at: Circumstances,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Submit,
    Cancel,
    Extend,
}

/// What decides between yes and no.
#[derive(Clone, Copy)]
pub struct Circumstances {
    pub trusted: bool,
    /// The newest trusted time that the machine has seen or read.
    pub floor_ms: u64,
    /// The newest time that the wall clock has ever said, and what has passed since.
    pub seen_ms: u64,
    pub tasks: u16,
    pub draining: bool,
    pub store_failed: bool,
}

struct Deadline {
    key: u128,
    at: u64,
    terminated: Option<u64>,
}

#[derive(Default)]
pub struct Checker {
    known: BTreeMap<u128, Known>,
    asked: BTreeMap<u64, Question>,
    digests: BTreeMap<u128, BTreeSet<u64>>,
    deadlines: BTreeMap<(u16, u32), Deadline>,
    tokens: u64,
    durable: u64,
    pub results: u64,
    pub outcomes: BTreeMap<&'static str, u64>,
    pub refusals: BTreeMap<&'static str, u64>,
}

impl Checker {
    fn ask(&mut self, question: Question) -> u64 {
        self.tokens += 1;
        self.asked.insert(self.tokens, question);
        self.tokens
    }

    pub fn asked(&mut self, plan: &Plan, at: Circumstances) -> u64 {
        let Plan { key, digest, expires_ms, waived, source, .. } = *plan;
        self.known.entry(key).or_default();
        self.digests.entry(key).or_default().insert(digest);
        let (any, what) = (false, What::Submit);
        self.ask(Question { key, digest, expires_ms, waived, any, source, what, at })
    }

    pub fn asked_cancel(
        &mut self,
        key: u128,
        (source, any): (u64, bool),
        expires_ms: u64,
        at: Circumstances,
    ) -> u64 {
        self.known.entry(key).or_default().cancel_asked = true;
        let (digest, waived, what) = (0, true, What::Cancel);
        self.ask(Question { key, digest, expires_ms, waived, any, source, what, at })
    }

    pub fn asked_extend(&mut self, key: u128, at: Circumstances) -> u64 {
        let (digest, expires_ms, waived, any, source) = (0, 0, true, false, 0);
        let what = What::Extend;
        self.ask(Question { key, digest, expires_ms, waived, any, source, what, at })
    }

    pub fn attempts(&self, key: u128, step: u8) -> u8 {
        self.known[&key].attempts.get(&step).copied().unwrap_or(0)
    }

    pub fn durable(&mut self, seq: u64) {
        assert!(seq >= self.durable);
        self.durable = seq;
    }

    pub fn answered(&mut self, answer: &Answer, limits: &Limits, plans: &BTreeMap<u128, Plan>) {
        let question = self.asked.remove(&answer.token).expect("each question is answered once");
        let known = self.known.entry(question.key).or_default();
        if known.forgotten {
            return;
        }
        match (question.what, answer.verdict) {
            (What::Submit, Verdict::Accepted) => {
                known.accepted = true;
                question.may_be_accepted(known.tombstone_ms);
            }
            (What::Submit, Verdict::Alive) => {
                known.accepted = true;
                assert_eq!(known.digest, Some(question.digest), "known by another body");
            }
            (What::Submit, Verdict::Ended(outcome)) => {
                let told = known.outcome.expect("an ended task has had its result");
                assert!(known.damaged || told == outcome, "the remembered outcome is the told one");
                assert_eq!(known.digest, Some(question.digest), "known by another body");
            }
            (What::Cancel, Verdict::Remembered) => {
                known.tombstone_ms = known.tombstone_ms.max(question.expires_ms);
            }
            (_, Verdict::Refused(reason)) => {
                *self.refusals.entry(reason.code()).or_default() += 1;
                let owner = plans.get(&question.key).map(|plan| plan.source);
                question.may_be_refused(reason, limits, owner);
                let others = self.digests.get(&question.key).map_or(0, BTreeSet::len);
                assert!(reason != Reason::IdConflict || others > 1, "no other body is known");
                let cancelled = reason != Reason::CancelledBefore || known.cancel_asked;
                assert!(cancelled, "refused for a cancel that nobody sent");
            }
            _ => {}
        }
    }

    /// A task that was answered must never be unknown again.
    pub fn is_accepted(&self, key: u128) -> bool {
        self.known.get(&key).is_some_and(|known| known.accepted)
    }

    pub fn has_result(&self, key: u128) -> bool {
        self.known.get(&key).is_some_and(|known| known.outcome.is_some())
    }

    /// The clock of the whole goes on over restarts, as far as time can be told.
    pub fn within_its_clock(&self, plan: &Plan, real_ms: u64) {
        let since = self.known[&plan.key].since_ms;
        let late = since.is_some_and(|since| real_ms > since + plan.close_ms + 1);
        assert!(plan.close_ms == 0 || !late, "a start of {:x} after its clock ran out", plan.key);
    }

    pub fn time_lost(&mut self) {
        self.known.values_mut().for_each(|known| known.since_ms = None);
    }

    pub fn recorded(&mut self, record: &Record, key: Option<u128>, real_ms: u64, seen_ms: u64) {
        if let Record::Accepted(accepted) = record {
            let known = self.known.entry(accepted.key).or_default();
            if (known.accepted || known.outcome.is_some()) && !known.forgotten {
                let expired = seen_ms > known.expires_ms;
                assert!(expired, "{:x} was forgotten before it expired", accepted.key);
                *known = Known { cancel_asked: known.cancel_asked, ..Known::default() };
            }
            known.since_ms = Some(real_ms);
            (known.digest, known.expires_ms) = (Some(accepted.digest), accepted.expires_ms);
        }
        let Some(known) = key.and_then(|key| self.known.get_mut(&key)) else { return };
        if let Record::Tried { step, attempt, .. } = *record {
            known.attempts.insert(step, attempt);
        }
    }

    /// The agent ended without its device while an attempt of this task was under way.
    pub fn met(&mut self, key: u128) {
        self.known.get_mut(&key).expect("submitted").met += 1;
    }

    /// A record was lost to damage. What told of an id is beyond promises; of everything else only
    /// the history may be told otherwise.
    pub fn lost(&mut self, record: &Record, key: Option<u128>) {
        for known in self.known.values_mut().filter(|known| known.outcome.is_none()) {
            known.beside_damage = true;
        }
        let key = match record {
            Record::Tombstone { key, .. } | Record::Delivered { key, .. } => Some(*key),
            _ => key,
        };
        let Some(known) = key.and_then(|key| self.known.get_mut(&key)) else { return };
        known.damaged = true;
        if let Record::Accepted(_) | Record::Tombstone { .. } | Record::Delivered { .. } = record {
            (known.forgotten, known.accepted) = (true, false);
        }
    }

    /// Called at the moment the machine asks for a start, with the records that are on disk.
    pub fn asked_to_start(
        &mut self,
        key: u128,
        step: u8,
        header: &StepHeader,
        number: u8,
        durable: &[Record],
        host: bool,
    ) {
        let accepted = durable.iter().any(|record| matches!(record, Record::Accepted(_)));
        assert!(accepted, "nothing starts before its acceptance is durable");
        let intent = durable.iter().rev().any(|record| {
            matches!(record, Record::Started { step: s, attempt: a, .. }
                if (*s, *a) == (step, number))
        });
        assert!(!header.stop || intent, "a step that must not repeat has a durable intent first");
        let decided = durable.iter().any(|record| matches!(record, Record::Decided { .. }));
        assert!(!header.finally || decided, "the outcome is durable before anything cleans up");
        assert!(header.finally || !decided, "no main step starts once the outcome is durable");
        if host && header.stop {
            self.process_started(key, step);
        }
    }

    pub fn process_started(&mut self, key: u128, step: u8) {
        *self.known.get_mut(&key).expect("submitted").starts.entry(step).or_default() += 1;
    }

    /// Processes that live at one time, those that cannot be killed included, have no more memory
    /// than there is; one that wants more than that had it all.
    pub fn fits(&self, each_kib: impl Iterator<Item = u32>, limits: &Limits) {
        let held: u32 = each_kib.map(|kib| kib.min(limits.pool_kib)).sum();
        assert!(held <= limits.pool_kib, "{held} KiB of {} are taken", limits.pool_kib);
    }

    /// A program that must not repeat was started at most once in all lives.
    pub fn no_stop_step_ran_twice(&self, plans: &BTreeMap<u128, Plan>) {
        for (key, known) in &self.known {
            for (step, starts) in &known.starts {
                // A step that a lost extension had added is of no plan any more.
                let Some(planned) = plans[key].steps.get(*step as usize) else { continue };
                let once = !planned.header.stop || *starts <= 1 || known.forgotten;
                assert!(once, "step {step} of {key:x} started {starts} times");
            }
        }
    }

    pub fn clock(&mut self, attempt: AttemptRef, key: u128, at: u64) {
        let deadline = Deadline { key, at, terminated: None };
        self.deadlines.insert((attempt.slot, attempt.generation), deadline);
    }

    pub fn signalled(&mut self, attempt: AttemptRef, signal: Signal, at: u64) {
        let deadline = self.deadlines.get_mut(&(attempt.slot, attempt.generation));
        let deadline = deadline.expect("only what was started is signalled");
        match signal {
            Signal::Terminate => deadline.terminated = Some(at),
            Signal::Kill => assert!(deadline.terminated.is_some(), "SIGKILL comes second"),
        }
    }

    /// A running process whose clock has run out has been told to end, at that very instant.
    pub fn in_time(&self, slot: u16, generation: u32, at: u64) {
        let Some(deadline) = self.deadlines.get(&(slot, generation)) else { return };
        let told = deadline.terminated.is_some();
        assert!(told || at <= deadline.at, "a deadline of {:x} was missed", deadline.key);
    }

    pub fn discarded(&mut self, attempt: AttemptRef) {
        self.deadlines.remove(&(attempt.slot, attempt.generation));
    }

    pub fn crashed(&mut self) {
        self.deadlines.clear();
        self.asked.clear();
    }

    pub fn survived(&mut self, seqs: impl Iterator<Item = u64>) {
        let seqs: Vec<u64> = seqs.collect();
        assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "records are in order");
        let last = seqs.last().copied().unwrap_or(0);
        self.durable = self.durable.min(last);
    }

    pub fn result(
        &mut self,
        plan: &Plan,
        outcome: Outcome,
        steps: &[(u8, Outcome)],
        unreaped: bool,
        limits: &Limits,
    ) {
        let known = self.known.get_mut(&plan.key).expect("submitted");
        self.results += 1;
        if let Some(before) = known.outcome {
            let same = before == outcome || known.damaged;
            assert!(same, "a result is the same whenever it is told");
        } else {
            *self.outcomes.entry(outcome.name()).or_default() += 1;
        }
        known.outcome = Some(outcome);
        assert_ne!(outcome, Outcome::None);
        if known.damaged {
            return;
        }
        let ended: BTreeMap<u8, Outcome> = steps.iter().copied().collect();
        let indexes: BTreeSet<u8> = ended.keys().copied().collect();
        assert_eq!(indexes.len(), steps.len(), "each step once");
        let unguarded_failure = plan.steps.iter().zip(0..).any(|(step, index)| {
            let how = ended.get(&index).copied().unwrap_or(Outcome::Skipped);
            !step.header.finally
                && !step.header.guarded
                && !matches!(how, Outcome::Succeeded | Outcome::Skipped)
        });
        match outcome {
            Outcome::Succeeded => assert!(!unguarded_failure, "success hides a failure: {ended:?}"),
            Outcome::Failed => {}
            Outcome::Cancelled => assert!(known.cancel_asked, "cancelled though nobody asked"),
            Outcome::TimedOut => assert!(plan.close_ms > 0, "no clock, no timeout"),
            Outcome::Uncertain => {
                let uncertain = ended.values().any(|how| *how == Outcome::Uncertain);
                assert!(uncertain || known.beside_damage, "uncertain for a reason");
            }
            Outcome::Dead => assert!(
                known.met >= u32::from(limits.suspicions),
                "{:x} is dead after {} unclean ends",
                plan.key,
                known.met
            ),
            other => panic!("a task does not end {other:?}"),
        }
        if outcome != Outcome::Dead && !unreaped {
            for (index, how) in &ended {
                assert_ne!(*how, Outcome::None, "step {index} of {:x} has no end", plan.key);
            }
        }
    }
}

impl Question {
    fn may_be_accepted(&self, tombstone_ms: u64) {
        let at = self.at;
        assert!(at.trusted || self.waived, "accepted by a clock that nobody vouched for");
        assert!(self.expires_ms > at.floor_ms, "accepted though it has expired");
        assert!(!at.draining && !at.store_failed, "accepted at the end");
        assert!(tombstone_ms <= at.seen_ms, "a cancel came first and was forgotten");
    }

    fn may_be_refused(&self, reason: Reason, limits: &Limits, owner: Option<u64>) {
        let at = self.at;
        let holds = match reason {
            Reason::Expired => self.expires_ms <= at.seen_ms,
            Reason::ClockUntrusted => !at.trusted && !self.waived,
            Reason::Draining => at.draining,
            Reason::StoreFailed => at.store_failed,
            Reason::BusyTasks => at.tasks >= limits.tasks,
            Reason::BusySteps | Reason::BusyBytes => at.tasks > 0,
            Reason::NotOwner => !self.any && owner != Some(self.source),
            Reason::Invalid | Reason::NotWaiting => self.what == What::Extend,
            Reason::BusyIds | Reason::IdConflict | Reason::CancelledBefore => true,
        };
        assert!(holds, "refused as {} without a reason", reason.code());
    }
}
