//! Bucket counts of directories, learnt from whatever passes by.

use std::collections::HashMap;
use std::sync::Mutex;

use proto::fop::{Answer, Fop};
use proto::{Attr, Gfid};

use crate::sync::lock;

/// Directories remembered; about 3 MiB. Beyond, all is forgotten and learnt again: asking
/// costs one trip for each directory, and this happens once in many.
const DIRS_MAX: usize = 65_536;

#[derive(Default)]
pub(crate) struct BucketMemory(Mutex<HashMap<Gfid, u16>>);

impl BucketMemory {
    pub(crate) fn get(&self, dir: Gfid) -> Option<u16> {
        lock(&self.0).get(&dir).copied()
    }

    pub(crate) fn learn(&self, dir: Gfid, buckets: u32) {
        let Ok(buckets) = u16::try_from(buckets) else { return };
        if buckets == 0 {
            return;
        }
        let mut known = lock(&self.0);
        if known.len() >= DIRS_MAX {
            known.clear();
        }
        known.insert(dir, buckets);
    }

    fn learn_attr(&self, attr: &Attr) {
        if attr.is_dir() {
            self.learn(attr.gfid, attr.buckets);
        }
    }

    /// From an operation's answer.
    pub(crate) fn learn_answer(&self, fop: &Fop, answer: &Answer) {
        match answer {
            Answer::Entry(entry) => self.learn_attr(&entry.attr),
            Answer::Attr(attr) => self.learn_attr(attr),
            Answer::Entries(entries) => {
                entries.entries.iter().filter_map(|e| e.attr.as_ref()).for_each(|attr| {
                    self.learn_attr(attr);
                });
            }
            _ => {}
        }
        if let Fop::Create(create) = fop {
            self.learn(create.gfid, create.buckets);
        }
    }
}
