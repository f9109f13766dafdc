//! Doubles of the layers, for tests here and in programs built on this library.

pub mod memory;
