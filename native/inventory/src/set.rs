//! A model in several files: safetensors with an index, and GGUF's numbered splits.
//!
//! Which tensors an index promises and which the shards have is compared by counts and sums over
//! keyed hashes, so that neither list is kept.

use crate::gguf::Tally;
use std::hash::Hasher;

use crate::json::{Fault, Json, Token, json};
use crate::reader::{Reader, Stop};
use crate::rules::{Findings, Rule};
use crate::seen::{Look, Naming, Seen, TENSORS_MAX};
use crate::source::{Source, Watch};
use crate::text::is_file_name;

/// Files of one model.
pub const SHARDS_MAX: usize = 1024;
/// Bytes of an index; the largest models have less than ten MB.
const INDEX_BYTES_MAX: u64 = 100_000_000;
/// How the name of an index ends.
pub const INDEX_ENDING: &str = ".safetensors.index.json";

/// What an index says.
#[derive(Debug, Default)]
pub struct Index {
    /// Which tensors are in which file, sorted by its name.
    pub files: Vec<(String, Tally)>,
    /// Bytes of all of them.
    pub total: Option<u64>,
}

/// Reads an index; what is wrong with it is a finding.
///
/// # Errors
/// When reading fails.
pub fn index(
    source: &dyn Source,
    watch: &dyn Watch,
    naming: &Naming,
    findings: &mut Findings,
) -> Result<Index, Stop> {
    let mut index = Index::default();
    if source.size() > INDEX_BYTES_MAX {
        findings.add(Rule::SetIndex, format_args!("it has {} bytes", source.size()));
        return Ok(index);
    }
    let mut reader = Reader::new(source, watch);
    match members(&mut reader, naming, &mut index, findings) {
        Ok(()) => {}
        Err(Fault::Invalid(cause, at)) => {
            findings.add(Rule::SetIndex, format_args!("{cause}, at byte {at}"));
        }
        Err(Fault::Deep(at)) => findings.add(Rule::SetIndex, format_args!("at byte {at}")),
        Err(Fault::Stop(stop)) => return Err(stop),
    }
    Ok(index)
}

fn members(
    reader: &mut Reader<'_>,
    naming: &Naming,
    index: &mut Index,
    findings: &mut Findings,
) -> Result<(), Fault> {
    let mut json = json(reader, naming, 512);
    if json.next()? != Token::Object {
        return Err(Fault::Invalid("it is no object", 0));
    }
    let mut mapped = false;
    while json.next()? == Token::Key {
        let key = json.text.text();
        let token = json.next()?;
        match (key.as_str(), token) {
            ("metadata", Token::Object) => metadata(&mut json, index)?,
            ("weight_map", Token::Object) => {
                mapped = true;
                weight_map(&mut json, index, findings)?;
            }
            _ => json.pass(token)?,
        }
    }
    if !mapped {
        findings.add(Rule::SetIndex, format_args!("weight_map is missing"));
    }
    json.next().map(drop)
}

fn metadata(json: &mut Json<'_, '_, impl Hasher>, index: &mut Index) -> Result<(), Fault> {
    while json.next()? == Token::Key {
        let total = json.text.text() == "total_size";
        let token = json.next()?;
        if total && token == Token::Number {
            index.total = json.number();
        }
        json.pass(token)?;
    }
    Ok(())
}

fn weight_map(
    json: &mut Json<'_, '_, impl Hasher>,
    index: &mut Index,
    findings: &mut Findings,
) -> Result<(), Fault> {
    let mut seen = Seen::new(TENSORS_MAX);
    while json.next()? == Token::Key {
        let hash = json.text.hash();
        if seen.look(hash) == Look::Again {
            findings.add(Rule::SetIndex, format_args!("{:?} stands twice", json.text.text()));
        }
        let token = json.next()?;
        if token == Token::Text {
            file(index, json.text.text(), hash, findings);
        } else {
            findings.add(Rule::SetIndex, format_args!("a tensor has no file"));
            json.pass(token)?;
        }
    }
    Ok(())
}

fn file(index: &mut Index, name: String, tensor: u64, findings: &mut Findings) {
    let place = index.files.binary_search_by(|(known, _)| known.cmp(&name));
    let at = match place {
        Ok(at) => return index.files[at].1.add(tensor),
        Err(at) => at,
    };
    if !is_file_name(&name) {
        findings.add(Rule::SetPath, format_args!("{name:?}"));
        return;
    }
    if index.files.len() == SHARDS_MAX {
        findings.add(Rule::SetMany, format_args!("from {name:?} on"));
        return;
    }
    let mut tally = Tally::default();
    tally.add(tensor);
    index.files.insert(at, (name, tally));
}

/// The place of a GGUF file in its set, by its name: `NAME-00002-of-00005.gguf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// What the names of all of them begin with.
    pub prefix: String,
    /// From one on.
    pub number: u32,
    /// Of how many.
    pub count: u32,
}

impl Split {
    /// Reads a name; `None` when it is not of a set of at least two.
    #[must_use]
    pub fn of(name: &str) -> Option<Split> {
        const DIGITS: usize = 5;
        let (rest, count) = digits(name.strip_suffix(".gguf")?, DIGITS)?;
        let (prefix, number) = digits(rest.strip_suffix("-of-")?, DIGITS)?;
        let prefix = prefix.strip_suffix('-')?.to_owned();
        ((1..=count).contains(&number) && count > 1).then_some(Split { prefix, number, count })
    }

    /// The name of one of the set.
    #[must_use]
    pub fn name(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

fn digits(text: &str, count: usize) -> Option<(&str, u32)> {
    let (rest, digits) = text.split_at_checked(text.len().checked_sub(count)?)?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((rest, digits.parse().ok().filter(|_| plain)?))
}

/// What the name of a shard begins with that an index names: `model` of
/// `model-00002-of-00005.safetensors`.
#[must_use]
pub fn shard_prefix(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".safetensors")?;
    Split::of(&format!("{stem}.gguf")).map(|split| split.prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_known_by_its_name() {
        let split = Split::of("big-Q4_K_M-00002-of-00005.gguf").expect("it is one");
        assert_eq!((split.number, split.count), (2, 5));
        assert_eq!(split.name(5), "big-Q4_K_M-00005-of-00005.gguf");
        for name in [
            "a-00000-of-00005.gguf",
            "a-00006-of-00005.gguf",
            "a-1-of-5.gguf",
            "a-+0001-of-00005.gguf",
            "00001-of-00002.gguf",
            "a-00001-of-00001.gguf",
            "é-of-00005.gguf",
            "a-00001-of-00002.bin",
        ] {
            assert_eq!(Split::of(name), None, "{name}");
        }
        assert_eq!(shard_prefix("m-00001-of-00002.safetensors").as_deref(), Some("m"));
        assert_eq!(shard_prefix("model.safetensors"), None);
    }
}
