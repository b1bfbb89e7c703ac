//! What references and conditions mean, given how the earlier steps ended.
//!
//! It knows no tool and no policy: what it returns has yet to be authorised.
#![forbid(unsafe_code)]

use serde::Deserialize;
use serde_json::{Map, Number, Value};

use crate::launch::Refusal;
use crate::plan::{Outcome, Plan, Test, When, brief, refusal};
use crate::template::{Reference, Segment, Template};

/// Bytes of one text that references were expanded into.
pub const TEXT_BYTES_MAX: usize = 8 * 1024;
/// Bytes that the references of one input expand to, all together: what a child's stdin holds.
pub const EXPANDED_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a journaled end of a step; four captured texts with every character escaped fit.
pub const ENDED_BYTES_MAX: usize = 256 * 1024;

/// How a step ended, as far as later steps may refer to it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Ended {
    /// Index of the step.
    pub step: u8,
    /// Its outcome.
    pub outcome: Outcome,
    /// Exit code of its last attempt, if a process exited.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The JSON object it produced.
    #[serde(default)]
    pub result: Option<Map<String, Value>>,
    /// The captured standard output of its last attempt.
    #[serde(default)]
    pub stdout: Option<Captured>,
}

/// A bounded part of an output: `tail` holds only what did not fit in `head`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Captured {
    /// Its beginning.
    pub head: String,
    /// Its end, empty when all of it is in `head`.
    pub tail: String,
    /// Bytes that were written, kept or not.
    pub bytes: u64,
}

impl Ended {
    /// Reads the journaled end of a step; fields it does not need are passed over. The error says
    /// what is wrong, for the report that the journal is damaged.
    pub fn parse(bytes: &[u8]) -> Result<Ended, String> {
        if bytes.len() > ENDED_BYTES_MAX {
            return Err(format!("{} bytes exceed {ENDED_BYTES_MAX}", bytes.len()));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

impl When {
    /// Whether the condition holds. What is not there (the step did not end, has no exit code, no
    /// such result) equals nothing: a test fails, a negated test holds.
    pub fn holds(&self, prior: &[Option<Ended>]) -> bool {
        let ended = prior.get(usize::from(self.step)).and_then(Option::as_ref);
        let equal = ended.is_some_and(|ended| match &self.test {
            Test::Outcome(outcome) => ended.outcome == *outcome,
            Test::ExitCode(code) => ended.exit_code == Some(*code),
            Test::Result(path, value) => {
                find(ended.result.as_ref(), path).is_some_and(|found| equals(&found, value))
            }
        });
        equal != self.negate
    }
}

/// Replaces every reference in the input of step `step` by what it stands for; `prior` holds, by
/// index, how the earlier steps ended. Names in the input are never expanded.
///
/// A value that is one reference keeps the type of what it refers to; otherwise the pieces are
/// joined as text: texts as they are, numbers, booleans and null as JSON.
///
/// Refusals: `reference_missing`, `reference_type` (an array or object inside a text),
/// `reference_truncated` (output longer than was kept), `reference_too_long` (a text above 8 KiB),
/// `input_too_long` (expansions above 64 KiB together).
pub fn expand(
    plan: &Plan,
    step: usize,
    prior: &[Option<Ended>],
    device: &str,
) -> Result<Map<String, Value>, Refusal> {
    let Some(subject) = plan.steps.get(step) else {
        let text = format!("cannot expand input: task '{}' has no step {step} (refused)", plan.id);
        return Err(refusal("plan_invalid", text));
    };
    let mut expansion = Expansion { plan, name: &subject.name, prior, device, spent: 0 };
    let inputs = subject.input.0.iter();
    inputs.map(|(name, value)| Ok((name.clone(), expansion.value(value)?))).collect()
}

struct Expansion<'a> {
    plan: &'a Plan,
    name: &'a str,
    prior: &'a [Option<Ended>],
    device: &'a str,
    spent: usize,
}

impl Expansion<'_> {
    fn value(&mut self, template: &Template) -> Result<Value, Refusal> {
        match template {
            Template::Literal(value) => Ok(value.clone()),
            Template::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Template::Object(map) => {
                let parts = map.iter();
                parts.map(|(name, value)| Ok((name.clone(), self.value(value)?))).collect()
            }
            Template::Text(segments) => match segments.as_slice() {
                [Segment::Reference(reference)] => self.whole(reference),
                pieces => self.joined(pieces),
            },
        }
    }

    fn whole(&mut self, reference: &Reference) -> Result<Value, Refusal> {
        let value = self.resolve(reference)?;
        if let Value::String(text) = &value {
            self.check_text(text.len())?;
            self.spend(text.len())?;
        } else {
            self.spend(value.to_string().len())?;
        }
        Ok(value)
    }

    fn joined(&mut self, segments: &[Segment]) -> Result<Value, Refusal> {
        let mut text = String::new();
        for segment in segments {
            let piece = match segment {
                Segment::Literal(literal) => literal.clone(),
                Segment::Reference(reference) => match self.resolve(reference)? {
                    Value::String(found) => found,
                    Value::Array(_) | Value::Object(_) => {
                        let cause = "an array or object cannot be part of a text";
                        return Err(self.refuse("reference_type", cause));
                    }
                    scalar => scalar.to_string(),
                },
            };
            self.check_text(text.len() + piece.len())?;
            text.push_str(&piece);
        }
        self.spend(text.len())?;
        Ok(Value::String(text))
    }

    fn resolve(&self, reference: &Reference) -> Result<Value, Refusal> {
        let found = match reference {
            Reference::TaskId => Some(self.plan.id.clone().into()),
            Reference::TaskSource => Some(self.plan.source.clone().into()),
            Reference::DeviceName => Some(self.device.into()),
            Reference::Outcome(step) => {
                let named = self.ended(*step).map(|ended| serde_json::to_value(ended.outcome));
                named.and_then(Result::ok)
            }
            Reference::ExitCode(step) => {
                self.ended(*step).and_then(|ended| ended.exit_code).map(Value::from)
            }
            Reference::Stdout(step) => self.stdout(*step)?,
            Reference::Result(step, path) => {
                find(self.ended(*step).and_then(|ended| ended.result.as_ref()), path)
            }
        };
        found.ok_or_else(|| self.refuse("reference_missing", &self.absent(reference)))
    }

    fn stdout(&self, step: u8) -> Result<Option<Value>, Refusal> {
        let Some(stdout) = self.ended(step).and_then(|ended| ended.stdout.as_ref()) else {
            return Ok(None);
        };
        let kept = u64::try_from(stdout.head.len()).unwrap_or(u64::MAX);
        if !stdout.tail.is_empty() || stdout.bytes > kept {
            let cause = format!("the output of step {} is longer than was kept", self.title(step));
            return Err(self.refuse("reference_truncated", &cause));
        }
        let text = stdout.head.strip_suffix('\n').unwrap_or(&stdout.head);
        Ok(Some(text.into()))
    }

    fn ended(&self, step: u8) -> Option<&Ended> {
        self.prior.get(usize::from(step)).and_then(Option::as_ref)
    }

    fn check_text(&self, bytes: usize) -> Result<(), Refusal> {
        if bytes <= TEXT_BYTES_MAX {
            return Ok(());
        }
        let cause = format!("an expanded text exceeds {TEXT_BYTES_MAX} bytes");
        Err(self.refuse("reference_too_long", &cause))
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.spent += bytes;
        if self.spent <= EXPANDED_BYTES_MAX {
            return Ok(());
        }
        let cause = format!("its references expand to more than {EXPANDED_BYTES_MAX} bytes");
        Err(self.refuse("input_too_long", &cause))
    }

    fn absent(&self, reference: &Reference) -> String {
        match reference {
            Reference::Outcome(step) => format!("step {} has not ended", self.title(*step)),
            Reference::ExitCode(step) => format!("step {} has no exit code", self.title(*step)),
            Reference::Stdout(step) => format!("step {} has no output", self.title(*step)),
            Reference::Result(step, path) => {
                let names = brief(&path.join("."));
                format!("step {} has no result '{names}'", self.title(*step))
            }
            Reference::TaskId | Reference::TaskSource | Reference::DeviceName => "no value".into(),
        }
    }

    fn title(&self, step: u8) -> String {
        let found = self.plan.steps.get(usize::from(step));
        found.map_or_else(|| step.to_string(), |step| format!("'{}'", step.name))
    }

    fn refuse(&self, code: &'static str, cause: &str) -> Refusal {
        let text = format!("cannot expand input of step '{}': {cause} (refused)", self.name);
        refusal(code, text)
    }
}

/// Follows names through objects; an array has no names.
fn find(result: Option<&Map<String, Value>>, path: &[String]) -> Option<Value> {
    let Some((last, inner)) = path.split_last() else {
        return result.cloned().map(Value::Object);
    };
    let mut place = result?;
    for name in inner {
        place = place.get(name)?.as_object()?;
    }
    place.get(last).cloned()
}

/// Equality of JSON scalars, in which 1 and 1.0 are the same number.
fn equals(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => match (whole(left), whole(right)) {
            (Some(left), Some(right)) => left == right,
            (None, None) => left.as_f64() == right.as_f64(),
            _ => false,
        },
        _ => left == right,
    }
}

/// A number without a fraction, exactly; those beyond 2^64 are compared as floats.
fn whole(number: &Number) -> Option<i128> {
    if let Some(integer) = number.as_i64() {
        return Some(integer.into());
    }
    if let Some(integer) = number.as_u64() {
        return Some(integer.into());
    }
    let float = number.as_f64()?;
    // Below 2^64 the conversion is exact.
    (float.fract() == 0.0 && float.abs() < 18_446_744_073_709_551_616.0).then_some(float as i128)
}
