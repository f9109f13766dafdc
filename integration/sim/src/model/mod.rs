//! The world below the rules, as small as it can be and still lie like the real one: a brick's
//! store with a page cache that power loss empties, links, clocks, the pool's log.

pub mod change;
pub mod clock;
pub mod net;
pub mod pool;
pub mod store;
