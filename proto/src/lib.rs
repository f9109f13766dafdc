//! The shared language of Brickwork: identifiers, file operations, errors, the frame codec,
//! the volume map and placement.
//!
//! Everything here is a value or a pure function: no socket, no clock, no file, no runtime.
//! Client and server both speak it; neither may extend it privately.

pub mod attr;
pub mod error;
pub mod fop;
pub mod frame;
pub mod ids;
pub mod map;
pub mod options;
pub mod placement;
pub mod ports;

pub use attr::{Attr, Kind, Meta};
pub use error::{Errno, Failure, Refusal};
pub use ids::*;
