//! What a model needs to run, and whether a device has it.
//!
//! need = weights + cache + overhead
//!
//! - *weights*: the bytes of all tensors, which is what llama.cpp maps or loads.
//! - *cache*: for each token of context, in each layer, a key and a value for each key-value head:
//!   2 bytes x sum over layers of heads x (key length + value length). So llama.cpp sizes its cache
//!   of f16 (`llama-kv-cache.cpp`: tensors of `n_embd_k_gqa` and `n_embd_v_gqa` by cells). Layers
//!   with a sliding window or a recurrent state take less, so this is an upper bound.
//! - *overhead*: a batch of 512 tokens in f32 through the widest layer and the vocabulary, and
//!   32 MiB for the program, its tokenizer and its graph. This is a rule of thumb.

use crate::model::Facts;

const CACHE_VALUE_BYTES: u64 = 2;
const BATCH_TOKENS: u64 = 512;
const BATCH_VALUE_BYTES: u64 = 4;
const PROGRAM_BYTES: u64 = 32 << 20;
/// A context below this is of no use to anybody.
const CONTEXT_MIN: u64 = 512;
/// Contexts come in steps of this.
const CONTEXT_STEP: u64 = 256;
/// Where neither the model nor anybody says.
const CONTEXT_DEFAULT: u64 = 4096;

/// How a model fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fits {
    /// With the whole context.
    Yes,
    /// With so many tokens of context.
    Smaller(u64),
    /// Not at all.
    No,
    /// The header does not say enough.
    Unknown,
}

impl Fits {
    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Fits::Yes => "fits",
            Fits::Smaller(_) => "fits_with_smaller_context",
            Fits::No => "does_not_fit",
            Fits::Unknown => "unknown",
        }
    }
}

/// What a model needs, beside what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Tokens of context that the cache is for.
    pub context: u64,
    /// Bytes of all tensors.
    pub weights: u64,
    /// Bytes of the cache for one token; `None` where the header does not say enough.
    pub cache_each: Option<u64>,
    /// Bytes of everything else.
    pub overhead: u64,
    /// All of it.
    pub need: u64,
    /// Bytes that there are.
    pub budget: u64,
    /// Whether that is enough.
    pub fits: Fits,
}

/// What the model needs at `context` tokens (its own length if `None`), compared with `budget`.
#[must_use]
pub fn estimate(facts: &Facts, context: Option<u64>, budget: u64) -> Fit {
    let context = context.or(facts.context_length).unwrap_or(CONTEXT_DEFAULT);
    let dimensions = &facts.dimensions;
    let each = (dimensions.key_length.zip(dimensions.value_length))
        .map(|(key, value)| key.saturating_add(value).saturating_mul(CACHE_VALUE_BYTES));
    let cache_each =
        dimensions.kv_heads_sum.zip(each).map(|(heads, each)| heads.saturating_mul(each));
    let widest = dimensions.embedding.unwrap_or(0).saturating_mul(4);
    let widest = widest.saturating_add(dimensions.feed_forward.unwrap_or(0).saturating_mul(2));
    let widest = widest.saturating_add(facts.vocab_size.unwrap_or(0));
    let batch = widest.saturating_mul(BATCH_TOKENS * BATCH_VALUE_BYTES);
    let overhead = batch.saturating_add(PROGRAM_BYTES);
    let weights = facts.tensor_bytes;
    let least = weights.saturating_add(overhead);
    let need = least.saturating_add(cache_each.unwrap_or(0).saturating_mul(context));
    let fits = match cache_each {
        _ if facts.tensors == 0 => Fits::Unknown,
        _ if least > budget => Fits::No,
        None => Fits::Unknown,
        Some(_) if need <= budget => Fits::Yes,
        Some(each) => {
            // The cache alone makes it too large, so each is not zero.
            let tokens = (budget - least) / each.max(1) / CONTEXT_STEP * CONTEXT_STEP;
            if tokens < CONTEXT_MIN { Fits::No } else { Fits::Smaller(tokens) }
        }
    };
    Fit { context, weights, cache_each, overhead, need, budget, fits }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Dimensions;

    /// Llama 3.2 1B in Q4_K_M: its cache takes 32 KiB a token.
    #[test]
    fn a_model_fits_or_not() {
        let mut facts = Facts {
            context_length: Some(131_072),
            vocab_size: Some(128_256),
            dimensions: Dimensions {
                blocks: Some(16),
                embedding: Some(2048),
                feed_forward: Some(8192),
                heads: Some(32),
                kv_heads_sum: Some(128),
                key_length: Some(64),
                value_length: Some(64),
                experts: None,
            },
            ..Facts::default()
        };
        facts.count("Q4_K", 1_235_814_432, 800_000_000);
        let fit = estimate(&facts, Some(4096), 4 << 30);
        assert_eq!((fit.cache_each, fit.fits), (Some(32 << 10), Fits::Yes));
        assert_eq!(fit.overhead, (128_256 + 4 * 2048 + 2 * 8192) * 512 * 4 + (32 << 20));
        assert_eq!(fit.need, 800_000_000 + fit.overhead + ((4096 * 32) << 10));
        assert_eq!(estimate(&facts, None, 2 << 30).fits, Fits::Smaller(30_464));
        assert_eq!(estimate(&facts, Some(4096), 1 << 30).fits, Fits::No);
        assert_eq!(estimate(&facts, Some(4096), fit.need).fits, Fits::Yes);
        facts.dimensions.kv_heads_sum = None;
        assert_eq!(estimate(&facts, None, 4 << 30).fits, Fits::Unknown);
        assert_eq!(estimate(&facts, None, 1 << 29).fits, Fits::No);
        assert_eq!(estimate(&Facts::default(), None, u64::MAX).fits, Fits::Unknown);
    }
}
