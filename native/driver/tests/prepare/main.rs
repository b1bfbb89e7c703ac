//! Promises of the pure half of the driver: what a journaled task may make the device run.

mod authorise;
mod expand;
mod frame;
mod parameter;
mod plan;
mod prepare;
mod refuse;
mod sample;
mod table;
