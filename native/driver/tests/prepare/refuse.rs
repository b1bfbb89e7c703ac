//! Every way in which a step is refused has its code, and names what would allow the step.

use serde_json::{Value, json};

use limpet_driver::table::Table;

use crate::sample::{POLICY, RULE, TOOL, plan, policy, run, set, step, table, task};

fn refused(policy: &Value, step: &Value, code: &str, origin: &str) {
    let refusal = run(policy, step.clone()).expect_err("it is refused");
    assert_eq!(refusal.code, code, "{}", refusal.detail);
    assert!(refusal.detail.contains(origin), "{}", refusal.detail);
    assert!(refusal.detail.contains("'s'"), "{}", refusal.detail);
}

fn install(file: &str) -> Value {
    step("s", "deb-install", json!({"file": file}))
}

/// A sound step with one change.
fn changed(pointer: &str, value: Value) -> Value {
    let mut whole = install("/var/lib/a.deb");
    set(&mut whole, pointer, value);
    whole
}

fn exec(input: Value) -> Value {
    step("s", "exec", input)
}

fn script(text: &str) -> Value {
    step("s", "shell", json!({"script": text}))
}

fn publish(topic: &str, payload: Value) -> Value {
    step("s", "publish", json!({"topic": topic, "payload": payload}))
}

/// One change of the policy takes a step away; the rule that is nearest to it is named.
#[test]
fn by_the_rules() {
    let sound = || install("/var/lib/a.deb");
    let exec = || exec(json!({"argv": ["/bin/id"]}));
    for (pointer, value, step, code, origin) in [
        ("/allow", json!([]), sound(), "not_allowed", POLICY),
        ("/allow/0/tools", json!([]), sound(), "not_allowed", RULE),
        ("/allow/0/source", json!("dev"), sound(), "not_allowed", POLICY),
        ("/allow/0/tools", json!(["fetch"]), sound(), "not_allowed", RULE),
        ("/allow/0/tools", json!(["*"]), exec(), "not_allowed", RULE),
        ("/allow/0/tools", json!(["*"]), script("id"), "not_allowed", RULE),
        ("/allow/0/tools", json!(["*", "exec"]), script("id"), "not_allowed", RULE),
        ("/loopback", json!(false), exec(), "signature_required", RULE),
        ("/loopback", json!(false), script("id"), "signature_required", RULE),
    ] {
        let mut whole = policy();
        assert!(run(&whole, step.clone()).is_ok());
        set(&mut whole, pointer, value);
        refused(&whole, &step, code, origin);
    }
    refused(&policy(), &step("s", "none", json!({})), "unknown_tool", POLICY);
}

/// How a step wants to run must be within what its tool declares.
#[test]
fn by_the_manner() {
    let (clock, limit) = ("clock_above_ceiling", "limit_above_ceiling");
    for (pointer, value, code) in [
        ("/clocks/heartbeat_ms", json!(9), "heartbeat_not_declared"),
        ("/clocks/start_to_close_ms", json!(600_001), clock),
        ("/limits", json!({"memory_bytes": 268_435_457}), limit),
        ("/limits", json!({"output_bytes": 65_537}), limit),
    ] {
        refused(&policy(), &changed(pointer, value), code, TOOL);
    }
    assert!(run(&policy(), changed("/clocks/start_to_close_ms", json!(600_000))).is_ok());
    for (word, stop) in [("stop", false), ("rerun", true)] {
        let mut whole = policy();
        set(&mut whole, "/tools/deb-install/on_interruption", json!(word));
        assert!(run(&whole, changed("/stop", json!(!stop))).is_ok());
        refused(&whole, &changed("/stop", json!(stop)), "interruption_not_allowed", TOOL);
    }
}

/// Memory that the device has not, whoever asks for it; a ceiling is no demand.
#[test]
fn by_the_pool() {
    let mut table = table(&policy());
    table.pool_bytes = 100 << 20;
    let refusal = |table: &Table, limits: Value| {
        let plan = plan(&task(&[changed("/limits", limits)]));
        table.admit(&plan).err().map(|refusal| refusal.code)
    };
    assert_eq!(refusal(&table, json!({"memory_bytes": 100 << 20})), None);
    let above = json!({"memory_bytes": (100 << 20) + 1});
    assert_eq!(refusal(&table, above), Some("memory_impossible"));
    assert_eq!(refusal(&table, json!({})), None, "its tool's ceiling of 256 MiB is cut");
    let step = &plan(&task(&[changed("/limits", json!({}))])).steps[0];
    assert_eq!((table.memory_bytes(step), table.share_kib(step)), (Some(100 << 20), 100 << 10));
}

/// The values of a declared tool.
#[test]
fn by_the_parameters() {
    let tail = |unit: &str| step("s", "journal-tail", json!({"unit": unit}));
    let goal = |bytes: usize| step("s", "plan", json!({"goal": "x".repeat(bytes)}));
    for (step, code) in [
        (changed("/input/more", json!(1)), "parameter_unknown"),
        (changed("/input", json!({})), "parameter_missing"),
        (changed("/input/file", json!(null)), "parameter_invalid"),
        (install("/etc/passwd"), "parameter_invalid"),
        (install("/var/lib/../../etc/passwd"), "parameter_invalid"),
        (install("/var/lib/a\0b"), "parameter_invalid"),
        (tail("a;b"), "parameter_invalid"),
        (tail("-M"), "argument_is_option"),
        (goal(99), "parameter_invalid"),
    ] {
        refused(&policy(), &step, code, TOOL);
    }
    let mut whole = policy();
    set(&mut whole, "/tools/plan/params/goal/maximum_bytes", json!(100_000));
    refused(&whole, &goal(65_600), "input_too_long", TOOL);
}

/// The arguments, variables and scripts that a task brings along.
#[test]
fn by_what_is_run() {
    let long = "x".repeat(8 * 1024 + 1);
    let variable =
        |name: &str, value: &str| exec(json!({"argv": ["/a"], "environment": {name: value}}));
    for (step, code) in [
        (exec(json!({})), "parameter_missing"),
        (exec(json!({"argv": []})), "parameter_invalid"),
        (exec(json!({"argv": "/bin/id"})), "parameter_invalid"),
        (exec(json!({"argv": ["id"]})), "parameter_invalid"),
        (exec(json!({"argv": ["/bin/id", null]})), "parameter_invalid"),
        (exec(json!({"argv": ["/bin/id", "\0"]})), "argument_has_nul"),
        (exec(json!({"argv": ["/bin/id", long]})), "argument_too_long"),
        (exec(json!({"argv": vec!["/bin/id"; 65]})), "argument_too_long"),
        (exec(json!({"argv": ["/a"], "environment": []})), "parameter_invalid"),
        (exec(json!({"argv": ["/a"], "stdin": 1})), "parameter_invalid"),
        (exec(json!({"argv": ["/a"], "stdin": "é".repeat(33_000)})), "input_too_long"),
        (variable("A=B", ""), "environment_invalid"),
        (variable("", ""), "environment_invalid"),
        (variable("LIMPET_FD", "0"), "environment_invalid"),
        (variable("A", "\0"), "argument_has_nul"),
        (variable("A", &long), "argument_too_long"),
        (script("\0"), "argument_has_nul"),
        (script(&"é".repeat(8_193)), "argument_too_long"),
        (script(&"x".repeat(16_385)), "parameter_invalid"),
    ] {
        refused(&policy(), &step, code, TOOL);
    }
    let mut whole = policy();
    set(&mut whole, "/tools/exec/secrets", json!({"TOKEN": "/etc/token"}));
    refused(&whole, &variable("TOKEN", "x"), "environment_invalid", TOOL);
}

/// What the host is asked to do.
#[test]
fn by_what_the_host_does() {
    for topic in ["", "/a", "a/", "a//b", "$SYS/a", "a/+", "a/b#", "a\n", "a\0", "a/b/c/d/e"] {
        refused(&policy(), &publish(topic, json!(1)), "topic_invalid", TOOL);
    }
    for (step, code) in [
        (publish(&"a".repeat(257), json!(1)), "parameter_invalid"),
        (publish("a", json!("x".repeat(16_385))), "payload_too_long"),
        (step("s", "sleep", json!({"duration_ms": -1})), "parameter_invalid"),
        (step("s", "sleep", json!({"duration_ms": (1_u64 << 31) + 1})), "parameter_invalid"),
        (step("s", "sleep", json!({"duration_ms": "1s"})), "parameter_invalid"),
        (step("s", "sleep", json!({})), "parameter_missing"),
        (step("s", "reboot", json!({"now": true})), "parameter_unknown"),
    ] {
        refused(&policy(), &step, code, TOOL);
    }
}
