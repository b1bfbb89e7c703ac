//! Decides what an item of the host's batch asks for: its operation, and the document in its text.

use crate::ffi::{
    LIMPET_CANCEL, LIMPET_DELIVERED, LIMPET_DRAIN, LIMPET_EXTEND, LIMPET_HOST_DONE, LIMPET_LIST,
    LIMPET_RECORD, LIMPET_SUBMIT, LimpetItem, coded,
};
use crate::guard::{Status, error};
use crate::host::Request;
use crate::names::{unpack_attempt, unpack_task};
use crate::table::Table;
use crate::{intake, names};
use limpet_core::message::Exit;

/// What the host asks for by `item`, whose text is `text`.
pub(crate) fn request(table: &Table, item: &LimpetItem, text: &[u8]) -> Result<Request, Status> {
    let refused = |refusal: crate::launch::Refusal| {
        error(Status::Refused, coded(refusal.code, &refusal.detail))
    };
    Ok(match item.op {
        LIMPET_SUBMIT => {
            let waived = item.flags & 1 != 0;
            let submission = intake::submission(table, item.token, &item.digest, waived, text);
            Request::Submit(Box::new(submission.map_err(refused)?))
        }
        LIMPET_CANCEL => {
            let asked: CancelText = parsed(text)?;
            Request::Cancel {
                token: item.token,
                key: names::key(&asked.source, &asked.id),
                source: names::source(&asked.by),
                any: item.flags & 1 != 0,
                expires_ms: item.value,
            }
        }
        LIMPET_EXTEND => {
            let asked: ExtendText = parsed(text)?;
            let bytes = asked.next.map_or_else(String::new, |next| next.get().to_owned());
            let earlier: Vec<_> =
                asked.extensions.iter().map(|raw| raw.get().as_bytes().to_vec()).collect();
            let headers = if bytes.is_empty() {
                Vec::new()
            } else {
                let plan = asked.plan.get().as_bytes();
                intake::extension(table, plan, &earlier, bytes.as_bytes()).map_err(refused)?
            };
            let task = unpack_task(item.target);
            Request::Extend { token: item.token, task, headers, bytes: bytes.into_bytes() }
        }
        LIMPET_DELIVERED => Request::Delivered(unpack_task(item.target)),
        LIMPET_HOST_DONE => {
            let attempt = unpack_attempt(item.target);
            let code = i32::try_from(item.value).unwrap_or(i32::MAX);
            let detail = String::from_utf8_lossy(text).into_owned();
            let detail = (!detail.is_empty()).then_some(detail);
            Request::HostDone { attempt, exit: Exit::Code(code), detail }
        }
        LIMPET_LIST => Request::List,
        LIMPET_RECORD => Request::Record,
        LIMPET_DRAIN => Request::Drain { patience_ms: item.value },
        other => {
            return Err(error(
                Status::Invalid,
                format!("cannot read an item: no operation {other}"),
            ));
        }
    })
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelText {
    id: String,
    source: String,
    by: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtendText<'a> {
    #[serde(borrow)]
    plan: &'a serde_json::value::RawValue,
    #[serde(borrow)]
    extensions: Vec<&'a serde_json::value::RawValue>,
    #[serde(borrow)]
    next: Option<&'a serde_json::value::RawValue>,
}

fn parsed<'a, T: serde::Deserialize<'a>>(text: &'a [u8]) -> Result<T, Status> {
    serde_json::from_slice(text)
        .map_err(|cause| error(Status::Invalid, format!("cannot read an item: {cause}")))
}
