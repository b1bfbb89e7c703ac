//! Decides how an attempt's working directory is found or made: by its parent, so that its last
//! component is never a link that an earlier step has left.
//!
//! Knows nothing of what is in it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchown, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::account::Account;

/// Opens `path`, an absolute path whose parent exists. A directory that is missing is made with
/// mode 0700 and belongs to `account`, or to the agent; one that exists is left as it is.
///
/// # Errors
///
/// The path has no parent, or its last component is a link or no directory.
pub(super) fn open(path: &Path, account: Option<&Account>) -> io::Result<OwnedFd> {
    let (Some(parent), Some(name), true) = (path.parent(), path.file_name(), path.is_absolute())
    else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an absolute path"));
    };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY | OFlags::NOFOLLOW;
    // Nearly always there: made by an earlier step, or ahead. Without a slash at its end, which
    // would have a link followed.
    match openat(CWD, parent.join(name), flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        opened => return Ok(opened?),
    }
    let parent_flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
    let parent = openat(CWD, parent, parent_flags, Mode::empty())?;
    let made = match mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno.into()),
    };
    let directory = openat(&parent, name, flags, Mode::empty())?;
    if let (true, Some(account)) = (made, account) {
        fchown(&directory, Some(account.uid), Some(account.gid)).inspect_err(|_| {
            let _ = unlinkat(&parent, name, AtFlags::REMOVEDIR);
        })?;
    }
    Ok(directory)
}
