//! Journal records as bytes, both ways. Pure: where the bytes lie is the driver's affair.
//!
//! A record is a fixed part, written here, followed by whatever the driver attaches (JSON: the
//! plan, or what an attempt left behind). All numbers are little-endian.
//!
//! ```text
//! stamp    at u64 | wall_ms u63, trusted u1 | boot u32
//! body     by kind, see `Record`
//! headers  Accepted and Extended only: `steps` times 16 bytes
//! ```
//!
//! Kinds 4 and 9 are acceptance and extension as they were before a step took memory from a pool:
//! their headers have 12 bytes. They are read, and not written any more.

use crate::message::{Clock, Outcome, StepHeader, When};
use crate::time::{Instant, Now};

/// No fixed part with its step headers is longer.
pub const FIXED_BYTES_MAX: usize = 640;
/// Kinds of the records that have a plan or an extension attached, those of older versions too.
pub const PLANS: [u8; 4] = [4, 9, ACCEPTED, EXTENDED];
const ACCEPTED: u8 = 15;
const EXTENDED: u8 = 16;
/// Kind of the record of a step's end.
pub const ENDED: u8 = 8;
const HEADER_BYTES: usize = 16;
const HEADER_BYTES_BEFORE: usize = 12;
const TRUSTED: u64 = 1 << 63;

/// One entry of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Record {
    /// The agent started.
    Opened,
    /// The agent stopped in order: nothing was in flight.
    Stopped,
    /// Nothing but the time.
    Checkpoint,
    /// A task was accepted. Attached: the plan.
    Accepted(Accepted),
    /// An attempt is about to start.
    Started {
        /// Index of the step.
        step: u8,
        /// Which try, from 1.
        attempt: u8,
        /// Unclean exits so far with this step in flight.
        suspicions: u8,
    },
    /// An attempt failed and will be tried again. Attached: what it left.
    Tried {
        /// Index of the step.
        step: u8,
        /// Which try, from 1.
        attempt: u8,
        /// How it ended.
        outcome: Outcome,
    },
    /// An attempt was stopped because the agent stops; it will run again.
    Interrupted {
        /// Index of the step.
        step: u8,
    },
    /// A step is over. Attached: what its last attempt left.
    Ended {
        /// Index of the step.
        step: u8,
        /// Tries used.
        attempt: u8,
        /// How it ended.
        outcome: Outcome,
        /// Which clock ran out.
        clock: Clock,
        /// Exit code, or the negative number of a signal.
        code: i32,
        /// Its result asks for more steps.
        continues: bool,
        /// A process of it could not be killed.
        unreaped: bool,
    },
    /// Steps were added behind a step. Attached: the steps.
    Extended {
        /// Index of the step that asked.
        after: u8,
        /// How many; 0 when the host refused them.
        steps: u8,
    },
    /// Somebody asked for the task's end.
    CancelRequested,
    /// The outcome of the task is fixed.
    Decided {
        /// The outcome.
        outcome: Outcome,
        /// Index of the step that decided it; 255 for none.
        step: u8,
        /// Which clock ran out.
        clock: Clock,
    },
    /// The task is over, finally steps included.
    Finished,
    /// The result has reached the broker; the id stays known until it expires.
    Delivered {
        /// Identity.
        key: u128,
        /// Hash of the body.
        digest: u64,
        /// Wall ms until which the id is kept.
        expires_ms: u64,
        /// How the task ended.
        outcome: Outcome,
    },
    /// A cancel came before its task.
    Tombstone {
        /// Identity.
        key: u128,
        /// Wall ms until which it is kept.
        expires_ms: u64,
    },
}

/// The fixed part of an acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Accepted {
    /// Identity.
    pub key: u128,
    /// Hash of the body.
    pub digest: u64,
    /// Hash of who sent it.
    pub source: u64,
    /// Wall ms after which the id may be forgotten.
    pub expires_ms: u64,
    /// Clock of the whole, ms; 0 is none.
    pub schedule_to_close_ms: u64,
    /// Clock of all finally steps, ms.
    pub finally_ms: u32,
    /// Journal bytes set aside for the task.
    pub reserved: u32,
    /// Higher runs first.
    pub priority: i8,
    /// Steps that continuation may add.
    pub additions: u8,
    /// Number of step headers that follow.
    pub steps: u8,
}

/// When a record was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// All that was known of time.
    pub now: Now,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than its kind demands.
    Short,
    /// A kind that this version does not know.
    Kind(u8),
    /// A number without meaning.
    Value,
}

impl Record {
    /// The number of its kind on disk. Numbers are never reused.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self {
            Record::Opened => 1,
            Record::Stopped => 2,
            Record::Checkpoint => 3,
            Record::Accepted(_) => ACCEPTED,
            Record::Started { .. } => 5,
            Record::Tried { .. } => 6,
            Record::Interrupted { .. } => 7,
            Record::Ended { .. } => ENDED,
            Record::Extended { .. } => EXTENDED,
            Record::CancelRequested => 10,
            Record::Decided { .. } => 11,
            Record::Finished => 12,
            Record::Delivered { .. } => 13,
            Record::Tombstone { .. } => 14,
        }
    }

    /// Writes stamp, body and headers; returns how many bytes of `out` they take.
    ///
    /// # Panics
    /// If `out` is shorter than [`FIXED_BYTES_MAX`] or more headers come than a task may have.
    pub fn encode(
        &self,
        now: Now,
        headers: impl Iterator<Item = StepHeader>,
        out: &mut [u8],
    ) -> usize {
        assert!(out.len() >= FIXED_BYTES_MAX);
        let mut put = Writer { out, used: 0 };
        put.bytes(&now.at.0.to_le_bytes());
        assert!(now.wall_ms < TRUSTED);
        put.bytes(&(now.wall_ms | if now.trusted { TRUSTED } else { 0 }).to_le_bytes());
        put.bytes(&now.boot.to_le_bytes());
        self.encode_body(&mut put);
        for header in headers {
            put.bytes(&encode_header(&header));
        }
        put.used
    }

    fn encode_body(&self, put: &mut Writer<'_>) {
        match *self {
            Record::Opened
            | Record::Stopped
            | Record::Checkpoint
            | Record::CancelRequested
            | Record::Finished => {}
            Record::Accepted(a) => {
                put.bytes(&a.key.to_le_bytes());
                put.bytes(&a.digest.to_le_bytes());
                put.bytes(&a.source.to_le_bytes());
                put.bytes(&a.expires_ms.to_le_bytes());
                put.bytes(&a.schedule_to_close_ms.to_le_bytes());
                put.bytes(&a.finally_ms.to_le_bytes());
                put.bytes(&a.reserved.to_le_bytes());
                put.bytes(&[a.priority.to_le_bytes()[0], a.additions, a.steps]);
            }
            Record::Started { step, attempt, suspicions } => {
                put.bytes(&[step, attempt, suspicions]);
            }
            Record::Tried { step, attempt, outcome } => put.bytes(&[step, attempt, outcome as u8]),
            Record::Interrupted { step } => put.bytes(&[step]),
            Record::Ended { step, attempt, outcome, clock, code, continues, unreaped } => {
                let flags = u8::from(continues) | u8::from(unreaped) << 1;
                put.bytes(&[step, attempt, outcome as u8, clock as u8, flags]);
                put.bytes(&code.to_le_bytes());
            }
            Record::Extended { after, steps } => put.bytes(&[after, steps]),
            Record::Decided { outcome, step, clock } => {
                put.bytes(&[outcome as u8, step, clock as u8]);
            }
            Record::Delivered { key, digest, expires_ms, outcome } => {
                put.bytes(&key.to_le_bytes());
                put.bytes(&digest.to_le_bytes());
                put.bytes(&expires_ms.to_le_bytes());
                put.bytes(&[outcome as u8]);
            }
            Record::Tombstone { key, expires_ms } => {
                put.bytes(&key.to_le_bytes());
                put.bytes(&expires_ms.to_le_bytes());
            }
        }
    }

    /// Reads a record back; the last part is what the driver had attached.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes cannot have been written by [`Record::encode`].
    pub fn decode(
        kind: u8,
        bytes: &[u8],
    ) -> Result<(Record, Stamp, Headers<'_>, &[u8]), Malformed> {
        let mut take = Reader { rest: bytes };
        let at = Instant(take.u64()?);
        let wall = take.u64()?;
        let boot = take.u32()?;
        let now = Now { at, wall_ms: wall & !TRUSTED, trusted: wall & TRUSTED != 0, boot };
        let record = Record::decode_body(kind, &mut take)?;
        let count = match record {
            Record::Accepted(a) => a.steps,
            Record::Extended { steps, .. } => steps,
            _ => 0,
        };
        if count > crate::limits::TASK_STEPS_MAX {
            return Err(Malformed::Value);
        }
        let each = if matches!(kind, 4 | 9) { HEADER_BYTES_BEFORE } else { HEADER_BYTES };
        let bytes = take.slice(count as usize * each)?;
        for header in bytes.chunks_exact(each) {
            decode_header(header)?;
        }
        Ok((record, Stamp { now }, Headers { bytes, each }, take.rest))
    }

    fn decode_body(kind: u8, take: &mut Reader<'_>) -> Result<Record, Malformed> {
        Ok(match kind {
            1 => Record::Opened,
            2 => Record::Stopped,
            3 => Record::Checkpoint,
            4 | ACCEPTED => Record::Accepted(Accepted {
                key: take.u128()?,
                digest: take.u64()?,
                source: take.u64()?,
                expires_ms: take.u64()?,
                schedule_to_close_ms: take.u64()?,
                finally_ms: take.u32()?,
                reserved: take.u32()?,
                priority: i8::from_le_bytes([take.u8()?]),
                additions: take.u8()?,
                steps: take.u8()?,
            }),
            5 => Record::Started { step: take.u8()?, attempt: take.u8()?, suspicions: take.u8()? },
            6 => Record::Tried { step: take.u8()?, attempt: take.u8()?, outcome: take.outcome()? },
            7 => Record::Interrupted { step: take.u8()? },
            ENDED => {
                let (step, attempt) = (take.u8()?, take.u8()?);
                let (outcome, clock, flags) = (take.outcome()?, take.clock()?, take.u8()?);
                let code = i32::from_le_bytes(take.u32()?.to_le_bytes());
                if flags > 3 {
                    return Err(Malformed::Value);
                }
                let (continues, unreaped) = (flags & 1 != 0, flags & 2 != 0);
                Record::Ended { step, attempt, outcome, clock, code, continues, unreaped }
            }
            9 | EXTENDED => Record::Extended { after: take.u8()?, steps: take.u8()? },
            10 => Record::CancelRequested,
            11 => {
                Record::Decided { outcome: take.outcome()?, step: take.u8()?, clock: take.clock()? }
            }
            12 => Record::Finished,
            13 => Record::Delivered {
                key: take.u128()?,
                digest: take.u64()?,
                expires_ms: take.u64()?,
                outcome: take.outcome()?,
            },
            14 => Record::Tombstone { key: take.u128()?, expires_ms: take.u64()? },
            other => return Err(Malformed::Kind(other)),
        })
    }
}

/// The step headers of a record, decoded one by one.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    each: usize,
}

impl Headers<'_> {
    /// The headers in order. They were checked when the record was decoded.
    pub fn iter(&self) -> impl Iterator<Item = StepHeader> + '_ {
        self.bytes.chunks_exact(self.each).filter_map(|bytes| decode_header(bytes).ok())
    }
}

fn encode_header(header: &StepHeader) -> [u8; HEADER_BYTES] {
    let flags = u8::from(header.finally)
        | u8::from(header.stop) << 1
        | u8::from(header.guarded) << 2
        | u8::from(header.reboot) << 3;
    let (kind, step, outcome, code, negate) = match header.when {
        When::Always => (0, 0, 0, 0, false),
        When::Outcome { step, outcome, negate } => (1, step, outcome as u8, 0, negate),
        When::ExitCode { step, code, negate } => (2, step, 0, code, negate),
    };
    let mut out = [0; HEADER_BYTES];
    out[..4].copy_from_slice(&[flags, kind | u8::from(negate) << 7, step, outcome]);
    out[4..8].copy_from_slice(&code.to_le_bytes());
    out[8..12].copy_from_slice(&header.schedule_to_start_ms.to_le_bytes());
    out[12..].copy_from_slice(&header.memory_kib.to_le_bytes());
    out
}

fn decode_header(bytes: &[u8]) -> Result<StepHeader, Malformed> {
    let mut take = Reader { rest: bytes };
    let (flags, kind, step, outcome) = (take.u8()?, take.u8()?, take.u8()?, take.outcome()?);
    let code = i32::from_le_bytes(take.u32()?.to_le_bytes());
    let schedule_to_start_ms = take.u32()?;
    let memory_kib = if take.rest.is_empty() { 0 } else { take.u32()? };
    let negate = kind & 0x80 != 0;
    let when = match kind & 0x7f {
        0 => When::Always,
        1 => When::Outcome { step, outcome, negate },
        2 => When::ExitCode { step, code, negate },
        _ => return Err(Malformed::Value),
    };
    if flags > 15 {
        return Err(Malformed::Value);
    }
    Ok(StepHeader {
        finally: flags & 1 != 0,
        stop: flags & 2 != 0,
        guarded: flags & 4 != 0,
        reboot: flags & 8 != 0,
        schedule_to_start_ms,
        memory_kib,
        when,
    })
}

struct Writer<'a> {
    out: &'a mut [u8],
    used: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        self.out[self.used..end].copy_from_slice(bytes);
        self.used = end;
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn slice(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Result<u128, Malformed> {
        self.array().map(u128::from_le_bytes)
    }

    fn outcome(&mut self) -> Result<Outcome, Malformed> {
        Outcome::from_number(self.u8()?).ok_or(Malformed::Value)
    }

    fn clock(&mut self) -> Result<Clock, Malformed> {
        Clock::from_number(self.u8()?).ok_or(Malformed::Value)
    }
}
