//! What lies beside a safetensors model: `config.json` and `tokenizer_config.json`.

use crate::json::{Fault, Json, Token, json};
use crate::metadata::TEXT_BYTES_MAX;
use crate::model::{BaseModel, Model, Template};
use crate::reader::{Reader, Stop};
use crate::rules::Rule;
use crate::seen::Naming;
use crate::source::{Folder, Watch};
use std::hash::Hasher;

const BYTES_MAX: u64 = 16 << 20;
const FILES: [&str; 2] = ["config.json", "tokenizer_config.json"];

/// What the members of a configuration say that are of use here.
#[derive(Default)]
struct Said {
    architecture: Option<String>,
    dtype: Option<String>,
    packed: Option<String>,
    license: Option<String>,
    base: Option<String>,
    transformers: Option<String>,
    tokenizer: Option<String>,
    numbers: [Option<u64>; NUMBERS.len()],
    code: bool,
}

/// Members with a number, in the order in which they are used below.
const NUMBERS: [&str; 9] = [
    "max_position_embeddings",
    "vocab_size",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_local_experts",
];
const BASES: [&str; 6] = [
    "base_model",
    "base_model_name_or_path",
    "base_model_name",
    "_name_or_path",
    "name_or_path",
    "parent_model",
];

/// Reads them from `folder` into `model`; what the model says itself counts more.
///
/// # Errors
/// When reading is cancelled; what is wrong with one is a finding.
pub fn read(
    folder: &dyn Folder,
    watch: &dyn Watch,
    naming: &Naming,
    model: &mut Model,
) -> Result<(), Stop> {
    let mut said = Said::default();
    let mut any = false;
    for file in FILES {
        let source = match folder.open(file) {
            Ok(Some(source)) => source,
            Ok(None) => continue,
            Err(cause) => {
                model.findings.add(Rule::SidecarInvalid, format_args!("{file}: {cause}"));
                continue;
            }
        };
        any = true;
        if source.size() > BYTES_MAX {
            model
                .findings
                .add(Rule::SidecarInvalid, format_args!("{file} has {} bytes", source.size()));
            continue;
        }
        let mut reader = Reader::new(&*source, watch);
        match object(&mut reader, naming, file, &mut said, model) {
            Ok(()) => {}
            Err(Fault::Stop(Stop::Cancelled)) => return Err(Stop::Cancelled),
            Err(Fault::Invalid(cause, at)) => {
                model
                    .findings
                    .add(Rule::SidecarInvalid, format_args!("{file}: {cause}, at byte {at}"));
            }
            Err(_) => model.findings.add(Rule::SidecarInvalid, format_args!("{file}")),
        }
    }
    if any {
        take(said, model);
    }
    Ok(())
}

fn object(
    reader: &mut Reader<'_>,
    naming: &Naming,
    file: &str,
    said: &mut Said,
    model: &mut Model,
) -> Result<(), Fault> {
    let mut json = json(reader, naming, TEXT_BYTES_MAX);
    if json.next()? != Token::Object {
        return Err(Fault::Invalid("it is no object", 0));
    }
    while json.next()? == Token::Key {
        let key = json.text.text();
        if key == "chat_template" {
            json.scan_next();
        }
        let token = json.next()?;
        match token {
            Token::Text if key == "chat_template" => template(&mut json, file, model),
            Token::Text => said.text(&key, json.text.text()),
            Token::Number => said.number(&key, json.number()),
            Token::Array if key == "architectures" => said.first(&mut json)?,
            Token::Object if key == "quantization_config" => said.packing(&mut json)?,
            Token::Object if key == "text_config" => said.inner(&mut json)?,
            _ => {
                said.code = said.code || key == "auto_map";
                json.pass(token)?;
            }
        }
    }
    json.next().map(drop)
}

fn template<H: Hasher>(json: &mut Json<'_, '_, H>, file: &str, model: &mut Model) {
    let text = std::mem::replace(&mut json.text, crate::text::Passing::new(0, None));
    let (place, bytes) = (format!("{file}: chat_template"), text.bytes);
    if let Some((scanner, sha256)) = text.scanned() {
        scanner.tell(&place, &mut model.findings);
        model.facts.templates.push(Template { place, sha256, bytes });
    }
}

impl Said {
    fn text(&mut self, key: &str, text: String) {
        let place = match key {
            "model_type" => &mut self.architecture,
            "torch_dtype" | "dtype" => &mut self.dtype,
            "license" => &mut self.license,
            "transformers_version" => &mut self.transformers,
            "tokenizer_class" => &mut self.tokenizer,
            key if BASES.contains(&key) => &mut self.base,
            _ => return,
        };
        if place.is_none() && !text.is_empty() {
            *place = Some(text);
        }
    }

    fn number(&mut self, key: &str, number: Option<u64>) {
        if let Some(index) = NUMBERS.iter().position(|known| *known == key) {
            self.numbers[index] = self.numbers[index].or(number);
        }
    }

    /// The first text of an array.
    fn first<H: Hasher>(&mut self, json: &mut Json<'_, '_, H>) -> Result<(), Fault> {
        loop {
            match json.next()? {
                Token::Close => return Ok(()),
                Token::Text if self.architecture.is_none() => {
                    self.architecture = Some(json.text.text());
                }
                token => json.pass(token)?,
            }
        }
    }

    fn packing<H: Hasher>(&mut self, json: &mut Json<'_, '_, H>) -> Result<(), Fault> {
        self.packed.get_or_insert_with(|| "quantized".to_owned());
        while json.next()? == Token::Key {
            let method = json.text.text() == "quant_method";
            let token = json.next()?;
            if method && token == Token::Text {
                self.packed = Some(json.text.text());
            }
            json.pass(token)?;
        }
        Ok(())
    }

    /// Of a model for more than text: the part that is for text.
    fn inner<H: Hasher>(&mut self, json: &mut Json<'_, '_, H>) -> Result<(), Fault> {
        while json.next()? == Token::Key {
            let key = json.text.text();
            let token = json.next()?;
            if token == Token::Number {
                self.number(&key, json.number());
            }
            json.pass(token)?;
        }
        Ok(())
    }
}

fn take(said: Said, model: &mut Model) {
    let facts = &mut model.facts;
    let [context, vocabulary, blocks, width, inner, heads, kv, head, experts] = said.numbers;
    if let Some(dtype) = said.dtype.filter(|_| said.packed.is_none()) {
        let plain = dtype.strip_prefix("torch.").unwrap_or(&dtype);
        let names = [("bfloat16", "BF16"), ("float16", "F16"), ("float32", "F32")];
        let named = names.iter().find(|(known, _)| *known == plain).map(|(_, name)| *name);
        if let Some((named, main)) = named.zip(facts.main_type()).filter(|(a, b)| a != b) {
            model.findings.add(
                Rule::SidecarMismatch,
                format_args!("config.json says {named}, most of the tensors are {main}"),
            );
        }
    }
    if said.code {
        model.findings.add(Rule::SidecarCode, format_args!("config.json has auto_map"));
    }
    facts.packed = said.packed.is_some();
    let fill = |place: &mut Option<String>, value: Option<String>| {
        if place.is_none() {
            *place = value;
        }
    };
    fill(&mut facts.architecture, said.architecture);
    fill(&mut facts.quantization, said.packed);
    fill(&mut facts.license, said.license);
    fill(&mut facts.tokenizer, said.tokenizer);
    facts.framework = Some(match said.transformers {
        Some(version) => format!("transformers {version}"),
        None => "transformers".to_owned(),
    });
    if let Some(name) = said.base.filter(|_| facts.base_models.is_empty()) {
        facts.base_models.push(BaseModel { name, ..BaseModel::default() });
    }
    facts.context_length = facts.context_length.or(context);
    facts.vocab_size = facts.vocab_size.or(vocabulary);
    let dimensions = &mut facts.dimensions;
    let each = head.or(width.zip(heads).and_then(|(width, heads)| width.checked_div(heads)));
    dimensions.blocks = blocks;
    dimensions.embedding = width;
    dimensions.feed_forward = inner;
    dimensions.heads = heads;
    let kv_heads = kv.or(heads).zip(blocks);
    dimensions.kv_heads_sum = kv_heads.map(|(each, blocks)| each.saturating_mul(blocks));
    dimensions.key_length = each;
    dimensions.value_length = each;
    dimensions.experts = experts;
}
