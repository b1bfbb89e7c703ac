//! The broker connection: one thread that resolves, connects, shakes hands and then moves bytes
//! between the broker and one end of a socket pair, whose other end the host's MQTT client holds.
//!
//! It decides when each stage has taken too long and what each end is called. It does not know
//! MQTT beyond the fixed header, never calls into the host (`wake` only says that there is a
//! record) and never decides to connect again: that is the host's.
#![forbid(unsafe_code)]

mod dial;
pub mod guard;
mod pump;
mod resolve;
mod session;
pub(crate) mod tls;
mod transport;

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

use pump::{Rules, pump};
use resolve::Lookups;
use session::{Failure, Limit, Session, Shared};
use tls::Clock;
use transport::{Socket, Transport};

pub use resolve::Resolver;
pub use tls::{CaSource, TlsOptions};

/// Stack of the uplink's threads. TLS was seen to work in an eighth of it; the rest is for the
/// name services that the C library loads into a lookup.
const STACK_BYTES: usize = 256 * 1024;
/// Asked of the kernel for each direction of the socket pair; it is charged to our memory limit.
const PAIR_BYTES: usize = 64 * 1024;

/// Where to connect, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name or IP address of the broker.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS, or plain TCP if `None`.
    pub tls: Option<TlsOptions>,
    /// How long each stage may take.
    pub timeouts: StageTimeouts,
    /// Largest remaining length of a packet that may reach the host, in bytes.
    pub maximum_packet_bytes: u32,
}

/// A timeout for each stage, at most an hour each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageTimeouts {
    /// Name lookup, including the wait for earlier lookups that hang.
    pub resolve: Duration,
    /// TCP, all addresses together.
    pub connect: Duration,
    /// TLS.
    pub handshake: Duration,
    /// From the host's first byte to a complete CONNACK header.
    pub connack: Duration,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The host's addresses are being looked up.
    Resolving,
    /// A TCP connection is being opened.
    Connecting,
    /// TLS is being agreed on.
    Handshaking,
    /// Bytes flow; the record carries the host's end.
    Up,
    /// The end of this connection; its last record.
    Down,
}

/// What the host learns about a connection.
#[derive(Debug)]
pub struct LinkRecord {
    /// Which connection: what `connect` returned.
    pub epoch: u64,
    /// The stage it has entered.
    pub stage: Stage,
    /// Empty, or with `Down` the stable reason.
    pub code: &'static str,
    /// With `Down` a sentence for a person, at most a few hundred bytes.
    pub detail: String,
    /// With `Up` the host's end: a non-blocking stream socket, which reads as ended only after
    /// the `Down` record is there.
    pub host_end: Option<OwnedFd>,
}

/// The host's handle. Dropping it ends the connection and joins the thread; lookups that hang in
/// the C library are left to end by themselves.
pub struct Uplink {
    shared: Arc<Shared>,
    clock: Clock,
    thread: Option<JoinHandle<()>>,
}

impl Uplink {
    /// Starts the thread, which waits for the first `connect`. It calls `wake` after each record.
    ///
    /// # Errors
    /// No descriptor or no thread could be had.
    pub fn start(wake: Box<dyn Fn() + Send>) -> io::Result<Uplink> {
        Uplink::start_with_resolver(wake, Arc::new(resolve::system))
    }

    /// `start`, with another way to find addresses.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_with_resolver(
        wake: Box<dyn Fn() + Send>,
        resolver: Arc<Resolver>,
    ) -> io::Result<Uplink> {
        let shared = Arc::new(Shared::new()?);
        let clock = Clock::default();
        let worker = Worker {
            lookups: Lookups::new(shared.clone(), resolver),
            shared: shared.clone(),
            clock: clock.clone(),
            wake,
        };
        let thread = thread::Builder::new()
            .name("uplink".into())
            .stack_size(STACK_BYTES)
            .spawn(move || worker.run())?;
        Ok(Uplink { shared, clock, thread: Some(thread) })
    }

    /// Asks for a connection and returns its epoch, which is larger than all before. A current
    /// connection is cut; one that was asked for and not yet begun leaves no record.
    pub fn connect(&self, target: Target) -> u64 {
        let mut orders = self.shared.orders();
        orders.epoch += 1;
        orders.target = Some(target);
        orders.called_off = false;
        let epoch = orders.epoch;
        drop(orders);
        self.shared.wake();
        epoch
    }

    /// Cuts the connection `epoch` if it is still the newest; its `Down` record follows. To let
    /// written bytes go out first, close the host's end instead.
    pub fn disconnect(&self, epoch: u64) {
        let mut orders = self.shared.orders();
        if orders.epoch == epoch {
            orders.called_off = true;
        }
        drop(orders);
        self.shared.wake();
    }

    /// The oldest record not yet taken. At most 16 are kept: those of the newest connection
    /// always, those of replaced ones as far as there is room.
    pub fn next_record(&self) -> Option<LinkRecord> {
        self.shared.pop()
    }

    /// Certificates are never judged by a time before `unix_seconds`; a lower value than given
    /// before changes nothing. Holds from the next handshake.
    pub fn set_clock_floor(&self, unix_seconds: u64) {
        self.clock.raise(unix_seconds);
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.shared.orders().stopping = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // A panic outside a connection was already printed by its hook.
            let _ = thread.join();
        }
    }
}

/// What the uplink's thread owns.
struct Worker {
    shared: Arc<Shared>,
    lookups: Lookups,
    clock: Clock,
    wake: Box<dyn Fn() + Send>,
}

impl Worker {
    fn run(self) {
        while let Some((epoch, target)) = self.shared.next_target() {
            let session = Session { shared: &self.shared, epoch };
            // Outlives the connection: the host's socket ends only after the record that says why.
            let mut near_end = None;
            // A bug met by a broker's bytes costs the connection; the host decides what it means.
            let attempt = AssertUnwindSafe(|| self.serve(&session, &target, &mut near_end));
            let failure = match catch_unwind(attempt) {
                Ok(Ok(failure)) | Ok(Err(failure)) => failure,
                Err(_) => Failure::new("bug", "the uplink's thread panicked"),
            };
            self.tell(epoch, Stage::Down, failure.code, describe(&target, &failure), None);
        }
    }

    /// One connection, from its name to its end. `Ok` and `Err` both say why it ended.
    fn serve(
        &self,
        session: &Session<'_>,
        target: &Target,
        near_end: &mut Option<Socket>,
    ) -> Result<Failure, Failure> {
        self.enter(session.epoch, Stage::Resolving);
        let addresses = self.lookups.addresses(session, target)?;
        self.enter(session.epoch, Stage::Connecting);
        let socket = dial::dial(session, &addresses, target.timeouts.connect)?;
        let transport = match &target.tls {
            None => Transport::plain(socket),
            Some(options) => {
                self.enter(session.epoch, Stage::Handshaking);
                let limit = Limit::after(target.timeouts.handshake, "handshake_timeout");
                let client = tls::client(options, &target.host, &self.clock)?;
                Transport::handshake(socket, client, session, &limit)?
            }
        };
        let (near, far) =
            pair().map_err(|error| Failure::new("socket_failed", error.to_string()))?;
        let near = near_end.insert(Socket::from(near));
        self.tell(session.epoch, Stage::Up, "", String::new(), Some(far));
        let rules = Rules {
            maximum_packet_bytes: target.maximum_packet_bytes,
            connack: target.timeouts.connack,
        };
        Ok(pump(session, transport, near, &rules))
    }

    fn enter(&self, epoch: u64, stage: Stage) {
        self.tell(epoch, stage, "", String::new(), None);
    }

    fn tell(
        &self,
        epoch: u64,
        stage: Stage,
        code: &'static str,
        detail: String,
        host_end: Option<OwnedFd>,
    ) {
        self.shared.push(LinkRecord { epoch, stage, code, detail, host_end });
        (self.wake)();
    }
}

fn describe(target: &Target, failure: &Failure) -> String {
    let Target { host, port, .. } = target;
    let cause = &failure.detail;
    format!("cannot keep a connection to {host}:{port}: {cause} (down until the host asks again)")
}

/// A connected pair: our end and the host's.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    for end in [&near, &far] {
        sockopt::set_socket_send_buffer_size(end, PAIR_BYTES)?;
    }
    Ok((near, far))
}
