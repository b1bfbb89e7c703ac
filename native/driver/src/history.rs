//! What the journal tells of one task, as JSON for the host: its history, or what it wants next.

use crate::end::End;
use crate::host::TEXT_BYTES_MAX;
use crate::plan::is_name;
use limpet_core::message::Outcome;
use limpet_core::record::{Record, Stamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::borrow::Cow;

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

impl Entry {
    /// If it tells the end of a step, which one's, and that end as JSON.
    #[must_use]
    pub fn end(&self) -> Option<(u8, Cow<'_, [u8]>)> {
        let Record::Ended { step, attempt, outcome, code, .. } = self.record else { return None };
        let end = match self.attached.as_slice() {
            [] => End::bare(step, attempt, outcome, code).into_bytes().into(),
            attached => attached.into(),
        };
        Some((step, end))
    }
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

/// What is told of a plan or an extension: pieces of its text as they stand there.
#[derive(Default, Deserialize)]
struct Declared<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    source: Option<&'a RawValue>,
    #[serde(borrow, default)]
    steps: Vec<Step<'a>>,
}

/// One step of a history, but for its end.
#[derive(Clone, Serialize, Deserialize)]
struct Step<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    tool: Option<&'a RawValue>,
    #[serde(borrow)]
    finally: Option<&'a RawValue>,
    #[serde(default, skip_serializing)]
    keep: bool,
    #[serde(skip_deserializing)]
    attempts: u8,
}

/// Which history it is.
#[derive(Serialize)]
struct Head<'a> {
    id: Option<&'a RawValue>,
    source: Option<&'a RawValue>,
    outcome: &'static str,
}

/// A history, but for its steps.
#[derive(Default, Serialize)]
struct Summary<'a> {
    id: Option<&'a RawValue>,
    source: Option<&'a RawValue>,
    outcome: &'static str,
    step: Option<u8>,
    clock: Option<&'static str>,
    accepted_ms: u64,
    ended_ms: u64,
    sequence: u64,
    clock_uncertain: bool,
    flags: Vec<&'static str>,
}

/// Reads the plan and its extensions; one that cannot be read has nothing to tell.
fn declared(entries: &[Entry]) -> Declared<'_> {
    let mut plan = Declared::default();
    for entry in entries {
        let is_plan = matches!(entry.record, Record::Accepted(_));
        if !is_plan && !matches!(entry.record, Record::Extended { .. }) {
            continue;
        }
        if let Ok(found) = serde_json::from_slice::<Declared<'_>>(&entry.attached) {
            plan.steps.extend(found.steps);
            if is_plan {
                (plan.id, plan.source) = (found.id, found.source);
            }
        }
    }
    plan
}

/// What is told of a task that is over.
#[derive(Debug)]
pub struct History {
    /// JSON objects, one behind the other: of `id`, `source` and `outcome` alone, and the whole.
    pub text: String,
    /// Bytes of the first: whoever passes the history on need not read the whole.
    pub head: usize,
    /// What it leaves behind.
    pub remains: Option<Remains>,
}

/// The whole history of a task that is over, from its records.
///
/// It is put together from their texts: to read each into a tree first took most of the time that
/// the journal's thread spent on a task.
#[must_use]
pub fn tell(entries: &[Entry], facts: &Facts) -> History {
    let mut plan = declared(entries);
    let remains = plan.remains();
    let mut ends: Vec<Option<String>> = vec![None; plan.steps.len()];
    let mut told = Summary { id: plan.id, source: plan.source, ..Summary::default() };
    (told.outcome, told.clock_uncertain) = (Outcome::None.name(), facts.clock_uncertain);
    told.flags.extend(facts.unreaped.then_some("unreaped"));
    told.flags.extend(facts.gap.then_some("journal_gap"));
    for entry in entries {
        let wall_ms = entry.stamp.now.wall_ms;
        if let Some((step, end)) = entry.end() {
            if let Some(place) = ends.get_mut(step as usize) {
                *place = object(&end);
            }
        }
        match entry.record {
            Record::Accepted(_) => told.accepted_ms = wall_ms,
            Record::Started { step, attempt, .. } => {
                if let Some(step) = plan.steps.get_mut(step as usize) {
                    step.attempts = step.attempts.max(attempt);
                }
            }
            Record::Decided { outcome, step, clock } => {
                told.outcome = outcome.name();
                told.step = (step as usize).lt(&plan.steps.len()).then_some(step);
                told.clock = Some(clock.name()).filter(|name| *name != "none");
            }
            Record::Finished => (told.ended_ms, told.sequence) = (wall_ms, entry.seq),
            _ => {}
        }
    }
    let skipped = || json!({"outcome": Outcome::Skipped.name()}).to_string();
    let steps = plan.steps.iter().zip(ends);
    let steps = steps.map(|(step, end)| joined(&written(step), &end.unwrap_or_else(skipped)));
    let steps = format!("{{\"steps\":[{}]}}", steps.collect::<Vec<_>>().join(","));
    let head = written(&Head { id: told.id, source: told.source, outcome: told.outcome });
    let whole = fit(joined(&written(&told), &steps), TEXT_BYTES_MAX - head.len());
    History { text: format!("{head}{whole}"), head: head.len(), remains }
}

/// The text of a JSON object, if it is one.
fn object(bytes: &[u8]) -> Option<String> {
    let found: &RawValue = serde_json::from_slice(bytes).ok()?;
    Some(found.get().to_owned()).filter(|text| text.starts_with('{'))
}

fn written(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("all keys are text")
}

/// One object with the members of two, of which the first has some.
fn joined(first: &str, second: &str) -> String {
    let first = first.strip_suffix('}').unwrap_or(first);
    let second = second[1..].trim_start();
    let comma = if second.starts_with('}') { "" } else { "," };
    format!("{first}{comma}{second}")
}

/// Within so many bytes: tails of outputs go first, then heads, then results.
fn fit(text: String, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text;
    }
    let mut told: Value = serde_json::from_str(&text).unwrap_or_default();
    for part in ["tail", "head", "result"] {
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
        let text = told.to_string();
        if text.len() <= bytes_max {
            return text;
        }
    }
    told.to_string()
}

/// What a task that is forgotten leaves behind.
#[derive(Debug)]
pub struct Remains {
    /// The task's id.
    pub id: String,
    /// Its source.
    pub source: String,
    /// Whether its directory is kept for somebody to look at.
    pub keep: bool,
}

/// Reads who a task was; `None` if its plan cannot be read, or names what is no name.
#[must_use]
pub fn remains(entries: &[Entry]) -> Option<Remains> {
    declared(entries).remains()
}

impl Declared<'_> {
    fn remains(&self) -> Option<Remains> {
        let name = |raw: Option<&RawValue>| {
            serde_json::from_str(raw?.get()).ok().filter(|name: &String| is_name(name))
        };
        let keep = self.steps.iter().any(|step| step.keep);
        Some(Remains { id: name(self.id)?, source: name(self.source)?, keep })
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use limpet_core::Instant;
    use limpet_core::message::Clock;
    use limpet_core::record::Accepted;
    use limpet_core::time::Now;

    fn entry(seq: u64, record: Record, attached: &str) -> Entry {
        let now = Now { at: Instant(0), wall_ms: 1000 * seq, trusted: true, boot: 7 };
        Entry { seq, record, stamp: Stamp { now }, attached: attached.as_bytes().to_vec() }
    }

    fn accepted(plan: &str) -> Entry {
        let accepted = Accepted {
            key: 1,
            digest: 2,
            source: 3,
            expires_ms: 4,
            schedule_to_close_ms: 0,
            finally_ms: 1000,
            reserved: 0,
            priority: 0,
            additions: 0,
            steps: 2,
        };
        entry(1, Record::Accepted(accepted), plan)
    }

    fn ended(step: u8, attached: &str) -> Entry {
        let record = Record::Ended {
            step,
            attempt: 2,
            outcome: Outcome::Failed,
            clock: Clock::None,
            code: 3,
            continues: false,
            unreaped: false,
        };
        entry(10 + u64::from(step), record, attached)
    }

    fn told(entries: &[Entry]) -> Value {
        let History { text, head, .. } = tell(entries, &Facts::default());
        assert!(text.len() <= TEXT_BYTES_MAX);
        let (head, whole) = text.split_at(head);
        let read = |text| serde_json::from_str::<Value>(text).expect("JSON");
        let (head, whole) = (read(head), read(whole));
        for member in ["id", "source", "outcome"] {
            assert_eq!(head[member], whole[member]);
        }
        whole
    }

    const PLAN: &str = r#"{"id": "app-1", "source": "ops", "steps": [
        {"name": "a}", "tool": "exec", "finally": false, "keep": false, "input": {}},
        {"name": "b", "tool": "shell", "finally": true}]}"#;
    const ADDED: &str = r#"{"steps": [{"name": "c", "tool": "exec", "keep": true}]}"#;

    #[test]
    fn a_result_tells_each_step_with_its_end() {
        let started = Record::Started { step: 0, attempt: 2, suspicions: 0 };
        let decided = Record::Decided { outcome: Outcome::Failed, step: 0, clock: Clock::None };
        let told = told(&[
            accepted(PLAN),
            entry(2, started, ""),
            ended(0, r#" {"outcome": "failed", "result": {"n": "}"}} "#),
            entry(3, Record::Extended { after: 0, steps: 1 }, ADDED),
            ended(1, ""),
            entry(20, decided, ""),
            entry(21, Record::Finished, ""),
        ]);
        assert_eq!((&told["id"], &told["source"]), (&json!("app-1"), &json!("ops")));
        assert_eq!((&told["outcome"], &told["step"]), (&json!("failed"), &json!(0)));
        assert_eq!((&told["accepted_ms"], &told["ended_ms"]), (&json!(1000), &json!(21_000)));
        assert_eq!((&told["sequence"], &told["clock"]), (&json!(21), &Value::Null));
        let [first, second, third] = &told["steps"].as_array().expect("steps")[..] else {
            panic!("{told}")
        };
        let whole = json!({"name": "a}", "tool": "exec", "finally": false, "attempts": 2,
            "outcome": "failed", "result": {"n": "}"}});
        assert_eq!(first, &whole);
        assert_eq!((&second["name"], &second["exit_code"]), (&json!("b"), &json!(3)));
        let skipped = json!({"name": "c", "tool": "exec", "finally": null, "attempts": 0,
            "outcome": "skipped"});
        assert_eq!(third, &skipped);
    }

    /// A journal is a file, and a file can lie: whatever lies in it, a result is JSON, and nobody's
    /// directory is another's.
    #[test]
    fn what_cannot_be_read_is_passed_over() {
        for end in ["{", "[]", "7", "\"{\"", "{} {}", "\u{1}", "{}"] {
            let told = told(&[accepted(PLAN), ended(0, end)]);
            let outcome = &told["steps"][0]["outcome"];
            let expected = if end == "{}" { Value::Null } else { json!("skipped") };
            assert_eq!(outcome, &expected, "{end}");
        }
        for plan in ["", "{", "[]", "{\"steps\": 7}"] {
            assert_eq!(told(&[accepted(plan), ended(0, "{}")])["steps"], json!([]), "{plan}");
            assert!(remains(&[accepted(plan)]).is_none());
        }
        let elsewhere = PLAN.replace("app-1", "../app");
        assert!(remains(&[accepted(&elsewhere)]).is_none());
    }

    #[test]
    fn a_directory_is_kept_if_a_step_says_so() {
        let found = remains(&[accepted(PLAN)]).expect("a plan");
        assert_eq!((found.source.as_str(), found.id.as_str(), found.keep), ("ops", "app-1", false));
        let added = entry(3, Record::Extended { after: 0, steps: 1 }, ADDED);
        assert!(remains(&[accepted(PLAN), added]).expect("a plan").keep);
    }

    #[test]
    fn what_is_too_long_loses_outputs_before_results() {
        let long = "x".repeat(TEXT_BYTES_MAX / 2);
        let end = |tail: &str, result: &str| {
            let stdout = json!({"head": "h", "tail": tail, "bytes": 1});
            json!({"outcome": "failed", "stdout": stdout, "result": {"r": result}}).to_string()
        };
        let told = told(&[accepted(PLAN), ended(0, &end(&long, "")), ended(1, &end(&long, "y"))]);
        assert_eq!(told["steps"][1]["stdout"]["tail"], "");
        assert_eq!(told["steps"][1]["stdout"]["head"], "h");
        assert_eq!(told["steps"][1]["result"]["r"], "y");
    }
}
