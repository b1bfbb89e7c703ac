//! Whether the tensors of a file fill it: no overlap, no hole, nothing behind the last.
//!
//! Writers put them in order, and then one pass needs no table. Where they are out of order, those
//! there can be in a bounded table are sorted at the end.

use crate::rules::{Findings, Rule};

/// The places of tensors.
pub struct Ranges {
    table: Vec<(u64, u64)>,
    count_max: usize,
    /// Where the last one ended.
    end: u64,
    in_order: bool,
    /// Something is not known, so nothing is said.
    unknown: bool,
}

impl Ranges {
    /// Knows at most `count_max` that are out of order.
    pub fn new(count_max: usize) -> Ranges {
        Ranges { table: Vec::new(), count_max, end: 0, in_order: true, unknown: false }
    }

    /// Adds one; false when there are too many to tell, for the first time.
    pub fn add(&mut self, begin: u64, end: u64) -> bool {
        if self.unknown {
            return true;
        }
        self.in_order = self.in_order && begin == self.end;
        self.end = end;
        if self.table.len() < self.count_max {
            self.table.push((begin, end));
            return true;
        }
        self.unknown = !self.in_order;
        !self.unknown
    }

    /// One has no place.
    pub fn give_up(&mut self) {
        self.unknown = true;
        self.table = Vec::new();
    }

    /// Says whether they fill `room` bytes.
    pub fn check(mut self, room: u64, findings: &mut Findings) {
        if self.unknown {
            return;
        }
        if !self.in_order {
            self.table.sort_unstable();
            self.end = 0;
            for &(begin, end) in &self.table {
                if begin != self.end {
                    let overlaps = begin < self.end;
                    let rule =
                        if overlaps { Rule::SafetensorsOverlap } else { Rule::SafetensorsGap };
                    findings.add(rule, format_args!("[{begin}, {end}] after {}", self.end));
                }
                self.end = self.end.max(end);
            }
        }
        let end = self.end;
        if end > room {
            findings.add(
                Rule::SafetensorsTruncated,
                format_args!("the tensors have {end} bytes, the file {room}"),
            );
        } else if end < room {
            findings.add(
                Rule::SafetensorsTrailing,
                format_args!("{} bytes behind the tensors", room - end),
            );
        }
    }
}
