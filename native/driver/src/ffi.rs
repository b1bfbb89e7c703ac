//! The C ABI: a handle, batches in, batches out, an event descriptor. Each function translates and
//! nothing else.
//!
//! Rules: every function returns a [`Status`]; outputs come last and are written only with `Ok`; a
//! batch has one result per item; the caller owns all memory and the core keeps no pointer after
//! return; integers have a fixed width; variable data is JSON or bytes in one blob per batch, as
//! (offset, length).

use crate::driver::Driver;
use crate::export;
use crate::guard::{Status, error, last_error};
use crate::host::{Outbound, Request, Told};
use crate::manual::Manual;
use crate::memory::Rows;
use crate::settings::{self, Settings};
use crate::table::Table;
use crate::uplink::{LinkRecord, Uplink};
use crate::{frame, items, recording, scan};
use limpet_core::Instant;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Version of this ABI: major in the upper half. A host that was built for another major must not
/// go on.
pub const ABI_VERSION: u32 = 1 << 16;

/// The core, opaque to the host.
pub struct Core {
    pub(crate) poisoned: AtomicBool,
    running: Running,
}

/// A core with threads, or one that its host moves.
#[expect(clippy::large_enum_variant, reason = "there is one of it, and it is on the heap")]
enum Running {
    Threads { driver: Driver, uplink: Uplink },
    // A host has one thread; the lock is never contended.
    ByHand(Box<Mutex<Manual>>),
}

impl Core {
    fn table(&self) -> Arc<Table> {
        match &self.running {
            Running::Threads { driver, .. } => Arc::clone(&driver.table),
            Running::ByHand(manual) => Arc::clone(&by_hand(manual).parts.table),
        }
    }

    fn host(&self) -> Outbound {
        match &self.running {
            Running::Threads { driver, .. } => driver.host.clone(),
            Running::ByHand(manual) => by_hand(manual).parts.host.clone(),
        }
    }

    fn uplink(&self) -> Option<&Uplink> {
        match &self.running {
            Running::Threads { uplink, .. } => Some(uplink),
            Running::ByHand(_) => None,
        }
    }

    fn request(&self, request: Request) -> Status {
        match &self.running {
            Running::Threads { driver, .. } => {
                driver.request(request).map_or(Status::Busy, |()| Status::Ok)
            }
            Running::ByHand(manual) => {
                by_hand(manual).request(request);
                Status::Ok
            }
        }
    }

    /// Wakes the timer, where that is a thread.
    fn nudge(&self) {
        if let Running::Threads { driver, .. } = &self.running {
            driver.nudge();
        }
    }
}

fn by_hand(manual: &Mutex<Manual>) -> MutexGuard<'_, Manual> {
    manual.lock().expect("a panic has poisoned the handle before the lock")
}

/// One thing the host asks for. Fields that an operation does not name are zero.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct LimpetItem {
    /// One of `LIMPET_SUBMIT` and so on.
    pub op: u32,
    /// Bits, by operation.
    pub flags: u32,
    /// Returned with the answer.
    pub token: u64,
    /// A task or an attempt, as an event named it.
    pub target: u64,
    /// A number, by operation.
    pub value: u64,
    /// Where its text begins in the blob.
    pub offset: u32,
    /// Bytes of its text.
    pub length: u32,
    /// SHA-256 of the message's body.
    pub digest: [u8; 32],
}

/// One thing the host hears.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct LimpetEvent {
    /// One of `LIMPET_ANSWER` and so on.
    pub kind: u32,
    /// A verdict, a stage, a step: by kind.
    pub code: u32,
    /// Whose answer it is, or the epoch of a connection.
    pub token: u64,
    /// A task or an attempt.
    pub target: u64,
    /// A number, by kind: the descriptor of a connection, bytes of a text, or -1.
    pub value: i64,
    /// Where its text begins in the blob.
    pub offset: u32,
    /// Bytes of its text.
    pub length: u32,
}

/// Accept a task: text is the compiled task, `digest` its body's, flag 1 waives the clock.
pub const LIMPET_SUBMIT: u32 = 1;
/// End a task: text is `{"id","source","by"}`, flag 1 allows tasks of others, `value` is an expiry
/// in wall ms.
pub const LIMPET_CANCEL: u32 = 2;
/// Add steps: text is `{"plan","extensions","next"}`; `next` null refuses them.
pub const LIMPET_EXTEND: u32 = 3;
/// The result of `target` has reached the broker.
pub const LIMPET_DELIVERED: u32 = 4;
/// The host has done what attempt `target` asked: `value` is an exit code, text says what went
/// wrong.
pub const LIMPET_HOST_DONE: u32 = 5;
/// Tell the state of every live task, then `LIMPET_LISTED`.
pub const LIMPET_LIST: u32 = 6;
/// Start nothing more; after `value` ms, stop what runs; then `LIMPET_DRAINED`.
pub const LIMPET_DRAIN: u32 = 7;
/// Write down what the machine was told lately; then `LIMPET_RECORDED`.
pub const LIMPET_RECORD: u32 = 8;

/// Answer to `token`: `code` is a verdict, `target` the task or all ones.
pub const LIMPET_ANSWER: u32 = 1;
/// Task `target` has changed.
pub const LIMPET_CHANGED: u32 = 2;
/// Task `target` is over; text is its history, behind `value` bytes that say which one it is.
pub const LIMPET_RESULT: u32 = 3;
/// Attempt `target` wants something done; text says what.
pub const LIMPET_WORK: u32 = 4;
/// The result of step `code` of task `target` asks for steps.
pub const LIMPET_CONTINUE: u32 = 5;
/// Connection `token` is at stage `code`; `value` is the host's end when it is up.
pub const LIMPET_LINK: u32 = 6;
/// The list is complete.
pub const LIMPET_LISTED: u32 = 7;
/// Nothing runs any more and nothing will start.
pub const LIMPET_DRAINED: u32 = 8;
/// Something is wrong that the operator must know.
pub const LIMPET_TROUBLE: u32 = 9;
/// What the machine was told lately is written down; text is `{"file"}`, or `{"fault"}` if not.
pub const LIMPET_RECORDED: u32 = 10;

export! {
    /// The version that this library was built with.
    fn limpet_abi_version(version_out: *mut u32) {
        write(version_out, ABI_VERSION)
    }

    /// Opens the core with a JSON document of settings; see `settings.rs`.
    fn limpet_open(settings: *const u8, length: usize, core_out: *mut *mut Core) {
        let Some(bytes) = slice(settings, length) else { return Status::Null };
        if core_out.is_null() {
            return Status::Null;
        }
        match open(bytes) {
            Ok(core) => write(core_out, Box::into_raw(Box::new(core))),
            Err(text) => error(Status::Failed, text),
        }
    }

    /// Opens a core without threads, for tests of a host: its clock stands at `at_ns` until it is
    /// moved.
    fn limpet_open_manual(
        settings: *const u8, length: usize, seed: u64, at_ns: u64, core_out: *mut *mut Core,
    ) {
        let Some(bytes) = slice(settings, length) else { return Status::Null };
        if core_out.is_null() {
            return Status::Null;
        }
        match open_by_hand(bytes, seed, at_ns) {
            Ok(core) => write(core_out, Box::into_raw(Box::new(core))),
            Err(text) => error(Status::Failed, text),
        }
    }

    /// Closes the core: what runs is killed, what is written is committed. Null is fine.
    fn limpet_close(core: *mut Core) {
        if !core.is_null() {
            // SAFETY: it came from `limpet_open` and, as its last use, comes back here once.
            drop(unsafe { Box::from_raw(core) });
        }
        Status::Ok
    }

    /// Checks a message's frame: where its body begins, and the body's SHA-256.
    fn limpet_frame(
        bytes: *const u8, length: usize, body_max: usize, offset_out: *mut u32, digest_out: *mut u8,
    ) {
        let Some(bytes) = slice(bytes, length) else { return Status::Null };
        if offset_out.is_null() || digest_out.is_null() {
            return Status::Null;
        }
        match frame::check(bytes, body_max) {
            Ok(body) => {
                let Ok(offset) = u32::try_from(body.offset) else { return Status::Invalid };
                // SAFETY: the caller gives 32 bytes.
                unsafe { digest_out.copy_from_nonoverlapping(body.digest.as_ptr(), 32) };
                write(offset_out, offset)
            }
            Err(refused) => error(Status::Refused, coded(refused.code, &refused.detail)),
        }
    }

    /// Reads a journal that is not locked: JSON lines of the records behind `after`, as many as
    /// fit. The directory is a path; nothing is written when there are no more.
    fn limpet_scan(
        directory: *const u8, length: usize, after: u64, text_out: *mut u8, size: usize,
        length_out: *mut usize,
    ) {
        lines(slice(directory, length), text_out, size, length_out, |path| {
            scan::lines(path, after, size)
        })
    }

    /// Feeds a recorded machine again: JSON lines of its inputs behind number `after`, as many as
    /// fit, the last with the sum. The path is a file or a directory; nothing is written when there
    /// are no more.
    fn limpet_replay(
        path: *const u8, length: usize, after: u64, text_out: *mut u8, size: usize,
        length_out: *mut usize,
    ) {
        lines(slice(path, length), text_out, size, length_out, |path| {
            recording::replay(path, after, size)
        })
    }

    /// The last error of this thread, cut to the buffer.
    fn limpet_last_error(text_out: *mut u8, size: usize, length_out: *mut usize) {
        copy_out(last_error().as_bytes(), text_out, size, length_out, true)
    }
}

export! {
    /// The descriptor that polls readable while there is something to poll. It stays the core's.
    fn limpet_event_fd(core: handle, fd_out: *mut i32) {
        write(fd_out, core.host().wake.as_fd().as_raw_fd())
    }

    /// Hands in a batch; writes one status per item, each a number of `Status`.
    fn limpet_submit(
        core: handle, items: *const LimpetItem, count: u32, blob: *const u8, length: usize,
        results_out: *mut u32,
    ) {
        let (Some(items), Some(blob)) = (slice(items, count as usize), slice(blob, length)) else {
            return Status::Null;
        };
        if results_out.is_null() && count > 0 {
            return Status::Null;
        }
        for (place, item) in items.iter().enumerate() {
            let status = submit(core, item, blob);
            // SAFETY: the caller gives room for `count` results.
            unsafe { results_out.add(place).write(status as u32) };
        }
        core.nudge();
        Status::Ok
    }

    /// Takes up to `events_max` events, whose texts fit `blob_size` bytes together.
    fn limpet_poll(
        core: handle, events_out: *mut LimpetEvent, events_max: u32, blob_out: *mut u8,
        blob_size: usize, count_out: *mut u32,
    ) {
        if events_out.is_null() || blob_out.is_null() || count_out.is_null() {
            return Status::Null;
        }
        // Quiet first: whatever comes from here on makes it readable again.
        let host = core.host();
        host.wake.rest();
        while let Some(record) = core.uplink().and_then(Uplink::next_record) {
            host.push(link_told(record));
        }
        let (mut count, mut used, mut rest, mut was_full) = (0u32, 0usize, true, false);
        while count < events_max {
            let left = blob_size - used;
            let popped = host.pop(|told| text_of(told).len() <= left);
            was_full |= popped.was_full;
            let Some(told) = popped.event else {
                if popped.more && count == 0 {
                    return Status::TooSmall;
                }
                rest = popped.more;
                break;
            };
            let text = text_of(&told).to_owned();
            // SAFETY: the caller gives `blob_size` bytes, of which `left` are free and enough.
            unsafe { blob_out.add(used).copy_from_nonoverlapping(text.as_ptr(), text.len()) };
            let (Ok(offset), Ok(length)) = (u32::try_from(used), u32::try_from(text.len())) else {
                return Status::TooSmall;
            };
            // SAFETY: the caller gives room for `events_max` events.
            unsafe { events_out.add(count as usize).write(event(told, offset, length)) };
            used += text.len();
            count += 1;
        }
        if rest {
            host.wake.wake();
        }
        if was_full {
            core.nudge();
        }
        write(count_out, count)
    }

    /// Connects to a broker: a JSON document as in `uplink.rs`. Replaces a connection that there
    /// is.
    fn limpet_connect(core: handle, target: *const u8, length: usize, epoch_out: *mut u64) {
        let Some(bytes) = slice(target, length) else { return Status::Null };
        match settings::target(bytes) {
            Ok(target) => match core.uplink() {
                Some(uplink) => write(epoch_out, uplink.connect(target)),
                None => error(Status::Invalid, "cannot connect: a core by hand has no uplink"),
            },
            Err(text) => error(Status::Invalid, text),
        }
    }

    /// Ends a connection.
    fn limpet_disconnect(core: handle, epoch: u64) {
        if let Some(uplink) = core.uplink() {
            uplink.disconnect(epoch);
        }
        Status::Ok
    }

    /// Moves the clock of a core by hand to an instant, through every deadline on the way.
    fn limpet_advance(core: handle, to_ns: u64) {
        let Running::ByHand(manual) = &core.running else { return not_by_hand() };
        by_hand(manual).advance(Instant(to_ns));
        Status::Ok
    }

    /// Tells a core by hand how the world answers: JSON, see `manual.rs`.
    fn limpet_inject(core: handle, answer: *const u8, length: usize) {
        let Running::ByHand(manual) = &core.running else { return not_by_hand() };
        let Some(bytes) = slice(answer, length) else { return Status::Null };
        match by_hand(manual).inject(bytes) {
            Ok(()) => Status::Ok,
            Err(text) => error(Status::Invalid, text),
        }
    }

    /// What a core by hand has asked of the world since the last call, as JSON.
    fn limpet_effects(core: handle, text_out: *mut u8, size: usize, length_out: *mut usize) {
        let Running::ByHand(manual) = &core.running else { return not_by_hand() };
        let text = by_hand(manual).take_effects();
        copy_out(text.as_bytes(), text_out, size, length_out, false)
    }

    /// Counters and what opening found, as JSON.
    fn limpet_stats(core: handle, text_out: *mut u8, size: usize, length_out: *mut usize) {
        let (stats, opened) = match &core.running {
            Running::Threads { driver, .. } => (driver.stats(), driver.opened.clone()),
            Running::ByHand(manual) => {
                let manual = by_hand(manual);
                let stats = *manual.parts.stats.lock().unwrap_or_else(PoisonError::into_inner);
                (stats, manual.parts.opened.clone())
            }
        };
        let text = serde_json::json!({
            "inputs": stats.inputs, "accepted": stats.accepted, "attempts": stats.attempts,
            "never": stats.never, "stale": stats.stale, "opened": opened,
        });
        copy_out(text.to_string().as_bytes(), text_out, size, length_out, false)
    }

    /// Memory of every attempt that runs a process, as JSON; see `memory.rs`. Renewed about once a
    /// second while it is asked for at least every 5 s.
    fn limpet_memory(core: handle, text_out: *mut u8, size: usize, length_out: *mut usize) {
        let rows = match &core.running {
            Running::Threads { driver, .. } => driver.memory(),
            Running::ByHand(_) => Rows::default(),
        };
        let text = serde_json::json!(rows).to_string();
        copy_out(text.as_bytes(), text_out, size, length_out, false)
    }
}

fn open(bytes: &[u8]) -> Result<Core, String> {
    let driver = Driver::open(&read_settings(bytes)?)?;
    let wake = driver.host.wake.clone();
    let uplink = Uplink::start(Box::new(move || wake.wake()))
        .map_err(|cause| format!("cannot start the uplink: {cause} (the agent does not start)"))?;
    uplink.set_clock_floor(driver.opened.known_wall_ms / 1000);
    let running = Running::Threads { driver, uplink };
    Ok(Core { poisoned: AtomicBool::new(false), running })
}

fn open_by_hand(bytes: &[u8], seed: u64, at_ns: u64) -> Result<Core, String> {
    let manual = Manual::open(&read_settings(bytes)?, seed, Instant(at_ns))?;
    let running = Running::ByHand(Box::new(Mutex::new(manual)));
    Ok(Core { poisoned: AtomicBool::new(false), running })
}

fn read_settings(bytes: &[u8]) -> Result<Settings, String> {
    serde_json::from_slice(bytes)
        .map_err(|cause| format!("cannot read settings: {cause} (the agent does not start)"))
}

fn not_by_hand() -> Status {
    error(Status::Invalid, "cannot move a core that has threads")
}

/// What `read` finds at a path, if it fits.
fn lines(
    path: Option<&[u8]>,
    text_out: *mut u8,
    size: usize,
    length_out: *mut usize,
    read: impl FnOnce(&Path) -> Result<(String, bool), String>,
) -> Status {
    let Some(bytes) = path else { return Status::Null };
    match read(Path::new(OsStr::from_bytes(bytes))) {
        Ok((text, more)) if text.is_empty() && more => Status::TooSmall,
        Ok((text, _)) => copy_out(text.as_bytes(), text_out, size, length_out, false),
        Err(text) => error(Status::Failed, text),
    }
}

fn link_told(record: LinkRecord) -> Told {
    Told::Link {
        epoch: record.epoch,
        stage: record.stage as u32,
        end: record.host_end,
        text: coded(record.code, &record.detail),
    }
}

fn submit(core: &Core, item: &LimpetItem, blob: &[u8]) -> Status {
    let (start, end) = (item.offset as usize, item.offset as usize + item.length as usize);
    let Some(text) = blob.get(start..end) else {
        return error(Status::Invalid, "cannot read an item: its text is outside the blob");
    };
    match items::request(&core.table(), item, text) {
        Ok(request) => core.request(request),
        Err(status) => status,
    }
}

pub(crate) fn coded(code: &str, detail: &str) -> String {
    serde_json::json!({"code": code, "detail": detail}).to_string()
}

fn text_of(told: &Told) -> &str {
    match told {
        Told::Answer { text, .. }
        | Told::Changed { text, .. }
        | Told::Result { text, .. }
        | Told::Work { text, .. }
        | Told::Continue { text, .. }
        | Told::Link { text, .. }
        | Told::Recorded { text }
        | Told::Trouble { text } => text,
        Told::Listed | Told::Drained => "",
    }
}

fn event(told: Told, offset: u32, length: u32) -> LimpetEvent {
    let blank = LimpetEvent { kind: 0, code: 0, token: 0, target: 0, value: -1, offset, length };
    match told {
        Told::Answer { token, task, verdict, .. } => {
            LimpetEvent { kind: LIMPET_ANSWER, code: verdict, token, target: task, ..blank }
        }
        Told::Changed { task, .. } => LimpetEvent { kind: LIMPET_CHANGED, target: task, ..blank },
        Told::Result { task, head, .. } => {
            let value = i64::try_from(head).unwrap_or_default();
            LimpetEvent { kind: LIMPET_RESULT, target: task, value, ..blank }
        }
        Told::Work { attempt, .. } => LimpetEvent { kind: LIMPET_WORK, target: attempt, ..blank },
        Told::Continue { task, step, .. } => {
            LimpetEvent { kind: LIMPET_CONTINUE, target: task, code: u32::from(step), ..blank }
        }
        Told::Link { epoch, stage, end, .. } => {
            let value = end.map_or(-1, |end| i64::from(end.into_raw_fd()));
            LimpetEvent { kind: LIMPET_LINK, code: stage, token: epoch, value, ..blank }
        }
        Told::Listed => LimpetEvent { kind: LIMPET_LISTED, ..blank },
        Told::Drained => LimpetEvent { kind: LIMPET_DRAINED, ..blank },
        Told::Recorded { .. } => LimpetEvent { kind: LIMPET_RECORDED, ..blank },
        Told::Trouble { .. } => LimpetEvent { kind: LIMPET_TROUBLE, ..blank },
    }
}

/// A slice from a pointer and a length; null is fine for no elements.
fn slice<'a, T>(pointer: *const T, length: usize) -> Option<&'a [T]> {
    if length == 0 {
        return Some(&[]);
    }
    // SAFETY: not null, and valid for `length` elements by the promise of every exported function.
    (!pointer.is_null()).then(|| unsafe { std::slice::from_raw_parts(pointer, length) })
}

fn write<T>(out: *mut T, value: T) -> Status {
    if out.is_null() {
        return Status::Null;
    }
    // SAFETY: not null, and valid for one element by the promise of every exported function.
    unsafe { out.write(value) };
    Status::Ok
}

fn copy_out(bytes: &[u8], out: *mut u8, size: usize, length_out: *mut usize, cut: bool) -> Status {
    if out.is_null() || length_out.is_null() {
        return Status::Null;
    }
    if bytes.len() > size && !cut {
        return Status::TooSmall;
    }
    let length = bytes.len().min(size);
    // SAFETY: the caller gives `size` bytes, and `length` is not more.
    unsafe { out.copy_from_nonoverlapping(bytes.as_ptr(), length) };
    write(length_out, length)
}
