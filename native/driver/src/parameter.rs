//! Which values a declared parameter of a tool admits, and the form in which they are passed on.
//!
//! It knows neither tasks nor tools. Paths are judged by their text alone: a symbolic link beneath
//! an allowed directory is the affair of whoever may write there, and of the tool that opens it.
#![forbid(unsafe_code)]

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::expand::TEXT_BYTES_MAX;

/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 4096;
/// Bytes of one name in a path.
const PATH_PART_BYTES_MAX: usize = 255;
/// Bytes of a `json` parameter whose declaration sets no bound: what a child's stdin holds.
const JSON_BYTES_MAX: usize = 64 * 1024;

/// A declared parameter. In the policy table: `{"type": TYPE, "required": bool, "default": VALUE}`
/// and the keys of its type; `required` is false when absent. A default is passed when a task
/// gives no value, so it excludes `required`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Parameter {
    /// A task must give a value.
    pub required: bool,
    /// Passed when a task gives none.
    pub default: Option<Value>,
    /// Which values it admits.
    pub kind: Kind,
}

/// The types of parameters; an absent (or null) key means the widest bound.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// A path strictly beneath a directory. Passed on absolute, without `.`, `..` or doubled `/`.
    Path {
        /// Absolute; absent: the task's own directory.
        beneath: Option<String>,
    },
    /// Likewise, and a model file: the attempt begins with a look at it, and ends there unless the
    /// policy admits it.
    Model {
        /// Absolute; absent: the task's own directory.
        beneath: Option<String>,
    },
    /// A whole number, both bounds included.
    Integer {
        /// Smallest value.
        minimum: Option<i64>,
        /// Largest value.
        maximum: Option<i64>,
    },
    /// One of these texts.
    Choice {
        /// At least one.
        choices: Vec<String>,
    },
    /// A text.
    Text {
        /// Characters it may hold; absent: any.
        alphabet: Option<Alphabet>,
        /// In characters; absent: 8192, and never more than 8 KiB where references are in it.
        maximum_length: Option<usize>,
    },
    /// `true` or `false`.
    Boolean {},
    /// Any JSON.
    Json {
        /// Of its compact encoding; absent: 64 KiB.
        maximum_bytes: Option<usize>,
    },
}

/// A set of characters, written as in `a-zA-Z0-9_-`: a `-` between two characters makes a range, at
/// either end it is itself. There is no escape and no negation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Alphabet(Vec<(char, char)>);

impl Alphabet {
    /// Reads the notation; refuses an empty set, a range that runs backwards, and NUL.
    pub fn parse(text: &str) -> Result<Alphabet, String> {
        let characters: Vec<char> = text.chars().collect();
        let mut ranges = Vec::new();
        let mut rest = characters.as_slice();
        while let [first, after @ ..] = rest {
            let (last, next) = match after {
                ['-', last, next @ ..] => (*last, next),
                _ => (*first, after),
            };
            if last < *first {
                return Err(format!("range '{first}-{last}' of an alphabet runs backwards"));
            }
            if *first == '\0' {
                return Err("an alphabet holds NUL".into());
            }
            ranges.push((*first, last));
            rest = next;
        }
        if ranges.is_empty() {
            return Err("an alphabet is empty".into());
        }
        Ok(Alphabet(ranges))
    }

    /// Whether the character is in the set.
    pub fn contains(&self, character: char) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&character))
    }
}

impl TryFrom<String> for Alphabet {
    type Error = String;

    fn try_from(text: String) -> Result<Alphabet, String> {
        Alphabet::parse(&text)
    }
}

impl TryFrom<Map<String, Value>> for Parameter {
    type Error = String;

    fn try_from(mut map: Map<String, Value>) -> Result<Parameter, String> {
        let required = match map.remove("required") {
            None => false,
            Some(Value::Bool(required)) => required,
            Some(_) => return Err("\"required\" of a parameter is not a boolean".into()),
        };
        let default = map.remove("default").filter(|value| !value.is_null());
        let kind: Kind =
            serde_json::from_value(Value::Object(map)).map_err(|error| error.to_string())?;
        let parameter = Parameter { required, default, kind };
        parameter.validate()?;
        Ok(parameter)
    }
}

impl Parameter {
    /// A parameter without default.
    pub(crate) fn new(required: bool, kind: Kind) -> Parameter {
        Parameter { required, default: None, kind }
    }

    /// Returns the value in the form in which the tool gets it, or why it is not admitted.
    /// `directory` is the task's own: absolute and normalised.
    pub fn admit(&self, value: &Value, directory: &str) -> Result<Value, String> {
        match (&self.kind, value) {
            (Kind::Path { beneath } | Kind::Model { beneath }, Value::String(text)) => {
                let root = beneath.as_deref().unwrap_or(directory);
                return path_beneath(text, directory, root).map(Value::String);
            }
            (Kind::Integer { minimum, maximum }, Value::Number(number)) => {
                let (low, high) = (minimum.unwrap_or(i64::MIN), maximum.unwrap_or(i64::MAX));
                let fits = number.as_i64().is_some_and(|number| (low..=high).contains(&number));
                require(fits, || format!("is not a whole number from {low} to {high}"))?;
            }
            (Kind::Choice { choices }, Value::String(text)) => {
                require(choices.contains(text), || "is not one of its choices".into())?;
            }
            (Kind::Text { alphabet, maximum_length }, Value::String(text)) => {
                let most = maximum_length.unwrap_or(TEXT_BYTES_MAX);
                let fits = text.chars().nth(most).is_none();
                require(fits, || format!("is longer than {most} characters"))?;
                let plain =
                    alphabet.as_ref().is_none_or(|set| text.chars().all(|c| set.contains(c)));
                require(plain, || "holds a character outside its alphabet".into())?;
            }
            (Kind::Json { maximum_bytes }, any) => {
                let most = maximum_bytes.unwrap_or(JSON_BYTES_MAX);
                require(any.to_string().len() <= most, || format!("exceeds {most} bytes"))?;
            }
            (Kind::Boolean {}, Value::Bool(_)) => {}
            _ => return Err(format!("is not {}", self.kind.title())),
        }
        Ok(value.clone())
    }

    fn validate(&self) -> Result<(), String> {
        match &self.kind {
            Kind::Path { beneath: Some(root) } | Kind::Model { beneath: Some(root) } => {
                require(is_normal(root), || {
                    format!("\"beneath\" '{root}' is not absolute and plain")
                })?;
            }
            Kind::Integer { minimum: Some(low), maximum: Some(high) } => {
                require(low <= high, || "\"minimum\" is above \"maximum\"".into())?;
            }
            Kind::Choice { choices } => {
                require(!choices.is_empty(), || "\"choices\" is empty".into())?;
            }
            _ => {}
        }
        let Some(default) = &self.default else {
            return Ok(());
        };
        require(!self.required, || "a required parameter has a default".into())?;
        // A relative path is judged again at dispatch, when the real directory is known.
        let directory = match &self.kind {
            Kind::Path { beneath: Some(root) } | Kind::Model { beneath: Some(root) } => root,
            _ => "/task",
        };
        self.admit(default, directory).map(drop).map_err(|cause| format!("its default {cause}"))
    }
}

impl Kind {
    fn title(&self) -> &'static str {
        match self {
            Kind::Path { .. } | Kind::Model { .. } | Kind::Choice { .. } | Kind::Text { .. } => {
                "a text"
            }
            Kind::Integer { .. } => "a whole number",
            Kind::Boolean {} => "true or false",
            Kind::Json { .. } => "JSON",
        }
    }
}

/// Makes a path absolute (a relative one starts at `directory`), resolves `.` and `..` by text, and
/// requires the outcome to lie strictly beneath `root`; both are absolute and normalised.
pub fn path_beneath(text: &str, directory: &str, root: &str) -> Result<String, String> {
    require(!text.is_empty(), || "is empty".into())?;
    require(!text.contains('\0'), || "holds NUL".into())?;
    require(text.len() <= PATH_BYTES_MAX, || format!("exceeds {PATH_BYTES_MAX} bytes"))?;
    let start = if text.starts_with('/') { "" } else { directory };
    let mut parts: Vec<&str> = Vec::new();
    for part in start.split('/').chain(text.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    let short = parts.iter().all(|part| part.len() <= PATH_PART_BYTES_MAX);
    require(short, || format!("holds a name above {PATH_PART_BYTES_MAX} bytes"))?;
    let path = format!("/{}", parts.join("/"));
    require(path.len() <= PATH_BYTES_MAX, || format!("exceeds {PATH_BYTES_MAX} bytes"))?;
    let within =
        path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/') && rest.len() > 1);
    require(within || (root == "/" && path != "/"), || format!("does not lie beneath {root}"))?;
    Ok(path)
}

/// Whether a path is absolute and holds no empty part, `.`, `..` or NUL.
pub(crate) fn is_normal(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let short = path.len() <= PATH_BYTES_MAX && !path.contains('\0');
    short
        && path.strip_prefix('/').is_some_and(|rest| rest.is_empty() || rest.split('/').all(plain))
}

fn require(condition: bool, cause: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(cause()) }
}
