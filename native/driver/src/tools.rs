//! Native tools: small programs that limpet brings along, run as children like any other tool.
//!
//! A tool reads one JSON document from standard input, `{"input": {...}, "hosts": [...], "beneath":
//! {...}, "models": {...}, "pool_bytes": ...}`, does its work, and reports one result on the
//! descriptor that `LIMPET_FD` names. It knows nothing of tasks. Exit code 0 is success, 1 a
//! failure that its standard error explains, 2 a wrong call.
//!
//! | What | Where |
//! | --- | --- |
//! | files | `hash`, `read`, `write` over `beneath` (which) and `place` (whole or not at all) |
//! | the network | `http`, `fetch` over `url` (whom), `wire` (bytes) and `exchange` (HTTP) |
//! | a download that goes on after a cut | `part` |
//! | the device | `device` |
//! | model files | `inspect`; `gate`, which stands before a program that uses one |
//! | what is said, and in which form | `report`, `text`, `digest` |
#![forbid(unsafe_code)]

mod beneath;
mod device;
mod digest;
mod exchange;
mod fetch;
pub mod gate;
mod hash;
mod http;
mod inspect;
mod part;
mod place;
mod read;
mod report;
mod text;
mod url;
mod wire;
mod write;

use crate::table::Models;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

/// Largest input document; what the spawner gives is smaller.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

/// What a tool is told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Its parameters; their types were checked against the declaration.
    pub input: Map<String, Value>,
    /// Hosts that it may reach, as `host:port` or `host:*`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// For each path parameter, the directory that it must lie beneath.
    #[serde(default)]
    pub beneath: BTreeMap<String, PathBuf>,
    /// Which models the policy admits; for `inspect` alone.
    #[serde(default)]
    pub models: Models,
    /// What all steps may have of memory together; likewise.
    #[serde(default)]
    pub pool_bytes: Option<u64>,
}

/// Why a tool did not succeed.
#[derive(Debug)]
pub struct Failure {
    /// A sentence for standard error.
    pub text: String,
    /// What was found out nevertheless.
    pub result: Option<Value>,
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure { text, result: None }
    }
}

/// A tool: from its call to its result.
type Tool = fn(&Call) -> Result<Value, Failure>;

fn find(name: &str) -> Option<Tool> {
    Some(match name {
        "device" => device::run,
        "fetch" => fetch::run,
        "hash" => hash::run,
        "http" => http::run,
        "inspect" => inspect::run,
        "read" => read::run,
        "write" => write::run,
        _ => return None,
    })
}

const SUCCEEDED: u8 = 0;
const FAILED: u8 = 1;
const MISCALLED: u8 = 2;

/// Runs the named tool; returns its exit code.
#[must_use]
pub fn main(name: Option<&str>) -> u8 {
    let Some(tool) = name.and_then(find) else {
        eprintln!("cannot run tool {name:?}: there is none of that name");
        return MISCALLED;
    };
    let call = match call() {
        Ok(call) => call,
        Err(text) => {
            eprintln!("{text}");
            return MISCALLED;
        }
    };
    let (result, mut problem) = match tool(&call) {
        Ok(result) => (Some(result), None),
        Err(failure) => (failure.result, Some(failure.text)),
    };
    if let Some(Err(text)) = result.as_ref().map(report::result) {
        problem.get_or_insert(text);
    }
    match problem {
        None => SUCCEEDED,
        Some(text) => {
            eprintln!("{text}");
            FAILED
        }
    }
}

fn call() -> Result<Call, String> {
    let mut text = Vec::new();
    let read = std::io::stdin().take(INPUT_BYTES_MAX + 1).read_to_end(&mut text);
    read.map_err(|cause| format!("cannot read the input: {cause}"))?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        return Err(format!("cannot read the input: it is longer than {INPUT_BYTES_MAX} bytes"));
    }
    serde_json::from_slice(&text).map_err(|cause| format!("cannot read the input: {cause}"))
}

impl Call {
    /// A text parameter.
    ///
    /// # Errors
    /// A sentence, when it is missing or not text.
    pub fn text(&self, name: &str) -> Result<&str, String> {
        self.optional_text(name)?
            .ok_or_else(|| format!("cannot use parameter '{name}': it is missing"))
    }

    /// A text parameter that may be missing.
    ///
    /// # Errors
    /// A sentence, when it is not text.
    pub fn optional_text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.input.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("cannot use parameter '{name}': it is not text")),
        }
    }

    /// Whether a parameter is given and true.
    pub fn flag(&self, name: &str) -> bool {
        self.input.get(name) == Some(&Value::Bool(true))
    }

    /// A whole number of at least zero; `default` when it is missing.
    ///
    /// # Errors
    /// A sentence, when it is another value.
    pub fn integer(&self, name: &str, default: u64) -> Result<u64, String> {
        match self.input.get(name) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .ok_or_else(|| format!("cannot use parameter '{name}': it is no whole number")),
        }
    }
}
