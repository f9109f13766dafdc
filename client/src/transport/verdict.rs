//! What a member's answer to a change means.

use bytes::BytesMut;
use proto::Attr;
use proto::fop::{Answer, Op};
use proto::frame::Status;
use xxhash_rust::xxh3::xxh3_64;

use super::Reply;

/// The same for answers that mean the same: the errno, or what of the answer does not depend on
/// the order in which a member executed changes that were under way together (times, sizes and
/// blocks do). An undecodable answer equals nothing but its own bytes.
pub fn digest(op: Op, reply: &Reply) -> u64 {
    if let Status::Failed(failure) = reply.status {
        return xxh3_64(format!("{failure:?}").as_bytes());
    }
    let Ok(mut answer) = Answer::decode(op, reply.answer.clone()) else {
        return xxh3_64(&reply.answer);
    };
    forget_order(op, &mut answer);
    let mut bytes = BytesMut::with_capacity(answer.encoded_len());
    answer.encode(&mut bytes);
    xxh3_64(&bytes)
}

fn forget_order(op: Op, answer: &mut Answer) {
    // Of a write only that it was done: another one may drop set-user-id bits beside it.
    let modes = !matches!(op, Op::Write | Op::Fallocate);
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
        let (mode, nlink) = if modes { (attr.mode, attr.nlink) } else { (0, 0) };
        *attr = Attr { gfid: attr.gfid, mode, nlink, ..Attr::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn reply(attr: Attr) -> Reply {
        let mut bytes = BytesMut::new();
        Answer::Attr(attr).encode(&mut bytes);
        Reply {
            status: Status::Ok,
            answer: bytes.freeze(),
            payload: Bytes::new(),
            grants: Vec::new(),
            epoch: proto::Epoch(1),
            replay: false,
            sent: proto_rules::Tick(0),
        }
    }

    #[test]
    fn the_order_of_two_writes_is_no_difference_but_another_mode_is() {
        let attr = Attr { mode: 0o100_644, nlink: 1, size: 10, stamp: 5, ..Attr::default() };
        let later = Attr { size: 20, stamp: 6, blocks: 8, ..attr };
        assert_eq!(digest(Op::Write, &reply(attr)), digest(Op::Write, &reply(later)));
        let other = Attr { mode: 0o100_600, ..attr };
        assert_ne!(digest(Op::Setattr, &reply(attr)), digest(Op::Setattr, &reply(other)));
    }
}
