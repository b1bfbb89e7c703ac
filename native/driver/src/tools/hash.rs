//! `hash`: SHA-256 and size of a file.

use super::Call;
use ring::digest::{Context, SHA256};
use serde_json::{Value, json};
use std::io::Read;

/// Read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Input `path`; result `{"sha256", "bytes"}`.
///
/// # Errors
/// A sentence that names the file.
pub fn run(call: &Call) -> Result<Value, String> {
    let path = call.text("path")?;
    let failed = |cause: std::io::Error| format!("cannot hash {path}: {cause}");
    let mut file = super::beneath::open(call, "path").map_err(failed)?;
    let (mut context, mut bytes) = (Context::new(&SHA256), 0u64);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = file.read(&mut chunk).map_err(failed)?;
        if count == 0 {
            break;
        }
        context.update(&chunk[..count]);
        bytes += count as u64;
    }
    let digest = context.finish();
    let sha256: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json!({"sha256": sha256, "bytes": bytes}))
}
