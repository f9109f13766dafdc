//! What the kernel must forget.

use std::sync::Arc;

use proto::Gfid;

use crate::layer::Boxed;

/// The kernel's caches above a volume.
///
/// The calls wait for locks of the kernel, which requests under way may hold: they are run on
/// threads that serve no request, and the volume holds no lock of its own meanwhile.
pub trait KernelCaches: Send + Sync {
    /// Forgets names of a directory; ends when the kernel has.
    fn forget_names(&self, dir: Gfid, names: Vec<Box<[u8]>>) -> Boxed<'_, ()>;

    /// Forgets an inode's attributes and pages, after writing back dirty mapped pages (which
    /// come back as writes before this ends).
    fn forget_inode(&self, gfid: Gfid) -> Boxed<'_, ()>;
}

impl super::Volume {
    pub(super) fn kernel(&self) -> Option<&Arc<dyn KernelCaches>> {
        self.kernel.get()
    }
}
