//! Bytes from a broker and from a child, whole and in pieces: the pieces must make no difference.

use crate::bytes::Bytes;
use limpet_driver::frame;
use limpet_driver::output::ReportLines;
use limpet_driver::uplink::guard::{Cut, Guard};

/// MQTT packets in pieces of one size, as the pump shows them.
pub fn guard(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (maximum, piece) = (u32::from(bytes.short()), usize::from(bytes.byte()).max(1));
    let stream = bytes.0;
    let whole = admit(stream, maximum, stream.len().max(1));
    assert_eq!(admit(stream, maximum, piece), whole, "pieces make a difference");
    assert!(whole.0 <= stream.len());
}

fn admit(stream: &[u8], maximum: u32, piece: usize) -> (usize, Option<Cut>) {
    let (mut guard, mut admitted, mut end) = (Guard::new(maximum), 0, 0);
    while end < stream.len() {
        end = (end + piece).min(stream.len());
        let (count, cut) = guard.admit(&stream[admitted..end]);
        admitted += count;
        if cut.is_some() {
            return (admitted, cut);
        }
    }
    (admitted, None)
}

/// A message: what is accepted has a body, and it is the end of the frame.
pub fn frame(data: &[u8]) {
    const BODY_MAX: usize = 512;
    match frame::check(data, BODY_MAX) {
        Ok(body) => {
            let length = data.len() - body.offset;
            assert!((1..=BODY_MAX).contains(&length));
            assert_eq!(data[body.offset - 1], b'\n');
        }
        Err(refused) => assert!(refused.code.bytes().all(|b| b == b'_' || b.is_ascii_lowercase())),
    }
}

/// Lines on descriptor 3: a line in pieces is the same line.
pub fn report(data: &[u8]) {
    let mut bytes = Bytes(data);
    let piece = usize::from(bytes.byte()).max(1);
    let stream = bytes.0;
    let (mut one, mut many) = (ReportLines::new(), ReportLines::new());
    let lines = one.push(0, stream);
    let pieces: u64 = stream.chunks(piece).map(|chunk| many.push(0, chunk)).sum();
    assert_eq!(lines, pieces);
    assert_eq!(one.take_progress(), many.take_progress());
    let (one, many) = (one.finish(0), many.finish(0));
    assert_eq!(one.result, many.result);
    assert_eq!(one.result_error, many.result_error);
}
