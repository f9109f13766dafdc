//! `auth.allow` and `auth.reject`: comma-separated addresses, with `*` for the rest of one, or
//! networks as `10.1.0.0/16`.

use std::net::IpAddr;

use super::plain;

/// Whether a client at `ip` may connect. `reject` wins; an empty `allow` lets all in.
pub fn allowed(ip: IpAddr, allow: &str, reject: &str) -> bool {
    let ip = plain(ip);
    let listed = |list: &str| list.split(',').filter(|p| !p.is_empty()).any(|p| matches(ip, p));
    !listed(reject) && (allow.is_empty() || listed(allow))
}

fn matches(ip: IpAddr, pattern: &str) -> bool {
    if let Some(prefix) = pattern.strip_suffix('*') {
        return ip.to_string().starts_with(prefix);
    }
    if let Some((network, bits)) = pattern.split_once('/') {
        return network
            .parse::<IpAddr>()
            .ok()
            .zip(bits.parse::<u32>().ok())
            .is_some_and(|(network, bits)| in_network(ip, network, bits));
    }
    pattern.parse::<IpAddr>().is_ok_and(|address| plain(address) == ip)
}

fn in_network(ip: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            ip.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            ip.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ip: &str, allow: &str, reject: &str) -> bool {
        allowed(ip.parse().unwrap(), allow, reject)
    }

    #[test]
    fn reject_wins_over_allow_and_empty_lists_let_all_in() {
        assert!(check("10.0.0.1", "", ""));
        assert!(check("10.0.0.1", "10.0.0.1,10.1.*", ""));
        assert!(check("10.1.7.7", "10.0.0.1,10.1.*", ""));
        assert!(!check("10.2.0.1", "10.0.0.1,10.1.*", ""));
        assert!(!check("10.1.7.7", "10.1.*", "10.1.7.7"));
        assert!(check("10.1.7.7", "10.0.0.0/8", "10.1.8.0/24"));
        assert!(!check("10.1.8.9", "10.0.0.0/8", "10.1.8.0/24"));
        assert!(check("::ffff:10.0.0.1", "10.0.0.1", ""), "IPv4 on an IPv6 socket");
        assert!(!check("fd00::1", "10.0.0.0/0", ""));
    }
}
