//! Queries at random over rows of several shards: joins of every kind, aggregates, windows, subqueries, CTEs, set operations, on columns of many
//! types with NULLs. Whatever they ask is determined by SQL: windows that depend on ties and rows picked by LIMIT without a total order do not occur.

use super::pair::{Case, Rows, Sending};
use super::random::Random;
use super::stock::NAMES;

/// What can be done with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Numeric,
    Float,
    Text,
    /// COLLATE "C".
    TextC,
    /// In the order of a language.
    TextI,
    Bool,
    Day,
    Time,
}

/// Something that can be selected from.
#[derive(Clone, Debug)]
struct Source {
    from: String,
    columns: Vec<Column>,
}

#[derive(Clone, Debug)]
struct Column {
    sql: String,
    kind: Kind,
}

/// A query without ORDER BY, and the kinds of its columns, which are named `c0`, `c1` ...
struct Query {
    sql: String,
    kinds: Vec<Kind>,
}

const ITEMS: &[(&str, Kind)] = &[
    ("id", Kind::Integer),
    ("grp", Kind::Integer),
    ("small", Kind::Integer),
    ("price", Kind::Numeric),
    ("ratio", Kind::Float),
    ("ratio4", Kind::Float),
    ("flag", Kind::Bool),
    ("day", Kind::Day),
    ("at", Kind::Time),
    ("name", Kind::Text),
    ("c_name", Kind::TextC),
    ("i_name", Kind::TextI),
    ("short", Kind::Text),
];
const PARTS: &[(&str, Kind)] = &[
    ("item_id", Kind::Integer),
    ("part", Kind::Integer),
    ("qty", Kind::Integer),
    ("cost", Kind::Numeric),
    ("label", Kind::Text),
];
const TAGS: &[(&str, Kind)] = &[
    ("tag", Kind::Text),
    ("item_id", Kind::Integer),
    ("weight", Kind::Integer),
    ("kind", Kind::TextI),
];
const NODES: &[(&str, Kind)] = &[
    ("id", Kind::Integer),
    ("parent", Kind::Integer),
    ("title", Kind::Text),
];
const EMPTY: &[(&str, Kind)] = &[
    ("id", Kind::Integer),
    ("v", Kind::Integer),
    ("t", Kind::Text),
];
const ODD: &[(&str, Kind)] = &[
    ("\"Key\"", Kind::Integer),
    ("\"Mixed Case\"", Kind::Text),
    ("\"select\"", Kind::Integer),
];
const COLOURS: &[(&str, Kind)] = &[("colour", Kind::Text), ("rank", Kind::Integer)];
const LONE: &[(&str, Kind)] = &[("id", Kind::Integer), ("note", Kind::Text)];

const TABLES: [(&str, &[(&str, Kind)]); 8] = [
    ("items", ITEMS),
    ("parts", PARTS),
    ("tags", TAGS),
    ("nodes", NODES),
    ("empty", EMPTY),
    ("\"Odd Table\"", ODD),
    ("colours", COLOURS),
    ("lone", LONE),
];

impl Random {
    /// One query; with ORDER BY every column is a key, so that the order is total but for equal rows.
    pub fn wide(&mut self) -> Case {
        let depth = 1 + self.below(2);
        let mut with = String::new();
        let mut known = Vec::new();
        if self.one_in(5) {
            let query = self.wide_query(1, &[]);
            let materialized = self.pick(&["", "", "MATERIALIZED ", "NOT MATERIALIZED "]);
            with = format!("WITH w AS {materialized}({}) ", query.sql);
            known.push(("w".to_owned(), named(&query.kinds)));
        }
        let query = match self.below(7) {
            0 => self.set_operation_wide(&known),
            1 => self.plain_scatter(),
            _ => self.wide_query(depth, &known),
        };
        let (sql, rows) = match self.below(3) {
            0 => (query.sql, Rows::Multiset),
            _ => self.ordered(query),
        };
        Case {
            sql: with + &sql,
            parameters: Vec::new(),
            rows,
            sending: Sending::Whole,
        }
    }

    fn ordered(&mut self, query: Query) -> (String, Rows) {
        let mut places: Vec<usize> = (1..=query.kinds.len()).collect();
        for place in (1..places.len()).rev() {
            let other = self.below(place + 1);
            places.swap(place, other);
        }
        let keys: Vec<String> = places
            .iter()
            .map(|place| format!("{place}{}", self.direction()))
            .collect();
        let mut sql = format!("{} ORDER BY {}", query.sql, keys.join(", "));
        if self.one_in(2) {
            sql += &match self.below(6) {
                0 => " LIMIT 0".to_owned(),
                1 => format!(" OFFSET {}", self.below(70)),
                2 => format!(" FETCH FIRST {} ROWS ONLY", self.below(20) + 1),
                3 => format!(" LIMIT {} OFFSET {}", self.below(20), self.below(20)),
                4 => format!(" FETCH FIRST {} ROWS WITH TIES", self.below(9) + 1),
                _ => format!(" LIMIT {}", self.below(30)),
            };
        }
        (sql, Rows::InOrder)
    }

    fn direction(&mut self) -> &'static str {
        self.pick(&[
            "",
            "",
            " DESC",
            " ASC NULLS FIRST",
            " DESC NULLS LAST",
            " NULLS LAST",
            " DESC NULLS FIRST",
        ])
    }

    /// One table, so that shards' rows may add up.
    fn plain_scatter(&mut self) -> Query {
        let source = self.table("t", 6);
        let sql = format!("FROM {}{}", source.from, self.filter(&source.columns, 0));
        self.selected(&source, &sql)
    }

    fn wide_query(&mut self, depth: usize, known: &[(String, Vec<Column>)]) -> Query {
        let source = self.source(depth, known);
        let filter = self.filter(&source.columns, depth);
        let sql = format!("FROM {}{filter}", source.from);
        self.selected(&source, &sql)
    }

    /// A select list in front of FROM and WHERE.
    fn selected(&mut self, source: &Source, sql: &str) -> Query {
        match self.below(6) {
            0 | 1 => self.plain(source, sql),
            2 | 3 => self.grouped(source, sql),
            4 => self.totals(source, sql),
            _ => self.windowed(source, sql),
        }
    }

    fn set_operation_wide(&mut self, known: &[(String, Vec<Column>)]) -> Query {
        let kinds: Vec<Kind> = (0..=self.below(2))
            .map(|_| self.pick(&[Kind::Integer, Kind::Integer, Kind::Text, Kind::Numeric]))
            .collect();
        let mut sql = self.branch(&kinds, known);
        for _ in 0..=self.below(2) {
            let operation = self.pick(&[
                "UNION",
                "UNION ALL",
                "UNION ALL",
                "INTERSECT",
                "EXCEPT",
                "EXCEPT ALL",
                "INTERSECT ALL",
            ]);
            sql = format!("{sql} {operation} {}", self.branch(&kinds, known));
        }
        Query { sql, kinds }
    }

    fn branch(&mut self, kinds: &[Kind], known: &[(String, Vec<Column>)]) -> String {
        let source = match self.below(4) {
            0 => self.source(1, known),
            _ => self.table("t", TABLES.len()),
        };
        let outputs: Vec<String> = kinds
            .iter()
            .enumerate()
            .map(|(place, kind)| format!("{} AS c{place}", self.value_of(*kind, &source.columns)))
            .collect();
        let filter = self.filter(&source.columns, 0);
        format!(
            "(SELECT {} FROM {}{filter})",
            outputs.join(", "),
            source.from
        )
    }

    fn table(&mut self, alias: &str, of: usize) -> Source {
        let (name, columns) = TABLES[self.below(of)];
        Source {
            from: format!("{name} {alias}"),
            columns: columns
                .iter()
                .map(|(column, kind)| Column {
                    sql: format!("{alias}.{column}"),
                    kind: *kind,
                })
                .collect(),
        }
    }

    /// A table, a CTE or a derived table.
    fn relation(&mut self, alias: &str, depth: usize, known: &[(String, Vec<Column>)]) -> Source {
        if let (Some((name, columns)), true) = (known.first(), self.one_in(3)) {
            let columns = columns.iter().map(|column| Column {
                sql: format!("{alias}.{}", column.sql),
                kind: column.kind,
            });
            return Source {
                from: format!("{name} {alias}"),
                columns: columns.collect(),
            };
        }
        if depth > 0 && self.one_in(4) {
            let query = self.wide_query(depth - 1, &[]);
            let columns = named(&query.kinds).into_iter().map(|column| Column {
                sql: format!("{alias}.{}", column.sql),
                ..column
            });
            return Source {
                from: format!("({}) {alias}", query.sql),
                columns: columns.collect(),
            };
        }
        self.table(alias, TABLES.len())
    }

    fn source(&mut self, depth: usize, known: &[(String, Vec<Column>)]) -> Source {
        let mut source = self.relation("a", depth, known);
        for alias in ["b", "c"] {
            if !self.one_in(2) {
                break;
            }
            let other = self.relation(alias, depth, known);
            let Some(on) = self.equality(&source.columns, &other.columns) else {
                break;
            };
            source = match self.below(9) {
                0 => self.lateral(source, &other, alias, &on),
                kind => {
                    let kind = [
                        "JOIN",
                        "JOIN",
                        "JOIN",
                        "LEFT JOIN",
                        "LEFT JOIN",
                        "RIGHT JOIN",
                        "FULL JOIN",
                        "FULL JOIN",
                    ][kind - 1];
                    let more = if kind != "FULL JOIN" && self.one_in(4) {
                        format!(
                            " AND {}",
                            self.condition_on(
                                &[source.columns.clone(), other.columns.clone()].concat(),
                                0
                            )
                        )
                    } else {
                        String::new()
                    };
                    Source {
                        from: format!("{} {kind} {} ON {on}{more}", source.from, other.from),
                        columns: [source.columns, other.columns].concat(),
                    }
                }
            };
        }
        source
    }

    fn lateral(&mut self, source: Source, other: &Source, alias: &str, on: &str) -> Source {
        let numbers: Vec<&Column> = other
            .columns
            .iter()
            .filter(|column| column.kind == Kind::Integer)
            .collect();
        let of = numbers.first().map_or("1", |column| &column.sql);
        let columns = ["n", "most"].map(|name| Column {
            sql: format!("{alias}_l.{name}"),
            kind: Kind::Integer,
        });
        Source {
            from: format!(
                "{} CROSS JOIN LATERAL (SELECT count(*) AS n, max({of}) AS most FROM {} WHERE {on}) {alias}_l",
                source.from, other.from
            ),
            columns: [source.columns, columns.to_vec()].concat(),
        }
    }

    /// An equality of a column of each.
    fn equality(&mut self, left: &[Column], right: &[Column]) -> Option<String> {
        let mut pairs = Vec::new();
        for one in left {
            for other in right {
                // Few values make large joins, and two collations none at all.
                let joined =
                    one.kind == other.kind && !matches!(one.kind, Kind::Bool | Kind::Float);
                if joined {
                    pairs.push(format!("{} = {}", one.sql, other.sql));
                }
            }
        }
        (!pairs.is_empty()).then(|| self.pick(&pairs))
    }

    fn filter(&mut self, columns: &[Column], depth: usize) -> String {
        match self.below(5) {
            0 | 1 => String::new(),
            2 => format!(
                " WHERE {} AND {}",
                self.condition_on(columns, depth),
                self.condition_on(columns, depth)
            ),
            _ => format!(" WHERE {}", self.condition_on(columns, depth)),
        }
    }

    fn condition_on(&mut self, columns: &[Column], depth: usize) -> String {
        let column = self.pick(columns);
        let Column { sql, kind } = &column;
        match self.below(if depth > 0 { 16 } else { 10 }) {
            0 => format!("{sql} IS NULL"),
            1 => format!("{sql} IS NOT NULL"),
            2 => format!("{sql} = {}", self.constant(*kind)),
            3 => format!(
                "{sql} IN ({}, {}, {})",
                self.constant(*kind),
                self.constant(*kind),
                self.constant(*kind)
            ),
            4 => format!("NOT ({sql} < {})", self.constant(*kind)),
            5 => format!(
                "({} OR {})",
                self.condition_on(columns, 0),
                self.condition_on(columns, 0)
            ),
            6 => format!("{sql} IS DISTINCT FROM {}", self.constant(*kind)),
            7 => format!(
                "{sql} BETWEEN {} AND {}",
                self.constant(*kind),
                self.constant(*kind)
            ),
            8 | 9 => format!(
                "{sql} {} {}",
                self.pick(&["<", ">", "<=", ">=", "<>"]),
                self.constant(*kind)
            ),
            10 => {
                let (inner, with) = self.matching(*kind);
                format!("{sql} IN (SELECT {with} FROM {inner})")
            }
            11 => {
                let (inner, with) = self.matching(*kind);
                format!("{sql} NOT IN (SELECT {with} FROM {inner} WHERE {with} IS NOT NULL)")
            }
            12 => {
                let (inner, with) = self.matching(*kind);
                format!("EXISTS (SELECT 1 FROM {inner} WHERE {with} = {sql})")
            }
            13 => {
                let (inner, with) = self.matching(*kind);
                format!("NOT EXISTS (SELECT 1 FROM {inner} WHERE {with} = {sql})")
            }
            14 => {
                let (inner, with) = self.matching(*kind);
                format!(
                    "(SELECT count(*) FROM {inner} WHERE {with} = {sql}) {} 1",
                    self.pick(&["<", ">", "="])
                )
            }
            _ => {
                let (inner, with) = self.matching(*kind);
                match kind {
                    Kind::Bool => format!("{sql} = (SELECT bool_or({with}) FROM {inner})"),
                    _ => format!("{sql} >= (SELECT min({with}) FROM {inner})"),
                }
            }
        }
    }

    /// A table with a column of the kind, and the column.
    fn matching(&mut self, kind: Kind) -> (String, String) {
        let mut found = Vec::new();
        for (name, columns) in TABLES {
            for (column, _) in columns.iter().filter(|(_, of)| *of == kind) {
                found.push((format!("{name} m"), format!("m.{column}")));
            }
        }
        self.pick(&found)
    }

    fn constant(&mut self, kind: Kind) -> String {
        match kind {
            Kind::Integer => self
                .pick(&["0", "1", "2", "3", "5", "-1", "7", "12", "40"])
                .to_owned(),
            Kind::Numeric => self.pick(&["0", "1.5", "2.25", "-1", "3.000"]).to_owned(),
            Kind::Float => self.pick(&["0", "0.5", "-0.25", "'NaN'", "1"]).to_owned(),
            Kind::Text | Kind::TextC | Kind::TextI => format!("'{}'", self.pick(&NAMES)),
            Kind::Bool => self.pick(&["true", "false"]).to_owned(),
            Kind::Day => self
                .pick(&["date '1999-01-05'", "date '2001-01-15'", "'1996-01-20'"])
                .to_owned(),
            Kind::Time => self
                .pick(&["timestamp '2024-02-03'", "'2024-02-05 12:30:00'"])
                .to_owned(),
        }
    }

    /// An expression of the kind.
    fn value_of(&mut self, kind: Kind, columns: &[Column]) -> String {
        let fitting: Vec<&str> = columns
            .iter()
            .filter(|column| column.kind == kind)
            .map(|column| &*column.sql)
            .collect();
        if fitting.is_empty() {
            return match kind {
                Kind::Text => format!("{}::text", self.constant(kind)),
                Kind::Numeric => format!("{}::numeric(12, 3)", self.constant(kind)),
                _ => self.constant(kind),
            };
        }
        let column = self.pick(&fitting).to_owned();
        match (kind, self.below(4)) {
            (Kind::Integer, 0) => format!("{column} + 1"),
            (Kind::Integer, 1) => format!("coalesce({column}, 0)"),
            (Kind::Text, 0) => format!("upper({column})"),
            (Kind::Text, 1) => format!("{column} || '!'"),
            _ => column,
        }
    }

    fn plain(&mut self, source: &Source, sql: &str) -> Query {
        let mut kinds = Vec::new();
        let mut outputs = Vec::new();
        for place in 0..=self.below(4) {
            let column = self.pick(&source.columns);
            outputs.push(format!(
                "{} AS c{place}",
                self.value_of(column.kind, std::slice::from_ref(&column))
            ));
            kinds.push(column.kind);
        }
        let distinct = self.pick(&["", "", "DISTINCT "]);
        Query {
            sql: format!("SELECT {distinct}{} {sql}", outputs.join(", ")),
            kinds,
        }
    }

    /// An aggregate over a column, and the kind of its value.
    fn aggregate_of(&mut self, columns: &[Column]) -> (String, Kind) {
        let Column { sql, kind } = self.pick(columns);
        let (call, kind) = match (self.below(9), kind) {
            (0, _) => ("count(*)".to_owned(), Kind::Integer),
            (1, _) => (format!("count({sql})"), Kind::Integer),
            (2, _) => (format!("count(DISTINCT {sql})"), Kind::Integer),
            (_, Kind::Bool) => (
                format!("{}({sql})", self.pick(&["bool_and", "bool_or", "every"])),
                Kind::Bool,
            ),
            (3 | 4, Kind::Integer) => (format!("sum({sql})"), Kind::Integer),
            (5, Kind::Integer | Kind::Numeric) => (format!("avg({sql})"), Kind::Numeric),
            (3 | 4, Kind::Numeric) => (format!("sum({sql})"), Kind::Numeric),
            (3 | 4, Kind::Float) => (format!("sum({sql})"), Kind::Float),
            (5, Kind::Text) => (format!("string_agg({sql}, ',' ORDER BY {sql})"), Kind::Text),
            (6, _) => (
                format!("count(*) FILTER (WHERE {})", self.condition_on(columns, 0)),
                Kind::Integer,
            ),
            (7, _) => (format!("min({sql})"), kind),
            _ => (format!("max({sql})"), kind),
        };
        (call, kind)
    }

    fn grouped(&mut self, source: &Source, sql: &str) -> Query {
        let mut keys = vec![self.pick(&source.columns)];
        if self.one_in(3) {
            keys.push(self.pick(&source.columns));
        }
        let mut kinds: Vec<Kind> = keys.iter().map(|key| key.kind).collect();
        let mut outputs: Vec<String> = keys
            .iter()
            .enumerate()
            .map(|(place, key)| format!("{} AS c{place}", key.sql))
            .collect();
        for place in 0..=self.below(2) {
            let (call, kind) = self.aggregate_of(&source.columns);
            outputs.push(format!("{call} AS c{}", keys.len() + place));
            kinds.push(kind);
        }
        let by: Vec<&str> = keys.iter().map(|key| &*key.sql).collect();
        let by = match self.below(9) {
            0 => format!("ROLLUP ({})", by.join(", ")),
            1 => format!("CUBE ({})", by.join(", ")),
            2 => format!("GROUPING SETS (({}), ())", by.join(", ")),
            3 => (1..=by.len())
                .map(|place| place.to_string())
                .collect::<Vec<_>>()
                .join(", "),
            _ => by.join(", "),
        };
        let having = match self.below(4) {
            0 => format!(" HAVING count(*) > {}", self.below(4)),
            _ => String::new(),
        };
        Query {
            sql: format!("SELECT {} {sql} GROUP BY {by}{having}", outputs.join(", ")),
            kinds,
        }
    }

    fn totals(&mut self, source: &Source, sql: &str) -> Query {
        let mut kinds = Vec::new();
        let mut outputs = Vec::new();
        for place in 0..=self.below(3) {
            let (call, kind) = self.aggregate_of(&source.columns);
            outputs.push(format!("{call} AS c{place}"));
            kinds.push(kind);
        }
        Query {
            sql: format!("SELECT {} {sql}", outputs.join(", ")),
            kinds,
        }
    }

    /// Windows whose values are the same for rows that are equal in their order.
    fn windowed(&mut self, source: &Source, sql: &str) -> Query {
        let shown = self.pick(&source.columns);
        let by = self.pick(&source.columns);
        let order = self.pick(&source.columns);
        let integers: Vec<Column> = source
            .columns
            .iter()
            .filter(|column| column.kind == Kind::Integer)
            .cloned()
            .collect();
        let (call, kind) = match self.below(6) {
            0 => ("rank()".to_owned(), Kind::Integer),
            1 => ("dense_rank()".to_owned(), Kind::Integer),
            2 => ("count(*)".to_owned(), Kind::Integer),
            3 => (format!("first_value({})", order.sql), order.kind),
            _ if integers.is_empty() => ("count(*)".to_owned(), Kind::Integer),
            _ => (format!("sum({})", self.pick(&integers).sql), Kind::Integer),
        };
        let partition = match self.below(3) {
            0 => String::new(),
            _ => format!("PARTITION BY {} ", by.sql),
        };
        let direction = self.direction();
        Query {
            sql: format!(
                "SELECT {} AS c0, {call} OVER ({partition}ORDER BY {}{direction}) AS c1 {sql}",
                shown.sql, order.sql
            ),
            kinds: vec![shown.kind, kind],
        }
    }
}

fn named(kinds: &[Kind]) -> Vec<Column> {
    let names = kinds.iter().enumerate();
    names
        .map(|(place, kind)| Column {
            sql: format!("c{place}"),
            kind: *kind,
        })
        .collect()
}
