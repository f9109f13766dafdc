//! The mount: a volume as a file system of the kernel.
//!
//! ```text
//! options   the words of mount(8)             daemon    into the background, with a status
//! connect   from servers to a volume          serving   threads between kernel and volume
//! handle    one request of the kernel         nodes     the kernel's numbers for inodes
//! handles   open files and directories        forget    what the kernel must forget
//! convert   attributes, both ways
//! ```
//!
//! Assumes: `client::volume` keeps every answer coherent; the kernel checks permissions.
//!
//! Promises: what the volume has in memory is answered on the thread that read the request;
//! the kernel is told to believe nothing for longer than the lease behind it lasts; messages
//! that make the kernel forget are sent by threads that serve no request.
//!
//! Deliberately does not: cache anything itself.

pub mod connect;
mod convert;
pub mod daemon;
mod forget;
mod handle;
mod handles;
mod nodes;
pub mod options;
pub mod serving;
