//! SHA-256 of a file, and how it is written down.

use ring::digest::{Context, SHA256};
use std::io::{self, Read};

/// Read at once.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// A sum that is still growing.
#[derive(Clone)]
pub struct Sum {
    context: Context,
    bytes: u64,
}

impl Sum {
    /// Of nothing.
    pub fn new() -> Sum {
        Sum { context: Context::new(&SHA256), bytes: 0 }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Takes everything that is left to read; `each` hears how many bytes there have been.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn read(&mut self, from: &mut impl Read, mut each: impl FnMut(u64)) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match from.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => self.push(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            each(self.bytes);
        }
    }

    /// How many bytes it covers.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// In lower-case hexadecimal.
    pub fn hex(&self) -> String {
        let digest = self.context.clone().finish();
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
