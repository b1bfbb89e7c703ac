//! Proves what is kept of a child's output and report lines: the same whatever the chunks were,
//! and never more than its bounds.

use limpet_driver::output::{
    HEAD_BYTES, HeadTail, LINE_BYTES, PROGRESS_BYTES, ReportLines, ReportSummary, TAIL_BYTES,
    WINDOW_LINES, WINDOW_MS,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

/// Cuts `bytes` at `cuts`, in any order and possibly beyond the end.
fn chunks<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|&cut| cut.min(bytes.len())).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn captured(head: usize, tail: usize, chunks: &[&[u8]]) -> HeadTail {
    let mut capture = HeadTail::new(head, tail);
    chunks.iter().for_each(|chunk| capture.push(chunk));
    capture
}

fn reported(chunks: &[&[u8]]) -> (u64, Option<String>, ReportSummary) {
    let mut reader = ReportLines::new();
    let heartbeats = chunks.iter().map(|chunk| reader.push(7, chunk)).sum();
    (heartbeats, reader.take_progress(), reader.finish(7))
}

fn report(text: &str) -> ReportSummary {
    reported(&[text.as_bytes()]).2
}

/// Lines that are well formed, nearly so, empty, too long, or noise.
fn report_bytes() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just(br#"{"result": {"path": "a", "n": 1.5}}"#.to_vec()),
        Just(br#"{"result": [1]}"#.to_vec()),
        Just(br#"{"progress": {"done": 3}, "note": null}"#.to_vec()),
        Just(Vec::new()),
        (0..2 * LINE_BYTES).prop_map(|length| format!(
            r#"{{"result": {{"x": "{}"}}}}"#,
            "y".repeat(length)
        )
        .into()),
        vec(any::<u8>(), 0..40),
    ];
    vec(line, 0..150).prop_map(|lines| lines.join(&b'\n'))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Head and tail do not depend on how the stream was cut, and hold what they promise.
    #[test]
    fn capture_ignores_chunks(
        bytes in vec(any::<u8>(), 0..200), cuts in vec(0..200usize, 0..8),
        head in 0..40usize, tail in 0..40usize,
    ) {
        let parts = captured(head, tail, &chunks(&bytes, &cuts)).to_parts();
        prop_assert_eq!(&parts, &captured(head, tail, &[&bytes]).to_parts());
        prop_assert_eq!(parts.bytes, bytes.len() as u64);
        prop_assert!(parts.head.len() <= 3 * head && parts.tail.len() <= 3 * (tail + 3));
    }

    /// Text that fits is kept whole without a torn character; text that does not begins and ends
    /// as the stream does and has nothing in it that the stream has not.
    #[test]
    fn text_is_cut_between_characters(
        text in "[a\u{e9}\u{20ac}\u{1f41a}]{0,60}", head in 0..60usize, tail in 0..60usize,
    ) {
        let parts = captured(head, tail, &[text.as_bytes()]).to_parts();
        if text.len() <= head + tail {
            prop_assert_eq!(parts.head + &parts.tail, text);
        } else {
            prop_assert!(text.starts_with(&parts.head) && text.ends_with(&parts.tail));
            prop_assert!(parts.head.len() + 4 > head && parts.tail.len() + 4 > tail);
        }
    }

    /// What was reported does not depend on how the stream was cut.
    #[test]
    fn reports_ignore_chunks(bytes in report_bytes(), cuts in vec(0..200_000usize, 0..20)) {
        let (heartbeats, progress, summary) = reported(&chunks(&bytes, &cuts));
        prop_assert_eq!((heartbeats, progress.clone(), &summary), {
            let (heartbeats, progress, ref summary) = reported(&[&bytes]);
            (heartbeats, progress, &summary.clone())
        });
        let newlines = bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
        prop_assert_eq!(heartbeats, newlines);
        prop_assert!(progress.is_none_or(|text| text.len() <= PROGRESS_BYTES));
        prop_assert!(summary.first_error.is_none_or(|text| text.chars().count() <= 160));
        prop_assert!(summary.result.is_none() || summary.result_error.is_none());
    }
}

/// A flood leaves the default bounds and nothing more.
#[test]
fn a_flood_is_bounded() {
    let mut capture = HeadTail::default();
    for _ in 0..1000 {
        capture.push(&[b'x'; 1000]);
    }
    let parts = capture.to_parts();
    assert_eq!((parts.head.len(), parts.tail.len()), (HEAD_BYTES, TAIL_BYTES));
    assert_eq!(parts.bytes, 1_000_000);
}

/// The last result counts, whatever follows it; a line without a newline at the end is a line.
#[test]
fn the_last_result_counts() {
    let summary = report("{\"result\":{\"a\":1}}\n\n{\"result\":{\"a\":2}}\nnoise\n{}");
    assert_eq!(json!(summary.result), json!({"a": 2}));
    assert_eq!((summary.lines, summary.malformed), (5, 1));
    assert!(summary.first_error.is_some_and(|text| text.contains("line 1")));
    let summary = report("{\"result\":{\"a\":1}}\n{\"result\":3}");
    assert_eq!((summary.result, summary.result_error), (None, Some("result_not_object")));
}

/// A result that is too large is said to be, even when its line was too long to be kept.
#[test]
fn a_large_result_is_an_error() {
    for length in [4097, LINE_BYTES] {
        let summary = report(&format!("{{\"result\":{{\"x\":\"{}\"}}}}", "y".repeat(length)));
        assert_eq!((summary.result, summary.result_error), (None, Some("result_too_large")));
    }
}

/// Progress is the newest one, given once, and a large one does not replace it.
#[test]
fn progress_is_the_newest() {
    let mut reader = ReportLines::new();
    reader.push(0, b"{\"progress\":1}\n{\"progress\":[2]}\n");
    reader.push(0, format!("{{\"progress\":\"{}\"}}\n", "x".repeat(PROGRESS_BYTES)).as_bytes());
    assert_eq!(reader.take_progress().as_deref(), Some("[2]"));
    assert_eq!(reader.take_progress(), None);
    assert_eq!(reader.finish(0).malformed, 1);
}

/// Lines above the rate are heartbeats and counted, not parsed; yet a result among them is kept,
/// and time makes room again.
#[test]
fn chatter_loses_no_result() {
    let mut reader = ReportLines::new();
    let chatter = b"{\"progress\":0}\n".repeat(WINDOW_LINES as usize);
    assert_eq!(reader.push(0, &chatter), u64::from(WINDOW_LINES));
    assert_eq!(reader.push(0, b"{\"progress\":1}\n{\"result\":{\"a\":1}}\n{\"progress\":2}\n"), 3);
    assert_eq!(reader.take_progress().as_deref(), Some("0"));
    reader.push(WINDOW_MS, b"{\"progress\":3}\n");
    assert_eq!(reader.take_progress().as_deref(), Some("3"));
    let summary = reader.finish(WINDOW_MS);
    assert_eq!(json!(summary.result), json!({"a": 1}));
    assert_eq!((summary.excess, summary.malformed), (3, 0));
}
