//! HTTP/1.1 as a client that asks once per connection: a strict reader with a bound on everything.
//!
//! Written by hand because so little of it is needed: no compression, no reuse, no cookies, no
//! proxies. What a server may not send is an error rather than a guess, so that no two readers
//! can differ about where an answer ends. It is safe Rust, and fed with anything by its tests.
//!
//! It knows neither what an answer is for nor where the bytes come from.

use super::url::Url;
use super::wire::{Timeouts, Wire};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::time::Duration;

/// Bytes of status line and headers; also of all trailers.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the line before each chunk.
const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Interim answers (1xx) before the real one.
const INTERIM_MAX: usize = 4;

/// What is asked.
#[derive(Debug)]
pub struct Request<'a> {
    /// GET, HEAD, POST, PUT or DELETE.
    pub method: &'a str,
    /// Besides those of every request; free of control characters.
    pub headers: Vec<(&'static str, String)>,
    /// Sent with its length.
    pub body: Option<&'a [u8]>,
    /// How many redirections are followed.
    pub redirects: u64,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Response<R> {
    /// 200 to 599.
    pub status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
    reader: R,
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the chunk of length 0; so many bytes of the present one are left.
    Chunked(u64),
    /// Where the connection does.
    Close,
    /// Here.
    End,
}

/// Asks `url`, follows redirections as far as the request says, and returns who answered in the
/// end. Every host on the way must be in `hosts`.
///
/// # Errors
/// A cause.
pub fn ask(
    mut url: Url,
    hosts: &[String],
    request: &Request<'_>,
    timeouts: &Timeouts,
) -> Result<(Url, Response<BufReader<Wire>>), String> {
    let mut left = if matches!(request.method, "GET" | "HEAD") { request.redirects } else { 0 };
    loop {
        url.check(hosts)?;
        let response = send(&url, request, timeouts)?;
        let redirected = matches!(response.status, 301 | 302 | 303 | 307 | 308);
        match response.header("location")? {
            Some(location) if redirected && left > 0 => url = url.join(location)?,
            _ => return Ok((url, response)),
        }
        left -= 1;
    }
}

fn send(
    url: &Url,
    request: &Request<'_>,
    timeouts: &Timeouts,
) -> Result<Response<BufReader<Wire>>, String> {
    let mut wire = Wire::open(url, timeouts)?;
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: limpet/{}\r\nAccept: */*\r\n\
         Accept-Encoding: identity\r\nConnection: close\r\n",
        request.method,
        url.target,
        url.authority(),
        env!("CARGO_PKG_VERSION"),
    );
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = request.body {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(request.body.unwrap_or_default());
    wire.limit(timeouts.send);
    let sent = wire.write_all(&bytes).and_then(|()| wire.flush());
    wire.limit(timeouts.head);
    let response = Response::read(BufReader::new(wire), request.method == "HEAD");
    // A server may answer before it has read everything; without its answer the first error counts.
    match (sent, response) {
        (Err(error), Err(_)) => Err(format!("the request was not sent: {error}")),
        (_, response) => response,
    }
}

impl Response<BufReader<Wire>> {
    /// Reading the body has this much time from now on.
    pub fn limit(&mut self, timeout: Duration) {
        self.reader.get_mut().limit(timeout);
    }
}

impl<R: BufRead> Response<R> {
    fn read(mut reader: R, bodiless: bool) -> Result<Response<R>, String> {
        for _ in 0..=INTERIM_MAX {
            let (status, headers) = head(&mut reader)?;
            if status == 101 {
                return Err("the server wants to speak another protocol".into());
            }
            if status >= 200 {
                let mut response = Response { status, headers, framing: Framing::End, reader };
                if !bodiless && !matches!(status, 204 | 304) {
                    response.framing = response.framed()?;
                }
                return Ok(response);
            }
        }
        Err("the server sends interim answers without end".into())
    }

    /// A header that may occur once.
    ///
    /// # Errors
    /// A cause, when it occurs more often.
    pub fn header(&self, name: &str) -> Result<Option<&str>, String> {
        let mut found = self.headers.iter().filter(|(other, _)| other == name);
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(format!("the server sent header {name} more than once")),
            (first, None) => Ok(first.map(|(_, value)| value.as_str())),
        }
    }

    /// How long the body says it is.
    pub fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::End => Some(0),
            Framing::Chunked(_) | Framing::Close => None,
        }
    }

    fn framed(&self) -> Result<Framing, String> {
        if self.header("content-encoding")?.is_some_and(|value| value != "identity") {
            return Err("the server compressed what it was asked not to".into());
        }
        match (self.header("transfer-encoding")?, self.header("content-length")?) {
            (None, None) => Ok(Framing::Close),
            (Some(_), Some(_)) => Err("the server sent two lengths of one body".into()),
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => {
                Ok(Framing::Chunked(0))
            }
            (Some(_), None) => Err("the server used an unknown transfer coding".into()),
            (None, Some(text)) => match decimal(text) {
                Some(0) => Ok(Framing::End),
                Some(length) => Ok(Framing::Length(length)),
                None => Err("the server sent a length that is no number".into()),
            },
        }
    }

    /// Reads the next bytes of the body; 0 is its end.
    ///
    /// # Errors
    /// A cause; also when the connection ends before the body does.
    pub fn body(&mut self, into: &mut [u8]) -> Result<usize, String> {
        if self.framing == Framing::Chunked(0) {
            self.next_chunk()?;
        }
        let left = match self.framing {
            Framing::End => return Ok(0),
            Framing::Close => u64::MAX,
            Framing::Length(left) | Framing::Chunked(left) => left,
        };
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        let count = read(&mut self.reader, &mut into[..room])?;
        let after = left - count as u64;
        self.framing = match self.framing {
            Framing::Close if count == 0 => Framing::End,
            _ if count == 0 => return Err("the connection ended before the body did".into()),
            Framing::Length(_) if after == 0 => Framing::End,
            Framing::Length(_) => Framing::Length(after),
            Framing::Chunked(_) => {
                if after == 0 {
                    line(&mut self.reader, &mut 2)?;
                }
                Framing::Chunked(after)
            }
            other => other,
        };
        Ok(count)
    }

    fn next_chunk(&mut self) -> Result<(), String> {
        let (mut line_budget, mut trailer_budget) = (CHUNK_LINE_BYTES_MAX, HEAD_BYTES_MAX);
        let text = line(&mut self.reader, &mut line_budget)?;
        let size = text.split(';').next().unwrap_or_default().trim_end_matches([' ', '\t']);
        let sound = (1..=15).contains(&size.len()) && size.bytes().all(|b| b.is_ascii_hexdigit());
        let size = u64::from_str_radix(size, 16).ok().filter(|_| sound);
        match size.ok_or("the server sent a chunk without a length")? {
            0 => {
                headers(&mut self.reader, &mut trailer_budget)?;
                self.framing = Framing::End;
            }
            size => self.framing = Framing::Chunked(size),
        }
        Ok(())
    }
}

/// Status line and headers.
fn head(reader: &mut impl BufRead) -> Result<(u16, Vec<(String, String)>), String> {
    let mut budget = HEAD_BYTES_MAX;
    let first = line(reader, &mut budget)?;
    let malformed = || "the server does not speak HTTP/1.1".to_owned();
    let rest = first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 "));
    let parts = rest.and_then(|rest| rest.split_at_checked(3));
    let (status, reason) = parts.ok_or_else(malformed)?;
    let status = decimal(status).and_then(|status| u16::try_from(status).ok());
    let status = status.filter(|status| (100..600).contains(status)).ok_or_else(malformed)?;
    if !reason.is_empty() && !reason.starts_with(' ') {
        return Err(malformed());
    }
    Ok((status, headers(reader, &mut budget)?))
}

/// Headers or trailers, up to and with the empty line; names in lower case.
fn headers(reader: &mut impl BufRead, budget: &mut usize) -> Result<Vec<(String, String)>, String> {
    let mut headers = Vec::new();
    loop {
        let text = line(reader, budget)?;
        if text.is_empty() {
            return Ok(headers);
        }
        let (name, value) = text.split_once(':').unwrap_or_default();
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return Err("the server sent a header without a name".into());
        }
        let value = value.trim_matches([' ', '\t']);
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err("the server sent a header with control characters".into());
        }
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}

/// A line without its CR LF, for which `budget` must have room; what is not UTF-8 is replaced.
fn line(reader: &mut impl BufRead, budget: &mut usize) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = reader.by_ref().take(*budget as u64).read_until(b'\n', &mut bytes);
    read.map_err(|error| error.to_string())?;
    *budget -= bytes.len();
    match bytes.strip_suffix(b"\r\n") {
        Some(text) => Ok(String::from_utf8_lossy(text).into_owned()),
        None if bytes.ends_with(b"\n") => Err("the server ended a line with LF alone".into()),
        None if *budget == 0 => Err("a line or the headers of the answer are too long".into()),
        None => Err("the connection ended before the answer did".into()),
    }
}

fn read(reader: &mut impl Read, into: &mut [u8]) -> Result<usize, String> {
    loop {
        match reader.read(into) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read.map_err(|error| error.to_string()),
        }
    }
}

/// A number as HTTP has it: digits, and nothing but digits.
pub fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Status and body of an answer, read in pieces of `piece` bytes.
    fn answer(bytes: &[u8], piece: usize) -> Result<(u16, Vec<u8>), String> {
        let mut response = Response::read(bytes, false)?;
        let (mut body, mut into) = (Vec::new(), vec![0; piece]);
        loop {
            match response.body(&mut into)? {
                0 => return Ok((response.status, body)),
                count => body.extend_from_slice(&into[..count]),
            }
        }
    }

    /// Each way to say where a body ends is understood, whatever follows it.
    #[test]
    fn a_body_ends_where_it_says() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody and more",
            "HTTP/1.0 200\r\n\r\nbody",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:4\r\n\r\nbody",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\nb\r\n003\r\nody\r\n\
             0\r\nTrailer: x\r\n\r\nmore",
        ] {
            for piece in [1, 3, 64] {
                assert_eq!(answer(text.as_bytes(), piece), Ok((200, b"body".to_vec())), "{text}");
            }
        }
        assert_eq!(answer(b"HTTP/1.1 204 No\r\nContent-Length: 4\r\n\r\n", 8), Ok((204, vec![])));
        assert_eq!(Response::read(&b"HTTP/1.1 200 \r\n\r\nx"[..], true).unwrap().length(), Some(0));
    }

    /// A body that is cut is an error, unless the connection's end is its end.
    #[test]
    fn a_cut_answer_is_an_error() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
        for text in [whole, chunked] {
            for cut in 0..text.len() {
                assert!(answer(&text.as_bytes()[..cut], 64).is_err(), "{:?}", &text[..cut]);
            }
        }
    }

    /// What could be read in two ways is not read at all.
    #[test]
    fn an_ambiguous_answer_is_refused() {
        for text in [
            "",
            "\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 20\r\n\r\n",
            "HTTP/1.1 2000\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 +20 OK\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 101 Switch\r\n\r\n",
            "HTTP/1.1 \u{e4}0 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nx",
        ] {
            assert!(answer(text.as_bytes(), 64).is_err(), "{text:?}");
        }
    }

    /// Chunks that lie about their lengths end the answer with an error.
    #[test]
    fn chunked_garbage_is_refused() {
        for chunks in [
            "\r\n",
            "x\r\n",
            "+1\r\nx\r\n0\r\n\r\n",
            "0x1\r\nx\r\n",
            "-1\r\n",
            " 1\r\nx\r\n",
            "2\r\nx\r\n0\r\n\r\n",
            "1\r\nxy\r\n0\r\n\r\n",
            "1\nx\r\n0\r\n\r\n",
            ";x\r\n",
            "ffffffffffffffff\r\nx",
            "0000000000000000001\r\nx\r\n0\r\n\r\n",
            "1\r\nx0\r\n\r\n",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert!(answer(text.as_bytes(), 64).is_err(), "{chunks:?}");
        }
    }

    /// Nothing before the body is read without end: lines, headers, interim answers, trailers.
    #[test]
    fn an_endless_head_is_cut_off() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n".to_owned();
        for (start, more) in [
            (String::new(), "x"),
            ("HTTP/1.1 200 ".into(), "x"),
            ("HTTP/1.1 200 OK\r\n".into(), "A: b\r\n"),
            (String::new(), "HTTP/1.1 100 Continue\r\n\r\n"),
            (chunked.clone(), "A: b\r\n"),
            (chunked, "x"),
        ] {
            let text = start + &more.repeat(HEAD_BYTES_MAX);
            let refusal = answer(text.as_bytes(), 64).unwrap_err();
            let bounded = ["are too long", "without end"];
            assert!(bounded.iter().any(|cause| refusal.contains(cause)), "{refusal}");
        }
    }

    proptest! {
        /// Any bytes are an answer or an error, never a panic, and a body is part of them.
        #[test]
        fn any_bytes_are_read(
            framing in "(Transfer-Encoding: chunked\r\n|Content-Length: [0-9]{1,3}\r\n)?",
            whole in any::<bool>(),
            rest in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                "([0-9a-f]{1,2}(;x)?\r\n[a-z\r\n]{0,20}){0,6}".prop_map(String::into_bytes),
            ],
        ) {
            let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n");
            let head = if whole { head.as_str() } else { "" };
            let bytes = [head.as_bytes(), &rest].concat();
            if let Ok((_, body)) = answer(&bytes, 7) {
                prop_assert!(body.len() <= rest.len());
            }
        }

        /// A body comes through in whatever chunks it was sent.
        #[test]
        fn chunks_are_joined(pieces in prop::collection::vec("[a-z\r\n]{1,40}", 0..8)) {
            let mut text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
            for piece in &pieces {
                text.push_str(&format!("{:X}\r\n{piece}\r\n", piece.len()));
            }
            text.push_str("0\r\n\r\n");
            prop_assert_eq!(answer(text.as_bytes(), 11), Ok((200, pieces.concat().into_bytes())));
        }
    }
}
