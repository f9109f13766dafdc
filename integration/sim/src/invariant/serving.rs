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
    /// True when this is the first that is served in its epoch.
    pub fn served(&mut self, now: Nanos, proc: Proc, epoch: Epoch) -> Result<bool, Broken> {
        if epoch > self.latest.0 {
            self.latest = (epoch, proc, now);
            return Ok(true);
        }
        if epoch < self.latest.0 {
            let (later, by, at) = self.latest;
            let what =
                format!("p{proc} serves in e{epoch} at {now}, p{by} did in e{later} at {at}");
            return Err(Broken::new("two epochs serve", what));
        }
        Ok(false)
    }
}
