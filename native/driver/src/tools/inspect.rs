//! `inspect`: whether a model file is sound, trusted and fit, before anything uses it.

use super::beneath::Neighbours;
use super::report::Progress;
use super::{Call, Failure};
use crate::models::{places::Opened, trusted};
use limpet_inventory::Inspector;
use limpet_inventory::fit::{Fit, Fits, estimate};
use limpet_inventory::model::Model;
use limpet_inventory::rules::{Finding, Rule, Severity, Verdict};
use limpet_inventory::source::{Folder, Source, Watch};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;

/// Findings in a result, the worst first; a result has 4 KiB.
const FINDINGS_MAX: usize = 8;
const EVIDENCE_BYTES_MAX: usize = 96;
const TEXT_BYTES_MAX: usize = 96;

/// Input `path`, `sha256` (optional: what it must be), `accept` (the worst verdict that is a
/// success: `ok`, `suspect` or `malformed`; default `ok`), `require_trusted` and `require_fit`
/// (default false), `context` (optional: tokens it is to have); result `{"verdict", "sha256",
/// "bytes", "format", "name", "architecture", "parameters", "quantization", "context_length",
/// "license", "trusted", "findings": [{"rule", "severity", "evidence"}], "findings_count", "fit":
/// {...}}`.
///
/// # Errors
/// A sentence that names the file; where the model is not accepted, the result besides.
pub fn run(call: &Call) -> Result<Value, Failure> {
    let path = call.text("path")?;
    let failed = |cause: String| format!("cannot inspect {path}: {cause}");
    let required = call.flag("require_trusted");
    let (trusted, keys) = (call.models.trusted.as_deref(), call.models.keys.as_deref());
    let list = trusted::read(trusted.map(Path::new), keys.map(Path::new))?;
    if required && list.is_none() {
        return Err(failed("the policy has no trusted models".into()).into());
    }
    let neighbours = Neighbours::of(call, "path");
    let (beside, name) = neighbours.map_err(|cause| failed(cause.to_string()))?;
    let waiting = Waiting::begin();
    let inspector = Inspector::new(true, &waiting);
    let model = inspector.model(&Beside(beside), &name, path, &mut |_| ());
    let mut model = model.map_err(|failure| match failure {
        limpet_inventory::Failure::Unreadable(text) => text,
        limpet_inventory::Failure::Cancelled => failed("interrupted".into()),
    })?;
    if let Some(list) = &list {
        list.judge(&mut model, required);
    }
    if let Some(expected) = call.optional_text("sha256")? {
        let found = model.sha256.clone().unwrap_or_default();
        if expected != found {
            model.findings.add(Rule::TrustHash, format_args!("it is {found}, not {expected}"));
        }
    }
    let budget = call.pool_bytes.unwrap_or_else(crate::models::pool_bytes);
    let context = call.integer("context", 0)?;
    let context = Some(context).filter(|context| *context > 0);
    let fit = estimate(&model.facts, context, budget);
    let result = result(&model, &fit);
    let accepted = match call.optional_text("accept")? {
        Some("malformed") => Verdict::Malformed,
        Some("suspect") => Verdict::Suspect,
        _ => Verdict::Ok,
    };
    if model.verdict() <= accepted {
        if call.flag("require_fit") && fit.fits != Fits::Yes {
            let (need, budget) = (fit.need, fit.budget);
            let text = format!("cannot accept {path}: it needs {need} bytes of {budget}");
            return Err(Failure { text, result: Some(result) });
        }
        return Ok(result);
    }
    let worst = worst(&model)
        .next()
        .map(|finding| format!(", {}: {}", finding.rule.id(), finding.evidence));
    let verdict = model.verdict().word();
    let text = format!("cannot accept {path}: it is {verdict}{}", worst.unwrap_or_default());
    Err(Failure { text: plain(&text, 400), result: Some(result) })
}

/// The findings, the worst first.
fn worst(model: &Model) -> impl Iterator<Item = &Finding> {
    let of = |severity| model.findings.iter().filter(move |f| f.rule.severity() == severity);
    [Severity::Error, Severity::Warning, Severity::Info].into_iter().flat_map(of)
}

fn result(model: &Model, fit: &Fit) -> Value {
    let facts = &model.facts;
    let text = |text: &Option<String>| text.as_ref().map(|text| plain(text, TEXT_BYTES_MAX));
    let findings = worst(model).take(FINDINGS_MAX).map(|finding| {
        json!({
            "rule": finding.rule.id(),
            "severity": finding.rule.severity().word(),
            "evidence": plain(&finding.evidence, EVIDENCE_BYTES_MAX),
        })
    });
    let mut told = json!({
        "verdict": fit.fits.word(),
        "context_length": fit.context,
        "need_bytes": fit.need,
        "budget_bytes": fit.budget,
    });
    if let Fits::Smaller(tokens) = fit.fits {
        told["context_length_that_fits"] = json!(tokens);
    }
    json!({
        "verdict": model.verdict().word(),
        "sha256": model.sha256,
        "bytes": model.bytes,
        "format": model.format.word(),
        "name": text(&facts.name),
        "architecture": text(&facts.architecture),
        "parameters": facts.parameters,
        "quantization": text(&facts.quantization),
        "context_length": facts.context_length,
        "license": text(&facts.license),
        "trusted": model.trusted,
        "findings": findings.collect::<Vec<_>>(),
        "findings_count": model.findings.len(),
        "fit": told,
    })
}

/// A text of a file in a result: no control characters, and no more bytes than there is room for.
fn plain(text: &str, bytes_max: usize) -> String {
    let mut plain = String::new();
    for sign in text.chars().filter(|sign| !sign.is_control()) {
        if plain.len() + sign.len_utf8() > bytes_max {
            break;
        }
        plain.push(sign);
    }
    plain
}

/// The folder that holds the model.
struct Beside(Neighbours);

impl Folder for Beside {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Source>>> {
        match self.0.open(name) {
            Ok(file) => Ok(Some(Box::new(Opened::new(file)?))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Says how far it has come on descriptor 3, which is the heartbeat as well.
pub(super) struct Waiting {
    progress: RefCell<Progress>,
    bytes: Cell<u64>,
}

impl Waiting {
    pub(super) fn begin() -> Waiting {
        Waiting { progress: RefCell::new(Progress::open()), bytes: Cell::new(0) }
    }
}

impl Watch for Waiting {
    fn hashed(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
        self.progress.borrow_mut().tell(self.bytes.get(), None);
    }
}
