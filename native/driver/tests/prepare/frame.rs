//! A frame is one header line and an exact body, or it is refused with a code.

use limpet_driver::frame::{HEADER_BYTES_MAX, check};
use proptest::prelude::*;

fn code(frame: &[u8]) -> Result<usize, &'static str> {
    check(frame, 16).map(|body| body.offset).map_err(|error| error.code)
}

fn signed(key: &str, signature: &str) -> Vec<u8> {
    format!("limpet/1 ed25519 {key} {signature}\n{{}}").into_bytes()
}

/// The body is what follows the first line feed, to the byte; its digest is SHA-256.
#[test]
fn the_body_is_exact() {
    let body = check(b"limpet/1 none\nabc", 16).expect("a frame");
    assert_eq!(body.offset, 14);
    let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let digest: String = body.digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, known);
    assert_eq!(code(b"limpet/1 none\n\n\n"), Ok(14));
    assert_eq!(code(b"limpet/1 none\n0123456789abcdef"), Ok(14));
}

/// Every malformed form has its code.
#[test]
fn every_fault_has_a_code() {
    let signature = format!("{}w==", "A".repeat(85));
    let mut long = b"limpet/1 none ".to_vec();
    long.resize(HEADER_BYTES_MAX, b'x');
    let (mut unended, mut ended) = (long.clone(), long.clone());
    unended.push(b'x');
    ended[HEADER_BYTES_MAX - 1] = b'\n';
    let cases: Vec<(&[u8], &str)> = vec![
        (b"", "frame_unknown"),
        (b"limpet", "frame_unknown"),
        (b"{\"limpet\": 1}", "frame_unknown"),
        (b"Limpet/1 none\n{}", "frame_unknown"),
        (&unended, "header_too_long"),
        (&long, "header_unterminated"),
        (b"limpet/1 none", "header_unterminated"),
        (&ended, "header_malformed"),
        (b"limpet/1\n{}", "header_malformed"),
        (b"limpet/\n{}", "header_malformed"),
        (b"limpet/1 \n{}", "header_malformed"),
        (b"limpet/1  none\n{}", "header_malformed"),
        (b"limpet/1 none \n{}", "header_malformed"),
        (b"limpet/1 none\r\n{}", "header_malformed"),
        (b"limpet/1 none x\n{}", "header_malformed"),
        (b"limpet/1 n\xffne\n{}", "header_malformed"),
        (b"limpet/1 n\0ne\n{}", "header_malformed"),
        (b"limpet/2 none\n{}", "version_unsupported"),
        (b"limpet/01 none\n{}", "version_unsupported"),
        (b"limpet/1 rsa k s\n{}", "algorithm_unknown"),
        (b"limpet/1 None\n{}", "algorithm_unknown"),
        (b"limpet/1 ed25519\n{}", "signature_malformed"),
        (b"limpet/1 ed25519 key\n{}", "signature_malformed"),
        (b"limpet/1 ed25519 key AAAA\n{}", "signature_malformed"),
        (b"limpet/1 none\n", "body_empty"),
        (b"limpet/1 none\n0123456789abcdefg", "body_too_long"),
    ];
    for (frame, wanted) in cases {
        assert_eq!(code(frame), Err(wanted), "{:?}", String::from_utf8_lossy(frame));
    }
    assert_eq!(code(&signed("key-1", &signature)), Err("signature_unsupported"));
    assert_eq!(code(&signed("key 1", &signature)), Err("signature_malformed"));
    assert_eq!(code(&signed("k/1", &signature)), Err("signature_malformed"));
    let odd = format!("{}B==", "A".repeat(85));
    assert_eq!(code(&signed("key-1", &odd)), Err("signature_malformed"));
}

proptest! {
    /// Whatever arrives, a frame that is accepted is its header followed by its body.
    #[test]
    fn accepted_frames_are_whole(tail in proptest::collection::vec(any::<u8>(), 0..300),
                                 cut in 0_usize..15) {
        let mut frame = b"limpet/1 none\n"[..cut.min(14)].to_vec();
        frame.extend(&tail);
        if let Ok(body) = check(&frame, 16) {
            prop_assert_eq!(&frame[..body.offset], b"limpet/1 none\n");
            prop_assert!((1..=16).contains(&(frame.len() - body.offset)));
        }
    }
}
