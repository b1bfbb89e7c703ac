//! A cancel, in every state that it may find a task in.

use crate::script::{FINALLY, Plan, RERUN, STOP, Script, plan};
use limpet_core::message::{Exit, Input};
use limpet_core::table::State;

/// Before a program was started nothing needs to be stopped: the task ends with the request, and
/// what cleans up runs after both are durable.
#[test]
fn what_has_not_started_ends_at_once() {
    let mut s = Script::new();
    s.submit(&plan('a', &[STOP, FINALLY]));
    assert_eq!(
        s.cancel('a'),
        "a cancel requested!; a ended 0.1 cancelled+!; discard; a decided cancelled at 0!; \
         a started 1.1; a is committing",
        "accepted, and not even durable"
    );
    assert_eq!(s.sync(), "a load 1; #1 accepted; #2 cancelling; a is loading");
    s.run('a', Exit::Code(0));
    assert_eq!(s.sync(), "a result cancelled");

    let mut s = Script::new();
    for name in ['x', 'y', 'b'] {
        s.submit(&plan(name, &[RERUN]));
    }
    assert_eq!(
        s.cancel('b'),
        "b cancel requested!; b decided cancelled at 0!; b finished!; b is closing",
        "queued"
    );
    assert_eq!(s.steps('b'), "0 skipped");

    let mut s = Script::new();
    s.submit(&plan('c', &[STOP]));
    s.until('c', State::Loading);
    let late = s.attempt('c');
    assert_eq!(
        s.cancel('c'),
        "c cancel requested!; c ended 0.1 cancelled+!; c discard; c decided cancelled at 0!; \
         c finished!; c is closing",
        "loading"
    );
    let loaded = limpet_core::message::Loaded::Skip;
    assert_eq!(s.feed(Input::Loaded(late, loaded)), "c discard", "what was read is forgotten");
}

/// A program that is being started cannot be signalled yet: it is as soon as it can be.
#[test]
fn a_start_under_way_is_ended_when_known() {
    let mut s = Script::new();
    s.submit(&plan('a', &[STOP]));
    s.until('a', State::Starting);
    assert_eq!(s.cancel('a'), "a cancel requested!; a is starting");
    assert_eq!(s.spawned('a'), "a TERM; a is stopping");

    let mut s = Script::new();
    s.spec.maximum_attempts = 3;
    s.submit(&plan('b', &[STOP]));
    s.until('b', State::Starting);
    s.cancel('b');
    assert_eq!(
        s.spawn_failed('b', true),
        "b ended 0.1 cancelled code -1+!; b discard; b decided cancelled at 0!; b finished!; \
         b is closing",
        "and not tried again"
    );
}

/// TERM leaves with the request itself and does not wait for the disk; the answer does.
#[test]
fn what_runs_is_told_at_once() {
    let mut s = Script::new();
    s.submit(&plan('a', &[STOP, RERUN, FINALLY]));
    s.until('a', State::Running);
    s.set(4_000);
    assert_eq!(s.cancel('a'), "a cancel requested!; a TERM; a is stopping");
    assert_eq!(s.sync(), "#2 cancelling");
    assert_eq!(s.due(4_500), "a KILL; a is killing");
    s.exited('a', Exit::Signal(9));
    assert_eq!(
        s.swept('a'),
        "a ended 0.1 cancelled code -9+!; a discard; a decided cancelled at 0!; a started 2.1; \
         a is committing"
    );
    assert_eq!(s.steps('a'), "0 cancelled, 1 skipped, 2 none");
    assert_eq!(s.outcome('a').name(), "cancelled");
}

/// A ladder that a clock began goes on in its time, and the end of the task outweighs that of the
/// step.
#[test]
fn a_ladder_under_way_is_not_begun_again() {
    for state in [State::Stopping, State::Killing] {
        let mut s = Script::new();
        s.spec.maximum_attempts = 5;
        s.submit(&plan('a', &[RERUN]));
        s.until('a', State::Running);
        s.due(10_000);
        s.set(10_100);
        if state == State::Killing {
            s.due(10_500);
        }
        assert_eq!(s.cancel('a'), format!("a cancel requested!; a is {}", state.name()));
        s.exited('a', Exit::Signal(9));
        let said = s.swept('a');
        assert!(
            said.starts_with(
                "a ended 0.1 cancelled code -9+!; a discard; a decided cancelled at 0!"
            )
        );
    }
}

/// A program that has ended before the cancel came has ended as it did; nothing follows it.
#[test]
fn an_end_before_the_cancel_is_told_as_it_was() {
    let mut s = Script::new();
    s.submit(&plan('a', &[STOP, STOP]));
    s.until('a', State::Sweeping);
    assert_eq!(s.cancel('a'), "a cancel requested!; a is sweeping");
    assert_eq!(
        s.swept('a'),
        "a ended 0.1 succeeded+!; a discard; a decided cancelled at 0!; a finished!; a is closing"
    );
}

/// No further try and no further step after a cancel.
#[test]
fn waiting_ends_at_once() {
    let mut s = Script::new();
    s.spec.maximum_attempts = 5;
    s.submit(&plan('a', &[RERUN]));
    s.run('a', Exit::Code(1));
    assert_eq!(s.state('a'), State::Backoff);
    assert_eq!(
        s.cancel('a'),
        "a cancel requested!; a decided cancelled at 0!; a finished!; a is closing"
    );

    let mut s = Script::new();
    s.submit(&Plan { additions: 1, ..plan('b', &[RERUN]) });
    s.until('b', State::Running);
    let attempt = s.attempt('b');
    s.feed(Input::Exited { attempt, exit: Exit::Code(0), continues: true });
    s.swept('b');
    assert_eq!(
        s.cancel('b'),
        "b cancel requested!; b decided cancelled at 0!; b finished!; b is closing"
    );
    assert_eq!(s.extend('b', &[RERUN]), "", "too late");
    let said = s.sync();
    assert!(said.ends_with("#2 cancelling; #3 refused not_waiting; b result cancelled"), "{said}");
}

/// Once the outcome is fixed a cancel is told which it is, and disturbs nothing that cleans up.
#[test]
fn after_the_decision_it_is_too_late() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN, FINALLY]));
    s.run('a', Exit::Code(0));
    assert_eq!(s.state('a'), State::Committing);
    assert_eq!(s.cancel('a'), "", "not before the decision is durable");
    assert_eq!(s.sync(), "a load 1; #2 ended succeeded; a is loading");
    s.until('a', State::Running);
    assert_eq!(s.cancel('a'), "#3 ended succeeded");
    s.until('a', State::Closing);
    s.cancel('a');
    assert_eq!(s.sync(), "#4 ended succeeded; a result succeeded");
    assert_eq!(s.cancel('a'), "#5 ended succeeded");
    s.delivered('a');
    assert_eq!(s.cancel('a'), "#6 ended succeeded");
}

/// The first reason to end a task is the one that is told.
#[test]
fn a_cancel_after_the_deadline_changes_nothing() {
    let mut s = Script::new();
    s.submit(&Plan { close_ms: 900, ..plan('a', &[RERUN]) });
    s.until('a', State::Running);
    assert_eq!(s.due(900), "a TERM; a is stopping");
    assert_eq!(s.cancel('a'), "a cancel requested!; a is stopping");
    s.exited('a', Exit::Signal(15));
    assert!(s.swept('a').contains("a decided timed_out at 0 by schedule_to_close"));
}

/// Asking twice changes nothing; each question is answered.
#[test]
fn twice_is_once() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Running);
    s.cancel('a');
    assert_eq!(s.cancel('a'), "a cancel requested!; a is stopping");
    assert_eq!(s.sync(), "#2 cancelling; #3 cancelling");
}
