//! Opening what must lie beneath a directory, whatever links there are on the way: openat2(2) with
//! `RESOLVE_BENEATH`, so that the kernel decides and not a comparison of strings. Where that is
//! missing (an emulator, a container that forbids what it does not know) no link is followed at
//! all.
//!
//! It knows which directory a parameter is bound to; what is done with a file is its tool's affair.

use super::Call;
use super::place::Place;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// The directory that a parameter is bound to, and its path from there.
struct Way {
    root: PathBuf,
    relative: PathBuf,
}

impl Way {
    fn of(call: &Call, parameter: &str) -> io::Result<Way> {
        let path = call.text(parameter).map_err(|cause| invalid(&cause))?;
        let root = match call.beneath.get(parameter) {
            Some(root) => root.clone(),
            None => std::env::current_dir()?,
        };
        let relative = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(path)).to_owned();
        Ok(Way { root, relative })
    }

    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let directory = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = openat(CWD, &self.root, directory, Mode::empty())?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = match openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::NOSYS) => walk(root, path, flags),
            opened => opened,
        };
        opened.map_err(|error| match error {
            Errno::XDEV => invalid(&format!("it leads out of {}", self.root.display())),
            error => error.into(),
        })
    }
}

/// Opens `path` from `place` name by name. It may hold no `..`, and nothing that it names may be a
/// link: that of the last name is opened itself or, for reading, refused.
fn walk(mut place: OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut names = path.components().filter(|name| *name != Component::CurDir).peekable();
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else { return Err(Errno::XDEV) };
        let flags = if names.peek().is_some() { OFlags::PATH | OFlags::DIRECTORY } else { flags };
        place = openat(&place, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    }
    Ok(place)
}

/// Opens the regular file that a path parameter names, for reading. Its type is looked at before
/// it is opened: opening a pipe may block, and opening some devices has effects.
///
/// # Errors
/// Those of the system; `InvalidInput` when it is no regular file or leads out of its directory.
pub fn file(call: &Call, parameter: &str) -> io::Result<File> {
    regular(&entry(call, parameter)?)
}

fn regular(found: &OwnedFd) -> io::Result<File> {
    if FileType::from_raw_mode(fstat(found)?.st_mode) != FileType::RegularFile {
        return Err(invalid("it is no regular file"));
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// The files beside the one that a path parameter names, each opened like that.
pub struct Neighbours(Way);

impl Neighbours {
    /// Of a path parameter; its own name besides.
    ///
    /// # Errors
    /// `InvalidInput` when it names no file.
    pub fn of(call: &Call, parameter: &str) -> io::Result<(Neighbours, String)> {
        let way = Way::of(call, parameter)?;
        let name = way.relative.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| invalid("it names no file"))?.to_owned();
        Ok((Neighbours(way), name))
    }

    /// Opens the regular file of a single name for reading.
    ///
    /// # Errors
    /// As for [`file`].
    pub fn open(&self, name: &str) -> io::Result<File> {
        let path = self.0.relative.with_file_name(name);
        regular(&self.0.open(&path, OFlags::PATH)?)
    }
}

/// Finds what a path parameter names, of whatever type, without opening it for reading.
///
/// # Errors
/// Those of the system; `InvalidInput` when it leads out of its directory.
pub fn entry(call: &Call, parameter: &str) -> io::Result<OwnedFd> {
    let way = Way::of(call, parameter)?;
    way.open(&way.relative, OFlags::PATH)
}

/// Opens the directory in which a path parameter's last name lies or will lie.
///
/// # Errors
/// Those of the system; `InvalidInput` when it leads out of its directory or names none.
pub fn place(call: &Call, parameter: &str) -> io::Result<Place> {
    let way = Way::of(call, parameter)?;
    let name = way.relative.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| invalid("it names no file"))?;
    let parent = match way.relative.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let directory = way.open(parent, OFlags::DIRECTORY | OFlags::RDONLY)?;
    Ok(Place::new(directory, name))
}

fn invalid(cause: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lies beneath is found; links, whatever they lead to, and ways out are not followed.
    #[test]
    fn a_walk_follows_nothing() {
        let root = std::env::temp_dir().join(format!("limpet-walk-{}", std::process::id()));
        std::fs::create_dir_all(root.join("in/deep")).expect("a directory");
        std::fs::write(root.join("in/deep/file"), "x").expect("a file");
        for (link, target) in [("in/folder", "deep"), ("in/deep/link", "file"), ("out", "/")] {
            std::os::unix::fs::symlink(target, root.join(link)).expect("a link");
        }
        let tried = |path: &str, flags| {
            let place = openat(CWD, &root, OFlags::DIRECTORY, Mode::empty()).expect("the root");
            let found = walk(place, Path::new(path), flags)?;
            Ok(FileType::from_raw_mode(fstat(&found)?.st_mode))
        };
        assert_eq!(tried("./in/deep/file", OFlags::RDONLY), Ok(FileType::RegularFile));
        assert_eq!(tried(".", OFlags::RDONLY), Ok(FileType::Directory));
        assert_eq!(tried("in/deep/link", OFlags::PATH), Ok(FileType::Symlink));
        assert_eq!(tried("in/deep/link", OFlags::RDONLY), Err(Errno::LOOP));
        assert_eq!(tried("in/folder/file", OFlags::RDONLY), Err(Errno::NOTDIR));
        assert_eq!(tried("out/etc", OFlags::RDONLY), Err(Errno::NOTDIR));
        assert_eq!(tried("in/../in", OFlags::RDONLY), Err(Errno::XDEV));
        assert_eq!(tried("/etc", OFlags::RDONLY), Err(Errno::XDEV));
        std::fs::remove_dir_all(&root).expect("ours");
    }
}
