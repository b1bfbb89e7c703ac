//! GGUF's table of tensors: whether each fits its type and all of them the file.
//!
//! Loaders demand that each begins where the one before ends, padded; so whether two overlap is
//! seen in one pass and without a table.

use super::types::{Found, TensorType, tensor_type};
use super::{Halt, NAME_KEEP, Parser};
use crate::model::Tensor;
use crate::rules::Rule;
use crate::seen::{Look, Seen, TENSORS_MAX};
use crate::text::is_path_like;

const DIMENSIONS_MAX: u64 = 4;
const NAME_BYTES_MAX: u64 = 63;
/// What a signed number of 64 bits holds: loaders count so.
const COUNT_MAX: u64 = i64::MAX as u64;

/// Where the data of the tensors so far ends.
struct Layout {
    /// Padded; `None` once a size is unknown.
    padded: Option<u64>,
    /// The furthest end of any tensor, unpadded.
    furthest: u64,
}

impl Parser<'_, '_> {
    pub(super) fn tensors(&mut self, count: u64) -> Result<(), Halt> {
        let mut seen = Seen::new(TENSORS_MAX);
        let mut layout = Layout { padded: Some(0), furthest: 0 };
        for _ in 0..count {
            self.tensor(&mut seen, &mut layout)?;
        }
        self.check_end(&layout)
    }

    fn tensor(&mut self, seen: &mut Seen, layout: &mut Layout) -> Result<(), Halt> {
        let name = self.string("a tensor's name", NAME_KEEP)?;
        let (text, bytes, plain, hash) = (name.text(), name.bytes, name.is_plain(), name.hash());
        self.tally.add(hash);
        self.check_name(&text, bytes, plain);
        match seen.look(hash) {
            Look::New => {}
            Look::Again => self.find(Rule::GgufDuplicateTensor, format_args!("{text:?}")),
            Look::Full => self.find(Rule::GgufTooManyTensors, format_args!("from {text:?} on")),
        }
        let rank = self.reader.number(4)?;
        if rank > DIMENSIONS_MAX {
            return self.halt(Rule::GgufDimensions, format_args!("{text:?} has {rank}"));
        }
        let mut shape = [0; DIMENSIONS_MAX as usize];
        let shape = &mut shape[..rank as usize];
        for dimension in shape.iter_mut() {
            *dimension = self.reader.number(self.long)?;
        }
        let number = self.reader.number(4)?;
        let offset = self.reader.number(8)?;
        let elements = self.elements(&text, shape);
        let kind = self.kind(&text, number);
        let size = match (kind, elements) {
            (Some(kind), Some(elements)) => self.bytes(&text, kind, shape, elements),
            _ => None,
        };
        self.place(&text, offset, size, layout);
        let dtype = kind.map_or("unknown", |kind| kind.name);
        self.model.facts.count(dtype, elements.unwrap_or(0), size.unwrap_or(0));
        let bytes = size.unwrap_or(0);
        (self.sink)(&Tensor { name: &text, dtype, shape, offset, bytes });
        Ok(())
    }

    fn check_name(&mut self, name: &str, bytes: u64, plain: bool) {
        if bytes == 0 {
            self.find(Rule::GgufNameEmpty, format_args!("tensor {}", self.tally.count - 1));
        }
        if bytes > NAME_BYTES_MAX {
            self.find(Rule::GgufNameTooLong, format_args!("{bytes} bytes: {name:?}"));
        }
        if !plain {
            self.find(Rule::GgufNameCharacters, format_args!("{name:?}"));
        }
        if is_path_like(name) {
            self.find(Rule::GgufNamePath, format_args!("{name:?}"));
        }
    }

    fn elements(&mut self, name: &str, shape: &[u64]) -> Option<u64> {
        let mut product = Some(1_u64);
        for &dimension in shape {
            if dimension > COUNT_MAX {
                self.find(Rule::GgufDimension, format_args!("{name:?} has {dimension}"));
                return None;
            }
            product = product.and_then(|product| product.checked_mul(dimension));
        }
        // A zero makes the product zero, whatever the others are.
        let product = if shape.contains(&0) { Some(0) } else { product };
        let fits = product.filter(|product| *product <= COUNT_MAX);
        if fits.is_none() {
            self.find(Rule::GgufElements, format_args!("{name:?} has {shape:?}"));
        }
        fits
    }

    fn kind(&mut self, name: &str, number: u64) -> Option<TensorType> {
        let rule = match tensor_type(number) {
            Found::Type(kind) => return Some(kind),
            Found::Removed => Rule::GgufRemovedType,
            Found::Unknown => Rule::GgufTensorType,
        };
        self.find(rule, format_args!("{name:?} has type {number}"));
        None
    }

    fn bytes(&mut self, name: &str, kind: TensorType, shape: &[u64], elements: u64) -> Option<u64> {
        let row = shape.first().copied().unwrap_or(1);
        if row % kind.block != 0 {
            self.find(
                Rule::GgufBlocks,
                format_args!("{name:?} has rows of {row} in {} of {}", kind.name, kind.block),
            );
        }
        let bytes = u128::from(elements.div_ceil(kind.block)) * u128::from(kind.bytes);
        let padded = bytes.checked_next_multiple_of(self.alignment.into())?;
        if padded > COUNT_MAX.into() {
            self.find(Rule::GgufTensorSize, format_args!("{name:?} has {bytes} bytes"));
            return None;
        }
        u64::try_from(bytes).ok()
    }

    /// Whether the tensor begins where the one before it ends.
    fn place(&mut self, name: &str, offset: u64, size: Option<u64>, layout: &mut Layout) {
        let data_bytes_max = self.reader.size();
        if offset > data_bytes_max {
            self.find(
                Rule::GgufOffset,
                format_args!("{name:?} begins at {offset}, the file has {data_bytes_max}"),
            );
        } else if offset % self.alignment != 0 {
            self.find(
                Rule::GgufMisaligned,
                format_args!("{name:?} begins at {offset}, the alignment is {}", {
                    self.alignment
                }),
            );
        }
        if let Some(expected) = layout.padded.filter(|expected| *expected != offset) {
            let rule = if offset < expected { Rule::GgufOverlap } else { Rule::GgufGap };
            self.find(rule, format_args!("{name:?} begins at {offset}, not {expected}"));
        }
        let Some(size) = size else {
            layout.padded = None;
            return;
        };
        layout.furthest = layout.furthest.max(offset.saturating_add(size));
        // The size is below 2^63 with its padding, and so was the sum.
        let sum = layout.padded.map(|padded| padded + size.next_multiple_of(self.alignment));
        layout.padded = sum.filter(|sum| *sum <= COUNT_MAX);
        if sum != layout.padded {
            self.find(Rule::GgufDataSize, format_args!("up to {name:?}"));
        }
    }

    /// Whether the file ends where its last tensor does.
    fn check_end(&mut self, layout: &Layout) -> Result<(), Halt> {
        let size = self.reader.size();
        let start = self.reader.position().next_multiple_of(self.alignment);
        let end = start.saturating_add(layout.furthest);
        if layout.furthest > 0 && end > size {
            return self.halt(
                Rule::GgufTruncated,
                format_args!("the tensors end at byte {end}, the file has {size}"),
            );
        }
        let Some(padded) = layout.padded.map(|padded| start.saturating_add(padded)) else {
            return Ok(());
        };
        if padded > size && layout.furthest > 0 {
            self.find(Rule::GgufPadding, format_args!("{} bytes are missing", padded - size));
        }
        if size > padded {
            self.find(Rule::GgufTrailing, format_args!("{} bytes from {padded}", size - padded));
        }
        Ok(())
    }
}
