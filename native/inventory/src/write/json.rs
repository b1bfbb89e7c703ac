//! JSON, written piece by piece, indented by two.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes one value. The first error is kept, and told at the end.
pub struct Json<'w> {
    out: &'w mut dyn Write,
    depth: usize,
    /// Nothing stands in the innermost brackets yet.
    fresh: bool,
    /// A name was written, and its value follows.
    named: bool,
    error: io::Result<()>,
}

impl<'w> Json<'w> {
    /// Writes to `out`.
    pub fn new(out: &'w mut dyn Write) -> Json<'w> {
        Json { out, depth: 0, fresh: true, named: false, error: Ok(()) }
    }

    /// Opens `{` or `[`.
    pub fn open(&mut self, bracket: &str) {
        self.begin();
        self.put(bracket);
        self.depth += 1;
        self.fresh = true;
    }

    /// Closes with `}` or `]`.
    pub fn close(&mut self, bracket: &str) {
        self.depth -= 1;
        if !self.fresh {
            self.line();
        }
        self.put(bracket);
        self.fresh = false;
    }

    /// The name of the value that follows.
    pub fn name(&mut self, name: &str) {
        self.begin();
        self.quote(name);
        self.put(": ");
        self.named = true;
    }

    /// A text.
    pub fn text(&mut self, text: &str) {
        self.begin();
        self.quote(text);
    }

    /// A number, or a word of JSON.
    pub fn plain(&mut self, value: impl Display) {
        self.begin();
        self.put(&value.to_string());
    }

    /// A name and a text.
    pub fn member(&mut self, name: &str, text: &str) {
        self.name(name);
        self.text(text);
    }

    /// A name and a text, or nothing.
    pub fn maybe(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.member(name, text);
        }
    }

    /// A name and a text, or null.
    pub fn nullable(&mut self, name: &str, text: Option<&str>) {
        self.name(name);
        match text {
            Some(text) => self.text(text),
            None => self.plain("null"),
        }
    }

    /// A name and a number, or null.
    pub fn number(&mut self, name: &str, number: Option<u64>) {
        self.name(name);
        match number {
            Some(number) => self.plain(number),
            None => self.plain("null"),
        }
    }

    /// A name and an array of texts.
    pub fn texts<'t>(&mut self, name: &str, texts: impl IntoIterator<Item = &'t str>) {
        self.name(name);
        self.open("[");
        texts.into_iter().for_each(|text| self.text(text));
        self.close("]");
    }

    /// An object of texts.
    pub fn record(&mut self, members: &[(&str, &str)]) {
        self.open("{");
        members.iter().for_each(|(name, text)| self.member(name, text));
        self.close("}");
    }

    /// A name and an array of one object of texts.
    pub fn sole(&mut self, name: &str, members: &[(&str, &str)]) {
        self.name(name);
        self.open("[");
        self.record(members);
        self.close("]");
    }

    /// Ends the last line.
    ///
    /// # Errors
    /// The first that there was.
    pub fn end(mut self) -> io::Result<()> {
        self.put("\n");
        self.error
    }

    fn begin(&mut self) {
        if std::mem::take(&mut self.named) {
            return;
        }
        if self.depth > 0 {
            if !self.fresh {
                self.put(",");
            }
            self.line();
        }
        self.fresh = false;
    }

    fn line(&mut self) {
        self.put("\n");
        for _ in 0..self.depth {
            self.put("  ");
        }
    }

    fn quote(&mut self, text: &str) {
        self.put("\"");
        let mut rest = text;
        while let Some(at) = rest.find(needs_escape) {
            self.put(&rest[..at]);
            let sign = rest[at..].chars().next().unwrap_or_default();
            match sign {
                '"' => self.put("\\\""),
                '\\' => self.put("\\\\"),
                '\n' => self.put("\\n"),
                sign => self.put(&format!("\\u{:04x}", u32::from(sign))),
            }
            rest = &rest[at + sign.len_utf8()..];
        }
        self.put(rest);
        self.put("\"");
    }

    fn put(&mut self, text: &str) {
        if self.error.is_ok() {
            self.error = self.out.write_all(text.as_bytes());
        }
    }
}

/// Control characters, those that a terminal obeys as well, and line ends of other languages.
fn needs_escape(sign: char) -> bool {
    sign == '"' || sign == '\\' || sign.is_control() || "\u{2028}\u{2029}".contains(sign)
}
