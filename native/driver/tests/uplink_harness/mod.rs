//! The host's side of an uplink and one-connection brokers on the loopback, for its tests.
#![allow(dead_code, missing_docs)] // Each test binary uses its part of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use limpet_driver::uplink::{LinkRecord, Resolver, Stage, StageTimeouts, Target, Uplink};

pub const CONNECT: &[u8] = &[0x10, 2, 0, 0];
pub const CONNACK: &[u8] = &[0x20, 2, 0, 0];
/// Only ever passes when a test has failed already.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An uplink with what its host needs to follow it.
pub struct Host {
    pub uplink: Uplink,
    woken: Receiver<()>,
}

impl Host {
    pub fn new() -> Host {
        Host::start(Uplink::start)
    }

    pub fn with_resolver(resolver: Arc<Resolver>) -> Host {
        Host::start(|wake| Uplink::start_with_resolver(wake, resolver))
    }

    fn start(start: impl FnOnce(Box<dyn Fn() + Send>) -> std::io::Result<Uplink>) -> Host {
        let (sender, woken) = sync_channel(1);
        let wake = Box::new(move || {
            let _ = sender.try_send(());
        });
        Host { uplink: start(wake).unwrap(), woken }
    }

    pub fn record(&self) -> LinkRecord {
        loop {
            if let Some(record) = self.uplink.next_record() {
                return record;
            }
            self.woken.recv_timeout(PATIENCE).expect("no record");
        }
    }

    /// The record with which `epoch` enters `stage`; it is an error for it to end before.
    pub fn reach(&self, epoch: u64, stage: Stage) -> LinkRecord {
        loop {
            let record = self.record();
            if record.epoch == epoch && record.stage == stage {
                return record;
            }
            assert!(record.epoch != epoch || record.stage != Stage::Down, "{record:?}");
        }
    }

    /// Connects and hands over the host's end, in blocking mode.
    pub fn up(&self, target: Target) -> (u64, UnixStream) {
        let epoch = self.uplink.connect(target);
        let mut record = self.reach(epoch, Stage::Up);
        let end = UnixStream::from(record.host_end.take().unwrap());
        end.set_nonblocking(false).unwrap();
        end.set_read_timeout(Some(PATIENCE)).unwrap();
        end.set_write_timeout(Some(PATIENCE)).unwrap();
        (epoch, end)
    }

    /// The code and detail with which a connection to `target` fails.
    pub fn failure(&self, target: Target) -> (&'static str, String) {
        let epoch = self.uplink.connect(target);
        self.down(epoch)
    }

    pub fn down(&self, epoch: u64) -> (&'static str, String) {
        let record = self.reach(epoch, Stage::Down);
        assert!(record.host_end.is_none());
        (record.code, record.detail)
    }
}

pub fn target(host: &str, port: u16) -> Target {
    let timeouts = StageTimeouts {
        resolve: PATIENCE,
        connect: PATIENCE,
        handshake: PATIENCE,
        connack: PATIENCE,
    };
    Target { host: host.into(), port, tls: None, timeouts, maximum_packet_bytes: 1 << 20 }
}

/// A listener on the loopback.
pub fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A broker that serves one connection and returns what `serve` returns.
pub fn broker<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (Target, JoinHandle<T>) {
    let (listener, address) = listener();
    let thread = thread::spawn(move || serve(accept(&listener)));
    (target("127.0.0.1", address.port()), thread)
}

pub fn accept(listener: &TcpListener) -> TcpStream {
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A listener that never completes another TCP handshake: its backlog is full.
pub fn silent_listener() -> (impl Sized, SocketAddr) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&socket, 0).unwrap();
    let address = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(stream);
    }
    ((socket, queued), address)
}

/// An address nobody listens on.
pub fn closed_address() -> SocketAddr {
    listener().1
}

/// Everything until the end; a reset is an end.
pub fn drain(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    bytes
}

/// Exchanges CONNECT and CONNACK as the broker.
pub fn welcome(stream: &mut (impl Read + Write)) {
    let mut connect = [0; 4];
    stream.read_exact(&mut connect).unwrap();
    assert_eq!(connect, CONNECT);
    stream.write_all(CONNACK).unwrap();
}

/// Exchanges CONNECT and CONNACK as the host.
pub fn greet(end: &mut UnixStream) {
    end.write_all(CONNECT).unwrap();
    let mut connack = [0; 4];
    end.read_exact(&mut connack).unwrap();
    assert_eq!(connack, CONNACK);
}

/// `count` PUBLISH packets of 1,003 bytes whose bodies differ.
pub fn publishes(count: usize) -> Vec<u8> {
    let mut stream = Vec::with_capacity(count * 1003);
    for index in 0..count {
        stream.extend([0x30, 0xe8, 0x07]);
        stream.extend((0..1000).map(|at| (index * 7 + at * 13) as u8));
    }
    stream
}
