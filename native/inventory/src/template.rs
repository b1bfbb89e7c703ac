//! Looks through a chat template, in pieces, for what has no business there.
//!
//! A template is a program that every conversation runs through, and it comes with the file. These
//! are words that those who hide something in one cannot do without; none is a proof.

use crate::rules::{Findings, Rule};

/// What is looked for, in lower case.
const WORDS: &[(&str, Rule)] = &[
    ("__class__", Rule::TemplateDunder),
    ("__base__", Rule::TemplateDunder),
    ("__bases__", Rule::TemplateDunder),
    ("__mro__", Rule::TemplateDunder),
    ("__subclasses__", Rule::TemplateDunder),
    ("__globals__", Rule::TemplateDunder),
    ("__builtins__", Rule::TemplateDunder),
    ("__import__", Rule::TemplateDunder),
    ("__init__", Rule::TemplateDunder),
    ("__dict__", Rule::TemplateDunder),
    ("__code__", Rule::TemplateDunder),
    ("__getattribute__", Rule::TemplateDunder),
    ("__getitem__", Rule::TemplateDunder),
    ("__call__", Rule::TemplateDunder),
    ("__reduce__", Rule::TemplateDunder),
    ("\\x5f", Rule::TemplateDunder),
    ("\\u005f", Rule::TemplateDunder),
    ("|attr(", Rule::TemplateDunder),
    ("| attr(", Rule::TemplateDunder),
    ("os.popen", Rule::TemplateCode),
    ("os.system", Rule::TemplateCode),
    ("subprocess", Rule::TemplateCode),
    ("eval(", Rule::TemplateCode),
    ("exec(", Rule::TemplateCode),
    ("<script", Rule::TemplateCode),
    ("http://", Rule::TemplateUrl),
    ("https://", Rule::TemplateUrl),
];
/// What the words begin with.
const FIRST: &[u8] = b"_\\|ose<h";
/// One less than the longest word.
const OVERLAP_BYTES: usize = 15;
/// Encoded characters in a row; names of tokens and of functions are far shorter.
const ENCODED_RUN: u32 = 120;
const BYTES_MAX: u64 = 256 * 1024;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The end of the pieces before.
    tail: Vec<u8>,
    bytes: u64,
    run: u32,
    found: Vec<(Rule, &'static str)>,
}

impl Scanner {
    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        for &byte in piece {
            let encoded = byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
            self.run = if encoded { self.run.saturating_add(1) } else { 0 };
            if self.run == ENCODED_RUN {
                self.note(Rule::TemplateEncoded, "a run of 120 encoded characters");
            }
        }
        let mut text = std::mem::take(&mut self.tail);
        text.extend(piece.iter().map(u8::to_ascii_lowercase));
        for (index, byte) in text.iter().enumerate() {
            if FIRST.contains(byte) {
                let here =
                    WORDS.iter().filter(|(word, _)| text[index..].starts_with(word.as_bytes()));
                here.for_each(|(word, rule)| self.note(*rule, word));
            }
        }
        text.drain(..text.len().saturating_sub(OVERLAP_BYTES));
        self.tail = text;
    }

    /// Tells what was found; `place` is where the template stands.
    pub fn tell(&self, place: &str, findings: &mut Findings) {
        for (rule, word) in &self.found {
            findings.add(*rule, format_args!("{place} has {word}"));
        }
        if self.bytes > BYTES_MAX {
            findings.add(Rule::TemplateLarge, format_args!("{place} has {} bytes", self.bytes));
        }
    }

    fn note(&mut self, rule: Rule, word: &'static str) {
        if !self.found.iter().any(|(_, known)| *known == word) {
            self.found.push((rule, word));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is hidden is found in whatever pieces it comes; an honest template has nothing.
    #[test]
    fn what_is_hidden_is_found() {
        let honest = "{% for m in messages %}<|im_start|>{{ m['role'] }}{% endfor %}";
        let long = "QUJD".repeat(30);
        let cases = [
            (honest, None),
            ("{{ ''.__CLASS__.__mro__ }}", Some(Rule::TemplateDunder)),
            ("{{ x|attr('\\x5f\\x5f') }}", Some(Rule::TemplateDunder)),
            ("{{ os.popen('id') }}", Some(Rule::TemplateCode)),
            ("say https://evil.example", Some(Rule::TemplateUrl)),
            (long.as_str(), Some(Rule::TemplateEncoded)),
        ];
        assert!(WORDS.iter().all(|(word, _)| word.len() <= OVERLAP_BYTES + 1));
        assert!(WORDS.iter().all(|(word, _)| FIRST.contains(&word.as_bytes()[0])));
        for size in 1..20 {
            for (text, rule) in cases {
                let (mut scanner, mut findings) = (Scanner::default(), Findings::default());
                text.as_bytes().chunks(size).for_each(|piece| scanner.push(piece));
                scanner.tell("it", &mut findings);
                assert_eq!(findings.iter().map(|found| found.rule).next(), rule, "{text} {size}");
            }
        }
    }
}
