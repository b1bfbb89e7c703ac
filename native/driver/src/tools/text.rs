//! How bytes become JSON within a bound: as text where they are text, else as base64.

use serde_json::{Value, json};

/// Characters of a path, a URL or a message that are kept in a result.
const EXCERPT_CHARACTERS: usize = 256;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The longest beginning of `text` whose JSON, with its quotes, has at most `room` bytes.
pub fn fit(text: &str, room: usize) -> &str {
    let mut used = 2;
    for (at, character) in text.char_indices() {
        used += match character {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => 6,
            other => other.len_utf8(),
        };
        if used > room {
            return &text[..at];
        }
    }
    text
}

/// As many of the bytes as fit into `room` bytes of JSON: how many, and these as a value with the
/// name of its encoding. A character that is torn at the end waits for the next read.
pub fn encode(bytes: &[u8], room: usize) -> (usize, &'static str, Value) {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    if let Some(text) = text {
        let kept = fit(text, room);
        return (kept.len(), "text", json!(kept));
    }
    let count = bytes.len().min(room.saturating_sub(2) / 4 * 3);
    (count, "base64", json!(base64(&bytes[..count])))
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// The beginning of a text that is only quoted.
pub fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The vectors of RFC 4648.
    #[test]
    fn base64_is_that_of_the_standard() {
        let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (count, expected) in expected.into_iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..count]), expected);
        }
    }

    proptest! {
        /// What is kept fits, and one more character would not.
        #[test]
        fn a_text_is_cut_where_its_json_would_not_fit(text in any::<String>(), room in 2usize..64) {
            let kept = fit(&text, room);
            prop_assert!(json!(kept).to_string().len() <= room);
            if let Some(next) = text[kept.len()..].chars().next() {
                let longer = format!("{kept}{next}");
                prop_assert!(json!(longer).to_string().len() > room);
            }
        }

        /// Any bytes become a value that fits, and reading on where it ended makes progress.
        #[test]
        fn any_bytes_fit(bytes in prop::collection::vec(any::<u8>(), 1..64), room in 16usize..64) {
            let (count, encoding, value) = encode(&bytes, room);
            prop_assert!(count > 0 && count <= bytes.len());
            prop_assert!(value.to_string().len() <= room);
            if encoding == "text" {
                prop_assert_eq!(value.as_str().map(str::as_bytes), Some(&bytes[..count]));
            }
        }
    }
}
