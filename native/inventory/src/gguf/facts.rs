//! What GGUF's well-known keys say, under the names that all formats share.

use super::types::file_type;
use crate::metadata::{Metadata, Value};
use crate::model::{BaseModel, Dimensions, Facts, Model};
use crate::rules::Rule;

const BASE_MODELS_MAX: u64 = 16;

/// Fills the facts in from the key-values.
pub fn take(model: &mut Model) {
    let (metadata, facts) = (&model.metadata, &mut model.facts);
    let text = |key: &str| metadata.text(&format!("general.{key}"));
    facts.kind = text("type");
    facts.name = text("name");
    facts.version = text("version");
    facts.description = text("description");
    facts.author = text("author");
    facts.organization = text("organization");
    facts.url = text("url").or_else(|| text("repo_url"));
    facts.size_label = text("size_label");
    facts.quantized_by = text("quantized_by");
    facts.license = text("license");
    facts.license_name = text("license.name");
    facts.license_link = text("license.link");
    facts.tags = metadata.texts("general.tags");
    facts.languages = metadata.texts("general.languages");
    facts.architecture = text("architecture");
    facts.tokenizer = metadata.text("tokenizer.ggml.model");
    facts.quantization = quantization(metadata, facts);
    facts.base_models = base_models(metadata, "base_model");
    facts.datasets = base_models(metadata, "dataset").into_iter().map(|base| base.name).collect();
    let prefix = facts.architecture.clone().unwrap_or_default();
    let number = |key: &str| metadata.number(&format!("{prefix}.{key}"));
    facts.context_length = number("context_length")
        .or_else(|| metadata.number("general.context_length"))
        .or_else(|| ending(metadata, ".context_length"));
    facts.vocab_size = count(metadata, "tokenizer.ggml.tokens")
        .or_else(|| number("vocab_size"))
        .or_else(|| ending(metadata, ".vocab_size"));
    facts.dimensions = dimensions(metadata, &prefix);
    check_tokens(model);
}

fn quantization(metadata: &Metadata, facts: &Facts) -> Option<String> {
    let named = metadata.number("general.file_type").and_then(file_type);
    named.or_else(|| facts.main_type()).map(str::to_owned)
}

fn base_models(metadata: &Metadata, what: &str) -> Vec<BaseModel> {
    let count = metadata.number(&format!("general.{what}.count")).unwrap_or(0);
    let entries = (0..count.min(BASE_MODELS_MAX)).filter_map(|index| {
        let text = |key: &str| metadata.text(&format!("general.{what}.{index}.{key}"));
        Some(BaseModel {
            name: text("name").or_else(|| text("repo_url"))?,
            organization: text("organization"),
            version: text("version"),
            url: text("repo_url").or_else(|| text("url")),
        })
    });
    entries.collect()
}

fn ending(metadata: &Metadata, ending: &str) -> Option<u64> {
    metadata.iter().find_map(|(key, value)| match value {
        Value::Unsigned(number) if key.ends_with(ending) => Some(*number),
        _ => None,
    })
}

fn count(metadata: &Metadata, key: &str) -> Option<u64> {
    match metadata.get(key)? {
        Value::Array { count, .. } => Some(*count),
        _ => None,
    }
}

/// A number of heads stands for every layer, or there is one for each.
fn dimensions(metadata: &Metadata, prefix: &str) -> Dimensions {
    let number = |key: &str| metadata.number(&format!("{prefix}.{key}"));
    let (blocks, heads) = (number("block_count"), number("attention.head_count"));
    let kv_heads = match metadata.get(&format!("{prefix}.attention.head_count_kv")) {
        Some(Value::Array { sum, .. }) => *sum,
        _ => number("attention.head_count_kv")
            .or(heads)
            .zip(blocks)
            .map(|(each, blocks)| each.saturating_mul(blocks)),
    };
    let embedding = number("embedding_length");
    let each = embedding.zip(heads).and_then(|(width, heads)| width.checked_div(heads));
    Dimensions {
        blocks,
        embedding,
        feed_forward: number("feed_forward_length"),
        heads,
        kv_heads_sum: kv_heads,
        key_length: number("attention.key_length").or(each),
        value_length: number("attention.value_length").or(each),
        experts: number("expert_count"),
    }
}

fn check_tokens(model: &mut Model) {
    let Some(tokens) = count(&model.metadata, "tokenizer.ggml.tokens") else {
        return;
    };
    for key in ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"] {
        if let Some(found) = count(&model.metadata, key).filter(|found| *found != tokens) {
            model
                .findings
                .add(Rule::TokenCounts, format_args!("{tokens} tokens, {found} of {key}"));
        }
    }
}
