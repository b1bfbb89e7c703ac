//! safetensors: a JSON header of at most 100 MB before the data, read as tokens and judged as
//! strictly as the format's own reader, in bounded memory.

use crate::gguf::{Sink, Tally};
use crate::json::{Fault, Json, Token, json};
use crate::metadata::{TEXT_BYTES_MAX, Value};
use crate::model::{Model, Tensor};
use crate::ranges::Ranges;
use crate::reader::{Reader, Stop};
use crate::rules::Rule;
use crate::seen::{Look, Naming, Seen, TENSORS_MAX};
use crate::text::is_path_like;
use std::fmt;
use std::hash::Hasher;

/// Bytes of the length before the header.
pub const LENGTH_BYTES: u64 = 8;
/// The format's own bound.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;
const DIMENSIONS_SHOWN_MAX: usize = 16;
const METADATA: &str = "__metadata__";

/// Name and bits of each dtype.
const DTYPES: [(&str, u8); 22] = [
    ("BOOL", 8),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("U8", 8),
    ("I8", 8),
    ("F8_E5M2", 8),
    ("F8_E4M3", 8),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("I16", 16),
    ("U16", 16),
    ("F16", 16),
    ("BF16", 16),
    ("I32", 32),
    ("U32", 32),
    ("F32", 32),
    ("C64", 64),
    ("F64", 64),
    ("I64", 64),
    ("U64", 64),
];

struct Parser<'p> {
    model: &'p mut Model,
    naming: &'p Naming,
    sink: Sink<'p>,
    tally: Tally,
    ranges: Ranges,
    /// Where the data begins.
    start: u64,
}

/// What an entry says, as far as it says it well.
#[derive(Default)]
struct Entry {
    dtype: Option<(&'static str, u8)>,
    shape: Option<Shape>,
    offsets: Option<(u64, u64)>,
    /// A finding tells already what is wrong with it.
    told: bool,
}

/// The beginning of a shape, and the product of all of it; `None` when that does not fit.
struct Shape {
    shown: Vec<u64>,
    product: Option<u64>,
}

/// Reads the file behind `reader` into `model`.
///
/// # Errors
/// When reading fails; what is wrong with the file is a finding.
pub fn read(
    reader: &mut Reader<'_>,
    model: &mut Model,
    naming: &Naming,
    sink: Sink<'_>,
) -> Result<Tally, Stop> {
    let size = reader.size();
    if size < LENGTH_BYTES {
        model.findings.add(Rule::SafetensorsTooSmall, format_args!("the file has {size} bytes"));
        return Ok(Tally::default());
    }
    let length = reader.number(8)?;
    let left = size - LENGTH_BYTES;
    let too = if length > HEADER_BYTES_MAX {
        Some(Rule::SafetensorsTooLarge)
    } else if length > left {
        Some(Rule::SafetensorsBeyond)
    } else {
        None
    };
    if let Some(rule) = too {
        model.findings.add(rule, format_args!("it claims {length} bytes of {left}"));
        return Ok(Tally::default());
    }
    let start = LENGTH_BYTES + length;
    reader.bound(start);
    let (tally, ranges) = (Tally::default(), Ranges::new(TENSORS_MAX));
    let mut parser = Parser { model, naming, sink, tally, ranges, start };
    let header = parser.header(reader);
    let Parser { model, ranges, tally, .. } = parser;
    match header {
        Ok(()) => ranges.check(size - start, &mut model.findings),
        Err(Fault::Stop(Stop::End)) => {
            model.findings.add(Rule::FileChanged, format_args!("within the header"));
        }
        Err(Fault::Stop(stop)) => return Err(stop),
        Err(Fault::Invalid(cause, at)) => {
            model.findings.add(Rule::SafetensorsJson, format_args!("{cause}, at byte {at}"));
        }
        Err(Fault::Deep(at)) => {
            model.findings.add(Rule::SafetensorsDeep, format_args!("at byte {at}"));
        }
    }
    model.facts.framework = model.metadata.text("format").map(|format| match format.as_str() {
        "pt" => "pytorch".to_owned(),
        "tf" => "tensorflow".to_owned(),
        _ => format,
    });
    Ok(tally)
}

impl Parser<'_> {
    fn header(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let naming = self.naming;
        let mut json = json(reader, naming, TEXT_BYTES_MAX);
        if json.next()? != Token::Object {
            return Err(Fault::Invalid("the header is no object", LENGTH_BYTES));
        }
        let mut seen = Seen::new(TENSORS_MAX);
        while json.next()? == Token::Key {
            let name = json.text.text();
            match seen.look(json.text.hash()) {
                Look::New => {}
                Look::Again => self.find(Rule::SafetensorsDuplicate, format_args!("{name:?}")),
                Look::Full => {
                    self.find(Rule::SafetensorsMany, format_args!("from {name:?} on"));
                }
            }
            if name == METADATA {
                self.metadata(&mut json)?;
            } else {
                self.tally.add(json.text.hash());
                self.tensor(&mut json, name)?;
            }
        }
        if json.next()? == Token::End { Ok(()) } else { Err(Fault::Invalid("it goes on", 0)) }
    }

    fn metadata<H: Hasher>(&mut self, json: &mut Json<'_, '_, H>) -> Result<(), Fault> {
        let first = json.next()?;
        if first != Token::Object {
            self.find(Rule::SafetensorsMetadata, format_args!("it is no object"));
            return json.pass(first);
        }
        let mut seen = Seen::new(TENSORS_MAX);
        while json.next()? == Token::Key {
            let name = json.text.text();
            if seen.look(json.text.hash()) == Look::Again {
                self.find(Rule::SafetensorsDuplicate, format_args!("{name:?} of {METADATA}"));
            }
            let token = json.next()?;
            if token != Token::Text {
                self.find(Rule::SafetensorsMetadata, format_args!("{name:?} is no text"));
                json.pass(token)?;
                continue;
            }
            let (text, bytes) = (json.text.text(), json.text.bytes);
            let value = if json.text.is_cut() {
                Value::Cut { beginning: text, bytes, sha256: None }
            } else {
                Value::Text(text)
            };
            self.model.note(name, value);
        }
        Ok(())
    }

    fn tensor<H: Hasher>(&mut self, json: &mut Json<'_, '_, H>, name: String) -> Result<(), Fault> {
        if name.chars().any(char::is_control) {
            self.find(Rule::SafetensorsName, format_args!("{name:?}"));
        }
        if is_path_like(&name) {
            self.find(Rule::SafetensorsNamePath, format_args!("{name:?}"));
        }
        let first = json.next()?;
        if first != Token::Object {
            self.find(Rule::SafetensorsDescriptor, format_args!("{name:?} is no object"));
            return json.pass(first);
        }
        let mut entry = Entry::default();
        let mut fields = 0_u8;
        while json.next()? == Token::Key {
            let field = json.text.text();
            let known = ["dtype", "shape", "data_offsets"].iter().position(|key| *key == field);
            let Some(index) = known else {
                self.find(Rule::SafetensorsField, format_args!("{field:?} of {name:?}"));
                let token = json.next()?;
                json.pass(token)?;
                continue;
            };
            if fields & 1 << index != 0 {
                self.find(Rule::SafetensorsDuplicate, format_args!("{field:?} of {name:?}"));
            }
            fields |= 1 << index;
            match index {
                0 => self.dtype(json, &name, &mut entry)?,
                1 => self.shape(json, &name, &mut entry)?,
                _ => self.offsets(json, &name, &mut entry)?,
            }
        }
        if fields != 0b111 {
            self.find(Rule::SafetensorsDescriptor, format_args!("{name:?} lacks a field"));
        }
        self.judge(&name, &entry);
        Ok(())
    }

    fn dtype<H: Hasher>(
        &mut self,
        json: &mut Json<'_, '_, H>,
        name: &str,
        entry: &mut Entry,
    ) -> Result<(), Fault> {
        let token = json.next()?;
        if token != Token::Text {
            self.find(Rule::SafetensorsDescriptor, format_args!("the dtype of {name:?}"));
            return json.pass(token);
        }
        let dtype = json.text.text();
        entry.dtype = DTYPES.iter().find(|(known, _)| *known == dtype).copied();
        if entry.dtype.is_none() {
            self.find(Rule::SafetensorsDtype, format_args!("{dtype:?} of {name:?}"));
        }
        Ok(())
    }

    fn shape<H: Hasher>(
        &mut self,
        json: &mut Json<'_, '_, H>,
        name: &str,
        entry: &mut Entry,
    ) -> Result<(), Fault> {
        let (mut shown, mut product, mut zero) = (Vec::new(), Some(1_u64), false);
        let whole = self.numbers(json, name, &mut |dimension| {
            if shown.len() < DIMENSIONS_SHOWN_MAX {
                shown.push(dimension);
            }
            zero = zero || dimension == 0;
            product = product.and_then(|product| product.checked_mul(dimension));
        })?;
        entry.told = entry.told || !whole;
        entry.shape = whole.then_some(Shape { shown, product });
        Ok(())
    }

    fn offsets<H: Hasher>(
        &mut self,
        json: &mut Json<'_, '_, H>,
        name: &str,
        entry: &mut Entry,
    ) -> Result<(), Fault> {
        let (mut both, mut count) = ([0; 2], 0);
        let whole = self.numbers(json, name, &mut |offset| {
            if let Some(place) = both.get_mut(count) {
                *place = offset;
            }
            count += 1;
        })?;
        if whole && count != 2 {
            self.find(Rule::SafetensorsDescriptor, format_args!("{name:?} has {count} offsets"));
        }
        entry.told = entry.told || !whole;
        entry.offsets = (whole && count == 2).then_some((both[0], both[1]));
        Ok(())
    }

    /// An array of whole numbers; false, and a finding, when it is none.
    fn numbers<H: Hasher>(
        &mut self,
        json: &mut Json<'_, '_, H>,
        name: &str,
        each: &mut dyn FnMut(u64),
    ) -> Result<bool, Fault> {
        let first = json.next()?;
        if first != Token::Array {
            self.find(Rule::SafetensorsDescriptor, format_args!("{name:?} lacks an array"));
            json.pass(first)?;
            return Ok(false);
        }
        let mut whole = true;
        loop {
            let token = json.next()?;
            match (token, json.number()) {
                (Token::Close, _) => return Ok(whole),
                (Token::Number, Some(number)) => each(number),
                (Token::Number, None) => {
                    let digits = json.digits();
                    self.find(Rule::SafetensorsNumber, format_args!("{digits} in {name:?}"));
                    whole = false;
                }
                _ => {
                    self.find(Rule::SafetensorsNumber, format_args!("another value in {name:?}"));
                    json.pass(token)?;
                    whole = false;
                }
            }
        }
    }

    /// Whether the parts of an entry go together.
    fn judge(&mut self, name: &str, entry: &Entry) {
        let dtype = entry.dtype.map_or("unknown", |(dtype, _)| dtype);
        let elements = entry.shape.as_ref().and_then(|shape| shape.product);
        let size = self.size(name, entry);
        let bytes = entry.offsets.map_or(0, |(begin, end)| end.saturating_sub(begin));
        self.model.facts.count(dtype, elements.unwrap_or(0), bytes);
        let shape = entry.shape.as_ref().map_or(&[][..], |shape| &shape.shown);
        let (begin, end) = entry.offsets.unwrap_or_default();
        let offset = self.start.saturating_add(begin);
        (self.sink)(&Tensor { name, dtype, shape, offset, bytes });
        if entry.offsets.is_none() {
            // Where it lies is not known, so nothing is known of what lies around it.
            self.ranges.give_up();
            return;
        }
        if end < begin {
            self.find(Rule::SafetensorsReversed, format_args!("{name:?} has [{begin}, {end}]"));
            self.ranges.give_up();
            return;
        }
        if let Some(size) = size.filter(|size| *size != bytes) {
            self.find(
                Rule::SafetensorsSize,
                format_args!("{name:?} takes {size} bytes and has {bytes}"),
            );
        }
        if !self.ranges.add(begin, end) {
            self.find(Rule::SafetensorsMany, format_args!("out of order from {name:?} on"));
        }
    }

    /// What dtype and shape take.
    fn size(&mut self, name: &str, entry: &Entry) -> Option<u64> {
        let ((dtype, bits), shape) = (entry.dtype?, entry.shape.as_ref()?);
        let bits = shape.product.map(|product| u128::from(product) * u128::from(bits));
        let Some(bits) = bits.filter(|bits| bits / 8 <= u64::MAX.into()) else {
            self.find(Rule::SafetensorsElements, format_args!("{name:?} has {:?}", shape.shown));
            return None;
        };
        if bits % 8 != 0 {
            self.find(Rule::SafetensorsBits, format_args!("{name:?} has {bits} bits of {dtype}"));
            return None;
        }
        u64::try_from(bits / 8).ok()
    }

    fn find(&mut self, rule: Rule, evidence: fmt::Arguments<'_>) {
        self.model.findings.add(rule, evidence);
    }
}
