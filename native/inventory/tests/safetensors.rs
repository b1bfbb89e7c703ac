//! safetensors: what is sound, and every way to be malformed that the format's own tests, its
//! collection of attacks and the differences between its readers name.

mod files;

use files::{ids, one, safetensors};
use limpet_inventory::metadata::Value;
use limpet_inventory::model::Model;
use limpet_inventory::rules::Verdict;

fn read(header: impl AsRef<[u8]>, data: usize) -> Model {
    one("model.safetensors", safetensors(header, data))
}

#[track_caller]
fn breaks(header: impl AsRef<[u8]>, data: usize, rules: &[&str]) {
    assert_eq!(ids(&read(header, data)), rules);
}

fn entry(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{offsets}]}}"#)
}

fn header<const N: usize>(entries: [String; N]) -> String {
    format!("{{{}}}", entries.join(","))
}

#[test]
fn sound_files_have_no_findings() {
    let a = || entry("a", "F32", "2,2", "0,16");
    let dtypes = [
        ("BOOL", 8),
        ("F4", 4),
        ("F6_E2M3", 6),
        ("F6_E3M2", 6),
        ("U8", 8),
        ("I8", 8),
        ("F8_E5M2", 8),
        ("F8_E4M3", 8),
        ("F8_E8M0", 8),
        ("F8_E4M3FNUZ", 8),
        ("F8_E5M2FNUZ", 8),
        ("I16", 16),
        ("U16", 16),
        ("F16", 16),
        ("BF16", 16),
        ("I32", 32),
        ("U32", 32),
        ("F32", 32),
        ("C64", 64),
        ("F64", 64),
        ("I64", 64),
        ("U64", 64),
    ];
    let mut all = vec![
        ("{}".to_owned(), 0),
        (header([a()]), 16),
        (header([a(), entry("b", "U8", "3", "16,19")]), 19),
        // Out of order, and with tensors of no size at the seams.
        (header([entry("b", "U8", "3", "16,19"), a()]), 19),
        (header([a(), entry("z", "F32", "0,5", "16,16"), entry("b", "U8", "3", "16,19")]), 19),
        (header([a(), entry("b", "U8", "3", "16,19"), entry("z", "F32", "0", "16,16")]), 19),
        (header([entry("scalar", "F32", "", "0,4")]), 4),
        (format!("  {}   \n", header([a()])), 16),
        (format!(r#"{{"__metadata__":{{"format":"pt"}},{}}}"#, a()), 16),
        (header([a()]).replace('a', "\\u0061").replace("d\\u0061t\\u0061", "data"), 16),
    ];
    for (dtype, bits) in dtypes {
        let bytes = 8 * bits / 8;
        all.push((header([entry("a", dtype, "8", &format!("0,{bytes}"))]), bytes));
    }
    for (header, data) in all {
        let model = read(&header, data);
        assert_eq!((ids(&model), model.verdict()), (vec![], Verdict::Ok), "{header}");
    }
}

#[test]
fn broken_beginnings() {
    let whole = |bytes: &[u8]| ids(&one("model.safetensors", bytes.to_vec()));
    assert_eq!(whole(b""), ["safetensors.header_too_small"]);
    assert_eq!(whole(&[0; 7]), ["safetensors.header_too_small"]);
    assert_eq!(whole(&[0; 8]), ["safetensors.header_invalid"]);
    assert_eq!(whole(&[0xff; 8]), ["safetensors.header_too_large"]);
    assert_eq!(whole(&[0xff; 100]), ["safetensors.header_too_large"]);
    // A claim of 1,000 bytes in a tiny file; and one byte more than there is.
    assert_eq!(
        whole(&[&1000_u64.to_le_bytes()[..], b"{}"].concat()),
        ["safetensors.header_beyond_file"]
    );
    assert_eq!(
        whole(&[&3_u64.to_le_bytes()[..], b"{}"].concat()),
        ["safetensors.header_beyond_file"]
    );
    assert_eq!(
        whole(&[&100_000_001_u64.to_le_bytes()[..], b"{}"].concat()),
        ["safetensors.header_too_large"]
    );
    assert_eq!(ids(&one("model.bin", b"PK\x03\x04 anything".to_vec())), ["file.unknown"]);
    assert_eq!(ids(&one("model.bin", safetensors("{}", 0))), [""; 0]);
}

#[test]
fn broken_json() {
    let good = entry("a", "U8", "1", "0,1");
    for text in [
        "{",
        "[]",
        "null",
        "\u{feff}{}",
        "{} {}",
        "{}x",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{,}"#,
        r#"{"__metadata__":{},}"#,
        r#"{'a':1}"#,
        r#"{"__metadata__":{"a":"\ud800"}}"#,
        r#"{"__metadata__":{"a":"\udc00\ud800"}}"#,
        r#"{"__metadata__":{"a":"\ud800\u0041"}}"#,
        r#"{"__metadata__":{"a":"\x41"}}"#,
        "{\"__metadata__\":{\"a\":\"\n\"}}",
        r#"{"__metadata__":{"a":01}}"#,
        r#"{"__metadata__":{"a":1.}}"#,
        r#"{"__metadata__":{"a":-}}"#,
        r#"{"__metadata__":{"a":NaN}}"#,
        r#"{"__metadata__":{"a":tru}}"#,
        r#"{"__metadata__":{"a":[}]}}"#,
        &good,
    ] {
        let broken = read(text, 1)
            .findings
            .iter()
            .any(|found| found.rule.id() == "safetensors.header_invalid");
        assert!(broken, "{text}");
    }
    breaks(b"{\"\xff\":1}", 0, &["safetensors.header_invalid"]);
    breaks("[".repeat(200_000), 0, &["safetensors.header_invalid"]);
    let bomb = format!("{{\"a\":{}", "[".repeat(200_000));
    breaks(bomb, 0, &["safetensors.descriptor", "safetensors.header_too_deep"]);
    let objects = format!("{{\"a\":{}", r#"{"a":"#.repeat(200_000));
    breaks(objects, 0, &["safetensors.unknown_field", "safetensors.header_too_deep"]);
}

#[test]
fn duplicate_names() {
    let (a, b) = (entry("a", "U8", "4", "0,4"), entry("a", "F32", "1", "0,4"));
    // The file of which an auditor sees four bytes and a loader one number.
    let overlap = ["safetensors.duplicate_key", "safetensors.overlap"];
    breaks(header([a.clone(), b]), 4, &overlap);
    let escaped = entry("\\u0061", "F32", "1", "0,4");
    breaks(header([a.clone(), escaped]), 4, &overlap);
    let twice = format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{a}}}"#);
    breaks(twice, 4, &["safetensors.duplicate_key"]);
    let inside = r#"{"__metadata__":{"a":"b","a":"c"}}"#;
    breaks(inside, 0, &["safetensors.duplicate_key"]);
    let field = r#"{"a":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    breaks(field, 4, &["safetensors.duplicate_key"]);
}

#[test]
fn broken_metadata() {
    for value in ["1", "null", "true", "[]", "{}", r#"{"a":{}}"#] {
        let whole = format!(r#"{{"__metadata__":{{"a":{value}}}}}"#);
        breaks(whole, 0, &["safetensors.metadata"]);
    }
    breaks(r#"{"__metadata__":[1]}"#, 0, &["safetensors.metadata"]);
}

#[test]
fn broken_descriptors() {
    let one = |inner: &str| format!(r#"{{"a":{inner}}}"#);
    for inner in [
        "1",
        "null",
        "[1,[2]]",
        "{}",
        r#"{"dtype":"U8","shape":[1]}"#,
        r#"{"dtype":1,"shape":[1],"data_offsets":[0,1]}"#,
        r#"{"dtype":"U8","shape":1,"data_offsets":[0,1]}"#,
        r#"{"dtype":"U8","shape":[1],"data_offsets":[0]}"#,
        r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}"#,
    ] {
        let found = ids(&read(one(inner), 1));
        assert_eq!(found.first(), Some(&"safetensors.descriptor"), "{inner} {found:?}");
    }
    for number in ["-1", "1.0", "1.5", "true", "1e400", "1e0", "18446744073709551616", "\"1\""] {
        breaks(header([entry("a", "U8", number, "0,1")]), 1, &["safetensors.number"]);
        let offsets = format!("0,{number}");
        breaks(header([entry("a", "U8", "1", &offsets)]), 1, &["safetensors.number"]);
    }
    breaks(header([entry("a", "F5", "1", "0,1")]), 1, &["safetensors.unknown_dtype"]);
    breaks(header([entry("a", "f32", "1", "0,4")]), 4, &["safetensors.unknown_dtype"]);
    let more = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":{"y":[1]}}}"#;
    breaks(more, 1, &["safetensors.unknown_field"]);
    breaks(header([entry("../a", "U8", "1", "0,1")]), 1, &["safetensors.name_path"]);
    breaks(header([entry("a\\u0007", "U8", "1", "0,1")]), 1, &["safetensors.name_characters"]);
}

#[test]
fn broken_sizes() {
    let max = u64::MAX;
    let all = format!("{max},2");
    breaks(header([entry("a", "U8", &all, "0,1")]), 1, &["safetensors.tensor_size"]);
    let product = format!("{}", 1_u64 << 62);
    breaks(header([entry("a", "F64", &product, "0,0")]), 0, &["safetensors.tensor_size"]);
    breaks(header([entry("a", "F32", "2,2", "0,8")]), 8, &["safetensors.size_mismatch"]);
    breaks(header([entry("a", "F4", "3", "0,1")]), 1, &["safetensors.misaligned"]);
    breaks(header([entry("a", "F6_E2M3", "2", "0,1")]), 1, &["safetensors.misaligned"]);
    breaks(header([entry("a", "U8", "1", "1,0")]), 1, &["safetensors.offsets_reversed"]);
    breaks(header([entry("a", "F32", "0", "0,4")]), 4, &["safetensors.size_mismatch"]);
}

#[test]
fn broken_places() {
    let a = || entry("a", "U8", "4", "0,4");
    let b = |offsets| entry("b", "U8", "4", offsets);
    breaks(header([a(), b("4,8")]), 8, &[]);
    breaks(header([a(), b("2,6")]), 6, &["safetensors.overlap"]);
    breaks(header([a(), b("6,10")]), 10, &["safetensors.gap"]);
    breaks(header([b("4,8")]), 8, &["safetensors.gap"]);
    breaks(header([a()]), 2, &["safetensors.truncated"]);
    breaks(header([a()]), 5, &["safetensors.trailing_bytes"]);
    let ten: Vec<String> = (0..10).map(|i| entry(&format!("t{i}"), "U8", "16", "0,16")).collect();
    breaks(format!("{{{}}}", ten.join(",")), 16, &["safetensors.overlap"]);
    // A tensor of no size within another.
    breaks(header([a(), entry("z", "U8", "0", "2,2")]), 4, &["safetensors.overlap"]);
    let far = format!("{},{}", u64::MAX - 4, u64::MAX);
    breaks(header([entry("a", "U8", "4", &far)]), 4, &["safetensors.gap", "safetensors.truncated"]);
}

/// Cut off at every byte: never sound, and never more than a finding.
#[test]
fn truncated_anywhere() {
    let file = safetensors(header([entry("a", "U8", "4", "0,4")]), 4);
    for length in 0..file.len() {
        let model = one("model.safetensors", file[..length].to_vec());
        assert_eq!(model.verdict(), Verdict::Malformed, "{length}");
    }
}

#[test]
fn facts_come_from_the_header() {
    let entries = [entry("a", "F32", "2,2", "0,16"), entry("b", "BF16", "8", "16,32")];
    let text = format!(r#"{{"__metadata__":{{"format":"pt","x":"y"}},{}}}"#, entries.join(","));
    let model = read(text, 32);
    let facts = &model.facts;
    assert_eq!((facts.parameters, facts.tensors, facts.tensor_bytes), (12, 2, 32));
    assert_eq!((facts.dtype(), facts.main_type()), (Some("mixed"), Some("BF16")));
    assert_eq!(facts.framework.as_deref(), Some("pytorch"));
    assert_eq!(model.metadata.get("x"), Some(&Value::Text("y".into())));
}
