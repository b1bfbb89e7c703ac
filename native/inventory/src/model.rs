//! What is known of one model: the facts that every output tells, and what speaks against it.

use crate::metadata::Metadata;
use crate::rules::{Findings, Rule, Verdict};

/// How its file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// llama.cpp's.
    Gguf,
    /// Hugging Face's.
    Safetensors,
    /// Neither.
    #[default]
    Unknown,
}

impl Format {
    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Format::Gguf => "gguf",
            Format::Safetensors => "safetensors",
            Format::Unknown => "unknown",
        }
    }
}

/// A tensor, shown once while its file is read.
#[derive(Debug)]
pub struct Tensor<'t> {
    /// As far as it is shown.
    pub name: &'t str,
    /// Of its values.
    pub dtype: &'static str,
    /// Slowest dimension last in GGUF, first in safetensors, as the file has it.
    pub shape: &'t [u64],
    /// In the file.
    pub offset: u64,
    /// Of its data.
    pub bytes: u64,
}

/// What tensors of one type come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix {
    /// The type.
    pub dtype: &'static str,
    /// How many tensors.
    pub tensors: u64,
    /// Their values.
    pub parameters: u64,
    /// Their data.
    pub bytes: u64,
}

/// A model that this one was made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseModel {
    /// As it is called.
    pub name: String,
    /// Who made it.
    pub organization: Option<String>,
    /// Which of that name.
    pub version: Option<String>,
    /// Where it is.
    pub url: Option<String>,
}

/// The numbers from which follows what a model needs to run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dimensions {
    /// Layers.
    pub blocks: Option<u64>,
    /// Width.
    pub embedding: Option<u64>,
    /// Inner width.
    pub feed_forward: Option<u64>,
    /// Attention heads.
    pub heads: Option<u64>,
    /// Key and value heads of all layers together.
    pub kv_heads_sum: Option<u64>,
    /// Of one key.
    pub key_length: Option<u64>,
    /// Of one value.
    pub value_length: Option<u64>,
    /// Experts, of which some are used.
    pub experts: Option<u64>,
}

/// A chat template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Where it stands.
    pub place: String,
    /// Of its text.
    pub sha256: String,
    /// Of its text.
    pub bytes: u64,
}

/// One of a model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash, if it was computed.
    pub sha256: Option<String>,
}

/// What the header says.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // The names are those of the keys that they come from.
pub struct Facts {
    pub format_version: Option<u64>,
    pub big_endian: bool,
    pub kind: Option<String>,
    pub name: Option<String>,
    pub version: Option<String>,
    pub description: Option<String>,
    pub author: Option<String>,
    pub organization: Option<String>,
    pub url: Option<String>,
    pub size_label: Option<String>,
    pub architecture: Option<String>,
    pub quantization: Option<String>,
    pub quantized_by: Option<String>,
    pub context_length: Option<u64>,
    pub vocab_size: Option<u64>,
    pub license: Option<String>,
    pub license_name: Option<String>,
    pub license_link: Option<String>,
    pub base_models: Vec<BaseModel>,
    pub datasets: Vec<String>,
    pub tags: Vec<String>,
    pub languages: Vec<String>,
    pub framework: Option<String>,
    pub tokenizer: Option<String>,
    pub templates: Vec<Template>,
    pub dimensions: Dimensions,
    pub tensors: u64,
    pub parameters: u64,
    pub tensor_bytes: u64,
    pub mix: Vec<Mix>,
    /// What a `config.json` says the weights were packed with.
    pub packed: bool,
}

impl Facts {
    /// Counts a tensor. Sums that do not fit are found elsewhere, so here they only stay at the
    /// top.
    pub fn count(&mut self, dtype: &'static str, parameters: u64, bytes: u64) {
        let mix = Mix { dtype, tensors: 1, parameters, bytes };
        self.take(&mix);
    }

    /// Counts what another file of the model has.
    pub fn take(&mut self, more: &Mix) {
        self.tensors = self.tensors.saturating_add(more.tensors);
        self.parameters = self.parameters.saturating_add(more.parameters);
        self.tensor_bytes = self.tensor_bytes.saturating_add(more.bytes);
        let Some(mix) = self.mix.iter_mut().find(|mix| mix.dtype == more.dtype) else {
            self.mix.push(more.clone());
            return;
        };
        mix.tensors = mix.tensors.saturating_add(more.tensors);
        mix.parameters = mix.parameters.saturating_add(more.parameters);
        mix.bytes = mix.bytes.saturating_add(more.bytes);
    }

    /// The one type of all tensors, or `mixed`.
    #[must_use]
    pub fn dtype(&self) -> Option<&'static str> {
        match &self.mix[..] {
            [] => None,
            [only] => Some(only.dtype),
            _ => Some("mixed"),
        }
    }

    /// The type that holds most parameters.
    #[must_use]
    pub fn main_type(&self) -> Option<&'static str> {
        self.mix.iter().max_by_key(|mix| mix.parameters).map(|mix| mix.dtype)
    }
}

/// Everything about one model.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// As whoever asked named it.
    pub path: String,
    /// The last name of the path.
    pub name: String,
    /// Of all its files.
    pub bytes: u64,
    /// Of its file. Of several, that of the lines that `sha256sum` writes about them.
    pub sha256: Option<String>,
    /// How its files are laid out.
    pub format: Format,
    /// What the header says.
    pub facts: Facts,
    /// Its key-values.
    pub metadata: Metadata,
    /// Its files, where there are several.
    pub members: Vec<Member>,
    /// What speaks against it.
    pub findings: Findings,
    /// Whether the list of trusted models has it; `None` where no list was asked.
    pub trusted: Option<bool>,
}

impl Model {
    /// What it comes to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.findings.verdict()
    }

    /// Adds metadata, or that there is no room for it.
    pub(crate) fn note(&mut self, key: String, value: crate::metadata::Value) {
        if !self.metadata.add(key, value) {
            self.findings.add(
                Rule::MetadataCut,
                format_args!("{} entries kept", { self.metadata.iter().len() }),
            );
        }
    }

    /// The name by which people know it.
    #[must_use]
    pub fn title(&self) -> &str {
        self.facts.name.as_deref().unwrap_or_else(|| self.stem())
    }

    /// Its file's name without the ending.
    #[must_use]
    pub fn stem(&self) -> &str {
        let endings = [".safetensors.index.json", ".safetensors", ".gguf"];
        let stem = endings.iter().find_map(|ending| self.name.strip_suffix(ending));
        stem.filter(|stem| !stem.is_empty()).unwrap_or(&self.name)
    }
}
