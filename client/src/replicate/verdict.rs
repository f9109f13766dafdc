//! What a member's answer to a change means.

use bytes::BytesMut;
use proto::Attr;
use proto::fop::{Answer, Op};
use proto::frame::Status;
use xxhash_rust::xxh3::xxh3_64;

use crate::transport::Reply;

/// The same for answers that mean the same: the errno, or the answer without what may differ
/// between replicas (`blocks`). An undecodable answer equals nothing but its own bytes.
pub(super) fn digest(op: Op, reply: &Reply) -> u64 {
    if let Status::Failed(failure) = reply.status {
        return xxh3_64(format!("{failure:?}").as_bytes());
    }
    let Ok(mut answer) = Answer::decode(op, reply.answer.clone()) else {
        return xxh3_64(&reply.answer);
    };
    forget_blocks(&mut answer);
    let mut bytes = BytesMut::with_capacity(answer.encoded_len());
    answer.encode(&mut bytes);
    xxh3_64(&bytes)
}

fn forget_blocks(answer: &mut Answer) {
    let attrs: [Option<&mut Attr>; 4] = match answer {
        Answer::Attr(attr) => [Some(attr), None, None, None],
        Answer::Entry(e) => [Some(&mut e.attr), e.parent.as_mut(), None, None],
        Answer::Unlinked(u) => [u.parent.as_mut(), u.attr.as_mut(), None, None],
        Answer::Renamed(r) => {
            [r.from_parent.as_mut(), r.to_parent.as_mut(), r.attr.as_mut(), r.replaced.as_mut()]
        }
        _ => return,
    };
    for attr in attrs.into_iter().flatten() {
        attr.blocks = 0;
    }
}
