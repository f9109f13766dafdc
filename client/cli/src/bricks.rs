//! `volume replace-brick | reset-brick | add-brick | remove-brick`, in GlusterFS's grammar.

use proto_grpc::control::{
    BrickAddress, VolumeAddBrickRequest, VolumeRemoveBrickRequest, VolumeReplaceBrickRequest,
    VolumeResetBrickRequest,
};

use crate::connection::Control;
use crate::grammar::{brick_address, count};
use crate::output::{Failure, Output};
use crate::volumes::done;

const REPLACE: &str = "VOLNAME SOURCE-BRICK NEW-BRICK commit force";
const RESET: &str = "VOLNAME SOURCE-BRICK start, or VOLNAME SOURCE-BRICK NEW-BRICK commit [force]";
const ADD: &str = "VOLNAME replica COUNT NEW-BRICK... [force]";
const REMOVE: &str = "VOLNAME replica COUNT BRICK... force";

fn usage(command: &str, why: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("volume {command}: {why}"))
}

pub async fn replace(
    control: &mut Control,
    output: Output,
    name: &str,
    words: &[String],
) -> Result<(), Failure> {
    let request = replace_words(name, words).map_err(|why| usage("replace-brick", why))?;
    done(output, "volume replace-brick", control.volume_replace_brick(request).await)
}

fn replace_words(name: &str, words: &[String]) -> Result<VolumeReplaceBrickRequest, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (old, new, abort) = match words[..] {
        [old, new, "commit", "force"] => (old, new, false),
        [old, new, "abort"] => (old, new, true),
        [_, _, "start" | "pause" | "status"] => {
            return Err("only 'commit force' is supported: it heals the new brick before the old \
                        one leaves, and 'brick volume heal VOLNAME info' shows how far it is"
                .into());
        }
        _ => return Err(format!("expected {REPLACE}")),
    };
    Ok(VolumeReplaceBrickRequest {
        name: name.to_owned(),
        old_brick: Some(brick_address(old)?),
        new_brick: Some(brick_address(new)?),
        abort,
    })
}

pub async fn reset(
    control: &mut Control,
    output: Output,
    name: &str,
    words: &[String],
) -> Result<(), Failure> {
    let request = reset_words(name, words).map_err(|why| usage("reset-brick", why))?;
    let question = "Reset-brick takes the brick out of service until it is committed. Do you want \
                    to continue?";
    if !request.commit && !output.confirmed(question) {
        return Err(Failure::plain("volume reset-brick: nothing was changed"));
    }
    done(output, "volume reset-brick", control.volume_reset_brick(request).await)
}

fn reset_words(name: &str, words: &[String]) -> Result<VolumeResetBrickRequest, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (old, new, commit, force) = match words[..] {
        [old, "start"] => (old, old, false, false),
        [old, new, "commit"] => (old, new, true, false),
        [old, new, "commit", "force"] => (old, new, true, true),
        _ => return Err(format!("expected {RESET}")),
    };
    let brick = brick_address(old)?;
    if brick_address(new)? != brick {
        return Err(format!(
            "{new} is another brick than {old}; a brick is reset in its place, and 'brick volume \
             replace-brick {name} {old} {new} commit force' moves it"
        ));
    }
    Ok(VolumeResetBrickRequest { name: name.to_owned(), brick: Some(brick), commit, force })
}

pub async fn add(
    control: &mut Control,
    output: Output,
    name: &str,
    words: &[String],
) -> Result<(), Failure> {
    let request = add_words(name, words).map_err(|why| usage("add-brick", why))?;
    done(output, "volume add-brick", control.volume_add_brick(request).await)
}

fn add_words(name: &str, words: &[String]) -> Result<VolumeAddBrickRequest, String> {
    let (replica, rest) = replica_and_rest(words)?;
    let (force, rest) = match rest.split_last() {
        Some((last, bricks)) if last == "force" => (true, bricks),
        _ => (false, rest),
    };
    let bricks = bricks_of(rest, ADD)?;
    Ok(VolumeAddBrickRequest { name: name.to_owned(), replica, bricks, force })
}

pub async fn remove(
    control: &mut Control,
    output: Output,
    name: &str,
    words: &[String],
) -> Result<(), Failure> {
    let request = remove_words(name, words).map_err(|why| usage("remove-brick", why))?;
    let question = "Remove-brick takes the named copies out of the volume; their files stay on \
                    the bricks. Do you want to continue?";
    if !request.status && !output.confirmed(question) {
        return Err(Failure::plain("volume remove-brick: nothing was changed"));
    }
    let command = if request.status { "status" } else { "commit force" };
    let command = format!("volume remove-brick {command}");
    done(output, &command, control.volume_remove_brick(request).await)
}

fn remove_words(name: &str, words: &[String]) -> Result<VolumeRemoveBrickRequest, String> {
    let (replica, rest) = replica_and_rest(words)?;
    let Some((action, rest)) = rest.split_last() else {
        return Err(format!("expected {REMOVE}"));
    };
    let status = match action.as_str() {
        "force" => false,
        "status" => true,
        "start" | "commit" | "stop" => {
            return Err("Migration of data is not needed when reducing replica count. Use the \
                        'force' option"
                .into());
        }
        _ => {
            return Err(format!(
                "expected {REMOVE}; 'status' in place of 'force' shows how far it is"
            ));
        }
    };
    let bricks = bricks_of(rest, REMOVE)?;
    Ok(VolumeRemoveBrickRequest { name: name.to_owned(), replica, bricks, status })
}

/// 0: no count was given.
fn replica_and_rest(words: &[String]) -> Result<(u32, &[String]), String> {
    match words {
        [word, ..] if word == "stripe" => {
            Err("the stripe count of a volume does not change; only 'replica' does".into())
        }
        [word, rest @ ..] if word == "replica" => {
            let number = count("replica", rest.first())?;
            match rest.get(1).map(String::as_str) {
                Some("arbiter" | "thin-arbiter") => Err("there are no arbiter bricks: a witness \
                                                         peer does it without one; leave \
                                                         'arbiter' out"
                    .into()),
                _ => Ok((number, &rest[1..])),
            }
        }
        _ => Ok((0, words)),
    }
}

fn bricks_of(words: &[String], form: &str) -> Result<Vec<BrickAddress>, String> {
    if words.is_empty() {
        return Err(format!("no brick given (HOST:/PATH); expected {form}"));
    }
    words.iter().map(|word| brick_address(word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn glusterfs_grammar_is_understood() {
        let replace = replace_words("gv0", &words("a:/x b:/y commit force")).unwrap();
        assert_eq!(replace.old_brick.unwrap().host, "a");
        assert_eq!(replace.new_brick.unwrap().path, "/y");
        assert!(replace_words("gv0", &words("a:/x b:/y abort")).unwrap().abort);
        assert!(!reset_words("gv0", &words("a:/x start")).unwrap().commit);
        assert!(reset_words("gv0", &words("a:/x a:/x/ commit force")).unwrap().force);
        let add = add_words("gv0", &words("replica 3 a:/x b:/y force")).unwrap();
        assert_eq!((add.replica, add.bricks.len(), add.force), (3, 2, true));
        assert_eq!(add_words("gv0", &words("a:/x")).unwrap().replica, 0);
        let remove = remove_words("gv0", &words("replica 2 a:/x force")).unwrap();
        assert_eq!((remove.replica, remove.bricks.len(), remove.status), (2, 1, false));
        assert!(remove_words("gv0", &words("replica 2 a:/x status")).unwrap().status);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_next_step() {
        let replace = |text| replace_words("gv0", &words(text)).unwrap_err();
        let reset = |text| reset_words("gv0", &words(text)).unwrap_err();
        let add = |text| add_words("gv0", &words(text)).unwrap_err();
        let remove = |text| remove_words("gv0", &words(text)).unwrap_err();
        for (why, says) in [
            (replace("a:/x b:/y"), "commit force"),
            (replace("a:/x b:/y start"), "commit force"),
            (replace("a b:/y commit force"), "not a brick"),
            (reset("a:/x"), "start"),
            (reset("a:/x b:/x commit"), "replace-brick gv0 a:/x b:/x commit force"),
            (add("replica 3"), "no brick given"),
            (add("replica x a:/x"), "number"),
            (add("stripe 2 a:/x"), "stripe count"),
            (add("replica 3 arbiter 1 a:/x"), "witness"),
            (remove("replica 2 a:/x start"), "Use the 'force' option"),
            (remove("replica 2 a:/x"), "force"),
            (remove("replica 2 force"), "no brick given"),
            (remove(""), "force"),
        ] {
            assert!(why.contains(says), "{says}: {why}");
        }
    }
}
