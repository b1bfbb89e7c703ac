//! What a step's input looks like before expansion: JSON in which a text may hold references.
//!
//! It knows which references exist, not what they mean; they are found once, when a plan is read.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::plan::check_path;

/// Arrays and objects around a value, the input itself included.
pub const DEPTH_MAX: usize = 16;

/// A step's input: parameter names, which are always literal, and their values.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Input(pub BTreeMap<String, Template>);

/// A JSON value, taken apart only as far as it holds references.
#[derive(Debug, Clone, PartialEq)]
pub enum Template {
    /// No reference anywhere inside.
    Literal(Value),
    /// `{"$": [...]}` with at least one reference, possibly between literals.
    Text(Vec<Segment>),
    /// A reference somewhere inside.
    Array(Vec<Template>),
    /// A reference somewhere inside a value; names are always literal.
    Object(BTreeMap<String, Template>),
}

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "RawSegment")]
pub enum Segment {
    /// As it stands.
    Literal(String),
    /// Replaced at dispatch.
    Reference(Reference),
}

/// What a reference stands for; steps are given by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// The outcome of a step.
    Outcome(u8),
    /// The exit code of a step's last attempt.
    ExitCode(u8),
    /// The standard output of a step's last attempt.
    Stdout(u8),
    /// The result of a step, or what these names lead to inside it.
    Result(u8, Vec<String>),
    /// The id of the task.
    TaskId,
    /// The source of the task.
    TaskSource,
    /// The name of the device.
    DeviceName,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum RawSegment {
    Literal(String),
    Step { step: u8, path: Vec<String> },
    Task { task: TaskField },
    Device { device: DeviceField },
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum TaskField {
    Id,
    Source,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum DeviceField {
    Name,
}

impl TryFrom<RawSegment> for Segment {
    type Error = String;

    fn try_from(raw: RawSegment) -> Result<Segment, String> {
        let reference = match raw {
            RawSegment::Literal(text) => return Ok(Segment::Literal(text)),
            RawSegment::Task { task: TaskField::Id } => Reference::TaskId,
            RawSegment::Task { task: TaskField::Source } => Reference::TaskSource,
            RawSegment::Device { device: DeviceField::Name } => Reference::DeviceName,
            RawSegment::Step { step, path } => {
                check_path(&path)?;
                match (path[0].as_str(), &path[1..]) {
                    ("outcome", []) => Reference::Outcome(step),
                    ("exit_code", []) => Reference::ExitCode(step),
                    ("stdout", []) => Reference::Stdout(step),
                    ("result", inner) => Reference::Result(step, inner.to_vec()),
                    _ => return Err("a reference to a step has an unknown path".into()),
                }
            }
        };
        Ok(Segment::Reference(reference))
    }
}

impl TryFrom<Map<String, Value>> for Input {
    type Error = String;

    fn try_from(map: Map<String, Value>) -> Result<Input, String> {
        object(map, 1).map(Input)
    }
}

impl Input {
    /// Indexes of the steps that it refers to.
    pub(crate) fn steps(&self) -> Vec<u8> {
        let mut found = Vec::new();
        self.0.values().for_each(|value| value.collect_steps(&mut found));
        found
    }
}

impl Template {
    /// The value, if no reference is inside.
    pub(crate) fn literal(&self) -> Option<&Value> {
        match self {
            Template::Literal(value) => Some(value),
            _ => None,
        }
    }

    fn collect_steps(&self, found: &mut Vec<u8>) {
        match self {
            Template::Literal(_) => {}
            Template::Array(items) => items.iter().for_each(|item| item.collect_steps(found)),
            Template::Object(map) => map.values().for_each(|value| value.collect_steps(found)),
            Template::Text(segments) => {
                found.extend(segments.iter().filter_map(|segment| match segment {
                    Segment::Reference(
                        Reference::Outcome(step)
                        | Reference::ExitCode(step)
                        | Reference::Stdout(step)
                        | Reference::Result(step, _),
                    ) => Some(*step),
                    _ => None,
                }))
            }
        }
    }
}

/// Takes a value apart; `depth` counts the arrays and objects around it.
fn template(value: Value, depth: usize) -> Result<Template, String> {
    match value {
        Value::Array(items) => array(items, depth + 1),
        Value::Object(map) if map.contains_key("$") => text(map),
        Value::Object(map) => {
            let parts = object(map, depth + 1)?;
            if parts.values().any(|part| part.literal().is_none()) {
                return Ok(Template::Object(parts));
            }
            let whole = parts.into_iter().filter_map(|(name, part)| match part {
                Template::Literal(value) => Some((name, value)),
                _ => None,
            });
            Ok(Template::Literal(Value::Object(whole.collect())))
        }
        scalar => Ok(Template::Literal(scalar)),
    }
}

fn array(items: Vec<Value>, depth: usize) -> Result<Template, String> {
    check_depth(depth)?;
    let parts: Vec<Template> =
        items.into_iter().map(|item| template(item, depth)).collect::<Result<_, _>>()?;
    if parts.iter().any(|part| part.literal().is_none()) {
        return Ok(Template::Array(parts));
    }
    let whole = parts.into_iter().filter_map(|part| match part {
        Template::Literal(value) => Some(value),
        _ => None,
    });
    Ok(Template::Literal(whole.collect()))
}

fn object(map: Map<String, Value>, depth: usize) -> Result<BTreeMap<String, Template>, String> {
    check_depth(depth)?;
    if map.keys().any(|name| name.starts_with('$')) {
        return Err("a name in its input begins with '$'".into());
    }
    map.into_iter().map(|(name, value)| Ok((name, template(value, depth)?))).collect()
}

fn text(map: Map<String, Value>) -> Result<Template, String> {
    if map.len() != 1 {
        return Err("a name in its input begins with '$'".into());
    }
    let list = map.into_iter().next().map_or(Value::Null, |(_, value)| value);
    let segments: Vec<Segment> = serde_json::from_value(list)
        .map_err(|error| format!("a reference is malformed: {error}"))?;
    if segments.is_empty() {
        return Err("a text has no segments".into());
    }
    let literals: Option<String> = segments
        .iter()
        .map(|segment| match segment {
            Segment::Literal(text) => Some(text.as_str()),
            Segment::Reference(_) => None,
        })
        .collect();
    Ok(literals.map_or(Template::Text(segments), |text| Template::Literal(Value::String(text))))
}

fn check_depth(depth: usize) -> Result<(), String> {
    if depth <= DEPTH_MAX { Ok(()) } else { Err(format!("its input is deeper than {DEPTH_MAX}")) }
}
