//! The values of GGUF's keys: which there are, what is kept of them, and what is looked for in
//! them.

use super::types::{ARRAY, BOOL, STRING, U32, VALUE_BYTES, VALUES};
use super::{Halt, Parser};
use crate::metadata::{PREVIEW_MAX, TEXT_BYTES_MAX, Value};
use crate::model::Template;
use crate::rules::Rule;
use crate::text::Passing;
use std::hash::DefaultHasher;

/// Bytes kept of a text in an array.
const ITEM_KEEP: usize = 128;
/// Arrays up to this length are summed: one value for each layer of a model.
const SUMMED_MAX: u64 = 4096;
/// Keys whose values are of one type in every file, and its number.
const KNOWN: [(&str, u64); 9] = [
    ("general.architecture", STRING),
    ("general.type", STRING),
    ("general.name", STRING),
    ("general.license", STRING),
    ("general.size_label", STRING),
    ("general.file_type", U32),
    ("tokenizer.ggml.model", STRING),
    ("tokenizer.ggml.tokens", ARRAY),
    ("tokenizer.ggml.scores", ARRAY),
];
const TEMPLATE: &str = "tokenizer.chat_template";
const TEMPLATES_MAX: usize = 16;
/// A byte token begins so, and has six characters.
const BYTE_TOKEN: &[u8] = b"<0x";
const BYTE_TOKEN_BYTES: u64 = 6;

impl Parser<'_, '_> {
    /// The value of the key `name`: its type, and what stands behind it.
    pub(super) fn value_of(&mut self, name: String) -> Result<(), Halt> {
        let kind = self.reader.number(4)?;
        if let Some((_, wanted)) = KNOWN.iter().find(|(known, _)| *known == name) {
            if *wanted != kind {
                self.find(
                    Rule::GgufValueMistyped,
                    format_args!("{name} has value type {kind}, not {wanted}"),
                );
            }
        }
        let value = match kind {
            STRING => self.text(&name)?,
            ARRAY => self.array(&name)?,
            _ => self.scalar(&name, kind)?,
        };
        if name == "general.alignment" {
            self.align(kind, &value);
        }
        self.model.note(name, value);
        Ok(())
    }

    fn align(&mut self, kind: u64, value: &Value) {
        match value {
            Value::Unsigned(alignment) if kind == U32 && alignment.is_power_of_two() => {
                self.alignment = *alignment;
            }
            Value::Unsigned(number) => {
                self.find(Rule::GgufAlignment, format_args!("{number} of value type {kind}"));
            }
            _ => self.find(Rule::GgufAlignment, format_args!("value type {kind}")),
        }
    }

    fn scalar(&mut self, name: &str, kind: u64) -> Result<Value, Halt> {
        let Some(&bytes) = usize::try_from(kind).ok().and_then(|kind| VALUE_BYTES.get(kind)) else {
            return self.halt(Rule::GgufValueType, format_args!("{name} has value type {kind}"));
        };
        let bits = self.reader.number(bytes.into())?;
        let whole = |number: i64| match u64::try_from(number) {
            Ok(number) => Value::Unsigned(number),
            Err(_) => Value::Negative(number),
        };
        Ok(match VALUES[kind as usize] {
            "i8" => whole((bits as i8).into()),
            "i16" => whole((bits as i16).into()),
            "i32" => whole((bits as i32).into()),
            "i64" => whole(bits as i64),
            "f32" => Value::Float(f32::from_bits(bits as u32).into()),
            "f64" => Value::Float(f64::from_bits(bits)),
            "bool" => {
                if bits > 1 {
                    self.find(Rule::GgufBool, format_args!("{name} is {bits}"));
                }
                Value::Bool(bits != 0)
            }
            _ => Value::Unsigned(bits),
        })
    }

    fn text(&mut self, name: &str) -> Result<Value, Halt> {
        let mut text = Passing::<DefaultHasher>::new(TEXT_BYTES_MAX, None);
        if name.starts_with(TEMPLATE) {
            text.scan();
        }
        let text = self.pass("a text", text)?;
        if !text.is_utf8() {
            self.find(Rule::GgufNotUtf8, format_args!("the value of {name}"));
        }
        let (beginning, bytes, cut) = (text.text(), text.bytes, text.is_cut());
        let mut sha256 = None;
        if let Some((scanner, hash)) = text.scanned() {
            scanner.tell(name, &mut self.model.findings);
            let templates = &mut self.model.facts.templates;
            if templates.len() < TEMPLATES_MAX {
                templates.push(Template { place: name.to_owned(), sha256: hash.clone(), bytes });
            }
            sha256 = Some(hash);
        }
        Ok(if cut { Value::Cut { beginning, bytes, sha256 } } else { Value::Text(beginning) })
    }

    fn array(&mut self, name: &str) -> Result<Value, Halt> {
        let kind = self.reader.number(4)?;
        if kind == ARRAY {
            return self.halt(Rule::GgufNestedArray, format_args!("{name} is an array of arrays"));
        }
        let Some(&element) = usize::try_from(kind).ok().and_then(|kind| VALUES.get(kind)) else {
            return self.halt(
                Rule::GgufValueType,
                format_args!("{name} has elements of value type {kind}"),
            );
        };
        let count = self.reader.number(self.long)?;
        let each = match VALUE_BYTES[kind as usize] {
            0 => u64::from(self.long),
            bytes => bytes.into(),
        };
        self.check_count(name, count, each)?;
        let (preview, sum) = if kind == STRING {
            (self.texts(name, count)?, None)
        } else {
            self.numbers(name, kind, count, each)?
        };
        Ok(Value::Array { element, count, preview, sum })
    }

    /// The values of an array; those that nobody will see are passed over.
    fn numbers(
        &mut self,
        name: &str,
        kind: u64,
        count: u64,
        each: u64,
    ) -> Result<(Vec<Value>, Option<u64>), Halt> {
        let (mut preview, mut sum) = (Vec::new(), Some(0_u64));
        let looked = if count <= SUMMED_MAX { count } else { PREVIEW_MAX as u64 };
        for _ in 0..looked {
            let value = self.scalar(name, kind)?;
            sum = match &value {
                Value::Unsigned(number) => sum.and_then(|sum| sum.checked_add(*number)),
                _ => None,
            };
            if preview.len() < PREVIEW_MAX {
                preview.push(value);
            }
        }
        if kind == BOOL {
            for _ in looked..count {
                self.scalar(name, kind)?;
            }
        } else {
            // Cannot overflow: all of it lies within the file.
            self.reader.skip((count - looked) * each)?;
        }
        Ok((preview, sum.filter(|_| looked == count)))
    }

    fn texts(&mut self, name: &str, count: u64) -> Result<Vec<Value>, Halt> {
        let mut preview = Vec::new();
        let tokens = name == "tokenizer.ggml.tokens";
        for index in 0..count {
            let shown = preview.len() < PREVIEW_MAX;
            let keep = if shown { ITEM_KEEP } else { 8 };
            let text = self.pass("a text", Passing::<DefaultHasher>::new(keep, None))?;
            if !text.is_utf8() {
                self.find(Rule::GgufNotUtf8, format_args!("{name}[{index}]"));
            }
            if tokens && text.kept.starts_with(BYTE_TOKEN) && !is_byte_token(&text.kept, text.bytes)
            {
                self.find(Rule::TokenByte, format_args!("token {index} is {:?}", text.text()));
            }
            if shown {
                preview.push(Value::Text(text.text()));
            }
        }
        Ok(preview)
    }
}

/// `<0x0A>`; what is longer or has no `>` in its place is an ordinary token.
fn is_byte_token(kept: &[u8], bytes: u64) -> bool {
    let short = bytes == BYTE_TOKEN_BYTES && kept.ends_with(b">");
    !short || kept[3..5].iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::is_byte_token;

    #[test]
    fn a_byte_token_names_a_byte() {
        for (token, sound) in [
            ("<0x0A>", true),
            ("<0xff>", true),
            ("<0x-1>", false),
            ("<0x0g>", false),
            ("<0x>", true),
            ("<0x0A", true),
        ] {
            assert_eq!(is_byte_token(token.as_bytes(), token.len() as u64), sound, "{token}");
        }
    }
}
