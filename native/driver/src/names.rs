//! What tasks are called outside: their identity as hashes, and references as numbers for the host.

use limpet_core::message::{AttemptRef, TaskRef};
use ring::digest::{Context, SHA256};

/// Identity of a task: 128 bits of SHA-256 over source, a zero byte, and id.
#[must_use]
pub fn key(source: &str, id: &str) -> u128 {
    let mut context = Context::new(&SHA256);
    context.update(source.as_bytes());
    context.update(&[0]);
    context.update(id.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&context.finish().as_ref()[..16]);
    u128::from_le_bytes(bytes)
}

/// 64 bits of SHA-256 over a source's name.
#[must_use]
pub fn source(name: &str) -> u64 {
    let digest = ring::digest::digest(&SHA256, name.as_bytes());
    short(digest.as_ref())
}

/// The first 64 bits of a hash.
///
/// # Panics
/// If there are fewer.
#[must_use]
pub fn short(digest: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(bytes)
}

/// A task's reference as one number.
#[must_use]
pub fn pack_task(task: TaskRef) -> u64 {
    u64::from(task.slot) << 32 | u64::from(task.generation)
}

/// The other way.
#[must_use]
pub fn unpack_task(number: u64) -> TaskRef {
    let slot = u16::try_from(number >> 32).unwrap_or(u16::MAX);
    TaskRef { slot, generation: (number & 0xffff_ffff) as u32 }
}

/// An attempt's reference as one number.
#[must_use]
pub fn pack_attempt(attempt: AttemptRef) -> u64 {
    u64::from(attempt.slot) << 32 | u64::from(attempt.generation)
}

/// The other way.
#[must_use]
pub fn unpack_attempt(number: u64) -> AttemptRef {
    let slot = u16::try_from(number >> 32).unwrap_or(u16::MAX);
    AttemptRef { slot, generation: (number & 0xffff_ffff) as u32 }
}
