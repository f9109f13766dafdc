//! Leases: while one session believes to hold a key exclusively, no other believes to hold it.

use proto::SessionId;
use proto::fop::{LeaseKey, Mode};

use super::Broken;

pub fn check(beliefs: &[(SessionId, Vec<(LeaseKey, Mode)>)]) -> Option<Broken> {
    for (at, (session, held)) in beliefs.iter().enumerate() {
        for (other, theirs) in &beliefs[at + 1..] {
            for (key, mode) in held {
                let clash = theirs
                    .iter()
                    .find(|(k, m)| k == key && (*m == Mode::Exclusive || *mode == Mode::Exclusive));
                if let Some((_, m)) = clash {
                    let what = format!("{key:?}: s{session} {mode:?}, s{other} {m:?}");
                    return Some(Broken::new("two holders", what));
                }
            }
        }
    }
    None
}
