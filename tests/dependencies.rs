//! What the program is made of: licences that `.deny.toml` allows, and nothing from outside the package registry. `cargo deny check`, where it is
//! installed, says the same and knows advisories too.

use std::collections::BTreeSet;

use serde_json::Value;

fn root(file: &str) -> String {
    format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn allowed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root(".deny.toml")).expect("the rules");
    let rules: toml::Table = text.parse().expect("TOML");
    let allowed = rules["licenses"]["allow"].as_array().expect("a list");
    let names = allowed.iter().map(|name| name.as_str().expect("a name"));
    names.map(str::to_owned).collect()
}

/// Whether an SPDX expression can be met. `/` is an old way to write OR; AND binds closer.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (met, rest) = either(&words, allowed);
    assert!(rest.is_empty(), "{expression}");
    met
}

fn either<'a>(words: &'a [&'a str], allowed: &BTreeSet<String>) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = both(words, allowed);
    while let ["OR", others @ ..] = rest {
        let (other, behind) = both(others, allowed);
        (met, rest) = (met || other, behind);
    }
    (met, rest)
}

fn both<'a>(words: &'a [&'a str], allowed: &BTreeSet<String>) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = one(words, allowed);
    while let ["AND", others @ ..] = rest {
        let (other, behind) = one(others, allowed);
        (met, rest) = (met && other, behind);
    }
    (met, rest)
}

fn one<'a>(words: &'a [&'a str], allowed: &BTreeSet<String>) -> (bool, &'a [&'a str]) {
    match words {
        ["(", inside @ ..] => {
            let (met, rest) = either(inside, allowed);
            (
                met,
                rest.strip_prefix(&[")"]).expect("a closing parenthesis"),
            )
        }
        [name, "WITH", exception, rest @ ..] => {
            (allowed.contains(&format!("{name} WITH {exception}")), rest)
        }
        [name, rest @ ..] => (allowed.contains(*name), rest),
        [] => panic!("a licence is missing"),
    }
}

#[test]
fn every_licence_is_allowed_and_every_source_is_known() {
    // As cargo itself has it; nothing is fetched.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let told = std::process::Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .args(["--manifest-path", &root("Cargo.toml")])
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success(), "{said}");
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let packages = told["packages"].as_array().expect("a list");
    assert!(packages.len() > 100);
    let allowed = allowed();
    let mut wrong = Vec::new();
    for package in packages {
        let name = &package["name"];
        match package["license"].as_str() {
            Some(licence) if is_met(licence, &allowed) => {}
            licence => wrong.push(format!("{name}: {licence:?}")),
        }
        match package["source"].as_str() {
            // Only this package itself has none.
            None => assert_eq!(name, "trunkline"),
            Some(source) if source.starts_with("registry+") => {}
            Some(source) => wrong.push(format!("{name}: from {source}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn expressions_are_read_as_spdx_has_them() {
    let allowed: BTreeSet<String> = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]
        .map(str::to_owned)
        .into();
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("MIT AND (GPL-3.0 OR ISC)", true),
        ("GPL-3.0 OR MIT AND GPL-2.0", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
    ] {
        assert_eq!(is_met(expression, &allowed), met, "{expression}");
    }
}
