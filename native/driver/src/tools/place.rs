//! A name in a directory that is held open: no link is followed, and the directory stays the same
//! one even if its path is made to lead elsewhere in the meantime.
//!
//! It knows how a file appears whole or not at all; what is in it is its tool's affair.

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fchmod, fstat, fsync, openat, renameat, unlinkat,
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// See the head of this file.
#[derive(Debug, Clone)]
pub struct Place {
    directory: Arc<OwnedFd>,
    name: String,
}

impl Place {
    /// `name` is a single name, neither `.` nor `..`.
    pub fn new(directory: OwnedFd, name: &str) -> Place {
        Place { directory: Arc::new(directory), name: name.to_owned() }
    }

    /// A hidden name beside this one.
    pub fn beside(&self, ending: &str) -> Place {
        let name = format!(".{}{ending}", self.name);
        Place { directory: self.directory.clone(), name }
    }

    /// Opens the file for reading.
    ///
    /// # Errors
    /// Those of the system, and when it is no regular file.
    pub fn read(&self) -> io::Result<File> {
        self.open(OFlags::RDONLY | OFlags::NONBLOCK)
    }

    /// Opens the file for reading and writing, and creates it for its owner alone if it is missing.
    ///
    /// # Errors
    /// Those of the system, and when it is no regular file or has another name besides.
    pub fn write(&self) -> io::Result<File> {
        let file = self.open(OFlags::RDWR | OFlags::NONBLOCK | OFlags::CREATE)?;
        // Whoever gave it a second name elsewhere would have that written, too.
        if fstat(&file)?.st_nlink != 1 {
            return Err(io::Error::other("the file has more than one name"));
        }
        Ok(file)
    }

    fn open(&self, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&*self.directory, &self.name, flags, Mode::RUSR | Mode::WUSR)?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is no regular file"));
        }
        Ok(File::from(file))
    }

    /// Puts a file with these bytes and this mode here: afterwards the name has all of them or
    /// what it had before, even if the power fails.
    ///
    /// # Errors
    /// Those of the system; nothing is left behind.
    pub fn replace(&self, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut random = [0; 8];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let name = format!(".limpet-{:016x}", u64::from_ne_bytes(random));
        let temporary = Place { directory: self.directory.clone(), name };
        let mut file = temporary.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        let whole = file.write_all(bytes).and_then(|()| temporary.publish(&file, mode, self));
        whole.inspect_err(|_| temporary.remove())
    }

    /// Gives the file of this place its mode and then the name `to`, durably.
    ///
    /// # Errors
    /// Those of the system.
    pub fn publish(&self, file: &File, mode: u32, to: &Place) -> io::Result<()> {
        fchmod(file, Mode::from_raw_mode(mode))?;
        file.sync_all()?;
        renameat(&*self.directory, &self.name, &*to.directory, &to.name)?;
        fsync(&*to.directory)?;
        Ok(())
    }

    /// Removes the file. That it is missing is no mistake, and what cannot be removed is only
    /// clutter: the error that counts is the one that led here.
    pub fn remove(&self) {
        let _ = unlinkat(&*self.directory, &self.name, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// Once a directory is held, another one under its path gets nothing.
    #[test]
    fn a_directory_that_is_swapped_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir(path("held")).unwrap();
        fs::create_dir(path("other")).unwrap();
        let place = Place::new(File::open(path("held")).unwrap().into(), "file");
        fs::rename(path("held"), path("moved")).unwrap();
        symlink(path("other"), path("held")).unwrap();
        place.replace(b"data", 0o600).unwrap();
        assert_eq!(fs::read(path("moved/file")).unwrap(), b"data");
        assert_eq!(fs::read_dir(path("other")).unwrap().count(), 0);
    }

    /// A link is replaced and not followed, and only the file itself is left in the directory.
    #[test]
    fn a_link_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path("target"), "kept").unwrap();
        symlink(path("target"), path("link")).unwrap();
        let place = Place::new(File::open(root.path()).unwrap().into(), "link");
        assert!(place.read().is_err() && place.write().is_err());
        place.replace(b"data", 0o640).unwrap();
        assert_eq!(fs::read(path("target")).unwrap(), b"kept");
        let found = fs::symlink_metadata(path("link")).unwrap();
        assert!(found.is_file());
        assert_eq!(found.permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
    }

    /// A file with a second name is not written through.
    #[test]
    fn a_file_with_two_names_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "kept").unwrap();
        fs::hard_link(root.path().join("a"), root.path().join("b")).unwrap();
        let place = Place::new(File::open(root.path()).unwrap().into(), "b");
        assert!(place.write().unwrap_err().to_string().contains("more than one name"));
    }
}
