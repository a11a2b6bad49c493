//! Statements for which Trunkline takes numbers: an INSERT that leaves a column to a sequence, and calls that stand for one number.
//!
//! A shard's own sequence would give numbers that another shard gives too. So the numbers come from the home shard's sequence first and are
//! written into the statement, as literals or as parameters of ours; what comes of it is planned like any other statement, and a number may
//! decide the shard. Only what Postgres would evaluate exactly once for each row of the text is done so.

use std::ops::Range;

use crate::catalog::{Catalog, ColumnDefault, Given, QualifiedName, SearchPath, Sequences};
use crate::plan::Plan;
use crate::plan::refusal::Refusal;
use crate::plan::scope::{Known, Meaning};
use crate::sql::class::Class;
use crate::sql::facts::{Facts, Insert, InsertSource, Name, Operand};
use crate::sql::insertion::{
    Call, ColumnList, Insertion, Overriding, Rows, SequenceName, calls, insertion,
};
use crate::sql::normalise::{Literal, from_normal};
use crate::sql::{Body, Statement, highest_parameter};

/// What is put into a statement's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbered {
    /// In the order of their places, which do not overlap.
    edits: Vec<Edit>,
    /// What each number is, in the order in which they are taken.
    pub numbers: Vec<Number>,
    /// The highest parameter of the client's.
    pub parameters: u16,
    /// What is done with the statement as it is, when its server knows the last values that it asks for.
    pub otherwise: Result<Plan, Refusal>,
    naming: Naming,
}

/// Where a number comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Number {
    Next(QualifiedName),
    /// What the session was given last of this sequence.
    Current(QualifiedName),
    /// What it was given last of any.
    Last,
    UniqueId,
}

/// What says which sequence is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    Definition,
    /// A literal of the text at hand.
    Literal,
}

#[derive(Clone, Debug, PartialEq)]
struct Edit {
    range: Range<usize>,
    with: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(Box<str>),
    /// A place among the numbers.
    Number(usize),
}

/// How numbers are written into a text.
#[derive(Clone, Copy, Debug)]
pub enum Written<'a> {
    Literals(&'a [i64]),
    /// As parameters, from this one on.
    Parameters(u16),
}

/// `None`: it needs no numbers, or it is not known how to give it any.
pub fn numbered(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Option<Numbered> {
    let (Class::Data, Body::Facts(facts)) = (&statement.class, &statement.body) else {
        return None;
    };
    let mut numbered = Numbered {
        edits: Vec::new(),
        numbers: Vec::new(),
        parameters: highest_parameter(&text[statement.range.clone()])?,
        otherwise: Ok(Plan::Session),
        naming: Naming::Definition,
    };
    match &facts.inserts[..] {
        [insert] => {
            let read = insertion(text, statement.range.clone())?;
            let known = Known::look_up(catalog, search_path, &insert.table);
            let left = Left::of(insert, &read, known, catalog)?;
            numbered.give_columns(&left, &read);
            numbered.give_values(&left, &read, insert, catalog, search_path);
        }
        [] if is_one_row(facts) => {
            let calls = calls(text, statement.range.clone())?;
            numbered.give_calls(calls, catalog, search_path);
        }
        _ => return None,
    }
    if numbered.numbers.is_empty() {
        return None;
    }
    numbered.edits.sort_by_key(|edit| edit.range.start);
    Some(numbered)
}

/// A query without tables whose select list is evaluated once.
fn is_one_row(facts: &Facts) -> bool {
    const KNOWN: [&str; 4] = ["unique_id", "currval", "lastval", "pg_get_serial_sequence"];
    let is_known = |name: &str| KNOWN.contains(&name);
    facts.doubts.is_empty()
        && matches!(&facts.blocks[..], [block] if block.relations.is_empty())
        && facts
            .functions
            .iter()
            .all(|function| is_known(&function.name))
}

/// The columns that an INSERT leaves to sequences.
struct Left<'a> {
    /// Those that the rows have values for, in their order.
    listed: Vec<Listed<'a>>,
    /// The others.
    added: Vec<Column<'a>>,
    gives: Gives,
    /// The sequences that the table's columns may take numbers from while a server stores a row; `None`: another one.
    taken_there: Vec<Option<&'a QualifiedName>>,
}

struct Listed<'a> {
    name: &'a str,
    /// Where DEFAULT stands in a row, the next number of this.
    default: Option<Column<'a>>,
}

#[derive(Clone, Copy)]
struct Column<'a> {
    name: &'a str,
    sequence: &'a QualifiedName,
    given: Given,
}

/// Whether rows of the table get their numbers from Trunkline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gives {
    Numbers,
    Nothing,
}

impl<'a> Left<'a> {
    /// `None`: what the statement says cannot be said with numbers in it.
    fn of(
        insert: &'a Insert,
        read: &Insertion,
        known: Known<'a>,
        catalog: &Catalog,
    ) -> Option<Left<'a>> {
        let rows = rows(insert, read)?;
        let width = rows.first().map_or(0, Vec::len);
        let gives = match known.meaning {
            Meaning::Sharded { .. } | Meaning::Reference
                if catalog.sequences == Sequences::Home && catalog.shards.len() > 1 =>
            {
                Gives::Numbers
            }
            _ => Gives::Nothing,
        };
        let columns = match gives {
            Gives::Numbers => known.columns?,
            Gives::Nothing => &[],
        };
        let names: Vec<&str> = match &insert.columns {
            Some(listed) => listed.iter().map(|name| &**name).collect(),
            None => {
                let names = known.columns?.iter().map(|column| &*column.name);
                names.take(width).collect()
            }
        };
        if names.len() != width {
            return None;
        }
        let mut left = Left {
            listed: names
                .iter()
                .map(|name| Listed {
                    name,
                    default: None,
                })
                .collect(),
            added: Vec::new(),
            gives,
            taken_there: match (gives, known.columns) {
                (Gives::Numbers, _) => Vec::new(),
                (Gives::Nothing, None) => vec![None],
                (Gives::Nothing, Some(columns)) => columns
                    .iter()
                    .filter(|column| column.default == ColumnDefault::Sequence)
                    .map(|column| column.numbers.as_ref().map(|numbers| &numbers.sequence))
                    .collect(),
            },
        };
        for column in columns {
            if column.default != ColumnDefault::Sequence {
                continue;
            }
            let place = names.iter().position(|name| *name == &*column.name);
            let is_default =
                |place: usize| rows.iter().map(move |row| row[place] == Operand::Default);
            let all = place.is_none_or(|place| is_default(place).all(|one| one));
            let any = place.is_none_or(|place| is_default(place).any(|one| one));
            let given = column.numbers.as_ref().map(|numbers| numbers.given);
            match read.overriding {
                // What is given is not what is stored.
                Some(Overriding::User) if given != Some(Given::Freely) => return None,
                // What is given is an error, which must not be overridden.
                None if given == Some(Given::Overriding) && !all => return None,
                _ if !any => continue,
                _ => {}
            }
            let numbers = column.numbers.as_ref()?;
            let column = Column {
                name: &column.name,
                sequence: &numbers.sequence,
                given: numbers.given,
            };
            match place {
                Some(place) => left.listed[place].default = Some(column),
                None => left.added.push(column),
            }
        }
        Some(left)
    }

    /// Whether a server takes nothing that the number could be.
    fn lets(&self, number: &Number) -> bool {
        match number {
            Number::Next(_) | Number::UniqueId => true,
            Number::Current(sequence) => {
                let mut there = self.taken_there.iter();
                there.all(|taken| taken.is_some_and(|taken| taken != sequence))
            }
            Number::Last => self.taken_there.is_empty(),
        }
    }

    fn must_override(&self) -> bool {
        let listed = self.listed.iter().filter_map(|listed| listed.default);
        let mut columns = listed.chain(self.added.iter().copied());
        columns.any(|column| column.given == Given::Overriding)
    }
}

/// The rows of VALUES; none of DEFAULT VALUES. `None` when text and facts do not agree.
fn rows<'a>(insert: &'a Insert, read: &Insertion) -> Option<&'a [Vec<Operand>]> {
    match (&read.rows, &insert.source) {
        (Rows::Default(_), InsertSource::DefaultValues) => Some(&[]),
        (Rows::Values(places), InsertSource::Values(rows)) => {
            let width = rows.first()?.len();
            let alike = places.len() == rows.len()
                && places.iter().all(|row| row.values.len() == width)
                && rows.iter().all(|row| row.len() == width);
            alike.then_some(rows)
        }
        _ => None,
    }
}

impl Numbered {
    fn edit(&mut self, range: Range<usize>, with: Vec<Piece>) {
        self.edits.push(Edit { range, with });
    }

    fn number(&mut self, number: Number) -> Piece {
        self.numbers.push(number);
        Piece::Number(self.numbers.len() - 1)
    }

    /// The list of columns, with those that get a number.
    fn give_columns(&mut self, left: &Left<'_>, read: &Insertion) {
        let added = left.added.iter().map(|column| quoted(column.name));
        let added: Vec<String> = added.collect();
        let overriding = if left.must_override() && read.overriding.is_none() {
            " OVERRIDING SYSTEM VALUE"
        } else {
            ""
        };
        let (at, list) = match read.columns {
            ColumnList::None { at } if added.is_empty() => (at, String::new()),
            ColumnList::None { at } => {
                let listed = left.listed.iter().map(|listed| quoted(listed.name));
                let all: Vec<String> = listed.chain(added).collect();
                (at, format!(" ({})", all.join(", ")))
            }
            ColumnList::Given { names_end, end } => {
                if !added.is_empty() {
                    let more = format!(", {}", added.join(", "));
                    self.edit(names_end..names_end, vec![Piece::Text(more.into())]);
                }
                (end, String::new())
            }
        };
        let with = list + overriding;
        if !with.is_empty() {
            self.edit(at..at, vec![Piece::Text(with.into())]);
        }
    }

    fn give_values(
        &mut self,
        left: &Left<'_>,
        read: &Insertion,
        insert: &Insert,
        catalog: &Catalog,
        search_path: &SearchPath,
    ) {
        let next = |column: &Column<'_>| Number::Next(column.sequence.clone());
        let (places, rows) = match (&read.rows, &insert.source) {
            (Rows::Values(places), InsertSource::Values(rows)) => (places, rows),
            (Rows::Default(range), _) if !left.added.is_empty() => {
                let mut with = Vec::new();
                for column in &left.added {
                    let before = if with.is_empty() { "VALUES (" } else { ", " };
                    with.push(Piece::Text(before.into()));
                    with.push(self.number(next(column)));
                }
                with.push(Piece::Text(")".into()));
                return self.edit(range.clone(), with);
            }
            _ => return,
        };
        for (place, row) in places.iter().zip(rows) {
            for ((value, operand), listed) in place.values.iter().zip(row).zip(&left.listed) {
                let number = match (&listed.default, &value.call) {
                    (Some(column), _) if *operand == Operand::Default => Some(next(column)),
                    // Elsewhere a server takes it by itself.
                    (_, Some(Call::Next(_))) if left.gives == Gives::Nothing => None,
                    (_, Some(call)) => {
                        let number = self.meant(call, catalog, search_path);
                        number.filter(|number| left.lets(number))
                    }
                    _ => None,
                };
                let Some(number) = number else { continue };
                let with = vec![self.number(number)];
                self.edit(value.range.clone(), with);
            }
            let mut with = Vec::new();
            for column in &left.added {
                with.push(Piece::Text(", ".into()));
                with.push(self.number(next(column)));
            }
            if !with.is_empty() {
                self.edit(place.end..place.end, with);
            }
        }
    }

    /// In a query: the calls that give what a client was given, and unique ids.
    fn give_calls(
        &mut self,
        calls: Vec<(Range<usize>, Call)>,
        catalog: &Catalog,
        search_path: &SearchPath,
    ) {
        for (range, call) in calls {
            // The result's column has the name that a call would give it.
            let name = match &call {
                Call::Next(_) => continue,
                Call::Current(_) | Call::CurrentOf(..) => "currval",
                Call::Last => "lastval",
                Call::UniqueId => "unique_id",
            };
            let Some(number) = self.meant(&call, catalog, search_path) else {
                continue;
            };
            let with = vec![
                Piece::Text("(SELECT ".into()),
                self.number(number),
                Piece::Text(format!("::bigint AS {name})").into()),
            ];
            self.edit(range, with);
        }
    }

    /// What a call gives.
    fn meant(
        &mut self,
        call: &Call,
        catalog: &Catalog,
        search_path: &SearchPath,
    ) -> Option<Number> {
        if *call == Call::UniqueId {
            return Some(Number::UniqueId);
        }
        if catalog.sequences != Sequences::Home || catalog.shards.len() == 1 {
            return None;
        }
        let known = |name: &SequenceName| known_sequence(name, catalog, search_path);
        let number = match call {
            Call::Next(name) => Number::Next(known(name)?),
            Call::Current(name) => Number::Current(known(name)?),
            Call::CurrentOf(table, column) => {
                let table = Name {
                    schema: table.schema.clone(),
                    name: table.name.clone(),
                };
                let known = Known::look_up(catalog, search_path, &table);
                let mut columns = known.columns?.iter();
                let column = columns.find(|known| known.name == *column)?;
                Number::Current(column.numbers.as_ref()?.sequence.clone())
            }
            Call::Last => Number::Last,
            Call::UniqueId => Number::UniqueId,
        };
        if number != Number::Last {
            self.naming = Naming::Literal;
        }
        Some(number)
    }

    /// Last values are asked for, and nothing is taken.
    pub fn only_asks(&self) -> bool {
        let asks = |number: &Number| matches!(number, Number::Current(_) | Number::Last);
        self.numbers.iter().all(asks)
    }

    /// Whether the sequences are the same for every text of this shape.
    pub fn holds_for_shape(&self) -> bool {
        self.naming == Naming::Definition
    }

    pub(super) fn describe(&self) -> String {
        let next = |number: &Number| match number {
            Number::Next((schema, name)) => Some(format!("{schema}.{name}")),
            Number::Current((schema, name)) => Some(format!("the last of {schema}.{name}")),
            Number::Last => Some("the last of all".to_owned()),
            Number::UniqueId => Some("unique ids".to_owned()),
        };
        let mut names: Vec<String> = self.numbers.iter().filter_map(next).collect();
        names.sort();
        names.dedup();
        let count = match self.numbers.len() {
            1 => "1 number".to_owned(),
            count => format!("{count} numbers"),
        };
        let names = names.join(", ");
        format!("takes   {count} ({names}), and goes where it then belongs")
    }

    pub(super) fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        for edit in &mut self.edits {
            edit.range = to(edit.range.start)..to(edit.range.end);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        /// A number with its name, and what is written around it.
        const NUMBER: usize = 160;
        self.edits.capacity() * size_of::<Edit>() + self.numbers.capacity() * NUMBER
    }
}

/// The whole message's text with the numbers of its statements in it, one statement's behind the other's; and the places that were replaced,
/// each with the number of characters that stand there now.
pub fn write(
    statements: &[&Numbered],
    written: Written<'_>,
    text: &[u8],
    literals: &[Literal],
) -> (Vec<u8>, Vec<(Range<usize>, usize)>) {
    let mut out = Vec::with_capacity(2 * text.len());
    let mut replaced = Vec::new();
    let (mut at, mut first) = (0, 0);
    for numbered in statements {
        for edit in &numbered.edits {
            let range =
                from_normal(edit.range.start, literals)..from_normal(edit.range.end, literals);
            out.extend_from_slice(&text[at..range.start]);
            let mut with = String::new();
            for piece in &edit.with {
                match piece {
                    Piece::Text(text) => with.push_str(text),
                    Piece::Number(place) => with.push_str(&written.of(first + place)),
                }
            }
            out.extend_from_slice(with.as_bytes());
            at = range.end;
            replaced.push((range, with.chars().count()));
        }
        first += numbered.numbers.len();
    }
    out.extend_from_slice(&text[at..]);
    (out, replaced)
}

impl Written<'_> {
    fn of(self, place: usize) -> String {
        match self {
            Written::Literals(numbers) => numbers
                .get(place)
                .map_or_else(String::new, ToString::to_string),
            Written::Parameters(first) => format!("${}", usize::from(first) + place),
        }
    }
}

fn known_sequence(
    name: &SequenceName,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Option<QualifiedName> {
    catalog.sequence(search_path, name.schema.as_deref(), &name.name)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
