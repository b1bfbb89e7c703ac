//! `fetch`: a file from the web that is put in its place only when it is the right one.

use super::digest::CHUNK_BYTES;
use super::exchange::{Request, Response, ask, decimal};
use super::part::{Part, present};
use super::report::Progress;
use super::url::Url;
use super::wire::TIMEOUTS;
use super::{Call, Failure, beneath};
use serde_json::{Value, json};
use std::io::BufRead;

/// Bytes fetched when the call does not say.
const BYTES_DEFAULT: u64 = 256 << 20;
/// Longest entity tag that is kept.
const ETAG_BYTES_MAX: usize = 256;

/// What is wanted.
struct Order<'a> {
    url: Url,
    hosts: &'a [String],
    sha256: &'a str,
    bytes_max: u64,
    redirects: u64,
}

/// Why a round ended without the whole file.
enum Trouble {
    /// What has come may be continued.
    Cut(String),
    /// What has come is worth nothing.
    Wrong(String),
    /// The server answered something else.
    Status(u16),
}

/// Input `url`, `sha256` (lower case), `to`, `maximum_bytes` (default 256 MiB), `redirects` (0 to
/// 5, default 0); result `{"path", "bytes", "sha256", "fetched"}`, the last being how many bytes
/// crossed the network. A file that is there already is not fetched again, a part that an earlier
/// attempt left is continued. The directory must be there.
///
/// # Errors
/// A sentence; the destination is then what it was before.
pub fn run(call: &Call) -> Result<Value, Failure> {
    let path = call.text("to")?;
    let order = Order {
        url: Url::parse(call.text("url")?)?,
        hosts: &call.hosts,
        sha256: call.text("sha256")?,
        bytes_max: call.integer("maximum_bytes", BYTES_DEFAULT)?,
        redirects: call.integer("redirects", 0)?,
    };
    if order.sha256.len() != 64 {
        return Err("cannot use parameter 'sha256': it has not 64 digits".to_owned().into());
    }
    // Before any byte is written: a call that is not allowed leaves nothing behind.
    order.url.check(order.hosts)?;
    let failed = |cause: String| format!("cannot fetch {} to {path}: {cause}", order.url);
    let place = beneath::place(call, "to").map_err(|cause| failed(cause.to_string()))?;
    let mut progress = Progress::open();
    let done = |bytes: u64, fetched: u64| {
        let sha256 = order.sha256;
        json!({"path": path, "bytes": bytes, "sha256": sha256, "fetched": fetched})
    };
    match present(&place, |bytes| progress.tell(bytes, None)) {
        Some((sha256, bytes)) if sha256 == order.sha256 => return Ok(done(bytes, 0)),
        _ => {}
    }
    let each = |bytes| progress.tell(bytes, None);
    let mut part = Part::open(place, &order.url.to_string(), order.sha256, each)
        .map_err(|cause| failed(cause.to_string()))?;
    let mut fetched = 0;
    // A part that leads to the wrong sum may have been damaged before: it gets one fresh start.
    while !part.is_whole() {
        let fresh = part.bytes() == 0;
        match round(&order, &mut part, &mut progress, &mut fetched) {
            Ok(()) if part.is_whole() => {}
            Ok(()) if fresh => {
                let cause = format!("its sha256 is {}, not {}", part.sha256(), order.sha256);
                part.discard();
                return Err(failed(cause).into());
            }
            Ok(()) => part.restart(None).map_err(|cause| failed(cause.to_string()))?,
            Err(trouble) => return Err(give_up(trouble, part, failed)),
        }
    }
    let bytes = part.bytes();
    part.publish().map_err(|cause| failed(cause.to_string()))?;
    Ok(done(bytes, fetched))
}

fn give_up(trouble: Trouble, part: Part, failed: impl Fn(String) -> String) -> Failure {
    match trouble {
        Trouble::Cut(cause) if part.bytes() > 0 && !part.etag().is_empty() => {
            failed(format!("{cause} ({} bytes are kept to go on from)", part.bytes())).into()
        }
        Trouble::Cut(cause) | Trouble::Wrong(cause) => {
            part.discard();
            failed(cause).into()
        }
        Trouble::Status(status) => {
            if part.bytes() == 0 {
                part.discard();
            }
            let text = failed(format!("the server answered {status}"));
            Failure { text, result: Some(json!({"status": status})) }
        }
    }
}

/// Fetches what is missing of the part, or everything if the server has something else by now.
fn round(
    order: &Order<'_>,
    part: &mut Part,
    progress: &mut Progress,
    fetched: &mut u64,
) -> Result<(), Trouble> {
    let mut headers = Vec::new();
    if part.bytes() > 0 {
        headers.push(("Range", format!("bytes={}-", part.bytes())));
        headers.push(("If-Range", part.etag().to_owned()));
    }
    let request = Request { method: "GET", headers, body: None, redirects: order.redirects };
    let answer = ask(order.url.clone(), order.hosts, &request, &TIMEOUTS);
    let (_, mut response) = answer.map_err(Trouble::Cut)?;
    match response.status {
        200 => part.restart(etag(&response)).map_err(disk)?,
        206 if continues(&response, part.bytes()) => {}
        206 => return Err(Trouble::Wrong("the server sent another part than asked for".into())),
        // It has less than the part: the next round begins anew.
        416 if part.bytes() > 0 => return part.restart(None).map_err(disk),
        status => return Err(Trouble::Status(status)),
    }
    let too_long = || Trouble::Wrong(format!("it is longer than {} bytes", order.bytes_max));
    let total = response.length().map(|length| part.bytes().saturating_add(length));
    if total.is_some_and(|total| total > order.bytes_max) {
        return Err(too_long());
    }
    let mut piece = vec![0; CHUNK_BYTES];
    loop {
        progress.tell(part.bytes(), total);
        response.limit(TIMEOUTS.body);
        let count = response.body(&mut piece).map_err(Trouble::Cut)?;
        if count == 0 {
            return Ok(());
        }
        *fetched += count as u64;
        if part.bytes() + count as u64 > order.bytes_max {
            return Err(too_long());
        }
        part.push(&piece[..count]).map_err(disk)?;
    }
}

/// A part that does not fit would only keep others from the room that is left.
fn disk(cause: std::io::Error) -> Trouble {
    Trouble::Wrong(cause.to_string())
}

/// A strong tag: a weak one does not promise the same bytes.
fn etag<R: BufRead>(response: &Response<R>) -> Option<&str> {
    let tag = response.header("etag").ok()??;
    let inner = tag.strip_prefix('"')?.strip_suffix('"')?;
    let plain = inner.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    (plain && tag.len() <= ETAG_BYTES_MAX).then_some(tag)
}

/// Whether the answer goes on after so many bytes: `Content-Range: bytes FIRST-LAST/TOTAL`.
fn continues<R: BufRead>(response: &Response<R>, bytes: u64) -> bool {
    let Ok(Some(range)) = response.header("content-range") else {
        return false;
    };
    let first = range.strip_prefix("bytes ").and_then(|range| range.split_once('-'));
    bytes > 0 && first.and_then(|(first, _)| decimal(first)) == Some(bytes)
}
