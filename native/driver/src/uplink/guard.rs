//! Decides which bytes from the broker may reach the host, by reading MQTT fixed headers.
//!
//! It knows nothing of sockets or time and keeps no bytes: what it does not admit stays with the
//! caller and is shown to it again, together with what came after. paho allocates what a header
//! announces, so a header is checked here before paho sees any of it.

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
/// What a broker may send us besides CONNACK and PUBLISH: PUBACK, SUBACK, PINGRESP, DISCONNECT.
/// We ask for QoS 1 at most, never unsubscribe and never authenticate by AUTH.
const ASKED: [u8; 4] = [4, 9, 13, 14];
/// Of PUBLISH's flags: set for QoS 2 and for the reserved QoS 3. A client keeps each message of
/// QoS 2 until the broker lets it go, which a broker need never do.
const ABOVE_QOS_1: u8 = 0x04;
/// One type byte and at most four length bytes (MQTT 5.0, section 2.1.4).
const LENGTH_BYTES_MAX: usize = 4;

/// The guard of one connection. Its verdict does not depend on how the bytes are cut into chunks.
#[derive(Debug)]
pub struct Guard {
    maximum_packet_bytes: u32,
    /// Bytes of the current packet that are admitted but have not been shown yet.
    owed: u64,
    opened: bool,
}

/// Why a connection has to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The announced remaining length is above the maximum.
    TooLarge {
        /// Remaining length in bytes, as announced.
        announced: u32,
    },
    /// The remaining length has a fifth byte.
    LengthMalformed,
    /// Packet type 0, which no MQTT version defines.
    TypeReserved,
    /// The first packet is not a CONNACK.
    NotConnack {
        /// The packet type found, 1 to 15.
        kind: u8,
    },
    /// A packet that no broker sends to a client like ours, or a second CONNACK.
    Unasked {
        /// Its first byte: type and flags.
        first: u8,
    },
}

/// What a prefix of bytes says about the fixed header in it.
enum Header {
    Incomplete,
    Complete { bytes: u64 },
}

impl Guard {
    /// A guard that admits packets whose remaining length is at most `maximum_packet_bytes`.
    #[must_use]
    pub fn new(maximum_packet_bytes: u32) -> Guard {
        Guard { maximum_packet_bytes, owed: 0, opened: false }
    }

    /// How many bytes at the front of `bytes` may be forwarded, and whether what follows them has
    /// to end the connection. Never admits part of a fixed header.
    pub fn admit(&mut self, bytes: &[u8]) -> (usize, Option<Cut>) {
        let mut admitted = 0;
        loop {
            let rest = &bytes[admitted..];
            let body = rest.len().min(usize::try_from(self.owed).unwrap_or(usize::MAX));
            self.owed -= body as u64;
            admitted += body;
            match self.header(&rest[body..]) {
                Ok(Header::Incomplete) => return (admitted, None),
                Ok(Header::Complete { bytes }) => {
                    self.owed = bytes;
                    self.opened = true;
                }
                Err(cut) => return (admitted, Some(cut)),
            }
        }
    }

    /// Whether a complete CONNACK header has been admitted.
    #[must_use]
    pub fn opened(&self) -> bool {
        self.opened
    }

    /// Reads the fixed header at the front of `bytes`; the type is judged as soon as it is there,
    /// so that the verdict is the same however late the length arrives.
    fn header(&self, bytes: &[u8]) -> Result<Header, Cut> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Ok(Header::Incomplete);
        };
        match first >> 4 {
            0 => return Err(Cut::TypeReserved),
            kind if !self.opened && kind != CONNACK => return Err(Cut::NotConnack { kind }),
            CONNACK if !self.opened => {}
            PUBLISH if first & ABOVE_QOS_1 == 0 => {}
            kind if ASKED.contains(&kind) => {}
            _ => return Err(Cut::Unasked { first }),
        }
        let mut length = 0;
        for (index, &byte) in rest.iter().take(LENGTH_BYTES_MAX).enumerate() {
            length |= u32::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                if length > self.maximum_packet_bytes {
                    return Err(Cut::TooLarge { announced: length });
                }
                return Ok(Header::Complete { bytes: 2 + index as u64 + u64::from(length) });
            }
        }
        if rest.len() < LENGTH_BYTES_MAX {
            return Ok(Header::Incomplete);
        }
        Err(Cut::LengthMalformed)
    }
}
