//! What the names of a statement mean: each relation of each query block to the catalog, each column to the relation that has it.
//!
//! Postgres looks for a column in the innermost block first, then outwards, and calls it an error when two relations of one block have it.
//! So a relation that is *known* to have an unqualified column is the right one, whatever the others of its block are.

use crate::catalog::{Catalog, Column, DistributionId, Placement, Relation, Resolved, SearchPath};
use crate::sharding::{KeyType, ShardId};
use crate::sql::facts::{
    ColumnRef, Conjunct, DerivedColumns, Facts, Name, Operand, Presence, Source,
};

/// What a relation of a FROM list, or the target of a write, is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meaning<'a> {
    Sharded {
        distribution: DistributionId,
        key: &'a [Box<str>],
    },
    Reference,
    Single(ShardId),
    View,
    /// Not to be used, for the reason given.
    Refused(&'a str),
    System,
    /// A temporary table of the session, by its schema.
    Temporary,
    Unknown,
    /// A CTE, a derived table, a function.
    NotATable,
}

/// A name with its meaning.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub meaning: Meaning<'a>,
    /// `None` when the definitions have not been read, or it is no table.
    pub columns: Option<&'a [Column]>,
}

/// One column of one relation of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node<'a> {
    Column {
        block: usize,
        relation: usize,
        column: &'a str,
    },
    /// The column that JOIN ... USING merged, named without a qualifier.
    Merged { block: usize, column: &'a str },
}

/// Where a column comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Origin<'a> {
    Column(Node<'a>),
    /// A value that stands in the statement.
    Value(&'a Operand),
}

/// The names of one statement.
pub struct Scope<'a> {
    pub catalog: &'a Catalog,
    pub facts: &'a Facts,
    /// By block and relation.
    known: Vec<Vec<Known<'a>>>,
}

impl<'a> Known<'a> {
    const NOT_A_TABLE: Known<'static> = Known {
        meaning: Meaning::NotATable,
        columns: None,
    };

    /// What a table's name means along a search path.
    pub fn look_up(catalog: &'a Catalog, search_path: &'a SearchPath, name: &'a Name) -> Known<'a> {
        match catalog.resolve(search_path, name.schema.as_deref(), &name.name) {
            Resolved::Found { relation, .. } => Known::relation(relation),
            Resolved::Temporary => Known {
                meaning: Meaning::Temporary,
                columns: None,
            },
            Resolved::Unknown => Known {
                meaning: Meaning::Unknown,
                columns: None,
            },
        }
    }

    fn relation(relation: &'a Relation) -> Known<'a> {
        match relation {
            Relation::Table { placement, columns } => {
                let meaning = match placement {
                    Placement::Sharded { distribution, key } => Meaning::Sharded {
                        distribution: *distribution,
                        key,
                    },
                    Placement::Reference => Meaning::Reference,
                    Placement::Single(shard) => Meaning::Single(*shard),
                };
                Known {
                    meaning,
                    columns: columns.as_deref(),
                }
            }
            Relation::ShardedView => Known {
                meaning: Meaning::View,
                columns: None,
            },
            Relation::Refused(why) => Known {
                meaning: Meaning::Refused(why),
                columns: None,
            },
            Relation::System => Known {
                meaning: Meaning::System,
                columns: None,
            },
        }
    }

    /// Whether the relation surely has the column.
    pub fn has(&self, column: &str) -> bool {
        match (self.columns, self.meaning) {
            (Some(columns), _) => columns.iter().any(|known| *known.name == *column),
            (None, Meaning::Sharded { key, .. }) => key.iter().any(|known| **known == *column),
            (None, _) => false,
        }
    }

    /// Whether the relation surely does not have the column.
    pub fn lacks(&self, column: &str) -> bool {
        self.columns.is_some() && !self.has(column)
    }

    /// The column's type, when it is one that a key may have. A key column that no definition was read for has its distribution's type.
    pub fn type_of(&self, column: &str, catalog: &Catalog) -> Option<KeyType> {
        match (self.columns, self.meaning) {
            (Some(columns), _) => columns
                .iter()
                .find(|known| *known.name == *column)
                .and_then(|known| KeyType::from_oid(known.type_oid)),
            (None, Meaning::Sharded { distribution, key }) => {
                let place = key.iter().position(|known| **known == *column)?;
                catalog.distributions[usize::from(distribution.0)]
                    .map
                    .key_types()
                    .get(place)
                    .copied()
            }
            (None, _) => None,
        }
    }
}

impl<'a> Scope<'a> {
    pub fn new(facts: &'a Facts, catalog: &'a Catalog, search_path: &'a SearchPath) -> Scope<'a> {
        let meaning = |source: &'a Source| match source {
            Source::Table(name) => Known::look_up(catalog, search_path, name),
            Source::Cte(_) | Source::Derived | Source::Function => Known::NOT_A_TABLE,
        };
        let known = facts
            .blocks
            .iter()
            .map(|block| {
                block
                    .relations
                    .iter()
                    .map(|relation| meaning(&relation.source))
                    .collect()
            })
            .collect();
        Scope {
            catalog,
            facts,
            known,
        }
    }

    pub fn known(&self, block: usize, relation: usize) -> Known<'a> {
        self.known[block][relation]
    }

    /// The column's type, when it is one that a key may have.
    pub fn type_of(&self, node: Node<'a>) -> Option<KeyType> {
        match node {
            Node::Column {
                block,
                relation,
                column,
            } => self.known(block, relation).type_of(column, self.catalog),
            Node::Merged { block, column } => self.merged_type(block, column),
        }
    }

    /// The relation's column that a reference in `block` means; `None` when that is not certain.
    pub fn resolve<'b>(&self, block: usize, reference: &'b ColumnRef) -> Option<Node<'b>> {
        let mut block = block;
        loop {
            let found = match &reference.qualifier {
                Some(qualifier) => self.qualified(block, qualifier, &reference.column),
                None => self.unqualified(block, &reference.column),
            };
            match found {
                Sight::Found(node) => return Some(node),
                Sight::Unclear => return None,
                // Blocks are in the order of their text, so a parent always comes before; anything else would be a circle.
                Sight::Nothing => {
                    block = self.facts.blocks[block]
                        .parent
                        .filter(|parent| *parent < block)?
                }
            }
        }
    }

    /// Likewise, and what a column of the subquery is that MERGE reads its rows from: in all rows of the source.
    pub fn origin<'b>(&self, block: usize, reference: &'b ColumnRef) -> Option<Origin<'b>>
    where
        'a: 'b,
    {
        let merge = self.facts.merge.as_ref().filter(|_| block == 0);
        let derived = merge.and_then(|merge| merge.derived.as_ref());
        let Some(derived) = derived.filter(|derived| self.is_of(derived.relation, reference))
        else {
            return self.resolve(block, reference).map(Origin::Column);
        };
        let column = &*reference.column;
        let DerivedColumns::Named(names) = &derived.columns else {
            return match self.unqualified(derived.block, column) {
                Sight::Found(node) if self.is_in_each_row(node) => Some(Origin::Column(node)),
                _ => None,
            };
        };
        let places = 0..names.len();
        let mut places = places.filter(|place| names[*place].as_deref() == Some(column));
        let (Some(place), None) = (places.next(), places.next()) else {
            return None;
        };
        match self.facts.blocks[derived.block].output.get(place)? {
            Operand::Column(inside) => self.resolve(derived.block, inside).map(Origin::Column),
            operand => Some(Origin::Value(operand)),
        }
    }

    /// Whether a reference in the outermost block is to this relation of it, which is no table.
    fn is_of(&self, relation: usize, reference: &ColumnRef) -> bool {
        let relations = &self.facts.blocks[0].relations;
        let mut others = (0..relations.len()).filter(|other| *other != relation);
        match &reference.qualifier {
            Some(qualifier) => relations[relation].alias == *qualifier,
            None => others.all(|other| self.known(0, other).lacks(&reference.column)),
        }
    }

    /// Whether no outer join may have NULL in place of the column.
    pub fn is_in_each_row(&self, node: Node<'_>) -> bool {
        match node {
            Node::Column {
                block, relation, ..
            } => self.facts.blocks[block].relations[relation].presence == Presence::Always,
            Node::Merged { .. } => false,
        }
    }

    fn qualified<'b>(&self, block: usize, qualifier: &str, column: &'b str) -> Sight<'b> {
        let relations = &self.facts.blocks[block].relations;
        let mut named =
            (0..relations.len()).filter(|relation| *relations[*relation].alias == *qualifier);
        match (named.next(), named.next()) {
            (None, _) => Sight::Nothing,
            (Some(relation), None) if !self.known(block, relation).lacks(column) => {
                Sight::Found(Node::Column {
                    block,
                    relation,
                    column,
                })
            }
            _ => Sight::Unclear,
        }
    }

    fn unqualified<'b>(&self, block: usize, column: &'b str) -> Sight<'b> {
        if self.is_merged(block, column) {
            return Sight::Found(Node::Merged { block, column });
        }
        let relations = 0..self.facts.blocks[block].relations.len();
        let mut having = relations
            .clone()
            .filter(|relation| self.known(block, *relation).has(column));
        match (having.next(), having.next()) {
            (Some(relation), None) => Sight::Found(Node::Column {
                block,
                relation,
                column,
            }),
            (Some(_), Some(_)) => Sight::Unclear,
            (None, _)
                if relations
                    .clone()
                    .all(|relation| self.known(block, relation).lacks(column)) =>
            {
                Sight::Nothing
            }
            (None, _) => Sight::Unclear,
        }
    }

    fn is_merged(&self, block: usize, name: &str) -> bool {
        self.merges(block, name).next().is_some()
    }

    /// The sides of the block's joins USING a column.
    fn merges(&self, block: usize, name: &str) -> impl Iterator<Item = (&'a [usize], &'a [usize])> {
        let conjuncts = &self.facts.blocks[block].conjuncts;
        conjuncts.iter().filter_map(move |conjunct| match conjunct {
            Conjunct::Using {
                column,
                left,
                right,
            } if **column == *name => Some((&left[..], &right[..])),
            _ => None,
        })
    }

    /// Whether the relation's column is one of those that a join USING merged.
    pub fn takes_part(&self, block: usize, relation: usize, column: &str) -> bool {
        self.merges(block, column).any(|(left, right)| {
            [left, right]
                .into_iter()
                .any(|side| side.contains(&relation) && self.sole(block, side, column, relation))
        })
    }

    /// The relations of one side of a join USING that surely have the column.
    pub fn side(
        &self,
        block: usize,
        side: &'a [usize],
        column: &'a str,
    ) -> impl Iterator<Item = Node<'a>> {
        side.iter()
            .filter(move |relation| self.sole(block, side, column, **relation))
            .map(move |relation| Node::Column {
                block,
                relation: *relation,
                column,
            })
    }

    /// USING demands the column on both sides: a side of one relation has it, of several relations one that is known to have it.
    fn sole(&self, block: usize, side: &[usize], column: &str, relation: usize) -> bool {
        side.len() == 1 || self.known(block, relation).has(column)
    }

    /// The type of the merged column: the one that every relation merged into it has, if they agree and all are known.
    fn merged_type(&self, block: usize, column: &'a str) -> Option<KeyType> {
        let mut agreed = None;
        for side in self
            .merges(block, column)
            .flat_map(|(left, right)| [left, right])
        {
            let mut types = self
                .side(block, side, column)
                .map(|node| self.type_of(node))
                .peekable();
            types.peek()?;
            for found in types {
                if *agreed.get_or_insert(found?) != found? {
                    return None;
                }
            }
        }
        agreed
    }
}

/// What a name means in one block.
enum Sight<'a> {
    Found(Node<'a>),
    /// Not of this block: look further out.
    Nothing,
    Unclear,
}
