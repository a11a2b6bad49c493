//! What a prepared statement takes and returns, as a server describes it: what a client was told must hold for all its rows.
//!
//! Compared is what Postgres compares before it says "cached plan must not change result type" (`RevalidateCachedQuery`,
//! `equalTupleDescs`), as far as it can be seen from outside: names, types and their modifiers. Types that a server has numbered itself
//! have another number on the next one, so between servers they count as equal to each other.

use crate::sharding::ShardId;

/// Types below are the same on every server: `FirstGenbkiObjectId` in `transam.h`.
const NUMBERED_BY_THE_SERVER: u32 = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Who described it.
    shard: ShardId,
    parameters: Box<[u32]>,
    /// `None`: it returns no rows.
    columns: Option<Box<[Column]>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    name: Box<[u8]>,
    kind: u32,
    size: i16,
    modifier: i32,
}

/// In what two shapes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    None,
    /// In what is returned.
    Result,
    /// In what is taken, too or only.
    Parameters,
}

impl Shape {
    /// From the bodies of ParameterDescription and RowDescription; `None` when one of them is not whole.
    pub fn read(shard: ShardId, parameters: &[u8], columns: Option<&[u8]>) -> Option<Shape> {
        let columns = match columns {
            None => None,
            Some(body) => Some(read_columns(body)?),
        };
        Some(Shape {
            shard,
            parameters: read_parameters(parameters)?,
            columns,
        })
    }

    /// Of what returns the same and takes so many parameters of a type more.
    pub fn taking(&self, more: usize, of_type: u32) -> Shape {
        let own = self.parameters.iter().copied();
        Shape {
            parameters: own.chain(std::iter::repeat_n(of_type, more)).collect(),
            ..self.clone()
        }
    }

    pub fn difference(&self, other: &Shape) -> Difference {
        let same_type = |one: u32, two: u32| {
            let numbered = |kind| kind >= NUMBERED_BY_THE_SERVER;
            one == two || (self.shard != other.shard && numbered(one) && numbered(two))
        };
        let same_column = |one: &Column, two: &Column| {
            (&one.name, one.size, one.modifier) == (&two.name, two.size, two.modifier)
                && same_type(one.kind, two.kind)
        };
        let (one, two) = (&self.parameters, &other.parameters);
        if one.len() != two.len() || !one.iter().zip(two).all(|(one, two)| same_type(*one, *two)) {
            return Difference::Parameters;
        }
        let same = match (&self.columns, &other.columns) {
            (None, None) => true,
            (Some(one), Some(two)) => {
                one.len() == two.len()
                    && one.iter().zip(two).all(|(one, two)| same_column(one, two))
            }
            _ => false,
        };
        if same {
            Difference::None
        } else {
            Difference::Result
        }
    }
}

fn read_parameters(body: &[u8]) -> Option<Box<[u32]>> {
    let (count, kinds) = body.split_first_chunk()?;
    let kinds = kinds.chunks_exact(4).map(|kind| {
        let kind = kind.try_into().expect("chunks of four bytes");
        u32::from_be_bytes(kind)
    });
    let kinds: Box<[u32]> = kinds.collect();
    (kinds.len() == usize::from(u16::from_be_bytes(*count))).then_some(kinds)
}

fn read_columns(body: &[u8]) -> Option<Box<[Column]>> {
    let (count, mut rest) = body.split_first_chunk()?;
    let mut columns = Vec::with_capacity(usize::from(u16::from_be_bytes(*count)));
    for _ in 0..u16::from_be_bytes(*count) {
        let end = rest.iter().position(|byte| *byte == 0)?;
        let (name, after) = (&rest[..end], &rest[end + 1..]);
        // The table and the column's place in it are not compared, nor the format, which is the portal's.
        let (fixed, after) = after.split_first_chunk::<18>()?;
        let [
            _,
            _,
            _,
            _,
            _,
            _,
            k0,
            k1,
            k2,
            k3,
            s0,
            s1,
            m0,
            m1,
            m2,
            m3,
            _,
            _,
        ] = *fixed;
        columns.push(Column {
            name: Box::from(name),
            kind: u32::from_be_bytes([k0, k1, k2, k3]),
            size: i16::from_be_bytes([s0, s1]),
            modifier: i32::from_be_bytes([m0, m1, m2, m3]),
        });
        rest = after;
    }
    Some(columns.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(shard: u16, parameters: &[u32], columns: &[(&str, u32, i32)]) -> Shape {
        let mut taken = u16::try_from(parameters.len())
            .unwrap()
            .to_be_bytes()
            .to_vec();
        taken.extend(parameters.iter().flat_map(|kind| kind.to_be_bytes()));
        let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        for (name, kind, modifier) in columns {
            body.extend_from_slice(name.as_bytes());
            // The table's number differs each time.
            body.extend_from_slice(&[&[0, 1, 2, 3, shard.to_be_bytes()[1], 0, 1][..]].concat());
            body.extend_from_slice(&kind.to_be_bytes());
            body.extend_from_slice(&4_i16.to_be_bytes());
            body.extend_from_slice(&modifier.to_be_bytes());
            body.extend_from_slice(&[0, 0]);
        }
        assert_eq!(
            Shape::read(ShardId(shard), &taken, Some(&body[..body.len() - 1])),
            None
        );
        Shape::read(ShardId(shard), &taken, Some(&body)).unwrap()
    }

    #[test]
    fn what_clients_were_told_is_compared() {
        let told = shape(0, &[23], &[("a", 23, -1), ("b", 16_400, -1)]);
        let same = |other: &Shape| told.difference(other);
        assert_eq!(
            same(&shape(0, &[23], &[("a", 23, -1), ("b", 16_400, -1)])),
            Difference::None
        );
        // Another server numbers its own types otherwise.
        assert_eq!(
            same(&shape(1, &[23], &[("a", 23, -1), ("b", 16_500, -1)])),
            Difference::None
        );
        for (parameters, columns, expected) in [
            (23, [("a", 23, -1), ("b", 16_500, -1)], Difference::Result),
            (23, [("a", 20, -1), ("b", 16_400, -1)], Difference::Result),
            (23, [("a", 23, 8), ("b", 16_400, -1)], Difference::Result),
            (23, [("c", 23, -1), ("b", 16_400, -1)], Difference::Result),
            (
                20,
                [("a", 20, -1), ("b", 16_400, -1)],
                Difference::Parameters,
            ),
        ] {
            assert_eq!(
                same(&shape(0, &[parameters], &columns)),
                expected,
                "{columns:?}"
            );
        }
        assert_eq!(same(&shape(0, &[23], &[("a", 23, -1)])), Difference::Result);
        let nothing = Shape::read(ShardId(0), &[0, 1, 0, 0, 0, 23], None).unwrap();
        assert_eq!(same(&nothing), Difference::Result);
        assert_eq!(Shape::read(ShardId(0), &[0, 1, 0, 0, 0], None), None);
    }
}
