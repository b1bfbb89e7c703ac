//! The document: l-bom's twenty fields under their names, and what it does not tell.

use super::json::Json;
use super::{About, TOOL};
use crate::fit::Fits;
use crate::metadata::Value;
use crate::model::{Model, Tensor};
use std::io::{self, Write};

/// Of the first twenty fields, as l-bom counts.
const VERSION: &str = "1.0";

/// Shows all tensors of a model to whom it is given, by reading its files again.
pub type Tensors<'t> = &'t mut dyn FnMut(&mut dyn FnMut(&Tensor<'_>));

/// Writes documents: an object for one model, an array for several.
pub struct Documents<'w, 'a> {
    json: Json<'w>,
    about: &'a About<'a>,
    several: bool,
}

/// Begins to write; `several` says that there may be any number of models.
pub fn documents<'w, 'a>(
    out: &'w mut dyn Write,
    about: &'a About<'a>,
    several: bool,
) -> Documents<'w, 'a> {
    let mut json = Json::new(out);
    if several {
        json.open("[");
    }
    Documents { json, about, several }
}

impl Documents<'_, '_> {
    /// Writes one.
    pub fn add(&mut self, model: &Model, tensors: Option<Tensors<'_>>) {
        let json = &mut self.json;
        json.open("{");
        fields(json, model, &self.about.time(), self.about.version);
        more(json, model);
        origin(json, model);
        mix(json, model);
        files(json, model);
        fit(json, model, self.about);
        findings(json, model);
        if let Some(tensors) = tensors {
            list(json, tensors);
        }
        json.close("}");
    }

    /// Ends.
    ///
    /// # Errors
    /// Those of the output.
    pub fn end(mut self) -> io::Result<()> {
        if self.several {
            self.json.close("]");
        }
        self.json.end()
    }
}

/// The twenty.
fn fields(json: &mut Json<'_>, model: &Model, time: &str, version: &str) {
    let facts = &model.facts;
    let known = facts.tensors > 0;
    json.member("sbom_version", VERSION);
    json.member("generated_at", time);
    json.member("tool_name", TOOL);
    json.member("tool_version", version);
    json.member("model_path", &model.path);
    json.member("model_filename", &model.name);
    json.number("file_size_bytes", Some(model.bytes));
    json.member("sha256", model.sha256.as_deref().unwrap_or(""));
    json.member("format", model.format.word());
    json.nullable("architecture", facts.architecture.as_deref());
    json.number("parameter_count", known.then_some(facts.parameters));
    json.nullable("quantization", facts.quantization.as_deref());
    json.nullable("dtype", facts.dtype());
    json.number("context_length", facts.context_length);
    json.number("vocab_size", facts.vocab_size);
    json.nullable("license", facts.license.as_deref());
    json.nullable("base_model", facts.base_models.first().map(|base| &*base.name));
    json.nullable("training_framework", facts.framework.as_deref());
    json.name("metadata");
    json.open("{");
    for (key, value) in model.metadata.iter() {
        json.name(key);
        put(json, value);
    }
    json.close("}");
    json.name("warnings");
    json.open("[");
    for finding in model.findings.iter() {
        json.text(&format!("{}: {}", finding.rule.id(), finding.evidence));
    }
    json.close("]");
}

fn put(json: &mut Json<'_>, value: &Value) {
    match value {
        Value::Bool(truth) => json.plain(truth),
        Value::Unsigned(number) => json.plain(number),
        Value::Negative(number) => json.plain(number),
        Value::Float(number) if number.is_finite() => {
            json.plain(zmij::Buffer::new().format_finite(*number));
        }
        // JSON has no such numbers.
        Value::Float(number) if number.is_nan() => json.text("NaN"),
        Value::Float(number) => json.text(if *number > 0.0 { "inf" } else { "-inf" }),
        Value::Text(text) => json.text(text),
        Value::Cut { beginning, bytes, sha256 } => {
            json.open("{");
            json.member("type", "string");
            json.number("bytes", Some(*bytes));
            json.maybe("sha256", sha256.as_deref());
            json.member("preview", beginning);
            json.name("truncated");
            json.plain(true);
            json.close("}");
        }
        Value::Array { element, count, preview, .. } if *count > preview.len() as u64 => {
            json.open("{");
            json.member("type", "array");
            json.member("element_type", element);
            json.number("count", Some(*count));
            json.name("preview");
            values(json, preview);
            json.name("truncated");
            json.plain(true);
            json.close("}");
        }
        Value::Array { preview, .. } => values(json, preview),
    }
}

fn values(json: &mut Json<'_>, preview: &[Value]) {
    json.open("[");
    preview.iter().for_each(|value| put(json, value));
    json.close("]");
}

fn more(json: &mut Json<'_>, model: &Model) {
    let facts = &model.facts;
    json.member("verdict", model.verdict().word());
    json.number("format_version", facts.format_version);
    json.member("endianness", if facts.big_endian { "big" } else { "little" });
    json.nullable("type", facts.kind.as_deref());
    json.nullable("name", facts.name.as_deref());
    json.nullable("version", facts.version.as_deref());
    json.nullable("author", facts.author.as_deref());
    json.nullable("organization", facts.organization.as_deref());
    json.nullable("description", facts.description.as_deref());
    json.nullable("url", facts.url.as_deref());
    json.nullable("size_label", facts.size_label.as_deref());
    json.nullable("quantized_by", facts.quantized_by.as_deref());
    json.nullable("tokenizer", facts.tokenizer.as_deref());
    let id = facts.license.as_deref().and_then(crate::license::spdx);
    json.nullable("license_id", id);
    json.nullable("license_name", facts.license_name.as_deref());
    json.nullable("license_link", facts.license_link.as_deref());
    json.texts("tags", facts.tags.iter().map(String::as_str));
    json.texts("languages", facts.languages.iter().map(String::as_str));
    json.texts("datasets", facts.datasets.iter().map(String::as_str));
    json.name("trusted");
    match model.trusted {
        Some(trusted) => json.plain(trusted),
        None => json.plain("null"),
    }
}

fn origin(json: &mut Json<'_>, model: &Model) {
    json.name("base_models");
    json.open("[");
    for base in &model.facts.base_models {
        json.open("{");
        json.member("name", &base.name);
        json.nullable("organization", base.organization.as_deref());
        json.nullable("version", base.version.as_deref());
        json.nullable("url", base.url.as_deref());
        json.close("}");
    }
    json.close("]");
    json.name("chat_templates");
    json.open("[");
    for template in &model.facts.templates {
        json.open("{");
        json.member("place", &template.place);
        json.member("sha256", &template.sha256);
        json.number("bytes", Some(template.bytes));
        json.close("}");
    }
    json.close("]");
}

fn mix(json: &mut Json<'_>, model: &Model) {
    json.number("tensor_count", Some(model.facts.tensors));
    json.number("tensor_bytes", Some(model.facts.tensor_bytes));
    json.name("tensor_types");
    json.open("{");
    for mix in &model.facts.mix {
        json.name(mix.dtype);
        json.open("{");
        json.number("tensors", Some(mix.tensors));
        json.number("parameters", Some(mix.parameters));
        json.number("bytes", Some(mix.bytes));
        json.close("}");
    }
    json.close("}");
}

fn files(json: &mut Json<'_>, model: &Model) {
    json.name("files");
    json.open("[");
    for member in &model.members {
        json.open("{");
        json.member("name", &member.name);
        json.number("bytes", Some(member.bytes));
        json.nullable("sha256", member.sha256.as_deref());
        json.close("}");
    }
    json.close("]");
}

fn fit(json: &mut Json<'_>, model: &Model, about: &About<'_>) {
    let Some(fit) = about.fit(model) else {
        return;
    };
    json.name("fit");
    json.open("{");
    json.member("verdict", fit.fits.word());
    json.number("context_length", Some(fit.context));
    if let Fits::Smaller(tokens) = fit.fits {
        json.number("context_length_that_fits", Some(tokens));
    }
    json.number("weights_bytes", Some(fit.weights));
    json.number("cache_bytes_per_token", fit.cache_each);
    json.number("overhead_bytes", Some(fit.overhead));
    json.number("need_bytes", Some(fit.need));
    json.number("budget_bytes", Some(fit.budget));
    json.close("}");
}

fn findings(json: &mut Json<'_>, model: &Model) {
    json.name("findings");
    json.open("[");
    for finding in model.findings.iter() {
        json.open("{");
        json.member("rule", finding.rule.id());
        json.member("severity", finding.rule.severity().word());
        json.member("evidence", &finding.evidence);
        json.number("count", Some(finding.count));
        json.member("why", finding.rule.why());
        json.close("}");
    }
    json.close("]");
}

fn list(json: &mut Json<'_>, tensors: Tensors<'_>) {
    json.name("tensors");
    json.open("[");
    tensors(&mut |tensor| {
        json.open("{");
        json.member("name", tensor.name);
        json.member("dtype", tensor.dtype);
        json.name("shape");
        json.open("[");
        tensor.shape.iter().for_each(|dimension| json.plain(dimension));
        json.close("]");
        json.number("offset", Some(tensor.offset));
        json.number("bytes", Some(tensor.bytes));
        json.close("}");
    });
    json.close("]");
}
