//! Decides whom the uplink trusts, at what time, and what each TLS failure is called.
//!
//! It knows certificates, names and clocks; bytes and sockets are `transport`'s.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, ClientConnection, Error, RootCertStore};

use super::session::Failure;
use super::transport::BUFFER_BYTES;

/// Largest certificate file read; a distribution's whole bundle is about 220 KiB.
const CA_BYTES_MAX: u64 = 1024 * 1024;

/// Which certificate authorities may vouch for the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaSource {
    /// The device's certificate store.
    System,
    /// The certificates in a PEM file of at most 1 MiB.
    File(PathBuf),
}

/// How the broker has to prove itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// Whose certificates are trusted.
    pub ca: CaSource,
    /// The name or IP address that the certificate must bear; the target's host if `None`.
    pub server_name: Option<String>,
}

/// The clock that certificates are judged by: the system's, but never behind a floor, so that a
/// board which boots in 1970 can use the last time it wrote down.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    floor_seconds: Arc<AtomicU64>,
}

impl Clock {
    pub fn raise(&self, unix_seconds: u64) {
        self.floor_seconds.fetch_max(unix_seconds, Ordering::SeqCst);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let floor = Duration::from_secs(self.floor_seconds.load(Ordering::SeqCst));
        Some(UnixTime::now().max(UnixTime::since_unix_epoch(floor)))
    }
}

/// The client's half of a new TLS connection to `host`.
pub(crate) fn client(
    options: &TlsOptions,
    host: &str,
    clock: &Clock,
) -> Result<ClientConnection, Failure> {
    let name = options.server_name.as_deref().unwrap_or(host);
    let server = ServerName::try_from(name.to_owned())
        .map_err(|_| Failure::new("tls_name_invalid", format!("{name:?} is no server name")))?;
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failure(&error))?
        .with_root_certificates(roots(&options.ca)?)
        .with_no_client_auth();
    // Reconnecting is rare: a session cache for 256 servers is not worth its memory.
    config.resumption = Resumption::disabled();
    let mut client =
        ClientConnection::new(Arc::new(config), server).map_err(|error| failure(&error))?;
    client.set_buffer_limit(Some(BUFFER_BYTES));
    Ok(client)
}

fn roots(source: &CaSource) -> Result<RootCertStore, Failure> {
    let (certificates, place) = match source {
        CaSource::System => (system_certificates()?, "the system's certificate store".into()),
        CaSource::File(path) => (file_certificates(path)?, path.display().to_string()),
    };
    let mut roots = RootCertStore::empty();
    let (usable, unusable) = roots.add_parsable_certificates(certificates);
    if usable == 0 {
        let cause = format!("{place} holds no certificate ({unusable} unusable entries)");
        return Err(Failure::new("tls_ca_empty", cause));
    }
    Ok(roots)
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>, Failure> {
    let found = rustls_native_certs::load_native_certs();
    // One damaged file must not take the whole store away: an error counts when nothing is left.
    match found.errors.first() {
        Some(error) if found.certs.is_empty() => {
            Err(Failure::new("tls_ca_unreadable", error.to_string()))
        }
        _ => Ok(found.certs),
    }
}

fn file_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let unreadable =
        |cause: String| Failure::new("tls_ca_unreadable", format!("{}: {cause}", path.display()));
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CA_BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(|error| unreadable(error.to_string()))?;
    if text.len() as u64 > CA_BYTES_MAX {
        return Err(unreadable(format!("larger than {CA_BYTES_MAX} bytes")));
    }
    CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(error.to_string()))
}

/// Names a TLS failure; the codes are stable, the sentences are for a person.
pub(super) fn failure(error: &Error) -> Failure {
    let code = match error {
        Error::InvalidCertificate(certificate) => return certificate_failure(certificate, error),
        Error::AlertReceived(_) => "tls_alert",
        Error::InvalidMessage(_) => "tls_not_tls",
        Error::PeerIncompatible(_) => "tls_incompatible",
        _ => "tls_failed",
    };
    Failure::new(code, error.to_string())
}

fn certificate_failure(certificate: &CertificateError, error: &Error) -> Failure {
    use CertificateError as E;
    let code = match certificate {
        E::Expired | E::ExpiredContext { .. } => "tls_certificate_expired",
        E::NotValidYet | E::NotValidYetContext { .. } => {
            let cause = format!("the device's clock may be behind: {error}");
            return Failure::new("tls_certificate_not_yet_valid", cause);
        }
        E::UnknownIssuer => "tls_unknown_issuer",
        E::NotValidForName | E::NotValidForNameContext { .. } => "tls_wrong_name",
        _ => "tls_certificate_invalid",
    };
    Failure::new(code, error.to_string())
}
