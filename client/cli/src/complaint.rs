//! A wrong command line, told in one line.
//!
//! clap explains over several lines what it expected; scripts, and the rule that an error is one line with
//! the next step, want less.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands of GlusterFS that this version does not have: whoever types one knows the word.
const NOT_YET: &[&str] = &[
    "barrier",
    "bitrot",
    "clear-locks",
    "geo-replication",
    "log",
    "profile",
    "quota",
    "rebalance",
    "snapshot",
    "statedump",
    "sync",
    "tier",
    "top",
];

/// What is wrong and where the right form stands.
pub fn line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let command = command(&text);
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
        && error.kind() == ErrorKind::InvalidSubcommand
        && NOT_YET.contains(&word.as_str())
    {
        return format!("'{word}' is not part of this version; '{command} --help' lists what is");
    }
    // Without any word clap shows the help as an error: whoever forgot a word in a script wants a line.
    let missing =
        [ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, ErrorKind::MissingSubcommand];
    if missing.contains(&error.kind()) {
        return format!("a command is missing; see '{command} --help'");
    }
    let first: Vec<&str> = text.lines().take_while(|l| !l.is_empty()).map(str::trim).collect();
    let first = first.join(" ");
    let what = first.strip_prefix("error: ").unwrap_or(&first);
    format!("{what}; see '{command} --help'")
}

/// The words before the first argument in clap's line of usage: `brick volume create`.
fn command(text: &str) -> String {
    let usage = text.lines().find_map(|l| l.strip_prefix("Usage: ")).unwrap_or("brick");
    let words = usage.split(' ').take_while(|w| !w.starts_with(['[', '<', '-']));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Arguments;
    use clap::Parser;

    fn complaint(words: &str) -> String {
        line(&Arguments::try_parse_from(words.split(' ')).expect_err("a wrong command line"))
    }

    #[test]
    fn a_wrong_command_line_is_told_in_one_line_with_the_next_step() {
        for (words, what, next) in [
            ("brick", "a command is missing", "'brick --help'"),
            ("brick volume", "a command is missing", "'brick volume --help'"),
            ("brick --json pool", "a command is missing", "'brick pool --help'"),
            ("brick nonsense", "'nonsense'", "'brick --help'"),
            ("brick peer probe", "<HOST>", "'brick peer probe --help'"),
            ("brick volume create gv0", "<WORD>", "'brick volume create --help'"),
            ("brick volume status gv0 clients", "'clients'", "'brick --help'"),
            ("brick volume quota gv0 list", "not part of this version", "'brick volume --help'"),
            ("brick snapshot list", "not part of this version", "'brick --help'"),
            ("brick volume --xml info", "'--xml'", "'brick volume --help'"),
        ] {
            let line = complaint(words);
            assert_eq!(line.lines().count(), 1, "{words}: {line}");
            assert!(!line.starts_with("error"), "{words}: {line}");
            assert!(line.contains(what) && line.contains(next), "{words}: {line}");
        }
    }
}
