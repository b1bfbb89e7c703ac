//! GGUF, versions 1 to 3, of either endianness: header, key-values and the table of tensors, judged
//! as strictly as llama.cpp's loader and stricter where that was bypassed once.
//!
//! Every count is compared with what the rest of the file can hold before it is believed, and no
//! sum is made that could wrap. After the first thing that leaves open where the next one begins,
//! nothing more is read.

mod facts;
mod tensors;
mod types;
mod values;

use crate::model::{Model, Tensor};
use crate::reader::{Reader, Stop};
use crate::rules::Rule;
use crate::seen::{Look, Naming, Seen};
use crate::text::{Passing, is_path_like};
use std::fmt;
use std::hash::Hasher;

/// What a file begins with.
pub const MAGIC: [u8; 4] = *b"GGUF";
const KEYS_MAX: usize = 65_536;
const KEY_BYTES_MAX: u64 = 65_535;
/// Bytes of a key or a name that are shown.
const NAME_KEEP: usize = 160;
const ALIGNMENT: u64 = 32;

/// Hears of each tensor.
pub type Sink<'k> = &'k mut dyn FnMut(&Tensor<'_>);

/// How many names there were, and a sum over their hashes: two files that agree have the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Over the hashes.
    pub sum: u64,
}

impl Tally {
    /// Counts a name by its hash.
    pub fn add(&mut self, hash: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
    }
}

/// Why the parser went no further.
enum Halt {
    /// A finding tells it.
    Told,
    Stop(Stop),
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Halt {
        Halt::Stop(stop)
    }
}

struct Parser<'p, 's> {
    reader: &'p mut Reader<'s>,
    model: &'p mut Model,
    naming: &'p Naming,
    sink: Sink<'p>,
    tally: Tally,
    /// Bytes of a length or a count.
    long: u32,
    alignment: u64,
}

/// Reads the file behind `reader` into `model`, which begins with [`MAGIC`].
///
/// # Errors
/// When reading fails; what is wrong with the file is a finding.
pub fn read(
    reader: &mut Reader<'_>,
    model: &mut Model,
    naming: &Naming,
    sink: Sink<'_>,
) -> Result<Tally, Stop> {
    let (tally, long, alignment) = (Tally::default(), 8, ALIGNMENT);
    let mut parser = Parser { reader, model, naming, sink, tally, long, alignment };
    let whole = parser.file();
    let (position, size) = (parser.reader.position(), parser.reader.size());
    let tally = parser.tally;
    facts::take(model);
    match whole {
        Ok(()) | Err(Halt::Told) => Ok(tally),
        Err(Halt::Stop(Stop::End)) => {
            model.findings.add(
                Rule::GgufTruncated,
                format_args!("the header goes on at byte {position}, the file has {size}"),
            );
            Ok(tally)
        }
        Err(Halt::Stop(stop)) => Err(stop),
    }
}

impl<'s> Parser<'_, 's> {
    fn file(&mut self) -> Result<(), Halt> {
        self.reader.skip(MAGIC.len() as u64)?;
        self.version()?;
        let tensors = self.reader.number(self.long)?;
        let keys = self.reader.number(self.long)?;
        // A key's length, its type and a byte of value; a tensor's with no dimension.
        self.check_count("key-values", keys, u64::from(self.long) + 5)?;
        let mut seen = Seen::new(KEYS_MAX);
        for _ in 0..keys {
            self.entry(&mut seen)?;
        }
        drop(seen);
        self.check_count("tensors", tensors, u64::from(self.long) + 16)?;
        self.tensors(tensors)
    }

    /// The highest bytes of a small number come last, unless the file is for the other kind.
    fn version(&mut self) -> Result<(), Halt> {
        let mut version = self.reader.number(4)? as u32;
        if version & 0xffff == 0 && version != 0 {
            version = version.swap_bytes();
            self.reader.big_endian = true;
            self.model.facts.big_endian = true;
            self.find(Rule::GgufBigEndian, format_args!("the version reads {version}"));
        }
        self.model.facts.format_version = Some(version.into());
        match version {
            1 => {
                self.long = 4;
                self.find(Rule::GgufOldVersion, format_args!("version 1"));
            }
            2 | 3 => {}
            _ => return self.halt(Rule::GgufVersion, format_args!("version {version}")),
        }
        Ok(())
    }

    fn check_count(&mut self, what: &str, count: u64, least_bytes: u64) -> Result<(), Halt> {
        let left = self.reader.left();
        if count <= left / least_bytes {
            return Ok(());
        }
        self.halt(
            Rule::GgufCount,
            format_args!("{count} {what} are claimed, {left} bytes are left"),
        )
    }

    fn entry(&mut self, seen: &mut Seen) -> Result<(), Halt> {
        let key = self.string("a key", NAME_KEEP)?;
        let name = key.text();
        if key.bytes == 0 {
            self.find(Rule::GgufKeyEmpty, format_args!("at byte {}", self.reader.position()));
        }
        if key.bytes > KEY_BYTES_MAX {
            self.find(Rule::GgufKeyTooLong, format_args!("{} bytes: {name:?}", key.bytes));
        }
        if !key.is_plain() {
            self.find(Rule::GgufKeyCharacters, format_args!("{name:?}"));
        }
        if is_path_like(&name) {
            self.find(Rule::GgufKeyPath, format_args!("{name:?}"));
        }
        match seen.look(key.hash()) {
            Look::New => {}
            Look::Again => self.find(Rule::GgufDuplicateKey, format_args!("{name:?}")),
            Look::Full => self.find(Rule::GgufTooManyKeys, format_args!("from {name:?} on")),
        }
        self.value_of(name)
    }

    /// A length and so many bytes.
    fn string(&mut self, what: &str, keep: usize) -> Result<Passing<impl Hasher + use<>>, Halt> {
        let text = Passing::new(keep, Some(self.naming.hasher()));
        self.pass(what, text)
    }

    fn pass<H: Hasher>(&mut self, what: &str, mut text: Passing<H>) -> Result<Passing<H>, Halt> {
        let length = self.reader.number(self.long)?;
        let (left, position) = (self.reader.left(), self.reader.position());
        if length > left {
            return self.halt(
                Rule::GgufCount,
                format_args!("{what} at byte {position} has {length} of {left} bytes"),
            );
        }
        let mut rest = length;
        while rest > 0 {
            let piece = self.reader.chunk(rest)?;
            rest -= piece.len() as u64;
            text.push(piece);
        }
        Ok(text)
    }

    fn find(&mut self, rule: Rule, evidence: fmt::Arguments<'_>) {
        self.model.findings.add(rule, evidence);
    }

    fn halt<T>(&mut self, rule: Rule, evidence: fmt::Arguments<'_>) -> Result<T, Halt> {
        self.find(rule, evidence);
        Err(Halt::Told)
    }
}
