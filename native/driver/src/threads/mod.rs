//! The driver's long-lived threads. Each owns what it works on; between them go bounded messages,
//! through the rings of `limpet-rings`.
//!
//! `timer` owns the machine and never waits for the others; `journal` owns the store and waits for
//! the disk; two `spawner`s create and remove processes and wait for `exec`; `sampler` looks at
//! their memory and waits for /proc. The uplink's thread is in [`crate::uplink`].

pub mod attempt;
mod effects;
mod gather;
pub mod journal;
mod offers;
mod pretence;
pub mod realtime;
pub mod sampler;
pub mod spawner;
mod telling;
pub mod timer;
mod vigil;
