//! What the design says about crates, files and functions, checked.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

const FILE_LINES: usize = 450;
const FUNCTION_LINES: usize = 80;

/// The only file with `unsafe`, and how long it may get.
const UNSAFE_FILE: &str = "proxy/src/runtime/sys.rs";
const UNSAFE_FILE_LINES: usize = 150;

/// Who may import whom (D1).
const IMPORTS: [(&str, &[&str]); 6] = [
    ("remora-proto", &[]),
    ("remora-xds", &["remora-proto"]),
    ("control-plane-mock", &["remora-proto"]),
    ("remora", &["remora-proto", "remora-xds", "control-plane-mock"]),
    (
        "remora-tests",
        &["remora-proto", "remora-xds", "remora", "control-plane-mock"],
    ),
    (
        "remora-benches",
        &["remora-proto", "remora-xds", "remora", "control-plane-mock"],
    ),
];

/// One version of each of these is linked.
const SINGLE: [&str; 13] = [
    "http",
    "http-body",
    "http-body-util",
    "hyper",
    "hyper-util",
    "h2",
    "httparse",
    "tower",
    "tonic",
    "prost",
    "rustls",
    "tokio",
    "bytes",
];

/// Second TLS providers, TLS stacks and allocators.
const FORBIDDEN: [&str; 8] = [
    "ring",
    "openssl-sys",
    "native-tls",
    "boring-sys",
    "tikv-jemallocator",
    "jemallocator",
    "snmalloc-rs",
    "serde_yaml",
];

#[test]
fn imports_go_one_way() {
    let metadata = metadata();
    let members: BTreeSet<&str> = IMPORTS.iter().map(|(name, _)| *name).collect();
    for package in metadata.workspace_packages() {
        let allowed = IMPORTS.iter().find(|(name, _)| *name == package.name.as_str());
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{} is not in the design", package.name));
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            // Tests of a crate may use the control plane as a peer.
            let as_peer = dependency.kind == DependencyKind::Development && name == "control-plane-mock";
            if members.contains(name) && !as_peer {
                assert!(allowed.contains(&name), "{} may not depend on {name}", package.name);
            }
        }
    }
}

#[test]
fn the_proxy_has_the_control_plane_for_the_demo_alone() {
    let metadata = metadata();
    let proxy = metadata
        .workspace_packages()
        .into_iter()
        .find(|package| package.name.as_str() == "remora")
        .unwrap();
    let mut mock = proxy
        .dependencies
        .iter()
        .filter(|dependency| dependency.name == "control-plane-mock");
    assert!(mock.all(|dependency| dependency.optional || dependency.kind == DependencyKind::Development));
    assert_eq!(proxy.features["demo"], ["dep:control-plane-mock"]);
}

/// Its own HTTP/2 codec is what the proxy speaks; the crate is its tests' peer.
#[test]
fn the_proxy_has_another_http2_codec_for_its_tests_alone() {
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    let proxy = packages
        .iter()
        .find(|package| package.name.as_str() == "remora")
        .unwrap();
    let mut codec = proxy.dependencies.iter().filter(|dependency| dependency.name == "h2");
    assert!(codec.all(|dependency| dependency.kind == DependencyKind::Development));
}

#[test]
fn one_version_of_each_http_crate_and_one_tls_provider() {
    // `cargo tree` tells what this platform links; metadata and the lock file also name what others, or other features, would need.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = [
        "tree",
        "--workspace",
        "--offline",
        "--edges",
        "normal,build,dev",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let output = std::process::Command::new(cargo)
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, rest) in text.lines().filter_map(|line| line.split_once(' ')) {
        versions
            .entry(name)
            .or_default()
            .insert(rest.split(' ').next().unwrap());
    }
    for name in SINGLE {
        let found = versions.get(name).cloned().unwrap_or_default();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
    }
    for name in FORBIDDEN {
        assert!(!versions.contains_key(name), "{name} is linked");
    }
    assert!(
        versions.contains_key("aws-lc-rs"),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn files_and_functions_are_short() {
    let mut long = Vec::new();
    for (name, text) in sources() {
        let code = Code::of(&text);
        let lines = code.lines_without_tests();
        if lines > FILE_LINES {
            long.push(format!("{name}: {lines} lines, at most {FILE_LINES}"));
        }
        for function in code.functions() {
            if function.lines > FUNCTION_LINES {
                long.push(format!(
                    "{name}:{}: {} has {} lines, at most {FUNCTION_LINES}",
                    function.line, function.name, function.lines
                ));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn unsafe_stands_in_one_file() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let blank = blanked(&text);
        if words(&blank).any(|(_, word)| word == "unsafe") {
            found.push(name.clone());
        }
        if name == UNSAFE_FILE {
            assert!(text.lines().count() <= UNSAFE_FILE_LINES);
        }
    }
    assert!(found.iter().all(|name| name == UNSAFE_FILE), "{found:?}");
}

#[test]
fn nothing_is_left_for_later() {
    let mut found = Vec::new();
    for (name, text) in sources().into_iter().chain(test_sources()) {
        let blank = blanked(&text);
        let mut wrong = |what: &str| found.push(format!("{name}: {what}"));
        let attribute = |attribute: &str| blank.contains(&format!("#[{attribute}"));
        if attribute("ignore") {
            wrong("an ignored test");
        }
        if blank.contains("allow(dead_code") {
            wrong("dead code is allowed");
        }
        if words(&blank)
            .any(|(at, word)| matches!(word, "todo" | "unimplemented") && blank[at + word.len()..].starts_with('!'))
        {
            wrong("not implemented");
        }
        if Path::new(&name).file_name().is_some_and(|file| file == "mod.rs") {
            wrong("a mod.rs");
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A stat that nothing touches reads as "nothing happened", whatever happens.
#[test]
fn every_stat_that_is_exported_is_alive() {
    let blanks: Vec<String> = sources().iter().map(|(_, text)| without_tests(text)).collect();
    let (mut declared, mut touched) = (Vec::new(), BTreeSet::new());
    for blank in &blanks {
        let mut rest = blank.clone();
        while let Some(at) = rest.find("stat_group! {") {
            let end = end_of_block(&rest, at + "stat_group! ".len());
            let group = rest[at..end].to_owned();
            for kind in ["counters", "gauges", "histograms"] {
                let Some(open) = group.find(&format!("{kind}: {{")).map(|at| at + kind.len() + 2) else {
                    continue;
                };
                let names = &group[open..end_of_block(&group, open)];
                declared.extend(words(names).map(|(_, name)| name.to_owned()));
            }
            rest.replace_range(at..end, "");
        }
        // A field is touched by its name behind a dot; a method of that name is none.
        for (at, word) in words(&rest) {
            let before = rest[..at].trim_end();
            let is_call = rest[at + word.len()..].starts_with('(');
            if before.ends_with('.') && !is_call {
                touched.insert(word.to_owned());
            }
        }
    }
    assert!(
        declared.len() > 200,
        "the stats are declared otherwise now: {}",
        declared.len()
    );
    declared.retain(|name| !touched.contains(name));
    assert!(declared.is_empty(), "no code touches {declared:?}");
}

/// The text, blanked, without its modules for tests.
fn without_tests(text: &str) -> String {
    let code = Code::of(text);
    let (mut kept, mut from) = (String::new(), 0);
    // In the order of the text; what stands within another is gone with it.
    for range in code.tests {
        if range.start >= from {
            kept += &code.blank[from..range.start];
            from = range.end;
        }
    }
    kept + &code.blank[from..]
}

#[test]
fn the_counter_is_not_fooled() {
    let text = r###"
fn one() {
    let brace = '{'; let s = "}} \" {"; // }
    let raw = r#"} " {"#; /* } /* } */ */
    let lifetime: &'static str = s;
}
trait T { fn without_body(&self) -> [u8; 3]; }
impl T for X {
    fn two<F: Fn()>(&self) where F: Send {
        if true { }
    }
}
#[cfg(test)]
mod tests {
    fn three() {
    }
}
"###;
    let code = Code::of(text);
    let found: Vec<_> = code
        .functions()
        .into_iter()
        .map(|function| (function.name, function.lines))
        .collect();
    assert_eq!(found, [("one".to_owned(), 5), ("two".to_owned(), 3)]);
    assert_eq!(code.lines_without_tests(), 12);
}

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml"));
    command.other_options([
        "--filter-platform".to_owned(),
        "x86_64-unknown-linux-gnu".to_owned(),
        "--offline".to_owned(),
    ]);
    command.exec().unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Sources that ship, by path from the root.
fn sources() -> Vec<(String, String)> {
    all_sources().into_iter().filter(|(name, _)| !is_test(name)).collect()
}

fn test_sources() -> Vec<(String, String)> {
    all_sources().into_iter().filter(|(name, _)| is_test(name)).collect()
}

fn is_test(name: &str) -> bool {
    let in_tests_of_a_crate = name.contains("/tests/") || name.ends_with("/tests.rs");
    let in_the_tests_crate = name.starts_with("tests/") && !name.starts_with("tests/src/");
    in_tests_of_a_crate || in_the_tests_crate || name == "proxy/src/testing.rs"
}

fn all_sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for member in ["proto", "xds", "proxy", "control-plane-mock", "tests", "benches"] {
        collect(&root().join(member), &mut found);
    }
    assert!(found.len() > 200, "the sources are somewhere else: {}", found.len());
    found
}

fn collect(directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, found);
        } else if name.ends_with(".rs") {
            let relative = path.strip_prefix(root()).unwrap().display().to_string();
            found.push((relative, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// A file as far as lines and functions go.
struct Code {
    /// The text, comments and literals blanked, same length.
    blank: String,
    /// Byte ranges of modules for tests.
    tests: Vec<std::ops::Range<usize>>,
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

impl Code {
    fn of(text: &str) -> Self {
        let blank = blanked(text);
        let mut tests = Vec::new();
        let mut from = 0;
        while let Some(at) = blank[from..].find("#[cfg(test)]").map(|at| at + from) {
            from = at + 1;
            let rest = &blank[at..];
            let Some(open) = rest.find(['{', ';']).filter(|open| rest[*open..].starts_with('{')) else {
                continue;
            };
            tests.push(at..end_of_block(&blank, at + open));
        }
        Self { blank, tests }
    }

    fn lines_without_tests(&self) -> usize {
        let of_tests: usize = self
            .tests
            .iter()
            .map(|range| self.blank[range.clone()].lines().count())
            .sum();
        self.blank.lines().count().saturating_sub(of_tests)
    }

    fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        let mut words = words(&self.blank);
        while let Some((at, word)) = words.next() {
            if word != "fn" || self.tests.iter().any(|range| range.contains(&at)) {
                continue;
            }
            // `fn(` is a type, not a function.
            if !self.blank[at + 2..].starts_with(' ') {
                continue;
            }
            let Some((_, name)) = words.next() else { break };
            let Some(open) = self.body(at) else { continue };
            let end = end_of_block(&self.blank, open);
            let line = self.blank[..at].lines().count().max(1);
            functions.push(Function {
                name: name.to_owned(),
                line,
                lines: self.blank[at..end].lines().count(),
            });
        }
        functions
    }

    /// Where the body of the function at `at` opens, if it has one.
    fn body(&self, at: usize) -> Option<usize> {
        let mut depth = 0_i32;
        for (offset, character) in self.blank[at..].char_indices() {
            match character {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                ';' if depth == 0 => return None,
                '{' if depth == 0 => return Some(at + offset),
                _ => {}
            }
        }
        None
    }
}

/// Where the block that opens at `open` ends.
fn end_of_block(blank: &str, open: usize) -> usize {
    let mut depth = 0_i32;
    for (offset, character) in blank[open..].char_indices() {
        depth += match character {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        if depth == 0 {
            return open + offset + 1;
        }
    }
    blank.len()
}

fn words(blank: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    blank
        .split(move |character| !is_word(character))
        .filter(|word| !word.is_empty())
        .map(move |word| (word.as_ptr() as usize - blank.as_ptr() as usize, word))
}

/// The text with comments, strings and characters replaced by spaces; line ends stay.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = vec![0; 0];
    let mut at = 0;
    while at < bytes.len() {
        let length = literal(&text[at..], out.last().copied()).unwrap_or(0);
        if length == 0 {
            // What is no ASCII stands in comments and literals alone.
            out.push(if bytes[at].is_ascii() { bytes[at] } else { b' ' });
            at += 1;
            while !text.is_char_boundary(at) {
                out.push(b' ');
                at += 1;
            }
            continue;
        }
        out.extend(
            bytes[at..at + length]
                .iter()
                .map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }),
        );
        at += length;
    }
    String::from_utf8(out).unwrap()
}

/// Length of the comment or literal that starts here, if one does.
fn literal(text: &str, before: Option<u8>) -> Option<usize> {
    let in_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    if text.starts_with('"') {
        return Some(quoted(text));
    }
    let raw = ["r", "br", "cr"]
        .into_iter()
        .find(|prefix| text.starts_with(prefix))
        .filter(|_| !in_word);
    if let Some(prefix) = raw {
        let hashes = text[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
        let start = prefix.len() + hashes;
        if text[start..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let end = text[start + 1..]
                .find(&close)
                .map_or(text.len(), |end| start + 1 + end + close.len());
            return Some(end);
        }
    }
    if text.starts_with('\'') {
        return character(text);
    }
    None
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `'x'` or `'\n'`, but no lifetime.
fn character(text: &str) -> Option<usize> {
    let mut characters = text.char_indices().skip(1);
    let (_, first) = characters.next()?;
    if first == '\\' {
        let (escaped_at, _) = characters.next()?;
        let close = text[escaped_at + 1..].find('\'')?;
        return Some(escaped_at + 1 + close + 1);
    }
    let (at, second) = characters.next()?;
    (second == '\'').then_some(at + 1)
}
