//! CycloneDX 1.6, JSON: each model a component of its own kind, with a model card.

use super::json::Json;
use super::{About, TOOL, address, line, uuid};
use crate::license;
use crate::model::Model;
use std::io::{self, Write};

/// What hubs call the tasks of models; of the tags of a model, these are its task.
const TASKS: [&str; 12] = [
    "text-generation",
    "image-text-to-text",
    "text-classification",
    "token-classification",
    "feature-extraction",
    "sentence-similarity",
    "question-answering",
    "summarization",
    "translation",
    "automatic-speech-recognition",
    "image-classification",
    "object-detection",
];

/// Writes a bill of materials of all the models.
///
/// # Errors
/// Those of the output.
pub fn cyclonedx(out: &mut dyn Write, models: &[Model], about: &About<'_>) -> io::Result<()> {
    let serial = uuid(|out| bill(out, models, about, ""))?;
    bill(out, models, about, &format!("urn:uuid:{serial}"))
}

fn bill(out: &mut dyn Write, models: &[Model], about: &About<'_>, serial: &str) -> io::Result<()> {
    let mut json = Json::new(out);
    json.open("{");
    json.member("$schema", "http://cyclonedx.org/schema/bom-1.6.schema.json");
    json.member("bomFormat", "CycloneDX");
    json.member("specVersion", "1.6");
    json.member("serialNumber", serial);
    json.number("version", Some(1));
    json.name("metadata");
    json.open("{");
    json.member("timestamp", &about.time());
    json.name("tools");
    json.open("{");
    let tool = [("type", "application"), ("name", TOOL), ("version", about.version)];
    json.sole("components", &tool);
    json.close("}");
    json.close("}");
    json.name("components");
    json.open("[");
    for (index, model) in models.iter().enumerate() {
        component(&mut json, model, index + 1, about);
    }
    json.close("]");
    json.close("}");
    json.end()
}

fn component(json: &mut Json<'_>, model: &Model, number: usize, about: &About<'_>) {
    let facts = &model.facts;
    json.open("{");
    json.member("type", "machine-learning-model");
    json.member("bom-ref", &format!("model-{number}"));
    json.maybe("group", facts.organization.as_deref());
    json.member("name", model.title());
    json.maybe("version", facts.version.as_deref());
    json.maybe("description", facts.description.as_deref());
    if let Some(author) = &facts.author {
        json.sole("authors", &[("name", author)]);
    }
    if model.members.is_empty() {
        hash(json, model.sha256.as_deref());
    }
    licences(json, model);
    pedigree(json, model);
    if let Some(url) = address(facts.url.as_ref()) {
        references(json, "website", url);
    }
    members(json, model, number);
    if !facts.tags.is_empty() {
        json.texts("tags", facts.tags.iter().map(String::as_str));
    }
    card(json, model);
    properties(json, model, about);
    json.close("}");
}

fn hash(json: &mut Json<'_>, sha256: Option<&str>) {
    if let Some(sha256) = sha256 {
        json.sole("hashes", &[("alg", "SHA-256"), ("content", sha256)]);
    }
}

fn licences(json: &mut Json<'_>, model: &Model) {
    let facts = &model.facts;
    let Some(name) = facts.license.as_ref().or(facts.license_name.as_ref()) else {
        return;
    };
    json.name("licenses");
    json.open("[");
    json.open("{");
    json.name("license");
    json.open("{");
    match license::spdx(name) {
        Some(id) => json.member("id", id),
        None => json.member("name", facts.license_name.as_ref().unwrap_or(name)),
    }
    json.maybe("url", address(facts.license_link.as_ref()));
    json.close("}");
    json.close("}");
    json.close("]");
}

fn pedigree(json: &mut Json<'_>, model: &Model) {
    if model.facts.base_models.is_empty() {
        return;
    }
    json.name("pedigree");
    json.open("{");
    json.name("ancestors");
    json.open("[");
    for base in &model.facts.base_models {
        json.open("{");
        json.member("type", "machine-learning-model");
        json.maybe("group", base.organization.as_deref());
        json.member("name", &base.name);
        json.maybe("version", base.version.as_deref());
        if let Some(url) = address(base.url.as_ref()) {
            references(json, "distribution", url);
        }
        json.close("}");
    }
    json.close("]");
    json.close("}");
}

fn references(json: &mut Json<'_>, kind: &str, url: &str) {
    json.sole("externalReferences", &[("type", kind), ("url", url)]);
}

/// The files of a model that has several.
fn members(json: &mut Json<'_>, model: &Model, number: usize) {
    if model.members.is_empty() {
        return;
    }
    json.name("components");
    json.open("[");
    for (index, member) in model.members.iter().enumerate() {
        json.open("{");
        json.member("type", "file");
        json.member("bom-ref", &format!("model-{number}-file-{}", index + 1));
        json.member("name", &member.name);
        hash(json, member.sha256.as_deref());
        json.close("}");
    }
    json.close("]");
}

fn card(json: &mut Json<'_>, model: &Model) {
    let facts = &model.facts;
    json.name("modelCard");
    json.open("{");
    json.name("modelParameters");
    json.open("{");
    let task = facts.tags.iter().find(|tag| TASKS.contains(&tag.as_str()));
    json.maybe("task", task.map(String::as_str));
    json.maybe("modelArchitecture", facts.architecture.as_deref());
    if !facts.datasets.is_empty() {
        json.name("datasets");
        json.open("[");
        for name in &facts.datasets {
            json.record(&[("type", "dataset"), ("name", name)]);
        }
        json.close("]");
    }
    json.close("}");
    json.close("}");
}

fn properties(json: &mut Json<'_>, model: &Model, about: &About<'_>) {
    let facts = &model.facts;
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let known = facts.tensors > 0;
    let fit = about.fit(model);
    let pairs = [
        ("verdict", Some(model.verdict().word().to_owned())),
        ("trusted", model.trusted.map(|trusted| trusted.to_string())),
        ("path", Some(model.path.clone())),
        ("file_size_bytes", Some(model.bytes.to_string())),
        ("format", Some(model.format.word().to_owned())),
        ("format_version", number(facts.format_version)),
        ("parameter_count", number(known.then_some(facts.parameters))),
        ("quantization", facts.quantization.clone()),
        ("dtype", facts.dtype().map(str::to_owned)),
        ("context_length", number(facts.context_length)),
        ("vocab_size", number(facts.vocab_size)),
        ("training_framework", facts.framework.clone()),
        ("tokenizer", facts.tokenizer.clone()),
        ("listing_sha256", model.sha256.clone().filter(|_| !model.members.is_empty())),
        ("fit", fit.map(|fit| fit.fits.word().to_owned())),
        ("need_bytes", fit.map(|fit| fit.need.to_string())),
    ];
    json.name("properties");
    json.open("[");
    let mut property = |name: &str, value: &str| {
        json.record(&[("name", &format!("{TOOL}:{name}")), ("value", value)]);
    };
    for (name, value) in pairs {
        if let Some(value) = value {
            property(name, &line(&value));
        }
    }
    for template in &facts.templates {
        property("chat_template_sha256", &template.sha256);
    }
    for finding in model.findings.iter() {
        property(&format!("finding:{}", finding.rule.id()), &line(&finding.evidence));
    }
    json.close("]");
}
