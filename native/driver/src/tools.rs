//! Native tools: small programs that limpet brings along, run as child processes like any other tool.
//!
//! A tool reads one JSON document from standard input, `{"input": {...}, "hosts": [...], "beneath": {...}}`,
//! does its work, and reports one result on the descriptor that `LIMPET_FD` names. It knows nothing of tasks.
//! Exit code 0 is success, 1 a failure that its standard error explains, 2 a wrong call.
#![forbid(unsafe_code)]

mod beneath;
mod hash;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

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
}

/// A tool: from its call to its result, or a sentence for standard error.
type Tool = fn(&Call) -> Result<Value, String>;

fn find(name: &str) -> Option<Tool> {
    Some(match name {
        "hash" => hash::run,
        _ => return None,
    })
}

/// Runs the named tool.
#[must_use]
pub fn main(name: Option<&str>) -> ExitCode {
    let Some(tool) = name.and_then(find) else {
        eprintln!("cannot run tool {name:?}: there is none of that name");
        return ExitCode::from(2);
    };
    match call().and_then(|call| tool(&call)).and_then(|result| report(&result)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
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

/// Writes the result as one line to the report descriptor; to standard output when there is none.
fn report(result: &Value) -> Result<(), String> {
    let line = format!("{}\n", json!({"result": result}));
    let failed = |cause: std::io::Error| format!("cannot report the result: {cause}");
    match std::env::var("LIMPET_FD") {
        Ok(fd) => {
            let path = format!("/proc/self/fd/{fd}");
            let mut file = File::options().write(true).open(path).map_err(failed)?;
            file.write_all(line.as_bytes()).map_err(failed)
        }
        Err(_) => std::io::stdout().write_all(line.as_bytes()).map_err(failed),
    }
}

impl Call {
    /// A text parameter.
    ///
    /// # Errors
    /// A sentence, when it is missing or not text.
    pub fn text(&self, name: &str) -> Result<&str, String> {
        self.input
            .get(name)
            .and_then(Value::as_str)
            .ok_or_else(|| format!("cannot use parameter '{name}': it is not text"))
    }
}
