//! A download that is not whole yet: `.NAME.part` beside its destination, and `.NAME.etag`, which
//! says of what it is a part. What has come goes on where it ended only if the server has the same
//! thing still; that is what the entity tag is for.
//!
//! It knows nothing of HTTP. The directory belongs to one attempt at a time, so nobody else writes.

use super::digest::Sum;
use super::place::Place;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Longest note; a URL is at most 2 KiB of it.
const NOTE_BYTES_MAX: u64 = 4096;

/// What a part is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    url: String,
    sha256: String,
    etag: String,
}

/// See the head of this file.
pub struct Part {
    file: File,
    sum: Sum,
    destination: Place,
    place: Place,
    note: Place,
    wanted: Note,
}

impl Part {
    /// Opens what an earlier attempt left, if it is of the same URL and sum; else an empty one.
    /// `each` hears how many of its bytes have been summed up.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(
        destination: Place,
        url: &str,
        sha256: &str,
        each: impl FnMut(u64),
    ) -> io::Result<Part> {
        let (place, note) = (destination.beside(".part"), destination.beside(".etag"));
        let mut wanted =
            Note { url: url.to_owned(), sha256: sha256.to_owned(), etag: String::new() };
        let mut file = place.write()?;
        let mut sum = Sum::new();
        match noted(&note) {
            Some(found) if found.url == url && found.sha256 == sha256 => {
                sum.read(&mut file, each)?;
                wanted.etag = found.etag;
            }
            _ => file.set_len(0)?,
        }
        Ok(Part { file, sum, destination, place, note, wanted })
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.sum.bytes()
    }

    /// The tag of what it is a part of.
    pub fn etag(&self) -> &str {
        &self.wanted.etag
    }

    /// Whether it is what is wanted: there is nothing left to fetch.
    pub fn is_whole(&self) -> bool {
        self.sum.hex() == self.wanted.sha256
    }

    /// SHA-256 of what there is.
    pub fn sha256(&self) -> String {
        self.sum.hex()
    }

    /// Begins anew, with a part of what has this tag. Without one it cannot be continued later.
    ///
    /// # Errors
    /// Those of the system.
    pub fn restart(&mut self, etag: Option<&str>) -> io::Result<()> {
        // First the note: a part without one is worth nothing, a note of another part is a lie.
        self.note.remove();
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.sum = Sum::new();
        self.wanted.etag = etag.unwrap_or_default().to_owned();
        if etag.is_some() {
            self.note.replace(serde_json::to_string(&self.wanted)?.as_bytes(), 0o600)?;
        }
        Ok(())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Those of the system.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.sum.push(bytes);
        Ok(())
    }

    /// Gives the whole file its name, durably.
    ///
    /// # Errors
    /// Those of the system.
    pub fn publish(self) -> io::Result<()> {
        self.place.publish(&self.file, 0o644, &self.destination)?;
        self.note.remove();
        Ok(())
    }

    /// Throws away what there is.
    pub fn discard(self) {
        self.note.remove();
        self.place.remove();
    }
}

fn noted(place: &Place) -> Option<Note> {
    let mut text = Vec::new();
    place.read().ok()?.take(NOTE_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// SHA-256 of a file that is there already.
pub fn present(place: &Place, mut each: impl FnMut(u64)) -> Option<(String, u64)> {
    let mut sum = Sum::new();
    sum.read(&mut place.read().ok()?, &mut each).ok()?;
    Some((sum.hex(), sum.bytes()))
}
