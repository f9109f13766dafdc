//! The only module with `unsafe`: page-aligned memory and the clone call of the device.
//!
//! Promises: everything it exports is safe to call with any argument.
//! Deliberately does not: know the protocol, beyond the frame of a reply.

mod device;
mod pages;

pub(crate) use device::{Device, WATCHED, watch};
pub(crate) use pages::Pages;
