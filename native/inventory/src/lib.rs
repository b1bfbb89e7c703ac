//! What a model file is, whether it is sound, and its bill of materials.
//!
//! A model file is untrusted input. Everything here reads headers only, forwards, through a buffer
//! of fixed size; what is kept of them is bounded, and no count in a file is believed before it was
//! compared with the file's size. What a file does wrong is a finding, never an error.
//!
//! | What | Where |
//! | --- | --- |
//! | bytes | `source` (given by the caller), `reader` (one bounded buffer) |
//! | formats | `gguf`, `safetensors` over `json`, `set` (several files), `sidecar` (beside one) |
//! | judgements | `rules` (all of them), `ranges`, `seen`, `template`, `claims`, `trust` |
//! | facts | `model`, `metadata`, `fit`, `hash`, `license` |
//! | outputs | `write` |
#![forbid(unsafe_code)]

mod claims;
pub mod fit;
mod gguf;
pub mod hash;
mod inspect;
mod json;
pub mod license;
pub mod metadata;
pub mod model;
mod ranges;
mod reader;
pub mod rules;
mod safetensors;
mod seen;
mod set;
mod sidecar;
pub mod source;
mod template;
mod text;
pub mod trust;
pub mod write;

pub use inspect::{Failure, Inspector, PARTIAL};
pub use set::{INDEX_ENDING, Split, shard_prefix};
