//! The repository keeps its conventions (STYLE of the project; the rules are in `tidy.rs`).

use std::path::{Path, PathBuf};

use integration::{tidy, tidy_tests};

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the crate lies in the repository").to_owned()
}

fn demand_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n  {}\n", complaints.join("\n  "));
}

#[test]
fn crates_depend_only_on_what_they_may() {
    let manifests = tidy::files(&root(), &["toml"]).unwrap();
    let crates: Vec<_> = manifests
        .iter()
        .filter(|(path, text)| path.ends_with("/Cargo.toml") && text.contains("[package]"))
        .collect();
    assert!(crates.len() >= 10, "only {} crates found", crates.len());
    let complaints: Vec<String> =
        crates.iter().flat_map(|(_, text)| tidy::manifest(text)).collect();
    demand_none(&complaints);
}

#[test]
fn sources_are_short_and_pure_where_they_must_be() {
    let sources = tidy::files(&root(), &["rs"]).unwrap();
    assert!(sources.len() > 50);
    let complaints: Vec<String> =
        sources.iter().flat_map(|(path, text)| tidy::source(path, text)).collect();
    demand_none(&complaints);
}

#[test]
fn names_of_xattrs_on_disk_stand_in_one_file() {
    let sources = tidy::files(&root(), &["rs"]).unwrap();
    assert!(sources.iter().any(|(_, text)| text.contains("trusted.brick.")));
    demand_none(&tidy::xattr_names(&sources));
}

#[test]
fn documents_exist_and_their_links_lead_somewhere() {
    let root = root();
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        assert!(root.join(name).is_file(), "{name} is missing");
    }
    let documents = tidy::files(&root, &["md"]).unwrap();
    let exists = |path: &Path| root.join(path).exists();
    let complaints: Vec<String> =
        documents.iter().flat_map(|(path, text)| tidy::links(path, text, exists)).collect();
    demand_none(&complaints);
}

#[test]
fn code_lies_in_the_five_folders_only() {
    let sources = tidy::files(&root(), &["rs", "sh", "py", "proto"]).unwrap();
    let folders = ["server/", "client/", "proto/", "benches/", "integration/"];
    let strays: Vec<String> = sources
        .iter()
        .filter(|(path, _)| !folders.iter().any(|f| path.starts_with(f)))
        .map(|(path, _)| format!("{path}: code outside {folders:?}"))
        .collect();
    demand_none(&strays);
}

#[test]
fn every_promise_names_tests_that_exist() {
    let sources = tidy::files(&root(), &["rs"]).unwrap();
    let tests = tidy_tests::names(&sources);
    assert!(tests.len() > 400, "only {} tests found", tests.len());
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let (contract, testing) = ("docs/semantics.md", "docs/testing.md");
    let mut complaints = tidy_tests::contract(contract, &read(contract), &tests);
    complaints.extend(tidy_tests::traps(testing, &read(testing), &tests));
    demand_none(&complaints);
}
