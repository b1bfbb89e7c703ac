//! The uplink over TLS: whom it trusts, at what time, and what each failure is called.

mod uplink_harness;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fs, io};

use limpet_driver::uplink::{CaSource, Stage, Target, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;
use uplink_harness::*;

type TlsStream = StreamOwned<ServerConnection, TcpStream>;

/// A certificate authority whose PEM file lives as long as it does.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), folder }
    }

    fn trust(&self, server_name: Option<&str>) -> Option<TlsOptions> {
        let ca = CaSource::File(self.folder.path().join("ca.pem"));
        Some(TlsOptions { ca, server_name: server_name.map(Into::into) })
    }

    /// What a server for `name`, valid in the given years, needs.
    fn server(&self, name: &str, from: i32, until: i32) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().into()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
    }
}

/// A TLS broker for one connection.
fn tls_broker<T: Send + 'static>(
    config: Arc<ServerConfig>,
    serve: impl FnOnce(&mut TlsStream) -> T + Send + 'static,
) -> (Target, JoinHandle<T>) {
    broker(move |stream| {
        serve(&mut StreamOwned::new(ServerConnection::new(config).unwrap(), stream))
    })
}

/// The code and detail with which the handshake with a broker's certificate fails.
fn refusal(server: Arc<ServerConfig>, tls: Option<TlsOptions>) -> (&'static str, String) {
    let (mut target, broker) = tls_broker(server, |stream| drain(stream));
    target.tls = tls;
    let failure = Host::new().failure(target);
    assert_eq!(broker.join().unwrap(), b"", "the host's bytes went out");
    failure
}

/// A vouched-for broker comes up through the Handshaking stage, by IP address or by another name,
/// and small packets pass both ways.
#[test]
fn a_good_certificate_comes_up() {
    let authority = Authority::new("limpet test");
    for (name, override_) in [("127.0.0.1", None), ("broker.lan", Some("broker.lan"))] {
        let server = authority.server(name, 2020, 2090);
        let (mut target, broker) = tls_broker(server, |stream| {
            welcome(stream);
            drain(stream)
        });
        target.tls = authority.trust(override_);
        let host = Host::new();
        let epoch = host.uplink.connect(target);
        host.reach(epoch, Stage::Handshaking);
        let mut end =
            std::os::unix::net::UnixStream::from(host.reach(epoch, Stage::Up).host_end.unwrap());
        end.set_nonblocking(false).unwrap();
        greet(&mut end);
        end.write_all(b"last").unwrap();
        drop(end);
        assert_eq!(broker.join().unwrap(), b"last");
        assert_eq!(host.down(epoch).0, "closed_by_host");
    }
}

/// 4 MB each way at the same time, read in odd pieces: nothing is lost or changed, and the end of
/// the broker's stream, with or without `close_notify`, comes after its last byte.
#[test]
fn big_transfers_survive_tls() {
    let authority = Authority::new("limpet test");
    for polite in [true, false] {
        let expected = publishes(4_000);
        let bytes = expected.clone();
        let server = authority.server("127.0.0.1", 2020, 2090);
        let (mut target, broker) = tls_broker(server, move |stream| {
            welcome(stream);
            let mut received = vec![0; bytes.len()];
            for (sent, piece) in bytes.chunks(9_999).zip(received.chunks_mut(9_999)) {
                stream.write_all(sent).unwrap();
                stream.read_exact(piece).unwrap();
            }
            if polite {
                stream.conn.send_close_notify();
            }
            stream.flush().unwrap();
            received
        });
        target.tls = authority.trust(None);
        let host = Host::new();
        let (epoch, mut end) = host.up(target);
        greet(&mut end);
        let mut other = end.try_clone().unwrap();
        let sent = expected.clone();
        let writer = thread::spawn(move || other.write_all(&sent).unwrap());
        let mut received = vec![0; expected.len()];
        for piece in received.chunks_mut(777) {
            end.read_exact(piece).unwrap();
        }
        assert!(received == expected, "the host got other bytes");
        writer.join().unwrap();
        assert!(broker.join().unwrap() == expected, "the broker got other bytes");
        assert_eq!(drain(&end), b"");
        assert_eq!(host.down(epoch).0, "closed_by_broker");
    }
}

/// A host that reads nothing holds a TLS broker back; then every byte arrives.
#[test]
fn backpressure_passes_through_tls() {
    let authority = Authority::new("limpet test");
    let expected = publishes(16_000);
    let bytes = expected.clone();
    let (sender, filled) = channel();
    let server = authority.server("127.0.0.1", 2020, 2090);
    let (mut target, broker) = tls_broker(server, move |stream| {
        welcome(stream);
        // A writer that gets nowhere for this long is held back.
        stream.sock.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut sent = 0;
        'filling: while sent < bytes.len() {
            sent += stream.conn.writer().write(&bytes[sent..]).unwrap();
            while stream.conn.wants_write() {
                match stream.conn.write_tls(&mut stream.sock) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break 'filling,
                    result => assert!(result.unwrap() > 0),
                }
            }
        }
        sender.send(sent).unwrap();
        stream.sock.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&bytes[sent..]).unwrap();
        drain(stream);
    });
    target.tls = authority.trust(None);
    let host = Host::new();
    let (_, mut end) = host.up(target);
    greet(&mut end);
    assert!(filled.recv_timeout(PATIENCE).unwrap() < expected.len(), "no backpressure");
    let mut received = vec![0; expected.len()];
    end.read_exact(&mut received).unwrap();
    assert!(received == expected, "the host got other bytes");
    drop(end);
    broker.join().unwrap();
}

/// Every way not to be trusted has its own code.
#[test]
fn untrusted_certificates_are_named() {
    let ours = Authority::new("ours");
    let theirs = Authority::new("theirs");
    let cases = [
        (ours.server("127.0.0.1", 2001, 2002), ours.trust(None), "tls_certificate_expired"),
        (theirs.server("127.0.0.1", 2020, 2090), ours.trust(None), "tls_unknown_issuer"),
        (ours.server("other.lan", 2020, 2090), ours.trust(None), "tls_wrong_name"),
        (ours.server("127.0.0.1", 2020, 2090), ours.trust(Some("other.lan")), "tls_wrong_name"),
    ];
    for (server, tls, expected) in cases {
        let (code, detail) = refusal(server, tls);
        assert_eq!(code, expected, "{detail}");
    }
}

/// A certificate from the future names the clock; with the floor raised it is accepted, and the
/// floor never falls.
#[test]
fn the_clock_floor_makes_a_certificate_valid() {
    let authority = Authority::new("limpet test");
    let server = authority.server("127.0.0.1", 2090, 2092);
    let (code, detail) = refusal(server.clone(), authority.trust(None));
    assert_eq!(code, "tls_certificate_not_yet_valid");
    assert!(detail.contains("clock"), "{detail}");

    let host = Host::new();
    let connect = |host: &Host| {
        let (mut target, broker) = tls_broker(server.clone(), |stream| drain(stream));
        target.tls = authority.trust(None);
        drop(host.up(target));
        broker.join().unwrap();
    };
    let year_2091 = date_time_ymd(2091, 1, 1).unix_timestamp() as u64;
    host.uplink.set_clock_floor(year_2091);
    connect(&host);
    host.uplink.set_clock_floor(0);
    connect(&host);
    let (mut target, broker) = tls_broker(server.clone(), |stream| drain(stream));
    target.tls = authority.trust(None);
    host.uplink.set_clock_floor(date_time_ymd(2095, 1, 1).unix_timestamp() as u64);
    assert_eq!(host.failure(target).0, "tls_certificate_expired");
    broker.join().unwrap();
}

/// Peers that do not speak TLS, refuse it, hang up on it or hang are told apart.
#[test]
fn peers_without_tls_are_named() {
    let cases: [(&[u8], &str); 3] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "tls_not_tls"),
        (&[21, 3, 3, 0, 2, 2, 40], "tls_alert"),
        (b"", "closed_by_broker"),
    ];
    let authority = Authority::new("limpet test");
    for (answer, expected) in cases {
        let (mut target, broker) = broker(move |mut stream| {
            stream.read_exact(&mut [0; 100]).unwrap();
            stream.write_all(answer).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            drain(stream);
        });
        target.tls = authority.trust(None);
        let (code, detail) = Host::new().failure(target);
        assert_eq!(code, expected, "{detail}");
        broker.join().unwrap();
    }
    let (mut target, broker) = broker(drain);
    target.tls = authority.trust(None);
    target.timeouts.handshake = Duration::from_millis(50);
    assert_eq!(Host::new().failure(target).0, "handshake_timeout");
    broker.join().unwrap();
}

/// Each way for a CA file to be of no use has a code and names the file.
#[test]
fn useless_ca_files_are_named() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let garbage = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::create_dir(folder.path().join("folder"))?;
    fs::write(folder.path().join("empty"), "")?;
    fs::write(folder.path().join("text"), "no certificate here\n")?;
    fs::write(folder.path().join("garbage"), garbage)?;
    fs::write(folder.path().join("other"), no_certificate)?;
    fs::write(folder.path().join("huge"), vec![b'\n'; (1 << 20) + 1])?;
    let cases = [
        ("missing", "tls_ca_unreadable"),
        ("folder", "tls_ca_unreadable"),
        ("garbage", "tls_ca_unreadable"),
        ("huge", "tls_ca_unreadable"),
        ("empty", "tls_ca_empty"),
        ("text", "tls_ca_empty"),
        ("other", "tls_ca_empty"),
    ];
    for (name, expected) in cases {
        let path = folder.path().join(name);
        let (mut target, broker) = broker(drain);
        target.tls = Some(TlsOptions { ca: CaSource::File(path.clone()), server_name: None });
        let (code, detail) = Host::new().failure(target);
        assert_eq!(code, expected, "{name}: {detail}");
        assert!(detail.contains(path.to_str().unwrap()), "{detail}");
        assert_eq!(broker.join().unwrap(), b"");
    }
    Ok(())
}

/// The system's store does not vouch for a stranger, wherever it is and whether or not it exists.
#[test]
fn the_system_store_trusts_no_stranger() {
    let server = Authority::new("stranger").server("127.0.0.1", 2020, 2090);
    let options = TlsOptions { ca: CaSource::System, server_name: None };
    let (code, detail) = refusal(server, Some(options));
    let expected = ["tls_unknown_issuer", "tls_ca_empty", "tls_ca_unreadable"];
    assert!(expected.contains(&code), "{code}: {detail}");
}

/// A name that no certificate can bear is refused before anything is sent.
#[test]
fn impossible_names_are_refused() {
    let (mut target, broker) = broker(drain);
    target.tls = Authority::new("limpet test").trust(Some("not a name"));
    assert_eq!(Host::new().failure(target).0, "tls_name_invalid");
    assert_eq!(broker.join().unwrap(), b"");
}
