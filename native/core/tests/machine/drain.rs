//! Stopping in order: nothing more starts, what runs may end, and at the deadline it is
//! interrupted.

use crate::script::{FINALLY, REBOOT, RERUN, STOP, Script, limits, plan};
use limpet_core::Limits;
use limpet_core::message::{Executor, Exit, Input};
use limpet_core::table::State;

/// What runs may end in its time; its next step waits for the next start of the agent. The end is
/// told once.
#[test]
fn what_runs_may_end_and_nothing_more_starts() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN, STOP]));
    s.until('a', State::Running);
    assert_eq!(s.drain(5_000), "");
    s.exited('a', Exit::Code(0));
    assert_eq!(s.swept('a'), "a ended 0.1 succeeded+!; a discard; a is queued; drained");
    assert_eq!(s.due(5_000), "");
    assert_eq!(s.sync(), "");
    s.machine.stopped(s.now);
    assert_eq!(s.collect(), "* stopped!");
    let (_, said) = s.restart(false);
    assert_eq!(said, "* opened!; a started 1.1!; a is committing");
}

/// An idle agent is drained at once.
#[test]
fn nothing_to_wait_for() {
    assert_eq!(Script::new().drain(5_000), "drained");
    let mut s = Script::new();
    s.submit(&plan('a', &[STOP]));
    s.until('a', State::Reporting);
    assert_eq!(s.drain(5_000), "drained", "a result may wait for the broker of the next run");
}

/// At the deadline a step that may be repeated is stopped, recorded as interrupted, and put back
/// with its try; after the restart it runs as if nothing had been, and is no suspect.
#[test]
fn a_rerun_step_is_put_back() {
    let mut s = Script::new();
    s.spec.maximum_attempts = 2;
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Running);
    s.drain(5_000);
    assert_eq!(s.due(5_000), "a TERM; a is stopping");
    s.exited('a', Exit::Signal(15));
    assert_eq!(s.swept('a'), "a interrupted 0!; a discard; a is queued; drained");
    assert_eq!(s.machine.view(s.task('a')).map(|view| view.attempt), Some(0));
    s.sync();
    s.machine.stopped(s.now);
    s.collect();
    let (mut s, said) = s.restart(false);
    assert_eq!(said, "* opened!; a started 0.1; a load 0; a is loading");
    assert!(s.run('a', Exit::Code(1)).starts_with("a tried 0.1 failed"));
}

/// A step that must not be repeated is uncertain, and so is its task; what cleans up runs after the
/// restart.
#[test]
fn a_stop_step_is_uncertain() {
    let mut s = Script::new();
    s.submit(&plan('a', &[STOP, FINALLY]));
    s.until('a', State::Running);
    s.drain(5_000);
    s.due(5_000);
    s.due(5_500);
    s.exited('a', Exit::Signal(9));
    assert_eq!(
        s.swept('a'),
        "a ended 0.1 uncertain code -9+!; a discard; a decided uncertain at 0!; a is queued; \
         drained"
    );
    s.sync();
    let (mut s, said) = s.restart(false);
    assert_eq!(said, "* opened!; a started 1.1; a load 1; a is loading");
    assert_eq!(s.outcome('a').name(), "uncertain");
    assert_eq!(s.steps('a'), "0 uncertain, 1 succeeded");
}

/// Before the program runs nothing is uncertain: whatever kind of step it is, it is put back.
#[test]
fn what_has_not_started_is_put_back() {
    for state in [State::Committing, State::Loading] {
        let mut s = Script::new();
        s.submit(&plan('a', &[STOP]));
        s.until('a', state);
        s.drain(5_000);
        let said = s.due(5_000);
        assert!(said.starts_with("a interrupted 0!; "), "{said}");
        assert!(said.ends_with("discard; a is queued; drained"), "{said}");
    }
    let mut s = Script::new();
    s.submit(&plan('b', &[STOP]));
    s.until('b', State::Starting);
    s.drain(5_000);
    assert_eq!(s.due(5_000), "b is starting");
    assert_eq!(s.spawn_failed('b', true), "b interrupted 0!; b discard; b is queued; drained");

    let mut s = Script::new();
    s.submit(&plan('c', &[STOP]));
    s.until('c', State::Starting);
    s.drain(5_000);
    s.due(5_000);
    assert_eq!(s.spawned('c'), "c TERM; c is stopping", "but it might have");
}

/// A program that has ended before the deadline has ended as it did, though its descendants have
/// not.
#[test]
fn an_end_before_the_deadline_is_told_as_it_was() {
    let mut s = Script::new();
    s.submit(&plan('a', &[STOP]));
    s.until('a', State::Sweeping);
    s.drain(5_000);
    assert_eq!(s.due(5_000), "a is sweeping");
    assert_eq!(
        s.swept('a'),
        "a ended 0.1 succeeded+!; a discard; a decided succeeded!; a finished!; a is closing; \
         drained"
    );
}

/// A restart that is told to stop at once judges all its tasks first: what they write is part of
/// the stop.
#[test]
fn a_backlog_is_worked_off_before_the_end() {
    let all = Limits { tasks: 60, steps: 60, ids: 60, ..limits() };
    let mut s = Script::with(all, 1);
    for name in ('a'..).take(60) {
        s.submit(&plan(name, &[RERUN]));
    }
    let mut next = s.restarted(&s.disk, true);
    for stored in &s.disk {
        let kind = stored.record.kind();
        next.machine.replay(stored.seq, stored.task, kind, &stored.bytes).expect("whole");
    }
    next.machine.recovered(next.now);
    next.collect();
    assert!(!next.drain(5_000).contains("drained"));
    assert!(next.feed(Input::Timeout).ends_with("drained"));
    assert_eq!(next.next_ms(), Some(5_000));
}

/// Time goes on for what waits: a delay ends and the task is runnable, but does not run.
#[test]
fn waiting_goes_on_and_starts_nothing() {
    let mut s = Script::new();
    s.spec.maximum_attempts = 2;
    s.submit(&plan('a', &[RERUN]));
    s.run('a', Exit::Code(1));
    assert_eq!(s.drain(60_000), "drained");
    assert_eq!(s.due(1_000), "a is queued");
}

/// A reboot makes the system stop the agent. That is how a reboot ends, so nobody waits for it, it
/// is not interrupted, and it has succeeded when the device is back.
#[test]
fn a_reboot_under_way_is_not_interrupted() {
    let mut s = Script::new();
    s.executor = Executor::Host;
    s.spec.start_to_close_ms = 600_000;
    s.submit(&plan('a', &[REBOOT, RERUN]));
    s.until('a', State::Running);
    assert_eq!(s.drain(60_000), "drained");
    assert_eq!(s.due(60_000), "");
    s.machine.stopped(s.now);
    s.collect();
    let (s, said) = s.restart(true);
    assert_eq!(said, "* opened!; a ended 0.1 succeeded!; a started 1.1; a load 1; a is loading");
    assert_eq!(s.steps('a'), "0 succeeded, 1 none");
}
