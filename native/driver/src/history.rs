//! What the journal tells of one task, as JSON for the host: its history, or what it wants next.

use crate::host::TEXT_BYTES_MAX;
use limpet_core::message::Outcome;
use limpet_core::record::{Record, Stamp};
use serde_json::{Map, Value, json};

/// One record of a task, with what was attached to it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number.
    pub seq: u64,
    /// What it says.
    pub record: Record,
    /// When it was made.
    pub stamp: Stamp,
    /// JSON bytes; empty if there are none.
    pub attached: Vec<u8>,
}

/// What the machine knows and the records do not say.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Time without power could not be measured.
    pub clock_uncertain: bool,
    /// A process could not be killed.
    pub unreaped: bool,
    /// Records of the task may be missing.
    pub gap: bool,
}

/// The payload of an end that has none: a step that ended without an attempt.
#[must_use]
pub fn bare_end(step: u8, attempt: u8, outcome: Outcome, code: i32) -> Vec<u8> {
    let exited = matches!(outcome, Outcome::Succeeded | Outcome::Failed) && code >= 0;
    let empty = json!({"head": "", "tail": "", "bytes": 0});
    json!({
        "step": step, "attempt": attempt, "outcome": outcome.name(),
        "exit_code": exited.then_some(code), "signal": null, "clock": null,
        "reason": null, "detail": null, "result": null,
        "stdout": empty, "stderr": empty,
        "user_ms": 0, "system_ms": 0, "peak_bytes": null, "limit_bytes": null,
        "memory": "", "not_enforced": [], "stragglers": 0, "late_us": null,
        "started_ms": 0, "ended_ms": 0, "containment": "",
    })
    .to_string()
    .into_bytes()
}

/// The steps' names and tools, from the plan and its extensions.
fn declared(entries: &[Entry]) -> (Map<String, Value>, Vec<Value>) {
    let (mut plan, mut steps) = (Map::new(), Vec::new());
    for entry in entries {
        if !matches!(entry.record, Record::Accepted(_) | Record::Extended { .. }) {
            continue;
        }
        if let Ok(Value::Object(mut found)) = serde_json::from_slice(&entry.attached) {
            if let Some(Value::Array(more)) = found.remove("steps") {
                steps.extend(more);
            }
            if matches!(entry.record, Record::Accepted(_)) {
                plan = found;
            }
        }
    }
    (plan, steps)
}

/// The whole history of a task that is over, from its records.
#[must_use]
pub fn tell(entries: &[Entry], facts: &Facts) -> String {
    let (plan, declared) = declared(entries);
    let mut ends: Vec<Option<Value>> = vec![None; declared.len()];
    let mut attempts: Vec<u8> = vec![0; declared.len()];
    let (mut outcome, mut deciding, mut clock) = (Outcome::None, None, None);
    let (mut accepted_ms, mut ended_ms, mut sequence) = (0, 0, 0);
    for entry in entries {
        let wall_ms = entry.stamp.now.wall_ms;
        match entry.record {
            Record::Accepted(_) => accepted_ms = wall_ms,
            Record::Started { step, attempt, .. } => {
                if let Some(count) = attempts.get_mut(step as usize) {
                    *count = (*count).max(attempt);
                }
            }
            Record::Ended { step, attempt, outcome, code, .. } => {
                let bytes = match entry.attached.as_slice() {
                    [] => bare_end(step, attempt, outcome, code),
                    attached => attached.to_vec(),
                };
                if let Some(end) = ends.get_mut(step as usize) {
                    *end = serde_json::from_slice(&bytes).ok();
                }
            }
            Record::Decided { outcome: decided, step, clock: out } => {
                outcome = decided;
                deciding = (step as usize).lt(&declared.len()).then_some(step);
                clock = Some(out.name()).filter(|name| *name != "none");
            }
            Record::Finished => (ended_ms, sequence) = (wall_ms, entry.seq),
            _ => {}
        }
    }
    let steps: Vec<Value> = declared
        .iter()
        .zip(ends)
        .zip(attempts)
        .map(|((step, end), attempts)| step_told(step, end, attempts))
        .collect();
    let mut flags = Vec::new();
    flags.extend(facts.unreaped.then_some("unreaped"));
    flags.extend(facts.gap.then_some("journal_gap"));
    let mut told = json!({
        "id": plan.get("id"), "source": plan.get("source"), "outcome": outcome.name(),
        "step": deciding, "clock": clock, "accepted_ms": accepted_ms, "ended_ms": ended_ms,
        "sequence": sequence, "clock_uncertain": facts.clock_uncertain, "flags": flags,
        "steps": steps,
    });
    fit(&mut told)
}

fn step_told(step: &Value, end: Option<Value>, attempts: u8) -> Value {
    let mut told = Map::new();
    let name = |key: &str| step.get(key).cloned().unwrap_or(Value::Null);
    told.insert("name".into(), name("name"));
    told.insert("tool".into(), name("tool"));
    told.insert("finally".into(), name("finally"));
    told.insert("attempts".into(), attempts.into());
    match end {
        Some(Value::Object(end)) => told.extend(end),
        _ => {
            told.insert("outcome".into(), Outcome::Skipped.name().into());
        }
    }
    Value::Object(told)
}

/// As text that fits one event: tails of outputs go first, then heads, then results.
fn fit(told: &mut Value) -> String {
    for part in ["tail", "head", "result"] {
        let text = told.to_string();
        if text.len() <= TEXT_BYTES_MAX {
            return text;
        }
        let Some(Value::Array(steps)) = told.get_mut("steps") else { break };
        for step in steps {
            if part == "result" {
                step["result"] = Value::Null;
                step["reason"] = "result_too_large".into();
                continue;
            }
            for stream in ["stdout", "stderr"] {
                if let Some(kept) = step.get_mut(stream).and_then(|kept| kept.get_mut(part)) {
                    *kept = "".into();
                }
            }
        }
    }
    told.to_string()
}

/// What the host needs to compile the steps that a result asks for.
#[must_use]
pub fn continuation(entries: &[Entry], step: u8) -> String {
    let value = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let mut plan = Value::Null;
    let (mut extensions, mut next) = (Vec::new(), Value::Null);
    for entry in entries {
        match entry.record {
            Record::Accepted(_) => plan = value(&entry.attached),
            Record::Extended { .. } => extensions.push(value(&entry.attached)),
            Record::Ended { step: ended, .. } if ended == step => {
                next = value(&entry.attached)["result"]["next"].take();
            }
            _ => {}
        }
    }
    json!({"plan": plan, "extensions": extensions, "step": step, "next": next}).to_string()
}
