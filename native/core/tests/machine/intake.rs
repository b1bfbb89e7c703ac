//! What the host hands in: every reason to refuse, what is known of ids, and when answers may
//! leave.

use crate::script::{FINALLY, Plan, RERUN, STOP, Script, WALL_MS, limits, plan};
use limpet_core::Limits;
use limpet_core::limits::ANSWERS_MAX;
use limpet_core::message::{Exit, Input, StepHeader, TaskRef};
use limpet_core::table::State;

/// Each full table is an answer with its own name, and a refusal leaves nothing behind.
#[test]
fn full_is_an_answer_and_keeps_nothing() {
    let cases = [
        (Limits { tasks: 1, ..limits() }, "busy_tasks"),
        (Limits { steps: 3, ..limits() }, "busy_steps"),
        (Limits { tasks: 1, ids: 1, ..limits() }, "busy_tasks"),
        // Two reserves of 100 bytes and three ends of 12 KiB do not fit.
        (Limits { live_bytes: 2 * (100 + 3 * 8_192) - 1, ..limits() }, "busy_bytes"),
    ];
    for (limits, reason) in cases {
        let mut s = Script::with(limits, 1);
        s.submit(&plan('a', &[STOP, STOP]));
        s.until('a', State::Running);
        let held = s.machine.live_bytes();
        assert_eq!(s.submit(&plan('b', &[STOP, STOP])), format!("#2 refused {reason}"));
        assert_eq!(s.machine.live_bytes(), held);
        assert_eq!(s.submit(&plan('b', &[STOP, STOP])), format!("#3 refused {reason}"));
        s.until('a', State::Reporting);
        s.delivered('a');
        assert_eq!(s.machine.live_bytes(), 0);
        let again = s.submit(&plan('b', &[STOP, STOP]));
        assert_eq!(again.contains("b accepted"), limits.ids > 1, "{again}");
    }
}

/// The reserve is exact: what fits to the byte is accepted.
#[test]
fn the_last_byte_may_be_used() {
    let fits = Limits { live_bytes: 2 * (100 + 3 * 8_192), ..limits() };
    let mut s = Script::with(fits, 1);
    s.submit(&plan('a', &[STOP, STOP]));
    assert!(s.submit(&plan('b', &[STOP, STOP])).contains("b accepted"));
    assert_eq!(s.machine.live_bytes(), fits.live_bytes);
}

/// An id is kept until it has expired, to the second above; a full table of ids refuses new tasks
/// rather than forget; what is forgotten is released from the journal.
#[test]
fn ids_are_kept_until_they_expire() {
    let mut s = Script::with(Limits { tasks: 1, ids: 1, ..limits() }, 1);
    let short = Plan { expires_ms: WALL_MS + 10_500, ..plan('a', &[RERUN]) };
    s.submit(&short);
    s.until('a', State::Reporting);
    assert_eq!(s.submit(&short), "#2 alive");
    s.delivered('a');
    assert_eq!(s.submit(&short), "#3 ended succeeded");
    assert_eq!(s.submit(&Plan { digest: 2, ..short.clone() }), "#4 refused id_conflict");
    assert_eq!(s.submit(&plan('b', &[RERUN])), "#5 refused busy_ids");
    assert_eq!(s.cancel('b'), "#6 refused busy_ids");
    s.set(11_000);
    assert_eq!(s.submit(&plan('b', &[RERUN])), "#7 refused busy_ids");
    s.set(11_001);
    assert_eq!(
        s.submit(&plan('b', &[RERUN])),
        "a release all; b accepted+!; b started 0.1; b is committing"
    );
}

/// A task that lives holds its id, however long ago it expired.
#[test]
fn the_id_of_a_live_task_does_not_expire() {
    let mut s = Script::with(Limits { tasks: 2, ids: 2, ..limits() }, 1);
    let short = Plan { expires_ms: WALL_MS + 1_000, ..plan('a', &[RERUN]) };
    s.submit(&short);
    s.until('a', State::Running);
    s.set(9_000);
    assert_eq!(s.submit(&short), "#2 alive");
    assert_eq!(s.submit(&plan('b', &[RERUN])).matches("release").count(), 0);
}

/// The same id with another body is refused, whether the task lives or has ended.
#[test]
fn an_id_stands_for_one_body() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Running);
    assert_eq!(s.submit(&Plan { digest: 2, ..plan('a', &[RERUN]) }), "#2 refused id_conflict");
    assert_eq!(s.submit(&plan('a', &[RERUN])), "#3 alive");
}

/// A task is refused at its expiry, by a clock that never runs behind the newest trusted reading.
#[test]
fn expired_is_refused_and_time_does_not_run_back() {
    let mut s = Script::new();
    let at = |ms| Plan { expires_ms: WALL_MS + ms, ..plan('a', &[RERUN]) };
    assert_eq!(s.submit(&at(0)), "#1 refused expired");
    s.set(50_000);
    s.feed(Input::Timeout);
    s.now.wall_ms = WALL_MS;
    assert_eq!(s.submit(&at(50_000)), "#2 refused expired");
    (s.now.trusted, s.now.wall_ms) = (false, WALL_MS + 900_000);
    let waived = |ms| Plan { waived: true, ..at(ms) };
    assert_eq!(s.submit(&waived(900_000)), "#3 refused expired", "by whatever the clock says");
    s.now.wall_ms = WALL_MS;
    assert_eq!(s.submit(&waived(900_000)), "#4 refused expired", "which does not run back");
    s.set(51_000);
    s.now.wall_ms = WALL_MS;
    assert_eq!(s.submit(&waived(901_000)), "#5 refused expired", "but on");
    assert_eq!(s.machine.known_wall_ms(), WALL_MS + 50_000);
    s.now.trusted = true;
    assert!(s.submit(&at(50_001)).contains("a accepted"), "what was not trusted does not count");
}

/// A device that never learns the time would be full for ever; so would the one that replays its
/// journal, in which the forgotten ids still stand.
#[test]
fn a_full_table_is_cleared_by_an_untrusted_clock_if_that_is_waived() {
    let mut s = Script::with(Limits { tasks: 1, ids: 1, ..limits() }, 1);
    s.now.trusted = false;
    let waived = |name, ms| Plan { waived: true, expires_ms: WALL_MS + ms, ..plan(name, &[RERUN]) };
    s.submit(&waived('a', 10_000));
    s.until('a', State::Reporting);
    s.delivered('a');
    assert_eq!(s.submit(&waived('b', 90_000)), "#2 refused busy_ids");
    s.set(10_001);
    assert_eq!(s.submit(&plan('b', &[RERUN])), "#3 refused clock_untrusted");
    assert!(s.submit(&waived('b', 90_000)).contains("a release all; b accepted"));
    s.until('b', State::Running);
    let (next, _) = s.restart(false);
    assert!(next.find('b').is_some() && next.find('a').is_none());
}

/// Which id that was is not known to the replay any more: it forgets the one that expires first.
#[test]
fn a_replay_by_an_untrusted_clock_forgets_the_first_to_expire() {
    let mut s = Script::with(Limits { tasks: 1, ids: 2, ..limits() }, 1);
    s.now.trusted = false;
    let waived = |name, ms| Plan { waived: true, expires_ms: WALL_MS + ms, ..plan(name, &[RERUN]) };
    for (name, ms) in [('a', 90_000), ('b', 10_000)] {
        s.submit(&waived(name, ms));
        s.until(name, State::Reporting);
        s.delivered(name);
    }
    s.set(10_001);
    assert!(s.submit(&waived('c', 90_000)).contains("b release all; c accepted"));
    s.sync();
    let (mut next, _) = s.restart(false);
    next.sync();
    assert_eq!(next.submit(&waived('a', 90_000)), "#1 ended succeeded");
}

/// Without a trusted clock tasks are refused unless policy waives it; known ids are answered
/// anyway.
#[test]
fn an_untrusted_clock_refuses_unless_waived() {
    let mut s = Script::new();
    s.now.trusted = false;
    let waived = Plan { waived: true, ..plan('a', &[RERUN]) };
    assert_eq!(s.submit(&plan('a', &[RERUN])), "#1 refused clock_untrusted");
    assert!(s.submit(&waived).contains("a accepted"));
    assert_eq!(s.sync(), "a load 0; #2 accepted; a is loading");
    assert_eq!(s.submit(&plan('a', &[RERUN])), "#3 alive");
}

/// A cancel that comes before its task is durable before it is answered, stops that task until it
/// expires, and is then forgotten and released.
#[test]
fn a_cancel_before_its_task_leaves_a_tombstone() {
    let mut s = Script::new();
    assert_eq!(s.cancel_as('a', 1, false, WALL_MS + 5_000), "a tombstone!");
    assert_eq!(s.cancel_as('a', 1, false, WALL_MS + 5_000), "", "not before it is durable either");
    assert_eq!(s.sync(), "#1 remembered; #2 remembered");
    assert_eq!(s.submit(&plan('a', &[RERUN])), "#3 refused cancelled_before");
    s.set(5_001);
    assert_eq!(
        s.submit(&plan('a', &[RERUN])),
        "a release all; a accepted+!; a started 0.1; a is committing"
    );
}

/// While the agent stops, new tasks are refused and known ones still answered.
#[test]
fn draining_refuses_the_new() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Running);
    s.drain(60_000);
    assert_eq!(s.submit(&plan('b', &[RERUN])), "#2 refused draining");
    assert_eq!(s.submit(&plan('a', &[RERUN])), "#3 alive");
}

/// When the journal cannot be written nothing is accepted and nothing more starts, and what was not
/// durable is never answered; what runs goes on.
#[test]
fn a_failed_store_accepts_and_starts_nothing() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN, RERUN]));
    s.until('a', State::Running);
    s.submit(&plan('b', &[RERUN]));
    assert_eq!(s.feed(Input::StoreFailed), "");
    assert_eq!(s.exited('a', Exit::Code(0)), "a sweep; a is sweeping");
    assert_eq!(s.swept('a'), "a ended 0.1 succeeded+!; a discard; a is queued");
    assert_eq!(s.submit(&plan('c', &[RERUN])), "", "its refusal stands behind what is not durable");
    s.set(1_000);
    assert_eq!(s.feed(Input::Timeout), "");
    assert_eq!(s.state('b'), State::Committing);
    assert_eq!(s.state('c'), State::Free);
}

/// Only the source of a task, or whoever policy says, may cancel it.
#[test]
fn strangers_may_not_cancel() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Running);
    assert_eq!(s.cancel_as('a', 2, false, 0), "#2 refused not_owner");
    assert_eq!(s.cancel_as('a', 2, true, 0), "a cancel requested!; a TERM; a is stopping");
    assert_eq!(s.sync(), "#3 cancelling");
}

/// Steps are taken by a task that waits for them and by no other, dead ones included.
#[test]
fn nobody_waits_for_unasked_steps() {
    let mut s = Script::new();
    s.submit(&Plan { additions: 4, ..plan('a', &[RERUN]) });
    s.until('a', State::Running);
    assert_eq!(s.extend('a', &[RERUN]), "#2 refused not_waiting");
    let task = TaskRef { slot: 3, generation: 9 };
    let unknown = Input::Extend { token: 77, task, steps: &[RERUN], bytes: 1 };
    assert_eq!(s.feed(unknown), "#77 refused not_waiting");
    let outside = TaskRef { slot: u16::MAX, generation: 0 };
    let unknown = Input::Extend { token: 78, task: outside, steps: &[RERUN], bytes: 1 };
    assert_eq!(s.feed(unknown), "#78 refused not_waiting");
}

/// A task has 1 to 32 steps, and begins with a main step.
#[test]
fn a_task_outside_the_format_is_invalid() {
    let mut s = Script::new();
    assert_eq!(s.submit(&plan('a', &[])), "#1 refused invalid");
    assert_eq!(s.submit(&plan('a', &[RERUN; 33])), "#2 refused invalid");
    assert_eq!(s.submit(&plan('a', &[FINALLY])), "#3 refused invalid");
    assert!(s.submit(&plan('a', &[StepHeader { stop: true, ..RERUN }; 32])).contains("a accepted"));
}

/// Nothing is answered before everything it rests on is durable, not even a repeated question or a
/// refusal behind it; then all leave in the order in which they were asked.
#[test]
fn answers_leave_in_order_and_after_durability() {
    let mut s = Script::new();
    assert_eq!(s.submit(&plan('a', &[STOP])), "a accepted+!; a started 0.1!; a is committing");
    assert_eq!(s.submit(&plan('a', &[STOP])), "");
    assert_eq!(s.submit(&plan('b', &[])), "");
    let accepted = s.accepted('a');
    assert_eq!(s.submit(&plan('c', &[RERUN])), "c accepted+!; c started 0.1; c is committing");
    assert_eq!(s.cancel('b'), "b tombstone!");
    assert_eq!(
        s.feed(Input::Durable(accepted)),
        "#1 accepted",
        "its own acceptance is all that it needs"
    );
    assert_eq!(s.submit(&plan('a', &[STOP])), "");
    let said = s.sync();
    let answers: Vec<_> = said.split("; ").filter(|word| word.starts_with('#')).collect();
    assert_eq!(
        answers,
        ["#2 alive", "#3 refused invalid", "#4 accepted", "#5 remembered", "#6 alive"]
    );
}

/// Older news of the disk changes nothing.
#[test]
fn durability_does_not_run_back() {
    let mut s = Script::new();
    s.submit(&plan('a', &[STOP]));
    s.sync();
    assert_eq!(s.feed(Input::Durable(0)), "");
    assert_eq!(s.submit(&plan('a', &[STOP])), "#2 alive", "what was durable still is");
    s.submit(&plan('b', &[STOP]));
    assert_eq!(s.feed(Input::Durable(1)), "");
    assert_eq!(s.state('b'), State::Committing);
}

/// The machine says beforehand whether it can keep another answer.
#[test]
fn the_number_of_open_questions_is_bounded() {
    let mut s = Script::new();
    s.submit(&plan('a', &[STOP]));
    for _ in 1..ANSWERS_MAX {
        assert!(s.machine.can_take());
        assert_eq!(s.submit(&plan('a', &[STOP])), "");
    }
    assert!(!s.machine.can_take());
    assert_eq!(s.sync().matches("alive").count(), ANSWERS_MAX - 1);
    assert!(s.machine.can_take());
}
