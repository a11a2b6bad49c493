//! The body of a DataRow message.

use super::MergeError;

/// A row that has the expected number of columns. Its values are looked at one after the other.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    body: &'a [u8],
}

impl<'a> Row<'a> {
    pub fn check(body: &[u8], columns: usize) -> Result<(), MergeError> {
        Row::read(body, columns).map(|_| ())
    }

    pub fn read(body: &'a [u8], columns: usize) -> Result<Row<'a>, MergeError> {
        match body.first_chunk() {
            Some(count) if usize::from(u16::from_be_bytes(*count)) == columns => Ok(Row { body }),
            _ => Err(MergeError::Malformed("another number of columns")),
        }
    }

    pub fn bytes(&self, range: std::ops::Range<usize>) -> &'a [u8] {
        &self.body[range]
    }

    /// The offset behind the first `columns` values.
    pub fn end_of(&self, columns: usize) -> Result<usize, MergeError> {
        let mut values = self.values(2);
        for _ in 0..columns {
            values.next()?;
        }
        Ok(values.at)
    }

    /// The values from an offset on; the first is at 2.
    pub fn values(&self, at: usize) -> Values<'a> {
        Values {
            body: self.body,
            at,
        }
    }
}

/// Reads values one by one.
pub struct Values<'a> {
    body: &'a [u8],
    pub at: usize,
}

impl<'a> Values<'a> {
    /// `None` is NULL.
    #[inline]
    pub fn next(&mut self) -> Result<Option<&'a [u8]>, MergeError> {
        const CUT: MergeError = MergeError::Malformed("it ends too early");
        let start = self.at + 4;
        let length = self.body.get(self.at..start).ok_or(CUT)?;
        let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        if length == -1 {
            self.at = start;
            return Ok(None);
        }
        let length = usize::try_from(length)
            .map_err(|_| MergeError::Malformed("a value of negative length"))?;
        let value = start
            .checked_add(length)
            .and_then(|end| self.body.get(start..end))
            .ok_or(CUT)?;
        self.at = start + length;
        Ok(Some(value))
    }
}

/// Appends a DataRow message made of values with their lengths.
pub fn message(columns: usize, values: &[u8], out: &mut Vec<u8>) {
    out.push(b'D');
    // No message is longer than the one it came from, and those of a fold are shorter than a group may be.
    out.extend((6 + values.len() as u32).to_be_bytes());
    out.extend((columns as u16).to_be_bytes());
    out.extend_from_slice(values);
}
