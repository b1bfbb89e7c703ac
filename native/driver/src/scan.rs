//! The journal as JSON lines for a person: read without a lock, while the agent runs or when it
//! does not.

use crate::store::{self, Recovered};
use limpet_core::record::Record;
use serde_json::{Value, json};
use std::path::Path;

/// Lines of the records behind `after`, as many as fit `bytes_max`; and whether there are more.
///
/// # Errors
/// A sentence, when the directory holds no journal that can be read.
pub fn lines(directory: &Path, after: u64, bytes_max: usize) -> Result<(String, bool), String> {
    let (mut text, mut more) = (String::new(), false);
    let mut visit = |recovered: Recovered<'_>| {
        let line = match recovered {
            Recovered::Record { seq, .. } if seq <= after || more => return,
            Recovered::Record { task, seq, kind, payload } => {
                format!("{}\n", record(task, seq, kind, payload))
            }
            Recovered::Gap { next_seq, .. } if next_seq <= after || more => return,
            Recovered::Gap { first_lost, next_seq, bytes } => {
                format!("{}\n", json!({"gap": [first_lost, next_seq], "bytes": bytes}))
            }
        };
        if text.len() + line.len() > bytes_max {
            more = true;
        } else {
            text.push_str(&line);
        }
    };
    store::scan(directory, &mut visit).map_err(|cause| cause.to_string())?;
    Ok((text, more))
}

fn record(task: u64, seq: u64, kind: u8, payload: &[u8]) -> Value {
    let Ok((record, stamp, _, attached)) = Record::decode(kind, payload) else {
        return json!({"seq": seq, "task": task, "kind": kind, "malformed": true});
    };
    let mut line = fields(&record);
    line["seq"] = seq.into();
    line["task"] = task.into();
    line["wall_ms"] = stamp.now.wall_ms.into();
    line["clock_trusted"] = stamp.now.trusted.into();
    line["at_ns"] = stamp.now.at.0.into();
    line["boot"] = format!("{:08x}", stamp.now.boot).into();
    if !attached.is_empty() {
        line["attached"] = serde_json::from_slice(attached).unwrap_or(Value::Null);
    }
    line
}

fn fields(record: &Record) -> Value {
    match *record {
        Record::Opened => json!({"record": "opened"}),
        Record::Stopped => json!({"record": "stopped"}),
        Record::Checkpoint => json!({"record": "checkpoint"}),
        Record::Accepted(a) => json!({
            "record": "accepted", "expires_ms": a.expires_ms, "priority": a.priority,
            "schedule_to_close_ms": a.schedule_to_close_ms, "finally_ms": a.finally_ms,
            "reserved": a.reserved, "steps": a.steps,
        }),
        Record::Started { step, attempt, suspicions } => json!({
            "record": "started", "step": step, "attempt": attempt, "suspicions": suspicions,
        }),
        Record::Tried { step, attempt, outcome } => json!({
            "record": "tried", "step": step, "attempt": attempt, "outcome": outcome.name(),
        }),
        Record::Interrupted { step } => json!({"record": "interrupted", "step": step}),
        Record::Ended { step, attempt, outcome, clock, code, .. } => json!({
            "record": "ended", "step": step, "attempt": attempt, "outcome": outcome.name(),
            "clock": clock.name(), "code": code,
        }),
        Record::Extended { after, steps } => {
            json!({"record": "extended", "after": after, "steps": steps})
        }
        Record::CancelRequested => json!({"record": "cancel_requested"}),
        Record::Decided { outcome, step, clock } => json!({
            "record": "decided", "outcome": outcome.name(), "step": step, "clock": clock.name(),
        }),
        Record::Finished => json!({"record": "finished"}),
        Record::Delivered { expires_ms, outcome, .. } => json!({
            "record": "delivered", "expires_ms": expires_ms, "outcome": outcome.name(),
        }),
        Record::Tombstone { expires_ms, .. } => {
            json!({"record": "tombstone", "expires_ms": expires_ms})
        }
    }
}
