//! One record is gone and the next start is told of a gap: whatever it was, no step that must not
//! repeat does, no result is without an outcome, and no other task pays for it.

use crate::script::{FINALLY, MS, RERUN, STOP, Script, Stored, limits, plan};
use limpet_core::Limits;
use limpet_core::message::{Exit, Input, Outcome, StepHeader};
use limpet_core::record::Record;
use limpet_core::table::State;

const STOP_FINALLY: StepHeader = StepHeader { finally: true, ..STOP };

/// The next start, which is told of a gap where the first record was that is `gone`.
fn without(s: &Script, gone: impl Fn(&Stored) -> bool) -> (Script, String) {
    let mut next = s.restarted(&[], true);
    let place = s.disk.iter().position(gone).expect("it was written");
    for (at, stored) in s.disk.iter().enumerate() {
        if at == place {
            next.machine.replay_gap();
            continue;
        }
        let kind = stored.record.kind();
        next.machine.replay(stored.seq, stored.task, kind, &stored.bytes).expect("readable");
        next.disk.push(stored.clone());
    }
    next.now.at.0 += MS;
    next.machine.recovered(next.now);
    next.collect();
    let said = next.feed(Input::Timeout);
    (next, said)
}

/// A task whose decision is gone but whose end is there is told as uncertain, and nothing of it
/// runs again.
#[test]
fn a_lost_decision_is_uncertain() {
    for finally in [FINALLY, STOP_FINALLY] {
        let mut s = Script::new();
        s.submit(&plan('a', &[RERUN, finally]));
        s.until('a', State::Reporting);
        let (mut next, said) = without(&s, |s| matches!(s.record, Record::Decided { .. }));
        assert_eq!(said, "a decided uncertain!; a finished!; a is closing");
        next.sync();
        assert_eq!(next.outcome('a'), Outcome::Uncertain);
        assert_eq!(next.steps('a'), "0 succeeded, 1 succeeded");
    }
}

/// What cleans up and must not be repeated may have run behind the gap: it does not run, but what
/// may be repeated does.
#[test]
fn a_lost_intent_of_what_cleans_up_is_uncertain() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN, STOP_FINALLY, FINALLY]));
    s.until('a', State::Running);
    s.run('a', Exit::Code(0));
    s.until('a', State::Running);
    let (mut next, said) = without(&s, |s| matches!(s.record, Record::Started { step: 1, .. }));
    assert_eq!(said, "a started 2.1; a load 2; a is loading");
    assert_eq!(next.outcome('a'), Outcome::Succeeded);
    assert_eq!(next.steps('a'), "0 succeeded, 1 uncertain, 2 succeeded");
}

/// A delivery that is gone leaves a task whose slot and id others have had since: it gives way, for
/// an agent that does not start would be worse.
#[test]
fn a_lost_delivery_keeps_nobody_from_starting() {
    let tight = Limits { tasks: 1, steps: 2, ids: 2, ..limits() };
    let mut s = Script::with(tight, 1);
    s.submit(&plan('a', &[RERUN, RERUN]));
    s.until('a', State::Reporting);
    s.delivered('a');
    s.submit(&plan('b', &[RERUN, RERUN]));
    s.until('b', State::Running);
    let (mut next, said) = without(&s, |s| matches!(s.record, Record::Delivered { .. }));
    assert_eq!(said, "b started 0.1; b load 0; b is loading");
    next.sync();
    assert_eq!(next.submit(&plan('a', &[RERUN, RERUN])), "#1 ended succeeded");
    assert_eq!(next.outcome('b'), Outcome::Succeeded);
}
