//! Opening files that must lie beneath a directory, whatever links there are on the way: openat2(2) with
//! `RESOLVE_BENEATH`, so that the kernel decides and not a comparison of strings.

use super::Call;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use std::fs::File;
use std::io;
use std::path::Path;

/// Opens the file that a path parameter names, for reading.
///
/// # Errors
/// Those of the system; `EXDEV` when it would lead out of its directory.
pub fn open(call: &Call, parameter: &str) -> io::Result<File> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "no such parameter");
    let path = call.input.get(parameter).and_then(|value| value.as_str()).ok_or_else(missing)?;
    let working = std::env::current_dir()?;
    let root = call.beneath.get(parameter).map_or(working.as_path(), |root| root.as_path());
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = openat(CWD, root, flags, Mode::empty())?;
    let relative = Path::new(path).strip_prefix(root).unwrap_or(Path::new(path));
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(File::from(openat2(&directory, relative, flags, Mode::empty(), resolve)?))
}
