//! Every rule that a model file can break: a stable id, how bad that is, and one line that says
//! why.
//!
//! Ids are never given a second meaning; severities decide the verdict and nothing else does.

use std::fmt;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; the verdict stays `ok`.
    Info,
    /// The file may be sound, and somebody should look: `suspect`.
    Warning,
    /// A loader must refuse it: `malformed`.
    Error,
}

impl Severity {
    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// What a model comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing speaks against it.
    Ok,
    /// Somebody should look.
    Suspect,
    /// A loader must refuse it.
    Malformed,
}

impl Verdict {
    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Suspect => "suspect",
            Verdict::Malformed => "malformed",
        }
    }
}

/// What one rule says about one model, however often it was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub rule: Rule,
    /// The first place, with the numbers.
    pub evidence: String,
    /// How many places.
    pub count: u64,
}

/// Characters kept of one piece of evidence.
const EVIDENCE_CHARACTERS_MAX: usize = 240;

/// One entry for each rule that was broken: bounded, whatever the file holds.
#[derive(Debug, Clone, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Adds a place where `rule` is broken.
    pub fn add(&mut self, rule: Rule, evidence: fmt::Arguments<'_>) {
        self.merge(rule, 1, evidence);
    }

    /// Adds `count` places of which `evidence` tells the first.
    pub(crate) fn merge(&mut self, rule: Rule, count: u64, evidence: fmt::Arguments<'_>) {
        if let Some(found) = self.0.iter_mut().find(|found| found.rule == rule) {
            found.count = found.count.saturating_add(count);
            return;
        }
        let evidence = evidence.to_string().chars().take(EVIDENCE_CHARACTERS_MAX).collect();
        self.0.push(Finding { rule, evidence, count });
    }

    /// In the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }

    /// How many rules were broken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `rule` was.
    #[must_use]
    pub fn has(&self, rule: Rule) -> bool {
        self.0.iter().any(|found| found.rule == rule)
    }

    /// What they come to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.0.iter().map(|found| found.rule.severity()).max() {
            Some(Severity::Error) => Verdict::Malformed,
            Some(Severity::Warning) => Verdict::Suspect,
            Some(Severity::Info) | None => Verdict::Ok,
        }
    }
}

macro_rules! rules {
    ($($name:ident $severity:ident $id:literal $why:literal)*) => {
        /// A rule that a file can break.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs)] // The table below says what each is.
        pub enum Rule { $($name),* }

        /// All of them, in the order of their documentation.
        pub const ALL: &[Rule] = &[$(Rule::$name),*];

        const TABLE: &[(&str, Severity, &str)] = &[$(($id, Severity::$severity, $why)),*];
    };
}

impl Rule {
    /// Its stable name.
    #[must_use]
    pub fn id(self) -> &'static str {
        TABLE[self as usize].0
    }

    /// How bad it is to break it.
    #[must_use]
    pub fn severity(self) -> Severity {
        TABLE[self as usize].1
    }

    /// Why it is a rule.
    #[must_use]
    pub fn why(self) -> &'static str {
        TABLE[self as usize].2
    }
}

rules! {
    FileUnknown Error "file.unknown"
        "the content is neither GGUF nor safetensors"
    FilePartial Warning "file.partial"
        "the name says that a download has not ended"
    FileSparse Warning "file.sparse"
        "less than half of the file is stored: a download whose room was set aside, not filled"
    FileChanged Error "file.changed"
        "the file became shorter while it was read"

    GgufVersion Error "gguf.version"
        "loaders know the versions 2 and 3"
    GgufOldVersion Warning "gguf.old_version"
        "version 1 is refused by current loaders"
    GgufBigEndian Info "gguf.big_endian"
        "the numbers are big-endian: for such machines only"
    GgufTruncated Error "gguf.truncated"
        "the file ends before its header or its tensors do"
    GgufCount Error "gguf.count"
        "a count or length is more than the rest of the file can hold"
    GgufKeyEmpty Error "gguf.key_empty"
        "a key has at least one character"
    GgufKeyTooLong Error "gguf.key_too_long"
        "a key has at most 65,535 bytes"
    GgufKeyCharacters Warning "gguf.key_characters"
        "a key is printable ASCII: anything else deceives who looks at it"
    GgufKeyPath Warning "gguf.key_path"
        "a key that looks like a path invites a loader to write there"
    GgufDuplicateKey Error "gguf.duplicate_key"
        "of a key that stands twice, two readers see two values"
    GgufTooManyKeys Warning "gguf.too_many_keys"
        "beyond 65,536 keys repetitions are no longer looked for"
    GgufValueType Error "gguf.value_type"
        "there are the value types 0 to 12"
    GgufValueMistyped Warning "gguf.value_mistyped"
        "a well-known key has another type than its definition"
    GgufBool Error "gguf.bool"
        "a truth value is 0 or 1"
    GgufNestedArray Error "gguf.nested_array"
        "an array of arrays is refused by loaders, and invites recursion"
    GgufNotUtf8 Warning "gguf.not_utf8"
        "texts are UTF-8"
    GgufAlignment Error "gguf.alignment"
        "general.alignment is a power of two of type u32"
    GgufNameEmpty Warning "gguf.name_empty"
        "a tensor has a name"
    GgufNameTooLong Error "gguf.name_too_long"
        "the name of a tensor has fewer than 64 bytes"
    GgufNameCharacters Warning "gguf.name_characters"
        "the name of a tensor is printable"
    GgufNamePath Warning "gguf.name_path"
        "a tensor that is named like a path invites a loader to write there"
    GgufDuplicateTensor Error "gguf.duplicate_tensor"
        "of a tensor that stands twice, two readers see two"
    GgufTooManyTensors Warning "gguf.too_many_tensors"
        "beyond 131,072 tensors repetitions are no longer looked for"
    GgufDimensions Error "gguf.dimensions"
        "a tensor has at most four dimensions"
    GgufDimension Error "gguf.dimension"
        "a dimension is below 2^63"
    GgufElements Error "gguf.elements"
        "the product of the dimensions is below 2^63"
    GgufTensorType Error "gguf.tensor_type"
        "the type of a tensor is none that exists"
    GgufRemovedType Error "gguf.removed_type"
        "the type of a tensor was removed from the format"
    GgufBlocks Error "gguf.blocks"
        "a row has a whole number of the type's blocks"
    GgufTensorSize Error "gguf.tensor_size"
        "the bytes of a tensor are below 2^63, with its padding"
    GgufDataSize Error "gguf.data_size"
        "the bytes of all tensors are below 2^63"
    GgufMisaligned Error "gguf.misaligned"
        "a tensor begins at a multiple of the alignment"
    GgufOverlap Error "gguf.overlap"
        "a tensor begins before the one before it ends"
    GgufGap Error "gguf.gap"
        "between two tensors there is padding only"
    GgufOffset Error "gguf.offset"
        "a tensor begins within the file"
    GgufPadding Warning "gguf.padding"
        "the last tensor is padded like every other"
    GgufTrailing Warning "gguf.trailing_bytes"
        "behind the last tensor there is nothing: more may be another file"

    SafetensorsTooSmall Error "safetensors.header_too_small"
        "a file begins with eight bytes of length"
    SafetensorsTooLarge Error "safetensors.header_too_large"
        "a header has at most 100,000,000 bytes"
    SafetensorsBeyond Error "safetensors.header_beyond_file"
        "the header ends within the file"
    SafetensorsJson Error "safetensors.header_invalid"
        "the header is strict JSON in UTF-8"
    SafetensorsDeep Error "safetensors.header_too_deep"
        "no more than 16 levels: deeper invites recursion"
    SafetensorsDescriptor Error "safetensors.descriptor"
        "an entry has dtype, shape and data_offsets, and each of its own kind"
    SafetensorsField Warning "safetensors.unknown_field"
        "an entry has nothing else"
    SafetensorsMetadata Error "safetensors.metadata"
        "__metadata__ is a map from text to text"
    SafetensorsDuplicate Error "safetensors.duplicate_key"
        "of a name that stands twice, two readers see two"
    SafetensorsMany Warning "safetensors.too_many_tensors"
        "beyond 131,072 tensors repetitions and, out of order, overlaps are not looked for"
    SafetensorsName Warning "safetensors.name_characters"
        "the name of a tensor is printable"
    SafetensorsNamePath Warning "safetensors.name_path"
        "a tensor that is named like a path invites a loader to write there"
    SafetensorsDtype Error "safetensors.unknown_dtype"
        "the dtype is none that exists"
    SafetensorsNumber Error "safetensors.number"
        "dimensions and offsets are whole numbers below 2^64"
    SafetensorsElements Error "safetensors.tensor_size"
        "the bytes of a tensor are below 2^64"
    SafetensorsBits Error "safetensors.misaligned"
        "a tensor has a whole number of bytes"
    SafetensorsReversed Error "safetensors.offsets_reversed"
        "a tensor ends where it begins or later"
    SafetensorsSize Error "safetensors.size_mismatch"
        "the offsets leave as much room as dtype and shape take"
    SafetensorsOverlap Error "safetensors.overlap"
        "no two tensors share bytes"
    SafetensorsGap Error "safetensors.gap"
        "between two tensors there is nothing"
    SafetensorsTruncated Error "safetensors.truncated"
        "the file ends before its tensors do"
    SafetensorsTrailing Error "safetensors.trailing_bytes"
        "behind the last tensor there is nothing: more may be another file"

    SetMissing Error "set.missing_shard"
        "every file of a sharded model is there"
    SetPath Error "set.shard_path"
        "a shard lies beside its index, under a plain name"
    SetIndex Error "set.index_invalid"
        "the index is a map from tensors to files"
    SetTensors Error "set.index_mismatch"
        "the index and the shards name the same tensors"
    SetSize Warning "set.total_size"
        "the index tells the size of all tensors"
    SetNumber Error "set.shard_number"
        "each shard says which it is, and of how many"
    SetCount Error "set.tensor_count"
        "all shards together have as many tensors as each of them says"
    SetMany Error "set.too_many_shards"
        "a model has at most 1,024 files"

    SidecarInvalid Warning "sidecar.invalid"
        "config.json and tokenizer_config.json are JSON objects of at most 16 MiB"
    SidecarCode Warning "sidecar.remote_code"
        "auto_map has a loader import Python code from the model's folder"
    SidecarMismatch Warning "sidecar.mismatch"
        "what lies beside a model says the same as the model"

    TemplateDunder Warning "template.dunder"
        "a chat template has no business with Python's inner attributes: so one breaks out"
    TemplateCode Warning "template.code"
        "a chat template starts nothing"
    TemplateUrl Warning "template.url"
        "a chat template that names an address puts it into every conversation"
    TemplateEncoded Warning "template.encoded"
        "a long encoded text hides what it says"
    TemplateLarge Warning "template.too_large"
        "a chat template has a few KiB; this one has more than 256"

    TokenByte Error "tokenizer.byte_token"
        "a byte token is <0x00> to <0xFF>: any other becomes an index out of bounds"
    TokenCounts Error "tokenizer.counts"
        "scores and types are as many as tokens"

    ClaimParameters Warning "claim.parameters"
        "the size that name or label claim is not the size of the tensors"
    ClaimContext Warning "claim.context"
        "a context length below 256 or above 2^27 is none that a language model has"
    MetadataCut Info "metadata.cut"
        "what there is of metadata beyond 256 KiB is judged and not shown"

    TrustUnlisted Error "trust.unlisted"
        "the hash is not in the list of trusted models"
    TrustHash Error "trust.hash_mismatch"
        "the hash is not the one that was asked for"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Ids are unique and plain, and the table stands in the order of the enum.
    #[test]
    fn each_rule_has_its_own_id() {
        let ids: BTreeSet<&str> = ALL.iter().map(|rule| rule.id()).collect();
        assert_eq!((ids.len(), ALL.len()), (ALL.len(), TABLE.len()));
        let plain = |id: &str| id.bytes().all(|b| b"._8".contains(&b) || b.is_ascii_lowercase());
        assert!(ids.iter().all(|id| plain(id) && id.split('.').count() == 2), "{ids:?}");
    }

    /// The worst finding decides, however many there are of it.
    #[test]
    fn the_worst_finding_decides() {
        let mut findings = Findings::default();
        assert_eq!(findings.verdict(), Verdict::Ok);
        for (rule, verdict) in [
            (Rule::GgufBigEndian, Verdict::Ok),
            (Rule::GgufTrailing, Verdict::Suspect),
            (Rule::GgufOverlap, Verdict::Malformed),
            (Rule::GgufTrailing, Verdict::Malformed),
        ] {
            findings.add(rule, format_args!("here"));
            assert_eq!(findings.verdict(), verdict);
        }
        assert_eq!(findings.iter().map(|found| found.count).collect::<Vec<_>>(), [1, 2, 1]);
    }
}
