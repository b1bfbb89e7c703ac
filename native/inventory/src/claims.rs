//! Whether what a model calls itself agrees with what it is.

use crate::model::{Format, Model};
use crate::rules::Rule;

const CONTEXT_MIN: u64 = 256;
const CONTEXT_MAX: u64 = 1 << 27;
/// What is claimed and what there is may differ so many times.
const TOLERANCE: u64 = 2;
/// Files that go with a model of the name they have, and are much smaller.
const COMPANIONS: [&str; 7] = ["mmproj", "lora", "adapter", "vocab", "imatrix", "mtp", "draft"];

/// Judges them; `whole` says that the files are all there, not one shard of several.
pub fn judge(model: &mut Model, whole: bool) {
    if let Some(length) = model.facts.context_length {
        if !(CONTEXT_MIN..=CONTEXT_MAX).contains(&length) && is_language_model(model) {
            model.findings.add(Rule::ClaimContext, format_args!("it claims {length} tokens"));
        }
    }
    if !whole || model.facts.parameters == 0 || !is_language_model(model) {
        return;
    }
    let facts = &model.facts;
    let claims = [facts.size_label.as_deref(), facts.name.as_deref(), Some(&model.name)];
    let found = claims.into_iter().flatten().find_map(|text| Some((text, claimed(text)?)));
    let Some((text, (least, most))) = found else {
        return;
    };
    let (parameters, bytes) = (facts.parameters, facts.tensor_bytes);
    // Packed weights hide how many they are; less than a bit for each there cannot be.
    let packed = facts.packed || model.format == Format::Unknown;
    let few = bytes.saturating_mul(8) < least
        || (!packed && parameters.saturating_mul(TOLERANCE) < least);
    let many = !packed && parameters / TOLERANCE > most;
    if few || many {
        let evidence = format!("{text:?}, and {parameters} parameters in {bytes} bytes");
        model.findings.add(Rule::ClaimParameters, format_args!("{evidence}"));
    }
}

fn is_language_model(model: &Model) -> bool {
    let kind = model.facts.kind.as_deref().unwrap_or("model");
    let name = model.name.to_ascii_lowercase();
    kind == "model"
        && model.facts.architecture.as_deref() != Some("clip")
        && !COMPANIONS.iter().any(|companion| name.contains(companion))
}

/// The first word of a name that is a number of parameters: the least and the most it may mean.
/// `8x7B` has parts that the experts share, so it is between one and all of them.
fn claimed(text: &str) -> Option<(u64, u64)> {
    let words = text.split(|sign: char| !(sign.is_ascii_alphanumeric() || sign == '.'));
    words.into_iter().find_map(|word| {
        let (times, each) = match word.split_once(['x', 'X']) {
            Some((times, each)) => (times.parse().ok()?, each),
            None => (1_u64, word),
        };
        let one = parameters(each)?;
        (times > 0).then(|| (one, one.saturating_mul(times)))
    })
}

/// `7B`, `1.5b` or `350M`; what follows a point behind the letter is another matter.
fn parameters(word: &str) -> Option<u64> {
    let end = word.find(|sign: char| sign.is_ascii_alphabetic())?;
    let (number, rest) = word.split_at(end);
    let unit = match rest.as_bytes() {
        [unit] | [unit, b'.', ..] => unit.to_ascii_uppercase(),
        _ => return None,
    };
    let scale = match unit {
        b'T' => 1_000_000_000_000,
        b'B' => 1_000_000_000,
        b'M' => 1_000_000,
        b'K' => 1_000,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    let tenths: u64 = if part.is_empty() { 0 } else { part.get(..1)?.parse().ok()? };
    whole.checked_mul(scale)?.checked_add(tenths * (scale / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_claim_a_size() {
        const B: u64 = 1_000_000_000;
        for (name, expected) in [
            ("Llama-3-70B-Instruct.Q4_K_M.gguf", Some((70 * B, 70 * B))),
            ("qwen2.5-1.5b", Some((3 * B / 2, 3 * B / 2))),
            ("model-7B.Q4_K_M.gguf", Some((7 * B, 7 * B))),
            ("Mixtral-8x7B", Some((7 * B, 56 * B))),
            ("Qwen3-30B-A3B", Some((30 * B, 30 * B))),
            ("smollm-135M", Some((135_000_000, 135_000_000))),
            ("gemma-3n-E4B", None),
            ("bert-base", None),
            ("v1.5", None),
            ("99999999999999B", None),
            ("0x7B", None),
        ] {
            assert_eq!(claimed(name), expected, "{name}");
        }
    }
}
