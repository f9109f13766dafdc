//! Conventions as functions: who imports whom, how long a file is, where names on disk stand.
//!
//! Each rule takes text and returns complaints, one line each, so that the rules are tested on
//! made-up text (here) and applied to the repository (`tests/tidy.rs`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A file longer than this is an alarm: it has more than one subject.
pub const FILE_LINES_MAX: usize = 800;

/// Crates of the workspace that a crate may depend on, dev-dependencies included.
const ALLOWED_EDGES: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("proto-rules", &["proto"]),
    ("proto-grpc", &["proto"]),
    ("client", &["proto", "proto-rules", "proto-grpc"]),
    ("client-fuse", &["client", "client-fuse-dev", "proto", "proto-grpc"]),
    ("client-fuse-dev", &[]),
    ("client-cli", &["client", "proto", "proto-grpc"]),
    ("server-store", &["proto", "proto-rules"]),
    ("server", &["proto", "proto-rules", "proto-grpc", "server-store", "client"]),
    ("benches", ALL),
    ("integration", ALL),
    // The same source as proto-rules, with planted faults, for the simulation alone.
    ("proto-rules-planted", &["proto"]),
    // The simulation runs the rules themselves, in a world of its own.
    ("integration-sim", &["proto", "proto-rules"]),
];

const ALL: &[&str] = &[
    "proto",
    "proto-rules",
    "proto-grpc",
    "client",
    "client-fuse",
    "client-fuse-dev",
    "client-cli",
    "server-store",
    "server",
];

/// Libraries that a crate must not use: they would bring sockets, a runtime or a clock into code
/// that must stay pure, or the kernel into a library.
const FORBIDDEN_LIBRARIES: &[(&str, &[&str])] = &[
    ("proto", &["tokio", "tonic", "hyper", "socket2", "rustix", "libc"]),
    ("proto-rules", &["tokio", "tonic", "hyper", "socket2", "rustix", "libc", "rand", "getrandom"]),
    ("client", &["clap", "rocksdb", "openraft"]),
    ("client-fuse-dev", &["tonic", "rocksdb", "clap"]),
    ("client-cli", &["rocksdb", "openraft"]),
    ("integration-sim", &["tokio", "tonic", "rocksdb"]),
];

/// What the sources under a folder must not name, and why.
const FORBIDDEN_WORDS: &[(&str, &[&str], &str)] = &[
    (
        "proto/src",
        &["std::net", "std::fs", "Instant::now", "SystemTime::now", "async fn"],
        "the shared language has no sockets, files, clock or runtime",
    ),
    (
        "proto/rules/src",
        &[
            "std::net",
            "std::fs",
            "Instant::now",
            "SystemTime::now",
            "async fn",
            "Mutex",
            "thread::spawn",
        ],
        "the rules are pure: time and the world come in as events",
    ),
    ("server/store/src", &["client::"], "a brick never reads through a volume"),
    ("server/src/listener", &["client::"], "a brick never reads through a volume"),
];

/// Complaints about a crate's manifest.
pub fn manifest(text: &str) -> Vec<String> {
    let (name, dependencies) = parse_manifest(text);
    let mut complaints = Vec::new();
    let Some((_, allowed)) = ALLOWED_EDGES.iter().find(|(n, _)| *n == name) else {
        return vec![format!("crate {name} is in no table of tidy: say what it may depend on")];
    };
    let forbidden = FORBIDDEN_LIBRARIES.iter().find(|(n, _)| *n == name).map_or(&[][..], |f| f.1);
    for dependency in dependencies {
        let own = ALLOWED_EDGES.iter().any(|(n, _)| *n == dependency);
        if own && !allowed.contains(&dependency.as_str()) {
            complaints.push(format!("{name} must not depend on {dependency}"));
        }
        if forbidden.contains(&dependency.as_str()) {
            complaints.push(format!("{name} must not use {dependency}"));
        }
    }
    complaints
}

/// Name and dependencies of a manifest; build dependencies never run and do not count.
fn parse_manifest(text: &str) -> (String, Vec<String>) {
    let (mut name, mut dependencies, mut section) = (String::new(), Vec::new(), "");
    for line in text.lines().map(str::trim) {
        if let Some(title) = line.strip_prefix('[') {
            section = title.trim_end_matches(']');
        } else if let Some((key, value)) = line.split_once('=') {
            let key = key.trim().split('.').next().unwrap_or_default();
            match section {
                "package" if key == "name" => name = value.trim().trim_matches('"').to_owned(),
                "dependencies" | "dev-dependencies" => dependencies.push(key.to_owned()),
                _ => {}
            }
        }
    }
    (name, dependencies)
}

/// Complaints about one source file; `path` is relative to the repository.
pub fn source(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        complaints.push(format!("{path}: {lines} lines (at most {FILE_LINES_MAX})"));
    }
    for (folder, words, why) in FORBIDDEN_WORDS {
        if !path.starts_with(&format!("{folder}/")) || is_test(path) {
            continue;
        }
        for (number, line) in code_lines(text) {
            for word in words.iter().filter(|w| names(line, w)) {
                complaints.push(format!("{path}:{number}: {word}: {why}"));
            }
        }
    }
    complaints
}

/// `word` stands in the line and is not the tail of a longer name.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// Lines before the file's tests that are no comments, with their numbers from 1.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .map(|(number, line)| (number + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn is_test(path: &str) -> bool {
    path.ends_with("_test.rs") || path.contains("/tests/") || path.contains("/testing")
}

/// Names of xattrs on disk stand in one file of the product, so that the format can be read there.
/// The bare prefix, by which names from the wire are refused, is no name.
pub fn xattr_names(sources: &[(String, String)]) -> Vec<String> {
    let holders: Vec<&str> = sources
        .iter()
        .filter(|(path, _)| !path.starts_with("integration/") && !is_test(path))
        .filter(|(_, text)| code_lines(text).any(|(_, line)| holds_xattr_name(line)))
        .map(|(path, _)| path.as_str())
        .collect();
    match holders.len() {
        0 | 1 => Vec::new(),
        _ => {
            vec![format!("names of xattrs on disk stand in several files: {}", holders.join(", "))]
        }
    }
}

fn holds_xattr_name(line: &str) -> bool {
    line.split("trusted.brick.").skip(1).any(|rest| rest.starts_with(char::is_alphabetic))
}

/// Complaints about links of a document that lead nowhere. `exists` gets a path relative to the
/// repository.
pub fn links(path: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for rest in line.split("](").skip(1) {
            let Some((target, _)) = rest.split_once(')') else { continue };
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !exists(&normal(&folder.join(target))) {
                complaints.push(format!("{path}:{}: no such file: {target}", number + 1));
            }
        }
    }
    complaints
}

/// Without `.` and `..`, which a test of names alone cannot follow.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Every file with one of the extensions, relative to the root, with its text. Build output, the
/// demo and hidden folders are left out.
///
/// # Errors
/// A folder or file cannot be read.
pub fn files(root: &Path, extensions: &[&str]) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let top = dir == root;
            if name.starts_with('.') || top && ["target", "demo"].contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let below = path.strip_prefix(root).unwrap_or(&path);
                found.push((below.to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
#[path = "tidy_test.rs"]
mod tests;
