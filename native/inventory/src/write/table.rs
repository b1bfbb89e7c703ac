//! For a person: one block for each model, and the list of all rules.

use super::{About, line, size};
use crate::fit::Fits;
use crate::model::Model;
use crate::rules::ALL;
use std::io::{self, Write};

const COLUMN: usize = 15;

/// Writes a block about one model.
///
/// # Errors
/// Those of the output.
pub fn table(out: &mut dyn Write, model: &Model, about: &About<'_>) -> io::Result<()> {
    writeln!(out, "{}: {}", line(&model.path), model.verdict().word())?;
    let mut row = |name: &str, value: Option<String>| match value {
        Some(value) => writeln!(out, "  {name:COLUMN$} {}", line(&value)),
        None => Ok(()),
    };
    let facts = &model.facts;
    let version = facts.format_version.map_or(String::new(), |version| format!(" {version}"));
    let order = if facts.big_endian { ", big-endian" } else { "" };
    row("name", facts.name.clone())?;
    row("format", Some(format!("{}{version}{order}", model.format.word())))?;
    row("size", Some(format!("{} ({} bytes)", size(model.bytes), model.bytes)))?;
    let count = model.members.len();
    row("files", (count > 0).then(|| count.to_string()))?;
    row("sha256", model.sha256.clone())?;
    row("trusted", model.trusted.map(|trusted| if trusted { "yes" } else { "no" }.to_owned()))?;
    row("architecture", facts.architecture.clone())?;
    row("parameters", (facts.tensors > 0).then(|| count_of(facts.parameters)))?;
    row("quantization", facts.quantization.clone())?;
    let types = facts.mix.iter().map(|mix| format!("{} {}", mix.tensors, mix.dtype));
    row("tensors", (facts.tensors > 0).then(|| types.collect::<Vec<_>>().join(", ")))?;
    row("context", facts.context_length.map(|tokens| tokens.to_string()))?;
    row("vocabulary", facts.vocab_size.map(|tokens| tokens.to_string()))?;
    row("tokenizer", facts.tokenizer.clone())?;
    row("licence", facts.license.clone().or(facts.license_name.clone()))?;
    for base in &facts.base_models {
        row("made from", Some(base.name.clone()))?;
    }
    row("framework", facts.framework.clone())?;
    row("fit", about.fit(model).map(fit))?;
    for finding in model.findings.iter() {
        let times =
            if finding.count > 1 { format!(" (x{})", finding.count) } else { String::new() };
        let (severity, rule) = (finding.rule.severity().word(), finding.rule.id());
        writeln!(out, "  {severity:7} {rule}: {}{times}", line(&finding.evidence))?;
        writeln!(out, "          {}", finding.rule.why())?;
    }
    Ok(())
}

fn count_of(parameters: u64) -> String {
    let tenths = parameters / 100_000_000;
    match tenths {
        0 => format!("{parameters}"),
        _ => format!("{}.{} billion ({parameters})", tenths / 10, tenths % 10),
    }
}

fn fit(fit: crate::fit::Fit) -> String {
    let (need, budget, context) = (size(fit.need), size(fit.budget), fit.context);
    let head = match fit.fits {
        Fits::Yes => format!("fits with {context} tokens of context"),
        Fits::Smaller(tokens) => format!("fits with {tokens} tokens of context, not {context}"),
        Fits::No => "does not fit".to_owned(),
        Fits::Unknown => "cannot be told: the header does not say enough".to_owned(),
    };
    format!("{head}; needs {need} of {budget}")
}

/// Writes all rules, one a line.
///
/// # Errors
/// Those of the output.
pub fn rules(out: &mut dyn Write) -> io::Result<()> {
    for rule in ALL {
        writeln!(out, "{:32} {:8} {}", rule.id(), rule.severity().word(), rule.why())?;
    }
    Ok(())
}
