//! Documents that name tests: every promise has one, and every one that is named exists.

use std::collections::BTreeSet;

/// Sections of the contract that promise nothing.
const NO_PROMISES: &[&str] = &["Not yet"];

/// Names of all tests in these sources. A test that is ignored shows nothing.
pub fn names(sources: &[(String, String)]) -> BTreeSet<String> {
    sources.iter().flat_map(|(_, text)| names_in(text)).collect()
}

fn names_in(text: &str) -> Vec<String> {
    let (mut found, mut is_test) = (Vec::new(), false);
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if line.starts_with("#[ignore") {
            is_test = false;
        } else if let Some((_, rest)) = line.split_once("fn ") {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            if is_test && !line.starts_with("//") {
                found.push(name.trim().to_owned());
                is_test = false;
            }
        }
    }
    found
}

/// Complaints about a contract: below its first heading of the second rank each paragraph ends
/// with a line `Test:` or `Tests:` and names that exist.
pub fn contract(path: &str, text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let (mut complaints, mut promises) = (Vec::new(), false);
    for paragraph in text.split("\n\n").map(str::trim) {
        if let Some(heading) = paragraph.strip_prefix("## ") {
            promises = !NO_PROMISES.contains(&heading.trim());
        } else if promises && !paragraph.is_empty() {
            let start: String = paragraph.chars().take(50).collect();
            let named = named_tests(paragraph);
            if named.is_empty() {
                complaints.push(format!("{path}: no test is named under \"{start}\""));
            }
            for name in named.iter().filter(|n| !tests.contains(**n)) {
                complaints.push(format!("{path}: no such test: {name}"));
            }
        }
    }
    complaints
}

fn named_tests(paragraph: &str) -> Vec<&str> {
    let at = ["\nTest: ", "\nTests: "].iter().find_map(|word| paragraph.find(word));
    at.map_or_else(Vec::new, |at| in_backticks(&paragraph[at..]).collect())
}

fn in_backticks(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Complaints about tests with a number of the list of bad schedules that a document names and
/// that do not exist.
pub fn traps(path: &str, text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    in_backticks(text)
        .filter(|word| word.starts_with("trap_") && !tests.contains(*word))
        .map(|word| format!("{path}: no such test: {word}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeSet<String> {
        let text = "#[test]\nfn a_promise() {}\nfn no_test() {}\n#[test]\n#[ignore = \"x\"]\nfn off() {}\n\
                    #[tokio::test(flavor = \"multi_thread\")]\nasync fn trap_07_x() {}\n";
        names(&[("a.rs".to_owned(), text.to_owned())])
    }

    #[test]
    fn only_tests_that_run_are_tests() {
        assert_eq!(known().into_iter().collect::<Vec<_>>(), ["a_promise", "trap_07_x"]);
    }

    #[test]
    fn a_promise_without_a_test_and_one_with_a_wrong_test_are_found() {
        let good = "# T\n\nIntro.\n\n## S\n\n**A.** b `c`.\nTests: `a_promise`,\n`trap_07_x`.\n\n## Not yet\n\n- d\n";
        assert!(contract("s.md", good, &known()).is_empty());
        let none = "## S\n\n**A.** says `a_promise` and no more.\n";
        assert!(contract("s.md", none, &known())[0].contains("no test is named"));
        let wrong = "## S\n\n**A.** b.\nTest: `off`.\n";
        assert_eq!(contract("s.md", wrong, &known()), ["s.md: no such test: off"]);
    }

    #[test]
    fn a_row_with_a_test_that_is_gone_is_found() {
        let row = "| 7 | `trap_07_x`, `trap_07_gone` |\n";
        assert_eq!(traps("t.md", row, &known()), ["t.md: no such test: trap_07_gone"]);
    }
}
