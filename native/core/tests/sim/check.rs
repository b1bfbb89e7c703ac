//! Oracles. They see what a person outside would see: questions, answers, processes, records,
//! results. They share no code with the machine.

use crate::plan::Plan;
use limpet_core::message::{Answer, AttemptRef, Outcome, Signal, StepHeader, Verdict};
use limpet_core::record::Record;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default, Clone)]
struct Known {
    accepted: bool,
    outcome: Option<Outcome>,
    cancel_asked: bool,
    /// Wall time of its acceptance, while all time since then can be told.
    since_ms: Option<u64>,
    /// How often each step's program was started, over all lives of the agent.
    starts: BTreeMap<u8, u32>,
    /// Attempts that the records tell of, per step.
    attempts: BTreeMap<u8, u8>,
}

struct Deadline {
    key: u128,
    at: u64,
    terminated: Option<u64>,
}

#[derive(Default)]
pub struct Checker {
    known: BTreeMap<u128, Known>,
    asked: BTreeMap<u64, (u128, u64, char)>,
    deadlines: BTreeMap<(u16, u32), Deadline>,
    tokens: u64,
    durable: u64,
    pub results: u64,
    pub outcomes: BTreeMap<&'static str, u64>,
    pub refusals: u64,
}

impl Checker {
    fn token(&mut self, key: u128, digest: u64, what: char) -> u64 {
        self.tokens += 1;
        self.asked.insert(self.tokens, (key, digest, what));
        self.tokens
    }

    pub fn asked(&mut self, key: u128, digest: u64) -> u64 {
        self.known.entry(key).or_default();
        self.token(key, digest, 's')
    }

    pub fn asked_cancel(&mut self, key: u128) -> u64 {
        self.known.entry(key).or_default().cancel_asked = true;
        self.token(key, 0, 'c')
    }

    pub fn asked_extend(&mut self, key: u128) -> u64 {
        self.token(key, 0, 'e')
    }

    pub fn attempts(&self, key: u128, step: u8) -> u8 {
        self.known[&key].attempts.get(&step).copied().unwrap_or(0)
    }

    pub fn durable(&mut self, seq: u64) {
        assert!(seq >= self.durable);
        self.durable = seq;
    }

    pub fn answered(&mut self, answer: &Answer) {
        let (key, _, what) =
            self.asked.remove(&answer.token).expect("each question is answered once");
        let known = self.known.entry(key).or_default();
        match (what, answer.verdict) {
            ('s', Verdict::Accepted | Verdict::Alive) => {
                known.accepted = true;
            }
            ('s', Verdict::Ended(outcome)) => {
                let told = known.outcome.expect("an ended task has had its result");
                assert_eq!(told, outcome, "the remembered outcome is the reported one");
            }
            (_, Verdict::Refused(_)) => self.refusals += 1,
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
    pub fn within_its_clock(&self, plan: &Plan, wall_ms: u64) {
        let since = self.known[&plan.key].since_ms;
        let late = since.is_some_and(|since| wall_ms > since + plan.close_ms + 1);
        assert!(plan.close_ms == 0 || !late, "a start of {:x} after its clock ran out", plan.key);
    }

    pub fn time_lost(&mut self) {
        self.known.values_mut().for_each(|known| known.since_ms = None);
    }

    pub fn recorded(&mut self, record: &Record, key: Option<u128>, wall_ms: u64) {
        if let Record::Accepted(accepted) = record {
            self.known.entry(accepted.key).or_default().since_ms = Some(wall_ms);
        }
        let Some(known) = key.and_then(|key| self.known.get_mut(&key)) else { return };
        if let Record::Tried { step, attempt, .. } = *record {
            known.attempts.insert(step, attempt);
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
            self.count_start(key, step, header.stop);
        }
    }

    fn count_start(&mut self, key: u128, step: u8, stop: bool) {
        let starts = self.known.get_mut(&key).expect("submitted").starts.entry(step).or_default();
        *starts += 1;
        assert!(!stop || *starts == 1, "step {step} of {key:x} must not start twice");
    }

    pub fn process_started(&mut self, key: u128, step: u8) {
        *self.known.get_mut(&key).expect("submitted").starts.entry(step).or_default() += 1;
    }

    /// A program that must not repeat was started at most once in all lives.
    pub fn no_stop_step_ran_twice(&self, plans: &BTreeMap<u128, Plan>) {
        for (key, known) in &self.known {
            for (step, starts) in &known.starts {
                let header = plans[key].steps[*step as usize].header;
                assert!(
                    !header.stop || *starts <= 1,
                    "step {step} of {key:x} started {starts} times"
                );
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
    ) {
        let known = self.known.get_mut(&plan.key).expect("submitted");
        self.results += 1;
        if let Some(before) = known.outcome {
            assert_eq!(before, outcome, "a result is the same whenever it is told");
        } else {
            *self.outcomes.entry(outcome.name()).or_default() += 1;
        }
        known.outcome = Some(outcome);
        assert_ne!(outcome, Outcome::None);
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
                assert!(uncertain, "uncertain for a reason");
            }
            Outcome::Dead => {}
            other => panic!("a task does not end {other:?}"),
        }
        if outcome != Outcome::Dead && !unreaped {
            for (index, how) in &ended {
                assert_ne!(*how, Outcome::None, "step {index} of {:x} has no end", plan.key);
            }
        }
    }
}
