//! As much of MQTT 3.1.1 as a load needs: QoS 1 both ways over one TCP connection.
//!
//! A client library would bring a thread or an event loop of its own between the clock and the
//! socket; the five packets here are a page. What is written is collected and leaves in one call.

use rustix::net::sockopt::set_tcp_quickack;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH_QOS1: u8 = 0x32;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
/// Longest silence of ours that a broker bears, in seconds; no load is as long.
const KEEPALIVE_S: u16 = 3600;
const READ_BYTES: usize = 256 * 1024;

/// What came from the broker.
#[derive(Debug)]
pub enum Packet {
    /// A message; it has been acknowledged.
    Publish {
        /// Where it was published.
        topic: Vec<u8>,
        /// What it says.
        payload: Vec<u8>,
    },
    /// The broker has taken our message of this number.
    PubAck(u16),
}

/// A connection that has subscribed.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    incoming: Vec<u8>,
    /// How much of `incoming` is handled.
    taken: usize,
    outgoing: Vec<u8>,
}

impl Client {
    /// Connects with a clean session and subscribes to `topics` with QoS 1.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub fn connect(port: u16, name: &str, topics: &[String]) -> Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (incoming, outgoing) = (Vec::with_capacity(READ_BYTES), Vec::with_capacity(READ_BYTES));
        let mut client = Client { stream, incoming, taken: 0, outgoing };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 2];
        body.extend_from_slice(&KEEPALIVE_S.to_be_bytes());
        put_string(&mut body, name.as_bytes());
        client.put(CONNECT, &body);
        client.flush()?;
        client.expect(CONNACK, |body| body.get(1) == Some(&0))?;
        if !topics.is_empty() {
            let mut body = vec![0, 1];
            for topic in topics {
                put_string(&mut body, topic.as_bytes());
                body.push(1);
            }
            client.put(SUBSCRIBE, &body);
            client.flush()?;
            client.expect(SUBACK, |body| body[2..].iter().all(|code| *code == 1))?;
        }
        Ok(client)
    }

    /// Collects a message of QoS 1; `flush` sends it.
    pub fn publish(&mut self, number: u16, topic: &str, payload: &[u8]) {
        let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
        put_string(&mut body, topic.as_bytes());
        body.extend_from_slice(&number.to_be_bytes());
        body.extend_from_slice(payload);
        self.put(PUBLISH_QOS1, &body);
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Sends what was collected.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.outgoing)?;
        self.outgoing.clear();
        Ok(())
    }

    /// The next packet that is here already, if there is one; a message's acknowledgement is
    /// collected.
    ///
    /// # Errors
    /// When the broker says something that a load does not expect.
    pub fn take(&mut self) -> Result<Option<Packet>> {
        let Some((kind, body)) = self.split()? else { return Ok(None) };
        match kind & 0xF0 {
            PUBACK => Ok(Some(Packet::PubAck(u16::from_be_bytes([body[0], body[1]])))),
            0x30 => {
                let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let (topic, mut rest) = (body[2..2 + length].to_vec(), 2 + length);
                if kind & 6 != 0 {
                    let number = [body[rest], body[rest + 1]];
                    rest += 2;
                    self.put(PUBACK, &number);
                }
                Ok(Some(Packet::Publish { topic, payload: body[rest..].to_vec() }))
            }
            _ => Err(Error::new(ErrorKind::InvalidData, format!("packet of kind {kind:#x}"))),
        }
    }

    /// Waits for more bytes, at most so long; whether any came.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn wait(&mut self, most: Duration) -> Result<bool> {
        self.stream.set_read_timeout(Some(most.max(Duration::from_micros(100))))?;
        self.incoming.drain(..self.taken);
        self.taken = 0;
        let filled = self.incoming.len();
        self.incoming.resize(filled + READ_BYTES, 0);
        let read = self.stream.read(&mut self.incoming[filled..]);
        self.incoming.truncate(filled + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(Error::new(ErrorKind::UnexpectedEof, "the broker closed the connection")),
            Ok(_) => {
                // Not a lasting property of a socket: it is forgotten when data goes out.
                set_tcp_quickack(&self.stream, true)?;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn put(&mut self, kind: u8, body: &[u8]) {
        self.outgoing.push(kind);
        let mut left = body.len();
        loop {
            let more = if left > 127 { 0x80 } else { 0 };
            self.outgoing.push(u8::try_from(left & 0x7F).unwrap_or(0) | more);
            left >>= 7;
            if left == 0 {
                break;
            }
        }
        self.outgoing.extend_from_slice(body);
    }

    /// Takes one whole packet off what has come.
    fn split(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let bytes = &self.incoming[self.taken..];
        let (mut length, mut at) = (0_usize, 1);
        loop {
            let Some(byte) = bytes.get(at) else { return Ok(None) };
            length |= usize::from(byte & 0x7F) << (7 * (at - 1));
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
            if at > 4 {
                return Err(Error::new(ErrorKind::InvalidData, "a length of five bytes"));
            }
        }
        let Some(body) = bytes.get(at..at + length) else { return Ok(None) };
        let packet = (bytes[0], body.to_vec());
        self.taken += at + length;
        Ok(Some(packet))
    }

    fn expect(&mut self, kind: u8, good: impl Fn(&[u8]) -> bool) -> Result<()> {
        loop {
            if let Some((found, body)) = self.split()? {
                if found == kind && good(&body) {
                    return Ok(());
                }
                let what = format!("the broker answers {found:#x} {body:?}");
                return Err(Error::new(ErrorKind::ConnectionRefused, what));
            }
            if !self.wait(Duration::from_secs(10))? {
                return Err(Error::new(ErrorKind::TimedOut, "the broker does not answer"));
            }
        }
    }
}

fn put_string(body: &mut Vec<u8>, text: &[u8]) {
    body.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    body.extend_from_slice(text);
}
