//! What the host says at open, as one JSON document.

use crate::budget::Wanted;
use crate::clock::Trust;
use crate::containment::Tiers;
use crate::uplink::{CaSource, StageTimeouts, Target, TlsOptions};
use limpet_core::Limits;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Everything the driver needs to know. Unknown members are errors.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Holds `journal/` and the instance's id; must exist.
    pub state_directory: PathBuf,
    /// Where this boot's id is read; a path of its own for tests.
    #[serde(default = "boot_id_file")]
    pub boot_id_file: PathBuf,
    /// What makes the wall clock trusted.
    pub clock: Trust,
    /// Containment: the best that is there, or the marker only.
    #[serde(default)]
    pub containment: Containing,
    /// Bounds.
    #[serde(default)]
    pub limits: Bounds,
    /// How memory divides.
    #[serde(default)]
    pub memory: Wanted,
    /// Below what the agent does not start.
    #[serde(default)]
    pub require: Require,
    /// Whether the timer's thread comes before every ordinary one.
    #[serde(default)]
    pub realtime: bool,
    /// Size of a journal segment in bytes.
    pub segment_bytes: u64,
    /// The policy table; see [`crate::table`].
    pub table: serde_json::Value,
}

/// Which containment to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Containing {
    /// The best that this system lends.
    #[default]
    Auto,
    /// What needs nothing but `/proc`.
    Marker,
}

/// What must be lent for the agent to start, on both axes.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Require {
    containment: Demand,
    memory: Demand,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Demand {
    #[default]
    Any,
    Cgroup,
}

impl Require {
    /// Whether `tiers` are what is demanded.
    ///
    /// # Errors
    /// A sentence that names the first tier that is not.
    pub fn check(&self, tiers: &Tiers) -> Result<(), String> {
        let axes = [
            ("containment", self.containment, tiers.containment),
            ("memory", self.memory, tiers.memory),
        ];
        for (axis, demand, tier) in axes {
            if demand == Demand::Cgroup && !tier.starts_with("cgroup") {
                return Err(format!(
                    "cannot keep steps by control groups: limits.require.{axis} demands it and \
                     the tier is {tier} (the agent does not start; `limpet doctor` says what helps)"
                ));
            }
        }
        Ok(())
    }
}

/// The machine's limits that an operator may set.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    tasks: u16,
    steps: u16,
    attempts: u16,
    ids: u16,
}

impl Default for Bounds {
    fn default() -> Bounds {
        let Limits { tasks, steps, attempts, ids, .. } = Limits::default();
        Bounds { tasks, steps, attempts, ids }
    }
}

impl Bounds {
    /// The machine's limits; the journal must keep half of a segment free for its compaction.
    #[must_use]
    pub fn limits(&self, segment_bytes: u64, pool_bytes: u64) -> Limits {
        let Bounds { tasks, steps, attempts, ids } = *self;
        // An id that is kept for long takes a record: its share is set aside first.
        let remembered = u64::from(ids) * crate::store::record_bytes(64);
        let live_bytes = (segment_bytes / 2).saturating_sub(remembered);
        let pool_kib = u32::try_from(pool_bytes / 1024).unwrap_or(u32::MAX);
        Limits { tasks, steps, attempts, ids, live_bytes, pool_kib, ..Limits::default() }
    }
}

fn boot_id_file() -> PathBuf {
    PathBuf::from("/proc/sys/kernel/random/boot_id")
}

/// Where the broker is, as the host says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    host: String,
    port: u16,
    tls: Option<LinkTls>,
    resolve_ms: u64,
    connect_ms: u64,
    handshake_ms: u64,
    connack_ms: u64,
    maximum_packet_bytes: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkTls {
    ca_file: Option<PathBuf>,
    server_name: Option<String>,
}

/// Reads where to connect from JSON.
///
/// # Errors
/// A sentence about what is wrong with the document.
pub fn target(bytes: &[u8]) -> Result<Target, String> {
    let link: Link = serde_json::from_slice(bytes)
        .map_err(|cause| format!("cannot read the broker's address: {cause} (not connected)"))?;
    let tls = link.tls.map(|tls| TlsOptions {
        ca: tls.ca_file.map_or(CaSource::System, CaSource::File),
        server_name: tls.server_name,
    });
    let timeouts = StageTimeouts {
        resolve: Duration::from_millis(link.resolve_ms),
        connect: Duration::from_millis(link.connect_ms),
        handshake: Duration::from_millis(link.handshake_ms),
        connack: Duration::from_millis(link.connack_ms),
    };
    let (host, port, maximum_packet_bytes) = (link.host, link.port, link.maximum_packet_bytes);
    Ok(Target { host, port, tls, timeouts, maximum_packet_bytes })
}
