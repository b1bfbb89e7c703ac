//! Every clock, in every state in which it may run out, and the stop ladder to the nanosecond.

use crate::script::{FINALLY, Plan, RERUN, START, STOP, Script, limits, plan};
use limpet_core::Limits;
use limpet_core::limits::BATCH;
use limpet_core::message::{Executor, Exit, Input, Loaded, StepHeader};
use limpet_core::table::State;

/// `schedule_to_start` covers the wait for a turn, for the disk and for the step to be read;
/// nothing has run, so there is nothing to stop.
#[test]
fn schedule_to_start_runs_until_the_start() {
    for (state, attempt, kept) in
        [(State::Queued, 0, ""), (State::Committing, 1, "+"), (State::Loading, 1, "+")]
    {
        let mut s = Script::new();
        if state == State::Queued {
            for name in ['x', 'y'] {
                s.submit(&plan(name, &[RERUN]));
                s.until(name, State::Starting);
            }
        }
        s.submit(&plan('a', &[StepHeader { schedule_to_start_ms: 700, ..STOP }]));
        s.until('a', state);
        let discard = if attempt == 1 && state == State::Committing { "; discard" } else { "" };
        let discard = if state == State::Loading { "; a discard" } else { discard };
        assert_eq!(
            s.due(700),
            format!(
                "a ended 0.{attempt} timed_out by schedule_to_start{kept}!{discard}; \
                 a decided failed at 0 by schedule_to_start!; a finished!; a is closing"
            ),
            "{state:?}"
        );
    }
}

/// A clock may run out before there is a process to signal; what is late counts from there.
#[test]
fn a_signal_names_the_deadline_that_asks_for_it() {
    for began_ms in [9_000, 10_200] {
        let mut s = Script::new();
        s.submit(&plan('a', &[RERUN]));
        s.until('a', State::Starting);
        if began_ms > 10_000 {
            assert_eq!(s.due(10_000), "a is starting");
        }
        s.set(began_ms);
        let said = s.spawned('a');
        let said = if began_ms < 10_000 { s.due(10_000) } else { said };
        assert_eq!(said, "a TERM; a is stopping");
        assert_eq!(s.signalled_for.map(|due| due.ms_since(START)), Some(10_000));
    }
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Running);
    assert!(s.cancel('a').contains("TERM"));
    assert_eq!(s.signalled_for, None, "no clock asked for it");
}

/// A step that has started has no `schedule_to_start` left; each attempt and each step has its own.
#[test]
fn schedule_to_start_is_per_attempt() {
    let mut s = Script::new();
    s.spec.maximum_attempts = 2;
    s.submit(&plan('a', &[StepHeader { schedule_to_start_ms: 700, ..RERUN }]));
    s.set(600);
    s.until('a', State::Starting);
    assert_eq!(s.next_ms(), Some(10_600));
    s.run('a', Exit::Code(1));
    assert_eq!(s.next_ms(), Some(1_600), "only the delay counts while it waits for another try");
    assert!(s.due(1_600).contains("load 0"));
    assert!(s.due(2_300).starts_with("a ended 0.2 timed_out by schedule_to_start"));
}

/// The whole ladder: TERM at the deadline, KILL after the grace, given up after the time to die,
/// with the flag on its record and the slot held until the process is seen to end.
#[test]
fn the_stop_ladder_is_exact() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN, FINALLY]));
    s.until('a', State::Running);
    let attempt = s.attempt('a');
    assert_eq!(s.due(10_000), "a TERM; a is stopping");
    assert_eq!(s.beat('a'), "", "it is too late for a sign of life");
    assert_eq!(s.due(10_500), "a KILL; a is killing");
    assert_eq!(
        s.due(20_500),
        "a ended 0.1 timed_out by start_to_close unreaped+!; \
         a decided failed at 0 by start_to_close!; \
         a started 1.1; a is committing"
    );
    assert_eq!(s.machine.live_attempts(), 2, "the slot is held");
    assert!(s.machine.view(s.task('a')).expect("lives").flags.unreaped);
    s.submit(&plan('b', &[RERUN]));
    assert_eq!(s.state('b'), State::Queued, "and serves nobody else");
    let exit = Exit::Signal(9);
    assert_eq!(s.feed(Input::Exited { attempt, exit, continues: false }), "a sweep");
    assert_eq!(s.machine.live_attempts(), 2);
    assert_eq!(s.feed(Input::Swept(attempt)), "a discard; b started 0.1; b is committing");
    assert_eq!(s.machine.live_attempts(), 2);
    assert_eq!(s.feed(Input::Swept(attempt)), "", "an answer that comes twice is stale");
    assert_eq!(s.outcome('a').name(), "failed");
}

/// What is left of an attempt may be as hard to remove as its leader; how the leader ended is kept.
#[test]
fn a_sweep_is_given_up_too() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Sweeping);
    let attempt = s.attempt('a');
    assert_eq!(
        s.due(10_000),
        "a ended 0.1 succeeded unreaped+!; a decided succeeded!; a finished!; a is closing"
    );
    assert_eq!(s.machine.live_attempts(), 1);
    assert_eq!(s.feed(Input::Swept(attempt)), "a discard");
    assert_eq!(s.machine.live_attempts(), 0);
}

/// A process that ends in its grace, or when killed, is swept and its step has timed out, with what
/// the process made of it.
#[test]
fn an_end_in_time_leaves_the_ladder() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Running);
    s.due(10_000);
    assert_eq!(s.exited('a', Exit::Code(0)), "a sweep; a is sweeping");
    assert_eq!(
        s.swept('a'),
        "a ended 0.1 timed_out by start_to_close+!; a discard; \
         a decided failed at 0 by start_to_close!; \
         a finished!; a is closing"
    );
    let mut s = Script::new();
    s.submit(&plan('b', &[RERUN]));
    s.until('b', State::Running);
    s.due(10_000);
    s.due(10_500);
    s.exited('b', Exit::Signal(9));
    assert!(
        s.swept('b').starts_with("b ended 0.1 timed_out by start_to_close code -9+!; b discard")
    );
}

/// The clock of an attempt starts when its start is asked for: a slow spawner eats from it, and a
/// process that comes too late is told to end at once.
#[test]
fn start_to_close_includes_the_start() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Starting);
    assert_eq!(s.due(10_000), "a is starting");
    assert_eq!(s.next_ms(), Some(3_600_000), "it waits for the spawner alone");
    s.set(12_000);
    assert_eq!(s.spawned('a'), "a TERM; a is stopping");
    assert!(s.due(12_500).starts_with("a KILL"));

    let mut s = Script::new();
    s.submit(&plan('c', &[RERUN]));
    s.until('c', State::Starting);
    s.set(4_000);
    s.spawned('c');
    assert_eq!(s.next_ms(), Some(10_000), "what the start took is gone");

    let mut s = Script::new();
    s.submit(&plan('b', &[RERUN]));
    s.until('b', State::Starting);
    s.due(10_000);
    assert!(s.spawn_failed('b', true).starts_with("b ended 0.1 timed_out by start_to_close"));
}

/// Silence has a bound, from the start of the process on, and each sign of life begins it anew.
#[test]
fn a_heartbeat_postpones_the_silence() {
    let mut s = Script::new();
    s.spec.heartbeat_ms = 300;
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Starting);
    s.set(100);
    s.spawned('a');
    assert_eq!(s.next_ms(), Some(400));
    for at in [350, 600, 899] {
        s.set(at);
        assert_eq!(s.beat('a'), "a is running");
        assert_eq!(s.next_ms(), Some(at + 300));
    }
    assert_eq!(s.due(1_199), "a TERM; a is stopping");
    s.exited('a', Exit::Signal(15));
    assert_eq!(
        s.swept('a'),
        "a ended 0.1 timed_out by heartbeat code -15+!; a discard; \
         a decided failed at 0 by heartbeat!; \
         a finished!; a is closing"
    );
}

/// Signs of life do not move the clock of the attempt, and mean nothing where none are asked for.
#[test]
fn a_heartbeat_moves_no_other_clock() {
    for heartbeat_ms in [0, 6_000] {
        let mut s = Script::new();
        s.spec.heartbeat_ms = heartbeat_ms;
        s.submit(&plan('a', &[RERUN]));
        s.until('a', State::Running);
        s.set(5_000);
        s.beat('a');
        assert_eq!(s.due(10_000), "a TERM; a is stopping");
    }
}

fn closing(name: char, ms: u64) -> Plan {
    Plan { close_ms: ms, ..plan(name, &[STOP, FINALLY]) }
}

/// The clock of the whole ends a task that has not started anything: there is nothing to wait for.
#[test]
fn schedule_to_close_ends_what_has_not_started() {
    for (state, ended) in [
        (State::Queued, ""),
        (State::Committing, "a ended 0.1 timed_out by schedule_to_close+!; discard; "),
        (State::Loading, "a ended 0.1 timed_out by schedule_to_close+!; a discard; "),
    ] {
        let mut s = Script::new();
        if state == State::Queued {
            for name in ['x', 'y'] {
                s.submit(&plan(name, &[RERUN]));
                s.until(name, State::Starting);
            }
        }
        s.submit(&closing('a', 900));
        s.until('a', state);
        let said = s.due(900);
        let decided = format!("{ended}a decided timed_out at 0 by schedule_to_close!; ");
        assert!(said.starts_with(&decided), "{state:?}: {said}");
    }
}

/// A start that is under way when the clock of the whole runs out is ended as soon as it is known,
/// and in no other way than by a signal.
#[test]
fn schedule_to_close_waits_for_the_spawner() {
    let mut s = Script::new();
    s.submit(&closing('a', 900));
    s.until('a', State::Starting);
    assert_eq!(s.due(900), "a is starting");
    assert_eq!(s.spawned('a'), "a TERM; a is stopping");
    s.exited('a', Exit::Signal(15));
    assert_eq!(
        s.swept('a'),
        "a ended 0.1 timed_out by schedule_to_close code -15+!; a discard; \
         a decided timed_out at 0 by schedule_to_close!; a started 1.1; a is committing"
    );
}

/// From running on it climbs the same ladder, once; a ladder that has begun is not begun again.
#[test]
fn schedule_to_close_stops_what_runs() {
    let mut s = Script::new();
    s.submit(&closing('a', 900));
    s.until('a', State::Running);
    assert_eq!(s.due(900), "a TERM; a is stopping");
    assert!(s.due(1_400).starts_with("a KILL"));
    assert_eq!(
        s.due(11_400),
        "a ended 0.1 timed_out by schedule_to_close unreaped+!; \
         a decided timed_out at 0 by schedule_to_close!; a started 1.1; a is committing"
    );

    for (close_ms, step) in [(10_200, State::Stopping), (10_600, State::Killing)] {
        let mut s = Script::new();
        s.submit(&closing('b', close_ms));
        s.until('b', State::Running);
        s.due(10_000);
        if step == State::Killing {
            s.due(10_500);
        }
        assert_eq!(s.due(close_ms), format!("b is {}", step.name()));
        s.exited('b', Exit::Signal(9));
        assert!(s.swept('b').contains("b decided timed_out at 0 by schedule_to_close"));
    }
}

/// A program that has ended before the clock of the whole ran out has ended as it did; its task is
/// late.
#[test]
fn an_end_before_the_deadline_is_told_as_it_was() {
    let mut s = Script::new();
    s.submit(&closing('a', 900));
    s.until('a', State::Sweeping);
    assert_eq!(s.due(900), "a is sweeping");
    assert_eq!(
        s.swept('a'),
        "a ended 0.1 succeeded+!; a discard; a decided timed_out at 0 by schedule_to_close!; \
         a started 1.1; a is committing"
    );
}

/// It ends the wait for another try and the wait for more steps.
#[test]
fn schedule_to_close_ends_every_wait() {
    let mut s = Script::new();
    s.spec.maximum_attempts = 9;
    s.submit(&Plan { close_ms: 900, ..plan('a', &[RERUN]) });
    s.run('a', Exit::Code(1));
    assert_eq!(
        s.due(900),
        "a decided timed_out at 0 by schedule_to_close!; a finished!; a is closing"
    );
    let mut s = Script::new();
    s.submit(&Plan { close_ms: 900, additions: 1, ..plan('b', &[RERUN]) });
    s.until('b', State::Running);
    let attempt = s.attempt('b');
    s.feed(Input::Exited { attempt, exit: Exit::Code(0), continues: true });
    assert!(s.swept('b').ends_with("b continues behind 0"));
    assert_eq!(
        s.due(900),
        "b decided timed_out at 0 by schedule_to_close!; b finished!; b is closing"
    );
}

/// All finally steps share one clock that starts with the decision; what it cuts off is skipped,
/// and the outcome stays.
#[test]
fn the_finally_clock_bounds_all_of_them_together() {
    let mut s = Script::new();
    s.spec.start_to_close_ms = 50_000;
    s.submit(&plan('a', &[RERUN, FINALLY, FINALLY, FINALLY]));
    s.run('a', Exit::Code(1));
    s.until('a', State::Running);
    s.set(40_000);
    s.exited('a', Exit::Code(0));
    s.swept('a');
    s.until('a', State::Running);
    assert_eq!(s.due(60_000), "a TERM; a is stopping");
    s.exited('a', Exit::Signal(15));
    assert_eq!(
        s.swept('a'),
        "a ended 2.1 timed_out by finally code -15+!; a discard; a finished!; a is closing"
    );
    let steps = "0 failed, 1 succeeded, 2 timed_out, 3 skipped";
    assert_eq!(s.steps('a'), steps);
    assert_eq!(s.sync(), "a result failed");
    assert_eq!(s.restart(true).0.steps('a'), steps);
}

/// The clock of the whole has no say once the outcome is fixed.
#[test]
fn schedule_to_close_is_silent_after_the_decision() {
    let mut s = Script::new();
    s.submit(&closing('a', 900));
    s.run('a', Exit::Code(0));
    s.until('a', State::Running);
    s.set(5_000);
    assert_eq!(s.feed(Input::Timeout), "");
    assert_eq!(s.outcome('a').name(), "succeeded");
}

/// A task whose clock has run out starts nothing, whatever arrives before the timer is served.
#[test]
fn nothing_starts_after_the_deadline() {
    let mut s = Script::new();
    s.submit(&closing('a', 900));
    s.until('a', State::Loading);
    s.set(901);
    let attempt = s.attempt('a');
    let said = s.feed(Input::Loaded(attempt, Loaded::Start(Executor::Process, s.spec)));
    assert!(!said.contains("start 0"), "{said}");
}

/// One call stays short: of more tasks than a batch that are due at once, the rest wants to be
/// called again.
#[test]
fn what_is_due_at_once_is_done_in_batches() {
    let mut s = Script::with(Limits { tasks: 40, steps: 80, ids: 40, ..limits() }, 1);
    for number in 0..40u8 {
        s.submit(&closing(char::from(b' ' + number), 1_000));
    }
    s.set(1_000);
    for count in [BATCH, 40 - BATCH] {
        assert_eq!(s.next_ms(), Some(1_000));
        assert_eq!(s.feed(Input::Timeout).matches(" decided timed_out").count(), count);
    }
}
