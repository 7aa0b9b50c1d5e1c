//! The rules of the house that a program can check. Needs no VM, no root and no network.
//!
//! The map (the edge table in ARCHITECTURE.md) is compared with what cargo says; files are measured; words and
//! `unsafe` are looked for in the code with comments and texts taken out; every guarantee names its test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files of code that may be longer than this need a reason.
const MAX_LINES: usize = 600;
/// Words the house refuses in names of its own: they promise less than what is meant, or something else.
const REFUSED: [&str; 8] =
    ["sandbox", "instance", "container", "job", "task", "manager", "handler", "daemon"];
/// The only places that may use `unsafe`. The last is no part of the product: it plays somebody who breaks out.
const UNSAFE_PLACES: [&str; 3] = ["crates/machine/src/sys", "crates/agent/src/sys", "e2e/src/escape/sys.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace").to_owned()
}

/// Every Rust file of ours, relative to the root.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for directory in ["crates", "e2e", "benches", "fuzz/src", "fuzz/fuzz_targets", "fuzz/examples"] {
        collect(&root().join(directory), &mut found);
    }
    found.sort();
    assert!(found.len() > 20, "the house is not empty");
    found
}

fn collect(directory: &Path, into: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).expect("a directory of the workspace").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file is text");
            into.push((path.strip_prefix(root()).expect("below the root").to_owned(), text));
        }
    }
}

/// The code with comments and the content of texts and characters replaced by spaces; lines stay lines.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let skipped = skipped_length(rest);
        let take = if skipped > 0 { skipped } else { rest.chars().next().map_or(1, char::len_utf8) };
        let (piece, tail) = rest.split_at(take);
        if skipped > 0 {
            out.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            out.push_str(piece);
        }
        rest = tail;
    }
    out
}

/// How many bytes at the beginning are a comment, a text or a character; 0 when it is code.
fn skipped_length(rest: &str) -> usize {
    let until =
        |from: usize, end: &str| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return until(2, "*/");
    }
    let raw = rest.trim_start_matches("br").trim_start_matches('r');
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    let prefix = rest.len() - raw.len();
    if (1..=2).contains(&prefix) && raw[hashes..].starts_with('"') {
        return until(prefix + hashes + 1, &format!("\"{}", "#".repeat(hashes)));
    }
    if rest.starts_with('"') {
        return quoted_length(rest);
    }
    character_length(rest)
}

fn quoted_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `'x'` and `'\n'` are characters, `'static` is not.
fn character_length(rest: &str) -> usize {
    let Some(inside) = rest.strip_prefix('\'') else { return 0 };
    let mut chars = inside.char_indices();
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => inside[2..].find('\'').map_or(0, |at| at + 4),
        (Some((_, first)), Some((at, '\''))) if first != '\'' => at + 2,
        _ => 0,
    }
}

#[test]
fn house_the_reader_of_code_is_not_fooled() {
    let text = "let a = \"unsafe // \\\" x\"; // unsafe\nlet b = 'x'; let c: &'static str = r#\"un\"safe\"#; /* unsafe\n*/ let q = '\\''; fn f() {}";
    let code = code_only(text);
    assert!(!code.contains("unsafe") && !code.contains("un\"safe"), "{code}");
    for kept in ["let a =", "let b =", "&'static str", "let q =", "fn f() {}"] {
        assert!(code.contains(kept), "'{kept}' is code: {code}");
    }
    assert_eq!(code.lines().count(), text.lines().count());
}

#[test]
fn house_every_file_says_what_it_is_for() {
    let without: Vec<PathBuf> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path).collect();
    assert!(without.is_empty(), "these do not begin with a //! comment: {without:#?}");
}

/// The lines before the tests that stand at the end of a file.
fn lines_without_tests(text: &str) -> usize {
    let tests = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..tests].lines().count()
}

#[test]
fn house_no_file_is_longer_than_six_hundred_lines_without_its_tests() {
    let long: Vec<(PathBuf, usize)> = sources()
        .into_iter()
        .map(|(path, text)| (path, lines_without_tests(&text)))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "too long: {long:#?}");
}

#[test]
fn house_unsafe_is_only_where_it_may_be() {
    let word =
        |code: &str| code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
    let found: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|(path, _)| !UNSAFE_PLACES.iter().any(|place| path.starts_with(place)))
        .filter(|(_, text)| word(&code_only(text)))
        .map(|(path, _)| path)
        .collect();
    assert!(found.is_empty(), "unsafe outside of {UNSAFE_PLACES:?}: {found:#?}");
}

/// The names that code makes: those behind the words that introduce one, and those of fields and parameters.
fn names_made(code: &str) -> BTreeSet<String> {
    const INTRODUCES: [&str; 11] =
        ["fn", "struct", "enum", "trait", "mod", "type", "const", "static", "let", "mut", "macro_rules"];
    let mut names = BTreeSet::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut previous = String::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_word) {
        let tail = &rest[start..];
        let end = tail.find(|c: char| !is_word(c)).unwrap_or(tail.len());
        let (word, after) = tail.split_at(end);
        let colon = after.trim_start();
        let is_field = colon.starts_with(':') && !colon.starts_with("::");
        if INTRODUCES.contains(&previous.as_str()) || is_field {
            names.insert(word.to_owned());
        }
        word.clone_into(&mut previous);
        rest = after;
    }
    names
}

/// `JobQueue` and `job_queue` are both `job` and `queue`.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c == '_'
            || c.is_uppercase() && words.last().is_some_and(|word| word.chars().any(char::is_lowercase))
        {
            words.push(String::new());
        }
        words.last_mut().expect("there is one").extend(c.to_lowercase().filter(|c| *c != '_'));
    }
    words.into_iter().flat_map(|word| [word.trim_end_matches('s').to_owned(), word]).collect()
}

#[test]
fn house_refused_words_are_found_in_names_and_only_there() {
    let names = names_made("fn start_job(a: usize) { let TaskList = tokio::task::spawn; x.handler() }");
    let bad: Vec<&String> = names.iter().filter(|name| refused(name)).collect();
    assert_eq!(bad, ["TaskList", "start_job"]);
    assert!(!refused("taskset") && refused("daemons") && refused("VmManager"));
}

fn refused(name: &str) -> bool {
    words_of(name).iter().any(|word| REFUSED.contains(&word.as_str()))
}

#[test]
fn house_no_name_of_ours_has_a_refused_word() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let names = names_made(&code_only(&text));
        found.extend(names.into_iter().filter(|name| refused(name)).map(|name| (path.clone(), name)));
    }
    found.retain(|(path, _)| !path.ends_with("tests/house.rs"));
    assert!(found.is_empty(), "refused words: {found:#?}");
}

/// Crates of ours that another may use in its tests only, and that are no edges of the map: none.
const DEV_EDGES: [(&str, &str); 0] = [];

/// The kinds of dependencies that become part of a crate, and those of its tests, in the words of cargo.
const SHIPPED: [Option<&str>; 2] = [None, Some("build")];
const OF_TESTS: [Option<&str>; 1] = [Some("dev")];

/// The workspaces of ours: the product with its tests, and the fuzz targets, which are built with other flags.
const WORKSPACES: [&str; 2] = ["Cargo.toml", "fuzz/Cargo.toml"];

/// What every crate of ours uses of ours in one of these ways, as cargo says: short names.
fn edges(kinds: &[Option<&str>]) -> BTreeMap<String, BTreeSet<String>> {
    WORKSPACES.iter().flat_map(|manifest| edges_in(manifest, kinds)).collect()
}

fn edges_in(manifest: &str, kinds: &[Option<&str>]) -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path", manifest])
        .current_dir(root())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo speaks JSON");
    let mut edges = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let uses = package["dependencies"].as_array().expect("dependencies").iter();
        let uses = uses.filter(|dependency| kinds.contains(&dependency["kind"].as_str()));
        let names = uses.filter_map(|dependency| short(dependency["name"].as_str()?));
        let name = package["name"].as_str().and_then(short).expect("a crate of ours");
        edges.insert(name, names.collect());
    }
    edges
}

/// `outlast-model` is `model`, and `outlast` itself is `cli`; others are not ours.
fn short(name: &str) -> Option<String> {
    if name == "outlast" { Some("cli".to_owned()) } else { name.strip_prefix("outlast-").map(str::to_owned) }
}

/// The table whose header is `| crate | may use of ours | must never know |`.
fn table(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    let is_head = |line: &&str| cells(line).get(..2).is_some_and(|head| head == ["crate", "may use of ours"]);
    let rows = text
        .lines()
        .skip_while(|line| !is_head(line))
        .skip(2)
        .take_while(|line| line.trim().starts_with('|'));
    let mut table = BTreeMap::new();
    for row in rows.map(cells) {
        let uses = row[1].split(" (").next().unwrap_or_default();
        let uses: BTreeSet<String> = uses
            .split(',')
            .map(str::trim)
            .filter(|name| !["", "—", "-"].contains(name))
            .map(str::to_owned)
            .collect();
        for name in row[0].split(',') {
            table.insert(name.trim().to_owned(), uses.clone());
        }
    }
    table
}

#[test]
fn house_the_edge_table_is_read_as_it_is_written() {
    let text = "| crate | may use of ours | must never know |\n|---|---|---|\n| model | — | I/O |\n\
                | `wire` | model | x |\n| e2e, benches | wire, prove (the inventory) | all |\n\ntext\n| not | this | one |";
    let table = table(text);
    assert_eq!(table.keys().collect::<Vec<_>>(), ["benches", "e2e", "model", "wire"]);
    assert!(table["model"].is_empty());
    assert_eq!(table["benches"], BTreeSet::from(["wire".to_owned(), "prove".to_owned()]));
}

#[test]
fn house_crates_depend_as_the_map_says() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("there is an ARCHITECTURE.md");
    let (mut map, edges) = (table(&text), edges(&SHIPPED));
    assert!(!map.is_empty(), "ARCHITECTURE.md has a table '| crate | may use of ours | must never know |'");
    // A crate that a later part brings may stand on the map already; it cannot be compared yet.
    map.retain(|name, _| edges.contains_key(name));
    for uses in map.values_mut() {
        uses.retain(|name| edges.contains_key(name));
    }
    for (name, uses) in &edges {
        let allowed = map.get(name).unwrap_or_else(|| panic!("{name} is not on the map"));
        assert_eq!(uses, allowed, "what {name} uses of ours (left: cargo, right: ARCHITECTURE.md)");
    }
}

#[test]
fn house_tests_use_no_crate_of_ours_that_their_crate_does_not() {
    let allowed = BTreeSet::from(DEV_EDGES.map(|(name, uses)| (name.to_owned(), uses.to_owned())));
    let edges = edges(&OF_TESTS).into_iter();
    let found: BTreeSet<(String, String)> =
        edges.flat_map(|(name, uses)| uses.into_iter().map(move |used| (name.clone(), used))).collect();
    assert_eq!(found, allowed, "development dependencies on crates of ours (left: cargo, right: this file)");
}

/// Attributes that make a function a test, in `proptest!` as everywhere else.
const TEST_ATTRIBUTES: [&str; 3] = ["#[test]", "#[tokio::test]", "#[tokio::test("];
/// Macros of ours that make a test of every line `name = …,` in them.
const TEST_MACROS: [&str; 1] = ["killed_at! {"];

/// The names of the tests in a file. One that is ignored keeps no promise, and does not count.
fn tests_in(text: &str) -> BTreeSet<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let (mut names, mut attributed, mut in_macro) = (BTreeSet::new(), false, false);
    for line in code_only(text).lines().map(str::trim) {
        if in_macro {
            in_macro = line != "}";
            names.extend(line.split_once(" =").map(|(head, _)| name(head)));
            continue;
        }
        in_macro = TEST_MACROS.contains(&line);
        attributed |= TEST_ATTRIBUTES.iter().any(|attribute| line.starts_with(attribute));
        if let Some((_, tail)) = line.split_once("fn ") {
            names.extend(Some(name(tail)).filter(|_| attributed));
        }
        // Further attributes may stand between, over several lines; a function, a statement or a block ends it.
        attributed &= !line.contains("#[ignore") && !line.contains("fn ") && !line.ends_with([';', '{', '}']);
    }
    names.remove("");
    names
}

#[test]
fn house_only_tests_are_taken_for_tests() {
    let text = "fn helper_of_it() {}\n#[test]\n#[should_panic(\n    expected = \"fn no_such_test()\"\n)]\nfn a_real_test() {\n\
                fn inner_helper() {}\n}\n#[tokio::test]\nasync fn an_async_test() {}\n// #[test]\nfn not_a_test() {}\n\
                #[test]\n#[ignore]\nfn an_ignored_test() {}\nproptest! {\n    #[test]\n    fn a_property(x in 0..9) {}\n}\n\
                killed_at! {\n    a_made_test = \"claim:before\",\n}\nlet no_test = \"x\",\n";
    assert_eq!(Vec::from_iter(tests_in(text)), ["a_made_test", "a_property", "a_real_test", "an_async_test"]);
}

#[test]
fn house_every_guarantee_names_a_test_that_exists_or_says_pending() {
    let text = fs::read_to_string(root().join("GUARANTEES.md")).expect("there is a GUARANTEES.md");
    let tests: BTreeSet<String> = sources().iter().flat_map(|(_, text)| tests_in(text)).collect();
    let is_promise =
        |line: &&str| line.trim_start_matches(['|', ' ', '-', '*']).starts_with(|c: char| c.is_ascii_digit());
    let promises: Vec<&str> = text.lines().filter(is_promise).collect();
    assert!(!promises.is_empty(), "GUARANTEES.md has numbered lines");
    for promise in promises {
        // Behind the last dash stand tests only, between backquotes; module paths may precede their names.
        let kept_by = promise.rsplit_once(" — ").map_or("", |(_, names)| names);
        let names: Vec<&str> = kept_by.split('`').skip(1).step_by(2).collect();
        assert!(
            !names.is_empty() || promise.to_lowercase().contains("pending"),
            "no test and not pending: {promise}"
        );
        for name in names.into_iter().map(|name| name.rsplit("::").next().unwrap_or(name)) {
            assert!(tests.contains(name), "there is no test '{name}': {promise}");
        }
    }
}
