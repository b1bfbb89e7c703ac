//! Reads a source forwards through one buffer of fixed size: what a file claims never becomes an
//! allocation, and what is skipped is not read.

use crate::source::{Source, Watch};
use std::io;

/// Read at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Why reading ended.
#[derive(Debug)]
pub enum Stop {
    /// There is nothing more up to the reader's bound.
    End,
    /// Whoever watches had enough.
    Cancelled,
    /// The system says why.
    Failed(io::Error),
}

/// See the head of this file.
pub struct Reader<'s> {
    source: &'s dyn Source,
    watch: &'s dyn Watch,
    buffer: Box<[u8]>,
    /// Where in the source the buffer begins, and how much of it is filled.
    start: u64,
    filled: usize,
    position: u64,
    end: u64,
    /// Numbers have their highest byte first.
    pub(crate) big_endian: bool,
}

impl<'s> Reader<'s> {
    /// From the beginning to the end.
    pub fn new(source: &'s dyn Source, watch: &'s dyn Watch) -> Reader<'s> {
        let end = source.size();
        // A small file needs no large buffer; bounded, so it fits.
        let room = end.clamp(1, BUFFER_BYTES as u64) as usize;
        let buffer = vec![0; room].into_boxed_slice();
        let (start, filled, position) = (0, 0, 0);
        Reader { source, watch, buffer, start, filled, position, end, big_endian: false }
    }

    /// Where the next byte is.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes up to the bound.
    pub fn left(&self) -> u64 {
        self.end - self.position
    }

    /// Of the whole source, whatever the bound.
    pub fn size(&self) -> u64 {
        self.source.size()
    }

    /// Nothing is read from `end` on.
    pub fn bound(&mut self, end: u64) {
        self.end = end.min(self.source.size()).max(self.position);
    }

    /// The next bytes, at least one and at most `most`; they count as read.
    ///
    /// # Errors
    /// `End` when there is none.
    pub fn chunk(&mut self, most: u64) -> Result<&[u8], Stop> {
        self.fill()?;
        let from = (self.position - self.start) as usize;
        let most = usize::try_from(most.min(self.left())).unwrap_or(usize::MAX);
        let until = self.filled.min(from.saturating_add(most));
        self.position = self.start + until as u64;
        Ok(&self.buffer[from..until])
    }

    /// The next byte, which stays.
    ///
    /// # Errors
    /// `End` when there is none.
    pub fn peek(&mut self) -> Result<u8, Stop> {
        self.fill()?;
        Ok(self.buffer[(self.position - self.start) as usize])
    }

    /// The next byte.
    ///
    /// # Errors
    /// `End` when there is none.
    pub fn byte(&mut self) -> Result<u8, Stop> {
        let byte = self.peek()?;
        self.position += 1;
        Ok(byte)
    }

    /// Gives the last `bytes` of the last chunk back.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.position -= bytes as u64;
    }

    /// Passes over bytes without reading them.
    ///
    /// # Errors
    /// `End` when there are fewer; then none is passed over.
    pub fn skip(&mut self, bytes: u64) -> Result<(), Stop> {
        if bytes > self.left() {
            return Err(Stop::End);
        }
        self.position += bytes;
        Ok(())
    }

    /// A whole number of so many bytes, at most eight.
    ///
    /// # Errors
    /// `End` when there are fewer.
    pub fn number(&mut self, bytes: u32) -> Result<u64, Stop> {
        if u64::from(bytes) > self.left() {
            return Err(Stop::End);
        }
        let mut number = 0;
        for index in 0..bytes {
            let byte = u64::from(self.byte()?);
            number |= byte << (8 * if self.big_endian { bytes - 1 - index } else { index });
        }
        Ok(number)
    }

    fn fill(&mut self) -> Result<(), Stop> {
        if self.position >= self.end {
            return Err(Stop::End);
        }
        if (self.start..self.start + self.filled as u64).contains(&self.position) {
            return Ok(());
        }
        if self.watch.cancelled() {
            return Err(Stop::Cancelled);
        }
        (self.start, self.filled) = (self.position, 0);
        self.filled = read(self.source, self.start, &mut self.buffer)?;
        // The file may have become shorter since it was opened.
        if self.filled == 0 { Err(Stop::End) } else { Ok(()) }
    }
}

/// Reads once, again if it was interrupted.
pub(crate) fn read(source: &dyn Source, offset: u64, into: &mut [u8]) -> Result<usize, Stop> {
    loop {
        match source.read_at(offset, into) {
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Stop::Failed(error)),
        }
    }
}
