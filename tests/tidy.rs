//! The rules of the house that a machine can keep, kept by reading the source.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A line that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Offence {
    place: String,
    rule: &'static str,
}

/// A source file: its path below `src`, and its code without comments, strings and tests.
struct Source {
    path: String,
    lines: Vec<(usize, String)>,
    length: usize,
    raw: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 60, "only {} files were found", files.len());
    files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).unwrap();
            let path = file
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            source(&path, &text)
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn source(path: &str, text: &str) -> Source {
    let before_tests = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    let mut lines = Vec::new();
    let mut in_string = false;
    for (number, line) in before_tests.lines().enumerate() {
        let code = code_of(line, &mut in_string);
        if !code.trim().is_empty() {
            lines.push((number + 1, code));
        }
    }
    Source {
        path: path.to_owned(),
        lines: with_joined_imports(lines),
        length: text.lines().count(),
        raw: text.to_owned(),
    }
}

/// Lists of imports that go over several lines, each put on its first one.
fn with_joined_imports(lines: Vec<(usize, String)>) -> Vec<(usize, String)> {
    let mut joined: Vec<(usize, String)> = Vec::new();
    for (number, code) in lines {
        match joined.last_mut() {
            Some((_, open)) if is_open_import(open) => {
                open.push(' ');
                open.push_str(code.trim());
            }
            _ => joined.push((number, code)),
        }
    }
    joined
}

fn is_open_import(code: &str) -> bool {
    let begins = code.trim_start().starts_with("use ") || code.trim_start().starts_with("pub use ");
    begins && !code.contains(';')
}

/// Where functions begin, and how many lines they have.
fn functions(lines: &[(usize, String)]) -> Vec<(usize, usize)> {
    let (mut depth, mut open, mut found) = (0_usize, Vec::new(), Vec::new());
    let mut waiting = None;
    for (number, code) in lines {
        if words(code).any(|word| word == "fn") {
            waiting = Some(*number);
        }
        for character in code.chars() {
            match character {
                '{' => {
                    open.push((depth, waiting.take()));
                    depth += 1;
                }
                '}' => {
                    depth = depth.saturating_sub(1);
                    if let Some((_, Some(begun))) = open.pop() {
                        found.push((begun, number - begun + 1));
                    }
                }
                ';' if depth == 0 => waiting = None,
                _ => {}
            }
        }
    }
    found
}

/// The line without comments and without what stands in strings, which may go over lines.
fn code_of(line: &str, in_string: &mut bool) -> String {
    let (mut code, mut characters) = (String::new(), line.chars().peekable());
    while let Some(character) = characters.next() {
        match character {
            '\\' if *in_string => {
                characters.next();
            }
            '\'' if !*in_string && characters.peek() == Some(&'"') => {
                characters.next();
                characters.next();
            }
            '"' => *in_string = !*in_string,
            '/' if !*in_string && characters.peek() == Some(&'/') => break,
            _ if *in_string => {}
            other => code.push(other),
        }
    }
    code
}

/// What a room may import. Services may use each other.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    const PORTS: &[&str] = &[
        "ids",
        "money",
        "ledger",
        "ports",
        "store",
        "lightning",
        "chain",
        "rates",
    ];
    const SERVICES: &[&str] = &[
        "access",
        "cards",
        "chain",
        "checkout",
        "core",
        "events",
        "exchange",
        "ids",
        "invoices",
        "ledger",
        "lightning",
        "lnurl",
        "money",
        "payments",
        "ports",
        "rates",
        "receipts",
        "refunds",
        "reports",
        "rewards",
        "settlement",
        "store",
        "treasury",
        "wallets",
    ];
    BTreeMap::from([
        ("ids", &[][..]),
        ("ports", &[]),
        ("lnurl", &[]),
        ("money", &["ids"]),
        ("ledger", &["ids", "money"]),
        ("store", PORTS),
        ("lightning", PORTS),
        ("chain", PORTS),
        ("rates", PORTS),
        (
            "core",
            &[
                "access",
                "chain",
                "ids",
                "ledger",
                "lightning",
                "money",
                "ports",
                "rates",
                "store",
            ],
        ),
        ("access", SERVICES),
        ("events", SERVICES),
        ("invoices", SERVICES),
        ("payments", SERVICES),
        ("cards", SERVICES),
        ("refunds", SERVICES),
        ("rewards", SERVICES),
        ("settlement", SERVICES),
        ("exchange", SERVICES),
        ("treasury", SERVICES),
        ("receipts", SERVICES),
        ("checkout", SERVICES),
        ("reports", SERVICES),
        ("wallets", SERVICES),
    ])
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

fn room(path: &str) -> &str {
    path.split('/')
        .next()
        .unwrap_or(path)
        .trim_end_matches(".rs")
}

fn check(source: &Source) -> Vec<Offence> {
    let (path, room) = (source.path.as_str(), room(&source.path));
    let mut offences = Vec::new();
    let mut offend = |line: usize, rule| {
        offences.push(Offence {
            place: format!("{path}:{line}"),
            rule,
        });
    };
    let in_testkit = room == "testkit"
        || path == "lightning/simulated.rs"
        || path.starts_with("store/contract/");
    let in_ldk = path.starts_with("lightning/ldk/");
    let in_postgres = path.starts_with("store/postgres/");
    // Compiled with the testkit alone, for the tests of whoever writes a store: it moves its clock.
    let in_contract = path.starts_with("store/contract/");
    for (line, code) in &source.lines {
        let has = |wanted: &[&str]| words(code).any(|word| wanted.contains(&word));
        let floats = ["f32", "f64", "as_secs_f32", "as_secs_f64", "as_millis_f64"];
        if has(&floats) || has_float(code) {
            offend(*line, "no floats");
        }
        if !in_testkit
            && (code.contains(".unwrap()")
                || code.contains(".expect(")
                || PANICS.iter().any(|panics| code.contains(panics)) && !code.contains("const {"))
        {
            offend(*line, "no panics");
        }
        if has(&["todo", "unimplemented"]) && code.contains('!') {
            offend(*line, "nothing left to do");
        }
        let clock = has(&["SystemTime", "Instant", "getrandom", "thread_rng", "OsRng"])
            || code.contains("Timestamp::now")
            || code.contains("Zoned::now");
        if clock && room != "ports" && !in_testkit && !in_ldk {
            offend(*line, "no clock or randomness outside the ports");
        }
        let tokio = code.contains("tokio::");
        if tokio && !in_testkit && !in_ldk && !in_postgres && room != "ports" && room != "ffi" {
            offend(*line, "no tokio outside adapters");
        }
        if code.contains("super::super::") {
            offend(*line, "imports run one way");
        }
        if has(&["ldk_node"]) && !in_ldk {
            offend(*line, "ldk_node is named in lightning/ldk alone");
        }
        let postgres = has(&["tokio_postgres", "deadpool_postgres"]);
        if postgres && !in_postgres {
            offend(*line, "tokio_postgres is named in store/postgres alone");
        }
        if has(&["rusqlite"]) && !path.starts_with("store/sqlite/") {
            offend(*line, "rusqlite is named in store/sqlite alone");
        }
        if let Some(may) = allowed().get(room)
            && !in_testkit
        {
            for imported in imports(code) {
                let known = allowed().contains_key(imported.as_str());
                let adapter = ["engine", "ffi", "jobs", "testkit"].contains(&imported.as_str())
                    && !(in_contract && imported == "testkit");
                if imported != room && (adapter || known && !may.contains(&imported.as_str())) {
                    offend(*line, "imports run one way");
                }
            }
        }
    }
    for (begun, lines) in functions(&source.lines) {
        if lines > SCREEN {
            offend(begun, "a function fits on a screen");
        }
    }
    let limit = LONG
        .iter()
        .find(|(long, _)| *long == path)
        .map_or(550, |(_, length)| *length);
    if source.length > limit {
        offend(source.length, "small rooms");
    }
    if source.raw.contains(&["..", "/shared"].concat()) {
        offend(0, "nothing refers to what is not in the project");
    }
    offences
}

const PANICS: &[&str] = &[
    "panic!",
    "unreachable!",
    " assert!(",
    " assert_eq!(",
    " assert_ne!(",
];

/// The lines of a screen.
const SCREEN: usize = 70;

/// Files that may be longer than 550 lines, and why.
const LONG: &[(&str, usize)] = &[
    // The whole port in one place, to be read beside its contract.
    ("store/sqlite/mod.rs", 620),
    ("lightning/ldk/node.rs", 620),
    ("lightning/ldk/kv.rs", 610),
];

/// `1.5`, but not `0..5`, `tuple.0` or `1.max(2)`.
fn has_float(code: &str) -> bool {
    let bytes = code.as_bytes();
    (1..bytes.len().saturating_sub(1)).any(|at| {
        bytes[at] == b'.'
            && bytes[at - 1].is_ascii_digit()
            && bytes[at + 1].is_ascii_digit()
            && is_number(&code[..at])
    })
}

fn is_number(before: &str) -> bool {
    let start = before
        .rfind(|c: char| !c.is_ascii_digit() && c != '_')
        .map_or(0, |at| at + 1);
    let previous = before[..start].chars().next_back();
    !previous.is_some_and(|c| c.is_alphanumeric() || c == '.' || c == '_')
}

/// The rooms named after `crate::`, also in a braced list.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(words(list).map(str::to_owned)),
            None => found.extend(words(rest).next().map(str::to_owned)),
        }
    }
    found
}

#[test]
fn the_house_is_tidy() {
    let offences: Vec<Offence> = sources().iter().flat_map(check).collect();
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn every_rule_finds_who_breaks_it() {
    for (path, text, rule) in [
        ("money/rate.rs", "fn a(x: f64) {}", "no floats"),
        ("money/rate.rs", "let x = 1.5;", "no floats"),
        ("cards/mod.rs", "let x = y.unwrap();", "no panics"),
        ("cards/mod.rs", "let x = y.expect(\"z\");", "no panics"),
        ("cards/mod.rs", "panic!()", "no panics"),
        ("cards/mod.rs", "todo!()", "nothing left to do"),
        (
            "cards/mod.rs",
            "SystemTime::now()",
            "no clock or randomness outside the ports",
        ),
        (
            "store/memory.rs",
            "Instant::now()",
            "no clock or randomness outside the ports",
        ),
        ("engine.rs", "tokio::spawn(x)", "no tokio outside adapters"),
        (
            "engine.rs",
            "use ldk_node::Node;",
            "ldk_node is named in lightning/ldk alone",
        ),
        (
            "cards/mod.rs",
            "use rusqlite::X;",
            "rusqlite is named in store/sqlite alone",
        ),
        (
            "cards/mod.rs",
            "use tokio_postgres::X;",
            "tokio_postgres is named in store/postgres alone",
        ),
        (
            "money/rate.rs",
            "use crate::store::Store;",
            "imports run one way",
        ),
        (
            "ledger/apply.rs",
            "use crate::{cards, ids};",
            "imports run one way",
        ),
        (
            "ledger/apply.rs",
            "use crate::{\n    ids,\n    cards::Cards,\n};",
            "imports run one way",
        ),
        (
            "ledger/apply.rs",
            "use super::super::cards;",
            "imports run one way",
        ),
        ("money/rate.rs", "x.as_secs_f64()", "no floats"),
        ("cards/mod.rs", "    assert!(x);", "no panics"),
        (
            "cards/mod.rs",
            "Timestamp::now()",
            "no clock or randomness outside the ports",
        ),
        (
            "cards/mod.rs",
            "use crate::engine::Engine;",
            "imports run one way",
        ),
        (
            "store/memory.rs",
            "use crate::ffi::X;",
            "imports run one way",
        ),
    ] {
        let offences = check(&source(path, text));
        assert!(
            offences.iter().any(|offence| offence.rule == rule),
            "{path}: {text}"
        );
    }
    let long = format!("fn a() {{\n{}}}", "    b();\n".repeat(SCREEN));
    let offences = check(&source("cards/mod.rs", &long));
    assert_eq!(offences[0].rule, "a function fits on a screen");
    let long = "fn a() {}\n".repeat(551);
    assert_eq!(check(&source("cards/mod.rs", &long)).len(), 1);
    // And nobody else.
    for (path, text) in [
        ("money/rate.rs", "// 1.5 and unwrap() in a comment"),
        ("money/rate.rs", "let x = \"1.5 .unwrap() panic!\";"),
        ("money/rate.rs", "for x in 0..5 { pair.0.1; 1.max(2); }"),
        (
            "cards/mod.rs",
            "let x = y.unwrap_or(1);\n#[cfg(test)]\nmod tests { x.unwrap() }",
        ),
        ("cards/mod.rs", "use crate::{rewards, settlement};"),
    ] {
        assert_eq!(check(&source(path, text)), [], "{path}: {text}");
    }
}
