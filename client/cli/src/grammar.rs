//! `volume create NAME [stripe S] [replica R] [transport T] HOST:/PATH... [force]`.

use proto_grpc::control::{BrickAddress, VolumeCreateRequest};

/// Parses what follows the name, in GlusterFS's order or any other.
///
/// # Errors
/// What is wrong, with the form expected.
pub fn create(name: &str, words: &[String]) -> Result<VolumeCreateRequest, String> {
    let mut request = VolumeCreateRequest { name: name.to_owned(), ..Default::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "stripe" => request.stripe = count("stripe", words.next())?,
            "replica" => request.replica = count("replica", words.next())?,
            "transport" => request.transport = transport(words.next())?,
            "arbiter" | "thin-arbiter" => {
                return Err("there are no arbiter bricks: a witness peer does it without one \
                            (witness = true in its configuration); leave 'arbiter' out"
                    .into());
            }
            "disperse" | "disperse-data" | "redundancy" => {
                return Err("dispersed volumes are not supported; use 'replica'".into());
            }
            "force" if words.len() == 0 => request.force = true,
            brick => request.bricks.push(brick_address(brick)?),
        }
    }
    if request.bricks.is_empty() {
        return Err("no brick given (HOST:/PATH)".into());
    }
    Ok(request)
}

pub fn count(what: &str, word: Option<&String>) -> Result<u32, String> {
    let number = word.and_then(|w| w.parse().ok()).filter(|n| *n > 0);
    number.ok_or_else(|| format!("'{what}' is followed by a number from 1 on"))
}

fn transport(word: Option<&String>) -> Result<String, String> {
    match word.map(String::as_str) {
        Some("tcp") => Ok("tcp".into()),
        Some(other) => Err(format!("transport {other} is not supported; use tcp")),
        None => Err("'transport' is followed by tcp".into()),
    }
}

/// The last `:/` separates, so that IPv6 addresses need no brackets; these are taken off.
pub fn brick_address(word: &str) -> Result<BrickAddress, String> {
    let form = || format!("'{word}' is not a brick (HOST:/PATH)");
    let (host, path) = word.split_once(":/").ok_or_else(form)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(form());
    }
    let trimmed = path.trim_end_matches('/');
    Ok(BrickAddress { host: host.to_owned(), path: format!("/{trimmed}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<VolumeCreateRequest, String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        create("gv0", &words)
    }

    #[test]
    fn the_whole_grammar_is_understood() {
        let all = parse("stripe 2 replica 3 transport tcp a:/x b:/y/ fd00::1:/z force").unwrap();
        assert_eq!((all.stripe, all.replica, all.force), (2, 3, true));
        let bricks: Vec<_> =
            all.bricks.iter().map(|b| (b.host.as_str(), b.path.as_str())).collect();
        assert_eq!(bricks, [("a", "/x"), ("b", "/y"), ("fd00::1", "/z")]);
        let plain = parse("a:/x").unwrap();
        assert_eq!((plain.stripe, plain.replica, plain.force), (0, 0, false));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, says) in [
            ("", "no brick"),
            ("replica", "number"),
            ("replica x a:/x", "number"),
            ("replica 0 a:/x", "number"),
            ("transport rdma a:/x", "transport rdma is not supported; use tcp"),
            ("transport tcp,rdma a:/x", "transport tcp,rdma is not supported; use tcp"),
            ("stripe a:/x", "number"),
            ("stripe 0 a:/x", "number"),
            ("replica 2 arbiter 1 a:/x b:/x c:/x", "witness"),
            ("disperse 3 redundancy 1 a:/x b:/x c:/x", "use 'replica'"),
            ("a", "not a brick"),
            (":/x", "not a brick"),
            ("force a:/x", "not a brick"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(says), "{text}: {why}");
        }
    }
}
