//! Everything of limpet that touches the world: threads, processes, files, sockets and the C ABI.

pub mod launch;
pub mod uplink;
