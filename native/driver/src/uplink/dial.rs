//! Opens a TCP connection to the first of several addresses that answers.
//!
//! It decides how the stage's time is shared between addresses; it knows nothing of names or TLS.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::session::{Failure, Limit, Session};
use super::transport::Socket;

/// Dead peers are noticed after 60 s + 4 probes; MQTT's own keepalive is usually quicker.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Connects within `timeout`. Each address may use an equal share of what is left when its turn
/// comes, so that a silent first address leaves time for the others.
pub(super) fn dial(
    session: &Session<'_>,
    addresses: &[SocketAddr],
    timeout: Duration,
) -> Result<Socket, Failure> {
    let stage = Limit::after(timeout, "connect_timeout");
    let mut failures: Vec<(SocketAddr, Failure)> = Vec::with_capacity(addresses.len());
    for (index, &address) in addresses.iter().enumerate() {
        let waiting = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let share = Limit::after(stage.left() / waiting, "connect_timeout");
        match attempt(session, address, &share)? {
            Ok(socket) => return Ok(socket),
            Err(failure) => failures.push((address, failure)),
        }
    }
    Err(summary(&failures))
}

/// One address. The outer error ends the stage: the host no longer wants the connection.
fn attempt(
    session: &Session<'_>,
    address: SocketAddr,
    share: &Limit,
) -> Result<Result<Socket, Failure>, Failure> {
    let socket = match start(address) {
        Ok(socket) => socket,
        Err(error) => return Ok(Err(connect_failure(&error))),
    };
    loop {
        let mut fds = [session.watch(), PollFd::new(&socket, PollFlags::OUT)];
        if !session.wait(&mut fds, Some(share), true)? {
            return Ok(Err(share.failure()));
        }
        if fds[1].revents().is_empty() {
            continue;
        }
        return Ok(match sockopt::socket_error(&socket) {
            Ok(Ok(())) => Ok(socket),
            Ok(Err(error)) | Err(error) => Err(connect_failure(&error.into())),
        });
    }
}

fn start(address: SocketAddr) -> io::Result<Socket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(Socket::from(socket)),
        Err(error) => Err(error.into()),
    }
}

fn connect_failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::TimedOut => Failure::new("connect_timeout", error.to_string()),
        _ => Failure::from_socket(error),
    }
}

/// One failure for all addresses: the first code that says more than "no route", and every cause.
fn summary(failures: &[(SocketAddr, Failure)]) -> Failure {
    let telling = failures.iter().find(|(_, failure)| failure.code != "unreachable");
    let code = telling.or(failures.first()).map_or("unreachable", |(_, failure)| failure.code);
    let causes: Vec<_> = failures
        .iter()
        .map(|(address, failure)| format!("{address}: {}", failure.detail))
        .collect();
    Failure::new(code, causes.join("; "))
}
