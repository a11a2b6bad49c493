//! One statement on the plain server and through the proxy, compared; and the tables behind both.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use trunkline::catalog::{self, Catalog, Epoch, Placement, Relation};
use trunkline::sharding::{KeyValue, ShardId};

use crate::raw::{Answer, Format, Parameter, Raw};
use crate::sharded::{Sharded, succeeded};

/// A text and its parameters: their types and values.
#[derive(Clone, Debug)]
pub struct Case {
    pub sql: String,
    pub parameters: Vec<(String, Option<String>)>,
    pub rows: Rows,
    pub sending: Sending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    Whole,
    /// Each line is a statement.
    LineByLine,
}

/// What SQL says of the rows of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Which, but not in which order.
    Multiset,
    /// Which, and in which order: ORDER BY is total.
    InOrder,
    /// Only how many: which ones is up to the server.
    Counted,
}

/// How a statement is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Parameters become literals.
    Simple,
    /// Parameters as text, of no declared type.
    Text,
    /// Parameters binary, their types declared; results binary.
    Binary,
    /// As text, with two rows asked for at a time.
    Portions,
}

/// Says what was being done when a test panics: an answer that does not come, a message that cannot be read.
struct AtWork<'a> {
    sql: &'a str,
    way: Way,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{:?}: {}", self.way, self.sql);
        }
    }
}

pub enum Verdict {
    Same,
    /// By this id.
    Refused(String),
    /// How.
    Wrong(String),
}

/// The number of the first type that is not Postgres's own.
const FIRST_OF_USERS: u32 = 16_384;

/// A table and where its rows belong.
struct Table {
    /// As SQL names it.
    name: String,
    placement: Placement,
}

/// A row as it is found: its table, its key columns, all of it.
type Row = (String, Vec<Option<String>>, String);

/// A direct connection to a server, and what its tables hold.
struct Server {
    direct: Raw,
    /// All rows of all tables, in one statement.
    look: String,
    /// At first.
    seed: Vec<Row>,
    /// When looked at last.
    rows: Vec<Row>,
    /// The server's transaction counter then: as long as it stands still, nothing was written.
    counter: Vec<u8>,
}

pub struct Pair {
    proxy: Raw,
    plain: Server,
    shards: Vec<Server>,
    catalog: Catalog,
    tables: Vec<Table>,
    places: HashMap<(String, Vec<Option<String>>), ShardId>,
}

/// The rows that both have at first.
pub struct Stock {
    /// Of one row each, into tables that are not reference tables.
    pub inserts: Vec<String>,
    /// Goes to each shard.
    pub reference: &'static str,
    /// Tables that the configuration does not name.
    pub at_home: &'static [&'static str],
}

impl Pair {
    /// Loads the rows into both.
    pub fn load(sharded: &Sharded, stock: &Stock) -> Pair {
        let configured =
            catalog::build(&sharded.config, &sharded.database).unwrap_or_else(|e| panic!("{e:#?}"));
        let (catalog, _) = Catalog::assemble(configured, None, Epoch(1));
        let (mut plain, mut proxy) = (sharded.plain(), sharded.client());
        let mut shards = sharded.shards();
        for sql in &stock.inserts {
            succeeded(sql, &plain.simple(sql));
            succeeded(sql, &proxy.simple(sql));
        }
        succeeded(stock.reference, &plain.simple(stock.reference));
        for shard in catalog.shards.iter() {
            let sql = format!("/* trunkline: shard={shard} */ {}", stock.reference);
            succeeded(&sql, &proxy.simple(&sql));
        }
        let mut tables: Vec<Table> = catalog
            .relations
            .iter()
            .filter_map(|((schema, name), relation)| match relation {
                Relation::Table { placement, .. } => Some(Table {
                    name: match &**schema {
                        "public" => format!("\"{name}\""),
                        _ => format!("\"{schema}\".\"{name}\""),
                    },
                    placement: placement.clone(),
                }),
                _ => None,
            })
            .collect();
        tables.extend(stock.at_home.iter().map(|name| Table {
            name: format!("\"{name}\""),
            placement: Placement::Single(catalog.home),
        }));
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        let look = tables
            .iter()
            .map(Table::look)
            .collect::<Vec<_>>()
            .join(" UNION ALL ");
        let mut keep = "CREATE SCHEMA seed".to_owned();
        for Table { name, .. } in &tables {
            keep += &format!("; CREATE TABLE {} AS TABLE {name}", kept(name));
        }
        for server in shards.iter_mut().chain([&mut plain]) {
            succeeded(&keep, &server.simple(&keep));
        }
        let shards = shards
            .into_iter()
            .map(|shard| Server::new(shard, &look))
            .collect();
        let mut pair = Pair {
            proxy,
            plain: Server::new(plain, &look),
            shards,
            catalog,
            tables,
            places: HashMap::new(),
        };
        assert_eq!(pair.difference(), None, "after loading");
        pair
    }

    /// By both protocols and with parameters of both formats.
    pub fn run_every_way(&mut self, case: &Case, mut each: impl FnMut(Verdict)) {
        each(self.run(case, Way::Simple));
        if case.sending == Sending::Whole && has_several(&case.sql) {
            return;
        }
        each(self.run(case, Way::Text));
        each(self.run(case, Way::Binary));
        each(self.run(case, Way::Portions));
    }

    /// In the way that is this number's turn.
    pub fn run_one_way(&mut self, case: &Case, number: usize) -> Verdict {
        let ways = [Way::Simple, Way::Text, Way::Binary, Way::Portions];
        self.run(case, ways[number % ways.len()])
    }

    fn run(&mut self, case: &Case, way: Way) -> Verdict {
        let verdict = self.run_each(case, way);
        // A text of several statements may have opened a transaction and been refused behind that.
        for client in [&mut self.proxy, &mut self.plain.direct] {
            if client.status() != b'I' {
                client.simple("ROLLBACK");
            }
        }
        if !writes(&case.sql) {
            return verdict;
        }
        let difference = self.difference();
        self.shards
            .iter_mut()
            .chain([&mut self.plain])
            .for_each(Server::restore);
        match difference {
            Some(difference) => Verdict::Wrong(format!("{difference}, {way:?}: {}", case.sql)),
            None => verdict,
        }
    }

    /// One after the other, to the first that is refused or wrong.
    fn run_each(&mut self, case: &Case, way: Way) -> Verdict {
        for sql in case.statements() {
            let verdict = self.run_statement(case, sql, way);
            if !matches!(verdict, Verdict::Same) {
                return verdict;
            }
        }
        Verdict::Same
    }

    fn run_statement(&mut self, case: &Case, sql: &str, way: Way) -> Verdict {
        let _at_work = AtWork { sql, way };
        let (found, expected) = match way {
            Way::Simple => {
                let sql = case.with_literals(sql);
                let found = self.proxy.simple(&sql);
                let refused = found.refusal().is_some();
                (found, (!refused).then(|| self.plain.direct.simple(&sql)))
            }
            Way::Portions => {
                let parameters = self.parameters(case, Way::Text);
                let found = self.proxy.portions(sql, &parameters, Format::Text, 2);
                let refused = found.refusal().is_some();
                let plain = &mut self.plain.direct;
                let expected = || plain.portions(sql, &parameters, Format::Text, 2);
                (found, (!refused).then(expected))
            }
            Way::Text | Way::Binary => {
                let parameters = self.parameters(case, way);
                let results = if way == Way::Binary {
                    Format::Binary
                } else {
                    Format::Text
                };
                let found = self.proxy.extended(sql, &parameters, results);
                let refused = found.refusal().is_some();
                (
                    found,
                    (!refused).then(|| self.plain.direct.extended(sql, &parameters, results)),
                )
            }
        };
        let Some(expected) = expected else {
            return Verdict::Refused(found.refusal().unwrap_or_default().to_owned());
        };
        let (right, said) = (case.said(&expected), case.said(&found));
        if right == said || is_the_same_complaint(&right, &said) {
            return Verdict::Same;
        }
        Verdict::Wrong(format!(
            "another answer, {way:?}: {sql}\n  {:?}\n  expected {}\n  found    {}",
            case.parameters,
            expected.shown(),
            found.shown()
        ))
    }

    fn parameters(&mut self, case: &Case, way: Way) -> Vec<Parameter> {
        let mut made = Vec::new();
        for (of_type, value) in &case.parameters {
            let text = Parameter {
                oid: 0,
                format: Format::Text,
                value: value.clone().map(String::into_bytes),
            };
            if way == Way::Text {
                made.push(text);
                continue;
            }
            // A server says what the value is in binary, and the number of its type.
            let sql = format!("SELECT $1::{of_type}");
            let answer = self.plain.direct.extended(&sql, &[text], Format::Binary);
            succeeded(&sql, &answer);
            made.push(Parameter {
                oid: answer.columns[0][0].1,
                format: Format::Binary,
                value: answer.rows[0][0].clone(),
            });
        }
        made
    }

    /// What is wrong with the shards' rows, if anything: together they are those of the plain server, and each is where it belongs.
    fn difference(&mut self) -> Option<String> {
        self.shards
            .iter_mut()
            .chain([&mut self.plain])
            .for_each(Server::look);
        let mut expected = BTreeMap::<Row, isize>::new();
        for row in &self.plain.rows {
            *expected.entry(row.clone()).or_default() += 1;
        }
        let mut left = expected.clone();
        let mut references = 0;
        for place in 0..self.shards.len() {
            for row in self.shards[place].rows.clone() {
                match self.place(&row) {
                    Some(shard) if shard.index() != place => {
                        return Some(format!(
                            "row {row:?} is on s{}, not on s{}",
                            place + 1,
                            shard.index() + 1
                        ));
                    }
                    Some(_) => *left.entry(row).or_default() -= 1,
                    None => {
                        if !expected.contains_key(&row) {
                            return Some(format!(
                                "reference row {row:?} is only on s{}",
                                place + 1
                            ));
                        }
                        references += 1;
                        if place == 0 {
                            *left.entry(row).or_default() -= 1;
                        }
                    }
                }
            }
        }
        let is_reference = |name: &str| {
            let table = self.tables.iter().find(|table| table.name == name);
            table.is_some_and(|table| matches!(table.placement, Placement::Reference))
        };
        let everywhere = expected
            .iter()
            .filter(|(row, _)| is_reference(&row.0))
            .map(|(_, times)| *times)
            .sum::<isize>();
        if references != everywhere * isize::try_from(self.shards.len()).unwrap() {
            return Some("a copy of the reference table differs".into());
        }
        let (row, times) = left.into_iter().find(|(_, times)| *times != 0)?;
        Some(if times > 0 {
            format!("row {row:?} is missing")
        } else {
            format!("row {row:?} is too much")
        })
    }

    /// Where the row belongs; `None`: everywhere.
    fn place(&mut self, row: &Row) -> Option<ShardId> {
        let (name, key, _) = row;
        let table = self
            .tables
            .iter()
            .find(|table| table.name == *name)
            .expect("a table of ours");
        let distribution = match &table.placement {
            Placement::Reference => return None,
            Placement::Single(shard) => return Some(*shard),
            Placement::Sharded { distribution, .. } => *distribution,
        };
        let known = (name.clone(), key.clone());
        if let Some(shard) = self.places.get(&known) {
            return Some(*shard);
        }
        let map = &self.catalog.distributions[usize::from(distribution.0)].map;
        let values: Vec<KeyValue> = key
            .iter()
            .zip(map.key_types())
            .map(|(text, key_type)| {
                key_type
                    .parse_text(text.as_deref().expect("no row has a NULL key"))
                    .unwrap()
            })
            .collect();
        let shard = map.locate(&values).expect("the key has a place").shard;
        self.places.insert(known, shard);
        Some(shard)
    }
}

impl Server {
    fn new(direct: Raw, look: &str) -> Server {
        let mut server = Server {
            direct,
            look: look.into(),
            seed: Vec::new(),
            rows: Vec::new(),
            counter: Vec::new(),
        };
        server.look();
        server.seed.clone_from(&server.rows);
        server
    }

    fn look(&mut self) {
        let counter = self.count();
        if counter != self.counter {
            self.counter = counter;
            self.rows = rows(&self.look, &mut self.direct);
        }
    }

    fn count(&mut self) -> Vec<u8> {
        let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
        let answer = self.direct.simple(sql);
        succeeded(sql, &answer);
        answer.rows[0][0].clone().unwrap()
    }

    /// Gives the tables that were changed their first rows.
    fn restore(&mut self) {
        if self.rows == self.seed {
            return;
        }
        let family = ["\"customers\"", "\"orders\"", "\"order_lines\""];
        let seed: HashSet<&Row> = self.seed.iter().collect();
        let found: HashSet<&Row> = self.rows.iter().collect();
        let mut changed: BTreeSet<&str> = seed
            .symmetric_difference(&found)
            .map(|row| &*row.0)
            .collect();
        // Rows that are there more than once are the same in both sets.
        changed.extend(more_than_once(&self.seed).chain(more_than_once(&self.rows)));
        let mut sql = String::new();
        if family.iter().any(|table| changed.contains(table)) {
            family
                .iter()
                .rev()
                .for_each(|table| sql += &format!("DELETE FROM {table}; "));
            family
                .iter()
                .for_each(|table| sql += &format!("INSERT INTO {table} TABLE {}; ", kept(table)));
        }
        for table in changed.iter().filter(|table| !family.contains(table)) {
            sql += &format!(
                "DELETE FROM {table}; INSERT INTO {table} TABLE {}; ",
                kept(table)
            );
        }
        succeeded(&sql, &self.direct.simple(&sql));
        self.look();
        assert_eq!(self.rows, self.seed, "after {sql}");
    }
}

/// The table that keeps the first rows of this one.
fn kept(table: &str) -> String {
    format!("seed.\"{}\"", table.replace('"', ""))
}

/// The tables of rows that have an equal before them; the rows are sorted.
fn more_than_once(rows: &[Row]) -> impl Iterator<Item = &str> {
    let pairs = rows.windows(2).filter(|pair| pair[0] == pair[1]);
    pairs.map(|pair| &*pair[0].0)
}

impl Table {
    fn look(&self) -> String {
        let key = match &self.placement {
            Placement::Sharded { key, .. } => key
                .iter()
                .map(|column| format!("\"{column}\"::text"))
                .collect::<Vec<_>>()
                .join(", "),
            Placement::Reference | Placement::Single(_) => String::new(),
        };
        let name = &self.name;
        // Arrays of one dimension print their elements; a NULL in them is told from the text NULL by its quotes.
        format!("SELECT '{name}', to_json(ARRAY[{key}]::text[])::text, t::text FROM {name} t")
    }
}

fn rows(look: &str, server: &mut Raw) -> Vec<Row> {
    let answer = server.simple(look);
    succeeded(look, &answer);
    let text = |value: &Option<Vec<u8>>| String::from_utf8(value.clone().unwrap()).unwrap();
    let mut rows: Vec<Row> = answer
        .rows
        .iter()
        .map(|row| {
            (
                text(&row[0]),
                serde_json::from_str(&text(&row[1])).unwrap(),
                text(&row[2]),
            )
        })
        .collect();
    rows.sort_unstable();
    rows
}

impl Case {
    /// What of an answer SQL determines.
    fn said(&self, answer: &Answer) -> Answer {
        let mut said = answer.clone();
        // Types made by CREATE TYPE have another number on each server.
        for (_, of_type, ..) in said.columns.iter_mut().flatten() {
            *of_type = (*of_type).min(FIRST_OF_USERS);
        }
        // A server may send rows until it meets what is wrong.
        if said.error.is_some() {
            said.columns.clear();
            said.rows.clear();
        }
        match self.rows {
            Rows::Multiset => said.sorted(),
            Rows::InOrder => said,
            Rows::Counted => {
                said.rows.iter_mut().for_each(Vec::clear);
                said
            }
        }
    }

    /// The texts that are sent, one after the other.
    fn statements(&self) -> Vec<&str> {
        match self.sending {
            Sending::Whole => vec![&self.sql],
            Sending::LineByLine => self.sql.lines().collect(),
        }
    }

    /// The statement with its parameters as literals.
    fn with_literals(&self, sql: &str) -> String {
        let mut sql = sql.to_owned();
        // From the last, so that $12 is not taken for $1.
        for (place, (of_type, value)) in self.parameters.iter().enumerate().rev() {
            let literal = match value {
                Some(value) => format!("'{}'", value.replace('\'', "''")),
                None => "NULL".into(),
            };
            let literal = if sql.contains(&format!("-${}", place + 1)) {
                format!("{literal}::{of_type}")
            } else {
                literal
            };
            sql = sql.replace(&format!("${}", place + 1), &literal);
        }
        sql
    }
}

/// Errors that say the same: of several wrong rows a server may meet another one first, and what no Postgres reads Trunkline's lexer
/// refuses in words of its own.
fn is_the_same_complaint(expected: &Answer, found: &Answer) -> bool {
    match (&expected.error, &found.error) {
        (Some(expected), Some(found))
            if ["Failing row contains", "Key ("]
                .iter()
                .any(|row| expected.field('D').starts_with(row)) =>
        {
            ['C', 'M', 't', 'c', 'n']
                .iter()
                .all(|field| expected.field(*field) == found.field(*field))
        }
        (Some(expected), Some(found)) => {
            expected.sqlstate() == "42601" && found.sqlstate() == "42601"
        }
        _ => false,
    }
}

fn writes(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    ["insert", "update", "delete", "merge", "truncate", "copied"]
        .iter()
        .any(|word| sql.contains(word))
}

fn has_several(sql: &str) -> bool {
    trunkline::sql::read(sql).is_ok_and(|statements| statements.len() > 1)
}
