//! Statements about a list of tables that are not all on the same shards (LOCK, TRUNCATE, DROP, GRANT, VACUUM ...): each shard does it with
//! those that it has, shard after shard in their order, as writers work.

use std::ops::Range;

use super::edit::{self, Edit, Piece};
use crate::catalog::{Catalog, SearchPath};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::scope::{Known, Meaning};
use crate::sharding::ShardId;
use crate::sql::Statement;
use crate::sql::definition::Block;
use crate::sql::list;
use crate::sql::normalise::Literal;

/// The tables, or parts of tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Each with its place in the text, and the only shard that has it. In the order of the text.
    pub tables: Vec<(Range<usize>, Option<ShardId>)>,
    /// Whether it can be done in one transaction.
    pub block: Block,
}

/// The tables of this LOCK.
pub fn locked(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<Listed, Refusal> {
    let Some(tables) = list::locked(text, statement.range.clone()) else {
        let message = "the tables of LOCK cannot be read";
        return Err(Refusal::new(Reason::Lock, message));
    };
    let tables = tables.into_iter().map(|(name, range)| {
        let on = match Known::look_up(catalog, search_path, &name).meaning {
            Meaning::Sharded { .. } | Meaning::Reference | Meaning::View => None,
            Meaning::Refused(why) => {
                let message = format!("LOCK of table \"{}\": {why}", name.name);
                return Err(Refusal::new(Reason::Lock, message));
            }
            Meaning::Single(shard) => Some(shard),
            // That server says what is wrong with it.
            Meaning::System | Meaning::Temporary | Meaning::Unknown | Meaning::NotATable => {
                Some(catalog.home)
            }
        };
        Ok((range, on))
    });
    Ok(Listed {
        tables: tables.collect::<Result<_, _>>()?,
        block: Block::Allowed,
    })
}

impl Listed {
    /// The shard that has all of them, if there is one.
    pub fn only_shard(&self) -> Option<ShardId> {
        let (_, first) = self.tables.first()?;
        let mut all = self.tables.iter();
        all.all(|(_, on)| on == first).then_some(*first)?
    }

    /// Those that have any.
    pub fn shards(&self, catalog: &Catalog) -> Vec<ShardId> {
        let has = |shard: &ShardId| self.on(*shard).next().is_some();
        super::all_shards(catalog).into_iter().filter(has).collect()
    }

    fn on(&self, shard: ShardId) -> impl Iterator<Item = &Range<usize>> {
        let tables = self.tables.iter();
        let here = tables.filter(move |(_, on)| on.is_none_or(|on| on == shard));
        here.map(|(range, _)| range)
    }

    /// The place of the shard whose notices are for the client: the one that has most of them, the home shard among equals.
    pub fn speaker(&self, shards: &[ShardId], home: ShardId) -> usize {
        let weight = |shard: ShardId| (self.on(shard).count(), shard == home);
        let places = 0..shards.len();
        places
            .max_by_key(|place| weight(shards[*place]))
            .unwrap_or_default()
    }

    /// The statement of this text about the tables that the shard has.
    pub fn text(
        &self,
        shard: ShardId,
        whole: Range<usize>,
        text: &[u8],
        literals: &[Literal],
    ) -> Vec<u8> {
        let (Some((first, _)), Some((last, _))) = (self.tables.first(), self.tables.last()) else {
            return Vec::new();
        };
        let mut here = Vec::new();
        for range in self.on(shard) {
            if !here.is_empty() {
                here.push(Piece::Text(", ".into()));
            }
            here.push(Piece::Copy(range.clone()));
        }
        let list = Edit::pieces(first.start..last.end, here);
        edit::apply(&[list], whole, text, literals)
    }

    pub(super) fn describe(&self, catalog: &Catalog) -> String {
        let shards = self.shards(catalog);
        let names = shards
            .iter()
            .filter_map(|shard| catalog.shards.get(shard.index()).map(|name| &**name));
        let names = names.collect::<Vec<_>>().join(", ");
        format!("goes    to one shard after the other, each with the tables that it has: {names}")
    }

    pub fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        for (range, _) in &mut self.tables {
            *range = to(range.start)..to(range.end);
        }
    }

    pub fn bytes(&self) -> usize {
        self.tables.len() * size_of::<(Range<usize>, Option<ShardId>)>()
    }
}
