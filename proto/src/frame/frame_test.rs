use super::*;
use crate::fop::{Fop, Getattr, Op};
use crate::ids::Gfid;

fn request() -> (Header, RequestHead) {
    let mut args = BytesMut::new();
    Fop::from(Getattr { gfid: Gfid::ROOT }).encode(&mut args);
    let head = RequestHead { args: args.freeze(), uid: 5, ..RequestHead::default() };
    let mut header = Header::new(FrameKind::Request);
    header.op = Op::Getattr.code();
    header.request = 0x0102_0304_0506_0708;
    header.session = 9;
    header.epoch = 77;
    header.seq = 3;
    header.mark = 2;
    header.stamp = 1_000;
    (header, head)
}

#[test]
fn a_frame_round_trips_and_verifies() {
    let (header, head) = request();
    let out = encode(header, &head, b"payload");
    let parsed = Header::parse(&out).expect("own frame");
    assert_eq!(parsed.request, header.request);
    assert_eq!(parsed.payload_bytes, 7);
    let message = &out[HEADER_BYTES..];
    assert_eq!(verify(&out[..HEADER_BYTES], message, b"payload"), Ok(()));
    assert_eq!(verify(&out[..HEADER_BYTES], message, b"paYload"), Err(BadFrame::PayloadSum));
    let decoded = <RequestHead as prost::Message>::decode(message).expect("own message");
    assert_eq!(decoded, head);
}

#[test]
fn any_flipped_bit_of_header_or_message_is_noticed() {
    let (header, head) = request();
    let out = encode(header, &head, b"");
    for bit in 0..out.len() * 8 {
        let mut bad = out.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let (raw, message) = bad.split_at(HEADER_BYTES);
        let result = Header::parse(raw).and_then(|_| verify(raw, message, b""));
        assert!(result.is_err(), "bit {bit} went unnoticed");
    }
}

#[test]
fn lengths_are_bounded_before_anything_is_allocated() {
    let (header, head) = request();
    let mut out = encode(header, &head, b"");
    out[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Header::parse(&out), Err(BadFrame::Length));
}
