//! The native tools as a program of their own: `limpet-tool NAME`, with its input as JSON on
//! standard input.

fn main() -> std::process::ExitCode {
    limpet_driver::tools::main(std::env::args().nth(1).as_deref()).into()
}
