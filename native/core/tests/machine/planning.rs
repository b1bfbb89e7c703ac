//! Continuation: a result that asks for more steps, and what the host may answer.

use crate::script::{FINALLY, Plan, RERUN, STOP, Script, limits, plan};
use limpet_core::Limits;
use limpet_core::message::{Exit, Input, Outcome, StepHeader, TaskRef, When};
use limpet_core::table::State;

fn asks(s: &mut Script, name: char) -> String {
    s.until(name, State::Running);
    let attempt = s.attempt(name);
    s.feed(Input::Exited { attempt, exit: Exit::Code(0), continues: true });
    s.swept(name)
}

fn planner(additions: u8, steps: &[StepHeader]) -> Plan {
    Plan { additions, ..plan('a', steps) }
}

/// New steps run right behind the one that asked for them, before what was planned at first, and
/// not before their record is durable.
#[test]
fn steps_are_added_behind_the_one_that_asked() {
    let mut s = Script::new();
    s.submit(&planner(4, &[RERUN, RERUN, FINALLY]));
    assert_eq!(
        asks(&mut s, 'a'),
        "a ended 0.1 succeeded continues+!; a discard; a continues behind 0"
    );
    assert_eq!(
        s.extend('a', &[RERUN, STOP]),
        "a extended 0 by 2+!; a started 3.1; a is committing",
        "it waits for the disk although it may be repeated"
    );
    assert_eq!(s.sync(), "a load 3; #2 accepted; a is loading");
    assert!(asks(&mut s, 'a').ends_with("a continues behind 3"), "an added step may ask again");
    s.extend('a', &[RERUN]);
    s.until('a', State::Reporting);
    assert_eq!(
        s.steps('a'),
        "0 succeeded, 3 succeeded, 5 succeeded, 4 succeeded, 1 succeeded, 2 succeeded"
    );
}

/// More steps than the task's ceiling or than 32 in all, finally steps among them, or a full pool
/// are refused; the task goes on waiting, and what fits is taken.
#[test]
fn ceilings_hold_and_the_task_waits_on() {
    let mut s = Script::with(Limits { steps: 33, ..limits() }, 1);
    s.submit(&planner(40, &[RERUN; 30]));
    asks(&mut s, 'a');
    assert_eq!(s.sync(), "");
    assert_eq!(s.extend('a', &[RERUN; 3]), "#2 refused invalid");
    assert_eq!(s.extend('a', &[FINALLY]), "#3 refused invalid");
    s.submit(&plan('b', &[RERUN, RERUN]));
    s.sync();
    assert_eq!(s.extend('a', &[RERUN; 2]), "#5 refused busy_steps");
    assert_eq!(s.state('a'), State::Planning);
    assert!(s.extend('a', &[RERUN]).starts_with("a extended 0 by 1+!"));

    let mut s = Script::new();
    s.submit(&planner(3, &[RERUN]));
    asks(&mut s, 'a');
    s.sync();
    assert_eq!(s.extend('a', &[RERUN; 4]), "#2 refused invalid");
    s.extend('a', &[RERUN; 2]);
    asks(&mut s, 'a');
    s.sync();
    assert_eq!(s.extend('a', &[RERUN; 2]), "#4 refused invalid", "what was added counts");
    assert!(s.extend('a', &[RERUN]).starts_with("a extended 1 by 1+!"));
}

/// Journal bytes of the extension are reserved like those of the task, and given back with them.
#[test]
fn an_extension_reserves_its_bytes() {
    let room = 100 + 2 * 8_192;
    let mut s = Script::with(Limits { live_bytes: room + 8_192 + 10, ..limits() }, 1);
    s.submit(&planner(3, &[RERUN]));
    asks(&mut s, 'a');
    s.sync();
    assert_eq!(s.extend('a', &[RERUN; 2]), "#2 refused busy_bytes");
    s.extend('a', &[RERUN]);
    assert_eq!(s.machine.live_bytes(), room + 8_192 + 10);
    let (back, _) = s.restart(false);
    assert_eq!(back.machine.live_bytes(), s.machine.live_bytes(), "after a restart as before");
    s.until('a', State::Reporting);
    s.delivered('a');
    assert_eq!(s.machine.live_bytes(), 0);
}

/// When the host refuses the steps the task fails at the step that asked, and cleans up.
#[test]
fn a_refused_plan_fails_the_task() {
    let mut s = Script::new();
    s.submit(&planner(3, &[RERUN, RERUN, FINALLY]));
    asks(&mut s, 'a');
    assert_eq!(
        s.extend('a', &[]),
        "a extended 0 by 0!; a decided failed at 0!; a started 2.1; a is committing"
    );
    assert_eq!(s.sync(), "a load 2; #2 accepted; a is loading");
    assert_eq!(s.outcome('a').name(), "failed");
}

/// A finally step that asks for more is not heard, nor is a step that failed.
#[test]
fn only_a_main_step_that_succeeded_may_ask() {
    let mut s = Script::new();
    s.submit(&planner(3, &[RERUN, FINALLY]));
    s.run('a', Exit::Code(0));
    assert!(asks(&mut s, 'a').ends_with("a finished!; a is closing"));
    let mut s = Script::new();
    s.submit(&planner(3, &[RERUN]));
    s.until('a', State::Running);
    let attempt = s.attempt('a');
    s.feed(Input::Exited { attempt, exit: Exit::Code(1), continues: true });
    assert!(s.swept('a').starts_with("a ended 0.1 failed code 1+!; a discard; a decided failed"));
}

/// An added step may depend on how earlier ones ended, added or not.
#[test]
fn added_steps_have_conditions_too() {
    let mut s = Script::new();
    s.submit(&planner(3, &[RERUN]));
    asks(&mut s, 'a');
    let when = |step, outcome| When::Outcome { step, outcome, negate: false };
    let guarded = StepHeader { guarded: true, when: when(0, Outcome::Succeeded), ..RERUN };
    let then = StepHeader { when: when(1, Outcome::Failed), ..RERUN };
    let never = StepHeader { when: when(1, Outcome::Succeeded), ..RERUN };
    s.extend('a', &[guarded, never, then]);
    assert!(s.run('a', Exit::Code(1)).ends_with("a load 3; a is loading"));
    s.until('a', State::Reporting);
    assert_eq!(s.steps('a'), "0 succeeded, 1 failed, 2 skipped, 3 succeeded");
}

/// Only a submission and an extension bring steps, and those can be exchanged for equal ones that
/// live elsewhere.
#[test]
fn an_input_tells_the_steps_it_brings() {
    let steps = [RERUN, STOP];
    let task = TaskRef { slot: 0, generation: 0 };
    let input = Input::Extend { token: 1, task, steps: &steps, bytes: 10 };
    assert_eq!(input.steps(), steps);
    assert_eq!(input.with_steps(&steps[1..]).steps(), [STOP]);
    assert_eq!(Input::Timeout.steps(), []);
}

/// Steps that were added count against lowered limits as all others do: what just fits is read.
#[test]
fn added_steps_meet_lowered_limits() {
    let mut s = Script::new();
    s.submit(&planner(2, &[RERUN]));
    asks(&mut s, 'a');
    s.extend('a', &[RERUN; 2]);
    for (steps, fits) in [(2, false), (3, true), (4, true)] {
        let mut next = Script::with(Limits { steps, ..limits() }, 1);
        let mut replay = s.disk.iter().map(|stored| {
            next.machine.replay(stored.seq, stored.task, stored.record.kind(), &stored.bytes)
        });
        assert_eq!(replay.all(|read| read.is_ok()), fits, "{steps} steps");
    }
}
