//! A stranger on the data port: garbage, lies about lengths, frames without a ticket.
//!
//! Whatever arrives, the daemon lives, the connection ends, and mounts do not notice.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use integration::cluster::{Cluster, Spec};
use integration::load::Random;
use integration::need::{self, Need};
use proto::frame::{self, FrameKind, Header, Hello};

/// A connection without a HELLO is closed in this time, so that strangers cannot hoard them.
const IDLE_MAX: Duration = Duration::from_secs(40);

fn connect(host: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect((host, proto::ports::DATA)).context("data port")?;
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

/// Sends bytes and demands that the other side ends the connection.
fn demand_closed(host: &str, what: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = connect(host)?;
    // The daemon may close in the middle of a long message: EPIPE is an answer too.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => Ok(answer),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(answer),
        Err(e) => Err(e).with_context(|| format!("after {what} the connection was not closed")),
    }
}

fn hello() -> Hello {
    Hello {
        version: u32::from(frame::VERSION),
        features: 0,
        brick: Bytes::from_static(&[7; 16]),
        session: 99,
        ticket: Bytes::from_static(b"let me in"),
        peer_proof: Bytes::new(),
        connection: 0,
        host: "stranger".into(),
        relay_proof: Bytes::new(),
    }
}

/// A well-formed header that announces the longest message and payload.
fn longest() -> Vec<u8> {
    let mut bytes = frame::encode(Header::new(FrameKind::Hello), &hello(), &[]).to_vec();
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    bytes.extend(vec![0xAA; 2 << 20]);
    bytes
}

fn attack(host: &str) -> Result<()> {
    let mut random = Random::new(20_261_122);
    for size in [1, 79, 80, 81, 4096, 1 << 20] {
        demand_closed(host, &format!("{size} random bytes"), &random.bytes(size))?;
    }
    demand_closed(host, "HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(8).as_slice())?;
    demand_closed(host, "the longest lengths", &longest())?;
    let good = frame::encode(Header::new(FrameKind::Hello), &hello(), &[]).to_vec();
    let mut torn = good.clone();
    torn[frame::HEADER_BYTES] ^= 1;
    demand_closed(host, "a wrong checksum", &torn)?;
    let request = frame::encode(Header::new(FrameKind::Request), &hello(), &[]).to_vec();
    demand_closed(host, "a request before HELLO", &request)?;
    let refusal = demand_closed(host, "a HELLO with a forged ticket", &good)?;
    ensure!(refusal.len() >= frame::HEADER_BYTES, "a refused HELLO is told why");
    // Every single bit flip of a HELLO ends in a refusal too.
    for at in (0..good.len()).step_by(5) {
        let mut bent = good.clone();
        bent[at] ^= 1 << (at % 8);
        demand_closed(host, &format!("a bit flip at {at}"), &bent)?;
    }
    Ok(())
}

#[test]
fn a_stranger_on_the_data_port_gets_nothing_and_breaks_nothing() {
    if !need::all("a_stranger_on_the_data_port", &[Need::Root, Need::Xfs, Need::Fuse]) {
        return;
    }
    let body = || -> Result<()> {
        let mut cluster = Cluster::with_volume(Spec::new("stranger"))?;
        let mount = cluster.mount(0, "gv0", "")?;
        let load = integration::load::Load::start(&mount.point().join("w"), Default::default())?;
        load.wait_operations(50, Duration::from_secs(20))?;
        let pids: Vec<_> = cluster.nodes.iter().map(|n| n.pid()).collect();
        let silent: Vec<TcpStream> =
            (0..200).map(|_| connect(&cluster.nodes[0].host)).collect::<Result<_>>()?;
        for node in &cluster.nodes {
            attack(&node.host)?;
        }
        drop(silent);
        for (node, pid) in cluster.nodes.iter_mut().zip(pids) {
            ensure!(node.runs() && node.pid() == pid, "{} died of it", node.host);
            ensure!(!fs::read_to_string(node.log())?.contains("panicked"), "{}", node.host);
        }
        load.end(Duration::from_secs(3))?;
        cluster.wait_healed("gv0", Duration::from_secs(30))?;
        cluster.demand_equal_bricks("gv0")?;
        cluster.passed();
        Ok(())
    };
    body().unwrap_or_else(|error| panic!("{error:#}"));
}
