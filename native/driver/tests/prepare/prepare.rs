//! From journaled bytes to one answer, whatever the bytes are.

use limpet_driver::launch::Work;
use limpet_driver::prepare::{OUTPUT_BYTES, Prepared, prepare};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::sample::{bytes, policy, set, step, table, update};

const FILE: &str = "/var/lib/limpet/tasks/ops.app-2.4.1-kitchen/app.deb";

fn end(step: u8, outcome: &str, more: Value) -> (u8, Vec<u8>) {
    let mut whole = json!({"step": step, "attempt": 1, "outcome": outcome, "result": null});
    for (key, value) in more.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    (step, bytes(&whole))
}

fn got() -> (u8, Vec<u8>) {
    end(0, "succeeded", json!({"result": {"path": FILE}}))
}

fn of(step: u8, prior: &[(u8, Vec<u8>)]) -> Prepared {
    prepare(&table(&policy()), &bytes(&update()), &[], step, prior)
}

/// A step gets its work and its bounds: its own, else its tool's, else the default.
#[test]
fn a_step_starts_with_its_bounds() {
    let Prepared::Start { work: Work::Process(launch), spec } = of(1, &[got()]) else {
        panic!("it starts");
    };
    assert_eq!(launch.argv, ["/usr/bin/dpkg", "-i", FILE]);
    assert_eq!((spec.start_to_close_ms, spec.heartbeat_ms, spec.grace_ms), (60_000, None, 5_000));
    assert_eq!((spec.limits.memory_bytes, spec.output_bytes), (Some(209_715_200), 65_536));
    assert_eq!(spec.retry.maximum_attempts, 1);
    let Prepared::Start { work, spec } = of(2, &[]) else { panic!("it starts") };
    assert_eq!(
        (work, spec.limits.memory_bytes, spec.output_bytes),
        (Work::Reboot, None, OUTPUT_BYTES)
    );
}

/// A condition that does not hold skips the step; of several ends of a step the last one counts.
#[test]
fn a_condition_skips() {
    let (good, bad) = (end(3, "succeeded", json!({})), end(3, "failed", json!({})));
    assert_eq!(of(4, std::slice::from_ref(&good)), Prepared::Skip);
    assert_eq!(of(4, &[bad.clone(), good.clone()]), Prepared::Skip);
    assert!(matches!(of(4, &[good, bad]), Prepared::Start { .. }));
    assert!(matches!(of(4, &[]), Prepared::Start { .. }));
}

/// A skipped step asks for no permission; one that would run does, even if it was admitted once.
#[test]
fn policy_is_asked_after_the_condition() {
    let mut whole = policy();
    set(&mut whole, "/allow", json!([]));
    let ask = |step, prior: &[_]| prepare(&table(&whole), &bytes(&update()), &[], step, prior);
    assert_eq!(ask(4, &[end(3, "succeeded", json!({}))]), Prepared::Skip);
    match ask(1, &[got()]) {
        Prepared::Refused(refusal) => assert_eq!(refusal.code, "not_allowed"),
        other => panic!("not refused: {other:?}"),
    }
    match ask(1, &[]) {
        Prepared::Refused(refusal) => assert_eq!(refusal.code, "reference_missing"),
        other => panic!("not refused: {other:?}"),
    }
}

/// What an earlier step returned is judged like what a task wrote.
#[test]
fn a_result_does_not_pass_for_policy() {
    let evil = end(0, "succeeded", json!({"result": {"path": "/var/lib/../../etc/shadow"}}));
    match of(1, &[evil]) {
        Prepared::Refused(refusal) => assert_eq!(refusal.code, "parameter_invalid"),
        other => panic!("not refused: {other:?}"),
    }
}

/// Extensions are appended in order, and their steps run like the others.
#[test]
fn extensions_are_prepared() {
    let mut whole = update();
    set(&mut whole, "/ceilings", json!({"steps": 2, "tools": ["sleep"]}));
    let more =
        |name: &str| bytes(&json!({"steps": [step(name, "sleep", json!({"duration_ms": 7}))]}));
    let both = [more("a"), more("b")];
    let table = table(&policy());
    for index in [6, 7] {
        let found = prepare(&table, &bytes(&whole), &both, index, &[]);
        assert!(matches!(found, Prepared::Start { work: Work::Sleep(_), .. }), "{found:?}");
    }
    let twice = [more("a"), more("a")];
    let found = prepare(&table, &bytes(&whole), &twice, 6, &[]);
    assert!(matches!(found, Prepared::Damaged(_)), "{found:?}");
}

/// Bytes that were never written so are damage, not a refusal.
#[test]
fn damage_is_told_apart() {
    let table = table(&policy());
    let plan = bytes(&update());
    let damaged = |plan: &[u8], step, prior: &[(u8, Vec<u8>)]| {
        matches!(prepare(&table, plan, &[], step, prior), Prepared::Damaged(_))
    };
    assert!(damaged(&plan[1..], 0, &[]));
    assert!(damaged(&plan, 6, &[]));
    assert!(damaged(&plan, 1, &[(0, b"{}".to_vec())]));
    assert!(damaged(&plan, 1, &[(1, got().1)]));
    assert!(damaged(&plan, 1, &[end(9, "failed", json!({}))]));
    assert!(!damaged(&plan, 1, &[got()]));
}

proptest! {
    /// One byte changed anywhere in the journal is answered, never a panic.
    #[test]
    fn every_journal_is_answered(place in any::<prop::sample::Index>(), byte in any::<u8>(),
                                 step in 0_u8..8, in_end in any::<bool>()) {
        let (mut plan, mut end) = (bytes(&update()), got());
        let target = if in_end { &mut end.1 } else { &mut plan };
        let place = place.index(target.len());
        target[place] = byte;
        let _ = prepare(&table(&policy()), &plan, &[], step, &[end]);
    }
}
