//! A connection to a web server, plain or TLS: every stage of it has a time limit.
//!
//! It knows nothing of HTTP. Whom to trust with TLS is decided where the uplink decides it.

use super::url::Url;
use crate::uplink::tls::{Clock, client};
use crate::uplink::{CaSource, TlsOptions};
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// How long each stage may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Looking up a name.
    pub resolve: Duration,
    /// The TCP connection, over all addresses.
    pub connect: Duration,
    /// The TLS handshake.
    pub handshake: Duration,
    /// Sending the whole request.
    pub send: Duration,
    /// From the request to the end of the answer's headers.
    pub head: Duration,
    /// From one piece of the body to the next.
    pub body: Duration,
}

/// Half a minute is what a slow server on a slow link needs; more is a step's clock to give.
pub const TIMEOUTS: Timeouts = Timeouts {
    resolve: Duration::from_secs(10),
    connect: Duration::from_secs(10),
    handshake: Duration::from_secs(15),
    send: Duration::from_secs(30),
    head: Duration::from_secs(30),
    body: Duration::from_secs(30),
};

/// A TCP connection whose reads and writes end at an instant.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    until: Instant,
}

impl Connection {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(late()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Connection {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(into).map_err(named)
    }
}

impl Write for Connection {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(from).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The system says "try again" when a socket's time is up.
fn named(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { late() } else { error }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the server did not answer in time")
}

/// See the head of this file.
#[derive(Debug)]
pub enum Wire {
    /// As it is.
    Plain(Connection),
    /// Encrypted, to a server that proved its name.
    Secure(Box<StreamOwned<ClientConnection, Connection>>),
}

impl Wire {
    /// Connects to the host of `url`, whether or not it may be contacted.
    ///
    /// # Errors
    /// A cause.
    pub fn open(url: &Url, timeouts: &Timeouts) -> Result<Wire, String> {
        let addresses = resolve(url, timeouts.resolve)?;
        let socket = dial(&addresses, timeouts.connect)?;
        let until = Instant::now() + timeouts.handshake;
        let mut connection = Connection { socket, until };
        if !url.secure {
            return Ok(Wire::Plain(connection));
        }
        let options = TlsOptions { ca: CaSource::System, server_name: None };
        let mut tls = client(&options, &url.host, &Clock::default())
            .map_err(|failure| format!("{}: {}", failure.code, failure.detail))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut connection).map_err(|error| format!("TLS: {error}"))?;
        }
        Ok(Wire::Secure(Box::new(StreamOwned::new(tls, connection))))
    }

    /// Reads and writes from now on have this much time in all.
    pub fn limit(&mut self, timeout: Duration) {
        let connection = match self {
            Wire::Plain(connection) => connection,
            Wire::Secure(stream) => &mut stream.sock,
        };
        connection.until = Instant::now() + timeout;
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(connection) => connection.read(into),
            Wire::Secure(stream) => stream.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(connection) => connection.write(from),
            Wire::Secure(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(connection) => connection.flush(),
            Wire::Secure(stream) => stream.flush(),
        }
    }
}

/// A lookup knows no time limit, so it runs in a thread that ends with the process at the latest.
fn resolve(url: &Url, timeout: Duration) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = url.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, url.port)]);
    }
    let (sender, receiver) = sync_channel(1);
    let (host, port) = (url.host.clone(), url.port);
    thread::spawn(move || {
        let found = (host.as_str(), port).to_socket_addrs();
        // Nobody waits for it any more when its time was up.
        let _ = sender.send(found.map(|found| found.take(ADDRESSES_MAX).collect::<Vec<_>>()));
    });
    match receiver.recv_timeout(timeout) {
        Ok(Ok(found)) if found.is_empty() => Err("the name has no address".into()),
        Ok(found) => found.map_err(|error| format!("the name was not found: {error}")),
        Err(_) => Err("the name was not looked up in time".into()),
    }
}

/// Each address has an equal share of the time that is left when its turn comes.
fn dial(addresses: &[SocketAddr], timeout: Duration) -> Result<TcpStream, String> {
    let until = Instant::now() + timeout;
    let mut causes = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let waiting = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let share = until.saturating_duration_since(Instant::now()) / waiting;
        match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
            Ok(socket) => return Ok(socket),
            Err(error) => causes.push(format!("{address}: {error}")),
        }
    }
    Err(causes.join("; "))
}

#[cfg(test)]
mod tests {
    use super::super::exchange::{Request, ask};
    use super::*;
    use std::net::TcpListener;

    const SHORT: Duration = Duration::from_millis(200);
    const HURRIED: Timeouts = Timeouts { handshake: SHORT, head: SHORT, body: SHORT, ..TIMEOUTS };

    /// Asks a server that sends `start` and then one byte after the other for ever, and returns how
    /// that ends.
    fn drip(scheme: &str, start: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("{scheme}://{}/", listener.local_addr().unwrap())).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut going = stream.write_all(start);
            while going.is_ok() {
                thread::sleep(SHORT / 20);
                going = stream.write_all(b"x");
            }
        });
        let request = Request { method: "GET", headers: vec![], body: None, redirects: 0 };
        let (_, mut response) = match ask(url, &["127.0.0.1:*".into()], &request, &HURRIED) {
            Ok(answer) => answer,
            Err(cause) => return cause,
        };
        response.limit(HURRIED.body);
        loop {
            if let Err(cause) = response.body(&mut [0; 64]) {
                return cause;
            }
        }
    }

    /// A server that keeps the connection alive byte by byte is given up at the end of its stage:
    /// headers, body, and a handshake that never was one.
    #[test]
    fn a_dripping_server_is_given_up() {
        let late = "the server did not answer in time";
        assert_eq!(drip("http", b""), late);
        assert_eq!(drip("http", b"HTTP/1.1 200 OK\r\nA: "), late);
        assert_eq!(drip("http", b"HTTP/1.1 200 OK\r\n\r\n"), late);
        assert_eq!(drip("http", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"), late);
        // The length of a TLS record that never fills.
        assert_eq!(drip("https", b"\x16\x03\x03\x40\x00"), format!("TLS: {late}"));
    }

    /// Every address that was tried has its cause in the error.
    #[test]
    fn each_address_that_fails_is_named() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = dial(&[closed, closed], SHORT).unwrap_err();
        assert_eq!(error.matches(&closed.to_string()).count(), 2, "{error}");
    }
}
