//! Whose turn it is.

use crate::script::{FINALLY, Plan, RERUN, STOP, Script, limits, plan};
use limpet_core::Limits;
use limpet_core::message::StepHeader;
use limpet_core::message::{Exit, Input};
use limpet_core::table::State;

fn one_at_a_time() -> Script {
    Script::with(Limits { attempts: 1, tasks: 8, ..limits() }, 1)
}

fn order(s: &mut Script, count: usize) -> String {
    let mut order = String::new();
    for _ in 0..count {
        let names = "abcdefgh".chars();
        let now = names.filter(|name| s.state(*name).has_attempt()).collect::<String>();
        assert_eq!(now.len(), 1, "one at a time");
        order += &now;
        s.until(now.chars().next().expect("one"), State::Closing);
    }
    order
}

/// Higher priority first, then first come, first served; what runs is not interrupted.
#[test]
fn priority_first_then_order_of_arrival() {
    let mut s = one_at_a_time();
    for (name, priority) in [('a', 0), ('b', -1), ('c', 0), ('d', 5), ('e', 5), ('f', i8::MIN)] {
        s.set(u64::from(u32::from(name)) * 10);
        s.submit(&Plan { priority, ..plan(name, &[RERUN]) });
    }
    assert_eq!(order(&mut s, 6), "adecbf");
}

/// Each step waits for its own turn, so that a long task does not keep a short one waiting to its
/// end.
#[test]
fn steps_take_turns() {
    let mut s = one_at_a_time();
    s.submit(&plan('a', &[RERUN, RERUN]));
    s.set(5);
    s.submit(&plan('b', &[RERUN]));
    s.set(10);
    assert!(s.run('a', Exit::Code(0)).contains("b started 0.1"));
    assert_eq!(s.state('a'), State::Queued);
    s.set(20);
    assert!(s.run('b', Exit::Code(0)).contains("a started 1.1"));
}

/// No more attempts than the limit, whatever waits.
#[test]
fn attempts_are_bounded() {
    let mut s = Script::with(Limits { attempts: 3, tasks: 8, ..limits() }, 1);
    let before = s.machine.stats();
    for name in "abcdefg".chars() {
        s.submit(&plan(name, &[RERUN]));
    }
    assert_eq!(s.machine.live_attempts(), 3);
    assert_eq!(s.state('d'), State::Queued);
    assert!(s.run('b', Exit::Code(0)).contains("d started 0.1"));
    assert_eq!(s.machine.live_attempts(), 3);
    let (before, after) = (before, s.machine.stats());
    assert_eq!(after.accepted, 7);
    assert_eq!(after.attempts, 4, "all that were admitted are counted");
    assert_eq!(after.inputs - before.inputs, 12, "7 tasks, 5 from the start of b to its end");
}

/// A slot of attempts serves again and again, and an answer to an earlier use of it is stale.
#[test]
fn a_late_answer_falls_into_the_void() {
    let mut s = one_at_a_time();
    s.submit(&plan('a', &[RERUN, RERUN]));
    s.until('a', State::Running);
    let first = s.attempt('a');
    s.run('a', Exit::Code(0));
    s.until('a', State::Running);
    let stale = s.machine.stats().stale;
    assert_eq!(s.feed(Input::Spawned(first)), "");
    assert_eq!(s.feed(Input::Heartbeat(first)), "");
    assert_eq!(s.feed(Input::Swept(first)), "");
    assert_eq!(s.feed(Input::SpawnFailed { attempt: first, before_exec: true }), "");
    assert_eq!(s.machine.stats().stale, stale + 4);
    assert_eq!(s.state('a'), State::Running);
    let exit = Exit::Code(9);
    assert_eq!(
        s.feed(Input::Exited { attempt: first, exit, continues: false }),
        "a sweep",
        "what turns up late is removed"
    );
    assert_eq!(s.outcome('a').name(), "succeeded");
}

fn crashed(mut s: Script, names: &str) -> Script {
    for name in names.chars() {
        s.submit(&plan(name, &[RERUN]));
        s.until(name, State::Running);
    }
    let mut back = s.restarted(&s.disk, false);
    back.recover();
    back
}

/// After a crash of the agent whatever was in flight is suspect: suspects run first, and each
/// alone, so that a second crash has one possible culprit; then all others at once.
#[test]
fn suspects_run_alone_and_first() {
    let mut s = crashed(Script::with(Limits { attempts: 4, tasks: 8, ..limits() }, 1), "ab");
    s.submit(&Plan { priority: 100, ..plan('c', &[RERUN]) });
    s.submit(&Plan { priority: 100, ..plan('d', &[STOP]) });
    assert_eq!(s.machine.live_attempts(), 1);
    assert_eq!(s.state('a'), State::Loading);
    assert!(s.disk.iter().any(|stored| {
        let record = stored.record;
        matches!(record, limpet_core::record::Record::Started { suspicions: 1, .. })
    }));
    assert!(s.run('a', Exit::Code(0)).contains("b started 0.1 suspect 1"));
    assert_eq!(s.machine.live_attempts(), 1);
    let said = s.run('b', Exit::Code(0));
    assert!(said.contains("c started 0.1") && said.contains("d started 0.1"), "{said}");
}

/// A suspect that cannot be killed keeps its slot, not the whole agent.
#[test]
fn an_unkillable_suspect_does_not_stop_the_others() {
    let mut s = crashed(Script::with(Limits { attempts: 2, tasks: 8, ..limits() }, 1), "ab");
    s.until('a', State::Running);
    s.due(10_000);
    s.due(10_500);
    let said = s.due(20_500);
    assert!(said.contains("unreaped"), "{said}");
    assert!(said.contains("b started 0.1 suspect 1"), "{said}");
}

/// A step that ended well is no suspect any more, and its successor never was.
#[test]
fn suspicion_ends_with_the_step() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN, RERUN, FINALLY]));
    s.until('a', State::Running);
    let (mut s, said) = s.restart(false);
    assert_eq!(said, "* opened!; a started 0.1 suspect 1; a load 0; a is loading");
    assert!(s.run('a', Exit::Code(0)).contains("a started 1.1; a load 1"));
}

// --- memory -------------------------------------------------------------------------------------

/// A pool of 100 KiB and attempts enough; after 5 s a step stands in the way of others.
fn pooled() -> Script {
    Script::with(Limits { attempts: 8, tasks: 8, pool_kib: 100, ..limits() }, 1)
}

fn taking(name: char, memory_kib: u32) -> Plan {
    plan(name, &[StepHeader { memory_kib, ..RERUN }])
}

/// Who has an attempt.
fn running(s: &Script) -> String {
    ('a'..='z').filter(|name| s.state(*name).has_attempt()).collect()
}

/// What fits to the last KiB runs; a smaller one passes one that does not fit; what takes nothing
/// is never in the way of anybody and nobody is in its way.
#[test]
fn attempts_share_the_pool() {
    let mut s = pooled();
    for (name, kib) in [('a', 60), ('b', 41), ('c', 40), ('d', 1), ('e', 0)] {
        s.submit(&taking(name, kib));
    }
    assert_eq!((running(&s).as_str(), s.machine.pool_held_kib()), ("ace", 100));
    s.run('c', Exit::Code(0));
    assert_eq!((running(&s).as_str(), s.machine.pool_held_kib()), ("ade", 61));
    s.run('a', Exit::Code(0));
    assert_eq!((running(&s).as_str(), s.machine.pool_held_kib()), ("bde", 42));
}

/// A step that has waited long enough gets the next memory that is free: those behind it leave it,
/// those before it do not.
#[test]
fn a_large_step_ages_and_is_not_starved() {
    let mut s = pooled();
    s.submit(&taking('a', 60));
    s.set(1_000);
    s.submit(&taking('b', 90));
    s.set(5_999);
    s.submit(&taking('c', 10));
    assert_eq!(running(&s), "ac", "not yet");
    s.set(6_000);
    s.submit(&taking('d', 10));
    s.submit(&taking('e', 0));
    s.submit(&Plan { priority: 1, ..taking('f', 10) });
    assert_eq!(running(&s), "acef", "d is behind b, e takes nothing, f goes before b");
    s.run('c', Exit::Code(0));
    s.run('f', Exit::Code(0));
    assert_eq!(running(&s), "ae", "what is free is kept for b");
    s.run('a', Exit::Code(0));
    assert_eq!(running(&s), "bde");
}

/// What a process that does not die has of the pool stays taken until it is gone. A step that
/// cannot fit beside it waits and stands in nobody's way.
#[test]
fn memory_of_what_does_not_die_stays_taken() {
    let mut s = pooled();
    s.submit(&taking('a', 60));
    s.until('a', State::Running);
    let lost = s.attempt('a');
    s.due(10_000);
    s.due(10_500);
    assert!(s.due(20_500).contains("unreaped"));
    s.submit(&taking('b', 41));
    s.set(30_000);
    s.submit(&taking('c', 10));
    assert_eq!((running(&s).as_str(), s.machine.pool_held_kib()), ("c", 70));
    s.run('c', Exit::Code(0));
    s.feed(Input::Exited { attempt: lost, exit: Exit::Signal(9), continues: false });
    s.feed(Input::Swept(lost));
    assert_eq!((running(&s).as_str(), s.machine.pool_held_kib()), ("b", 41));
}

/// A journal may tell of a step that takes more than the pool has by now: it gets all of it.
#[test]
fn a_step_above_the_pool_waits_for_all_of_it() {
    let mut s = pooled();
    s.submit(&taking('a', 10));
    s.submit(&taking('b', 1_000));
    assert_eq!(running(&s), "a");
    s.run('a', Exit::Code(0));
    assert_eq!((running(&s).as_str(), s.machine.pool_held_kib()), ("b", 100));
}

/// The share is the step's at hand, and is back when its attempt is over, however it ends.
#[test]
fn the_share_ends_with_the_attempt() {
    let mut s = pooled();
    let step = |memory_kib| StepHeader { memory_kib, ..RERUN };
    s.submit(&plan('a', &[step(30), step(80)]));
    assert_eq!(s.machine.pool_held_kib(), 30);
    s.run('a', Exit::OutOfMemory);
    assert_eq!(s.machine.pool_held_kib(), 0);
    s.submit(&plan('b', &[step(30), step(80)]));
    s.run('b', Exit::Code(0));
    assert_eq!(s.machine.pool_held_kib(), 80);
    s.cancel('b');
    assert_eq!(s.machine.pool_held_kib(), 0);
}
