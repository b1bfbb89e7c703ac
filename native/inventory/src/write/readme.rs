//! A card for a Space on Hugging Face: front matter and a body.

use super::json::Json;
use super::{About, line, size};
use crate::model::Model;
use std::io::{self, Write};

/// What only its owner knows of a Space; `None` is left out or derived.
#[derive(Debug, Clone, Copy, Default)]
pub struct Card<'a> {
    /// Instead of the model's name.
    pub title: Option<&'a str>,
    /// `gradio`, `docker` or `static`.
    pub sdk: Option<&'a str>,
    /// What is started.
    pub app_file: Option<&'a str>,
    /// Where it listens.
    pub app_port: Option<u64>,
    /// In one sentence.
    pub short_description: Option<&'a str>,
}

/// Writes the card of a model.
///
/// # Errors
/// Those of the output.
pub fn readme(
    out: &mut dyn Write,
    model: &Model,
    card: &Card<'_>,
    about: &About<'_>,
) -> io::Result<()> {
    let title = card.title.map_or_else(|| title(model), str::to_owned);
    writeln!(out, "---")?;
    let short = card.short_description.map_or_else(|| short(model), str::to_owned);
    pair(out, "title", &title)?;
    pair(out, "short_description", &short)?;
    for (name, value) in [("sdk", card.sdk), ("app_file", card.app_file)] {
        if let Some(value) = value {
            pair(out, name, value)?;
        }
    }
    if let Some(port) = card.app_port {
        writeln!(out, "app_port: {port}")?;
    }
    list(out, "models", &repositories(model))?;
    list(out, "tags", &tags(model))?;
    writeln!(out, "---\n\n# {}\n", markdown(&title))?;
    writeln!(out, "{}\n", markdown(&short))?;
    details(out, model, about)?;
    metadata(out, model)?;
    writeln!(out, "## Findings\n")?;
    if model.findings.is_empty() {
        writeln!(out, "None: the file is sound.")?;
    }
    for finding in model.findings.iter() {
        let (rule, severity) = (finding.rule.id(), finding.rule.severity().word());
        writeln!(out, "- {severity} `{rule}`: {}", markdown(&finding.evidence))?;
    }
    Ok(())
}

/// A name that is only a hash says nothing to anybody.
fn title(model: &Model) -> String {
    let name = model.title();
    let hash = name.len() >= 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hash { model.stem() } else { name }.to_owned()
}

fn short(model: &Model) -> String {
    let facts = &model.facts;
    let words = [
        facts.size_label.as_deref(),
        facts.architecture.as_deref(),
        facts.quantization.as_deref(),
        Some(model.format.word()),
    ];
    format!("{} model", words.into_iter().flatten().collect::<Vec<_>>().join(" "))
}

/// The repositories of the models that it was made from.
fn repositories(model: &Model) -> Vec<String> {
    let urls = model.facts.base_models.iter().filter_map(|base| base.url.as_deref());
    let paths = urls.filter_map(|url| url.strip_prefix("https://huggingface.co/"));
    paths.filter(|path| path.split('/').count() == 2).map(str::to_owned).collect()
}

fn tags(model: &Model) -> Vec<String> {
    let facts = &model.facts;
    let mut tags = vec![model.format.word().to_owned()];
    tags.extend(facts.architecture.clone());
    tags.extend(facts.quantization.clone());
    for tag in &facts.tags {
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    tags
}

fn details(out: &mut dyn Write, model: &Model, about: &About<'_>) -> io::Result<()> {
    writeln!(out, "## Artifact details\n\n| Field | Value |\n| --- | --- |")?;
    let mut row = |name: &str, value: Option<&str>| match value {
        Some(value) => writeln!(out, "| {name} | {} |", markdown(value)),
        None => Ok(()),
    };
    row("File", Some(&model.name))?;
    row("Size", Some(&size(model.bytes)))?;
    row("SHA-256", model.sha256.as_deref())?;
    row("Format", Some(model.format.word()))?;
    row("Verdict", Some(model.verdict().word()))?;
    row("Written by", Some(&format!("limpet {}, {}", about.version, about.time())))?;
    writeln!(out)
}

fn metadata(out: &mut dyn Write, model: &Model) -> io::Result<()> {
    let facts = &model.facts;
    writeln!(out, "## Model metadata\n\n| Field | Value |\n| --- | --- |")?;
    let mut row = |name: &str, value: Option<String>| match value {
        Some(value) => writeln!(out, "| {name} | {} |", markdown(&value)),
        None => Ok(()),
    };
    let known = facts.tensors > 0;
    row("Architecture", facts.architecture.clone())?;
    row("Parameters", known.then(|| facts.parameters.to_string()))?;
    row("Quantization", facts.quantization.clone())?;
    row("Dtype", facts.dtype().map(str::to_owned))?;
    row("Context length", facts.context_length.map(|tokens| tokens.to_string()))?;
    row("Vocabulary", facts.vocab_size.map(|tokens| tokens.to_string()))?;
    row("License", facts.license.clone())?;
    row("Base model", facts.base_models.first().map(|base| base.name.clone()))?;
    row("Framework", facts.framework.clone())?;
    writeln!(out)
}

/// A text of JSON is one of YAML.
fn pair(out: &mut dyn Write, name: &str, value: &str) -> io::Result<()> {
    write!(out, "{name}: ")?;
    let mut json = Json::new(out);
    json.text(value);
    json.end()
}

fn list(out: &mut dyn Write, name: &str, values: &[String]) -> io::Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    writeln!(out, "{name}:")?;
    for value in values {
        write!(out, "- ")?;
        let mut json = Json::new(out);
        json.text(value);
        json.end()?;
    }
    Ok(())
}

/// A text that stays on its line and in its cell, and is neither link nor markup.
fn markdown(text: &str) -> String {
    let mut plain = String::new();
    for sign in line(text).chars() {
        match sign {
            '<' => plain.push_str("&lt;"),
            '&' => plain.push_str("&amp;"),
            '|' | '[' | ']' | '*' | '`' | '\\' | '!' => plain.extend(['\\', sign]),
            _ => plain.push(sign),
        }
    }
    plain
}
