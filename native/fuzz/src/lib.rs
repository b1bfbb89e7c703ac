//! Everything of limpet's Rust half that takes bytes or inputs from elsewhere, each as one function
//! that may be fed with anything. It returns, or it has found a bug.
//!
//! `make fuzz` searches; `tests/corpus.rs` feeds what earlier searches have kept.
#![forbid(unsafe_code)]

mod bytes;
mod journal;
mod machine;
mod models;
mod steps;
mod stream;

/// A target's name and function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 11] = [
    ("guard", stream::guard),
    ("frame", stream::frame),
    ("report", stream::report),
    ("plan", steps::plan),
    ("prepare", steps::prepare),
    ("machine", machine::inputs),
    ("replay", machine::records),
    ("journal", journal::damaged),
    ("gguf", models::gguf),
    ("safetensors", models::safetensors),
    ("bill", models::bill),
];
