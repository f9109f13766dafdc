//! What a volume says of itself while a test waits for it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::load::Load;
use crate::sys::{Poll, wait_until};
use crate::tree;

impl Cluster {
    /// Waits until every brick of the volume is in-sync and nothing is pending.
    ///
    /// # Errors
    /// Not in time.
    pub fn wait_healed(&self, volume: &str, limit: Duration) -> Result<Duration> {
        let took = wait_until("the heal", limit, || {
            let info = self.brick_json(&["volume", "heal", volume, "info"])?;
            let done = info["complete"] == true && info["pending"] == 0;
            Ok(Poll::of(done, || info.to_string()))
        })?;
        self.wait_in_sync(volume, limit)?;
        Ok(took)
    }

    /// Waits until every brick of the volume is in-sync.
    ///
    /// # Errors
    /// Not in time.
    pub fn wait_in_sync(&self, volume: &str, limit: Duration) -> Result<()> {
        wait_until("every brick in-sync", limit, || {
            let bricks = self.brick_states(volume)?;
            let done = bricks.iter().all(|b| b["state"] == "in-sync" && b["online"] == true);
            Ok(Poll::of(done && !bricks.is_empty(), || format!("{bricks:?}")))
        })
        .map(drop)
    }

    /// Waits until the pool knows that a node's brick is out of its set.
    ///
    /// # Errors
    /// Not in time.
    pub fn wait_out(&self, volume: &str, k: usize, limit: Duration) -> Result<()> {
        let host = self.nodes[k].host.clone();
        wait_until(&format!("eviction of {host}"), limit, || {
            let bricks = self.brick_states(volume)?;
            let out = bricks.iter().any(|b| b["host"] == host.as_str() && b["state"] == "out");
            Ok(Poll::of(out, || format!("{bricks:?}")))
        })
        .map(drop)
    }

    /// The node whose brick leads the volume's first set.
    ///
    /// # Errors
    /// No brick says that it leads.
    pub fn lead(&self, volume: &str) -> Result<usize> {
        let bricks = self.brick_states(volume)?;
        let lead = bricks.iter().find(|b| b["lead"] == true).context("no brick leads")?;
        let host = lead["host"].as_str().unwrap_or_default();
        self.nodes.iter().position(|n| n.host == host).context("the lead is no node of ours")
    }

    /// The bricks of `volume status --json`.
    ///
    /// # Errors
    /// The CLI failed, or has no such volume.
    pub fn brick_states(&self, volume: &str) -> Result<Vec<Value>> {
        let status = self.brick_json(&["volume", "status", volume])?;
        let volumes = status["volumes"].as_array().context("no 'volumes' in the status")?;
        let Some(one) = volumes.iter().find(|v| v["name"] == volume) else {
            bail!("no volume {volume} in the status: {status}");
        };
        one["bricks"].as_array().cloned().context("no 'bricks' in the status")
    }

    /// Ends a writer: no error and no longer pause; then all heals, and the bricks are equal.
    ///
    /// # Errors
    /// Any of it fails.
    pub fn settle(&self, volume: &str, load: Load, heal: Duration, pause: Duration) -> Result<()> {
        load.end(pause)?;
        self.wait_healed(volume, heal)?;
        self.demand_equal_bricks(volume).map(drop)
    }

    /// Demands that the bricks are equal trees, with something in them.
    ///
    /// # Errors
    /// They differ, or are empty.
    pub fn demand_equal_bricks(&self, volume: &str) -> Result<usize> {
        let entries = tree::all_same(&self.brick_dirs(volume))?;
        if entries < 2 {
            bail!("the bricks are equal and empty: nothing was tested");
        }
        Ok(entries)
    }
}
