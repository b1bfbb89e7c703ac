//! The state machine of limpet: which task may run, when, for how long, and what is recorded first.
//!
//! # Theory of operation
//!
//! A [`Machine`] is a value. It has no thread, clock, file, environment or source of randomness:
//! time and seed are arguments, and whatever takes time in the world is asked for and answered
//! later.
//!
//! ```text
//! handle(now, input)   the only way in; never fails; bounded work; allocates nothing
//! next_deadline()      earliest instant at which handle(now, Timeout) matters; early is harmless
//! poll_effect()        what the driver must do next; drain it before the next handle
//! poll_event()         what the host must hear
//! ```
//!
//! Transitions are one table, state x trigger, in [`table`]. Rules of order, such as *recorded
//! before started*, are states of that table and not code of the driver, so that the simulator in
//! `tests/sim` tests the real rule. Every collection has its size fixed when the machine is made
//! ([`limits`]); full is an answer, never growth.
#![forbid(unsafe_code)]

mod actions;
mod admission;
mod arena;
mod books;
mod events;
mod ids;
mod intake;
pub mod limits;
pub mod machine;
mod marks;
pub mod message;
pub mod record;
mod recovery;
#[cfg(feature = "serde")]
mod runs;
pub mod table;
pub mod time;

pub use limits::Limits;
pub use machine::Machine;
pub use message::{Effect, Event, Input};
pub use recovery::ReplayError;
pub use time::{Instant, Now};
