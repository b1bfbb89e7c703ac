//! The frame around every message: one header line, then the exact bytes of the body.
//!
//! ```text
//! limpet/1 none\n
//! limpet/1 ed25519 KEYID SIGNATURE\n
//! ```
//!
//! The header is ASCII, its words are separated by one space, and its line is at most 256 bytes
//! with its end. KEYID is 1 to 64 characters of `[A-Za-z0-9._-]`, SIGNATURE is 64 bytes in base64
//! with padding. Repeats and signatures are judged by the body's bytes, so nothing here looks into
//! them. No signature is verified yet: a signed frame is refused rather than taken for unsigned.
#![forbid(unsafe_code)]

use ring::digest::{SHA256, digest};

use crate::plan::is_name;

/// Bytes of the header line, its line feed included.
pub const HEADER_BYTES_MAX: usize = 256;
/// Characters of an ed25519 signature in base64.
const SIGNATURE_LENGTH: usize = 88;

/// The body of a frame that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// Where it begins; it ends where the frame does.
    pub offset: usize,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
}

/// Why a frame was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameError {
    /// Stable `snake_case` reason code; [`check`] lists them.
    pub code: &'static str,
    /// One sentence for a person.
    pub detail: String,
}

/// Checks the frame and finds its body, which may have at most `maximum_body` bytes.
///
/// Codes, in the order of the checks: `frame_unknown` (it does not begin with `limpet/`),
/// `header_too_long`, `header_unterminated`, `header_malformed`, `version_unsupported`,
/// `algorithm_unknown`, `signature_malformed`, `signature_unsupported`, `body_empty`,
/// `body_too_long`.
pub fn check(frame: &[u8], maximum_body: usize) -> Result<Body, FrameError> {
    let Some(after) = frame.strip_prefix(b"limpet/") else {
        return Err(error("frame_unknown", "it does not begin with limpet/"));
    };
    let prefix = frame.len() - after.len();
    let window = &after[..after.len().min(HEADER_BYTES_MAX - prefix)];
    let Some(length) = window.iter().position(|byte| *byte == b'\n') else {
        return Err(if window.len() < after.len() {
            error("header_too_long", "its header line exceeds 256 bytes")
        } else {
            error("header_unterminated", "its header line has no end")
        });
    };
    check_header(&window[..length])?;
    let offset = prefix + length + 1;
    let body = &frame[offset..];
    if body.is_empty() {
        return Err(error("body_empty", "it has no body"));
    }
    if body.len() > maximum_body {
        let cause = format!("its body of {} bytes exceeds {maximum_body}", body.len());
        return Err(error("body_too_long", &cause));
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, body).as_ref());
    Ok(Body { offset, digest: sum })
}

/// Checks the words of a header, the first of which lacks its `limpet/`.
fn check_header(header: &[u8]) -> Result<(), FrameError> {
    let malformed = error("header_malformed", "its header is not words with one space between");
    let text = match std::str::from_utf8(header) {
        Ok(text) if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) => text,
        _ => return Err(malformed),
    };
    let words: Vec<&str> = text.split(' ').collect();
    if words.iter().any(|word| word.is_empty()) || words.len() < 2 {
        return Err(malformed);
    }
    if words[0] != "1" {
        return Err(error("version_unsupported", "its version is not 1"));
    }
    match words[1..] {
        ["none"] => Ok(()),
        ["none", ..] => Err(malformed),
        ["ed25519", key, signature] if is_name(key) && is_signature(signature) => {
            Err(error("signature_unsupported", "signatures are not verified by this version"))
        }
        ["ed25519", ..] => {
            Err(error("signature_malformed", "its key id or its signature has another form"))
        }
        _ => Err(error("algorithm_unknown", "its algorithm is neither none nor ed25519")),
    }
}

/// Whether a text is the base64 of 64 bytes: 86 digits, of which the last holds four zero bits.
fn is_signature(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    let Some(digits) = text.strip_suffix("==") else {
        return false;
    };
    text.len() == SIGNATURE_LENGTH
        && digits.bytes().all(digit)
        && digits.ends_with(['A', 'Q', 'g', 'w'])
}

fn error(code: &'static str, cause: &str) -> FrameError {
    FrameError { code, detail: format!("cannot accept frame: {cause} (it is refused)") }
}
