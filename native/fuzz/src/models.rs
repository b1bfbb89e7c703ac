//! Model files, and every form in which they are told.

use crate::bytes::Bytes;
use limpet_inventory::Inspector;
use limpet_inventory::model::Model;
use limpet_inventory::rules::Verdict;
use limpet_inventory::source::{Folder, Nobody, Source};
use limpet_inventory::trust::List;
use limpet_inventory::write::{self, About, Card};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;

const ABOUT: About<'_> =
    About { version: "0", seconds: 0, context: Some(4096), budget: Some(1 << 30) };

#[derive(Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Folder for Files {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Source>>> {
        Ok(self.0.get(name).map(|bytes| Box::new(bytes.clone()) as Box<dyn Source>))
    }
}

fn inspect(files: &Files, name: &str) -> Model {
    let mut tensors = 0;
    let inspector = Inspector::new(true, &Nobody);
    let model = inspector.model(files, name, name, &mut |_| tensors += 1).expect("it can be read");
    assert_eq!(model.facts.tensors, tensors, "each tensor is shown once");
    model
}

/// A GGUF file: what has no finding fills its file, and is cut off nowhere.
pub fn gguf(data: &[u8]) {
    let bytes = [b"GGUF", data].concat();
    let whole = inspect(&Files([("m.gguf".into(), bytes.clone())].into()), "m.gguf");
    assert!(whole.facts.tensor_bytes <= bytes.len() as u64 || whole.verdict() != Verdict::Ok);
    if whole.verdict() == Verdict::Ok && whole.facts.tensor_bytes > 0 {
        let short = bytes[..bytes.len() - 1].to_vec();
        let short = inspect(&Files([("m.gguf".into(), short)].into()), "m.gguf");
        assert_ne!(short.verdict(), Verdict::Ok, "a byte is missing, and nothing is found");
    }
}

/// A safetensors file and its configuration. Where nothing is found, another reader of JSON agrees,
/// and the tensors fill the file.
pub fn safetensors(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0xfe);
    let header = parts.next().unwrap_or_default();
    let rest = parts.next().unwrap_or_default();
    let bytes = [&(header.len() as u64).to_le_bytes(), header, rest].concat();
    let files = [("m.safetensors".into(), bytes), ("config.json".into(), rest.to_vec())];
    let model = inspect(&Files(files.into()), "m.safetensors");
    let sound = !model.findings.iter().any(|f| f.rule.id().starts_with("safetensors."));
    if sound {
        let value: Value = serde_json::from_slice(header).expect("it was accepted");
        let count = value.as_object().expect("an object").len() as u64;
        let metadata = u64::from(value.get("__metadata__").is_some());
        assert_eq!(count, model.facts.tensors + metadata);
        assert_eq!(model.facts.tensor_bytes, rest.len() as u64);
    }
    let index = "m.safetensors.index.json";
    inspect(&Files([(index.into(), data.to_vec())].into()), index);
}

/// Whatever stands in a file: what is JSON can be read as JSON, what has lines keeps them.
pub fn bill(data: &[u8]) {
    let mut bytes = Bytes(data);
    let sharded = bytes.flag();
    let mut gguf = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let keys = [
        "general.name",
        "general.license",
        "general.license.name",
        "general.license.link",
        "general.organization",
        "general.version",
        "general.description",
        "general.author",
        "general.url",
        "general.architecture",
        "general.base_model.0.name",
        "general.base_model.0.repo_url",
        "tokenizer.chat_template",
    ];
    gguf.extend((keys.len() as u64 + 1).to_le_bytes());
    let mut put = |key: &str, kind: u32, value: &[u8]| {
        gguf.extend((key.len() as u64).to_le_bytes());
        gguf.extend(key.bytes());
        gguf.extend(kind.to_le_bytes());
        gguf.extend(value);
    };
    put("general.base_model.count", 4, &1_u32.to_le_bytes());
    for key in keys {
        let length = usize::from(bytes.byte());
        let value = bytes.take(length);
        put(key, 8, &[&(value.len() as u64).to_le_bytes(), value].concat());
    }
    let name = if sharded { "m-00001-of-00002.gguf" } else { "m.gguf" };
    let mut model = inspect(&Files([(name.into(), gguf)].into()), name);
    if let Ok(list) = List::parse(bytes.0) {
        list.judge(&mut model, true);
    }
    let _ = List::parse_signed(b"", bytes.0, bytes.0);
    tell(&model);
}

fn tell(model: &Model) {
    let models = std::slice::from_ref(model);
    let text = |write: &dyn Fn(&mut Vec<u8>) -> io::Result<()>| {
        let mut out = Vec::new();
        write(&mut out).expect("memory takes everything");
        String::from_utf8(out).expect("it is text")
    };
    let json = text(&|out| {
        let mut documents = write::documents(out, &ABOUT, false);
        documents.add(model, None);
        documents.end()
    });
    let read: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(read["warnings"].as_array().map(Vec::len), Some(model.findings.len()));
    for told in [
        text(&|out| write::cyclonedx(out, models, &ABOUT)),
        text(&|out| write::spdx_json(out, models, &ABOUT)),
    ] {
        assert!(serde_json::from_str::<Value>(&told).expect("JSON").is_object());
    }
    let tags = text(&|out| write::spdx_tags(out, models, &ABOUT));
    let opened = tags.matches("<text>").count();
    assert_eq!(opened, tags.matches("</text>").count(), "a text ends where it should");
    let outside = tags.split("<text>").map(|part| part.split("</text>").last().unwrap_or(""));
    for line in outside.flat_map(str::lines).filter(|line| !line.is_empty()) {
        assert!(line.contains(": "), "{line:?} is no tag");
    }
    for told in [
        text(&|out| write::table(out, model, &ABOUT)),
        text(&|out| write::readme(out, model, &Card::default(), &ABOUT)),
    ] {
        let obeyed = |sign: char| sign.is_control() && sign != '\n';
        assert!(!told.contains(obeyed), "a terminal would obey it");
    }
}
