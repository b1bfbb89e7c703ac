//! `read`: a piece of a file, small enough for a result.

use super::{Call, Failure, beneath, text};
use serde_json::{Value, json};
use std::io::{Read, Seek, SeekFrom};

/// Bytes read when the call does not say.
const BYTES_DEFAULT: u64 = 3072;
/// Room for the data as JSON: what a result holds, without the other members.
const ROOM_BYTES: usize = 3840;

/// Input `path`, `offset` (default 0), `maximum_bytes` (1 to 3072, default 3072); result
/// `{"data", "encoding", "bytes", "offset", "end"}`: what stands at the offset, as `text` or as
/// `base64`; how many bytes of the file that is, which may be less than asked for; and whether the
/// file ends there.
///
/// # Errors
/// A sentence that names the file.
pub fn run(call: &Call) -> Result<Value, Failure> {
    let path = call.text("path")?;
    let failed = |cause: std::io::Error| format!("cannot read {path}: {cause}");
    let offset = call.integer("offset", 0)?;
    let most = call.integer("maximum_bytes", BYTES_DEFAULT)?.min(BYTES_DEFAULT);
    let mut file = beneath::file(call, "path").map_err(failed)?;
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    let whole = bytes.len() as u64 <= most;
    bytes.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    let (count, encoding, data) = text::encode(&bytes, ROOM_BYTES);
    let end = whole && count == bytes.len();
    Ok(json!({
        "data": data, "encoding": encoding, "bytes": count, "offset": offset, "end": end,
    }))
}
