//! Everything of limpet that touches the world: threads, processes, files, sockets and the C ABI.

pub mod authorise;
pub mod executor;
pub mod expand;
pub mod frame;
pub mod launch;
pub mod parameter;
pub mod plan;
pub mod prepare;
pub mod table;
pub mod template;
