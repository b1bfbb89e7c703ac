//! How the single executable enters a native tool: from C, before Python is started.
//!
//! No part of the C ABI of the core: it takes no handle, and its caller is
//! `packaging/freeze/start.c`.

use std::ffi::{CStr, c_char, c_int};

/// Runs the native tool `name`, which may be null, and returns its exit code. A panic aborts the
/// process, which is the tool's own.
///
/// # Safety
/// `name` is null or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn limpet_tool(name: *const c_char) -> c_int {
    // SAFETY: not null, and NUL-terminated by the caller's promise.
    let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) });
    crate::tools::main(name.and_then(|name| name.to_str().ok())).into()
}
