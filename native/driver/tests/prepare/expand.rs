//! References and conditions mean what the earlier steps left behind, within bounds.

use limpet_driver::expand::{ENDED_BYTES_MAX, EXPANDED_BYTES_MAX, Ended, TEXT_BYTES_MAX, expand};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::sample::{bytes, ended, expanded, plan, set, step, task};

fn result(path: &[&str]) -> Value {
    let whole: Vec<&str> = ["result"].iter().chain(path).copied().collect();
    json!({"step": 0, "path": whole})
}

fn value(segments: Value, result: Value) -> Result<Value, &'static str> {
    let mut inputs =
        expanded(json!({"x": {"$": segments}}), result).map_err(|refusal| refusal.code)?;
    Ok(inputs.remove("x").expect("the key stays"))
}

/// Alone, a reference keeps its type; beside anything else it becomes text.
#[test]
fn types_are_kept_or_joined() {
    let given = json!({"n": 1, "f": 1.5, "b": true, "z": null, "s": "t", "o": {"a": [1]}});
    for (name, whole, joined) in [
        ("n", json!(1), Ok("-1")),
        ("f", json!(1.5), Ok("-1.5")),
        ("b", json!(true), Ok("-true")),
        ("z", json!(null), Ok("-null")),
        ("s", json!("t"), Ok("-t")),
        ("o", json!({"a": [1]}), Err("reference_type")),
    ] {
        assert_eq!(value(json!([result(&[name])]), given.clone()), Ok(whole));
        let text = value(json!(["-", result(&[name])]), given.clone());
        assert_eq!(text, joined.map(|text| json!(text)));
    }
    assert_eq!(value(json!([result(&[])]), given.clone()), Ok(given.clone()));
    assert_eq!(value(json!([result(&["o", "a"])]), given.clone()), Ok(json!([1])));
    for path in [&["q"][..], &["o", "q"], &["s", "q"], &["o", "a", "0"]] {
        assert_eq!(value(json!([result(path)]), given.clone()), Err("reference_missing"));
    }
    let names = json!([{"task": "id"}, "/", {"task": "source"}, "/", {"device": "name"}]);
    assert_eq!(value(names, given), Ok(json!("app-1/ops/kitchen")));
}

/// References are found at any depth; everything else, dollars included, stays as it is.
#[test]
fn only_references_change() {
    let input =
        json!({"a": [{"b": {"$": [result(&["n"])]}}, "${steps.get.result.n}", "$x"], "c": 1});
    let whole = expanded(input, json!({"n": 7})).expect("expands");
    let wanted = json!({"a": [{"b": 7}, "${steps.get.result.n}", "$x"], "c": 1});
    assert_eq!(Value::Object(whole), wanted);
}

/// Outcome, exit code and output of an earlier step; what is not there is missing, and output that
/// was not kept whole is not passed off as whole.
#[test]
fn facts_of_an_earlier_step() {
    let cases = [
        ("outcome", json!({"outcome": "timed_out"}), Ok(json!("timed_out"))),
        ("exit_code", json!({"exit_code": 3}), Ok(json!(3))),
        ("exit_code", json!({"exit_code": null}), Err("reference_missing")),
        ("result", json!({"result": null}), Err("reference_missing")),
        ("stdout", json!({}), Err("reference_missing")),
        ("stdout", json!({"stdout": {"head": "a\n\n", "tail": "", "bytes": 3}}), Ok(json!("a\n"))),
        ("stdout", json!({"stdout": {"head": "a", "tail": "", "bytes": 1}}), Ok(json!("a"))),
        (
            "stdout",
            json!({"stdout": {"head": "a", "tail": "", "bytes": 2}}),
            Err("reference_truncated"),
        ),
        (
            "stdout",
            json!({"stdout": {"head": "a", "tail": "b", "bytes": 1}}),
            Err("reference_truncated"),
        ),
    ];
    let steps = |path| {
        let input = json!({"x": {"$": [{"step": 0, "path": [path]}]}});
        plan(&task(&[step("get", "fetch", json!({})), step("use", "plan", input)]))
    };
    for (path, end, wanted) in cases {
        let found = expand(&steps(path), 1, &[ended(0, end)], "kitchen");
        let found = found.map(|mut inputs| inputs.remove("x").expect("the key stays"));
        assert_eq!(found.map_err(|refusal| refusal.code), wanted, "{path}");
    }
    for prior in [&[][..], &[None]] {
        let refusal = expand(&steps("outcome"), 1, prior, "kitchen").expect_err("did not end");
        assert_eq!(refusal.code, "reference_missing");
        assert!(refusal.detail.contains("step 'use'") && refusal.detail.contains("step 'get'"));
    }
}

/// A text may grow to its bound and no further, and so may all of them together.
#[test]
fn expansion_is_bounded() {
    let most = json!({"s": "x".repeat(TEXT_BYTES_MAX)});
    let whole = json!([result(&["s"])]);
    assert!(value(whole, most.clone()).is_ok());
    let over = json!([result(&["s"]), "y"]);
    assert_eq!(value(over, most.clone()), Err("reference_too_long"));
    let longer = json!({"s": "x".repeat(TEXT_BYTES_MAX + 1)});
    assert_eq!(value(json!([result(&["s"])]), longer), Err("reference_too_long"));

    let many = |count: usize| json!({"x": vec![json!({"$": [result(&["s"])]}); count]});
    let full = EXPANDED_BYTES_MAX / TEXT_BYTES_MAX;
    assert!(expanded(many(full), most.clone()).is_ok());
    let refusal = expanded(many(full + 1), most).expect_err("too much");
    assert_eq!(refusal.code, "input_too_long");
}

/// Every condition against ends that fit, do not fit, lack the thing, or are not there at all.
#[test]
fn conditions_hold_or_not() {
    let object = json!({"result": {"a": {"n": 1, "big": u64::MAX, "s": "1", "z": null}}});
    let at = |names: &[&str], value: Value| json!({"path": names, "value": value});
    let cases = [
        (json!({"outcome": "succeeded"}), object.clone(), true),
        (json!({"outcome": "failed"}), object.clone(), false),
        (json!({"exit_code": 3}), json!({"exit_code": 3}), true),
        (json!({"exit_code": 3}), json!({"exit_code": 4}), false),
        (json!({"exit_code": 0}), json!({"exit_code": null}), false),
        (at(&["a", "n"], json!(1)), object.clone(), true),
        (at(&["a", "n"], json!(1.0)), object.clone(), true),
        (at(&["a", "n"], json!(1.5)), object.clone(), false),
        (at(&["a", "n"], json!("1")), object.clone(), false),
        (at(&["a", "n"], json!(true)), object.clone(), false),
        (at(&["a", "big"], json!(u64::MAX)), object.clone(), true),
        (at(&["a", "big"], json!(u64::MAX as f64)), object.clone(), false),
        (at(&["a", "s"], json!("1")), object.clone(), true),
        (at(&["a", "z"], json!(null)), object.clone(), true),
        (at(&["a", "q"], json!(null)), object.clone(), false),
        (at(&["a"], json!(null)), object.clone(), false),
        (at(&["a", "n", "q"], json!(1)), object, false),
        (at(&["a"], json!(1)), json!({"result": null}), false),
    ];
    for (test, end, wanted) in cases {
        for negate in [false, true] {
            let mut when = test.clone();
            when["step"] = json!(0);
            when["negate"] = json!(negate);
            let mut second = step("use", "plan", json!({}));
            set(&mut second, "/when", when.clone());
            let plan = plan(&task(&[step("get", "fetch", json!({})), second]));
            let when_held = plan.steps[1].when.as_ref().expect("it has a condition");
            assert_eq!(when_held.holds(&[ended(0, end.clone())]), wanted != negate, "{when} {end}");
            assert_eq!(when_held.holds(&[None]), negate);
            assert_eq!(when_held.holds(&[]), negate);
        }
    }
}

/// The end of a step may say more than is needed, but not be longer or other than it was written.
#[test]
fn an_end_is_read_with_tolerance_and_bounds() {
    let more = json!({"user_ms": 1, "stderr": {"head": ""}, "later": [1]});
    assert!(ended(0, more).is_some());
    for wrong in [json!([]), json!({"step": 0}), json!({"step": 0, "outcome": "x"})] {
        assert!(Ended::parse(&bytes(&wrong)).is_err());
    }
    let mut long = bytes(&json!({"step": 0, "outcome": "failed"}));
    long.resize(ENDED_BYTES_MAX + 1, b' ');
    assert!(Ended::parse(&long).is_err());
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        (0_usize..12_000).prop_map(|length| Value::from("x".repeat(length))),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        proptest::collection::vec(inner, 0..4).prop_map(Value::from)
    })
}

proptest! {
    /// Whatever the result holds, no text made from references exceeds its bound, and a refusal has
    /// one of the known codes.
    #[test]
    fn texts_never_exceed_the_bound(
        found in json_value(),
        pieces in proptest::collection::vec(proptest::option::of("[a-z$]{0,9}"), 1..9),
    ) {
        let segments: Vec<Value> = pieces
            .iter()
            .map(|piece| piece.clone().map_or_else(|| result(&["v"]), Value::from))
            .collect();
        match value(json!(segments), json!({"v": found})) {
            Ok(Value::String(text)) => prop_assert!(text.len() <= TEXT_BYTES_MAX),
            Ok(other) => prop_assert!(other.to_string().len() <= EXPANDED_BYTES_MAX),
            Err(code) => prop_assert!(
                ["reference_type", "reference_too_long", "input_too_long"].contains(&code)
            ),
        }
    }

    /// Arbitrary bytes are an end or an error, never a panic.
    #[test]
    fn ends_are_read_totally(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Ended::parse(&noise);
    }
}
