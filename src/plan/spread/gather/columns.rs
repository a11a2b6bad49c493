//! Which columns of a table the statement can need: those whose names stand in it, or all.

use std::collections::{HashMap, HashSet};

use crate::catalog::Catalog;
use crate::sql::facts::{Access, Doubt, Facts, Source};
use crate::sql::lexer::Kind;

use super::piece::Piece;
use super::tables::Table;
use super::{Columns, CopyFormat};

/// The first OID that is not the same on every server.
const FIRST_OWN_OID: u32 = 16_384;

/// Types whose values are numbers of a server's own, or that have no binary form, and arrays of them: `reg*`, `aclitem`.
const NUMBERED: [u32; 24] = [
    24, 1008, 2202, 2203, 2204, 2205, 2206, 2207, 2208, 2209, 2210, 2211, 3734, 3735, 3769, 3770,
    4089, 4090, 4096, 4097, 4191, 4192, 1033, 1034,
];

/// What the texts that run need of tables: the statement, and the queries of views.
pub struct Uses<'p> {
    names: HashSet<&'p str>,
    whole_rows: WholeRows,
    primary_keys: PrimaryKeys,
}

impl<'p> Uses<'p> {
    pub fn of<'a: 'p>(texts: impl Iterator<Item = (&'p Piece<'a>, &'p Facts)>) -> Uses<'p> {
        let mut uses = Uses {
            names: HashSet::new(),
            whole_rows: WholeRows::Of(HashSet::new()),
            primary_keys: PrimaryKeys::Unneeded,
        };
        for (piece, facts) in texts {
            uses.names.extend(piece.names());
            uses.whole_rows = uses.whole_rows.and(WholeRows::of(piece, facts));
            if let PrimaryKeys::Needed = PrimaryKeys::of(piece) {
                uses.primary_keys = PrimaryKeys::Needed;
            }
        }
        uses
    }

    /// The columns of the table's primary key, when the temporary table needs it.
    pub fn primary_key<'c>(&self, table: &Table<'_>, catalog: &'c Catalog) -> &'c [Box<str>] {
        self.primary_keys.needed(table, catalog)
    }

    /// At least one column, because rows count too.
    pub fn needed(&self, table: &Table<'_>, primary_key: &[Box<str>]) -> Columns {
        needed(table, &self.names, &self.whole_rows, primary_key)
    }
}

/// Whether rows are used as wholes somewhere, so that no column can be left out.
enum WholeRows {
    /// `*`, a NATURAL join, an alias that renames: of any table.
    All,
    /// Tables' names and aliases that stand as values.
    Of(HashSet<Box<str>>),
}

impl WholeRows {
    fn of(piece: &Piece<'_>, facts: &Facts) -> WholeRows {
        let renamed = |doubt: &Doubt| matches!(doubt, Doubt::Natural | Doubt::Unread(_));
        if facts.doubts.iter().any(renamed) || (0..piece.len()).any(|at| is_wildcard(piece, at)) {
            return WholeRows::All;
        }
        // A name that stands more often without a dot behind it than relations are called so is used as a value.
        let mut standing: HashMap<&str, usize> = HashMap::new();
        for at in 0..piece.len() {
            if let Some(name) = piece.identifier(at)
                && piece.kind(Some(at + 1)) != Some(Kind::Dot)
            {
                *standing.entry(name).or_default() += 1;
            }
        }
        let mut called: HashMap<&str, usize> = HashMap::new();
        let mut own = HashSet::new();
        let relations = facts.blocks.iter().flat_map(|block| &block.relations);
        for relation in relations.filter(|relation| relation.access == Access::Read) {
            let name = match &relation.source {
                Source::Table(name) => Some(&*name.name),
                Source::Cte(name) => Some(&**name),
                Source::Derived | Source::Function => None,
            };
            *called.entry(&relation.alias).or_default() += 1;
            own.insert(&*relation.alias);
            if let Some(name) = name.filter(|name| **name != *relation.alias) {
                *called.entry(name).or_default() += 1;
                own.insert(name);
            }
        }
        let is_value = |name: &&str| standing.get(name) > called.get(name);
        WholeRows::Of(own.into_iter().filter(is_value).map(Box::from).collect())
    }

    /// Those of two texts.
    fn and(self, other: WholeRows) -> WholeRows {
        match (self, other) {
            (WholeRows::Of(mut one), WholeRows::Of(other)) => {
                one.extend(other);
                WholeRows::Of(one)
            }
            (WholeRows::All, _) | (_, WholeRows::All) => WholeRows::All,
        }
    }

    /// Whether the table's rows are used as wholes under any of its names.
    fn concern(&self, table: &Table<'_>) -> bool {
        match self {
            WholeRows::All => true,
            WholeRows::Of(names) => {
                names.contains(table.name)
                    || table.aliases.iter().any(|alias| names.contains(*alias))
            }
        }
    }
}

/// Whether `*` here stands for columns. It does not between operands, in `count(*)`, and in `EXISTS (SELECT * ..`, where nobody looks at them.
/// `TABLE t` is another way to write it.
fn is_wildcard(piece: &Piece<'_>, at: usize) -> bool {
    let before = at.checked_sub(1);
    if piece.is_word(Some(at), &["table"]) {
        return piece.identifier(at + 1).is_some();
    }
    if piece.kind(Some(at)) != Some(Kind::Operator) || piece.source(at) != "*" {
        return false;
    }
    let exists = at.checked_sub(3).is_some_and(|at| {
        piece.is_word(Some(at), &["exists"])
            && piece.kind(Some(at + 1)) == Some(Kind::OpenParen)
            && piece.is_word(Some(at + 2), &["select"])
    });
    match piece.kind(before) {
        _ if exists => false,
        Some(Kind::OpenParen) => piece.kind(Some(at + 1)) != Some(Kind::CloseParen),
        // An operand, unless no other follows: `DISTINCT ON (a) *`.
        Some(
            Kind::CloseParen | Kind::CloseBracket | Kind::Literal(_) | Kind::Param | Kind::Quoted,
        ) => !begins_operand(piece, at + 1),
        Some(Kind::Word) => {
            piece.is_word(before, &["select", "distinct", "all", "returning"])
                || !begins_operand(piece, at + 1)
        }
        _ => true,
    }
}

fn begins_operand(piece: &Piece<'_>, at: usize) -> bool {
    const CLAUSES: [&str; 14] = [
        "from",
        "into",
        "where",
        "group",
        "having",
        "window",
        "union",
        "intersect",
        "except",
        "order",
        "limit",
        "offset",
        "fetch",
        "for",
    ];
    match piece.kind(Some(at)) {
        None | Some(Kind::Comma | Kind::CloseParen | Kind::Semicolon) => false,
        Some(Kind::Word) => !piece.is_word(Some(at), &CLAUSES),
        Some(_) => true,
    }
}

/// Whether temporary tables need primary keys: only GROUP BY asks for them, to see what depends on what.
enum PrimaryKeys {
    Needed,
    Unneeded,
}

impl PrimaryKeys {
    fn of(piece: &Piece<'_>) -> PrimaryKeys {
        if (0..piece.len())
            .any(|at| piece.is_word(Some(at), &["group"]) && piece.is_word(Some(at + 1), &["by"]))
        {
            PrimaryKeys::Needed
        } else {
            PrimaryKeys::Unneeded
        }
    }

    /// The columns of the table's primary key, when the temporary table needs it. A key without the columns by which the table is sharded
    /// holds on each shard only.
    fn needed<'c>(&self, table: &Table<'_>, catalog: &'c Catalog) -> &'c [Box<str>] {
        let key = catalog
            .primary_keys
            .get(&(table.schema.into(), table.name.into()));
        match (self, key) {
            (PrimaryKeys::Needed, Some(key))
                if table.shard_key().iter().all(|column| key.contains(column)) =>
            {
                key
            }
            _ => &[],
        }
    }
}

/// The columns of the table's primary key, when all of them travel anyway.
pub fn key_among<'c>(table: &Table<'_>, travel: &Columns, catalog: &'c Catalog) -> &'c [Box<str>] {
    let Columns::Named { needed, .. } = travel else {
        return &[];
    };
    match PrimaryKeys::Needed.needed(table, catalog) {
        key if key.iter().all(|column| needed.contains(column)) => key,
        _ => &[],
    }
}

fn needed(
    table: &Table<'_>,
    names: &HashSet<&str>,
    whole_rows: &WholeRows,
    primary_key: &[Box<str>],
) -> Columns {
    let Some(columns) = table.columns.filter(|columns| !columns.is_empty()) else {
        return Columns::Unknown;
    };
    let all: Vec<Box<str>> = columns.iter().map(|column| column.name.clone()).collect();
    let is_needed =
        |column: &str| names.contains(column) || primary_key.iter().any(|key| **key == *column);
    let mut needed: Vec<Box<str>> = if whole_rows.concern(table) {
        all.clone()
    } else {
        all.iter()
            .filter(|column| is_needed(column))
            .cloned()
            .collect()
    };
    if needed.is_empty() {
        let narrow = table.shard_key().first().unwrap_or(&all[0]);
        needed.push(narrow.clone());
    }
    Columns::Named { needed, all }
}

/// Whether values of the type mean the same on another server in their binary form.
pub fn travels_in_binary(type_oid: u32) -> bool {
    type_oid < FIRST_OWN_OID && !NUMBERED.contains(&type_oid)
}

pub fn format(table: &Table<'_>, columns: &Columns) -> CopyFormat {
    let Columns::Named { needed, .. } = columns else {
        return CopyFormat::Text;
    };
    let of_servers = table
        .columns
        .into_iter()
        .flatten()
        .any(|column| needed.contains(&column.name) && !travels_in_binary(column.type_oid));
    if of_servers {
        CopyFormat::Text
    } else {
        CopyFormat::Binary
    }
}
