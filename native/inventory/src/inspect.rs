//! From a name in a folder to a model: which files belong to it, what each holds, and whether they
//! go together.

use crate::gguf::{self, Sink, Tally};
use crate::hash;
use crate::metadata::Metadata;
use crate::model::{Facts, Format, Member, Model};
use crate::reader::{Reader, Stop};
use crate::rules::{Rule, Severity};
use crate::safetensors;
use crate::seen::Naming;
use crate::set::{self, Index, Split};
use crate::source::{Folder, Source, Watch};
use crate::{claims, sidecar};
use std::fmt::Write;

/// Endings of files that are still being written.
pub const PARTIAL: [&str; 6] =
    [".part", ".partial", ".incomplete", ".crdownload", ".download", ".tmp"];
/// Lies beside one, behind its name.
const BESIDE: &str = ".aria2";

/// Why there is no model.
#[derive(Debug)]
pub enum Failure {
    /// Whoever watched had enough.
    Cancelled,
    /// A sentence.
    Unreadable(String),
}

/// How models are looked at.
pub struct Inspector<'i> {
    /// Whether their files are hashed.
    pub hash: bool,
    /// Who waits.
    pub watch: &'i dyn Watch,
    naming: Naming,
}

impl<'i> Inspector<'i> {
    /// One that hashes if `hash` says so.
    pub fn new(hash: bool, watch: &'i dyn Watch) -> Inspector<'i> {
        Inspector { hash, watch, naming: Naming::default() }
    }

    /// The model that the file `name` in `folder` is, or is part of; `path` is how it is called,
    /// and `sink` hears of its tensors.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn model(
        &self,
        folder: &dyn Folder,
        name: &str,
        path: &str,
        sink: Sink<'_>,
    ) -> Result<Model, Failure> {
        let whole = if name.ends_with(set::INDEX_ENDING) {
            self.indexed(folder, name, sink)
        } else if let Some(split) = Split::of(name) {
            self.splits(folder, &split, sink)
        } else {
            self.only(folder, name, sink)
        };
        let mut model = whole.map_err(|stop| match stop {
            Stop::Cancelled => Failure::Cancelled,
            Stop::End => Failure::Unreadable(format!("cannot read {path}: there is no such file")),
            Stop::Failed(cause) => Failure::Unreadable(format!("cannot read {path}: {cause}")),
        })?;
        path.clone_into(&mut model.path);
        name.clone_into(&mut model.name);
        if model.format == Format::Safetensors {
            sidecar::read(folder, self.watch, &self.naming, &mut model)
                .map_err(|_| Failure::Cancelled)?;
        }
        claims::judge(&mut model, set::shard_prefix(name).is_none());
        Ok(model)
    }

    /// One file, which is the whole model.
    fn only(&self, folder: &dyn Folder, name: &str, sink: Sink<'_>) -> Result<Model, Stop> {
        let source = folder.open(name).map_err(Stop::Failed)?.ok_or(Stop::End)?;
        let (mut model, _) = self.file(&*source, name, sink)?;
        if matches!(folder.open(&format!("{name}{BESIDE}")), Ok(Some(_))) {
            model.findings.add(Rule::FilePartial, format_args!("{name}{BESIDE} lies beside it"));
        }
        Ok(model)
    }

    /// What one file holds, whatever it belongs to.
    fn file(
        &self,
        source: &dyn Source,
        name: &str,
        sink: Sink<'_>,
    ) -> Result<(Model, Tally), Stop> {
        let bytes = source.size();
        let mut model = Model { name: name.to_owned(), bytes, ..Model::default() };
        let mut reader = Reader::new(source, self.watch);
        model.format = format(source, name)?;
        let tally = match model.format {
            Format::Gguf => gguf::read(&mut reader, &mut model, &self.naming, sink)?,
            Format::Safetensors => safetensors::read(&mut reader, &mut model, &self.naming, sink)?,
            Format::Unknown => {
                model.findings.add(Rule::FileUnknown, format_args!("{name} has {bytes} bytes"));
                Tally::default()
            }
        };
        if PARTIAL.iter().any(|ending| name.ends_with(ending)) {
            model.findings.add(Rule::FilePartial, format_args!("it is called {name}"));
        }
        if let Some(stored) = source.stored().filter(|stored| *stored < bytes / 2) {
            model
                .findings
                .add(Rule::FileSparse, format_args!("{stored} of {bytes} bytes are stored"));
        }
        if self.hash {
            let (sha256, hashed) = hash::sha256(source, self.watch)?;
            if hashed < bytes {
                model
                    .findings
                    .add(Rule::FileChanged, format_args!("it had {bytes} bytes and has {hashed}"));
            }
            model.sha256 = Some(sha256);
        }
        Ok((model, tally))
    }

    /// A safetensors model whose index is `name`.
    fn indexed(&self, folder: &dyn Folder, name: &str, sink: Sink<'_>) -> Result<Model, Stop> {
        let mut whole = Model { format: Format::Safetensors, ..Model::default() };
        let source = folder.open(name).map_err(Stop::Failed)?.ok_or(Stop::End)?;
        let Index { files, total } =
            set::index(&*source, self.watch, &self.naming, &mut whole.findings)?;
        for (shard, promised) in &files {
            let Some((model, tally)) = self.shard(folder, shard, sink, &mut whole)? else {
                continue;
            };
            let broken = model.findings.iter().any(|f| f.rule.severity() == Severity::Error);
            if tally != *promised && !broken {
                whole.findings.add(
                    Rule::SetTensors,
                    format_args!(
                        "{shard}: the index names {} tensors, it has {}",
                        promised.count, tally.count
                    ),
                );
            }
            join(&mut whole, model, shard);
        }
        if let Some(total) = total.filter(|total| *total != whole.facts.tensor_bytes) {
            whole.findings.add(
                Rule::SetSize,
                format_args!("it says {total}, there are {}", whole.facts.tensor_bytes),
            );
        }
        whole.sha256 = listing(&whole);
        Ok(whole)
    }

    /// A GGUF model in numbered files.
    fn splits(&self, folder: &dyn Folder, split: &Split, sink: Sink<'_>) -> Result<Model, Stop> {
        let mut whole = Model { format: Format::Gguf, ..Model::default() };
        if split.count as usize > set::SHARDS_MAX {
            whole.findings.add(Rule::SetMany, format_args!("{}", split.count));
            return Ok(whole);
        }
        let mut promised = None;
        for number in 1..=split.count {
            let shard = split.name(number);
            let Some((model, _)) = self.shard(folder, &shard, sink, &mut whole)? else {
                continue;
            };
            let (no, count) = ("split.no", "split.count");
            let says = (model.metadata.number(no), model.metadata.number(count));
            if says != (Some(u64::from(number) - 1), Some(split.count.into())) {
                whole.findings.add(Rule::SetNumber, format_args!("{shard} says {says:?}"));
            }
            promised = promised.or_else(|| model.metadata.number("split.tensors.count"));
            join(&mut whole, model, &shard);
        }
        let found = whole.facts.tensors;
        let complete = !whole.findings.has(Rule::SetMissing);
        if let Some(promised) = promised.filter(|promised| *promised != found && complete) {
            whole
                .findings
                .add(Rule::SetCount, format_args!("it says {promised}, there are {found}"));
        }
        whole.sha256 = listing(&whole);
        Ok(whole)
    }

    /// One file of a set; `None`, and a finding, when it is missing.
    fn shard(
        &self,
        folder: &dyn Folder,
        name: &str,
        sink: Sink<'_>,
        whole: &mut Model,
    ) -> Result<Option<(Model, Tally)>, Stop> {
        let found = match folder.open(name) {
            Ok(Some(source)) => return self.file(&*source, name, sink).map(Some),
            Ok(None) => "it is missing".to_owned(),
            Err(cause) => cause.to_string(),
        };
        whole.findings.add(Rule::SetMissing, format_args!("{name}: {found}"));
        Ok(None)
    }
}

/// By content; where that is neither, by name, so that a broken file is told what is wrong with it.
fn format(source: &dyn Source, name: &str) -> Result<Format, Stop> {
    let mut head = [0; 9];
    let count = crate::reader::read(source, 0, &mut head)?;
    let (length, first) = head.split_at(safetensors::LENGTH_BYTES as usize);
    let length = length.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let fits = length <= source.size().saturating_sub(safetensors::LENGTH_BYTES);
    Ok(if head.starts_with(&gguf::MAGIC) && count >= gguf::MAGIC.len() {
        Format::Gguf
    } else if (count == head.len() && fits && first == b"{") || name.ends_with(".safetensors") {
        Format::Safetensors
    } else {
        Format::Unknown
    })
}

/// Adds one file's part to the whole; what the first says stands for all of them.
fn join(whole: &mut Model, part: Model, name: &str) {
    let Model { bytes, sha256, facts, metadata, findings, format, .. } = part;
    whole.bytes = whole.bytes.saturating_add(bytes);
    for finding in findings.iter() {
        whole.findings.merge(
            finding.rule,
            finding.count,
            format_args!("{name}: {}", finding.evidence),
        );
    }
    if format != whole.format {
        whole.findings.add(Rule::FileUnknown, format_args!("{name} is {}", format.word()));
    }
    let first = whole.members.is_empty();
    whole.members.push(Member { name: name.to_owned(), bytes, sha256 });
    if first {
        let own = std::mem::replace(&mut whole.facts, Facts { ..facts });
        own.mix.iter().for_each(|mix| whole.facts.take(mix));
        whole.metadata = metadata;
    } else {
        facts.mix.iter().for_each(|mix| whole.facts.take(mix));
        fill(&mut whole.metadata, &metadata);
    }
}

/// Keys that only a later file has.
fn fill(metadata: &mut Metadata, more: &Metadata) {
    for (key, value) in more.iter() {
        if metadata.get(key).is_none() {
            // What there is no room for was told of when the file was read.
            let _ = metadata.add(key.clone(), value.clone());
        }
    }
}

/// What `sha256sum` of the lines that `sha256sum` writes about all files says.
fn listing(whole: &Model) -> Option<String> {
    let mut lines = String::new();
    for member in &whole.members {
        // Writing to a text cannot fail.
        let _ = writeln!(lines, "{}  {}", member.sha256.as_ref()?, member.name);
    }
    (!lines.is_empty()).then(|| hash::of(lines.as_bytes()))
}
