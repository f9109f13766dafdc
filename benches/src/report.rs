//! Results as text and as JSON.

use serde::Serialize;

use crate::run::Measured;

/// One row of the report. Latencies in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub workload: String,
    pub clients: usize,
    pub operations: u64,
    pub failed: u64,
    pub seconds: f64,
    pub per_second: f64,
    pub mib_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    pub errors: Vec<String>,
}

impl From<&Measured> for Row {
    fn from(m: &Measured) -> Row {
        let seconds = m.wall.as_secs_f64().max(1e-9);
        let us = |q| m.record.latency_ns.value_at_quantile(q) as f64 / 1e3;
        Row {
            workload: m.name.to_owned(),
            clients: m.clients,
            operations: m.record.operations(),
            failed: m.record.failed,
            seconds,
            per_second: m.record.operations() as f64 / seconds,
            mib_per_second: m.record.bytes as f64 / f64::from(1 << 20) / seconds,
            p50_us: us(0.5),
            p99_us: us(0.99),
            max_us: us(1.0),
            errors: m.record.errors.clone(),
        }
    }
}

/// A table for people.
pub fn text(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<14}{:>8}{:>10}{:>8}{:>12}{:>10}{:>11}{:>11}{:>12}\n",
        "workload", "clients", "ops", "failed", "ops/s", "MiB/s", "p50 us", "p99 us", "max us"
    );
    for r in rows {
        out += &format!(
            "{:<14}{:>8}{:>10}{:>8}{:>12.0}{:>10.1}{:>11.1}{:>11.1}{:>12.1}\n",
            r.workload,
            r.clients,
            r.operations,
            r.failed,
            r.per_second,
            r.mib_per_second,
            r.p50_us,
            r.p99_us,
            r.max_us
        );
        for error in &r.errors {
            out += &format!("    error: {error}\n");
        }
    }
    out
}
