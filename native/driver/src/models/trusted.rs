//! Reads the list of trusted models, and the signature beside it where keys are given.

use limpet_inventory::trust::{LIST_BYTES_MAX, List};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Reads `file`, if there is one; with `keys`, its signature in `FILE.sig` must be by one of them.
///
/// # Errors
/// A sentence.
pub fn read(file: Option<&Path>, keys: Option<&Path>) -> Result<Option<List>, String> {
    let Some(file) = file else { return Ok(None) };
    let text = bytes(file)?;
    let list = match keys {
        None => List::parse(&text),
        Some(keys) => {
            let mut beside = file.as_os_str().to_owned();
            beside.push(".sig");
            List::parse_signed(&text, &bytes(Path::new(&beside))?, &bytes(keys)?)
        }
    };
    list.map(Some).map_err(|cause| format!("cannot trust {}: {cause}", file.display()))
}

fn bytes(file: &Path) -> Result<Vec<u8>, String> {
    let failed = |cause| format!("cannot read {}: {cause}", file.display());
    let mut bytes = Vec::new();
    // One more than there may be, so that what is too long is seen to be.
    let bound = LIST_BYTES_MAX as u64 + 1;
    File::open(file).map_err(failed)?.take(bound).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
