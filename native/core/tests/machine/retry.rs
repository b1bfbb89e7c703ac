//! Trying again: when, how often, and after how long.

use crate::script::{RERUN, STOP, Script, limits, plan};
use limpet_core::message::{Exit, Input, Spec, StepHeader};
use limpet_core::table::State;

fn retrying(maximum_attempts: u8) -> Script {
    let mut s = Script::new();
    s.spec.maximum_attempts = maximum_attempts;
    s
}

/// Each failed try leaves a record that hurries nobody; the delays double from the first up to
/// their bound; the last failure is the step's end.
#[test]
fn delays_double_up_to_the_bound_and_the_last_failure_counts() {
    let mut s = retrying(5);
    s.spec.maximum_interval_ms = 3_500;
    s.submit(&plan('a', &[RERUN]));
    let mut at = 0;
    for (attempt, delay) in [(1, 1_000), (2, 2_000), (3, 3_500), (4, 3_500)] {
        assert_eq!(
            s.run('a', Exit::Code(1)),
            format!("a tried 0.{attempt} failed+; a discard; a is backoff")
        );
        at += delay;
        let next = attempt + 1;
        assert_eq!(s.due(at), format!("a started 0.{next}; a load 0; a is loading"));
    }
    assert_eq!(
        s.run('a', Exit::Code(1)),
        "a ended 0.5 failed code 1+!; a discard; a decided failed at 0!; a finished!; a is closing"
    );
}

/// For ten thousand seeds the delay lies between the whole of it and what the jitter may take off,
/// and both ends of that range are reached.
#[test]
fn jitter_stays_in_its_bounds_and_uses_them() {
    let (mut least, mut most) = (u64::MAX, 0);
    for seed in 0..10_000 {
        let mut s = Script::with(limits(), seed);
        s.spec =
            Spec { maximum_attempts: 3, jitter_milli: 250, initial_interval_ms: 400, ..s.spec };
        s.submit(&plan('a', &[RERUN]));
        s.run('a', Exit::Code(1));
        let first = s.next_ms().expect("it will try again");
        assert!((300..=400).contains(&first), "{first} ms, seed {seed}");
        (least, most) = (least.min(first), most.max(first));
        s.due(first);
        s.run('a', Exit::Code(1));
        let second = s.next_ms().expect("it will try again") - first;
        assert!((600..=800).contains(&second), "{second} ms, seed {seed}");
    }
    assert_eq!((least, most), (300, 400));
}

/// The jitter's numbers are those that SplitMix64 is published with: the same seed gives the same
/// delays in every version.
#[test]
fn the_seed_decides_the_jitter() {
    const STATE_STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let published =
        [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423u64];
    for (number, random) in (0..).zip(published) {
        let seed = STATE_STEP.wrapping_mul(number).wrapping_add(1_234_567);
        let mut s = Script::with(limits(), seed);
        let all = 3_000_000;
        s.spec = Spec {
            maximum_attempts: 2,
            jitter_milli: 1_000,
            initial_interval_ms: all,
            maximum_interval_ms: all,
            ..s.spec
        };
        s.submit(&plan('a', &[RERUN]));
        s.run('a', Exit::Code(1));
        assert_eq!(s.next_ms(), Some(u64::from(all) - random % (u64::from(all) + 1)));
    }
}

/// The largest numbers that the format allows do not overflow, and 255 attempts are 255.
#[test]
fn extremes_do_not_overflow() {
    let mut s = retrying(255);
    let big = 1 << 31;
    s.spec = Spec {
        initial_interval_ms: big,
        maximum_interval_ms: u32::MAX,
        backoff_milli: u32::MAX,
        jitter_milli: 0,
        ..s.spec
    };
    s.submit(&plan('a', &[RERUN]));
    let mut at = 0;
    for attempt in 1..255 {
        assert!(s.run('a', Exit::Code(1)).starts_with(&format!("a tried 0.{attempt} failed")));
        at += if attempt == 1 { u64::from(big) } else { u64::from(u32::MAX) };
        s.set(at - 1);
        assert!(!s.feed(Input::Timeout).contains("load"), "attempt {attempt} is early");
        s.set(at);
        assert!(s.feed(Input::Timeout).contains("load 0"));
    }
    assert!(s.run('a', Exit::Code(1)).starts_with("a ended 0.255 failed"));
}

/// A step that must not repeat is tried again only when its program certainly did not run.
#[test]
fn a_stop_step_is_retried_only_before_exec() {
    let mut s = retrying(3);
    s.submit(&plan('a', &[STOP]));
    s.until('a', State::Starting);
    assert_eq!(s.spawn_failed('a', true), "a tried 0.1 failed+; a discard; a is backoff");
    assert_eq!(s.due(1_000), "a started 0.2!; a is committing");
    s.until('a', State::Starting);
    assert!(
        s.spawn_failed('a', false)
            .starts_with("a ended 0.2 failed code -1+!; a discard; a decided")
    );

    let mut s = retrying(3);
    s.submit(&plan('b', &[STOP]));
    assert!(s.run('b', Exit::Code(1)).starts_with("b ended 0.1 failed code 1"));
}

/// `before_exec` holds for a step that may be repeated as well.
#[test]
fn before_exec_only_is_for_every_step() {
    let mut s = retrying(3);
    s.spec.before_exec_only = true;
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Starting);
    s.spawn_failed('a', true);
    s.due(1_000);
    assert!(s.run('a', Exit::Code(1)).starts_with("a ended 0.2 failed code 1"));
}

/// A clock, a signal and a memory limit are failures to try again after; a refusal is none.
#[test]
fn what_is_worth_another_try() {
    for (exit, how) in [(Exit::Signal(9), "killed"), (Exit::OutOfMemory, "out_of_memory")] {
        let mut s = retrying(2);
        s.submit(&plan('a', &[RERUN]));
        assert_eq!(s.run('a', exit), format!("a tried 0.1 {how}+; a discard; a is backoff"));
    }
    let mut s = retrying(2);
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Running);
    assert_eq!(s.due(10_000), "a TERM; a is stopping");
    s.exited('a', Exit::Signal(15));
    assert_eq!(s.swept('a'), "a tried 0.1 timed_out+; a discard; a is backoff");
    assert!(s.due(11_000).contains("started 0.2"));
}

/// Nothing is tried again beside a process that could not be killed.
#[test]
fn what_cannot_be_killed_is_not_tried_again() {
    let mut s = retrying(3);
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Running);
    s.due(10_000);
    s.due(10_500);
    assert!(s.due(20_500).starts_with("a ended 0.1 timed_out by start_to_close unreaped"));
}

/// The tries of one step say nothing about the next.
#[test]
fn each_step_counts_for_itself() {
    let mut s = retrying(2);
    s.submit(&plan('a', &[StepHeader { guarded: true, ..RERUN }, RERUN]));
    s.run('a', Exit::Code(1));
    s.due(1_000);
    assert!(s.run('a', Exit::Code(1)).contains("a started 1.1;"));
    assert_eq!(s.run('a', Exit::Code(1)), "a tried 1.1 failed+; a discard; a is backoff");
    assert_eq!(s.next_ms(), Some(2_000), "and the delay begins anew");
}
