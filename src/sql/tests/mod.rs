//! Golden files: statements and what is read of them. `UPDATE_GOLDEN=1` rewrites the files.

mod guards;
mod literals;
mod print;

use super::read;
use std::path::Path;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sql/testdata");

/// A file holds cases with empty lines between them: the text (lines that are not indented), then what is expected of it (indented
/// by four). Lines that start with `##` are comments.
fn golden(name: &str) {
    let path = Path::new(FOLDER).join(name);
    let before = std::fs::read_to_string(&path).expect("a golden file");
    let mut after = String::new();
    for case in before.split("\n\n") {
        let mut text = Vec::new();
        for line in case.trim_matches('\n').lines() {
            if line.starts_with("##") {
                after.push_str(line);
                after.push('\n');
            } else if !line.starts_with("    ") {
                text.push(line);
            }
        }
        let text = text.join("\n");
        if !text.is_empty() {
            after.push_str(&text);
            after.push('\n');
            for line in print::printed(&text, &read(&text)).lines() {
                after.push_str(&format!("    {line}\n"));
            }
        }
        after.push('\n');
    }
    let after = format!("{}\n", after.trim_end());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, after).expect("golden file written");
    } else if before != after {
        let line = before
            .lines()
            .zip(after.lines())
            .position(|(before, after)| before != after)
            .unwrap_or(0);
        let shown: Vec<&str> = after
            .lines()
            .skip(line.saturating_sub(3))
            .take(12)
            .collect();
        panic!(
            "{name} differs at line {}; now it is\n{}",
            line + 1,
            shown.join("\n")
        );
    }
}

macro_rules! golden_files {
    ($($name:ident),*) => {
        $(#[test] fn $name() { golden(concat!(stringify!($name), ".txt")); })*
    };
}

golden_files!(
    classes, keys, misrouting, misparses, shim, subqueries, writes, unparsed
);

/// A tree is never printed: what the parser prints is not what the client wrote.
#[test]
fn no_tree_is_printed_or_measured() {
    for entry in std::fs::read_dir(Path::new(FOLDER).join("../parse")).expect("the folder") {
        let source = std::fs::read_to_string(entry.expect("a file").path()).expect("readable");
        for banned in ["to_string(", ".span()", "parse_sql", "Display"] {
            assert!(!source.contains(banned), "{banned}");
        }
    }
}

/// In these files a number that could be taken for a key is always 5 or 7, and no relation may be restricted by it.
#[test]
fn what_proves_nothing_restricts_nothing() {
    let file =
        std::fs::read_to_string(Path::new(FOLDER).join("misrouting.txt")).expect("a golden file");
    for line in file.lines().filter(|line| line.starts_with("      ")) {
        assert!(
            !line.trim_start().starts_with("orders") || !line.contains('#'),
            "a usable equality: {line}"
        );
    }
}
