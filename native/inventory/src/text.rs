//! A text that comes in pieces: as much of it as is kept, and what is to be known of all of it.

use crate::template::Scanner;
use ring::digest::{Context, SHA256};
use std::hash::Hasher;

/// A text as it passes by.
pub struct Passing<H> {
    /// Its beginning.
    pub kept: Vec<u8>,
    keep: usize,
    /// Bytes of all of it.
    pub bytes: u64,
    utf8: Utf8,
    hasher: Option<H>,
    scan: Option<(Scanner, Context)>,
    plain: bool,
}

impl<H: Hasher> Passing<H> {
    /// Keeps `keep` bytes; `hasher` hears all of them.
    pub fn new(keep: usize, hasher: Option<H>) -> Passing<H> {
        let utf8 = Utf8::default();
        Passing { kept: Vec::new(), keep, bytes: 0, utf8, hasher, scan: None, plain: true }
    }

    /// Looks at it as a chat template, and hashes it.
    pub fn scan(&mut self) {
        self.scan = Some((Scanner::default(), Context::new(&SHA256)));
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        let room = self.keep - self.kept.len();
        self.kept.extend_from_slice(&piece[..room.min(piece.len())]);
        self.bytes += piece.len() as u64;
        self.utf8.push(piece);
        self.plain = self.plain && piece.iter().all(|byte| (0x20..0x7f).contains(byte));
        if let Some(hasher) = &mut self.hasher {
            hasher.write(piece);
        }
        if let Some((scanner, digest)) = &mut self.scan {
            scanner.push(piece);
            digest.update(piece);
        }
    }

    /// Whether all of it is UTF-8.
    pub fn is_utf8(&self) -> bool {
        self.utf8.ended()
    }

    /// Whether all of it is printable ASCII.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// The hash of all of it; zero where none was asked for.
    pub fn hash(&self) -> u64 {
        self.hasher.as_ref().map_or(0, Hasher::finish)
    }

    /// What was kept, as far as it is text.
    pub fn text(&self) -> String {
        readable(&self.kept)
    }

    /// Whether there is more than was kept.
    pub fn is_cut(&self) -> bool {
        self.bytes > self.kept.len() as u64
    }

    /// What the scan came to, and the SHA-256.
    pub fn scanned(self) -> Option<(Scanner, String)> {
        let (scanner, digest) = self.scan?;
        Some((scanner, crate::hash::hex(digest.finish().as_ref())))
    }
}

/// Bytes as text: what is none becomes the replacement character, and a character that was cut at
/// the end is left out.
pub fn readable(bytes: &[u8]) -> String {
    let whole = match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    };
    String::from_utf8_lossy(whole).into_owned()
}

/// Whether a name leads elsewhere when it is taken for a path.
pub fn is_path_like(name: &str) -> bool {
    let parts = || name.split(['/', '\\']);
    name.starts_with(['/', '\\', '~']) || parts().any(|part| part == "..") || name.contains('\0')
}

/// Whether a name is a single one, as of a file in a folder.
pub fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= 255
        && !name.contains(|character: char| "/\\".contains(character) || character.is_control())
}

/// UTF-8 in pieces.
#[derive(Debug, Default)]
struct Utf8 {
    /// The beginning of a character whose rest is to come.
    begun: [u8; 4],
    count: usize,
    broken: bool,
}

impl Utf8 {
    fn push(&mut self, mut piece: &[u8]) {
        while self.count > 0 && !self.broken && !piece.is_empty() {
            self.begun[self.count] = piece[0];
            self.count += 1;
            piece = &piece[1..];
            match std::str::from_utf8(&self.begun[..self.count]) {
                Ok(_) => self.count = 0,
                Err(error) => self.broken = error.error_len().is_some() || self.count == 4,
            }
        }
        if self.broken {
            return;
        }
        if let Err(error) = std::str::from_utf8(piece) {
            let rest = &piece[error.valid_up_to()..];
            self.broken = error.error_len().is_some() || rest.len() > 3;
            if !self.broken {
                self.begun[..rest.len()].copy_from_slice(rest);
                self.count = rest.len();
            }
        }
    }

    fn ended(&self) -> bool {
        !self.broken && self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::DefaultHasher;

    proptest! {
        /// In whatever pieces it comes: UTF-8 is what the standard library says it is.
        #[test]
        fn pieces_make_no_difference(
            bytes in prop_oneof![
                any::<Vec<u8>>(), ".*".prop_map(String::into_bytes),
                (".{0,9}", any::<u8>(), ".{0,9}").prop_map(|(a, b, c)| {
                    [a.as_bytes(), &[b], c.as_bytes()].concat()
                })
            ],
            size in 1usize..5,
        ) {
            let mut passing = Passing::new(8, Some(DefaultHasher::new()));
            bytes.chunks(size).for_each(|piece| passing.push(piece));
            prop_assert_eq!(passing.is_utf8(), std::str::from_utf8(&bytes).is_ok());
            prop_assert_eq!(&passing.kept[..], &bytes[..bytes.len().min(8)]);
            prop_assert_eq!(passing.is_cut(), bytes.len() > 8);
        }
    }

    #[test]
    fn names_that_lead_elsewhere() {
        for name in ["../a", "a/../b", "/etc/passwd", "a\\..\\b", "~/x", "a\0b"] {
            assert!(is_path_like(name) && !is_file_name(name), "{name:?}");
        }
        for name in ["blk.0.weight", "a..b", "model/layer", "x~"] {
            assert!(!is_path_like(name), "{name:?}");
        }
        assert!(is_file_name("model-00001-of-00002.gguf") && !is_file_name(".."));
    }
}
