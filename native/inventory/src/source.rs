//! Where bytes come from: a file of known size that is read at any place, and what lies beside it.
//!
//! This crate opens nothing itself, so whoever calls it decides what a model's name may reach.

use std::io;

/// A file that is read at any place.
pub trait Source {
    /// Its size when it was opened.
    fn size(&self) -> u64;

    /// Reads at `offset`; fewer bytes than asked for only at the end or when interrupted.
    ///
    /// # Errors
    /// Those of the system.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// How many bytes are really stored; `None` where that is not known.
    fn stored(&self) -> Option<u64> {
        None
    }
}

impl Source for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let count = into.len().min(self.len() - start);
        into[..count].copy_from_slice(&self[start..start + count]);
        Ok(count)
    }
}

/// The directory in which a model lies.
pub trait Folder {
    /// Opens the regular file of that name, which is a single name; `None` if there is none.
    ///
    /// # Errors
    /// Those of the system.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Source>>>;
}

/// Nothing lies beside the model.
#[derive(Debug, Clone, Copy)]
pub struct Nowhere;

impl Folder for Nowhere {
    fn open(&self, _name: &str) -> io::Result<Option<Box<dyn Source>>> {
        Ok(None)
    }
}

/// Whoever waits: hears how far it has come, and may have had enough.
pub trait Watch {
    /// Whether to stop.
    fn cancelled(&self) -> bool {
        false
    }

    /// Hears that so many more bytes were hashed.
    fn hashed(&self, _bytes: u64) {}
}

/// Nobody waits.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

impl Watch for Nobody {}
