//! `http`: one request and the beginning of its answer.

use super::exchange::{Request, Response, ask};
use super::url::Url;
use super::wire::TIMEOUTS;
use super::{Call, Failure, text};
use serde_json::{Value, json};
use std::io::BufRead;

/// Bytes of a body that are read: more than a result holds, since JSON may be written widely.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a result as JSON.
const RESULT_BYTES_MAX: usize = crate::output::RESULT_BYTES;

/// Input `url`, `method` (default GET), `body` (a text as it is, anything else as JSON), `status`
/// (what the answer must have; else any 2xx), `redirects` (0 to 5 that GET and HEAD follow, default
/// 0); result `{"status", "url", "body", "truncated"}` and, if it was sent, `"location"`. The body
/// is what its JSON means if it is JSON and small enough, else the beginning of its text.
///
/// # Errors
/// A sentence; another status is one, too, and has the result besides.
pub fn run(call: &Call) -> Result<Value, Failure> {
    let method = call.optional_text("method")?.unwrap_or("GET");
    let url = Url::parse(call.text("url")?)?;
    let body = match call.input.get("body") {
        None => None,
        Some(Value::String(text)) => Some(("text/plain; charset=utf-8", text.clone())),
        Some(value) => Some(("application/json", value.to_string())),
    };
    let request = Request {
        method,
        headers: body.iter().map(|(kind, _)| ("Content-Type", (*kind).to_owned())).collect(),
        // A server may insist on a length where a body belongs.
        body: match &body {
            Some((_, text)) => Some(text.as_bytes()),
            None if matches!(method, "POST" | "PUT") => Some(&[]),
            None => None,
        },
        redirects: call.integer("redirects", 0)?,
    };
    let failed = |cause: String| format!("cannot {method} {url}: {cause}");
    let (answered, mut response) =
        ask(url.clone(), &call.hosts, &request, &TIMEOUTS).map_err(failed)?;
    response.limit(TIMEOUTS.body);
    let result = result(&answered, &mut response).map_err(failed)?;
    let status = response.status;
    match call.integer("status", 0)? {
        0 if (200..300).contains(&status) => Ok(result),
        wanted if wanted == u64::from(status) => Ok(result),
        _ => Err(Failure {
            text: failed(format!("the server answered {status}")),
            result: Some(result),
        }),
    }
}

fn result<R: BufRead>(url: &Url, response: &mut Response<R>) -> Result<Value, String> {
    let (bytes, whole) = body(response)?;
    let mut result = json!({
        "status": response.status,
        "url": text::excerpt(&url.to_string()),
        "truncated": false,
        "body": Value::Null,
    });
    if let Some(location) = response.header("location")? {
        result["location"] = json!(text::excerpt(location));
    }
    let room = RESULT_BYTES_MAX - result.to_string().len();
    let kind = response.header("content-type")?.unwrap_or_default().to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim_end();
    let structured = kind == "application/json" || kind.ends_with("+json");
    let value = serde_json::from_slice::<Value>(&bytes).ok();
    let value = value.filter(|value| structured && whole && value.to_string().len() <= room);
    result["body"] = value.unwrap_or_else(|| {
        let plain = String::from_utf8_lossy(&bytes);
        let kept = text::fit(&plain, room);
        result["truncated"] = json!(!whole || kept.len() < plain.len());
        json!(kept)
    });
    Ok(result)
}

/// The beginning of the body, and whether it is all of it.
fn body<R: BufRead>(response: &mut Response<R>) -> Result<(Vec<u8>, bool), String> {
    let mut bytes = vec![0; BODY_BYTES_MAX];
    let mut filled = 0;
    while filled < bytes.len() {
        match response.body(&mut bytes[filled..])? {
            0 => {
                bytes.truncate(filled);
                return Ok((bytes, true));
            }
            count => filled += count,
        }
    }
    let whole = matches!(response.body(&mut [0]), Ok(0));
    Ok((bytes, whole))
}
