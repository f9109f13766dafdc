//! The next step after what the pool answered.
//!
//! The pool's own sentences are those of GlusterFS, which scripts and REST clients know; what to do next
//! is for whoever typed the command, and stands behind them.

/// `(start, end, next step)` of an answer; `{}` is what stands between: a volume, a peer, a client.
const STEPS: &[(&str, &str, &str)] = &[
    ("Volume ", " does not exist", "'brick volume list' shows all"),
    ("Volume ", " already exists", "'brick volume info {}' shows it"),
    ("Volume ", " already started", "'brick volume status {}' shows how it is"),
    ("Volume ", " is not in the started state", "'brick volume start {}' starts it"),
    (
        "Volume ",
        " has been started. Volume needs to be stopped before deletion.",
        "'brick volume stop {}' stops it",
    ),
    ("", " is not part of cluster", "'brick pool list' shows who is"),
    ("Client ", " already exists", "'brick client remove {}' takes its token back"),
    ("Client ", " does not exist", "'brick client list' shows all"),
];

/// The answer with its next step, when there is one to tell.
pub fn after(answer: &str) -> String {
    for (start, end, step) in STEPS {
        let name = answer.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        // A name has no blanks: else this is some longer sentence with the same end.
        if let Some(name) = name.filter(|n| !n.is_empty() && !n.contains(' ')) {
            return format!("{}; {}", answer.trim_end_matches('.'), step.replace("{}", name));
        }
    }
    answer.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_follows_the_pools_own_words() {
        assert_eq!(
            after("Volume gv0 already started"),
            "Volume gv0 already started; 'brick volume status gv0' shows how it is"
        );
        assert_eq!(
            after("n4 is not part of cluster"),
            "n4 is not part of cluster; 'brick pool list' shows who is"
        );
        let stop = after("Volume a has been started. Volume needs to be stopped before deletion.");
        assert!(stop.ends_with("before deletion; 'brick volume stop a' stops it"), "{stop}");
    }

    #[test]
    fn other_words_stay_as_they_are() {
        for answer in ["", "success", "the parent folder /x of brick b does not exist"] {
            assert_eq!(after(answer), answer);
        }
    }
}
