//! A plan is taken only if every bound holds, whoever wrote it.

use limpet_driver::plan::{Extension, PLAN_BYTES_MAX, Plan};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::sample::{bytes, plan, set, step, task, update};

fn code(value: &Value) -> Option<&'static str> {
    Plan::parse(&bytes(value)).err().map(|refusal| refusal.code)
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

/// The design's example is a plan, and says what was written.
#[test]
fn the_example_is_a_plan() {
    let plan = plan(&update());
    assert_eq!(plan.steps.len(), 6);
    assert_eq!(plan.steps[0].retry.maximum_attempts, 5);
    assert_eq!(plan.steps[4].when.as_ref().map(|when| (when.step, when.negate)), Some((3, true)));
    assert!(plan.steps[5].finally);
}

/// Each of these single changes makes a sound plan invalid.
fn refused(changes: &[(&str, Value)]) {
    for (pointer, value) in changes {
        let mut whole = update();
        set(&mut whole, pointer, value.clone());
        assert_eq!(code(&whole), Some("plan_invalid"), "{pointer} = {value}");
    }
}

/// Every number, name and word has its bounds.
#[test]
fn every_bound_is_checked() {
    refused(&[
        ("/plan", json!(2)),
        ("/unknown", json!(1)),
        ("/id", json!("")),
        ("/id", json!("a/b")),
        ("/id", json!("a".repeat(65))),
        ("/source", json!("*")),
        ("/source", json!("é")),
        ("/expires_at_ms", json!(0)),
        ("/expires_at_ms", json!(u64::MAX)),
        ("/expires_at_ms", json!(-1)),
        ("/schedule_to_close_ms", json!(0)),
        ("/schedule_to_close_ms", json!((1_u64 << 31) + 1)),
        ("/priority", json!(101)),
        ("/priority", json!(-128)),
        ("/ceilings/steps", json!(33)),
        ("/ceilings/tools", json!(["a b"])),
        ("/steps", json!([])),
        ("/steps/0/finally", json!(true)),
        ("/steps/1/name", json!("get")),
        ("/steps/1/name", json!("a b")),
        ("/steps/1/tool", json!("../sh")),
        ("/steps/1/clocks/start_to_close_ms", json!(0)),
        ("/steps/1/clocks/start_to_close_ms", json!(null)),
        ("/steps/1/clocks/schedule_to_start_ms", json!(0)),
        ("/steps/1/clocks/heartbeat_ms", json!((1_u64 << 31) + 1)),
        ("/steps/1/clocks/grace_ms", json!(0)),
        ("/steps/1/clocks/other_ms", json!(1)),
        ("/steps/0/retry/maximum_attempts", json!(0)),
        ("/steps/0/retry/maximum_attempts", json!(101)),
        ("/steps/0/retry/backoff_coefficient_milli", json!(999)),
        ("/steps/0/retry/backoff_coefficient_milli", json!(10_001)),
        ("/steps/0/retry/jitter_milli", json!(1_001)),
        ("/steps/0/retry/initial_interval_ms", json!(0)),
        ("/steps/0/retry/maximum_interval_ms", json!(0)),
        ("/steps/0/retry/on", json!("never")),
        ("/steps/1/retry/maximum_attempts", json!(2)),
        ("/steps/1/limits/memory_bytes", json!(0)),
        ("/steps/1/limits/pids", json!(0)),
        ("/steps/1/limits/disk_bytes", json!(1)),
    ]);
}

/// Conditions and references look back, and have exactly one of their forms.
#[test]
fn references_and_conditions_are_checked() {
    let segment = |segment: Value| json!({"$": [segment]});
    refused(&[
        ("/steps/4/when/step", json!(4)),
        ("/steps/4/when/step", json!(255)),
        ("/steps/4/when/outcome", json!("happy")),
        ("/steps/4/when/exit_code", json!(0)),
        ("/steps/4/when", json!({"step": 0, "negate": false})),
        ("/steps/4/when", json!({"step": 0, "negate": false, "path": ["a"]})),
        ("/steps/4/when", json!({"step": 0, "negate": false, "value": 1})),
        ("/steps/4/when", json!({"step": 0, "negate": false, "path": [], "value": 1})),
        ("/steps/4/when", json!({"step": 0, "negate": false, "path": ["a"], "value": []})),
        ("/steps/1/input", json!([])),
        ("/steps/1/input", segment(json!({"task": "id"}))),
        ("/steps/1/input/$x", json!(1)),
        ("/steps/1/input/x", json!({"$x": 1})),
        ("/steps/1/input/x", json!({"$": [{"task": "id"}], "y": 1})),
        ("/steps/1/input/x", json!({"$": []})),
        ("/steps/1/input/x", json!({"$": "text"})),
        ("/steps/1/input/x", segment(json!({"task": "secret"}))),
        ("/steps/1/input/x", segment(json!({"task": "id", "more": 1}))),
        ("/steps/1/input/x", segment(json!({"device": "id"}))),
        ("/steps/1/input/x", segment(json!({"step": 1, "path": ["outcome"]}))),
        ("/steps/1/input/x", segment(json!({"step": 0, "path": []}))),
        ("/steps/1/input/x", segment(json!({"step": 0, "path": ["outcome", "x"]}))),
        ("/steps/1/input/x", segment(json!({"step": 0, "path": ["stderr"]}))),
        ("/steps/1/input/x", segment(json!({"step": 0, "path": ["result", ""]}))),
        ("/steps/1/input/x", json!([[segment(json!({"step": 9, "path": ["result"]}))]])),
        ("/steps/1/input/x", nested(16)),
    ]);
}

/// The bounds themselves are inside.
#[test]
fn bounds_are_inclusive() {
    let right: Vec<(&str, Value)> = vec![
        ("/id", json!("a".repeat(64))),
        ("/schedule_to_close_ms", json!(1_u64 << 31)),
        ("/steps/0/retry/maximum_attempts", json!(100)),
        ("/steps/0/retry/jitter_milli", json!(1_000)),
        ("/steps/1/input/x", nested(15)),
        ("/steps/1/input/x", json!({"$": ["only ", "literals"]})),
        ("/steps/4/when", json!({"step": 0, "negate": false, "path": ["a"], "value": null})),
        ("/steps/5/input/x", json!({"$": [{"step": 4, "path": ["result"]}]})),
    ];
    for (pointer, value) in right {
        let mut whole = update();
        set(&mut whole, pointer, value);
        assert_eq!(code(&whole), None, "{pointer}");
    }
    let steps = |count: usize| -> Vec<Value> {
        (0..count).map(|index| step(&format!("s{index}"), "sleep", json!({}))).collect()
    };
    assert_eq!(code(&task(&steps(32))), None);
    assert_eq!(code(&task(&steps(33))), Some("plan_invalid"));
}

/// A stop step may be repeated only when its failure is proven to be before exec.
#[test]
fn a_stop_step_is_not_repeated_blindly() {
    let mut whole = update();
    set(&mut whole, "/steps/1/retry/maximum_attempts", json!(2));
    set(&mut whole, "/steps/1/retry/on", json!("before_exec"));
    assert_eq!(code(&whole), None);
}

/// A plan's size is judged before it is parsed: blanks do not help, nor does an extension.
#[test]
fn a_plan_has_a_size() {
    let mut whole = bytes(&update());
    whole.resize(PLAN_BYTES_MAX, b' ');
    let mut plan = Plan::parse(&whole).expect("as long as allowed");
    whole.push(b' ');
    assert_eq!(Plan::parse(&whole).err().map(|refusal| refusal.code), Some("plan_too_long"));

    plan.ceilings.steps = 1;
    plan.ceilings.tools = vec!["sleep".into()];
    let extension = bytes(&json!({"steps": [step("more", "sleep", json!({}))]}));
    let refusal = plan.extend(Extension::parse(&extension).expect("sound")).expect_err("too long");
    assert_eq!(refusal.code, "plan_too_long");
    assert_eq!(plan.steps.len(), 6);
}

fn planner() -> Plan {
    let mut whole = update();
    set(&mut whole, "/ceilings", json!({"steps": 2, "tools": ["sleep"]}));
    plan(&whole)
}

fn extend(plan: &mut Plan, extension: &Value) -> Option<&'static str> {
    let extension = Extension::parse(&bytes(extension));
    extension.and_then(|extension| plan.extend(extension)).err().map(|refusal| refusal.code)
}

/// Extensions append main steps that see every earlier main step, until the ceiling is reached.
#[test]
fn extensions_continue_the_plan() {
    let mut plan = planner();
    let back = json!({"x": {"$": [{"step": 4, "path": ["outcome"]}]}});
    assert_eq!(extend(&mut plan, &json!({"steps": [step("a", "sleep", back)]})), None);
    let back = json!({"x": {"$": [{"step": 6, "path": ["outcome"]}]}});
    let mut said = json!({"steps": [step("b", "sleep", back)]});
    said["plan"] = json!(1);
    said["id"] = json!("app-2.4.1-kitchen");
    said["source"] = json!("ops");
    said["after"] = json!(6);
    said["ceilings"] = json!({"steps": 0, "tools": ["sleep"]});
    assert_eq!(extend(&mut plan, &said), None);
    assert_eq!(plan.steps.len(), 8);
    let more = json!({"steps": [step("c", "sleep", json!({}))]});
    assert_eq!(extend(&mut plan, &more), Some("extension_above_ceiling"));
}

/// What an extension may not do leaves the plan as it was.
#[test]
fn extensions_stay_within_the_plan() {
    let one = |name: &str, tool: &str, input: Value| json!({"steps": [step(name, tool, input)]});
    let with = |key: &str, value: Value| {
        let mut whole = one("a", "sleep", json!({}));
        whole[key] = value;
        whole
    };
    let at_finally = json!({"x": {"$": [{"step": 5, "path": ["outcome"]}]}});
    let mut last = step("a", "sleep", json!({}));
    set(&mut last, "/finally", json!(true));
    for (expected, extension) in [
        ("plan_invalid", json!({"steps": []})),
        ("plan_invalid", json!({"steps": [last]})),
        ("plan_invalid", one("get", "sleep", json!({}))),
        ("plan_invalid", one("a", "sleep", at_finally)),
        ("plan_invalid", with("id", json!("another"))),
        ("plan_invalid", with("source", json!("another"))),
        ("plan_invalid", with("plan", json!(2))),
        ("plan_invalid", with("after", json!(6))),
        ("plan_invalid", with("other", json!(1))),
        ("extension_above_ceiling", one("a", "fetch", json!({}))),
    ] {
        let mut plan = planner();
        assert_eq!(extend(&mut plan, &extension), Some(expected), "{extension}");
        assert_eq!(plan, planner());
    }
}

/// Whatever a task writes into its names, a refusal stays short.
#[test]
fn a_refusal_is_short() {
    let mut whole = update();
    set(&mut whole, &format!("/{}", "\u{1F980}".repeat(9_000)), json!(1));
    let refusal = Plan::parse(&bytes(&whole)).expect_err("unknown field");
    assert!(refusal.detail.len() <= 1024);
}

proptest! {
    /// Arbitrary bytes, and a sound plan with one byte changed, never cause a panic.
    #[test]
    fn parsers_are_total(noise in proptest::collection::vec(any::<u8>(), 0..200),
                         place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let _ = Plan::parse(&noise);
        let _ = Extension::parse(&noise);
        let mut whole = bytes(&update());
        let place = place.index(whole.len());
        whole[place] = byte;
        let _ = Plan::parse(&whole);
    }
}
