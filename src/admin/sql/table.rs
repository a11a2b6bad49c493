//! What a command answers: columns that never change, and rows.

/// A column of an answer. Its place, name and kind are a promise to the programs that read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// `int8`.
    Whole,
    /// `bool`.
    Truth,
}

pub const fn text(name: &'static str) -> Column {
    Column {
        name,
        kind: Kind::Text,
    }
}

pub const fn whole(name: &'static str) -> Column {
    Column {
        name,
        kind: Kind::Whole,
    }
}

pub const fn truth(name: &'static str) -> Column {
    Column {
        name,
        kind: Kind::Truth,
    }
}

/// One value, of the kind of its column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Null,
    Text(String),
    Whole(i64),
    Truth(bool),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub columns: &'static [Column],
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(columns: &'static [Column]) -> Table {
        Table {
            columns,
            rows: Vec::new(),
        }
    }

    pub fn push(&mut self, row: Vec<Cell>) {
        debug_assert!(self.fits(&row), "{row:?} in {:?}", self.columns);
        self.rows.push(row);
    }

    fn fits(&self, row: &[Cell]) -> bool {
        let fits = |(column, cell): (&Column, &Cell)| match cell {
            Cell::Null => true,
            Cell::Text(_) => column.kind == Kind::Text,
            Cell::Whole(_) => column.kind == Kind::Whole,
            Cell::Truth(_) => column.kind == Kind::Truth,
        };
        row.len() == self.columns.len() && self.columns.iter().zip(row).all(fits)
    }
}

/// A row of whatever has a [`Cell`].
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::admin::sql::table::Cell::from($value)),*] };
}
pub(super) use row;

impl From<&str> for Cell {
    fn from(value: &str) -> Cell {
        Cell::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Cell {
        Cell::Text(value)
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Cell {
        Cell::Truth(value)
    }
}

impl From<u64> for Cell {
    fn from(value: u64) -> Cell {
        Cell::Whole(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Cell {
    fn from(value: usize) -> Cell {
        Cell::Whole(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<u16> for Cell {
    fn from(value: u16) -> Cell {
        Cell::Whole(value.into())
    }
}

impl From<u32> for Cell {
    fn from(value: u32) -> Cell {
        Cell::Whole(value.into())
    }
}

impl From<i32> for Cell {
    fn from(value: i32) -> Cell {
        Cell::Whole(value.into())
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Cell {
        value.map_or(Cell::Null, Into::into)
    }
}
