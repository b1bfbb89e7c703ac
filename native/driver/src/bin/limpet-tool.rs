//! The native programs for where they are not in one file with Python: `limpet-tool native NAME`,
//! with its input as JSON on standard input, and `limpet-tool inspect PATH...`.

fn main() -> std::process::ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    limpet_driver::entry::enter(&words).into()
}
