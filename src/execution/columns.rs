//! RowDescription: what a server says of the columns of its rows. Read strictly, written as it was.

use thiserror::Error;

/// One column, as <https://www.postgresql.org/docs/current/protocol-message-formats.html> has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// In the server's encoding, without the NUL.
    pub name: Box<[u8]>,
    /// The OID of its table, or 0.
    pub table: u32,
    /// Its number in the table, or 0.
    pub attribute: i16,
    /// A domain's base type stands for the domain.
    pub type_oid: u32,
    pub type_size: i16,
    pub modifier: i32,
    /// 0 is text, 1 binary. Always 0 when a statement was described rather than a portal.
    pub format: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MalformedColumns {
    #[error("a row description ends too early")]
    Cut,
    #[error("{0} bytes follow a row description")]
    Trailing(usize),
    #[error("a row description with a negative number of columns")]
    Count,
}

/// Reads the body of a RowDescription message (without its tag and length).
pub fn decode(body: &[u8]) -> Result<Vec<Column>, MalformedColumns> {
    let mut rest = body;
    let count = i16::from_be_bytes(take(&mut rest)?);
    let count = usize::try_from(count).map_err(|_| MalformedColumns::Count)?;
    let mut columns = Vec::with_capacity(count.min(rest.len() / 19 + 1));
    for _ in 0..count {
        let end = rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(MalformedColumns::Cut)?;
        let name = rest[..end].into();
        rest = &rest[end + 1..];
        columns.push(Column {
            name,
            table: u32::from_be_bytes(take(&mut rest)?),
            attribute: i16::from_be_bytes(take(&mut rest)?),
            type_oid: u32::from_be_bytes(take(&mut rest)?),
            type_size: i16::from_be_bytes(take(&mut rest)?),
            modifier: i32::from_be_bytes(take(&mut rest)?),
            format: u16::from_be_bytes(take(&mut rest)?),
        });
    }
    match rest.len() {
        0 => Ok(columns),
        more => Err(MalformedColumns::Trailing(more)),
    }
}

/// Appends the body of a RowDescription message. At most 1664 columns, as in Postgres.
pub fn encode(columns: &[Column], out: &mut Vec<u8>) {
    out.extend((columns.len() as u16).to_be_bytes());
    for column in columns {
        out.extend_from_slice(&column.name);
        out.push(0);
        out.extend(column.table.to_be_bytes());
        out.extend(column.attribute.to_be_bytes());
        out.extend(column.type_oid.to_be_bytes());
        out.extend(column.type_size.to_be_bytes());
        out.extend(column.modifier.to_be_bytes());
        out.extend(column.format.to_be_bytes());
    }
}

fn take<const LENGTH: usize>(rest: &mut &[u8]) -> Result<[u8; LENGTH], MalformedColumns> {
    let (taken, left) = rest.split_first_chunk().ok_or(MalformedColumns::Cut)?;
    *rest = left;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let columns = vec![
            Column {
                name: (*b"customer_id").into(),
                table: 16_400,
                attribute: 2,
                type_oid: 20,
                type_size: 8,
                modifier: -1,
                format: 0,
            },
            Column {
                name: (*b"").into(),
                table: 0,
                attribute: 0,
                type_oid: 25,
                type_size: -1,
                modifier: 260,
                format: 1,
            },
        ];
        let mut body = Vec::new();
        encode(&columns, &mut body);
        assert_eq!(decode(&body).as_deref(), Ok(&columns[..]));
        for end in 0..body.len() {
            assert_eq!(decode(&body[..end]), Err(MalformedColumns::Cut), "{end}");
        }
        body.push(0);
        assert_eq!(decode(&body), Err(MalformedColumns::Trailing(1)));
        assert_eq!(decode(&[0xff, 0xff]), Err(MalformedColumns::Count));
        assert_eq!(decode(&[0, 0]), Ok(Vec::new()));
    }
}
