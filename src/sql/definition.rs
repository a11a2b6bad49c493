//! What a definition statement (CREATE, ALTER, DROP, TRUNCATE, GRANT, VACUUM ...) defines, as far as its place in a cluster depends on it:
//! read from its words, because no parser knows all of Postgres's definitions.
//!
//! What is not understood is recorded as [`What::Other`], never guessed.

use std::ops::Range;

use super::cursor::Cursor;
use super::facts::Name;
use super::lexer::{Kind, Lexeme};
use super::list;
use super::places::lexemes;

/// One definition statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    pub what: What,
    /// Tables and views that it changes, or that what it changes belongs to.
    pub relations: Vec<Name>,
    /// Indexes and sequences that it changes.
    pub parts: Vec<Name>,
    /// Where in the text each of these is, if the statement is about a list that could as well be a shorter one.
    pub places: Vec<Range<usize>>,
    pub block: Block,
    pub constraints: Vec<Constraint>,
}

/// Whether Postgres takes the statement in a transaction block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    Allowed,
    Forbidden,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// CREATE TABLE; of a partition or a table that inherits, its parents.
    Table {
        name: Name,
        parents: Vec<Name>,
        /// `None`: some are not written here (LIKE, OF, or those of parents).
        columns: Option<Vec<Created>>,
    },
    /// CREATE TABLE .. AS.
    TableAs(Name),
    View,
    MaterialisedView,
    /// ALTER TABLE.
    Alter(Vec<Action>),
    /// Nothing that anybody could see in the data: VACUUM, ANALYZE, REINDEX ...
    Upkeep,
    /// A thing outside of databases that every server has of its own: databases, tablespaces, settings of the server; subscriptions.
    Server,
    Other,
}

/// A column of CREATE TABLE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    pub name: Box<str>,
    /// What is behind its name, the type first.
    pub words: Vec<Word>,
}

/// One action of ALTER TABLE that matters to where its rows are.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Rename(Box<str>),
    SetSchema(Box<str>),
    /// The column is another one, or none, afterwards: renamed, dropped, of another type.
    Column(Box<str>),
    /// ADD COLUMN, with the words of its definition.
    Add {
        words: Vec<Word>,
    },
    /// ATTACH PARTITION, INHERIT.
    Join(Name),
    /// DETACH PARTITION, NO INHERIT.
    Part,
    Other,
}

/// A word of an expression or type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub word: Box<str>,
    pub place: WordPlace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordPlace {
    /// In front of parentheses, not behind `::`.
    Call,
    Elsewhere,
}

/// A constraint that looks at more rows than one.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// PRIMARY KEY, UNIQUE, a unique index, or EXCLUDE: of the columns that must be equal for two rows to be in conflict; expressions are left out.
    Unique(Vec<Box<str>>),
    Foreign {
        columns: Vec<Box<str>>,
        table: Name,
        /// `None`: its primary key.
        referenced: Option<Vec<Box<str>>>,
    },
    /// LIKE .. INCLUDING INDEXES: those of another table.
    Copied,
}

/// What an element of a table's definition turns out to be.
enum Element {
    Column(Created),
    Like,
    Constraint,
}

/// Reads the statement at `range`; `None`: it cannot be read.
pub fn definition(text: &str, range: Range<usize>) -> Option<Definition> {
    let lexemes = lexemes(text, range)?;
    let mut reader = Reader {
        found: Definition {
            what: What::Other,
            relations: Vec::new(),
            parts: Vec::new(),
            places: Vec::new(),
            block: Block::Allowed,
            constraints: Vec::new(),
        },
        text,
    };
    reader.statement(Cursor::new(text, &lexemes));
    Some(reader.found)
}

struct Reader<'a> {
    found: Definition,
    text: &'a str,
}

/// What may stand between CREATE and TABLE.
const TABLE_MODIFIERS: [&str; 4] = ["unlogged", "foreign", "global", "local"];

impl Reader<'_> {
    fn statement(&mut self, mut cursor: Cursor) {
        let Some(first) = cursor.name() else { return };
        match &*first {
            "create" => self.create(cursor),
            "alter" => self.alter(cursor),
            "drop" => self.drop(cursor),
            "truncate" => {
                cursor.take("table");
                self.relations(&mut cursor);
            }
            "comment" => self.comment(cursor),
            "grant" | "revoke" => self.grant(cursor),
            "refresh" => {
                cursor.take_all(&["materialized", "view"]);
                cursor.take("concurrently");
                self.relations(&mut cursor);
            }
            "security" => {
                while !cursor.at_end() && !cursor.take("on") {
                    cursor.next();
                }
                self.comment_on(cursor);
            }
            "reindex" => self.reindex(cursor),
            "vacuum" | "analyze" | "analyse" | "cluster" | "checkpoint" => {
                self.upkeep(&first, cursor)
            }
            _ => {}
        }
    }

    fn create(&mut self, mut cursor: Cursor) {
        cursor.take_all(&["or", "replace"]);
        while cursor.take_any(&TABLE_MODIFIERS) {}
        if cursor.take("table") {
            return self.create_table(cursor);
        }
        let unique = cursor.take("unique");
        if cursor.take("index") {
            return self.create_index(cursor, unique);
        }
        cursor.take("recursive");
        if cursor.take("view") {
            self.found.what = What::View;
        } else if cursor.take_all(&["materialized", "view"]) {
            self.found.what = What::MaterialisedView;
        } else if cursor.take("sequence") {
            self.owner(cursor);
        } else if cursor.sees_any(0, &["database", "tablespace", "subscription"]) {
            self.found.what = What::Server;
        } else if cursor.take("rule") {
            self.behind(cursor, "to");
        } else if cursor.take("statistics") {
            self.behind(cursor, "from");
        } else if cursor.take("policy")
            || cursor.take("trigger")
            || cursor.take_all(&["constraint", "trigger"])
        {
            self.behind(cursor, "on");
        }
    }

    /// `OWNED BY table.column`
    fn owner(&mut self, mut cursor: Cursor) {
        while !cursor.at_end() {
            if cursor.take_all(&["owned", "by"]) {
                if !cursor.sees(0, "none")
                    && let Some(table) = qualified(&mut cursor).and_then(without_column)
                {
                    self.found.relations.push(table);
                }
                return;
            }
            cursor.next();
        }
    }

    /// The table that follows a word at depth 0.
    fn behind(&mut self, mut cursor: Cursor, word: &str) {
        while !cursor.at_end() {
            if cursor.take(word) {
                cursor.take("only");
                self.found.relations.extend(table(&mut cursor));
                return;
            }
            if cursor.kind() == Some(Kind::OpenParen) {
                cursor.parenthesised();
            } else {
                cursor.next();
            }
        }
    }

    fn create_table(&mut self, mut cursor: Cursor) {
        cursor.take_all(&["if", "not", "exists"]);
        let Some(name) = table(&mut cursor) else {
            return;
        };
        let mut parents = Vec::new();
        let mut columns = None;
        if cursor.take_all(&["partition", "of"]) {
            parents.extend(table(&mut cursor));
        } else if cursor.kind() == Some(Kind::OpenParen) {
            columns = Some(Vec::new());
        }
        let list = cursor.clone();
        if cursor.kind() == Some(Kind::OpenParen)
            && let Some(elements) = cursor.parenthesised()
            && !is_as(&cursor)
        {
            for element in pieces(elements) {
                match self.element(element) {
                    Element::Column(column) => {
                        columns.iter_mut().for_each(|all| all.push(column.clone()))
                    }
                    Element::Like => columns = None,
                    Element::Constraint => {}
                }
            }
        }
        let mut rest = list;
        while !rest.at_end() {
            if rest.take("inherits") {
                columns = None;
                let inside = rest.parenthesised().unwrap_or_default();
                for piece in pieces(inside) {
                    parents.extend(table(&mut Cursor::new(self.text, piece)));
                }
            } else if is_as(&rest) {
                self.found.what = What::TableAs(name);
                return;
            } else if rest.kind() == Some(Kind::OpenParen) {
                if rest.parenthesised().is_none() {
                    return;
                }
            } else {
                rest.next();
            }
        }
        self.found.what = What::Table {
            name,
            parents,
            columns,
        };
    }

    /// One element of a table's definition: a column or a constraint.
    fn element(&mut self, element: &[Lexeme]) -> Element {
        let mut cursor = Cursor::new(self.text, element);
        if cursor.take("like") {
            while !cursor.at_end() {
                if cursor.take_all(&["including", "indexes"])
                    || cursor.take_all(&["including", "all"])
                {
                    self.found.constraints.push(Constraint::Copied);
                }
                cursor.next();
            }
            return Element::Like;
        }
        if cursor.sees_any(
            0,
            &[
                "constraint",
                "primary",
                "unique",
                "foreign",
                "exclude",
                "check",
            ],
        ) {
            self.table_constraint(cursor);
            return Element::Constraint;
        }
        let Some(name) = cursor.name() else {
            return Element::Constraint;
        };
        let words = words(&cursor);
        self.column_constraints(&name, cursor);
        Element::Column(Created { name, words })
    }

    fn table_constraint(&mut self, mut cursor: Cursor) {
        if cursor.take("constraint") {
            cursor.name();
        }
        if cursor.take_all(&["primary", "key"]) || cursor.take("unique") {
            cursor.take("nulls");
            cursor.take("not");
            cursor.take("distinct");
            // USING INDEX has none: the index was looked at when it was made.
            if let Some(columns) = columns(&mut cursor) {
                self.found.constraints.push(Constraint::Unique(columns));
            }
        } else if cursor.take_all(&["foreign", "key"]) {
            let columns = columns(&mut cursor).unwrap_or_default();
            if cursor.take("references") {
                self.references(columns, &mut cursor);
            }
        } else if cursor.take("exclude") {
            if cursor.take("using") {
                cursor.name();
            }
            let inside = cursor.parenthesised().unwrap_or_default();
            let equal = pieces(inside).filter_map(|piece| equal_column(self.text, piece));
            let equal = equal.collect();
            self.found.constraints.push(Constraint::Unique(equal));
        }
    }

    fn column_constraints(&mut self, column: &str, mut cursor: Cursor) {
        while !cursor.at_end() {
            if cursor.take_all(&["primary", "key"]) || cursor.take("unique") {
                let columns = vec![Box::from(column)];
                self.found.constraints.push(Constraint::Unique(columns));
            } else if cursor.take("references") {
                self.references(vec![Box::from(column)], &mut cursor);
            } else if cursor.kind() == Some(Kind::OpenParen) {
                if cursor.parenthesised().is_none() {
                    return;
                }
            } else {
                cursor.next();
            }
        }
    }

    fn references(&mut self, columns: Vec<Box<str>>, cursor: &mut Cursor) {
        if let Some(table) = table(cursor) {
            let referenced = self::columns(cursor);
            self.found.constraints.push(Constraint::Foreign {
                columns,
                table,
                referenced,
            });
        }
    }

    fn create_index(&mut self, mut cursor: Cursor, unique: bool) {
        if cursor.take("concurrently") {
            self.found.block = Block::Forbidden;
        }
        while !cursor.at_end() && !cursor.take("on") {
            cursor.next();
        }
        cursor.take("only");
        self.found.relations.extend(table(&mut cursor));
        if cursor.take("using") {
            cursor.name();
        }
        if unique {
            let inside = cursor.parenthesised().unwrap_or_default();
            let plain = pieces(inside).filter_map(|piece| plain_column(self.text, piece));
            self.found
                .constraints
                .push(Constraint::Unique(plain.collect()));
        }
    }

    fn alter(&mut self, mut cursor: Cursor) {
        cursor.take("foreign");
        if cursor.take("table") {
            return self.alter_table(cursor);
        }
        if cursor.take("view") || cursor.take_all(&["materialized", "view"]) {
            cursor.take_all(&["if", "exists"]);
            self.found.relations.extend(table(&mut cursor));
            self.found.what = What::Alter(self.actions(cursor));
        } else if cursor.take_any(&["index", "sequence"]) {
            cursor.take_all(&["if", "exists"]);
            self.found.parts.extend(table(&mut cursor));
            self.owner(cursor);
        } else if cursor.take_any(&["trigger", "policy", "rule"]) {
            self.behind(cursor, "on");
        } else if cursor.sees_any(0, &["database", "tablespace", "system", "subscription"]) {
            self.found.what = What::Server;
        }
    }

    fn alter_table(&mut self, mut cursor: Cursor) {
        if cursor.sees(0, "all") && cursor.sees(1, "in") {
            self.found.what = What::Server;
            return;
        }
        cursor.take_all(&["if", "exists"]);
        cursor.take("only");
        self.found.relations.extend(table(&mut cursor));
        cursor.take_operator("*");
        self.found.what = What::Alter(self.actions(cursor));
    }

    fn actions(&mut self, cursor: Cursor) -> Vec<Action> {
        let all = cursor.lexemes();
        pieces(all)
            .map(|piece| self.action(Cursor::new(self.text, piece)))
            .collect()
    }

    fn action(&mut self, mut cursor: Cursor) -> Action {
        let constraint = [
            "constraint",
            "primary",
            "unique",
            "foreign",
            "exclude",
            "check",
        ];
        if cursor.take("add") {
            if cursor.sees_any(0, &constraint) {
                self.table_constraint(cursor);
                return Action::Other;
            }
            cursor.take("column");
            cursor.take_all(&["if", "not", "exists"]);
            let Some(column) = cursor.name() else {
                return Action::Other;
            };
            let words = words(&cursor);
            self.column_constraints(&column, cursor);
            return Action::Add { words };
        }
        if cursor.take("rename") {
            if cursor.take("to") {
                return cursor.name().map_or(Action::Other, Action::Rename);
            }
            if cursor.take("constraint") {
                return Action::Other;
            }
            cursor.take("column");
            return cursor.name().map_or(Action::Other, Action::Column);
        }
        if cursor.take("drop") {
            if cursor.take("constraint") {
                return Action::Other;
            }
            cursor.take("column");
            cursor.take_all(&["if", "exists"]);
            return cursor.name().map_or(Action::Other, Action::Column);
        }
        if cursor.take("alter") {
            if cursor.take("constraint") {
                return Action::Other;
            }
            cursor.take("column");
            let Some(column) = cursor.name() else {
                return Action::Other;
            };
            let typed = cursor.take("type") || cursor.take_all(&["set", "data", "type"]);
            return if typed {
                Action::Column(column)
            } else {
                Action::Other
            };
        }
        if cursor.take_all(&["set", "schema"]) {
            return cursor.name().map_or(Action::Other, Action::SetSchema);
        }
        if cursor.take_all(&["attach", "partition"]) || cursor.take("inherit") {
            return table(&mut cursor).map_or(Action::Other, Action::Join);
        }
        if cursor.take_all(&["detach", "partition"]) || cursor.take_all(&["no", "inherit"]) {
            if words(&cursor)
                .iter()
                .any(|word| &*word.word == "concurrently")
            {
                self.found.block = Block::Forbidden;
            }
            return Action::Part;
        }
        Action::Other
    }

    fn drop(&mut self, mut cursor: Cursor) {
        cursor.take("foreign");
        if cursor.take_any(&["table", "view"]) || cursor.take_all(&["materialized", "view"]) {
            cursor.take_all(&["if", "exists"]);
            self.relations(&mut cursor);
        } else if cursor.take_any(&["index", "sequence"]) {
            if cursor.take("concurrently") {
                self.found.block = Block::Forbidden;
            }
            cursor.take_all(&["if", "exists"]);
            self.found.parts = self.list(&mut cursor);
        } else if cursor.take_any(&["trigger", "policy", "rule"]) {
            self.behind(cursor, "on");
        } else if cursor.sees_any(0, &["database", "tablespace", "subscription"]) {
            self.found.what = What::Server;
        }
    }

    fn comment(&mut self, mut cursor: Cursor) {
        cursor.take("on");
        self.comment_on(cursor);
    }

    fn comment_on(&mut self, mut cursor: Cursor) {
        if cursor.take_any(&["table", "view"])
            || cursor.take_all(&["materialized", "view"])
            || cursor.take_all(&["foreign", "table"])
        {
            self.found.relations.extend(table(&mut cursor));
        } else if cursor.take("column") {
            self.found
                .relations
                .extend(qualified(&mut cursor).and_then(without_column));
        } else if cursor.take_any(&["index", "sequence"]) {
            self.found.parts.extend(table(&mut cursor));
        } else if cursor.take_any(&["constraint", "trigger", "policy", "rule"]) {
            cursor.name();
            if cursor.take("on") && !cursor.sees(0, "domain") {
                self.found.relations.extend(table(&mut cursor));
            }
        } else if cursor.sees_any(0, &["database", "tablespace", "subscription"]) {
            self.found.what = What::Server;
        }
    }

    fn grant(&mut self, mut cursor: Cursor) {
        const OTHERS: [&str; 14] = [
            "database",
            "domain",
            "foreign",
            "function",
            "language",
            "large",
            "procedure",
            "routine",
            "schema",
            "tablespace",
            "type",
            "parameter",
            "all",
            "sequence",
        ];
        while !cursor.at_end() {
            if !cursor.take("on") {
                if cursor.kind() == Some(Kind::OpenParen) {
                    if cursor.parenthesised().is_none() {
                        return;
                    }
                } else {
                    cursor.next();
                }
                continue;
            }
            if cursor.sees_any(0, &["database", "tablespace", "parameter"]) {
                self.found.what = What::Server;
            } else if cursor.take("sequence") {
                self.found.parts = self.list(&mut cursor);
            } else if !cursor.sees_any(0, &OTHERS) {
                cursor.take("table");
                self.relations(&mut cursor);
            }
            return;
        }
    }

    fn reindex(&mut self, mut cursor: Cursor) {
        self.found.what = What::Upkeep;
        self.found.block = Block::Forbidden;
        if cursor.kind() == Some(Kind::OpenParen) {
            cursor.parenthesised();
        }
        if cursor.take("table") {
            cursor.take("concurrently");
            self.found.relations.extend(table(&mut cursor));
        } else if cursor.take("index") {
            cursor.take("concurrently");
            self.found.parts.extend(table(&mut cursor));
        }
    }

    fn upkeep(&mut self, command: &str, mut cursor: Cursor) {
        self.found.what = What::Upkeep;
        self.found.block = Block::Forbidden;
        if cursor.kind() == Some(Kind::OpenParen) {
            cursor.parenthesised();
        }
        while cursor.take_any(&["full", "freeze", "verbose", "analyze", "analyse"]) {}
        self.relations(&mut cursor);
        // CLUSTER index ON table.
        if command == "cluster" && cursor.take("on") {
            self.found.relations.clear();
            self.found.places.clear();
            self.found.relations.extend(table(&mut cursor));
        }
    }

    fn relations(&mut self, cursor: &mut Cursor) {
        self.found.relations = self.list(cursor);
    }

    fn list(&mut self, cursor: &mut Cursor) -> Vec<Name> {
        let listed = list::names(cursor).unwrap_or_default();
        let (names, places) = listed.into_iter().unzip();
        self.found.places = places;
        names
    }
}

/// CREATE TABLE .. AS, not the AS of GENERATED ALWAYS AS, which stands in parentheses.
fn is_as(cursor: &Cursor) -> bool {
    cursor.sees(0, "as")
}

/// `[[database.]schema.]name`
pub(super) fn table(cursor: &mut Cursor) -> Option<Name> {
    let mut parts = qualified(cursor)?;
    let name = parts.pop()?;
    Some(Name {
        schema: parts.pop(),
        name,
    })
}

fn qualified(cursor: &mut Cursor) -> Option<Vec<Box<str>>> {
    let mut parts = vec![cursor.name()?];
    while cursor.take_kind(Kind::Dot) {
        parts.push(cursor.name()?);
    }
    Some(parts)
}

/// The table in `[schema.]table.column`.
fn without_column(mut parts: Vec<Box<str>>) -> Option<Name> {
    parts.pop()?;
    let name = parts.pop()?;
    Some(Name {
        schema: parts.pop(),
        name,
    })
}

/// What stands between commas.
fn pieces(lexemes: &[Lexeme]) -> impl Iterator<Item = &[Lexeme]> {
    let mut depth = 0_usize;
    lexemes.split(move |lexeme| {
        match lexeme.kind {
            Kind::OpenParen | Kind::OpenBracket => depth += 1,
            Kind::CloseParen | Kind::CloseBracket => depth = depth.saturating_sub(1),
            _ => {}
        }
        lexeme.kind == Kind::Comma && depth == 0
    })
}

/// `(a, b)`
fn columns(cursor: &mut Cursor) -> Option<Vec<Box<str>>> {
    if cursor.kind() != Some(Kind::OpenParen) {
        return None;
    }
    let text = cursor.text();
    let inside = cursor.parenthesised()?;
    Some(
        pieces(inside)
            .filter_map(|piece| Cursor::new(text, piece).name())
            .collect(),
    )
}

/// A column of an index; an expression or a call is none.
fn plain_column(text: &str, piece: &[Lexeme]) -> Option<Box<str>> {
    let mut cursor = Cursor::new(text, piece);
    let column = cursor.name()?;
    // An operator class may have options in parentheses, behind its name.
    let is_call = matches!(cursor.kind(), Some(Kind::OpenParen | Kind::Dot));
    (!is_call).then_some(column)
}

/// A column of EXCLUDE that is compared by `=`.
fn equal_column(text: &str, piece: &[Lexeme]) -> Option<Box<str>> {
    let column = plain_column(text, piece)?;
    let mut cursor = Cursor::new(text, piece);
    while !cursor.at_end() {
        if cursor.take("with") {
            return (cursor.take_operator("=") && cursor.at_end()).then_some(column);
        }
        cursor.next();
    }
    None
}

fn words(cursor: &Cursor) -> Vec<Word> {
    let lexemes = cursor.lexemes();
    let kind = |place: usize| lexemes.get(place).map(|lexeme| lexeme.kind);
    (0..lexemes.len())
        .filter_map(|place| {
            let word = super::names::identifier(cursor.text(), &lexemes[place])?;
            let behind_cast = place > 0 && kind(place - 1) == Some(Kind::Typecast);
            let called = kind(place + 1) == Some(Kind::OpenParen) && !behind_cast;
            let place = if called {
                WordPlace::Call
            } else {
                WordPlace::Elsewhere
            };
            Some(Word { word, place })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Definition {
        definition(text, 0..text.len()).expect("it can be read")
    }

    fn name(text: &str) -> Name {
        let (schema, name) = text.split_once('.').map_or((None, text), |(schema, name)| {
            (Some(Box::from(schema)), name)
        });
        Name {
            schema,
            name: name.into(),
        }
    }

    fn unique(columns: &[&str]) -> Constraint {
        Constraint::Unique(columns.iter().map(|column| Box::from(*column)).collect())
    }

    fn foreign(columns: &[&str], table: &str, referenced: Option<&[&str]>) -> Constraint {
        let boxed = |columns: &[&str]| columns.iter().map(|column| Box::from(*column)).collect();
        Constraint::Foreign {
            columns: boxed(columns),
            table: name(table),
            referenced: referenced.map(boxed),
        }
    }

    #[test]
    fn tables_with_their_constraints() {
        let found = read(
            "CREATE UNLOGGED TABLE IF NOT EXISTS app.t (id bigint CONSTRAINT c PRIMARY KEY, \"Unique\" text DEFAULT f('unique', 1),
               a int REFERENCES x ON DELETE CASCADE, b numeric(10, 2) UNIQUE REFERENCES s.y (q), CHECK (a IN (1, 2)),
               CONSTRAINT u UNIQUE NULLS NOT DISTINCT (id, a), FOREIGN KEY (a, b) REFERENCES z (c, d), LIKE other INCLUDING ALL,
               EXCLUDE USING gist (id WITH =, during WITH &&, (f(a)) WITH =)) PARTITION BY LIST (id)",
        );
        assert_eq!(
            found.what,
            What::Table {
                name: name("app.t"),
                parents: Vec::new(),
                columns: None,
            }
        );
        assert_eq!(
            found.constraints,
            [
                unique(&["id"]),
                foreign(&["a"], "x", None),
                unique(&["b"]),
                foreign(&["b"], "s.y", Some(&["q"])),
                unique(&["id", "a"]),
                foreign(&["a", "b"], "z", Some(&["c", "d"])),
                Constraint::Copied,
                unique(&["id"]),
            ]
        );
    }

    #[test]
    fn tables_by_their_beginnings() {
        let what = |text| read(text).what;
        let table = |table, parents: &[&str]| What::Table {
            name: name(table),
            parents: parents.iter().map(|parent| name(parent)).collect(),
            columns: None,
        };
        assert_eq!(
            what("CREATE TABLE p PARTITION OF q FOR VALUES IN (1, 2)"),
            table("p", &["q"])
        );
        assert_eq!(
            what("CREATE TABLE p (a int) INHERITS (q, s.r)"),
            table("p", &["q", "s.r"])
        );
        let What::Table { columns, .. } = what(
            "CREATE TABLE t (\"A\" int GENERATED ALWAYS AS (1) STORED, CHECK (b > 0), b timestamp(3) with time zone NOT NULL)",
        ) else {
            panic!("a table");
        };
        let columns: Vec<String> = columns
            .expect("all are written")
            .iter()
            .map(|column| {
                let words: Vec<&str> = column.words.iter().map(|word| &*word.word).collect();
                format!("{}: {}", column.name, words.join(" "))
            })
            .collect();
        assert_eq!(
            columns,
            [
                "A: int generated always as stored",
                "b: timestamp with time zone not null"
            ]
        );
        assert_eq!(
            what("CREATE TABLE t OF kind (PRIMARY KEY (a))"),
            table("t", &[])
        );
        assert_eq!(
            what("CREATE TABLE t (a, b) WITH (fillfactor = 70) AS SELECT 1, 2"),
            What::TableAs(name("t"))
        );
        assert_eq!(what("CREATE TABLE t AS TABLE u"), What::TableAs(name("t")));
    }

    #[test]
    fn indexes() {
        let found = read(
            "CREATE UNIQUE INDEX CONCURRENTLY i ON ONLY s.t USING btree (a, lower(b), (c), d DESC) INCLUDE (e) WHERE a > 0",
        );
        assert_eq!(found.relations, [name("s.t")]);
        assert_eq!(found.constraints, [unique(&["a", "d"])]);
        assert_eq!(found.block, Block::Forbidden);
        assert_eq!(read("CREATE INDEX ON t (a)").constraints, []);
        assert_eq!(read("DROP INDEX a, s.b").parts, [name("a"), name("s.b")]);
    }

    #[test]
    fn alterations() {
        let actions = |text| match read(text).what {
            What::Alter(actions) => actions,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            actions("ALTER TABLE IF EXISTS ONLY t * RENAME TO u"),
            [Action::Rename("u".into())]
        );
        assert_eq!(
            actions("ALTER TABLE t RENAME a TO b"),
            [Action::Column("a".into())]
        );
        assert_eq!(
            actions(
                "ALTER TABLE t DROP a, ALTER COLUMN b TYPE int, ALTER c SET NOT NULL, DROP CONSTRAINT d"
            ),
            [
                Action::Column("a".into()),
                Action::Column("b".into()),
                Action::Other,
                Action::Other
            ]
        );
        assert_eq!(
            actions("ALTER TABLE t ATTACH PARTITION s.p FOR VALUES IN (1)"),
            [Action::Join(name("s.p"))]
        );
        assert_eq!(actions("ALTER TABLE t DETACH PARTITION p"), [Action::Part]);
        assert_eq!(
            actions("ALTER TABLE t SET SCHEMA s"),
            [Action::SetSchema("s".into())]
        );
        let found = read(
            "ALTER TABLE t ADD COLUMN a int UNIQUE, ADD FOREIGN KEY (a) REFERENCES u, ADD CONSTRAINT k UNIQUE USING INDEX i",
        );
        assert_eq!(
            found.constraints,
            [unique(&["a"]), foreign(&["a"], "u", None)]
        );
        let [Action::Add { words }] =
            &actions("ALTER TABLE t ADD a varchar DEFAULT now()::text(5)")[..]
        else {
            panic!("one column")
        };
        let calls = words.iter().filter(|word| word.place == WordPlace::Call);
        assert_eq!(calls.map(|word| &*word.word).collect::<Vec<_>>(), ["now"]);
    }

    #[test]
    fn what_statements_name() {
        for (text, expected) in [
            ("TRUNCATE a, ONLY s.b RESTART IDENTITY", vec!["a", "s.b"]),
            ("TRUNCATE TABLE a", vec!["a"]),
            ("DROP TABLE IF EXISTS a, b CASCADE", vec!["a", "b"]),
            ("COMMENT ON COLUMN s.t.c IS 'x'", vec!["s.t"]),
            ("COMMENT ON TRIGGER g ON t IS 'x'", vec!["t"]),
            ("GRANT SELECT (a, b), INSERT ON t, u TO x", vec!["t", "u"]),
            ("GRANT ALL ON ALL TABLES IN SCHEMA s TO x", vec![]),
            ("GRANT USAGE ON SCHEMA s TO x", vec![]),
            (
                "CREATE TRIGGER g BEFORE UPDATE OF a ON t FOR EACH ROW EXECUTE FUNCTION f()",
                vec!["t"],
            ),
            ("CREATE POLICY p ON t USING (true)", vec!["t"]),
            ("DROP TRIGGER g ON t", vec!["t"]),
            ("VACUUM (FULL, VERBOSE) a (x), b", vec!["a", "b"]),
            ("ANALYZE", vec![]),
            ("CLUSTER t USING i", vec!["t"]),
            ("REINDEX TABLE CONCURRENTLY t", vec!["t"]),
            ("CREATE SEQUENCE q OWNED BY s.t.c", vec!["s.t"]),
            ("CREATE TYPE mood AS ENUM ('a')", vec![]),
            ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", vec!["m"]),
        ] {
            let expected: Vec<Name> = expected.into_iter().map(name).collect();
            assert_eq!(read(text).relations, expected, "{text}");
        }
    }
}
