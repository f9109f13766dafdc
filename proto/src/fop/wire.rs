//! Identifiers as prost messages: two fixed 64-bit words each, no allocation.

use bytes::{Buf, BufMut};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, fixed64, skip_field};

use crate::ids::{Gfid, LeaseNumber};

/// A value that travels as two `fixed64` fields.
trait Pair: Sized {
    fn words(&self) -> [u64; 2];
    fn from_words(words: [u64; 2]) -> Self;
}

impl Pair for Gfid {
    fn words(&self) -> [u64; 2] {
        let mut words = [[0; 8]; 2];
        words[0].copy_from_slice(&self.0[..8]);
        words[1].copy_from_slice(&self.0[8..]);
        words.map(u64::from_be_bytes)
    }

    fn from_words(words: [u64; 2]) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&words[0].to_be_bytes());
        bytes[8..].copy_from_slice(&words[1].to_be_bytes());
        Gfid(bytes)
    }
}

impl Pair for LeaseNumber {
    fn words(&self) -> [u64; 2] {
        [self.base, self.counter]
    }

    fn from_words([base, counter]: [u64; 2]) -> Self {
        LeaseNumber { base, counter }
    }
}

macro_rules! pair_message {
    ($name:ty) => {
        impl prost::Message for $name {
            fn encode_raw(&self, buf: &mut impl BufMut) {
                let words = self.words();
                for (tag, word) in (1..).zip(&words) {
                    if *word != 0 {
                        fixed64::encode(tag, word, buf);
                    }
                }
            }

            fn merge_field(
                &mut self,
                tag: u32,
                wire_type: WireType,
                buf: &mut impl Buf,
                ctx: DecodeContext,
            ) -> Result<(), DecodeError> {
                let mut words = self.words();
                match tag {
                    1 | 2 => fixed64::merge(wire_type, &mut words[tag as usize - 1], buf, ctx)?,
                    _ => skip_field(wire_type, tag, buf, ctx)?,
                }
                *self = Self::from_words(words);
                Ok(())
            }

            fn encoded_len(&self) -> usize {
                self.words().iter().filter(|w| **w != 0).count() * 9
            }

            fn clear(&mut self) {
                *self = Self::default();
            }
        }
    };
}

pair_message!(Gfid);
pair_message!(LeaseNumber);
