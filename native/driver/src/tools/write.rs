//! `write`: puts a small file in its place, whole or not at all.

use super::digest::Sum;
use super::{Call, Failure, beneath};
use serde_json::{Value, json};

/// Input `path`, `data` (a text as it is, anything else as compact JSON), `mode` (octal, default
/// `0644`); result `{"path", "bytes", "sha256"}`. The directory must be there.
///
/// # Errors
/// A sentence that names the file; it is then what it was before.
pub fn run(call: &Call) -> Result<Value, Failure> {
    let path = call.text("path")?;
    let failed = |cause: String| format!("cannot write {path}: {cause} (it is as it was)");
    let data = match call.input.get("data") {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => return Err(failed("the call has no data".into()).into()),
    };
    let mode = call.optional_text("mode")?.unwrap_or("0644");
    let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777);
    let mode = mode.ok_or_else(|| failed("its mode is not octal, up to 0777".into()))?;
    let place = beneath::place(call, "path").map_err(|cause| failed(cause.to_string()))?;
    place.replace(data.as_bytes(), mode).map_err(|cause| failed(cause.to_string()))?;
    let mut sum = Sum::new();
    sum.push(data.as_bytes());
    Ok(json!({"path": path, "bytes": data.len(), "sha256": sum.hex()}))
}
