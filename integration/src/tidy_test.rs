use super::*;

#[test]
fn a_forbidden_edge_is_found_and_an_allowed_one_is_not() {
    let bad = "[package]\nname = \"server-store\"\n[dependencies]\nclient.workspace = true\n";
    assert_eq!(manifest(bad), ["server-store must not depend on client"]);
    let dev = "[package]\nname = \"proto-rules\"\n[dev-dependencies]\ntokio = \"1\"\n";
    assert_eq!(manifest(dev), ["proto-rules must not use tokio"]);
    let good =
        "[package]\nname = \"client\"\n[dependencies]\nproto.workspace = true\ntokio = \"1\"\n";
    assert!(manifest(good).is_empty());
    let unknown = "[package]\nname = \"shiny\"\n";
    assert!(manifest(unknown)[0].contains("no table"));
}

#[test]
fn a_build_dependency_is_no_edge() {
    let text = "[package]\nname = \"proto\"\n[build-dependencies]\ntonic = \"1\"\n";
    assert!(manifest(text).is_empty());
}

#[test]
fn a_long_file_is_found() {
    let long = "x\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(source("server/src/a.rs", &long).len(), 1);
    assert!(source("server/src/a.rs", &"x\n".repeat(FILE_LINES_MAX)).is_empty());
}

#[test]
fn a_clock_in_the_rules_is_found_but_not_in_its_tests_or_comments() {
    let bad = "fn f() {\n    let t = Instant::now();\n}\n";
    assert_eq!(source("proto/rules/src/set.rs", bad).len(), 1);
    assert!(source("proto/rules/src/set_test.rs", bad).is_empty());
    assert!(source("server/src/x.rs", bad).is_empty());
    let after = "fn f() {}\n#[cfg(test)]\nmod t { fn g() { Instant::now(); } }\n";
    assert!(source("proto/rules/src/set.rs", after).is_empty());
    assert!(source("proto/rules/src/set.rs", "// never Instant::now\n").is_empty());
}

#[test]
fn an_import_of_the_client_in_the_store_is_found_but_no_longer_name() {
    assert_eq!(source("server/store/src/a.rs", "use client::layer;\n").len(), 1);
    assert!(source("server/store/src/a.rs", "use other_client::layer;\n").is_empty());
}

#[test]
fn a_second_file_with_names_on_disk_is_found() {
    let line = "const META: &str = \"trusted.brick.meta\";\n".to_owned();
    let one = ("server/store/src/xattrs.rs".to_owned(), line.clone());
    let test = ("server/store/src/xattrs_test.rs".to_owned(), line.clone());
    let two = ("server/src/heal.rs".to_owned(), line);
    let prefix = ("proto/src/a.rs".to_owned(), "x.starts_with(b\"trusted.brick.\")\n".to_owned());
    assert!(xattr_names(&[one.clone(), test, prefix]).is_empty());
    assert_eq!(xattr_names(&[one, two]).len(), 1);
}

#[test]
fn a_dead_link_is_found() {
    let text = "see [a](a.md), [b](../b.md#part), [c](https://example.org), [d](#here)\n";
    let exists = |p: &Path| p == Path::new("docs/a.md");
    assert_eq!(links("docs/x.md", text, exists), ["docs/x.md:1: no such file: ../b.md"]);
    assert!(links("docs/x.md", text, |p| p.ends_with("a.md") || p == Path::new("b.md")).is_empty());
}
