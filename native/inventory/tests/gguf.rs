//! GGUF: what is sound, and every way to be malformed that llama.cpp's own tests and the known
//! vulnerabilities of loaders name.

mod files;

use files::{F32, Gguf, I8, Q8_0, ids, one};
use limpet_inventory::metadata::Value;
use limpet_inventory::model::Model;
use limpet_inventory::rules::Verdict;

fn read(gguf: &Gguf) -> Model {
    one("model.gguf", gguf.bytes())
}

fn sound() -> Gguf {
    Gguf::new().text("general.architecture", "llama").tensor("a", &[8, 4]).tensor("b", &[3])
}

/// Each breaks exactly the rules that are named.
#[track_caller]
fn breaks(gguf: &Gguf, rules: &[&str]) {
    assert_eq!(ids(&read(gguf)), rules);
}

#[test]
fn sound_files_have_no_findings() {
    let nan = f64::NAN.to_bits().to_le_bytes();
    for gguf in [
        Gguf::new(),
        sound(),
        sound().raw(b"a.nan", 12, &nan),
        Gguf::new().info(b"none", &[4, 0, 5], F32, 0),
        Gguf::new().info(b"scalar", &[], F32, 0).data(32),
        Gguf::new().u32("general.alignment", 1).aligned(1).tensor("a", &[3]).tensor("b", &[5]),
        Gguf::new().u32("general.alignment", 64).aligned(64).tensor("a", &[3]).tensor("b", &[5]),
        Gguf { version: 2, ..Gguf::new() }.text("a.b", "c").tensor("a", &[1]),
    ] {
        let model = read(&gguf);
        assert_eq!((ids(&model), model.verdict()), (vec![], Verdict::Ok));
    }
}

#[test]
fn broken_headers() {
    let count = |tensors, keys| Gguf { tensors, keys, ..sound() };
    breaks(&Gguf { version: 0, ..sound() }, &["gguf.version"]);
    breaks(&Gguf { version: 4, ..sound() }, &["gguf.version"]);
    breaks(&Gguf { version: 1, ..Gguf::new() }.tensor("a", &[8]), &["gguf.old_version"]);
    breaks(&count(Some(u64::MAX), None), &["gguf.count"]);
    breaks(&count(None, Some(u64::MAX)), &["gguf.count"]);
    breaks(&count(Some(1 << 32), None), &["gguf.count"]);
    let mut magic = sound().bytes();
    magic[0] = b'g';
    assert_eq!(ids(&one("model.gguf", magic)), ["file.unknown"]);
    assert_eq!(ids(&one("model.gguf", Vec::new())), ["file.unknown"]);
}

#[test]
fn broken_keys() {
    let with = |key: &[u8]| Gguf::new().raw(key, 0, &[1]);
    let entry = |bytes: &[&[u8]]| {
        let mut gguf = Gguf::new();
        gguf.entries.push(bytes.concat());
        gguf.data(64)
    };
    breaks(&with(b""), &["gguf.key_empty"]);
    breaks(&with(&[b'a'; 65_536]), &["gguf.key_too_long"]);
    breaks(&with("schl\u{fc}ssel".as_bytes()), &["gguf.key_characters"]);
    breaks(&with(b"a\xff"), &["gguf.key_characters"]);
    breaks(&with(b"a\0b"), &["gguf.key_characters", "gguf.key_path"]);
    breaks(&with(b"../../etc/cron.d/x"), &["gguf.key_path"]);
    breaks(&with(b"a").raw(b"a", 4, &[0; 4]), &["gguf.duplicate_key"]);
    breaks(&entry(&[&u64::MAX.to_le_bytes()]), &["gguf.count"]);
    breaks(&entry(&[&(1_u64 << 40).to_le_bytes()]), &["gguf.count"]);
}

#[test]
fn broken_values() {
    let with = |kind: u32, value: &[u8]| Gguf::new().raw(b"key", kind, value).data(64);
    let array = |kind: u32, count: u64, rest: &[u8]| {
        with(9, &[&kind.to_le_bytes()[..], &count.to_le_bytes(), rest].concat())
    };
    breaks(&with(13, &[0; 8]), &["gguf.value_type"]);
    breaks(&with(u32::MAX, &[0; 8]), &["gguf.value_type"]);
    breaks(&Gguf::new().raw(b"key", 7, &[2]), &["gguf.bool"]);
    breaks(&with(8, &u64::MAX.to_le_bytes()), &["gguf.count"]);
    // One byte more than there is.
    breaks(&with(8, &65_u64.to_le_bytes()), &["gguf.count"]);
    breaks(&with(8, &(1_u64 << 31).to_le_bytes()), &["gguf.count"]);
    breaks(&array(13, 1, &[]), &["gguf.value_type"]);
    breaks(&array(0, u64::MAX, &[]), &["gguf.count"]);
    // 2^61 values of eight bytes: the product is zero in 64 bits.
    breaks(&array(10, 1 << 61, &[]), &["gguf.count"]);
    breaks(&array(10, 9, &[]), &["gguf.count"]);
    breaks(&array(8, 1 << 40, &[]), &["gguf.count"]);
    breaks(
        &Gguf::new().raw(b"k", 9, &[&[7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], &[3]].concat()),
        &["gguf.bool"],
    );
    breaks(&array(9, 1, &[0; 16]), &["gguf.nested_array"]);
    // A bomb of nested arrays costs no more than its first level.
    breaks(&with(9, &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0].repeat(100_000)), &["gguf.nested_array"]);
    let invalid = Gguf::new().raw(b"key", 8, &[&2_u64.to_le_bytes()[..], b"\xc3\x28"].concat());
    breaks(&invalid, &["gguf.not_utf8"]);
    breaks(&Gguf::new().texts("key", &[b"\xff"]), &["gguf.not_utf8"]);
    breaks(&Gguf::new().u32("general.architecture", 1), &["gguf.value_mistyped"]);
}

#[test]
fn alignment() {
    let wrong = |gguf: Gguf| breaks(&gguf, &["gguf.alignment"]);
    wrong(Gguf::new().u32("general.alignment", 13));
    wrong(Gguf::new().u32("general.alignment", 0));
    wrong(Gguf::new().raw(b"general.alignment", 5, &32_u32.to_le_bytes()));
    wrong(Gguf::new().text("general.alignment", "32"));
    let tensors = |gguf: Gguf| gguf.info(b"a", &[3], F32, 0).info(b"b", &[3], F32, 12).data(64);
    breaks(&tensors(Gguf::new()), &["gguf.misaligned", "gguf.overlap"]);
    // What is said and what is done differ.
    let other = Gguf::new().u32("general.alignment", 64).aligned(64);
    let info = other.info(b"a", &[3], F32, 0).info(b"b", &[3], F32, 32).data(128);
    breaks(&info, &["gguf.misaligned", "gguf.overlap"]);
}

#[test]
fn broken_tensors() {
    let with = |name: &[u8], shape: &[u64], kind| Gguf::new().info(name, shape, kind, 0).data(64);
    let int = i32::MAX as u64;
    breaks(&Gguf::new().info(&[b'n'; 63], &[16], F32, 0).data(64), &[]);
    breaks(&with(&[b'n'; 64], &[16], F32), &["gguf.name_too_long"]);
    breaks(&with(b"", &[16], F32), &["gguf.name_empty"]);
    breaks(&with(b"a\nb", &[16], F32), &["gguf.name_characters"]);
    breaks(&with(b"../a", &[16], F32), &["gguf.name_path"]);
    breaks(&with(b"a", &[1, 1, 1, 1, 1], F32), &["gguf.dimensions"]);
    breaks(&with(b"a", &[u64::MAX], F32), &["gguf.dimension"]);
    breaks(&with(b"a", &[int; 4], F32), &["gguf.elements"]);
    breaks(&with(b"a", &[i64::MAX as u64], F32), &["gguf.tensor_size"]);
    // CVE-2026-33298: the product of bytes is small in 64 bits.
    breaks(&with(b"a", &[1 << 62], F32), &["gguf.tensor_size"]);
    breaks(&with(b"a", &[1 << 32, 1 << 32], F32), &["gguf.elements"]);
    // The padding of a size near 2^63 (and near 2^64) must not wrap to nothing.
    breaks(&with(b"a", &[i64::MAX as u64], I8), &["gguf.tensor_size"]);
    breaks(&with(b"a", &[16], 42), &["gguf.tensor_type"]);
    breaks(&with(b"a", &[16], u32::MAX), &["gguf.tensor_type"]);
    for removed in [4, 5, 31, 32, 33, 36, 37, 38] {
        breaks(&with(b"a", &[32], removed), &["gguf.removed_type"]);
    }
    breaks(&with(b"a", &[33], Q8_0), &["gguf.blocks", "gguf.truncated"]);
    let twice = Gguf::new().tensor("a", &[8]).tensor("a", &[8]);
    breaks(&twice, &["gguf.duplicate_tensor"]);
}

#[test]
fn broken_places() {
    let at = |offset| Gguf::new().info(b"a", &[8], F32, 0).info(b"b", &[8], F32, offset).data(64);
    breaks(&at(32), &[]);
    breaks(&at(0), &["gguf.overlap"]);
    breaks(&at(64), &["gguf.gap", "gguf.truncated"]);
    breaks(&at(33), &["gguf.misaligned", "gguf.gap", "gguf.truncated"]);
    // CVE-2026-7482: a tensor beyond the file, which a loader reads from its heap.
    breaks(&at(u64::MAX), &["gguf.offset", "gguf.gap", "gguf.truncated"]);
    breaks(&at(1 << 40), &["gguf.offset", "gguf.gap", "gguf.truncated"]);
    // CVE-2025-53630, CVE-2026-27940: the sum of sizes overflows, though each of them fits.
    let huge = 0x7FFF_FFFF_FFFF_FFC0;
    let sum = Gguf::new().info(b"a", &[huge], I8, 0).info(b"b", &[huge], I8, huge).data(64);
    breaks(&sum, &["gguf.offset", "gguf.data_size", "gguf.truncated"]);
}

#[test]
fn broken_ends() {
    let cut = |bytes: usize| {
        let mut file = Gguf::new().tensor("a", &[8]).tensor("b", &[3]).bytes();
        file.truncate(file.len() - bytes);
        ids(&one("model.gguf", file))
    };
    assert_eq!(cut(0), [""; 0]);
    assert_eq!(cut(1), ["gguf.padding"]);
    assert_eq!(cut(20), ["gguf.padding"]);
    assert_eq!(cut(21), ["gguf.truncated"]);
    assert_eq!(cut(64), ["gguf.truncated"]);
    breaks(&Gguf { trailing: 1, ..sound() }, &["gguf.trailing_bytes"]);
    breaks(&Gguf::new().info(b"a", &[8], F32, 0), &["gguf.truncated"]);
}

/// Cut off at every byte: never sound before the data's end, and never more than a finding.
#[test]
fn truncated_anywhere() {
    let file = Gguf::new()
        .text("general.architecture", "llama")
        .texts("tokenizer.ggml.tokens", &[b"<s>", b"<0x0A>"])
        .tensor("a", &[8, 4])
        .tensor("b", &[3])
        .bytes();
    for length in 0..file.len() {
        let model = one("model.gguf", file[..length].to_vec());
        assert!(!model.findings.is_empty(), "{length}");
    }
}

#[test]
fn big_endian_files_are_read_and_said_to_be() {
    let gguf = Gguf { big: true, ..Gguf::new() }
        .text("general.architecture", "llama")
        .u32("llama.context_length", 4096)
        .tensor("a", &[8, 4]);
    let model = read(&gguf);
    assert_eq!((ids(&model), model.verdict()), (vec!["gguf.big_endian"], Verdict::Ok));
    assert_eq!((model.facts.context_length, model.facts.parameters), (Some(4096), 32));
}

/// CVE-2025-49847 and its kin: a vocabulary that a loader would index out of bounds.
#[test]
fn broken_vocabularies() {
    let tokens: [&[u8]; 3] = [b"<0x0A>", b"<0x-1>", b"<0xZZ>"];
    let model = read(&Gguf::new().texts("tokenizer.ggml.tokens", &tokens));
    assert_eq!(ids(&model), ["tokenizer.byte_token"]);
    assert_eq!(model.findings.iter().next().map(|found| found.count), Some(2));
    let scores = [&6_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &[0; 4]].concat();
    let gguf = Gguf::new().texts("tokenizer.ggml.tokens", &[b"a", b"b"]);
    breaks(&gguf.raw(b"tokenizer.ggml.scores", 9, &scores), &["tokenizer.counts"]);
}

#[test]
fn chat_templates_are_hashed_and_looked_through() {
    let key = "tokenizer.chat_template";
    let model = read(&Gguf::new().text(key, "{{ messages }}"));
    assert_eq!(ids(&model), [""; 0]);
    let sha256 = "f24189f08c85a1eb19a737306c3a13e85462ee33d964f28108d64a2485fa2171";
    assert_eq!(model.facts.templates[0].sha256, sha256);
    assert_eq!(model.facts.templates[0].bytes, 14);
    let evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}";
    breaks(&Gguf::new().text(key, evil), &["template.dunder"]);
    // Beyond what is kept, and across pieces.
    let late = format!("{}{evil}", " ".repeat(65_530));
    breaks(&Gguf::new().text(key, &late), &["template.dunder"]);
    breaks(&Gguf::new().text("tokenizer.chat_template.tool_use", evil), &["template.dunder"]);
    breaks(&Gguf::new().text(key, "see http://evil.example"), &["template.url"]);
}

#[test]
fn claims_are_compared_with_what_there_is() {
    let small = || Gguf::new().tensor("a", &[1024, 64]);
    let named = |name: &str| ids(&one(name, small().bytes()));
    assert_eq!(named("llama-70B-Q4_K_M.gguf"), ["claim.parameters"]);
    assert_eq!(named("tiny-65K.gguf"), [""; 0]);
    assert_eq!(named("mmproj-llama-7B.gguf"), [""; 0]);
    breaks(&small().text("general.size_label", "8x7B"), &["claim.parameters"]);
    breaks(&small().text("general.size_label", "65K"), &[]);
    let short = small().text("general.architecture", "llama").u32("llama.context_length", 128);
    breaks(&short, &["claim.context"]);
}

#[test]
fn facts_come_from_the_well_known_keys() {
    let heads: Vec<u8> = [4_u32, 2, 2, 0].iter().flat_map(|heads| heads.to_le_bytes()).collect();
    let heads = [&4_u32.to_le_bytes()[..], &4_u64.to_le_bytes(), &heads].concat();
    let gguf = Gguf::new()
        .text("general.architecture", "llama")
        .text("general.name", "Tiny")
        .text("general.license", "apache-2.0")
        .text("general.license.link", "https://example.org/licence")
        .u32("general.file_type", 15)
        .u32("general.base_model.count", 1)
        .text("general.base_model.0.name", "Base")
        .text("general.base_model.0.organization", "Makers")
        .texts("general.tags", &[b"text-generation"])
        .u32("llama.block_count", 4)
        .u32("llama.embedding_length", 64)
        .u32("llama.attention.head_count", 8)
        .raw(b"llama.attention.head_count_kv", 9, &heads)
        .texts("tokenizer.ggml.tokens", &[b"a", b"b", b"c"])
        .tensor("a", &[64, 3]);
    let model = read(&gguf);
    assert_eq!(ids(&model), [""; 0]);
    let facts = &model.facts;
    assert_eq!(facts.quantization.as_deref(), Some("Q4_K_M"));
    assert_eq!(facts.license.as_deref(), Some("apache-2.0"));
    assert_eq!(facts.base_models[0].organization.as_deref(), Some("Makers"));
    assert_eq!(facts.vocab_size, Some(3));
    assert_eq!((facts.dimensions.kv_heads_sum, facts.dimensions.key_length), (Some(8), Some(8)));
    assert_eq!((facts.parameters, facts.tensor_bytes, facts.dtype()), (192, 768, Some("F32")));
    let tokens = model.metadata.get("tokenizer.ggml.tokens");
    assert!(matches!(tokens, Some(Value::Array { element: "string", count: 3, .. })));
}

impl Gguf {
    fn data(mut self, bytes: usize) -> Gguf {
        self.data = bytes;
        self
    }

    fn aligned(mut self, alignment: usize) -> Gguf {
        self.alignment = alignment;
        self
    }
}
