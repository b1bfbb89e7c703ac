//! Decides how many bytes of results the host has at a time: it keeps each until the broker has it.
#![forbid(unsafe_code)]

use crate::host::TEXT_BYTES_MAX;
use std::collections::{HashMap, VecDeque};

/// Of results that are with the host. The one that passes it is the last, and at most so long that
/// they have 1 MiB together.
const BYTES_MAX: usize = (1 << 20) - TEXT_BYTES_MAX;

/// The results that the host has, by their tasks' names in the journal, and those that wait until
/// it has fewer. The machine bounds how many there are of both.
#[derive(Debug)]
pub struct Offers<T> {
    bytes: HashMap<u64, usize>,
    waiting: VecDeque<T>,
}

impl<T> Default for Offers<T> {
    fn default() -> Self {
        Offers { bytes: HashMap::new(), waiting: VecDeque::new() }
    }
}

impl<T> Offers<T> {
    /// Takes a result that is to be offered. They come out of [`Offers::next`] in the same order.
    pub fn push(&mut self, result: T) {
        self.waiting.push_back(result);
    }

    /// The next one for the host, if there is room; [`Offers::offered`] tells how long it was.
    pub fn next(&mut self) -> Option<T> {
        let is_full = self.bytes.values().sum::<usize>() >= BYTES_MAX;
        if is_full { None } else { self.waiting.pop_front() }
    }

    /// Notes that the host has the result of a task.
    pub fn offered(&mut self, task: u64, bytes: usize) {
        self.bytes.insert(task, bytes);
    }

    /// Notes that the host has it no more, if it ever had.
    pub fn delivered(&mut self, task: u64) {
        self.bytes.remove(&task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small results pass one after the other, long ones wait for a delivery, and their order is
    /// kept. Whoever was never offered counts nothing.
    #[test]
    fn long_results_wait_for_room() {
        let mut offers = Offers::default();
        let long = 128 << 10;
        for task in 0..40 {
            offers.push(task);
        }
        let mut told = Vec::new();
        while let Some(task) = offers.next() {
            told.push(task);
            offers.offered(task, if task < 10 { 100 } else { long });
        }
        assert_eq!(told.len(), 10 + 7, "the seventh passes the bound");
        offers.delivered(99);
        offers.delivered(3);
        assert_eq!(offers.next(), None);
        offers.delivered(12);
        assert_eq!(offers.next(), Some(17));
        offers.offered(17, 2 * long);
        offers.delivered(11);
        assert_eq!(offers.next(), None, "it was longer than what it followed");
    }
}
