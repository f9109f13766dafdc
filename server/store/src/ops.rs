//! The operations, by family: what is read, made, removed, renamed, written, and the xattrs;
//! then what peers ask of each other, `inspect` for the source and `install` for the sink.

mod attr;
mod create;
mod inspect;
mod install;
mod read;
mod remove;
mod rename;
mod write;
mod xattr;
