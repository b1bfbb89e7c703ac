//! Bytes to and from the broker, with or without TLS, never blocking.
//!
//! `None` means "not now". It knows nothing of MQTT and decides nothing about trust.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use rustls::ClientConnection;

use super::session::{Failure, Limit, Session};
use super::tls;

/// Size of each buffer between broker and host: one TLS record's worth of plaintext.
pub(super) const BUFFER_BYTES: usize = 16 * 1024;

/// A connected stream socket in non-blocking mode; writing to a closed one raises no signal.
pub(super) struct Socket(OwnedFd);

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Socket {
        Socket(fd)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&self.0, into, RecvFlags::empty())?.0)
    }
}

impl Write for Socket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, from, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Turns "would block" into `None`.
pub(super) fn now<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The connection to the broker.
pub(super) struct Transport {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
}

impl Transport {
    pub fn plain(socket: Socket) -> Transport {
        Transport { socket, tls: None }
    }

    /// Shakes hands within `limit`.
    pub fn handshake(
        socket: Socket,
        client: ClientConnection,
        session: &Session<'_>,
        limit: &Limit,
    ) -> Result<Transport, Failure> {
        let mut transport = Transport { socket, tls: Some(Box::new(client)) };
        loop {
            transport.flush()?;
            if !transport.shaking_hands() {
                return Ok(transport);
            }
            let output = if transport.owes_output() { PollFlags::OUT } else { PollFlags::empty() };
            let mut fds = [session.watch(), PollFd::new(&transport.socket, PollFlags::IN | output)];
            session.within(&mut fds, limit)?;
            transport.advance_handshake()?;
        }
    }

    fn shaking_hands(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    fn advance_handshake(&mut self) -> Result<(), Failure> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        match now(tls.read_tls(&mut self.socket)).map_err(|error| Failure::from_socket(&error))? {
            None => return Ok(()),
            Some(0) => {
                let cause = "the broker closed the connection during the TLS handshake";
                return Err(Failure::new("closed_by_broker", cause));
            }
            Some(_) => {}
        }
        let Err(error) = tls.process_new_packets() else {
            return Ok(());
        };
        // The alert that tells the broker why; the failure stands whether or not it gets there.
        let _ = self.flush();
        Err(tls::failure(&error))
    }

    /// Reads plaintext; `Some(0)` is the end.
    pub fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, Failure> {
        let Some(tls) = &mut self.tls else {
            return now(self.socket.read(into)).map_err(|error| Failure::from_socket(&error));
        };
        if let Some(count) = plaintext(tls, into)? {
            return Ok(Some(count));
        }
        match now(tls.read_tls(&mut self.socket)).map_err(|error| Failure::from_socket(&error))? {
            None => Ok(None),
            Some(_) => plaintext(tls, into),
        }
    }

    /// Takes over some of `from`. With TLS it may still be owed to the socket afterwards.
    pub fn write(&mut self, from: &[u8]) -> Result<Option<usize>, Failure> {
        let written = match &mut self.tls {
            None => now(self.socket.write(from)),
            Some(tls) => tls.writer().write(from).map(|count| (count > 0).then_some(count)),
        };
        written.map_err(|error| Failure::from_socket(&error))
    }

    /// Hands owed TLS records to the socket, as far as it takes them now.
    pub fn flush(&mut self) -> Result<(), Failure> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        while tls.wants_write() {
            let written = now(tls.write_tls(&mut self.socket));
            if written.map_err(|error| Failure::from_socket(&error))?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Whether records wait for the socket.
    pub fn owes_output(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Says that nothing more will be written. What the broker already sent stays readable, so
    /// that closing does not reset a connection whose last bytes are still on their way.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        let _ = self.flush();
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    /// Ends both directions at once.
    pub fn cut(&mut self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What has been decrypted. A protocol error is reported after the plaintext that came before it.
/// An end without `close_notify` is an end like any other: MQTT packets carry their own length.
fn plaintext(tls: &mut ClientConnection, into: &mut [u8]) -> Result<Option<usize>, Failure> {
    let processed = tls.process_new_packets();
    match tls.reader().read(into) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(0)),
        Err(_) => processed.map(|_| None).map_err(|error| tls::failure(&error)),
    }
}
