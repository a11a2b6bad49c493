//! Rules of the source tree that a compiler does not know: which room may import which, and words that name nothing.

use std::path::{Path, PathBuf};

/// The rooms by floor; a room may import rooms of lower floors only. The table of docs/ARCHITECTURE.md.
const FLOORS: [&[&str]; 11] = [
    &["config"],
    &["http"],
    &["wire", "sharding", "store"],
    &["sql", "catalog"],
    &["plan", "backend"],
    &["topology"],
    &["execution"],
    &["session", "resharding"],
    &["admin", "moving"],
    &["server"],
    &["cli"],
];

/// Names of modules and types that say nothing about what is inside.
const EMPTY_WORDS: [&str; 11] = [
    "util",
    "utils",
    "common",
    "helper",
    "helpers",
    "misc",
    "manager",
    "handler",
    "processor",
    "engine",
    "impl",
];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// Every Rust file below `src`, with its room.
fn sources() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a source folder can be read") {
            let path = entry.expect("an entry of a source folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let place = path.strip_prefix(&root).expect("below src");
                let first = place.components().next().expect("a name").as_os_str();
                let room = Path::new(first)
                    .file_stem()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned();
                files.push((room, path));
            }
        }
    }
    files
}

/// The rooms that a file names behind `crate::`, in code and not in comments.
fn imports(text: &str) -> Vec<String> {
    let code: Vec<&str> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let code = code.join("\n");
    let mut rooms = Vec::new();
    for piece in code.split("crate::").skip(1) {
        match piece.strip_prefix('{') {
            Some(list) => {
                let list = list.split("};").next().unwrap_or_default();
                let mut depth = 0;
                let mut word = String::new();
                let mut fresh = true;
                for character in list.chars() {
                    match character {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => fresh = true,
                        ':' if depth == 0 && fresh => {
                            rooms.push(std::mem::take(&mut word).trim().to_owned());
                            fresh = false;
                        }
                        other if depth == 0 && fresh => word.push(other),
                        _ => {}
                    }
                }
            }
            None => {
                let word = piece
                    .chars()
                    .take_while(|character| character.is_alphanumeric() || *character == '_');
                rooms.push(word.collect());
            }
        }
    }
    rooms
}

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    for (room, path) in sources() {
        let Some(here) = floor(&room) else {
            assert!(
                room == "lib" || room == "main",
                "{} is in no room of the table of floors",
                path.display()
            );
            continue;
        };
        let text = std::fs::read_to_string(&path).expect("a source file is text");
        for other in imports(&text).into_iter().filter(|other| *other != room) {
            match floor(&other) {
                Some(there) if there < here => {}
                // What a file of another room re-exports is not looked into; names that are no rooms are macros.
                None => {}
                Some(_) => wrong.push(format!("{} imports {other}", path.display())),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that go up or sideways:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn names_say_something() {
    for (_, path) in sources() {
        let stem = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert!(
            !EMPTY_WORDS.contains(&&*stem),
            "{} has a name that says nothing",
            path.display()
        );
    }
}

#[test]
fn only_the_parser_s_folder_names_the_parser() {
    for (_, path) in sources() {
        let text = std::fs::read_to_string(&path).expect("a source file is text");
        let named = text.lines().any(|line| {
            line.split("//")
                .next()
                .unwrap_or_default()
                .contains("sqlparser::")
        });
        let allowed = path.to_string_lossy().contains("src/sql/");
        assert!(
            !named || allowed,
            "{} names the parser crate",
            path.display()
        );
    }
}

#[test]
fn nothing_is_global() {
    for (_, path) in sources() {
        let text = std::fs::read_to_string(&path).expect("a source file is text");
        let declares = |line: &str| {
            let line = line
                .trim_start()
                .trim_start_matches("pub ")
                .trim_start_matches("pub(crate) ");
            line.starts_with("static ") || line.starts_with("thread_local!")
        };
        let line = text.lines().position(declares);
        assert!(
            line.is_none(),
            "{}:{} declares a static",
            path.display(),
            line.unwrap_or_default() + 1
        );
    }
}

#[test]
fn the_check_of_imports_sees_lists() {
    let text = "use crate::{config::Config, session::{shared::Shared, card}};\nuse crate::wire::answer; // crate::cli\n";
    assert_eq!(imports(text), ["config", "session", "wire"]);
}
