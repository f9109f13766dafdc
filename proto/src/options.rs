//! Volume options: one validated struct, one table of names, defaults and help.

use serde::{Deserialize, Serialize};

/// The validated options of one volume. Unset options have their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    /// `client.op-timeout`, seconds.
    pub op_timeout_s: u32,
    /// `client.write-mode`: write-behind when true, synchronous when false.
    pub write_behind: bool,
    /// `cluster.min-in-sync`; 0 means the default for the replica count.
    pub min_in_sync: u16,
    /// `cluster.lone-sync`.
    pub lone_sync: bool,
    /// `cluster.dir-buckets`: buckets of a new directory, a power of two.
    pub dir_buckets: u16,
    /// `storage.reserve`: bytes kept free on each brick; 0 means 1 % and at least 1 GiB
    /// (at most 5 % on bricks under 20 GiB).
    pub reserve_bytes: u64,
    /// `auth.allow`, comma-separated addresses; empty means all that hold a credential.
    pub auth_allow: String,
    /// `auth.reject`.
    pub auth_reject: String,
    /// `features.read-only`.
    pub read_only: bool,
    /// `cluster.stripe-block-size`: bytes of a block of new striped files, a power of two.
    pub stripe_block: u32,
}

/// Small enough that a write of a few MiB goes to all sets of a group, large enough that a
/// request of 1 MiB is not cut up.
const STRIPE_BLOCK_BYTES: u32 = 1 << 20;

impl Default for VolumeOptions {
    fn default() -> Self {
        Self {
            op_timeout_s: 30,
            write_behind: true,
            min_in_sync: 0,
            lone_sync: false,
            dir_buckets: 64,
            reserve_bytes: 0,
            auth_allow: String::new(),
            auth_reject: String::new(),
            read_only: false,
            stripe_block: STRIPE_BLOCK_BYTES,
        }
    }
}

/// One row of `volume set help`.
#[derive(Debug)]
pub struct OptionHelp {
    pub name: &'static str,
    pub default: &'static str,
    pub range: &'static str,
    pub meaning: &'static str,
}

/// Every option a volume has, in alphabetical order.
pub const OPTIONS: &[OptionHelp] = &[
    OptionHelp {
        name: "auth.allow",
        default: "*",
        range: "addresses, comma-separated, or *",
        meaning: "Addresses from which mounts are accepted, besides holding a credential.",
    },
    OptionHelp {
        name: "auth.reject",
        default: "(none)",
        range: "addresses, comma-separated, or (none)",
        meaning: "Addresses from which mounts are refused; wins over auth.allow.",
    },
    OptionHelp {
        name: "client.op-timeout",
        default: "30",
        range: "1-600 seconds",
        meaning: "How long an operation that cannot proceed waits before it fails.",
    },
    OptionHelp {
        name: "client.write-mode",
        default: "write-behind",
        range: "write-behind | sync",
        meaning: "Whether small writes gather in the client until close, fsync or one second.",
    },
    OptionHelp {
        name: "cluster.dir-buckets",
        default: "64",
        range: "1-1024, a power of two",
        meaning: "Buckets of a new directory: the parts in which its names spread over the sets.",
    },
    OptionHelp {
        name: "cluster.lone-sync",
        default: "off",
        range: "on | off",
        meaning: "With one in-sync member left, make every change durable before it is answered.",
    },
    OptionHelp {
        name: "cluster.min-in-sync",
        default: "auto",
        range: "auto | 1-16",
        meaning: "In-sync members needed for changes; auto is 1 for replica 2 and 2 for replica 3.",
    },
    OptionHelp {
        name: "cluster.stripe-block-size",
        default: "1M",
        range: "64K-64M, a power of two",
        meaning: "Size of the blocks in which new files of a striped volume go round its sets.",
    },
    OptionHelp {
        name: "features.read-only",
        default: "off",
        range: "on | off",
        meaning: "Refuse every change from clients with EROFS.",
    },
    OptionHelp {
        name: "storage.reserve",
        default: "auto",
        range: "auto | bytes with optional K, M, G, T",
        meaning: "Space kept free on each brick; auto is 1 % but at least 1 GiB on real disks.",
    },
];

impl VolumeOptions {
    /// Sets one option from text.
    ///
    /// # Errors
    /// A sentence that names the option's range, or says that the option is unknown.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let help = OPTIONS.iter().find(|o| o.name == name).ok_or_else(|| {
            format!("unknown option {name}; 'brick volume set help' lists them all")
        })?;
        let bad = || format!("{name}: '{value}' is not in range ({})", help.range);
        match name {
            "auth.allow" => self.auth_allow = address_list(value).ok_or_else(bad)?,
            "auth.reject" => self.auth_reject = address_list(value).ok_or_else(bad)?,
            "client.op-timeout" => self.op_timeout_s = number(value, 1, 600).ok_or_else(bad)?,
            "client.write-mode" => {
                self.write_behind = match value {
                    "write-behind" => true,
                    "sync" => false,
                    _ => return Err(bad()),
                }
            }
            "cluster.dir-buckets" => {
                let k: u16 = number(value, 1, 1024).ok_or_else(bad)?;
                self.dir_buckets = k.is_power_of_two().then_some(k).ok_or_else(bad)?;
            }
            "cluster.lone-sync" => self.lone_sync = on_off(value).ok_or_else(bad)?,
            "cluster.min-in-sync" => {
                self.min_in_sync = match value {
                    "auto" => 0,
                    _ => number(value, 1, 16).ok_or_else(bad)?,
                }
            }
            "cluster.stripe-block-size" => {
                let range = (64 << 10)..=(64 << 20);
                let size = bytes(value).filter(|n| range.contains(n) && n.is_power_of_two());
                self.stripe_block = size.and_then(|n| u32::try_from(n).ok()).ok_or_else(bad)?;
            }
            "features.read-only" => self.read_only = on_off(value).ok_or_else(bad)?,
            "storage.reserve" => {
                self.reserve_bytes = match value {
                    "auto" => 0,
                    _ => bytes(value).filter(|b| *b > 0).ok_or_else(bad)?,
                }
            }
            _ => return Err(format!("option {name} is listed but cannot be set")),
        }
        Ok(())
    }

    /// In-sync members needed for a change on a set of `replica` members.
    pub fn min_in_sync_of(&self, replica: u16) -> u16 {
        match self.min_in_sync {
            0 => replica.max(1) / 2 + replica % 2,
            n => n.min(replica.max(1)),
        }
    }
}

fn on_off(value: &str) -> Option<bool> {
    match value {
        "on" | "yes" | "true" | "enable" | "1" => Some(true),
        "off" | "no" | "false" | "disable" | "0" => Some(false),
        _ => None,
    }
}

fn number<T: TryFrom<u64>>(value: &str, min: u64, max: u64) -> Option<T> {
    let n: u64 = value.parse().ok()?;
    (min..=max).contains(&n).then_some(n).and_then(|n| T::try_from(n).ok())
}

fn address_list(value: &str) -> Option<String> {
    if matches!(value, "*" | "(none)") {
        return Some(String::new());
    }
    let ok = !value.is_empty()
        && value.len() <= 4096
        && value.split(',').all(|a| {
            !a.is_empty() && a.chars().all(|c| c.is_ascii_alphanumeric() || ".:*-/_".contains(c))
        });
    ok.then(|| value.to_owned())
}

/// A size with an optional suffix (K, M, G, T, with or without B), powers of 1024.
pub fn bytes(value: &str) -> Option<u64> {
    let upper = value.trim().to_ascii_uppercase();
    let upper = upper.strip_suffix('B').unwrap_or(&upper);
    let (digits, shift) = match upper.chars().last()? {
        'K' => (&upper[..upper.len() - 1], 10),
        'M' => (&upper[..upper.len() - 1], 20),
        'G' => (&upper[..upper.len() - 1], 30),
        'T' => (&upper[..upper.len() - 1], 40),
        _ => (upper, 0),
    };
    let n: u64 = digits.parse().ok()?;
    n.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_option_can_be_set_and_unknown_ones_are_refused() {
        let good = [
            ("auth.allow", "10.0.0.1,10.1.*"),
            ("auth.reject", "10.0.0.9"),
            ("client.op-timeout", "5"),
            ("client.write-mode", "sync"),
            ("cluster.dir-buckets", "32"),
            ("cluster.lone-sync", "on"),
            ("cluster.min-in-sync", "1"),
            ("cluster.stripe-block-size", "128K"),
            ("features.read-only", "off"),
            ("storage.reserve", "2G"),
        ];
        assert_eq!(good.len(), OPTIONS.len());
        let mut options = VolumeOptions::default();
        for (name, value) in good {
            options.set(name, value).expect("in range");
        }
        assert_eq!(options.reserve_bytes, 2 << 30);
        assert!(options.set("no.such", "1").is_err());
        assert!(options.set("cluster.dir-buckets", "33").is_err());
        assert_eq!(options.stripe_block, 128 << 10);
        for bad in ["32K", "100K", "128M", "-1", ""] {
            assert!(options.set("cluster.stripe-block-size", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn majority_is_needed_by_default_and_one_of_two() {
        let options = VolumeOptions::default();
        let needed: Vec<u16> = (1..=5).map(|r| options.min_in_sync_of(r)).collect();
        assert_eq!(needed, [1, 1, 2, 2, 3]);
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(bytes("2GB"), Some(2 << 30));
        assert_eq!(bytes("7k"), Some(7 << 10));
        assert_eq!(bytes(""), None);
        assert_eq!(bytes("-1"), None);
        assert_eq!(bytes("99999999999T"), None);
    }
}
