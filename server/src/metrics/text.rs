//! The Prometheus text format.

use std::fmt::Write as _;
use std::sync::Arc;

use proto::fop::Op;

use super::{BrickMetrics, Counter};

/// Name, type, meaning and value of one figure per brick.
type Figure = (&'static str, &'static str, &'static str, fn(&BrickMetrics) -> &Counter);

const FIGURES: &[Figure] = &[
    ("brick_refused_total", "counter", "Requests refused (not executed).", |m| &m.refused),
    ("brick_received_bytes_total", "counter", "Payload bytes received.", |m| &m.bytes_in),
    ("brick_sent_bytes_total", "counter", "Payload bytes sent.", |m| &m.bytes_out),
    ("brick_bad_frames_total", "counter", "Connections ended for a bad frame.", |m| &m.bad_frames),
    ("brick_recalls_total", "counter", "Leases recalled.", |m| &m.recalls),
    ("brick_executed_total", "counter", "Changes executed for sessions.", |m| &m.executed),
    ("brick_connections", "gauge", "Open data connections.", |m| &m.connections),
    ("brick_sessions", "gauge", "Sessions known.", |m| &m.sessions),
    ("brick_leases", "gauge", "Leases given by this brick as lead.", |m| &m.leases),
    ("brick_epoch", "gauge", "Epoch of the brick's set.", |m| &m.epoch),
    ("brick_serving", "gauge", "1 while the brick may serve clients.", |m| &m.serving),
    ("brick_free_bytes", "gauge", "Free bytes of its file system.", |m| &m.free_bytes),
    ("brick_size_bytes", "gauge", "Size of its file system.", |m| &m.total_bytes),
    ("brick_heal_pending", "gauge", "Inodes that wait for a heal.", |m| &m.heal_pending),
    ("brick_heal_bytes_total", "counter", "Bytes healed.", |m| &m.heal_bytes),
];

pub fn render(bricks: &[Arc<BrickMetrics>]) -> String {
    let mut page = String::with_capacity(16 << 10);
    for (name, kind, help, value) in FIGURES {
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for brick in bricks {
            let _ = writeln!(page, "{name}{{{}}} {}", labels(brick), value(brick).get());
        }
    }
    let name = "brick_request_seconds";
    let _ = writeln!(page, "# HELP {name} Time in the brick per request.\n# TYPE {name} histogram");
    for brick in bricks {
        for op in Op::ALL {
            latency(&mut page, name, brick, *op);
        }
    }
    page
}

/// Volume names hold no quotes or backslashes; the pool checks that when one is created.
fn labels(brick: &BrickMetrics) -> String {
    format!("volume=\"{}\",brick=\"{}\"", brick.volume, brick.brick)
}

fn latency(page: &mut String, name: &str, brick: &BrickMetrics, op: Op) {
    let Some(histogram) = brick.latency(op).filter(|h| h.count() > 0) else { return };
    let labels = format!("{},op=\"{}\"", labels(brick), op.name().to_ascii_lowercase());
    for (upper_ns, count) in histogram.cumulative() {
        let le = upper_ns as f64 / 1e9;
        let _ = writeln!(page, "{name}_bucket{{{labels},le=\"{le}\"}} {count}");
    }
    // Counted once, so that the parts agree although the brick goes on counting.
    let count = histogram.count();
    let _ = writeln!(page, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(page, "{name}_sum{{{labels}}} {}", histogram.sum_ns() as f64 / 1e9);
    let _ = writeln!(page, "{name}_count{{{labels}}} {count}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::BrickId;

    #[test]
    fn a_page_shows_what_was_counted_and_no_empty_histograms() {
        let metrics = Arc::new(BrickMetrics::new("gv0", BrickId::random()));
        metrics.answered(Op::Write, 50_000);
        metrics.sessions.set(3);
        let page = render(std::slice::from_ref(&metrics));
        let label = format!("volume=\"gv0\",brick=\"{}\"", metrics.brick);
        assert!(page.contains(&format!("brick_sessions{{{label}}} 3\n")), "{page}");
        assert!(page.contains(&format!("brick_request_seconds_count{{{label},op=\"write\"}} 1\n")));
        assert!(!page.contains("op=\"read\""));
    }
}
