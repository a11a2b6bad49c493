//! What is said to both shards for the chunks of a table. Pure.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::resharding::condition::quoted_name;

use super::place::Layout;
use super::statements;
use super::tombstones::KeyText;

/// A table of a way, as it is copied.
#[derive(Debug)]
pub(super) struct Sheet {
    pub layout: Layout,
    /// Which rows go this way.
    pub condition: String,
    pub format: Format,
    /// The setting in which keys are compared.
    pub search_path: String,
    pub obstacles: Obstacles,
}

/// What beside its key can be in a row's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacles {
    Nothing,
    /// Unique values and the like, seen at once.
    Immediate,
    /// Some are seen at the end of a statement or transaction only.
    Deferrable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Binary,
    Text,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Format::Binary => "binary",
            Format::Text => "text",
        }
    }
}

/// The keys from behind `position` up to and with `until`.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub sheet: Arc<Sheet>,
    pub number: i32,
    pub position: Option<Key>,
    pub until: Option<Key>,
}

/// The texts of a key's columns.
pub(super) type Key = Vec<String>;

/// The keys of a chunk: those of a part up to and with this one, or to the part's end.
pub(super) type Reached = Option<Key>;

impl Sheet {
    pub fn columns(&self) -> String {
        names(&self.layout, 0..self.layout.columns.len())
    }

    fn key(&self) -> String {
        names(&self.layout, self.layout.key.iter().copied())
    }

    /// For the source: the last key of the next so many rows of a part; no row, where fewer are left.
    pub fn cut(&self, part: &Part, rows: u64) -> String {
        format!(
            "SELECT {} FROM {} AS t WHERE {} ORDER BY {} OFFSET {} LIMIT 1",
            texts(&self.layout, &self.layout.key, "t"),
            self.layout.name,
            self.within(part, &None),
            self.key(),
            rows.saturating_sub(1)
        )
    }

    /// For the receiving shard: what rows of a chunk are found by that are there already; at most so many.
    pub fn there(&self, part: &Part, reached: &Reached, most: usize) -> String {
        format!(
            "SELECT {} FROM {} AS t WHERE {} ORDER BY {} LIMIT {most}",
            texts(&self.layout, &self.layout.found_by, "t"),
            self.layout.name,
            self.within(part, reached),
            self.key(),
        )
    }

    /// For the source: reads a chunk, without some rows.
    pub fn read(&self, part: &Part, reached: &Reached, without: &[KeyText]) -> String {
        let mut text = format!(
            "COPY (SELECT {} FROM {} WHERE {}",
            self.columns(),
            self.layout.name,
            self.within(part, reached)
        );
        if !without.is_empty() {
            let found_by = &self.layout.found_by;
            let keys: Vec<_> = { without.iter() }
                .map(|key| format!("({})", self.literals(key, found_by)))
                .collect();
            // So, and not as a join, the rows stay in the order of their index.
            let _ = write!(
                text,
                " AND ({}) NOT IN (VALUES {})",
                names(&self.layout, found_by.iter().copied()),
                keys.join(", ")
            );
        }
        let _ = write!(
            text,
            " ORDER BY {}) TO STDOUT (FORMAT {})",
            self.key(),
            self.format.name()
        );
        text
    }

    /// Which rows are those of a chunk.
    fn within(&self, part: &Part, reached: &Reached) -> String {
        let (mut text, key) = (self.condition.clone(), self.key());
        let until = reached.as_ref().or(part.until.as_ref());
        for (operator, bound) in [(">", part.position.as_ref()), ("<=", until)] {
            if let Some(bound) = bound {
                let bound = self.literals(bound, &self.layout.key);
                let _ = write!(text, " AND ROW({key}) {operator} ROW({bound})");
            }
        }
        text
    }

    /// Values of the columns at these places.
    fn literals(&self, values: &[impl AsRef<str>], places: &[usize]) -> String {
        let values: Vec<_> = { values.iter().zip(places) }
            .map(|(value, place)| {
                let type_name = &self.layout.columns[*place].type_name;
                format!("'{}'::{type_name}", value.as_ref().replace('\'', "''"))
            })
            .collect();
        values.join(", ")
    }

    /// What inserts the staged rows; whatever is there already is newer.
    pub fn insert(&self, filter: &str) -> String {
        let columns = self.columns();
        // Postgres leaves rows out for what it sees at once only.
        let arbiter = match self.obstacles {
            Obstacles::Nothing | Obstacles::Immediate => String::new(),
            Obstacles::Deferrable => {
                format!(
                    " ({})",
                    names(&self.layout, self.layout.key.iter().copied())
                )
            }
        };
        format!(
            "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM pg_temp.trunkline_stage AS s
             WHERE TRUE{filter} ON CONFLICT{arbiter} DO NOTHING",
            self.layout.name
        )
    }

    /// Staged rows whose keys are not given.
    pub fn without(&self) -> String {
        let same: Vec<_> = { self.layout.found_by.iter().enumerate() }
            .map(|(n, place)| {
                let name = quoted_name(&self.layout.columns[*place].name);
                format!("n.a{n} = s.{name}")
            })
            .collect();
        format!(
            " AND NOT EXISTS (SELECT FROM ({}) AS n WHERE {})",
            statements::keys(&self.layout),
            same.join(" AND ")
        )
    }

    /// Keys of staged rows, but for given ones, that are not there although they were inserted.
    pub fn left_out(&self) -> String {
        let same: Vec<_> = { self.layout.found_by.iter() }
            .map(|place| quoted_name(&self.layout.columns[*place].name))
            .map(|name| format!("t.{name} = s.{name}"))
            .collect();
        format!(
            "SELECT {} FROM pg_temp.trunkline_stage AS s WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {}){}",
            texts(&self.layout, &self.layout.found_by, "s"),
            self.layout.name,
            same.join(" AND "),
            self.without()
        )
    }
}

fn names(layout: &Layout, places: impl IntoIterator<Item = usize>) -> String {
    let names: Vec<_> = { places.into_iter() }
        .map(|place| quoted_name(&layout.columns[place].name))
        .collect();
    names.join(", ")
}

/// Columns as the texts that their types write.
pub(super) fn texts(layout: &Layout, places: &[usize], alias: &str) -> String {
    let texts: Vec<_> = { places.iter() }
        .map(|place| quoted_name(&layout.columns[*place].name))
        .map(|name| format!("pg_catalog.format('%s', {alias}.{name})"))
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::place::Sent;
    use super::*;

    fn part() -> Part {
        let column = |name: &str, type_name: &str| Sent {
            name: name.into(),
            type_name: type_name.into(),
        };
        let layout = Layout {
            table: 0,
            name: "public.t".into(),
            columns: vec![
                column("k", "text"),
                column("n", "integer"),
                column("shard", "bigint"),
            ],
            key: vec![1, 0],
            found_by: vec![1, 0, 2],
            shard_key: vec![2],
        };
        let sheet = Sheet {
            layout,
            condition: "(moves)".to_owned(),
            format: Format::Binary,
            search_path: String::new(),
            obstacles: Obstacles::Nothing,
        };
        Part {
            sheet: Arc::new(sheet),
            number: 0,
            position: Some(vec!["1".to_owned(), "it's".to_owned()]),
            until: Some(vec!["9".to_owned(), "z".to_owned()]),
        }
    }

    #[test]
    fn a_chunk_goes_from_its_position_to_what_is_reached_or_the_end_of_its_part() {
        let part = part();
        let from = r#"(moves) AND ROW("n", "k") > ROW('1'::integer, 'it''s'::text)"#;
        let to_end = format!(r#"{from} AND ROW("n", "k") <= ROW('9'::integer, 'z'::text)"#);
        assert_eq!(part.sheet.within(&part, &None), to_end);
        let reached = Some(vec!["5".to_owned(), "m".to_owned()]);
        let to_reached = format!(r#"{from} AND ROW("n", "k") <= ROW('5'::integer, 'm'::text)"#);
        assert_eq!(part.sheet.within(&part, &reached), to_reached);
        let cut = part.sheet.cut(&part, 100);
        assert!(
            cut.ends_with(&format!(r#"{to_end} ORDER BY "n", "k" OFFSET 99 LIMIT 1"#)),
            "{cut}"
        );
    }

    #[test]
    fn rows_are_left_out_by_all_that_they_are_found_by() {
        let part = part();
        let read = |without: &[KeyText]| part.sheet.read(&part, &None, without);
        assert!(!read(&[]).contains("NOT IN"));
        let key = |n: &str| -> KeyText { [n.into(), "o'".into(), "7".into()].into() };
        let text = read(&[key("2"), key("3")]);
        let values =
            "('2'::integer, 'o'''::text, '7'::bigint), ('3'::integer, 'o'''::text, '7'::bigint)";
        let filter = format!(
            r#" AND ("n", "k", "shard") NOT IN (VALUES {values}) ORDER BY "n", "k") TO STDOUT (FORMAT binary)"#
        );
        assert!(text.ends_with(&filter), "{text}");
    }
}
