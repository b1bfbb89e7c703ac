//! `hash`: SHA-256 and size of a file, compared with what is expected if that is known.

use super::digest::Sum;
use super::{Call, Failure, beneath};
use serde_json::{Value, json};

/// Input `path`, `sha256` (optional: what it must be); result `{"sha256", "bytes"}`.
///
/// # Errors
/// A sentence that names the file; when the sums differ, both of them, and the result besides.
pub fn run(call: &Call) -> Result<Value, Failure> {
    let path = call.text("path")?;
    let failed = |cause: std::io::Error| format!("cannot hash {path}: {cause}");
    let mut file = beneath::file(call, "path").map_err(failed)?;
    let mut sum = Sum::new();
    sum.read(&mut file, |_| ()).map_err(failed)?;
    let found = sum.hex();
    let result = json!({"sha256": found, "bytes": sum.bytes()});
    match call.optional_text("sha256")? {
        Some(expected) if expected != found => {
            let text = format!("cannot accept {path}: its sha256 is {found}, not {expected}");
            Err(Failure { text, result: Some(result) })
        }
        _ => Ok(result),
    }
}
