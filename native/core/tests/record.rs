//! Records as bytes: what is written can be read, and what cannot have been written is refused.

use limpet_core::message::{Clock, Outcome, StepHeader, When};
use limpet_core::record::{Accepted, FIXED_BYTES_MAX, Malformed, Record};
use limpet_core::{Instant, Now};

const KINDS: [u8; 14] = [1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16];
/// Kinds that are read and not written any more, and what they are called now.
const BEFORE: [(u8, u8); 2] = [(4, 15), (9, 16)];
const STAMP_BYTES: usize = 20;
const HEADER_BYTES: usize = 16;
const HEADER_BYTES_BEFORE: usize = 12;

/// A generator of its own, so that a failure names a seed that replays it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64* (Vigna 2016)
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number of any width up to 64 bits, the ends of the range included now and then.
    fn number(&mut self) -> u64 {
        match self.next() % 8 {
            0 => 0,
            1 => u64::MAX,
            _ => self.next() >> (self.next() % 64),
        }
    }

    fn byte(&mut self) -> u8 {
        self.number().to_le_bytes()[0]
    }

    fn half(&mut self) -> u32 {
        u32::try_from(self.number() & u64::from(u32::MAX)).expect("masked")
    }

    fn flag(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn outcome(&mut self) -> Outcome {
        Outcome::ALL[usize::from(self.byte()) % Outcome::ALL.len()]
    }

    fn clock(&mut self) -> Clock {
        Clock::ALL[usize::from(self.byte()) % Clock::ALL.len()]
    }

    fn key(&mut self) -> u128 {
        u128::from(self.number()) << 64 | u128::from(self.number())
    }

    fn code(&mut self) -> i32 {
        i32::from_le_bytes(self.half().to_le_bytes())
    }

    fn header(&mut self) -> StepHeader {
        let (step, negate) = (self.byte(), self.flag());
        let when = match self.next() % 3 {
            0 => When::Always,
            1 => When::Outcome { step, outcome: self.outcome(), negate },
            _ => When::ExitCode { step, code: self.code(), negate },
        };
        StepHeader {
            finally: self.flag(),
            stop: self.flag(),
            guarded: self.flag(),
            reboot: self.flag(),
            schedule_to_start_ms: self.half(),
            memory_kib: self.half(),
            when,
        }
    }

    fn now(&mut self) -> Now {
        Now {
            at: Instant(self.number()),
            wall_ms: self.number() >> 1,
            trusted: self.flag(),
            boot: self.half(),
        }
    }

    fn accepted(&mut self, steps: u8) -> Accepted {
        Accepted {
            key: self.key(),
            digest: self.number(),
            source: self.number(),
            expires_ms: self.number(),
            schedule_to_close_ms: self.number(),
            finally_ms: self.half(),
            reserved: self.half(),
            priority: i8::from_le_bytes([self.byte()]),
            additions: self.byte(),
            steps,
        }
    }

    fn record(&mut self, kind: u8, steps: u8) -> Record {
        match kind {
            1 => Record::Opened,
            2 => Record::Stopped,
            3 => Record::Checkpoint,
            15 => Record::Accepted(self.accepted(steps)),
            5 => {
                Record::Started { step: self.byte(), attempt: self.byte(), suspicions: self.byte() }
            }
            6 => Record::Tried { step: self.byte(), attempt: self.byte(), outcome: self.outcome() },
            7 => Record::Interrupted { step: self.byte() },
            8 => Record::Ended {
                step: self.byte(),
                attempt: self.byte(),
                outcome: self.outcome(),
                clock: self.clock(),
                code: self.code(),
                continues: self.flag(),
                unreaped: self.flag(),
            },
            16 => Record::Extended { after: self.byte(), steps },
            10 => Record::CancelRequested,
            11 => {
                Record::Decided { outcome: self.outcome(), step: self.byte(), clock: self.clock() }
            }
            12 => Record::Finished,
            13 => Record::Delivered {
                key: self.key(),
                digest: self.number(),
                expires_ms: self.number(),
                outcome: self.outcome(),
            },
            14 => Record::Tombstone { key: self.key(), expires_ms: self.number() },
            other => panic!("no kind {other}"),
        }
    }
}

/// One record of a kind with its time and its step headers, as it lies on the disk.
struct Written {
    record: Record,
    now: Now,
    headers: Vec<StepHeader>,
    bytes: Vec<u8>,
}

fn write(random: &mut Random, kind: u8, steps: u8) -> Written {
    let has_headers = kind == 15 || kind == 16;
    let (record, now) = (random.record(kind, steps), random.now());
    let count = if has_headers { steps } else { 0 };
    let headers: Vec<_> = (0..count).map(|_| random.header()).collect();
    let mut bytes = vec![0; FIXED_BYTES_MAX];
    let used = record.encode(now, headers.iter().copied(), &mut bytes);
    bytes.truncate(used);
    Written { record, now, headers, bytes }
}

fn steps(random: &mut Random) -> u8 {
    random.byte() % 33
}

/// Ten thousand records of every kind come back as they were, with their time, their headers and
/// whatever was attached behind them.
#[test]
fn every_record_comes_back_as_it_was() {
    for seed in 1..=10_000 {
        let mut random = Random(seed);
        for kind in KINDS {
            let steps = steps(&mut random);
            let written = write(&mut random, kind, steps);
            assert_eq!(written.record.kind(), kind);
            let attached: Vec<u8> = (0..random.next() % 20).map(|_| random.byte()).collect();
            let stored = [written.bytes.as_slice(), &attached].concat();
            let (record, stamp, headers, rest) =
                Record::decode(kind, &stored).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
            assert_eq!(record, written.record, "seed {seed}");
            assert_eq!(stamp.now, written.now, "seed {seed}");
            assert_eq!(headers.iter().collect::<Vec<_>>(), written.headers, "seed {seed}");
            assert_eq!(rest, attached, "seed {seed}");
        }
    }
}

/// A record that was cut at any length is short, and nothing else.
#[test]
fn a_record_cut_anywhere_is_short() {
    for seed in 1..=50 {
        let mut random = Random(seed);
        for kind in KINDS {
            let written = write(&mut random, kind, 32);
            for length in 0..written.bytes.len() {
                let read = Record::decode(kind, &written.bytes[..length]);
                assert_eq!(read.err(), Some(Malformed::Short), "kind {kind} cut at {length}");
            }
        }
    }
}

/// Kinds that this version does not know are named, whatever follows them.
#[test]
fn unknown_kinds_are_named() {
    for kind in (0..=u8::MAX).filter(|kind| *kind == 0 || *kind > 16) {
        assert_eq!(Record::decode(kind, &[0; 100]).err(), Some(Malformed::Kind(kind)));
    }
}

/// Whether a number has a meaning.
type Meant = fn(u8) -> bool;

/// In each byte that holds one of a few meanings, every value without a meaning is refused and
/// every other is read.
#[test]
fn numbers_without_meaning_are_refused() {
    let mut random = Random(7);
    let header = STAMP_BYTES + 59;
    let cases: [(u8, usize, Meant); 9] = [
        (6, STAMP_BYTES + 2, |outcome| outcome <= 10),
        (8, STAMP_BYTES + 2, |outcome| outcome <= 10),
        (8, STAMP_BYTES + 3, |clock| clock <= 5),
        (8, STAMP_BYTES + 4, |flags| flags <= 3),
        (11, STAMP_BYTES, |outcome| outcome <= 10),
        (11, STAMP_BYTES + 2, |clock| clock <= 5),
        (15, header, |flags| flags <= 15),
        (15, header + 1, |when| when & 0x7f <= 2),
        (15, header + 3, |outcome| outcome <= 10),
    ];
    for (kind, at, meant) in cases {
        let written = write(&mut random, kind, 2);
        for value in 0..=u8::MAX {
            let mut bytes = written.bytes.clone();
            bytes[at] = value;
            let expected = if meant(value) { None } else { Some(Malformed::Value) };
            assert_eq!(Record::decode(kind, &bytes).err(), expected, "kind {kind} {at}: {value}");
        }
    }
    let delivered = write(&mut random, 13, 0).bytes;
    for value in 11..=u8::MAX {
        let mut bytes = delivered.clone();
        *bytes.last_mut().expect("not empty") = value;
        assert_eq!(Record::decode(13, &bytes).err(), Some(Malformed::Value));
    }
}

/// A journal from before steps took memory is read: its steps take none.
#[test]
fn records_of_the_earlier_form_are_read() {
    let mut random = Random(11);
    for (before, kind) in BEFORE {
        let mut written = write(&mut random, kind, 3);
        let fixed = written.bytes.len() - 3 * HEADER_BYTES;
        let headers = written.bytes.split_off(fixed);
        for (bytes, header) in headers.chunks(HEADER_BYTES).zip(&mut written.headers) {
            written.bytes.extend_from_slice(&bytes[..HEADER_BYTES_BEFORE]);
            header.memory_kib = 0;
        }
        written.bytes.extend_from_slice(b"attached");
        let (record, _, headers, rest) = Record::decode(before, &written.bytes).expect("read");
        assert_eq!((record, rest), (written.record, b"attached".as_slice()));
        assert!(headers.iter().eq(written.headers));
    }
}

/// No record may claim more than 32 steps, however many bytes follow.
#[test]
fn more_steps_than_a_task_may_have_are_refused() {
    let mut random = Random(9);
    for (kind, count_at) in [(15, STAMP_BYTES + 58), (16, STAMP_BYTES + 1)] {
        let mut bytes = write(&mut random, kind, 32).bytes;
        assert_eq!(bytes[count_at], 32, "the count lies here");
        assert!(Record::decode(kind, &bytes).is_ok());
        bytes.resize(bytes.len() + 223 * HEADER_BYTES, 0);
        for count in 33..=u8::MAX {
            bytes[count_at] = count;
            assert_eq!(Record::decode(kind, &bytes).err(), Some(Malformed::Value));
        }
    }
}

/// Whatever bytes come, reading ends with a record or an error, and a record that was read is
/// written back to the bytes that it was read from.
#[test]
fn arbitrary_bytes_are_read_or_refused() {
    let mut read = 0;
    for seed in 1..=200_000 {
        let mut random = Random(seed);
        let kind = random.byte() % 18;
        let bytes: Vec<u8> = (0..random.next() % 160).map(|_| random.byte() % 16).collect();
        let Ok((record, stamp, headers, rest)) = Record::decode(kind, &bytes) else { continue };
        read += 1;
        let mut again = vec![0; FIXED_BYTES_MAX];
        let used = record.encode(stamp.now, headers.iter(), &mut again);
        let before = BEFORE.iter().any(|(old, _)| *old == kind);
        let each = if before { HEADER_BYTES - HEADER_BYTES_BEFORE } else { 0 };
        assert_eq!(used + rest.len(), bytes.len() + headers.iter().count() * each);
        let whole =
            Record::decode(record.kind(), &again[..used]).expect("what was written can be read");
        assert_eq!((whole.0, whole.1), (record, stamp));
        assert!(whole.2.iter().eq(headers.iter()));
    }
    assert!(read > 1000, "{read} of them were records");
}

/// The largest record fits the room that is promised for it.
#[test]
fn the_largest_record_fits() {
    let largest = KINDS.into_iter().map(|kind| write(&mut Random(3), kind, 32).bytes.len()).max();
    assert_eq!(largest, Some(STAMP_BYTES + 59 + 32 * HEADER_BYTES));
    assert!(largest.is_some_and(|bytes| bytes <= FIXED_BYTES_MAX));
}
