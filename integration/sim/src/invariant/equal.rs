//! After the quiet phase all in-sync replicas are equal, to the last name, value and stamp.

use super::Broken;
use crate::model::store::Image;

pub fn check<'a>(images: impl IntoIterator<Item = (usize, &'a Image)>) -> Result<(), Broken> {
    let mut images = images.into_iter();
    let Some((first, image)) = images.next() else { return Ok(()) };
    for (proc, other) in images {
        let gfids: std::collections::BTreeSet<_> = image.keys().chain(other.keys()).collect();
        for gfid in gfids {
            let (a, b) = (image.get(gfid), other.get(gfid));
            if a != b {
                let what = format!("{gfid:?}\n  p{first}: {a:?}\n  p{proc}: {b:?}");
                return Err(Broken::new("replicas are equal after the heal", what));
            }
        }
    }
    Ok(())
}
