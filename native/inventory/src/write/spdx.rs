//! SPDX 2.3: each model a package, in tag-value and in JSON.
//!
//! Both are written from one list of pairs, so that neither can say what the other does not.

use super::json::Json;
use super::{About, TOOL, address, line, uuid};
use crate::license;
use crate::model::Model;
use std::io::{self, Write};

const NONE: &str = "NOASSERTION";

/// A package as both forms have it.
struct Package {
    id: String,
    name: String,
    version: Option<String>,
    file: Option<String>,
    supplier: Option<String>,
    download: String,
    checksum: Option<String>,
    license: String,
    description: Option<String>,
    /// What was found, for the model itself.
    review: Option<String>,
}

/// A licence that SPDX does not list.
struct Extracted {
    id: String,
    name: String,
    text: String,
}

/// Everything that a document says, but its namespace.
struct Document {
    title: String,
    creator: String,
    time: String,
    packages: Vec<Package>,
    /// From, what, to.
    relations: Vec<(String, &'static str, String)>,
    extracted: Vec<Extracted>,
}

/// Writes a document in tag-value form.
///
/// # Errors
/// Those of the output.
pub fn spdx_tags(out: &mut dyn Write, models: &[Model], about: &About<'_>) -> io::Result<()> {
    let document = document(models, about);
    let namespace = namespace(&document)?;
    tags(out, &document, &namespace)
}

/// Writes a document in JSON.
///
/// # Errors
/// Those of the output.
pub fn spdx_json(out: &mut dyn Write, models: &[Model], about: &About<'_>) -> io::Result<()> {
    let document = document(models, about);
    let namespace = namespace(&document)?;
    json(out, &document, &namespace)
}

/// The same for the same document, in either form.
fn namespace(document: &Document) -> io::Result<String> {
    let unique = uuid(|out| tags(out, document, ""))?;
    Ok(format!("https://spdx.org/spdxdocs/{TOOL}-{unique}"))
}

fn title(models: &[Model]) -> String {
    match models {
        [only] => line(&format!("{TOOL}-{}", only.name)),
        _ => format!("{TOOL}-{}-models", models.len()),
    }
}

fn document(models: &[Model], about: &About<'_>) -> Document {
    let mut document = Document {
        title: title(models),
        creator: format!("Tool: {TOOL}-{}", about.version),
        time: about.time(),
        packages: Vec::new(),
        relations: Vec::new(),
        extracted: Vec::new(),
    };
    for (index, model) in models.iter().enumerate() {
        let id = format!("SPDXRef-Model-{}", index + 1);
        document.relations.push(("SPDXRef-DOCUMENT".into(), "DESCRIBES", id.clone()));
        package(&mut document, model, &id);
        for (index, member) in model.members.iter().enumerate() {
            let file = format!("{id}-File-{}", index + 1);
            document.relations.push((id.clone(), "CONTAINS", file.clone()));
            let checksum = member.sha256.clone();
            document.packages.push(Package {
                file: Some(line(&member.name)),
                checksum,
                ..bare(file, &member.name)
            });
        }
        for (index, base) in model.facts.base_models.iter().enumerate() {
            let ancestor = format!("{id}-Base-{}", index + 1);
            document.relations.push((id.clone(), "DESCENDANT_OF", ancestor.clone()));
            document.packages.push(Package {
                version: base.version.as_deref().map(line),
                supplier: base.organization.as_deref().map(line),
                download: address(base.url.as_ref()).unwrap_or(NONE).to_owned(),
                ..bare(ancestor, &base.name)
            });
        }
    }
    document
}

fn bare(id: String, name: &str) -> Package {
    Package {
        id,
        name: line(name),
        version: None,
        file: None,
        supplier: None,
        download: NONE.to_owned(),
        checksum: None,
        license: NONE.to_owned(),
        description: None,
        review: None,
    }
}

fn package(document: &mut Document, model: &Model, id: &str) {
    let facts = &model.facts;
    let package = Package {
        version: facts.version.as_deref().map(line),
        file: Some(line(&model.path)),
        supplier: facts.organization.as_deref().map(line),
        checksum: model.sha256.clone().filter(|_| model.members.is_empty()),
        license: licence(document, model, id),
        description: facts.description.as_deref().map(line),
        review: Some(review(model)),
        ..bare(id.to_owned(), model.title())
    };
    document.packages.push(package);
}

fn licence(document: &mut Document, model: &Model, id: &str) -> String {
    let facts = &model.facts;
    let Some(name) = facts.license.as_ref().or(facts.license_name.as_ref()) else {
        return NONE.to_owned();
    };
    if let Some(known) = license::spdx(name) {
        return known.to_owned();
    }
    let id = id.replacen("SPDXRef-", "LicenseRef-", 1);
    let name = line(facts.license_name.as_ref().unwrap_or(name));
    let link = facts.license_link.as_deref().map(line);
    let text = match link {
        Some(link) => format!("The model says: {name}, see {link}"),
        None => format!("The model says: {name}"),
    };
    document.extracted.push(Extracted { id: id.clone(), name, text });
    id
}

/// The facts and findings, one a line.
fn review(model: &Model) -> String {
    let facts = &model.facts;
    let mut lines = vec![
        format!("verdict: {}", model.verdict().word()),
        format!("format: {}", model.format.word()),
        format!("size: {} bytes", model.bytes),
        format!("parameters: {}", facts.parameters),
    ];
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            lines.push(format!("{name}: {}", line(value)));
        }
    };
    add("architecture", facts.architecture.as_deref());
    add("quantization", facts.quantization.as_deref());
    add("dtype", facts.dtype());
    add("context length", facts.context_length.map(|tokens| tokens.to_string()).as_deref());
    add("listing sha256", model.sha256.as_deref().filter(|_| !model.members.is_empty()));
    add("trusted", model.trusted.map(|trusted| trusted.to_string()).as_deref());
    for finding in model.findings.iter() {
        let (rule, severity) = (finding.rule.id(), finding.rule.severity().word());
        lines.push(format!("{severity} {rule}: {}", line(&finding.evidence)));
    }
    lines.join("\n")
}

fn tags(out: &mut dyn Write, document: &Document, namespace: &str) -> io::Result<()> {
    let mut tag = |name: &str, value: &str| writeln!(out, "{name}: {}", single(value));
    tag("SPDXVersion", "SPDX-2.3")?;
    tag("DataLicense", "CC0-1.0")?;
    tag("SPDXID", "SPDXRef-DOCUMENT")?;
    tag("DocumentName", &document.title)?;
    tag("DocumentNamespace", namespace)?;
    tag("Creator", &document.creator)?;
    tag("Created", &document.time)?;
    for package in &document.packages {
        package_tags(out, package, document)?;
    }
    for (from, what, to) in &document.relations {
        writeln!(out, "\nRelationship: {from} {what} {to}")?;
    }
    for extracted in &document.extracted {
        writeln!(out, "\nLicenseID: {}", extracted.id)?;
        writeln!(out, "ExtractedText: {}", text(&extracted.text))?;
        writeln!(out, "LicenseName: {}", single(&extracted.name))?;
    }
    Ok(())
}

fn package_tags(out: &mut dyn Write, package: &Package, document: &Document) -> io::Result<()> {
    writeln!(out)?;
    let mut tag = |name: &str, value: Option<&str>| match value {
        Some(value) => writeln!(out, "{name}: {}", single(value)),
        None => Ok(()),
    };
    let supplier = package.supplier.as_ref().map(|name| format!("Organization: {name}"));
    let checksum = package.checksum.as_ref().map(|sum| format!("SHA256: {sum}"));
    tag("PackageName", Some(&package.name))?;
    tag("SPDXID", Some(&package.id))?;
    tag("PackageVersion", package.version.as_deref())?;
    tag("PackageFileName", package.file.as_deref())?;
    tag("PackageSupplier", Some(supplier.as_deref().unwrap_or(NONE)))?;
    tag("PackageDownloadLocation", Some(&package.download))?;
    tag("FilesAnalyzed", Some("false"))?;
    tag("PackageChecksum", checksum.as_deref())?;
    tag("PackageLicenseConcluded", Some(NONE))?;
    tag("PackageLicenseDeclared", Some(&package.license))?;
    tag("PackageCopyrightText", Some(NONE))?;
    tag("PrimaryPackagePurpose", Some("FILE"))?;
    if let Some(description) = &package.description {
        writeln!(out, "PackageDescription: {}", text(description))?;
    }
    if let Some(review) = &package.review {
        writeln!(out, "\nAnnotator: {}", document.creator)?;
        writeln!(out, "AnnotationDate: {}", document.time)?;
        writeln!(out, "AnnotationType: REVIEW")?;
        writeln!(out, "SPDXREF: {}", package.id)?;
        writeln!(out, "AnnotationComment: {}", text(review))?;
    }
    Ok(())
}

/// A value cannot begin or end one of several lines.
fn single(value: &str) -> String {
    value.replace("<text>", "(text)").replace("</text>", "(/text)")
}

/// A value of several lines.
fn text(value: &str) -> String {
    format!("<text>{}</text>", single(value))
}

fn json(out: &mut dyn Write, document: &Document, namespace: &str) -> io::Result<()> {
    let mut json = Json::new(out);
    json.open("{");
    json.member("spdxVersion", "SPDX-2.3");
    json.member("dataLicense", "CC0-1.0");
    json.member("SPDXID", "SPDXRef-DOCUMENT");
    json.member("name", &document.title);
    json.member("documentNamespace", namespace);
    json.name("creationInfo");
    json.open("{");
    json.member("created", &document.time);
    json.texts("creators", [document.creator.as_str()]);
    json.close("}");
    json.name("packages");
    json.open("[");
    document.packages.iter().for_each(|package| package_json(&mut json, package, document));
    json.close("]");
    json.name("relationships");
    json.open("[");
    for (from, what, to) in &document.relations {
        json.record(&[
            ("spdxElementId", from),
            ("relationshipType", what),
            ("relatedSpdxElement", to),
        ]);
    }
    json.close("]");
    json.name("hasExtractedLicensingInfos");
    json.open("[");
    for extracted in &document.extracted {
        json.record(&[
            ("licenseId", &extracted.id),
            ("extractedText", &extracted.text),
            ("name", &extracted.name),
        ]);
    }
    json.close("]");
    json.close("}");
    json.end()
}

fn package_json(json: &mut Json<'_>, package: &Package, document: &Document) {
    json.open("{");
    json.member("name", &package.name);
    json.member("SPDXID", &package.id);
    json.maybe("versionInfo", package.version.as_deref());
    json.maybe("packageFileName", package.file.as_deref());
    let supplier = package.supplier.as_ref().map(|name| format!("Organization: {name}"));
    json.member("supplier", supplier.as_deref().unwrap_or(NONE));
    json.member("downloadLocation", &package.download);
    json.name("filesAnalyzed");
    json.plain(false);
    if let Some(checksum) = &package.checksum {
        json.sole("checksums", &[("algorithm", "SHA256"), ("checksumValue", checksum)]);
    }
    json.member("licenseConcluded", NONE);
    json.member("licenseDeclared", &package.license);
    json.member("copyrightText", NONE);
    json.member("primaryPackagePurpose", "FILE");
    json.maybe("description", package.description.as_deref());
    if let Some(review) = &package.review {
        let annotation = [
            ("annotator", document.creator.as_str()),
            ("annotationDate", &document.time),
            ("annotationType", "REVIEW"),
            ("comment", review),
        ];
        json.sole("annotations", &annotation);
    }
    json.close("}");
}
