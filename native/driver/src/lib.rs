//! Everything of limpet that touches the world: threads, processes, files, sockets and the C ABI.

pub mod containment;
pub mod launch;
pub mod output;
pub mod spawn;
