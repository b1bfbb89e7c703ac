//! What is known of models, in the forms that people and other programs take.
//!
//! The same models give the same bytes: times are the caller's, and what must be unique (a serial
//! number, a namespace) is made from what is written. Whatever came out of a file is escaped for
//! the form it goes into.

mod cyclonedx;
mod document;
mod json;
mod readme;
mod spdx;
mod table;

pub use cyclonedx::cyclonedx;
pub use document::{Tensors, documents};
pub use json::Json;
pub use readme::{Card, readme};
pub use spdx::{spdx_json, spdx_tags};
pub use table::{rules, table};

use crate::fit::{Fit, estimate};
use crate::model::Model;
use ring::digest::{Context, SHA256};
use std::io::{self, Write};

/// Who writes.
pub const TOOL: &str = "limpet";

/// What every output is told besides the models.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Of the program.
    pub version: &'a str,
    /// When, in seconds since 1970.
    pub seconds: u64,
    /// Tokens of context that a model is to have.
    pub context: Option<u64>,
    /// Bytes of memory that a model may take; `None` where nobody asks.
    pub budget: Option<u64>,
}

impl About<'_> {
    /// What the model needs, where somebody asks.
    #[must_use]
    pub fn fit(&self, model: &Model) -> Option<Fit> {
        self.budget.map(|budget| estimate(&model.facts, self.context, budget))
    }

    /// When, as RFC 3339 writes it.
    #[must_use]
    pub fn time(&self) -> String {
        let (days, rest) = (self.seconds / 86_400, self.seconds % 86_400);
        // Days are counted from 1 March of the year 0, so that a leap day ends its year: of 146,097
        // in 400 years, 36,524 in 100, 1,461 in 4.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let date = day - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = year + era * 400 + next;
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// A UUID (version 8, RFC 9562) from what `render` writes.
fn uuid(render: impl Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<String> {
    struct Hashing(Context);
    impl Write for Hashing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hashing = Hashing(Context::new(&SHA256));
    render(&mut hashing)?;
    let digest = hashing.0.finish();
    let mut bytes = digest.as_ref()[..16].to_vec();
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = crate::hash::hex(&bytes);
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Ok(parts.join("-"))
}

/// A text for one line: what is no character becomes a space.
fn line(text: &str) -> String {
    let plain = text.chars().map(|sign| if sign.is_control() { ' ' } else { sign });
    plain.collect::<String>().trim().to_owned()
}

/// An address, if it is one that every reader takes: `http` or `https`, and only plain characters.
fn address(text: Option<&String>) -> Option<&str> {
    let text = text?;
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let sound = rest.starts_with(|sign: char| sign.is_ascii_alphanumeric());
    (sound && rest.bytes().all(plain)).then_some(text)
}

/// A number of bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are() {
        let time = |seconds| About { version: "", seconds, context: None, budget: None }.time();
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(time(seconds), expected);
        }
    }

    #[test]
    fn sizes_and_addresses() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "16777215.9 TiB");
        let is = |text: &str| address(Some(&text.to_owned())).is_some();
        assert!(is("https://huggingface.co/org/model-1.5"));
        for text in ["ftp://a", "https://", "https://a b", "https://a\"", "https:///x", "http://é"]
        {
            assert!(!is(text), "{text}");
        }
    }
}
