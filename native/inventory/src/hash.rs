//! SHA-256 of whole files, in one pass with large reads.

use crate::reader::{Stop, read};
use crate::source::{Source, Watch};
use ring::digest::{Context, SHA256};
use std::fmt::Write;

/// Large enough that reading costs nothing beside hashing, small enough for the processor's cache.
const CHUNK_BYTES: usize = 256 * 1024;

/// The SHA-256 of `source`, as it is read, in lower-case hexadecimal; and how many bytes there
/// were.
///
/// # Errors
/// When reading fails or `watch` has had enough.
pub fn sha256(source: &dyn Source, watch: &dyn Watch) -> Result<(String, u64), Stop> {
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    loop {
        if watch.cancelled() {
            return Err(Stop::Cancelled);
        }
        let count = read(source, offset, &mut chunk)?;
        if count == 0 {
            return Ok((hex(context.finish().as_ref()), offset));
        }
        context.update(&chunk[..count]);
        offset += count as u64;
        watch.hashed(count as u64);
    }
}

/// The SHA-256 of bytes.
#[must_use]
pub fn of(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&SHA256, bytes).as_ref())
}

/// In lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
