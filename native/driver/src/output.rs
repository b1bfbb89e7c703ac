//! Decides what is kept of what a child says: the head and tail of its output, and of its report
//! lines the result, the newest progress and the first mistake.
//!
//! Knows neither clocks nor descriptors: bytes and times are arguments.

use std::collections::VecDeque;

use serde_json::{Map, Value};

/// Bytes kept of the beginning of an output. A short output is kept whole in it.
pub const HEAD_BYTES: usize = 2 * 1024;
/// Bytes kept of its end, where errors stand.
pub const TAIL_BYTES: usize = 6 * 1024;
/// Longest report line, without its newline.
pub const LINE_BYTES: usize = 8 * 1024;
/// Largest result, as compact JSON.
pub const RESULT_BYTES: usize = 4 * 1024;
/// Largest progress value, as compact JSON.
pub const PROGRESS_BYTES: usize = 512;
/// What is parsed in one [`WINDOW_MS`]; lines above either are excess.
pub const WINDOW_LINES: u32 = 100;
/// Bytes parsed in one [`WINDOW_MS`], which bounds the time a child can take from others.
pub const WINDOW_BYTES: usize = 64 * 1024;
/// Milliseconds after which the two bounds above begin anew.
pub const WINDOW_MS: u64 = 1000;
/// Most characters kept of the first error text.
const ERROR_CHARACTERS: usize = 160;
/// What a line that sets a result has in it.
const RESULT_KEY: &[u8] = b"\"result\"";

/// The first and last bytes of a stream, and how many there were. Allocates only what it keeps.
#[derive(Debug, Clone)]
pub struct HeadTail {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_bytes: usize,
    tail_bytes: usize,
    bytes: u64,
}

/// A [`HeadTail`] as text. Invalid UTF-8 is replaced, so each text has at most three times the
/// bytes of its bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The beginning; everything, when `bytes` is not above the bound of the head.
    pub head: String,
    /// The end. It follows `head` without a gap when `bytes` is not above the sum of both bounds.
    pub tail: String,
    /// Length of the whole stream.
    pub bytes: u64,
}

impl Default for HeadTail {
    fn default() -> Self {
        Self::new(HEAD_BYTES, TAIL_BYTES)
    }
}

impl HeadTail {
    /// Keeps at most `head_bytes` of the beginning and `tail_bytes` of the end.
    pub fn new(head_bytes: usize, tail_bytes: usize) -> Self {
        HeadTail { head: Vec::new(), tail: VecDeque::new(), head_bytes, tail_bytes, bytes: 0 }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        let room = (self.head_bytes - self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(self.tail_bytes)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.tail_bytes);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// What was kept, cut between characters: none is torn unless it is at the edge of a gap, and
    /// there it is left out.
    pub fn to_parts(&self) -> Parts {
        let mut tail: Vec<u8> = self.tail.iter().copied().collect();
        let whole = self.head.len() + tail.len();
        let torn = if self.head.len() as u64 == self.bytes { 0 } else { torn_end(&self.head) };
        let (head, begun) = self.head.split_at(self.head.len() - torn);
        if whole as u64 == self.bytes {
            tail.splice(..0, begun.iter().copied());
        } else {
            let rest = tail.iter().take(3).take_while(|&&byte| byte & 0xC0 == 0x80).count();
            tail.drain(..rest);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Parts { head: text(head), tail: text(&tail), bytes: self.bytes }
    }
}

/// How many bytes at the end begin a character that is not complete.
fn torn_end(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    // An incomplete character is reported as invalid up to the end; so is any other wrong byte.
    let expected = match last.first() {
        Some(0xC2..=0xDF) => 2,
        Some(0xE0..=0xEF) => 3,
        Some(0xF0..=0xF4) => 4,
        _ => 0,
    };
    if last.len() < expected { last.len() } else { 0 }
}

/// An incremental reader of a child's report descriptor: JSON Lines.
///
/// `{"result": {...}}` sets the result (the last one counts), `{"progress": <value>}` replaces the
/// progress, other keys mean nothing; every complete line, whatever is in it, is a heartbeat.
/// Lines above the rate are counted and not parsed, except that the last of them that may hold a
/// result is kept and parsed at the end: a result is not lost to chatter before it.
#[derive(Debug, Default)]
pub struct ReportLines {
    line: Vec<u8>,
    /// The line is longer than is kept; its rest is passed over.
    overlong: bool,
    window: Window,
    /// The newest line above the rate that mentions a result.
    late: Option<Vec<u8>>,
    /// Everything but its `result`.
    summary: ReportSummary,
    /// The result as compact JSON: as a tree it could take sixteen times the memory.
    result: Option<String>,
    progress: Option<String>,
}

/// What a child has reported.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReportSummary {
    /// The result that it set last.
    pub result: Option<Map<String, Value>>,
    /// Why the result that it set last is not kept: `result_too_large` or `result_not_object`.
    pub result_error: Option<&'static str>,
    /// Complete lines.
    pub lines: u64,
    /// Of these, lines that were not understood.
    pub malformed: u64,
    /// What was wrong with the first of these.
    pub first_error: Option<String>,
    /// Of `lines`, those above the rate, which were not parsed.
    pub excess: u64,
}

#[derive(Debug, Default)]
struct Window {
    start_ms: u64,
    lines: u32,
    bytes: usize,
}

impl ReportLines {
    /// An empty reader.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, read at `now_ms` (monotonic), and returns how many lines they
    /// completed: each one is a heartbeat.
    pub fn push(&mut self, now_ms: u64, mut bytes: &[u8]) -> u64 {
        let before = self.summary.lines;
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.extend(&bytes[..end]);
            self.end_line(now_ms);
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
        self.summary.lines - before
    }

    /// The newest progress as compact JSON, once.
    pub fn take_progress(&mut self) -> Option<String> {
        self.progress.take()
    }

    /// What was reported, at the end of the stream. A last line needs no newline.
    pub fn finish(mut self, now_ms: u64) -> ReportSummary {
        if self.overlong || !self.line.is_empty() {
            self.end_line(now_ms);
        }
        if let Some(late) = self.late.take() {
            self.parse(&late);
        }
        self.summary.result = self.result.and_then(|text| serde_json::from_str(&text).ok());
        self.summary
    }

    fn extend(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(LINE_BYTES - self.line.len());
        self.overlong |= kept < bytes.len();
        self.line.extend_from_slice(&bytes[..kept]);
    }

    fn end_line(&mut self, now_ms: u64) {
        let line = std::mem::take(&mut self.line);
        let mentions_result = || line.windows(RESULT_KEY.len()).any(|part| part == RESULT_KEY);
        self.summary.lines += 1;
        if std::mem::take(&mut self.overlong) {
            if mentions_result() {
                self.late = None;
                self.set_result(Err("result_too_large"));
            }
            self.mistake(format!("a line is longer than {LINE_BYTES} bytes"));
        } else if self.window.admits(now_ms, line.len()) {
            if self.parse(&line) {
                self.late = None;
            }
            // Used again: most lines need no allocation.
            self.line = line;
            self.line.clear();
        } else {
            self.summary.excess += 1;
            if mentions_result() {
                self.late = Some(line);
            }
        }
    }

    /// Whether the line had a result, kept or not.
    fn parse(&mut self, line: &[u8]) -> bool {
        if line.trim_ascii().is_empty() {
            return false;
        }
        let mut object: Map<String, Value> = match serde_json::from_slice(line) {
            Ok(object) => object,
            Err(error) => {
                self.mistake(error.to_string());
                return false;
            }
        };
        if let Some(progress) = object.get("progress").map(Value::to_string) {
            if progress.len() <= PROGRESS_BYTES {
                self.progress = Some(progress);
            } else {
                self.mistake(format!("a progress is longer than {PROGRESS_BYTES} bytes"));
            }
        }
        let Some(result) = object.remove("result") else {
            return false;
        };
        let text = result.to_string();
        self.set_result(match result {
            Value::Object(_) if text.len() <= RESULT_BYTES => Ok(text),
            Value::Object(_) => Err("result_too_large"),
            _ => Err("result_not_object"),
        });
        true
    }

    fn set_result(&mut self, result: Result<String, &'static str>) {
        self.summary.result_error = result.as_ref().err().copied();
        self.result = result.ok();
    }

    fn mistake(&mut self, text: String) {
        self.summary.malformed += 1;
        if self.summary.first_error.is_none() {
            self.summary.first_error = Some(text.chars().take(ERROR_CHARACTERS).collect());
        }
    }
}

impl Window {
    fn admits(&mut self, now_ms: u64, bytes: usize) -> bool {
        if now_ms.saturating_sub(self.start_ms) >= WINDOW_MS {
            *self = Window { start_ms: now_ms, lines: 0, bytes: 0 };
        }
        let admitted = self.lines < WINDOW_LINES && self.bytes + bytes <= WINDOW_BYTES;
        if admitted {
            self.lines += 1;
            self.bytes += bytes;
        }
        admitted
    }
}
