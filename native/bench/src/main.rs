//! Sends commands to a device over MQTT, waits for what comes back, and says how long each took.
//!
//! Native, so that it is not what is measured: one thread, one connection, no allocation per
//! message but the bytes themselves. Knows no target: an order on standard input says where to
//! send what, and how a result is told; the figures go to standard output as one JSON object.

mod load;
mod mqtt;

use std::io::Read;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot load the device: {error} (nothing is measured)");
            ExitCode::FAILURE
        }
    }
}

fn run() -> std::io::Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let order: load::Order = serde_json::from_str(&text)?;
    let figures = load::Load::new(order)?.run()?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
