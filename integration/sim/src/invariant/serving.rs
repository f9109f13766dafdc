//! Fencing: once a member serves in an epoch, no member serves in an earlier one.

use proto::Epoch;

use super::Broken;
use crate::model::clock::Nanos;
use crate::model::net::Proc;

#[derive(Debug, Default)]
pub struct Serving {
    latest: (Epoch, Proc, Nanos),
}

impl Serving {
    pub fn served(&mut self, now: Nanos, proc: Proc, epoch: Epoch) -> Result<(), Broken> {
        if epoch > self.latest.0 {
            self.latest = (epoch, proc, now);
        }
        if epoch < self.latest.0 {
            let (later, by, at) = self.latest;
            let what = format!("p{proc} serves in e{epoch} at {now}, p{by} did in e{later} at {at}");
            return Err(Broken::new("two epochs serve", what));
        }
        Ok(())
    }
}
