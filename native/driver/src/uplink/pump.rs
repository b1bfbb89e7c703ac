//! Moves bytes between broker and host until one of them ends, and decides how it ends.
//!
//! Each direction has one fixed buffer and reads only while it has room, so a slow reader slows
//! the writer and nothing else. Whoever ends first, what was already received from it still
//! reaches the other side, for a bounded time. Names, addresses and certificates are not known.

use std::io::{Read, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::guard::{Cut, Guard};
use super::session::{Failure, Limit, Session};
use super::transport::{BUFFER_BYTES, Socket, Transport, now};

/// How long received bytes may take to reach the other side after the end is known.
const DRAIN: Duration = Duration::from_secs(2);

/// What a connection has to keep to.
pub(super) struct Rules {
    pub maximum_packet_bytes: u32,
    /// From the host's first byte to a complete CONNACK header.
    pub connack: Duration,
}

/// Pumps until the end; returns why it ended.
pub(super) fn pump(
    session: &Session<'_>,
    transport: Transport,
    host: &mut Socket,
    rules: &Rules,
) -> Failure {
    let mut pump = Pump {
        transport,
        host,
        guard: Guard::new(rules.maximum_packet_bytes),
        inbound: Flow::new(),
        admitted: 0,
        outbound: Flow::new(),
        connack: rules.connack,
        limit: None,
        greeted: false,
        finished: false,
        ending: None,
    };
    loop {
        let moved = pump.turn();
        if let Some(failure) = pump.end() {
            return failure;
        }
        if let Err(failure) = pump.rest(session, !moved) {
            return failure;
        }
    }
}

/// One direction: a fixed buffer, whether more may come, and whether it still gets anywhere.
struct Flow {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    source_open: bool,
    /// When false, what is read is thrown away.
    sink_open: bool,
}

impl Flow {
    fn new() -> Flow {
        let bytes = vec![0; BUFFER_BYTES].into_boxed_slice();
        Flow { bytes, start: 0, end: 0, source_open: true, sink_open: true }
    }

    fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn wants_read(&self) -> bool {
        self.source_open && self.data().len() < self.bytes.len()
    }

    /// Free space, never empty while `wants_read`.
    fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.clear();
        } else if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Reads nothing more and forgets what it holds.
    fn stop(&mut self) {
        self.source_open = false;
        self.clear();
    }
}

struct Pump<'a> {
    transport: Transport,
    host: &'a mut Socket,
    guard: Guard,
    inbound: Flow,
    /// Bytes at the front of `inbound` that the guard lets through.
    admitted: usize,
    outbound: Flow,
    connack: Duration,
    /// Of CONNACK at first, of draining once `ending` is set.
    limit: Option<Limit>,
    /// The host has sent its first byte.
    greeted: bool,
    /// The broker was told that nothing more will be written.
    finished: bool,
    ending: Option<Failure>,
}

impl Pump<'_> {
    /// Moves what can be moved now; whether anything was.
    fn turn(&mut self) -> bool {
        let from_host = self.read_host();
        let to_broker = self.write_broker();
        let from_broker = self.read_broker();
        let to_host = self.write_host();
        from_host || to_broker || from_broker || to_host
    }

    fn read_host(&mut self) -> bool {
        if !self.outbound.wants_read() {
            return false;
        }
        match now(self.host.read(self.outbound.space())) {
            Ok(None) => false,
            Ok(Some(count)) if count > 0 => {
                self.outbound.end += count;
                self.greet();
                true
            }
            Ok(_) | Err(_) => {
                self.outbound.source_open = false;
                self.host_left();
                true
            }
        }
    }

    /// The host's first byte starts the time for CONNACK.
    fn greet(&mut self) {
        if !self.greeted && !self.guard.opened() && self.ending.is_none() {
            self.limit = Some(Limit::after(self.connack, "connack_timeout"));
        }
        self.greeted = true;
    }

    fn write_broker(&mut self) -> bool {
        if !self.outbound.sink_open {
            return false;
        }
        let mut moved = false;
        let mut written = Ok(());
        if !self.outbound.data().is_empty() {
            written = self.transport.write(self.outbound.data()).map(|count| {
                self.outbound.start += count.unwrap_or(0);
                moved = count.is_some();
            });
        }
        if let Err(failure) = written.and_then(|()| self.transport.flush()) {
            // What the broker said before it went away may still be read.
            self.outbound.stop();
            self.outbound.sink_open = false;
            self.end_with(failure);
            return true;
        }
        moved
    }

    fn read_broker(&mut self) -> bool {
        if !self.inbound.wants_read() {
            return false;
        }
        let failure = match self.transport.read(self.inbound.space()) {
            Ok(None) => return false,
            Ok(Some(0)) => Failure::new("closed_by_broker", "the broker closed the connection"),
            Ok(Some(count)) => {
                self.inbound.end += count;
                self.admit();
                return true;
            }
            Err(failure) => failure,
        };
        self.inbound.source_open = false;
        self.outbound.stop();
        self.end_with(failure);
        true
    }

    /// Lets the guard look at what was read.
    fn admit(&mut self) {
        if !self.inbound.sink_open {
            self.inbound.clear();
            return;
        }
        let unseen = &self.inbound.data()[self.admitted..];
        let (count, cut) = self.guard.admit(unseen);
        self.admitted += count;
        if self.guard.opened() && self.ending.is_none() {
            self.limit = None;
        }
        if let Some(cut) = cut {
            self.transport.cut();
            self.inbound.source_open = false;
            self.outbound.stop();
            self.outbound.sink_open = false;
            self.end_with(cut_failure(cut));
        }
    }

    fn write_host(&mut self) -> bool {
        if self.admitted == 0 {
            return false;
        }
        let start = self.inbound.start;
        match now(self.host.write(&self.inbound.bytes[start..start + self.admitted])) {
            Ok(None) => false,
            Ok(Some(count)) => {
                self.inbound.start += count;
                self.admitted -= count;
                count > 0
            }
            Err(_) => {
                self.host_left();
                true
            }
        }
    }

    /// The host no longer listens; what it wrote before that (a DISCONNECT) still goes out, and
    /// what the broker goes on sending is read and thrown away, so that closing does not reset
    /// the connection under those last bytes.
    fn host_left(&mut self) {
        self.inbound.clear();
        self.admitted = 0;
        self.inbound.sink_open = false;
        self.end_with(Failure::new("closed_by_host", "the host closed its end"));
    }

    /// The first cause is the one reported; the others follow from it.
    fn end_with(&mut self, failure: Failure) {
        if self.ending.is_none() {
            self.limit = Some(Limit::after(DRAIN, failure.code));
            self.ending = Some(failure);
        }
    }

    /// The cause of the end, once nothing is left to be moved.
    fn end(&mut self) -> Option<Failure> {
        self.ending.as_ref()?;
        let sent = !self.outbound.source_open
            && self.outbound.data().is_empty()
            && !(self.outbound.sink_open && self.transport.owes_output());
        if sent && !self.finished {
            self.finished = true;
            self.transport.finish();
        }
        let received = !self.inbound.source_open && self.admitted == 0;
        if sent && received { self.ending.take() } else { None }
    }

    /// Waits for something to move (`block`), or only looks whether the connection is still
    /// wanted. An error is the end.
    fn rest(&mut self, session: &Session<'_>, block: bool) -> Result<(), Failure> {
        let (broker, host) = (self.broker_interest(), self.host_interest());
        // poll reports a hang-up even when nothing is asked for, so an idle descriptor is left
        // out. The host stays in until its end is known: it must be noticed behind a full buffer.
        let mut fds = [session.watch(), session.watch(), session.watch()];
        if !broker.is_empty() {
            fds[1] = PollFd::new(&self.transport, broker);
        }
        let watches_host = !host.is_empty() || self.ending.is_none();
        if watches_host {
            fds[2] = PollFd::new(&*self.host, host);
        }
        let in_time = session.wait(&mut fds, self.limit.as_ref(), block)?;
        let host_events = fds[2].revents();
        if let (false, Some(limit)) = (in_time, self.limit) {
            return Err(self.ending.take().unwrap_or_else(|| limit.failure()));
        }
        if watches_host && host_events.intersects(PollFlags::HUP | PollFlags::ERR) {
            self.host_left();
        }
        Ok(())
    }

    fn broker_interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, self.inbound.wants_read());
        let owes = !self.outbound.data().is_empty() || self.transport.owes_output();
        interest.set(PollFlags::OUT, self.outbound.sink_open && owes);
        interest
    }

    fn host_interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, self.outbound.wants_read());
        interest.set(PollFlags::OUT, self.admitted > 0);
        interest
    }
}

fn cut_failure(cut: Cut) -> Failure {
    match cut {
        Cut::TooLarge { announced } => Failure::new(
            "packet_too_large",
            format!("the broker announced a packet of {announced} bytes"),
        ),
        Cut::LengthMalformed => {
            Failure::new("packet_malformed", "the broker sent a packet length of five bytes")
        }
        Cut::TypeReserved => {
            Failure::new("packet_malformed", "the broker sent the reserved packet type 0")
        }
        Cut::NotConnack { kind } => Failure::new(
            "not_connack",
            format!("the broker's first packet is of type {kind}, not CONNACK"),
        ),
        Cut::Unasked { first } => Failure::new(
            "packet_unasked",
            format!("the broker sent a packet that we never ask for (it begins with {first:#04x})"),
        ),
    }
}
