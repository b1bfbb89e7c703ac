//! Models in several files, and what lies beside one.

mod files;

use files::{Files, Gguf, ids, inspect, one, safetensors};
use limpet_inventory::rules::Verdict;

const INDEX: &str = "model.safetensors.index.json";
const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";

fn shard(name: &str) -> Vec<u8> {
    let text = format!(r#"{{"{name}":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}}}"#);
    safetensors(text, 4)
}

fn index(map: &str) -> Vec<u8> {
    format!(r#"{{"metadata":{{"total_size":8}},"weight_map":{{{map}}}}}"#).into_bytes()
}

fn whole() -> Files {
    let map = format!(r#""a":"{FIRST}","b":"{SECOND}""#);
    Files::of([(INDEX, index(&map)), (FIRST, shard("a")), (SECOND, shard("b"))])
}

fn found(files: &Files, name: &str) -> Vec<&'static str> {
    ids(&inspect(files, name).expect("it can be read"))
}

#[test]
fn an_index_stands_for_all_its_shards() {
    let model = inspect(&whole(), INDEX).expect("it can be read");
    assert_eq!((ids(&model), model.facts.tensors, model.facts.parameters), (vec![], 2, 8));
    let names: Vec<&str> = model.members.iter().map(|member| &*member.name).collect();
    assert_eq!(names, [FIRST, SECOND]);
}

#[test]
fn an_index_that_does_not_agree_is_found_out() {
    let with = |name: &str, bytes: Vec<u8>| {
        let mut files = whole();
        files.0.insert(name.into(), bytes);
        found(&files, INDEX)
    };
    assert_eq!(with(SECOND, shard("c")), ["set.index_mismatch"]);
    let map = format!(r#""a":"{FIRST}","b":"{FIRST}""#);
    assert_eq!(with(INDEX, index(&map)), ["set.index_mismatch", "set.total_size"]);
    let map = format!(r#""a":"{FIRST}","b":"../{SECOND}""#);
    assert_eq!(with(INDEX, index(&map)), ["set.shard_path", "set.total_size"]);
    let map = format!(r#""a":"{FIRST}","b":"/etc/passwd""#);
    assert_eq!(with(INDEX, index(&map)), ["set.shard_path", "set.total_size"]);
    let map = format!(r#""a":"{FIRST}","a":"{FIRST}","b":"{SECOND}""#);
    assert_eq!(with(INDEX, index(&map)), ["set.index_invalid", "set.index_mismatch"]);
    assert_eq!(with(INDEX, b"{".to_vec()), ["set.index_invalid", "set.total_size"][..1]);
    assert_eq!(with(INDEX, b"{}".to_vec()), ["set.index_invalid"]);
    assert_eq!(with(SECOND, shard("b")[..20].to_vec())[0], "safetensors.header_beyond_file");
    let mut files = whole();
    files.0.remove(SECOND);
    let model = inspect(&files, INDEX).expect("it can be read");
    assert_eq!(ids(&model), ["set.missing_shard", "set.total_size"]);
    assert_eq!(model.verdict(), Verdict::Malformed);
}

fn split(number: u32, count: u32, tensors: u32) -> Vec<u8> {
    let short = |value: u32| (value as u16).to_le_bytes();
    Gguf::new()
        .raw(b"split.no", 2, &short(number))
        .raw(b"split.count", 2, &short(count))
        .raw(b"split.tensors.count", 5, &tensors.to_le_bytes())
        .tensor(&format!("t{number}"), &[8])
        .bytes()
}

#[test]
fn splits_of_gguf_are_one_model() {
    let (one, two) = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf");
    let files = |first, second| Files::of([(one, first), (two, second)]);
    let sound = files(split(0, 2, 2), split(1, 2, 2));
    for name in [one, two] {
        let model = inspect(&sound, name).expect("it can be read");
        assert_eq!((ids(&model), model.facts.tensors), (vec![], 2));
    }
    assert_eq!(found(&files(split(0, 2, 2), split(0, 2, 2)), one), ["set.shard_number"]);
    assert_eq!(found(&files(split(0, 2, 3), split(1, 2, 3)), one), ["set.tensor_count"]);
    let missing = Files::of([(one, split(0, 2, 2))]);
    assert_eq!(found(&missing, one), ["set.missing_shard"]);
    assert_eq!(found(&Files::default(), "m-00001-of-99999.gguf"), ["set.too_many_shards"]);
}

fn beside(config: &str) -> Files {
    let entry = r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    let (model, config) = (safetensors(entry, 16), config.as_bytes().to_vec());
    Files::of([("model.safetensors", model), ("config.json", config)])
}

#[test]
fn what_lies_beside_a_model_says_more() {
    let files = beside(
        r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","torch_dtype":"float32",
        "max_position_embeddings":2048,"vocab_size":32000,"num_hidden_layers":2,"hidden_size":64,
        "num_attention_heads":4,"num_key_value_heads":2,"license":"mit","_name_or_path":"org/base",
        "transformers_version":"4.50.0","rope_scaling":{"type":["x",{"y":null}]}}"#,
    );
    let model = inspect(&files, "model.safetensors").expect("it can be read");
    assert_eq!(ids(&model), [""; 0]);
    let facts = &model.facts;
    assert_eq!(facts.architecture.as_deref(), Some("LlamaForCausalLM"));
    assert_eq!(facts.framework.as_deref(), Some("transformers 4.50.0"));
    assert_eq!((facts.context_length, facts.vocab_size), (Some(2048), Some(32000)));
    assert_eq!((facts.dimensions.kv_heads_sum, facts.dimensions.key_length), (Some(4), Some(16)));
    assert_eq!(facts.base_models[0].name, "org/base");
}

#[test]
fn what_lies_beside_a_model_may_be_broken() {
    let broken = |config: &str| found(&beside(config), "model.safetensors");
    assert_eq!(broken("{"), ["sidecar.invalid"]);
    assert_eq!(broken("[]"), ["sidecar.invalid"]);
    assert_eq!(broken(&"[".repeat(100_000)), ["sidecar.invalid"]);
    assert_eq!(broken(r#"{"torch_dtype":"bfloat16"}"#), ["sidecar.mismatch"]);
    assert_eq!(broken(r#"{"auto_map":{"AutoModel":"evil.Model"}}"#), ["sidecar.remote_code"]);
    assert_eq!(broken(r#"{"chat_template":"{{ x.__globals__ }}"}"#), ["template.dunder"]);
    let packed = r#"{"quantization_config":{"quant_method":"awq"},"torch_dtype":"float16"}"#;
    let model = inspect(&beside(packed), "model.safetensors").expect("it can be read");
    assert_eq!((ids(&model), model.facts.quantization.as_deref()), (vec![], Some("awq")));
}

#[test]
fn a_download_that_has_not_ended_is_found_out() {
    let gguf = Gguf::new().tensor("a", &[8]).bytes();
    assert_eq!(ids(&one("model.gguf.part", gguf.clone())), ["file.partial"]);
    let files = Files::of([("model.gguf", gguf), ("model.gguf.aria2", vec![])]);
    assert_eq!(found(&files, "model.gguf"), ["file.partial"]);
}
