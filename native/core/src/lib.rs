//! The state machine of limpet.
#![forbid(unsafe_code)]
