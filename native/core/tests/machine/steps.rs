//! From step to step: what is written before what, what a failure ends, what runs at the end.

use crate::script::{FINALLY, REBOOT, RERUN, STOP, Script, plan};
use limpet_core::message::{Executor, Exit, Input, Loaded, Outcome, StepHeader, When};
use limpet_core::table::State;

/// A three-step task of steps that must not repeat waits for the disk exactly four times, and each
/// wait covers the end of one step and the intent of the next.
#[test]
fn three_stop_steps_need_four_commits() {
    let mut s = Script::new();
    assert_eq!(s.submit(&plan('a', &[STOP; 3])), "a accepted+!; a started 0.1!; a is committing");
    assert_eq!(s.sync(), "a load 0; #1 accepted; a is loading");
    for step in 0..3 {
        assert_eq!(s.loaded('a'), format!("a start {step}.1; a is starting"));
        assert_eq!(s.spawned('a'), "a is running");
        assert_eq!(s.exited('a', Exit::Code(0)), "a sweep; a is sweeping");
        let ended = format!("a ended {step}.1 succeeded+!; a discard");
        if step < 2 {
            let next = step + 1;
            assert_eq!(s.swept('a'), format!("{ended}; a started {next}.1!; a is committing"));
            assert_eq!(s.sync(), format!("a load {next}; a is loading"));
        } else {
            assert_eq!(
                s.swept('a'),
                format!("{ended}; a decided succeeded!; a finished!; a is closing")
            );
            assert_eq!(s.sync(), "a result succeeded");
        }
    }
    assert_eq!(s.delivered('a'), "a delivered succeeded; a release");
    assert_eq!(s.next_ms(), None);
}

/// A step that may be repeated starts as soon as its task's acceptance is durable, and the next one
/// waits for nothing; all their records still travel in order.
#[test]
fn rerun_steps_wait_for_the_acceptance_only() {
    let mut s = Script::new();
    assert_eq!(s.submit(&plan('a', &[RERUN; 2])), "a accepted+!; a started 0.1; a is committing");
    let accepted = s.accepted('a');
    assert_eq!(s.feed(Input::Durable(accepted)), "a load 0; #1 accepted; a is loading");
    assert_eq!(
        s.run('a', Exit::Code(0)),
        "a ended 0.1 succeeded+!; a discard; a started 1.1; a load 1; a is loading"
    );
    assert_eq!(
        s.run('a', Exit::Code(0)),
        "a ended 1.1 succeeded+!; a discard; a decided succeeded!; a finished!; a is closing"
    );
    assert_eq!(s.feed(Input::Durable(s.urgent - 1)), "", "the result waits for its last record");
    assert_eq!(s.feed(Input::Durable(s.urgent)), "a result succeeded");
}

/// The first step that does not succeed ends its task as failed and names itself; the rest is
/// skipped.
#[test]
fn a_failure_ends_the_task_and_skips_the_rest() {
    for (exit, ended) in [
        (Exit::Code(3), "failed code 3"),
        (Exit::Signal(11), "killed code -11"),
        (Exit::OutOfMemory, "out_of_memory code -9"),
    ] {
        let mut s = Script::new();
        s.submit(&plan('a', &[RERUN, RERUN, RERUN]));
        s.run('a', Exit::Code(0));
        assert_eq!(
            s.run('a', exit),
            format!(
                "a ended 1.1 {ended}+!; a discard; a decided failed at 1!; a finished!; \
                 a is closing"
            )
        );
        let how = ended.split(' ').next().expect("a word");
        assert_eq!(s.steps('a'), format!("0 succeeded, 1 {how}, 2 skipped"));
        assert_eq!(s.outcome('a'), Outcome::Failed);
    }
}

/// The failure of a guarded step ends nothing.
#[test]
fn a_guarded_failure_goes_on() {
    let mut s = Script::new();
    s.submit(&plan('a', &[StepHeader { guarded: true, ..RERUN }, RERUN]));
    assert_eq!(
        s.run('a', Exit::Code(1)),
        "a ended 0.1 failed code 1+!; a discard; a started 1.1; a load 1; a is loading"
    );
    assert_eq!(s.outcome('a'), Outcome::Succeeded);
}

/// A step runs if its condition on an earlier outcome or exit code holds, is skipped without a
/// record if not, and a step that was skipped has neither an exit code nor any outcome but
/// `skipped`.
#[test]
fn conditions_decide_in_both_polarities() {
    let first = StepHeader { guarded: true, ..RERUN };
    let outcome = |outcome, negate| When::Outcome { step: 0, outcome, negate };
    let code = |code, negate| When::ExitCode { step: 0, code, negate };
    let cases = [
        (Exit::Code(0), outcome(Outcome::Succeeded, false), true),
        (Exit::Code(0), outcome(Outcome::Succeeded, true), false),
        (Exit::Code(1), outcome(Outcome::Succeeded, true), true),
        (Exit::Code(1), outcome(Outcome::Failed, false), true),
        (Exit::Signal(9), outcome(Outcome::Failed, false), false),
        (Exit::Signal(9), outcome(Outcome::Killed, false), true),
        (Exit::Code(0), code(0, false), true),
        (Exit::Code(3), code(3, false), true),
        (Exit::Code(3), code(3, true), false),
        (Exit::Code(4), code(3, false), false),
        (Exit::Code(4), code(3, true), true),
        (Exit::Signal(3), code(-3, false), false),
    ];
    for (exit, when, runs) in cases {
        let mut s = Script::new();
        s.submit(&plan('a', &[first, StepHeader { when, ..RERUN }]));
        let said = s.run('a', exit);
        assert_eq!(said.contains("load 1"), runs, "{exit:?} {when:?}: {said}");
        assert_eq!(s.outcome('a'), Outcome::Succeeded);
        assert_eq!(s.steps('a').ends_with("1 succeeded"), runs);
        assert_eq!(s.steps('a').ends_with("1 skipped"), !runs);
    }
    let mut s = Script::new();
    let never = StepHeader { when: outcome(Outcome::Failed, false), ..RERUN };
    let when = When::Outcome { step: 1, outcome: Outcome::Skipped, negate: false };
    s.submit(&plan('a', &[RERUN, never, StepHeader { when, ..RERUN }]));
    assert!(s.run('a', Exit::Code(0)).ends_with("a started 2.1; a load 2; a is loading"));
}

/// What the machine cannot judge, the loader does: a step that it skips is recorded as skipped and
/// a step that it refuses as refused, neither has run, and a refusal fails the task.
#[test]
fn the_loader_may_skip_or_refuse() {
    let mut s = Script::new();
    s.submit(&plan('a', &[STOP, STOP]));
    s.until('a', State::Loading);
    let attempt = s.attempt('a');
    assert_eq!(
        s.feed(Input::Loaded(attempt, Loaded::Skip)),
        "a ended 0.1 skipped+!; a discard; a started 1.1!; a is committing"
    );
    s.sync();
    let attempt = s.attempt('a');
    assert_eq!(
        s.feed(Input::Loaded(attempt, Loaded::Refused)),
        "a ended 1.1 refused+!; a discard; a decided failed at 1!; a finished!; a is closing"
    );
}

/// The outcome is durable before the first finally step starts, and nothing that finally steps do
/// changes it: all of them run.
#[test]
fn finally_runs_after_a_durable_failure_and_never_changes_it() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN, RERUN, FINALLY, FINALLY]));
    assert_eq!(
        s.run('a', Exit::Code(7)),
        "a ended 0.1 failed code 7+!; a discard; a decided failed at 0!; a started 2.1; \
         a is committing"
    );
    assert_eq!(s.sync(), "a load 2; a is loading");
    assert_eq!(
        s.run('a', Exit::Code(1)),
        "a ended 2.1 failed code 1+!; a discard; a started 3.1; a load 3; a is loading"
    );
    s.executor = Executor::Host;
    assert_eq!(s.loaded('a'), "a start 3.1 by host; a is running");
    assert_eq!(
        s.exited('a', Exit::Code(1)),
        "a ended 3.1 failed code 1+!; a discard; a finished!; a is closing"
    );
    assert_eq!(s.steps('a'), "0 failed, 1 skipped, 2 failed, 3 failed");
    assert_eq!(s.sync(), "a result failed");

    let mut s = Script::new();
    s.submit(&plan('b', &[RERUN, FINALLY]));
    s.run('b', Exit::Code(0));
    assert!(s.run('b', Exit::Code(1)).contains("b ended 1.1 failed"));
    assert_eq!(s.outcome('b'), Outcome::Succeeded);
}

/// Work of the machine's own timer ends by itself, leaves no process behind, and costs no thread.
#[test]
fn a_timer_needs_nobody() {
    let mut s = Script::new();
    s.executor = Executor::Timer(2_500);
    s.submit(&plan('a', &[RERUN]));
    s.sync();
    assert_eq!(s.loaded('a'), "a is running");
    assert_eq!(
        s.due(2_500),
        "a ended 0.1 succeeded+!; a discard; a decided succeeded!; a finished!; a is closing"
    );
}

/// A timer that is longer than the clock of its attempt is over at the clock, also when the device
/// slept through both.
#[test]
fn a_timer_longer_than_its_clock_times_out_however_late() {
    let mut s = Script::new();
    s.executor = Executor::Timer(20_000);
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Running);
    s.set(30_000);
    assert!(s.feed(Input::Timeout).starts_with("a ended 0.1 timed_out by start_to_close+!"));
}

/// The host's work ends when the host says so; a host that fails fails its step.
#[test]
fn a_reboot_that_fails_is_a_failure() {
    let mut s = Script::new();
    s.executor = Executor::Host;
    s.submit(&plan('a', &[REBOOT]));
    s.sync();
    assert_eq!(s.loaded('a'), "a start 0.1 by host; a is running");
    assert_eq!(
        s.exited('a', Exit::Code(1)),
        "a ended 0.1 failed code 1+!; a discard; a decided failed at 0!; a finished!; a is closing"
    );
}
