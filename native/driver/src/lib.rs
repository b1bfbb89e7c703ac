//! Everything of limpet that touches the world: threads, processes, files, sockets and the C ABI.
//!
//! # Map
//!
//! | What | Where |
//! | --- | --- |
//! | from a task to something that may start | [`plan`], [`expand`], [`authorise`], [`prepare`] |
//! | policy | [`table`] |
//! | processes | [`launch`], [`spawn`], [`containment`], [`output`], [`memory`] |
//! | the disk | [`store`], [`history`], [`spool`], [`scan`], [`workplaces`] |
//! | threads | [`threads`], [`driver`] |
//! | the host | [`host`], [`intake`], [`verdict`], [`ffi`], [`guard`] |
//! | the broker's connection | [`uplink`] |
//! | the native tools, and how the single executable enters them | [`tools`], [`entry`] |
//! | model files | [`models`] |

pub mod authorise;
pub mod budget;
pub mod clock;
pub mod containment;
pub mod driver;
mod end;
pub mod entry;
pub mod executor;
pub mod expand;
pub mod ffi;
pub mod frame;
pub mod guard;
pub mod history;
pub mod host;
pub mod intake;
mod items;
pub mod launch;
pub mod manual;
pub mod memory;
pub mod models;
pub mod names;
pub mod output;
pub mod parameter;
pub mod plan;
pub mod prepare;
pub mod quota;
pub mod recording;
pub mod scan;
pub mod settings;
pub mod spawn;
pub mod spool;
pub mod store;
pub mod syscalls;
pub mod table;
pub mod template;
pub mod threads;
pub mod tools;
pub mod uplink;
pub mod verdict;
pub mod workplaces;
