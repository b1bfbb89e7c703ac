//! The task and the policy that the tests vary.

use limpet_driver::expand::{Ended, expand};
use limpet_driver::launch::{Launch, Refusal, Work};
use limpet_driver::plan::Plan;
use limpet_driver::table::Table;
use serde_json::{Map, Value, json};

pub const POLICY: &str = "/etc/limpet/policy.toml";
pub const RULE: &str = "/etc/limpet/policy.toml:12";
pub const TOOL: &str = "/etc/limpet/tools.d/sample.toml:3";

/// A compiled step with the defaults of a task.
pub fn step(name: &str, tool: &str, input: Value) -> Value {
    json!({
        "name": name, "tool": tool, "finally": false, "stop": true, "guarded": false,
        "keep": false, "when": null, "limits": {}, "input": input,
        "clocks": {"schedule_to_start_ms": null, "start_to_close_ms": 60_000,
                   "heartbeat_ms": null, "grace_ms": 5_000},
        "retry": {"maximum_attempts": 1, "initial_interval_ms": 1_000,
                  "backoff_coefficient_milli": 2_000, "maximum_interval_ms": 60_000,
                  "jitter_milli": 250, "on": "any"},
    })
}

pub fn task(steps: &[Value]) -> Value {
    json!({
        "plan": 1, "id": "app-1", "source": "ops", "expires_at_ms": 1_795_600_000_000_u64,
        "schedule_to_close_ms": 1_200_000, "finally_ms": 30_000, "priority": 0,
        "ceilings": {"steps": 0, "tools": []}, "steps": steps,
    })
}

/// The example of the design: fetch, install, reboot, check, roll back, and the log at the end.
pub fn update() -> Value {
    let file = json!({"file": {"$": [{"step": 0, "path": ["result", "path"]}]}});
    let mut get = step(
        "get",
        "fetch",
        json!({"url": "https://fleet.lan/app.deb", "sha256": "9f2c", "to": "app.deb"}),
    );
    set(&mut get, "/stop", json!(false));
    set(&mut get, "/clocks/start_to_close_ms", json!(300_000));
    set(&mut get, "/retry/maximum_attempts", json!(5));
    let mut install = step("install", "deb-install", file);
    set(&mut install, "/limits", json!({"memory_bytes": 209_715_200}));
    let mut check = step("check", "http", json!({"url": "http://127.0.0.1:8080/health"}));
    set(&mut check, "/stop", json!(false));
    set(&mut check, "/guarded", json!(true));
    let mut rollback = step("rollback", "deb-rollback", json!({}));
    let when = json!({"step": 3, "outcome": "succeeded", "negate": true});
    set(&mut rollback, "/when", when);
    let mut logs = step("logs", "journal-tail", json!({"unit": "app"}));
    set(&mut logs, "/finally", json!(true));
    let mut whole = task(&[get, install, step("boot", "reboot", json!({})), check, rollback, logs]);
    set(&mut whole, "/id", json!("app-2.4.1-kitchen"));
    whole
}

pub fn tool(executor: &str) -> Value {
    json!({"executor": executor, "on_interruption": "any", "origin": TOOL})
}

fn declared(executor: &str, more: Value) -> Value {
    let mut whole = tool(executor);
    for (key, value) in more.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    whole
}

/// A policy under which source `ops` may run everything, and `exec` and `shell` by name.
pub fn policy() -> Value {
    let url = json!({"type": "text", "maximum_length": 200, "required": true});
    let file = json!({"type": "path", "beneath": "/var/lib", "required": true});
    let unit = json!({"type": "text", "alphabet": "a-zA-Z0-9_-", "required": true});
    json!({
        "device": "kitchen", "policy_file": POLICY, "task_root": "/var/lib/limpet/tasks",
        "loopback": true, "worker": ["/usr/bin/limpet", "worker"],
        "native": ["/usr/bin/limpet-tool"],
        "allow": [{"source": "ops", "tools": ["*", "exec", "shell"], "origin": RULE}],
        "tools": {
            "fetch": declared("native", json!({"program": "fetch", "hosts": ["fleet.lan:443"],
                "params": {"url": url, "sha256": {"type": "text"}, "to": {"type": "path"}}})),
            "http": declared("native", json!({"program": "http", "hosts": ["127.0.0.1:*"],
                "params": {"url": url}})),
            "deb-install": declared("process", json!({
                "argv": ["/usr/bin/dpkg", "-i", {"param": "file"}], "params": {"file": file},
                "environment": {"DEBIAN_FRONTEND": "noninteractive", "LANG": "C"},
                "secrets": {"TOKEN": "/etc/limpet/secrets/token"}, "user": "installer",
                "ceilings": {"start_to_close_ms": 600_000, "memory_bytes": 268_435_456,
                             "output_bytes": 65_536}})),
            "deb-rollback": declared("process", json!({"argv": ["/usr/bin/rollback"]})),
            "journal-tail": declared("process", json!({
                "argv": ["/usr/bin/journalctl", "-u", {"param": "unit"}, {"param": "lines"}],
                "params": {"unit": unit, "lines": {"type": "integer", "minimum": -9}}})),
            "chat": declared("process", json!({
                "argv": ["/usr/bin/llama-cli", "-m", {"param": "model"}, {"param": "draft"}],
                "params": {"model": {"type": "model", "beneath": "/srv", "required": true},
                           "draft": {"type": "model"}}})),
            "embed": declared("python", json!({"program": "/etc/limpet/tools/embed.py",
                "params": {"model": {"type": "model", "beneath": "/srv", "required": true}}})),
            "plan": declared("python", json!({"program": "/etc/limpet/tools/plan.py",
                "params": {"goal": {"type": "json", "maximum_bytes": 100}}})),
            "sleep": tool("sleep"), "publish": tool("publish"), "reboot": tool("reboot"),
            "exec": tool("exec"), "shell": tool("shell"),
        },
    })
}

/// Sets the value at a JSON pointer, whose last name may be new.
pub fn set(whole: &mut Value, pointer: &str, value: Value) {
    let (place, name) = pointer.rsplit_once('/').expect("a pointer");
    match whole.pointer_mut(place).expect("the place exists") {
        Value::Object(map) => drop(map.insert(name.into(), value)),
        Value::Array(items) => items[name.parse::<usize>().expect("an index")] = value,
        _ => panic!("{pointer} leads to a scalar"),
    }
}

pub fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

pub fn plan(value: &Value) -> Plan {
    Plan::parse(&bytes(value)).expect("a sound plan")
}

pub fn table(value: &Value) -> Table {
    Table::parse(&bytes(value)).expect("a sound table")
}

pub fn ended(step: u8, more: Value) -> Option<Ended> {
    let mut whole = json!({"step": step, "attempt": 1, "outcome": "succeeded"});
    for (key, value) in more.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    Some(Ended::parse(&bytes(&whole)).expect("a sound end"))
}

/// The second of two steps with this input, expanded after the first gave this result.
pub fn expanded(input: Value, result: Value) -> Result<Map<String, Value>, Refusal> {
    let whole = task(&[step("get", "fetch", json!({})), step("use", "plan", input)]);
    expand(&plan(&whole), 1, &[ended(0, json!({"result": result}))], "kitchen")
}

/// One step alone, at submit and at dispatch, which must agree where nothing is a reference.
pub fn run(policy: &Value, step: Value) -> Result<Work, Refusal> {
    let (table, plan) = (table(policy), plan(&task(&[step])));
    let submitted = table.admit(&plan);
    let inputs = expand(&plan, 0, &[], "kitchen")?;
    let dispatched = table.authorise(&plan, 0, inputs);
    assert_eq!(submitted.err(), dispatched.as_ref().err().cloned());
    dispatched
}

pub fn launched(policy: &Value, step: Value) -> Launch {
    match run(policy, step) {
        Ok(Work::Process(launch)) => launch,
        other => panic!("not a process: {other:?}"),
    }
}
