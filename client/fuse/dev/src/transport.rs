//! The seam between requests and how their bytes travel.
//!
//! A request is decoded by [`parse`](crate::parse) from plain bytes and answered through a
//! [`ReplyPort`]; neither knows the device. A second transport (rings shared with the kernel)
//! supplies its own port and its own way to fetch bytes.

use std::fmt;
use std::io;

use crate::sys::Device;

/// Where the answer to a request goes.
pub(crate) trait ReplyPort: fmt::Debug + Send + Sync {
    /// Sends the one answer to request `unique`: `error` is 0 or a negative errno.
    fn answer(&self, unique: u64, error: i32, body: &[&[u8]]) -> io::Result<()>;
}

impl ReplyPort for Device {
    fn answer(&self, unique: u64, error: i32, body: &[&[u8]]) -> io::Result<()> {
        self.write(unique, error, body)
    }
}
