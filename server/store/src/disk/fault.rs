//! A disk that fails on order, for tests here and in the simulation of whole bricks.

use std::sync::{Arc, Mutex};

use proto::error::Errno;

use super::Disk;

/// The next fault: after `skip` more matching calls, one call fails with `errno`.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Name of a `Disk` method; empty matches all.
    pub call: &'static str,
    pub skip: u64,
    pub errno: Errno,
}

/// Shared switchboard of a `FaultDisk`: the test keeps one clone.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Vec<Fault>>>);

impl Faults {
    pub fn arm(&self, call: &'static str, skip: u64, errno: Errno) {
        self.lock().push(Fault { call, skip, errno });
    }

    /// Faults that have not struck yet.
    pub fn armed(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

pub struct FaultDisk {
    pub(super) inner: Box<dyn Disk>,
    faults: Faults,
}

impl FaultDisk {
    pub fn new(inner: Box<dyn Disk>) -> (FaultDisk, Faults) {
        let faults = Faults::default();
        (FaultDisk { inner, faults: faults.clone() }, faults)
    }

    pub(super) fn before(&self, call: &str) -> Result<(), Errno> {
        let mut faults = self.faults.lock();
        let mut strikes = None;
        for (i, fault) in faults.iter_mut().enumerate() {
            if !fault.call.is_empty() && fault.call != call {
                continue;
            }
            if fault.skip == 0 {
                strikes = Some(i);
                break;
            }
            fault.skip -= 1;
        }
        strikes.map_or(Ok(()), |i| Err(faults.remove(i).errno))
    }
}
