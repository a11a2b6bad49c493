//! Tables as pgoutput describes them (`logicalrep_write_rel` and `logicalrep_write_attrs` in Postgres `proto.c`).
//!
//! A description stands in front of the first change of a table and again when the table was changed. One that stands in a
//! streamed transaction is what that transaction sees: it counts for the others only when they get it too.

use super::reader::{DecodeError, Reader};

/// A table's OID on its server. The same table has another one on every server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationId(pub u32);

/// What a table's old rows are known by (`pg_class.relreplident`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key; nothing when there is none.
    Default,
    /// Nothing: updates and deletes of a published table fail on the server.
    Nothing,
    /// The whole row.
    Full,
    /// A unique index that was chosen.
    Index,
}

/// Whether a column belongs to what old rows are known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPart {
    Key,
    Other,
}

/// A table, borrowed from the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    pub id: RelationId,
    /// Postgres sends nothing for `pg_catalog`; here it has its name.
    pub schema: &'a str,
    pub name: &'a str,
    pub identity: ReplicaIdentity,
    pub columns: Columns<'a>,
}

/// Without dropped columns, and without generated ones unless the publication wants them (Postgres 18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    pub name: &'a str,
    /// OID of its type, which is built in (below 16,384), or else described by a Type message before.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`; -1: none.
    pub modifier: i32,
    pub key: KeyPart,
}

impl<'a> Relation<'a> {
    /// Behind type and transaction.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Relation<'a>, DecodeError> {
        let id = RelationId(reader.int32("a relation's OID")?);
        let schema = schema(reader)?;
        let name = reader.text("a relation's name")?;
        let identity = match reader.byte("a replica identity")? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            other => {
                return Err(reader.unexpected(
                    1,
                    "a replica identity (d, n, f or i)",
                    u64::from(other),
                ));
            }
        };
        let count = reader.int16("the number of a relation's columns")?;
        let before = *reader;
        for _ in 0..count {
            column(reader)?;
        }
        Ok(Relation {
            id,
            schema,
            name,
            identity,
            columns: Columns {
                bytes: &before.rest()[..reader.at() - before.at()],
                left: count,
            },
        })
    }

    /// A copy that outlives the message.
    pub fn to_owned(&self) -> OwnedRelation {
        let columns = self.columns.map(|column| OwnedColumn {
            name: column.name.to_owned(),
            type_oid: column.type_oid,
            modifier: column.modifier,
            key: column.key,
        });
        OwnedRelation {
            id: self.id,
            schema: self.schema.to_owned(),
            name: self.name.to_owned(),
            identity: self.identity,
            columns: columns.collect(),
        }
    }
}

/// A schema's name.
pub(super) fn schema<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    match reader.text("a schema's name")? {
        "" => Ok("pg_catalog"),
        name => Ok(name),
    }
}

fn column<'a>(reader: &mut Reader<'a>) -> Result<Column<'a>, DecodeError> {
    // Only the lowest bit has a meaning, and Postgres too looks at no other.
    let key = match reader.byte("a column's flags")? & 1 {
        1 => KeyPart::Key,
        _ => KeyPart::Other,
    };
    Ok(Column {
        key,
        name: reader.text("a column's name")?,
        type_oid: reader.int32("the OID of a column's type")?,
        modifier: reader.int32("a column's type modifier")?.cast_signed(),
    })
}

/// Goes through a relation's columns, which were all checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns<'a> {
    bytes: &'a [u8],
    left: u16,
}

impl<'a> Iterator for Columns<'a> {
    type Item = Column<'a>;

    fn next(&mut self) -> Option<Column<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.bytes);
        let column = column(&mut reader).ok()?;
        self.bytes = reader.rest();
        Some(column)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Columns<'_> {}

/// A [`Relation`] to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRelation {
    pub id: RelationId,
    pub schema: String,
    pub name: String,
    pub identity: ReplicaIdentity,
    pub columns: Vec<OwnedColumn>,
}

/// A [`Column`] to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedColumn {
    pub name: String,
    pub type_oid: u32,
    pub modifier: i32,
    pub key: KeyPart,
}
