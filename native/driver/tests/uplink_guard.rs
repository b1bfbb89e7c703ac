//! The frame guard against a reference model that sees the whole stream at once.

use limpet_driver::uplink::guard::{Cut, Guard};
use proptest::prelude::*;

/// What the guard must say of a whole stream: bytes admitted and the verdict. Written from the
/// specification, packet by packet, without state.
fn model(stream: &[u8], maximum: u32) -> (usize, Option<Cut>) {
    let mut at = 0;
    while at < stream.len() {
        let kind = stream[at] >> 4;
        if kind == 0 {
            return (at, Some(Cut::TypeReserved));
        }
        if at == 0 && kind != 2 {
            return (at, Some(Cut::NotConnack { kind }));
        }
        let first = stream[at];
        let asked = match kind {
            2 => at == 0,
            3 => first >> 1 & 3 < 2,
            kind => [4, 9, 13, 14].contains(&kind),
        };
        if !asked {
            return (at, Some(Cut::Unasked { first }));
        }
        let digits = &stream[at + 1..stream.len().min(at + 5)];
        let Some(last) = digits.iter().position(|digit| *digit < 128) else {
            return (at, (digits.len() == 4).then_some(Cut::LengthMalformed));
        };
        let length = digits[..=last].iter().rev().fold(0, |n, d| n * 128 + u32::from(d & 127));
        if length > maximum {
            return (at, Some(Cut::TooLarge { announced: length }));
        }
        at += 2 + last + length as usize;
    }
    (stream.len(), None)
}

/// Shows a stream to a guard in the given chunks, as the pump does: what is not admitted is shown
/// again with the next chunk.
fn guard(stream: &[u8], maximum: u32, mut cuts: Vec<usize>) -> (usize, Option<Cut>) {
    cuts.push(stream.len());
    cuts.sort_unstable();
    let mut guard = Guard::new(maximum);
    let mut admitted = 0;
    for end in cuts {
        let (count, verdict) = guard.admit(&stream[admitted..end.max(admitted)]);
        admitted += count;
        if verdict.is_some() {
            return (admitted, verdict);
        }
    }
    (admitted, None)
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![6 => prop::sample::select(vec![3u8, 4, 9, 13, 14]), 1 => 1..16u8];
    let good = (kind, 0..16u8, prop::collection::vec(any::<u8>(), 0..300)).prop_map(
        |(kind, flags, body)| {
            let mut packet = vec![kind << 4 | flags];
            let mut length = body.len();
            while length > 127 {
                packet.push(length as u8 | 128);
                length /= 128;
            }
            packet.push(length as u8);
            packet.extend(body);
            packet
        },
    );
    prop_oneof![8 => good, 1 => prop::collection::vec(any::<u8>(), 0..8)]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let packets = prop::collection::vec(packet(), 0..12).prop_map(|packets| packets.concat());
    (any::<bool>(), packets).prop_map(|(welcome, packets)| {
        let mut stream = if welcome { vec![0x20, 2, 0, 0] } else { vec![] };
        stream.extend(packets);
        stream
    })
}

proptest! {
    /// However a stream is cut into chunks, the guard admits what the model admits, says what the
    /// model says, and has said the same of every prefix.
    #[test]
    fn verdict_is_the_models_in_every_chunking(
        stream in stream(),
        maximum in 0..260u32,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        prop_assert_eq!(guard(&stream, maximum, cuts), model(&stream, maximum));
        let bytewise = (0..stream.len()).collect();
        prop_assert_eq!(guard(&stream, maximum, bytewise), model(&stream, maximum));
    }

    /// Arbitrary bytes: never more is admitted than the model allows, and nothing panics.
    #[test]
    fn arbitrary_bytes_agree_with_the_model(
        stream in prop::collection::vec(any::<u8>(), 0..64),
        maximum: u32,
    ) {
        let bytewise = (0..stream.len()).collect();
        prop_assert_eq!(guard(&stream, maximum, bytewise), model(&stream, maximum));
    }
}

/// Every first byte, with every shape of length, in every way to cut the header in two and byte by
/// byte, both as first and as second packet.
#[test]
fn every_header_in_every_split() {
    let lengths: [&[u8]; 9] = [
        &[0],
        &[127],
        &[0x80, 1],
        &[0xff, 0x7f],
        &[0xff, 0xff, 0xff, 0x7f],
        &[0x80, 0x80, 0x80, 0],
        &[0xff, 0xff, 0xff, 0xff],
        &[0x80, 0x80, 0x80, 0x80, 1],
        &[0x80],
    ];
    for first in 0..=255 {
        for length in lengths {
            for welcome in [&[][..], &[0x20, 2, 0, 0][..]] {
                let stream = [welcome, &[first], length].concat();
                let expected = model(&stream, 1000);
                for cut in 0..=stream.len() {
                    assert_eq!(guard(&stream, 1000, vec![cut]), expected, "{stream:x?} at {cut}");
                }
                assert_eq!(guard(&stream, 1000, (0..stream.len()).collect()), expected);
            }
        }
    }
}

/// The largest length passes at its own maximum and is cut, with its number, one below.
#[test]
fn the_maximum_is_inclusive() {
    let stream = [0x20, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(Guard::new(268_435_455).admit(&stream), (5, None));
    let cut = Cut::TooLarge { announced: 268_435_455 };
    assert_eq!(Guard::new(268_435_454).admit(&stream), (0, Some(cut)));
}
