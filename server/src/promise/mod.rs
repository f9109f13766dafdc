//! Promises between peers: what is said, and what follows from it.
//!
//! Purpose: say in each ping and answer what the rules and the bricks have to say, and publish
//! to each brick until when it may serve (`Gate`).
//!
//! Assumes: `pool::promise` carries the messages, on a thread and a port of its own, so that no
//! load of the control plane delays a ping; certificates tell who asks.
//!
//! Promises: the rules (`proto_rules::promise`) see every ping, answer and map in one order,
//! under one lock that is never held across a wait; a brick's thread reads atomics only.
//!
//! Deliberately does not: decide evictions. It reports whom it misses; the pool's leader asks.

mod board;
mod words;

pub use board::{Board, Reports};
pub use words::{AnswerMessage, PingMessage};
