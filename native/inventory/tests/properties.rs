//! What holds for every file: order does not matter, any shift does, and nothing makes it panic.

mod files;

use files::{Gguf, one, safetensors};
use limpet_inventory::rules::Verdict;
use limpet_inventory::write::{About, cyclonedx, documents, spdx_json, spdx_tags, table};
use proptest::prelude::*;

/// Entries that fill their file, with offsets, in the order in which they lie there.
fn entries() -> impl Strategy<Value = Vec<(String, u64, u64)>> {
    prop::collection::vec(0_u64..50, 1..20).prop_map(|sizes| {
        let mut end = 0;
        let place = |(index, size)| {
            let begin = end;
            end += size;
            (format!("t{index}"), begin, end)
        };
        sizes.into_iter().enumerate().map(place).collect()
    })
}

fn file(entries: &[(String, u64, u64)], data: u64) -> Vec<u8> {
    let entry = |(name, begin, end): &(String, u64, u64)| {
        let size = end.saturating_sub(*begin);
        format!(r#""{name}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{begin},{end}]}}"#)
    };
    let inner: Vec<String> = entries.iter().map(entry).collect();
    safetensors(format!("{{{}}}", inner.join(",")), data as usize)
}

proptest! {
    #[test]
    fn tensors_may_stand_in_any_order(
        (entries, shuffled) in entries().prop_flat_map(|entries| {
            (Just(entries.clone()), Just(entries).prop_shuffle())
        }),
    ) {
        let data = entries.last().map_or(0, |last| last.2);
        let model = one("m.safetensors", file(&shuffled, data));
        prop_assert_eq!(model.verdict(), Verdict::Ok);
        prop_assert_eq!(model.facts.parameters, data);
    }

    /// Moved by any distance, a tensor that has bytes leaves a hole or lies on another.
    #[test]
    fn a_tensor_that_is_moved_is_found(
        entries in entries(), which in any::<prop::sample::Index>(), distance in 1_u64..100,
    ) {
        let mut moved = entries.clone();
        let (_, begin, end) = &mut moved[which.index(entries.len())];
        prop_assume!(begin < end);
        (*begin, *end) = (*begin + distance, *end + distance);
        let data = entries.last().map_or(0, |last| last.2);
        prop_assert_eq!(one("m.safetensors", file(&moved, data)).verdict(), Verdict::Malformed);
    }

    #[test]
    fn a_sound_file_of_gguf_is_sound_with_any_shapes(
        shapes in prop::collection::vec(prop::collection::vec(0_u64..9, 0..5), 0..12),
        big in any::<bool>(),
    ) {
        let mut gguf = Gguf { big, ..Gguf::new() };
        for (index, shape) in shapes.iter().enumerate() {
            gguf = gguf.tensor(&format!("t{index}"), shape);
        }
        let model = one("m.gguf", gguf.bytes());
        prop_assert_eq!(model.verdict(), Verdict::Ok, "{:?}", model.findings);
        let values: u64 = shapes.iter().map(|shape| shape.iter().product::<u64>()).sum();
        prop_assert_eq!(model.facts.parameters, values);
    }

    /// Any change of any byte, anywhere, is judged and can be told in every form.
    #[test]
    fn nothing_makes_it_panic(
        at in any::<prop::sample::Index>(), with in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        let gguf = Gguf::new()
            .text("general.architecture", "llama")
            .text("general.name", "n")
            .u32("general.alignment", 32)
            .texts("tokenizer.ggml.tokens", &[b"<0x0A>", b"b"])
            .tensor("a", &[4, 2]);
        let entry = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let files = [("m.gguf", gguf.bytes()), ("m.safetensors", safetensors(entry, 8))];
        for (name, mut bytes) in files {
            let start = at.index(bytes.len());
            let end = (start + with.len()).min(bytes.len());
            bytes[start..end].copy_from_slice(&with[..end - start]);
            let model = one(name, bytes);
            let about = About { version: "0", seconds: 0, context: None, budget: Some(1 << 30) };
            let (mut out, models) = (Vec::new(), std::slice::from_ref(&model));
            let mut all = documents(&mut out, &about, false);
            all.add(&model, None);
            all.end().expect("memory takes everything");
            for write in [cyclonedx, spdx_tags, spdx_json] {
                write(&mut out, models, &about).expect("memory takes everything");
            }
            table(&mut out, &model, &about).expect("memory takes everything");
        }
    }
}
