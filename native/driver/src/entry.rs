//! How a native program of ours is entered: by name, before any Python is started.
//!
//! No part of the C ABI of the core: it takes no handle, and its callers are
//! `packaging/freeze/start.c` and `limpet-tool`.

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

const MISCALLED: u8 = 2;

/// Runs what `words` name: `inspect` with its arguments, or `native` with the name of a tool.
#[must_use]
pub fn enter(words: &[OsString]) -> u8 {
    let first =
        |words: &[OsString]| words.first().and_then(|word| word.to_str().map(str::to_owned));
    match first(words).as_deref() {
        Some("inspect") => crate::models::main(&words[1..]),
        Some("native") => match first(&words[1..]).as_deref() {
            Some("gate") => crate::tools::gate::main(&words[2..]),
            name => crate::tools::main(name),
        },
        _ => {
            eprintln!("cannot run {words:?}: there is no such program");
            MISCALLED
        }
    }
}

/// [`enter`] for C: `words` are `count` texts, and its exit code is returned. A panic aborts the
/// process, which is the program's own.
///
/// # Safety
/// `words` has `count` pointers, each to a text that ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn limpet_enter(count: c_int, words: *const *const c_char) -> c_int {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: as many pointers, by the caller's promise.
    let words = unsafe { std::slice::from_raw_parts(words, count) };
    let word = |word: &*const c_char| {
        // SAFETY: NUL-terminated, by the caller's promise.
        let text = unsafe { CStr::from_ptr(*word) };
        OsStr::from_bytes(text.to_bytes()).to_owned()
    };
    enter(&words.iter().map(word).collect::<Vec<_>>()).into()
}
