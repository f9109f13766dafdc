//! Default ports, in one place. Clear of GlusterFS (24007, 24008, 49152 and above), so that
//! both can run on one machine.

/// gRPC over mTLS: pool, administration, volume maps, tickets.
pub const CONTROL: u16 = 9610;
/// Framed data plane.
pub const DATA: u16 = 9611;
/// Prometheus metrics over HTTP, localhost unless configured.
pub const METRICS: u16 = 9612;
/// Promises between peers (fencing): a port and a thread of its own, so that nothing on the
/// control port can delay them.
pub const PROMISE: u16 = 9613;
