//! Rows as pgoutput sends them (`logicalrep_write_tuple` in Postgres `proto.c`).

use super::reader::{DecodeError, Reader};

/// A row whose every length was checked.
///
/// Its columns are those of the relation's last [`Relation`](super::Relation) message, in that order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    count: u16,
    bytes: &'a [u8],
}

/// What is said of one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL's NULL; or, in an old row that is a key only, a column outside of the key.
    Null,
    /// A value out of line (TOAST) that the statement did not touch and that was not sent: as it was, whatever that is. Not NULL.
    Unchanged,
    /// As the type's output function writes it, in the connection's encoding.
    Text(&'a [u8]),
    /// As the type's send function writes it.
    Binary(&'a [u8]),
}

impl<'a> Row<'a> {
    #[inline]
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Row<'a>, DecodeError> {
        let count = reader.int16("the number of a row's columns")?;
        let bytes = reader.rest();
        for _ in 0..count {
            value(reader)?;
        }
        let read = bytes.len() - reader.rest().len();
        Ok(Row {
            count,
            bytes: &bytes[..read],
        })
    }

    /// How many columns there are.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// A table can have no columns.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The columns in order.
    #[inline]
    pub fn values(&self) -> Values<'a> {
        Values {
            reader: Reader::new(self.bytes),
            left: self.count,
        }
    }

    /// One column, from 0; `None`: there is no such column. Goes through all before it.
    pub fn value(&self, index: usize) -> Option<Value<'a>> {
        self.values().nth(index)
    }

    /// The columns as they came, without their number.
    pub fn raw(&self) -> &'a [u8] {
        self.bytes
    }
}

impl std::fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.values()).finish()
    }
}

impl<'a> IntoIterator for Row<'a> {
    type Item = Value<'a>;
    type IntoIter = Values<'a>;

    fn into_iter(self) -> Values<'a> {
        self.values()
    }
}

#[inline]
fn value<'a>(reader: &mut Reader<'a>) -> Result<Value<'a>, DecodeError> {
    match reader.byte("the kind of a column's value")? {
        b'n' => Ok(Value::Null),
        b'u' => Ok(Value::Unchanged),
        b't' => reader.counted("a column's value").map(Value::Text),
        b'b' => reader.counted("a column's value").map(Value::Binary),
        other => Err(reader.unexpected(
            1,
            "the kind of a column's value (n, u, t or b)",
            u64::from(other),
        )),
    }
}

/// Goes through the columns of a [`Row`].
#[derive(Clone, Debug)]
pub struct Values<'a> {
    reader: Reader<'a>,
    left: u16,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        value(&mut self.reader).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Values<'_> {}
