//! Golden cases: `tests/golden/plan/*.txt`, planned against the catalog of `catalog.rs` and bound, so that the shard shows.
//!
//! A case is directives, SQL, `----`, and what is expected, up to an empty line; `#` begins a comment. Directives:
//! `@search_path a, b` | `@schema unread` | `@moving` (what of another shard is on s2) | `@sequences per_shard` or `refused` | `@collation C` | `@shards 1` | `@param [type] [binary] value` (one a parameter, in order; `NULL`)
//! | `@manual kind` (a row of the table in docs/SQL.md: `manual.rs`).
//! Run with UPDATE_GOLDEN=1 to write what is found; read the difference before believing it.

mod catalog;
mod manual;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::catalog::{Catalog, Hearing, SchemaState, SearchPath, Sequences};
use crate::sharding::{KeyType, ShardId};

use super::explain::{Explanation, Outcome, explain};
use super::parameters::Parameters;
use super::plan;
use super::refusal::{Reason, Refusal};
use super::spread::Write;
use super::spread::gather::Origin;
use super::spread::numbered::{Written, write};
use super::spread::own_rows::with_own_rows;
use super::spread::scatter::{Direction, Fold, Merge, Nulls, SortKey};
use super::spread::{Spread, edit};
use crate::sql;
use crate::sql::normalise::{normalise, to_normal};

pub use catalog::{cluster, search_path};

/// Refusals that no golden case can show.
const SHOWN_ELSEWHERE: [Reason; 20] = [
    // Those of the session, which knows the transaction, the message and the connection.
    Reason::KeyMoving,
    Reason::NoReplica,
    Reason::OnReplica,
    Reason::MultiShardMessage,
    Reason::MultiShardTransaction,
    Reason::CrossShardCommit,
    Reason::CannotPrepare,
    Reason::AtomicRead,
    Reason::RowLimit,
    Reason::Cursor,
    Reason::ExplainForm,
    Reason::SettingInBatch,
    Reason::Execute,
    Reason::Pinned,
    Reason::LastValue,
    Reason::TextSettings,
    Reason::GatherReadOnly,
    // cache.rs: text_that_is_not_utf8_has_no_plan
    Reason::NotUtf8,
    // golden/mod.rs: limits_on_keys_and_conditions
    Reason::TooManyKeys,
    Reason::TooComplex,
];

#[test]
fn golden_plans() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut shown = BTreeSet::new();
    let mut wrong = String::new();
    for path in files() {
        let text = std::fs::read_to_string(&path).expect("a golden file is text");
        let found = run_file(&text, &mut shown);
        if update {
            std::fs::write(&path, found).expect("a golden file can be written");
        } else if found != text {
            let difference = text
                .lines()
                .zip(found.lines())
                .enumerate()
                .find(|(_, (expected, found))| expected != found);
            let (line, (expected, found)) =
                difference.unwrap_or((0, ("", "(another number of lines)")));
            writeln!(
                wrong,
                "{}:{}\n  expected {expected}\n  found    {found}",
                path.display(),
                line + 1
            )
            .expect("a string takes all");
        }
    }
    assert!(
        wrong.is_empty(),
        "{wrong}run with UPDATE_GOLDEN=1 and read the difference"
    );
    let without_case: Vec<_> = Reason::ALL
        .iter()
        .filter(|reason| !SHOWN_ELSEWHERE.contains(reason))
        .map(|reason| reason.kind().id)
        .filter(|id| !shown.contains(*id))
        .collect();
    assert!(
        without_case.is_empty(),
        "refusals without a golden case: {without_case:?}"
    );
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plan");
    let entries = std::fs::read_dir(folder).expect("the folder of golden files exists");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(!files.is_empty(), "there are golden files");
    files
}

/// The file with what is found in place of what was expected.
fn run_file(text: &str, shown: &mut BTreeSet<&'static str>) -> String {
    let mut output = String::new();
    for paragraph in text.split("\n\n") {
        let paragraph = paragraph.trim_matches('\n');
        if paragraph.is_empty() {
            continue;
        }
        let question = paragraph.split("\n----").next().unwrap_or_default();
        output.push_str(question);
        output.push('\n');
        if !question.lines().all(|line| line.starts_with('#')) {
            output.push_str("----\n");
            output.push_str(&run_case(question, shown));
        }
        output.push('\n');
    }
    output
}

fn run_case(question: &str, shown: &mut BTreeSet<&'static str>) -> String {
    let mut case = Case::default();
    for line in question.lines() {
        match line.strip_prefix('@') {
            Some(directive) => case.direct(directive),
            None if line.starts_with('#') => {}
            None => case.sql.push_str(&format!(
                "{}{line}",
                if case.sql.is_empty() { "" } else { "\n" }
            )),
        }
    }
    case.run(shown)
}

struct Case {
    sql: String,
    catalog: Catalog,
    search_path: SearchPath,
    parameters: Vec<Given>,
}

/// One parameter of a case.
struct Given {
    declared: u32,
    binary: bool,
    value: Option<Vec<u8>>,
}

impl Default for Case {
    fn default() -> Case {
        Case {
            sql: String::new(),
            catalog: cluster(4),
            search_path: search_path(&["public"]),
            parameters: Vec::new(),
        }
    }
}

impl Case {
    fn direct(&mut self, directive: &str) {
        let (name, rest) = directive.split_once(' ').unwrap_or((directive, ""));
        match (name, rest) {
            ("search_path", path) => {
                self.search_path = search_path(&path.split(", ").collect::<Vec<_>>())
            }
            ("schema", "unread") => {
                self.catalog.schema = SchemaState::Unread;
                catalog::forget_columns(&mut self.catalog);
            }
            ("store", "lost") => self.catalog.hearing = Hearing::No,
            ("moving", "") => catalog::move_rows(&mut self.catalog),
            ("collation", "C") => catalog::order_by_bytes(&mut self.catalog),
            ("sequences", "refused") => self.catalog.sequences = Sequences::Refused,
            ("sequences", "per_shard") => self.catalog.sequences = Sequences::PerShard,
            ("manual", _) => {}
            ("shards", "1") => self.catalog = cluster(1),
            ("param", value) => self.parameters.push(Given::read(value)),
            _ => panic!("unknown directive {directive}"),
        }
    }

    fn run(&self, shown: &mut BTreeSet<&'static str>) -> String {
        let formats: Vec<u8> = self
            .parameters
            .iter()
            .flat_map(|given| [0, u8::from(given.binary)])
            .collect();
        let declared: Vec<u32> = self.parameters.iter().map(|given| given.declared).collect();
        let values: Vec<u8> = self.parameters.iter().flat_map(Given::raw).collect();
        let count = u16::try_from(self.parameters.len()).expect("few parameters");
        let parameters =
            Parameters::from_bind(&formats, count, &values, &declared).expect("made well");
        let parameters = (count > 0).then_some(&parameters);
        match explain(&self.sql, &self.catalog, &self.search_path, parameters) {
            Ok(explanations) => {
                let statements = sql::read(&self.sql).expect("it was explained");
                let planned = plan(&self.sql, &statements, &self.catalog, &self.search_path);
                let spreads = planned.statements.iter();
                explanations
                    .iter()
                    .zip(spreads)
                    .map(|(explanation, planned)| match &planned.spread {
                        Some(spread) => {
                            show(explanation, shown)
                                + &self.show_spread(spread, planned.range.clone())
                        }
                        None => show(explanation, shown),
                    })
                    .collect()
            }
            Err(error) => {
                let refusal = Refusal::from(&error);
                format!("error {}: {}\n", refusal.sqlstate, refusal.message)
            }
        }
    }
}

impl Case {
    /// What the shard is asked that has rows of another one.
    fn show_moving(&self, spread: &Spread, range: Range<usize>) -> String {
        let spread = match spread {
            Spread::Explain(explained) => &*explained.spread,
            spread => spread,
        };
        let (edits, own) = match spread {
            Spread::Scatter { scatter, .. } => (&scatter.edits[..], &scatter.own),
            Spread::Write(write) => {
                let feed = write.feed.as_ref();
                (feed.map_or(&[][..], |feed| &feed.brings.edits), &write.own)
            }
            Spread::CopyOut(copy) => (&[][..], &copy.own),
            Spread::Move(moved) => {
                let way = moved.way.as_ref().expect("it may move");
                let of = self.sql.as_bytes();
                let asked = way.delete_own(&self.catalog, ShardId(1), of, &[]);
                return format!("  s2: {}\n", String::from_utf8_lossy(&asked));
            }
            _ => return String::new(),
        };
        let Some(own) = own else {
            return "  s2: the same\n".to_owned();
        };
        let (mut normal, mut literals) = (Vec::new(), Vec::new());
        normalise(self.sql.as_bytes(), &mut normal, &mut literals).expect("it was read");
        let to = |offset| to_normal(offset, &literals);
        let mut edits = with_own_rows(edits, None, &self.catalog, ShardId(1));
        edits.iter_mut().for_each(|edit| edit.move_places(&to));
        let mut own = own.clone();
        own.move_places(&to);
        let whole = to(range.start)..to(range.end);
        let on = |shard| {
            let edits = with_own_rows(&edits, Some(&own), &self.catalog, shard);
            edit::apply(&edits, whole.clone(), self.sql.as_bytes(), &literals)
        };
        assert_ne!(
            on(ShardId(0)),
            on(ShardId(1)),
            "a shard has nothing of others"
        );
        let asked = String::from_utf8(on(ShardId(1))).expect("made of texts");
        format!("  s2: {}\n", asked.replace('\n', "\n  "))
    }

    /// What the shards are asked, and what becomes of their rows.
    fn show_spread(&self, spread: &Spread, range: Range<usize>) -> String {
        if !self.catalog.foreign.is_empty() {
            return self.show_moving(spread, range);
        }
        let scatter = match spread {
            Spread::Scatter { scatter, .. } => scatter,
            Spread::Numbered(numbered) => {
                let written = Written::Parameters(numbered.parameters + 1);
                let (text, _) = write(&[numbered], written, self.sql.as_bytes(), &[]);
                let text = String::from_utf8(text).expect("made of texts");
                return format!("  {}\n", text.replace('\n', "\n  "));
            }
            Spread::Write(Write {
                feed: Some(feed), ..
            }) => {
                let text = feed.brings.text(self.sql.as_bytes(), &[]);
                let text = String::from_utf8(text).expect("made of texts");
                let fetches = feed.brings.fetches.iter().zip(9..);
                let queries = fetches.map(|(fetch, number)| match fetch.origin {
                    // The table's shard knows the types.
                    Origin::One(_) => "...".to_owned(),
                    _ => fetch.of_row_type(number),
                });
                let given = feed.brings.given(&queries.collect::<Vec<_>>());
                let asked = format!("{given}{text}");
                return format!("  {}\n", asked.replace('\n', "\n  "));
            }
            _ => return String::new(),
        };
        let (mut normal, mut literals) = (Vec::new(), Vec::new());
        normalise(self.sql.as_bytes(), &mut normal, &mut literals).expect("it was read");
        let to = |offset| to_normal(offset, &literals);
        let mut scatter = scatter.clone();
        scatter.move_places(&to);
        let whole = to(range.start)..to(range.end);
        let asked = edit::apply(&scatter.edits, whole, self.sql.as_bytes(), &literals);
        let asked = String::from_utf8(asked).expect("made of texts");
        let mut merge = match &scatter.merge {
            Merge::Concat => "concat".to_owned(),
            Merge::Sort(keys) => format!("sort {}", orders(keys)),
            Merge::Fold(Fold::Distinct { text, order }) => {
                format!("distinct {text:?} order {}", orders(order))
            }
            Merge::Fold(Fold::Groups {
                shown,
                kept,
                having,
                order,
            }) => {
                let having: Vec<String> = having
                    .iter()
                    .map(|one| format!(" having [{} {:?} {}]", one.left, one.comparison, one.right))
                    .collect();
                format!(
                    "fold {shown:?} by {kept:?}{} order {}",
                    having.concat(),
                    orders(order)
                )
            }
        };
        for (what, count) in [("limit", scatter.limit), ("offset", scatter.offset)] {
            if let Some(count) = count {
                write!(merge, " {what} {count:?}").expect("a string takes all");
            }
        }
        let asked = if scatter.edits.is_empty() {
            "  (unchanged)".to_owned()
        } else {
            format!("  {}", asked.replace('\n', "\n  "))
        };
        format!("{merge}\n{asked}\n")
    }
}

fn orders(keys: &[SortKey]) -> String {
    let keys = keys.iter().map(|key| {
        let direction = match key.direction {
            Direction::Ascending => "asc",
            Direction::Descending => "desc",
        };
        let nulls = match key.nulls {
            Nulls::First => "nulls first",
            Nulls::Last => "nulls last",
        };
        format!("[{} {direction} {nulls} {:?}]", key.column, key.text)
    });
    keys.collect()
}

impl Given {
    fn read(text: &str) -> Given {
        let (declared, rest) = match text.split_once(' ') {
            Some((name, rest)) if oid(name) != 0 => (oid(name), rest),
            _ => (0, text),
        };
        let (binary, value) = match rest.strip_prefix("binary ") {
            Some(value) => (true, value),
            None => (false, rest),
        };
        let value = (value != "NULL").then(|| {
            if binary {
                bytes(value)
            } else {
                value.as_bytes().to_vec()
            }
        });
        Given {
            declared,
            binary,
            value,
        }
    }

    fn raw(&self) -> Vec<u8> {
        match &self.value {
            Some(value) => [
                &i32::try_from(value.len()).expect("short").to_be_bytes()[..],
                value,
            ]
            .concat(),
            None => (-1_i32).to_be_bytes().to_vec(),
        }
    }
}

fn oid(name: &str) -> u32 {
    match name {
        "bigint[]" => 1016,
        "double" => 701,
        name => KeyType::parse_name(name).map_or(0, KeyType::oid),
    }
}

/// Hexadecimal digits, spaces allowed between bytes.
fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: String = hexadecimal.split(' ').collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

fn show(explanation: &Explanation, shown: &mut BTreeSet<&'static str>) -> String {
    let keys: Vec<String> = explanation
        .keys
        .iter()
        .map(|key| format!("{} {} in {}", key.distribution, key.values, key.via))
        .collect();
    let keys = if keys.is_empty() {
        String::new()
    } else {
        format!("  ({})", keys.join("; "))
    };
    match &explanation.outcome {
        Outcome::Session => "session\n".to_owned(),
        Outcome::AnyShard { .. } => "any shard\n".to_owned(),
        Outcome::Shard(shard) => format!("{shard}{keys}\n"),
        Outcome::AtBind(parameters) => format!("decided by {parameters}\n"),
        Outcome::Spread(lines) => format!("{lines}\n"),
        Outcome::Refused(refusal) => {
            shown.insert(refusal.id);
            let position = refusal
                .position
                .map(|position| format!(" at {position}"))
                .unwrap_or_default();
            format!(
                "refused {} {}{position}: {}\n",
                refusal.id, refusal.sqlstate, refusal.message
            )
        }
    }
}

#[test]
fn limits_on_keys_and_conditions() {
    let refused = |sql: &str| match &explain(sql, &cluster(4), &search_path(&["public"]), None)
        .expect("it is read")[0]
        .outcome
    {
        Outcome::Refused(refusal) => refusal.id,
        other => panic!("{other:?}"),
    };
    let list = |count: usize| {
        (0..count)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let names = |count: usize| {
        (0..count)
            .map(|number| format!("'{number}'"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let combined = format!(
        "SELECT 1 FROM readings WHERE tenant_id IN ({}) AND device IN ({})",
        list(300),
        names(300)
    );
    assert_eq!(refused(&combined), "too_many_keys");
    let tables: Vec<String> = (0..250)
        .map(|number| format!("customers t{number}"))
        .collect();
    let conditions: Vec<String> = (0..1200)
        .map(|number| format!("t{}.customer_id IN (1, 2)", number % 250))
        .collect();
    let block = format!(
        "(SELECT 1 FROM {} WHERE {})",
        tables.join(", "),
        conditions.join(" AND ")
    );
    assert_eq!(
        refused(&format!(
            "SELECT 1 FROM {}",
            [block.as_str(); 15].join(", ")
        )),
        "too_complex"
    );
}
