//! The journal cut anywhere: whatever prefix of its records survives, a task comes to one outcome,
//! and what must not be repeated is not.

use crate::script::{FINALLY, Plan, RERUN, STOP, Script, Stored, WALL_MS, limits, plan};
use limpet_core::Limits;
use limpet_core::message::{Exit, Input, Outcome, StepHeader, When};
use limpet_core::record::Record;
use limpet_core::table::State;

/// A life with everything in it: a try that fails, steps of both kinds, a guarded failure with a
/// condition on it, an extension, and two steps that clean up.
fn eventful(cancelled: bool) -> Script {
    let mut s = Script::new();
    s.spec.maximum_attempts = 2;
    let guarded = StepHeader { guarded: true, ..STOP };
    let when = When::Outcome { step: 2, outcome: Outcome::Failed, negate: false };
    let repairs = StepHeader { when, ..RERUN };
    let steps = [RERUN, STOP, guarded, repairs, FINALLY, StepHeader { finally: true, ..STOP }];
    s.submit(&Plan { additions: 3, close_ms: 900_000, ..plan('a', &steps) });
    s.run('a', Exit::Code(1));
    s.due(1_000);
    s.run('a', Exit::Code(0));
    s.until('a', State::Running);
    let attempt = s.attempt('a');
    s.feed(Input::Exited { attempt, exit: Exit::Code(0), continues: true });
    s.swept('a');
    s.extend('a', &[STOP, RERUN]);
    s.run('a', Exit::Code(0));
    s.run('a', Exit::Code(0));
    s.run('a', Exit::Code(5));
    if cancelled {
        s.until('a', State::Running);
        s.cancel('a');
    }
    s.finish('a');
    s.delivered('a');
    s
}

/// What the records say must hold of any continuation of them.
struct Promise {
    accepted: bool,
    decided: Option<Outcome>,
    delivered: bool,
    /// Steps whose program may have started and must not again.
    spent: Vec<u8>,
}

fn promise(disk: &[Stored], headers: &[StepHeader]) -> Promise {
    let mut promise = Promise { accepted: false, decided: None, delivered: false, spent: vec![] };
    for stored in disk {
        match stored.record {
            Record::Accepted(_) => promise.accepted = true,
            Record::Decided { outcome, .. } => promise.decided = Some(outcome),
            Record::Delivered { .. } => promise.delivered = true,
            Record::Started { step, .. } if headers[step as usize].stop => promise.spent.push(step),
            _ => {}
        }
    }
    promise
}

fn headers() -> Vec<StepHeader> {
    // As in `eventful`, with its two additions.
    vec![RERUN, STOP, STOP, RERUN, FINALLY, StepHeader { finally: true, ..STOP }, STOP, RERUN]
}

/// Restarts from the records and runs to the end; checks the promise and gives the records of that
/// run.
fn continues(from: &Script, disk: &[Stored], power: bool) -> Script {
    let promise = promise(disk, &headers());
    let mut s = from.restarted(disk, power);
    let context = format!("cut after {:?}, power {power}", disk.last().map(|stored| stored.record));
    let said = s.recover();
    assert_eq!(s.find('a').is_some(), promise.accepted && !promise.delivered, "{context}");
    if s.find('a').is_none() {
        return s;
    }
    let said = if s.state('a') == State::Reporting { said } else { said + &s.finish('a') };
    assert_eq!(said.matches("a result").count(), 1, "{context}: {said}");
    for step in promise.spent {
        let starts = said.matches(&format!("start {step}.")).count();
        assert_eq!(starts, 0, "step {step} started again, {context}: {said}");
    }
    let outcome = s.machine.view(s.task('a')).expect("it lives").outcome;
    assert_ne!(outcome, Outcome::None);
    if let Some(decided) = promise.decided {
        assert_eq!(outcome, decided, "{context}: {said}");
    }
    assert!(!s.steps('a').contains("none"), "{context}: {}", s.steps('a'));
    s.delivered('a');
    assert_eq!((s.machine.live_bytes(), s.machine.live_attempts()), (0, 0), "{context}");
    s.sync();
    assert_eq!(s.next_ms(), None, "{context}");
    s
}

/// After every prefix of an eventful life, with and without the power gone, and again after every
/// prefix of what the second life wrote.
#[test]
fn any_prefix_of_two_lives_leads_to_one_outcome() {
    for cancelled in [false, true] {
        let first = eventful(cancelled);
        assert!(first.disk.len() > 20);
        for kept in 0..=first.disk.len() {
            for power in [false, true] {
                let second = continues(&first, &first.disk[..kept], power);
                for more in kept..=second.disk.len() {
                    continues(&second, &second.disk[..more], !power);
                }
            }
        }
    }
}

/// A result that was told is told the same after any number of restarts.
#[test]
fn a_result_is_the_same_in_every_life() {
    let mut s = eventful(false);
    let delivered = s.disk.iter().position(|stored| stored.record.kind() == 13);
    s.disk.truncate(delivered.expect("it was delivered"));
    let (first, said) = s.restart(false);
    assert_eq!(said, "* opened!; a result succeeded");
    let (second, said) = first.restart(true);
    assert_eq!(said, "* opened!; a result succeeded");
    assert_eq!(first.steps('a'), second.steps('a'));
    assert_eq!(
        first.steps('a'),
        "0 succeeded, 1 succeeded, 6 succeeded, 7 succeeded, 2 failed, 3 succeeded, 4 succeeded, \
         5 succeeded"
    );
}

fn short(name: char, s: &Script) -> Plan {
    Plan { expires_ms: s.now.wall_ms + 1_000, ..plan(name, &[RERUN]) }
}

/// Ids that were forgotten are read again until a compaction drops their records; they must not
/// fill the table, nor keep their space.
#[test]
fn forgotten_ids_that_are_read_again_do_no_harm() {
    let mut s = Script::with(Limits { tasks: 1, ids: 2, ..limits() }, 1);
    let mut ended = Vec::new();
    for (name, turn) in "abcdefgh".chars().zip(1..) {
        let said = s.submit(&short(name, &s));
        assert!(said.contains("accepted"), "{said}");
        let accepted = s.accepted(name);
        s.until(name, State::Reporting);
        s.delivered(name);
        ended.push((accepted, s.disk.last().expect("written").seq));
        s.set(turn * 3_000);
    }
    let (mut back, said) = s.restart(true);
    assert_eq!(said, "* opened!");
    let mut released = back.machine.take_released();
    assert_eq!(back.machine.take_released(), [], "told once");
    assert!(back.submit(&short('i', &back)).contains("i accepted"));
    released.append(&mut back.released);
    for (task, delivered) in ended {
        assert!(released.contains(&(task, delivered)), "all but the last: {released:?}");
        assert!(released.contains(&(task, u64::MAX)), "all of {task} can go: {released:?}");
    }
}

/// The same id may come again once it was forgotten: the newer task is the one that is known,
/// whichever records of the older are still there.
#[test]
fn an_id_may_come_again_after_it_was_forgotten() {
    let mut s = Script::new();
    s.submit(&short('a', &s));
    s.run('a', Exit::Code(1));
    s.until('a', State::Reporting);
    s.delivered('a');
    let old = s.disk.iter().find(|stored| stored.task != 0).expect("accepted").task;
    s.cancel_as('b', 1, false, WALL_MS + 1_000);
    s.set(60_000);
    for name in ['a', 'b'] {
        s.submit(&short(name, &s));
        s.until(name, State::Running);
    }
    let (mut back, _) = s.restart(true);
    back.sync();
    assert_eq!(back.submit(&plan('a', &[RERUN])), "#1 alive");
    assert_eq!(back.submit(&plan('b', &[RERUN])), "#2 alive");
    assert!(back.machine.take_released().contains(&(old, u64::MAX)));
}

/// Limits that were lowered below what the journal holds are an error with a name, not a loss.
#[test]
fn lowered_limits_are_refused() {
    let mut s = Script::new();
    for name in ['a', 'b'] {
        s.submit(&plan(name, &[RERUN; 3]));
    }
    for lower in [
        Limits { tasks: 1, ..limits() },
        Limits { steps: 5, ..limits() },
        Limits { tasks: 1, ids: 1, ..limits() },
    ] {
        let mut next = Script::with(lower, 1);
        let mut read = Ok(());
        for stored in &s.disk {
            let kind = stored.record.kind();
            read = read.and(next.machine.replay(stored.seq, stored.task, kind, &stored.bytes));
        }
        assert_eq!(format!("{read:?}"), "Err(AboveLimits)");
    }
}

/// No id is forgotten for the sake of a limit that was lowered, as long as every clock was trusted.
#[test]
fn a_lowered_limit_forgets_no_id() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Reporting);
    s.delivered('a');
    s.submit(&plan('b', &[RERUN]));
    let mut next = Script::with(Limits { tasks: 1, ids: 1, ..limits() }, 1);
    let mut replay = s.disk.iter().map(|stored| {
        next.machine.replay(stored.seq, stored.task, stored.record.kind(), &stored.bytes)
    });
    let refused = replay.find_map(Result::err);
    assert_eq!(format!("{refused:?}"), "Some(AboveLimits)");
}
