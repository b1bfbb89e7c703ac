//! Finds a broker's addresses in bounded time, though `getaddrinfo` knows no bound.
//!
//! A lookup runs in a thread of its own. When its time is up it is left behind, still counted;
//! while two are left behind no third is started. It decides the order in which addresses are
//! tried and does not connect.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{TryRecvError, sync_channel};
use std::thread;

use super::session::{Failure, Limit, Session, Shared};
use super::{STACK_BYTES, Target};

/// Addresses tried for one connection.
const ADDRESSES_MAX: usize = 8;
/// Lookups that may exist at a time, left behind or not.
const LOOKUPS_MAX: usize = 2;

/// Maps a host name and port to addresses, blocking as long as it likes.
pub type Resolver = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The resolver of the C library.
pub(super) fn system(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}

/// Counts the lookups that are alive.
pub(super) struct Lookups {
    shared: Arc<Shared>,
    resolver: Arc<Resolver>,
    alive: Arc<AtomicUsize>,
}

/// Held by a lookup's thread: ends the count and wakes the uplink, even if the resolver panics.
struct Place {
    shared: Arc<Shared>,
    alive: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
        self.shared.wake();
    }
}

impl Lookups {
    pub fn new(shared: Arc<Shared>, resolver: Arc<Resolver>) -> Lookups {
        Lookups { shared, resolver, alive: Arc::default() }
    }

    /// The addresses of `target` in the order to try them, at least one.
    pub fn addresses(
        &self,
        session: &Session<'_>,
        target: &Target,
    ) -> Result<Vec<SocketAddr>, Failure> {
        if let Ok(literal) = target.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(literal, target.port)]);
        }
        let limit = Limit::after(target.timeouts.resolve, "resolve_timeout");
        let place = self.place(session, &limit)?;
        let (sender, receiver) = sync_channel(1);
        let (resolver, host, port) = (self.resolver.clone(), target.host.clone(), target.port);
        thread::Builder::new()
            .name("uplink-lookup".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // The answer is dropped here if nobody waits for it any more.
                let _ = sender.send(resolver(&host, port));
                drop(place);
            })
            .map_err(|error| Failure::new("resolve_failed", error.to_string()))?;
        loop {
            match receiver.try_recv() {
                Ok(Ok(found)) if found.is_empty() => {
                    return Err(Failure::new("resolve_failed", "the name has no address"));
                }
                Ok(Ok(found)) => return Ok(alternate(&found)),
                Ok(Err(error)) => return Err(Failure::new("resolve_failed", error.to_string())),
                Err(TryRecvError::Disconnected) => {
                    return Err(Failure::new("resolve_failed", "the lookup ended without answer"));
                }
                Err(TryRecvError::Empty) => session.within(&mut [session.watch()], &limit)?,
            }
        }
    }

    /// Waits until another lookup may start. Only the uplink's thread starts lookups, so nothing
    /// can come between the look and the count.
    fn place(&self, session: &Session<'_>, limit: &Limit) -> Result<Place, Failure> {
        while self.alive.load(Ordering::SeqCst) >= LOOKUPS_MAX {
            session.within(&mut [session.watch()], limit)?;
        }
        self.alive.fetch_add(1, Ordering::SeqCst);
        Ok(Place { shared: self.shared.clone(), alive: self.alive.clone() })
    }
}

/// The first addresses, alternating between the families and starting with the family that the
/// resolver prefers: a dead family costs one attempt, not all of them (RFC 8305, section 4).
fn alternate(found: &[SocketAddr]) -> Vec<SocketAddr> {
    let preferred = found.first().is_some_and(SocketAddr::is_ipv6);
    let mut first = found.iter().filter(|address| address.is_ipv6() == preferred);
    let mut second = found.iter().filter(|address| address.is_ipv6() != preferred);
    let mut order = Vec::with_capacity(ADDRESSES_MAX);
    while order.len() < ADDRESSES_MAX {
        let before = order.len();
        order.extend(first.next());
        order.extend(second.next());
        if order.len() == before {
            break;
        }
    }
    order.truncate(ADDRESSES_MAX);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Families alternate from the preferred one, order within a family stays, eight at most.
    #[test]
    fn addresses_alternate_between_families() {
        let six = |n: u128| SocketAddr::new(IpAddr::V6(n.into()), 1883);
        let four = |n: u32| SocketAddr::new(IpAddr::V4(n.into()), 1883);
        let found = [six(1), six(2), six(3), four(1), four(2)];
        assert_eq!(alternate(&found), [six(1), four(1), six(2), four(2), six(3)]);
        assert_eq!(alternate(&[four(1), four(2), six(1)]), [four(1), six(1), four(2)]);
        let many: Vec<_> = (0..100).map(four).collect();
        assert_eq!(alternate(&many), many[..8]);
    }
}
