//! What passes between the driver's threads and to its host: bounded queues, and wake-ups that are
//! not lost. Knows nothing of what it carries.
//!
//! Built with `--cfg loom`, the same code runs on loom's threads, which meet in every order there
//! is: `make loom`.

#![forbid(unsafe_code)]

pub mod inbox;
#[cfg(all(loom, test))]
mod model;
pub mod outbound;
mod sync;
pub mod wake;
