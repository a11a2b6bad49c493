//! The table of statements in docs/SQL.md: golden cases that say `@manual kind`, each with what its plan says. Run with UPDATE_GOLDEN=1 to write it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

const BEGIN: &str = "<!-- The table is made from tests/golden/plan (cases with @manual) by UPDATE_GOLDEN=1 cargo test --lib golden. -->\n";
const END: &str = "<!-- The table ends here. -->\n";

/// In the order of the table.
const KINDS: [&str; 12] = [
    "SELECT",
    "join, subquery",
    "view",
    "INSERT",
    "INSERT ... SELECT",
    "UPDATE",
    "DELETE",
    "MERGE",
    "reference table",
    "COPY",
    "definition",
    "other",
];

/// What a plan that begins like this is in the table.
const WAYS: [(&str, &str); 19] = [
    (
        "places",
        "the table's place is recorded, then everywhere, two-phase",
    ),
    ("session", "by Trunkline itself"),
    ("any shard", "on any one shard"),
    (
        "decided by",
        "on one shard, or those of its keys, found when it is bound",
    ),
    (
        "rows of all shards as they come",
        "scatter: rows as they come",
    ),
    (
        "rows of all shards merged in order",
        "scatter: merged in order",
    ),
    (
        "rows of all shards, groups added up",
        "scatter: groups added up",
    ),
    (
        "rows of all shards, locked shard after shard",
        "scatter: locked shard after shard",
    ),
    ("goes    gathered", "gather"),
    ("goes    row by row", "each row on its shard, two-phase"),
    (
        "goes    to every shard that its keys leave",
        "every shard its own rows, two-phase",
    ),
    (
        "goes    once to the default shard",
        "on one shard, its rows as they are on every other, two-phase",
    ),
    (
        "goes    to every shard, each changes its copy",
        "every shard its copy, two-phase",
    ),
    (
        "goes    to every shard in one transaction",
        "everywhere, two-phase",
    ),
    (
        "goes    to one shard after the other",
        "everywhere, shard after shard",
    ),
    ("goes    to every shard", "everywhere"),
    ("goes    from", "rows move between shards, two-phase"),
    ("goes    to the shards of its rows", "planned by EXECUTE"),
    ("takes", "numbers are written into it, then by its keys"),
];

/// What is done, out of the lines of a plan.
fn way(plan: &str) -> String {
    if let Some(refused) = plan.strip_prefix("refused ") {
        let id = refused.split(' ').next().unwrap_or_default();
        return format!("refused: `{id}`");
    }
    let mut found = WAYS
        .iter()
        .find(|(begins, _)| plan.starts_with(begins))
        .map(|(_, way)| (*way).to_owned())
        .unwrap_or_else(|| {
            let shard = plan.split_whitespace().next().unwrap_or_default();
            let number = shard.strip_prefix('s').map(str::parse::<u16>);
            assert!(matches!(number, Some(Ok(_))), "no words for {plan}");
            "on one shard".to_owned()
        });
    if plan
        .lines()
        .next()
        .is_some_and(|line| line.ends_with("limited"))
    {
        found.push_str(", limited");
    }
    if plan.contains("\nthere   ") {
        found.push_str(", then INSERT on the shards of the rows' keys, two-phase");
    } else if plan.contains("\nstores  on the shards") {
        found.push_str(", then COPY to the shards of the rows' keys, two-phase");
    }
    found
}

/// A row of the table, as its kind's place and its text; `None`: the case is none.
fn row(question: &str) -> Option<(usize, String)> {
    let kind = question
        .lines()
        .find_map(|line| line.strip_prefix("@manual "))?;
    let place = KINDS.iter().position(|known| *known == kind);
    let place = place.unwrap_or_else(|| panic!("an unknown kind of statement: {kind}"));
    let sql: Vec<&str> = question
        .lines()
        .filter(|line| !line.starts_with(['@', '#']))
        .collect();
    let sql = sql.join(" ").replace('|', "\\|");
    let plan = super::run_case(question, &mut BTreeSet::new());
    Some((place, format!("| {kind} | `{sql}` | {} |\n", way(&plan))))
}

fn table() -> String {
    let mut rows = Vec::new();
    for path in super::files() {
        let text = std::fs::read_to_string(&path).expect("a golden file is text");
        let cases = text.split("\n\n");
        rows.extend(cases.filter_map(|case| row(case.split("\n----").next()?)));
    }
    // Those of one kind stay as they are in the files, refusals last.
    rows.sort_by_key(|(place, row)| (*place, row.contains("| refused: ")));
    let mut table = String::from("| kind | for example | how it is run |\n| --- | --- | --- |\n");
    rows.iter()
        .for_each(|(_, row)| table.write_str(row).expect("a string takes all"));
    table
}

#[test]
fn the_manual_has_what_golden_cases_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SQL.md");
    let text = std::fs::read_to_string(&path).expect("the manual is text");
    let (before, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (_, behind) = rest.split_once(END).expect("where the table ends");
    let made = format!("{before}{BEGIN}\n{}\n{END}{behind}", table());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, made).expect("the manual can be written");
        return;
    }
    assert!(
        made == text,
        "docs/SQL.md does not say what golden cases say: run with UPDATE_GOLDEN=1 and read the difference"
    );
}
