//! The uplink over plain TCP: stages and their limits, ends, backpressure, replacement.

mod uplink_harness;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use limpet_driver::uplink::{Stage, Uplink};
use uplink_harness::*;

const SHORT: Duration = Duration::from_millis(50);
/// A writer that gets nowhere for this long is held back.
const STALLED: Duration = Duration::from_millis(200);

/// The stages are told in order, with one epoch, and only Up carries a socket.
#[test]
fn stages_are_reported_in_order() {
    let (target, broker) = broker(drain);
    let host = Host::new();
    let epoch = host.uplink.connect(target);
    for stage in [Stage::Resolving, Stage::Connecting, Stage::Up, Stage::Down] {
        let record = host.record();
        assert_eq!((record.epoch, record.stage), (epoch, stage));
        assert_eq!(record.host_end.is_some(), stage == Stage::Up);
        assert_eq!(record.code, if stage == Stage::Down { "closed_by_host" } else { "" });
    }
    broker.join().unwrap();
}

/// A lookup that hangs is abandoned in time; two abandoned ones are the most there can be, and
/// when they end the next connection comes up.
#[test]
fn hanging_lookups_are_abandoned_and_bounded() {
    let (listener, address) = listener();
    let started = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Mutex::new(()));
    let resolver = {
        let (started, gate) = (started.clone(), gate.clone());
        move |_: &str, _| {
            started.fetch_add(1, Ordering::SeqCst);
            drop(gate.lock().unwrap());
            Ok(vec![address])
        }
    };
    let host = Host::with_resolver(Arc::new(resolver));
    let hanging = gate.lock().unwrap();
    for _ in 0..4 {
        let mut target = target("broker.lan", 1883);
        target.timeouts.resolve = SHORT;
        assert_eq!(host.failure(target).0, "resolve_timeout");
    }
    assert!(started.load(Ordering::SeqCst) <= 2);
    drop(hanging);
    host.up(target("broker.lan", 1883));
    accept(&listener);
}

/// No such name, and a name without addresses, are `resolve_failed`; both say which name.
#[test]
fn failed_lookups_are_named() {
    for answer in [Err(()), Ok(vec![])] {
        let host = Host::with_resolver(Arc::new(move |_: &str, _| {
            answer.clone().map_err(|()| io::Error::other("no such name"))
        }));
        let (code, detail) = host.failure(target("broker.lan", 1883));
        assert_eq!(code, "resolve_failed");
        assert!(detail.contains("broker.lan:1883"), "{detail}");
    }
}

/// The C library's resolver is asked for names, and not needed for literals.
#[test]
fn names_are_looked_up() {
    let (mut target, broker) = broker(drain);
    target.host = "localhost".into();
    let host = Host::new();
    drop(host.up(target));
    broker.join().unwrap();
}

/// A peer that never answers the SYN ends the stage in its time.
#[test]
fn connect_timeout() {
    let (_silent, address) = silent_listener();
    let mut target = target("127.0.0.1", address.port());
    target.timeouts.connect = SHORT;
    assert_eq!(Host::new().failure(target).0, "connect_timeout");
}

/// A silent and a refusing address do not keep the third one from being reached.
#[test]
fn every_address_gets_its_turn() {
    let (_silent, silent) = silent_listener();
    let (listener, good) = listener();
    let addresses = vec![silent, closed_address(), good];
    let host = Host::with_resolver(Arc::new(move |_: &str, _| Ok(addresses.clone())));
    let mut target = target("broker.lan", 1883);
    target.timeouts.connect = Duration::from_secs(3);
    host.up(target);
    accept(&listener);
}

/// A closed port is `refused`, also behind an unroutable address, and each address is named.
#[test]
fn refused_connections_are_named() {
    let closed = closed_address();
    let unroutable = SocketAddr::from(([255, 255, 255, 255], 1883));
    let host = Host::with_resolver(Arc::new(move |_: &str, _| Ok(vec![unroutable, closed])));
    let (code, detail) = host.failure(target("broker.lan", 1883));
    assert_eq!(code, "refused");
    assert!(detail.contains(&closed.to_string()), "{detail}");
    assert!(detail.contains(&unroutable.to_string()), "{detail}");
}

/// Without any route the code is `unreachable`.
#[test]
fn unroutable_addresses_are_unreachable() {
    assert_eq!(Host::new().failure(target("255.255.255.255", 1883)).0, "unreachable");
}

/// A broker that takes CONNECT and says nothing, or half a header, is given up.
#[test]
fn connack_timeout() {
    for answer in [&[][..], &CONNACK[..1]] {
        let (mut target, broker) = broker(move |mut stream| {
            stream.write_all(answer).unwrap();
            drain(stream)
        });
        target.timeouts.connack = SHORT;
        let host = Host::new();
        let (epoch, mut end) = host.up(target);
        end.write_all(CONNECT).unwrap();
        assert_eq!(host.down(epoch).0, "connack_timeout");
        assert_eq!(drain(end), b"", "an incomplete header was forwarded");
        assert_eq!(broker.join().unwrap(), CONNECT);
    }
}

/// After CONNACK its limit no longer holds: the connection outlives one that was started later,
/// has a longer limit and gets no CONNACK.
#[test]
fn connack_ends_its_limit() {
    let (mut living, living_broker) = broker(|mut stream| {
        welcome(&mut stream);
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(&[0xd0, 0]).unwrap();
    });
    living.timeouts.connack = Duration::from_secs(1);
    let host = Host::new();
    let (_, mut end) = host.up(living);
    greet(&mut end);
    let (mut dying, dying_broker) = broker(drain);
    dying.timeouts.connack = Duration::from_millis(1500);
    let clock = Host::new();
    let (epoch, mut other_end) = clock.up(dying);
    other_end.write_all(CONNECT).unwrap();
    assert_eq!(clock.down(epoch).0, "connack_timeout");
    end.write_all(&[0xc0]).unwrap();
    assert_eq!(drain(&end), [0xd0, 0]);
    living_broker.join().unwrap();
    dying_broker.join().unwrap();
}

/// What precedes a bad packet reaches the host; nothing of the packet does; the broker is cut
/// off; the code and the announced size are told.
#[test]
fn bad_packets_are_cut_at_their_header() {
    let cases: [(&[u8], &[u8], &str, &str); 9] = [
        (CONNACK, &[0x30, 0xff, 0xff, 0xff, 0x7f, 1, 2, 3], "packet_too_large", "268435455"),
        (CONNACK, &[0x30, 0x80, 0x80, 0x80, 0x80, 1, 2, 3], "packet_malformed", "length"),
        (CONNACK, &[0x05, 1, 2], "packet_malformed", "type 0"),
        (CONNACK, &[0x34, 5, 0, 1, b'a', 0, 1], "packet_unasked", "0x34"),
        (CONNACK, &[0x62, 2, 0, 1], "packet_unasked", "0x62"),
        (CONNACK, &[0xc0, 0], "packet_unasked", "0xc0"),
        (CONNACK, CONNACK, "packet_unasked", "0x20"),
        (&[], &[0x30, 3, 1, 2, 3], "not_connack", "type 3"),
        (&[], b"HTTP/1.1 400 Bad Request\r\n", "not_connack", "type 4"),
    ];
    for (good, bad, expected, word) in cases {
        let (target, broker) = broker(move |mut stream| {
            stream.write_all(&[good, bad].concat()).unwrap();
            drain(stream)
        });
        let host = Host::new();
        let (epoch, end) = host.up(target);
        let (code, detail) = host.down(epoch);
        assert_eq!(code, expected);
        assert!(detail.contains(word), "{detail}");
        assert_eq!(drain(end), good);
        broker.join().unwrap();
    }
}

/// While the host does not read, the broker cannot send without end; while the broker does not
/// read, the host cannot. Afterwards every byte arrives, in order, both ways.
#[test]
fn slow_readers_slow_the_writer_and_lose_nothing() {
    let total = publishes(24_000);
    let expected = total.clone();
    let both_filled = Arc::new(Barrier::new(2));
    let filled = both_filled.clone();
    let (target, broker) = broker(move |mut stream| {
        welcome(&mut stream);
        stream.set_write_timeout(Some(STALLED)).unwrap();
        let sent = fill(&mut stream, &total);
        filled.wait();
        assert!(sent < total.len(), "no backpressure towards the broker");
        let mut other = stream.try_clone().unwrap();
        let received = thread::spawn(move || drain(&mut other));
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&total[sent..]).unwrap();
        received.join().unwrap()
    });
    let host = Host::new();
    let (epoch, mut end) = host.up(target);
    greet(&mut end);
    end.set_write_timeout(Some(STALLED)).unwrap();
    let sent = fill(&mut end, &expected);
    both_filled.wait();
    assert!(sent < expected.len(), "no backpressure towards the host");
    let mut other = end.try_clone().unwrap();
    let rest = expected[sent..].to_vec();
    let writer = thread::spawn(move || {
        other.set_write_timeout(Some(PATIENCE)).unwrap();
        other.write_all(&rest).unwrap();
    });
    let mut received = vec![0; expected.len()];
    for piece in received.chunks_mut(777) {
        end.read_exact(piece).unwrap();
    }
    assert!(received == expected, "the host got other bytes");
    writer.join().unwrap();
    drop(end);
    assert!(broker.join().unwrap() == expected, "the broker got other bytes");
    assert_eq!(host.down(epoch).0, "closed_by_host");
}

/// Writes until the other side has not read for the socket's write timeout; how much it took.
fn fill(into: &mut impl Write, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while sent < bytes.len() {
        match into.write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    sent
}

/// The last bytes of either side reach the other before the connection is down.
#[test]
fn last_bytes_are_delivered() {
    let bytes = publishes(500);
    let sent = bytes.clone();
    let (target, broker) = broker(move |mut stream| {
        welcome(&mut stream);
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        drain(stream)
    });
    let host = Host::new();
    let (epoch, mut end) = host.up(target);
    greet(&mut end);
    assert!(drain(&end) == bytes);
    // The end was visible, so its cause is there without waiting.
    let record = host.uplink.next_record().unwrap();
    assert_eq!((record.epoch, record.stage, record.code), (epoch, Stage::Down, "closed_by_broker"));
    broker.join().unwrap();

    let (target, broker) = uplink_harness::broker(drain);
    let (epoch, mut end) = host.up(target);
    end.write_all(&bytes).unwrap();
    drop(end);
    assert!(broker.join().unwrap() == bytes);
    assert_eq!(host.down(epoch).0, "closed_by_host");
}

/// A host that leaves behind a broker which reads nothing is noticed, though no buffer has room.
#[test]
fn a_host_that_leaves_is_noticed_behind_full_buffers() {
    let (listener, address) = listener();
    let host = Host::new();
    let (epoch, mut end) = host.up(target("127.0.0.1", address.port()));
    let _stream = accept(&listener);
    let bytes = publishes(24_000);
    end.set_write_timeout(Some(STALLED)).unwrap();
    assert!(fill(&mut end, &bytes) < bytes.len());
    drop(end);
    assert_eq!(host.down(epoch).0, "closed_by_host");
}

/// A reset is told as such, after what was received before it.
#[test]
fn resets_are_named() {
    let (target, broker) = broker(|mut stream| {
        welcome(&mut stream);
        stream.read_exact(&mut [0]).unwrap();
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    });
    let host = Host::new();
    let (epoch, mut end) = host.up(target);
    greet(&mut end);
    end.write_all(&[0xc0]).unwrap();
    assert_eq!(host.down(epoch).0, "reset");
    broker.join().unwrap();
}

/// A new connection closes the old one, and no byte of either appears on the other.
#[test]
fn replaced_connections_share_nothing() {
    let (old_target, old_broker) = broker(|mut stream| {
        // The connection is cut before all of it has gone out.
        let _ = stream.write_all(&[CONNACK, &publishes(24_000)].concat());
        drain(stream)
    });
    let (new_target, new_broker) = broker(|mut stream| {
        welcome(&mut stream);
        drain(stream)
    });
    let host = Host::new();
    let (old, mut old_end) = host.up(old_target);
    old_end.write_all(b"old").unwrap();
    old_end.read_exact(&mut [0; 100]).unwrap();
    let new = host.uplink.connect(new_target);
    assert!(new > old);
    assert_eq!(host.down(old).0, "replaced");
    assert!(drain(old_end).len() < 24_000 * 1003);
    assert!(b"old".starts_with(&old_broker.join().unwrap()));
    let end = host.reach(new, Stage::Up).host_end.unwrap();
    let mut end = std::os::unix::net::UnixStream::from(end);
    end.set_nonblocking(false).unwrap();
    greet(&mut end);
    end.write_all(b"new").unwrap();
    host.uplink.disconnect(old);
    drop(end);
    assert_eq!(new_broker.join().unwrap(), b"new");
    assert_eq!(host.down(new).0, "closed_by_host");
}

/// `disconnect` cuts in any stage; a stale epoch cuts nothing.
#[test]
fn disconnect_cuts_the_named_connection() {
    let (_silent, silent) = silent_listener();
    let (listener, address) = listener();
    let host = Host::new();
    let connecting = host.uplink.connect(target("127.0.0.1", silent.port()));
    host.reach(connecting, Stage::Connecting);
    host.uplink.disconnect(connecting);
    assert_eq!(host.down(connecting).0, "disconnected");
    let (epoch, end) = host.up(target("127.0.0.1", address.port()));
    host.uplink.disconnect(connecting);
    let stream = accept(&listener);
    host.uplink.disconnect(epoch);
    assert_eq!(host.down(epoch).0, "disconnected");
    assert_eq!(drain(end), b"");
    assert_eq!(drain(stream), b"");
}

/// A host that takes no records keeps the newest 16: the newest connection's are all there.
#[test]
fn unread_records_are_bounded() {
    let (sender, woken) = channel();
    let wake = move || {
        let _ = sender.send(());
    };
    let uplink = Uplink::start(Box::new(wake)).unwrap();
    let stages = [Stage::Resolving, Stage::Connecting, Stage::Down];
    for _ in 0..20 {
        uplink.connect(target("127.0.0.1", closed_address().port()));
        for _ in stages {
            woken.recv_timeout(PATIENCE).unwrap();
        }
    }
    let records: Vec<_> = std::iter::from_fn(|| uplink.next_record()).collect();
    assert_eq!(records.len(), 16);
    for (record, stage) in records[13..].iter().zip(stages) {
        assert_eq!((record.epoch, record.stage), (20, stage));
    }
}
