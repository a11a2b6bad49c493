//! Changes that are applied together, and what they come to. Pure.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable, hash_table};

use crate::wire::replication::Xid;

use super::place::Layout;
use super::values::Values;

/// A change of one row on a receiving shard.
#[derive(Clone, Debug)]
pub struct Change {
    pub layout: Arc<Layout>,
    /// The transaction that made it.
    pub xid: Xid,
    /// What the row is found by.
    pub key: Values,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Delete,
    /// The row shall be so, whether it is there or not.
    Put(Values),
}

impl Change {
    /// Bytes of memory, about.
    pub fn size(&self) -> usize {
        let row = match &self.what {
            What::Delete => 0,
            What::Put(row) => row.size(),
        };
        self.key.size() + row + 128
    }

    fn is_of(&self, other: &Change) -> bool {
        self.layout.table == other.layout.table && self.key == other.key
    }

    /// Whether some of its row's values were not sent.
    pub fn lacks_values(&self) -> bool {
        matches!(&self.what, What::Put(row) if !row.is_whole())
    }
}

/// In the order of the source.
#[derive(Debug, Default)]
pub struct Batch {
    changes: Vec<Change>,
    /// Whether a later change of the same row follows.
    superseded: Vec<bool>,
    /// The last change of each row.
    last: HashTable<usize>,
    hasher: DefaultHashBuilder,
    bytes: usize,
}

/// What a batch comes to for one table: of each row its last change.
#[derive(Debug)]
pub struct Net<'a> {
    pub layout: &'a Arc<Layout>,
    pub deleted: Vec<&'a Change>,
    /// Put, with all values.
    pub whole: Vec<&'a Change>,
    /// Put, with values that must be found.
    pub partial: Vec<&'a Change>,
}

impl Batch {
    /// What a row has not got in this change is taken from its change before, where there is one.
    pub fn push(&mut self, mut change: Change) {
        self.bytes += change.size();
        let at = self.changes.len();
        let (changes, hasher) = (&self.changes, &self.hasher);
        let hash = |one: &Change| hasher.hash_one((one.layout.table, &one.key));
        let entry = self.last.entry(
            hash(&change),
            |place| changes[*place].is_of(&change),
            |place| hash(&changes[*place]),
        );
        match entry {
            hash_table::Entry::Vacant(entry) => {
                entry.insert(at);
            }
            hash_table::Entry::Occupied(mut entry) => {
                let before = std::mem::replace(entry.get_mut(), at);
                self.superseded[before] = true;
                if let What::Put(row) = &mut change.what
                    && let What::Put(earlier) = &self.changes[before].what
                    && !row.is_whole()
                {
                    *row = row.over(earlier);
                }
            }
        }
        self.changes.push(change);
        self.superseded.push(false);
    }

    /// Whether the change can be in one batch with what is there: its table has the same columns, and a row that needs values of the one before
    /// comes not right after a deletion.
    pub fn suits(&self, change: &Change) -> bool {
        let same_table = |one: &&Change| one.layout.table == change.layout.table;
        let same_layout = match self.changes.last() {
            Some(last) if Arc::ptr_eq(&last.layout, &change.layout) => true,
            _ => {
                let latest = self.changes.iter().rev().find(same_table);
                latest.is_none_or(|one| Arc::ptr_eq(&one.layout, &change.layout))
            }
        };
        same_layout && !(change.lacks_values() && self.deletes(change))
    }

    fn deletes(&self, change: &Change) -> bool {
        let hash = self.hasher.hash_one((change.layout.table, &change.key));
        let found = self
            .last
            .find(hash, |place| self.changes[*place].is_of(change));
        found.is_some_and(|place| self.changes[*place].what == What::Delete)
    }

    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn clear(&mut self) {
        self.changes.clear();
        self.superseded.clear();
        self.last.clear();
        self.bytes = 0;
    }

    /// By table, in the order of their first changes.
    pub fn net(&self) -> Vec<Net<'_>> {
        let mut nets: Vec<Net<'_>> = Vec::new();
        let last = { self.changes.iter().zip(&self.superseded) }.filter(|(_, gone)| !**gone);
        for (change, _) in last {
            let found = nets
                .iter()
                .position(|net| Arc::ptr_eq(net.layout, &change.layout));
            let place = found.unwrap_or_else(|| {
                nets.push(Net {
                    layout: &change.layout,
                    deleted: Vec::new(),
                    whole: Vec::new(),
                    partial: Vec::new(),
                });
                nets.len() - 1
            });
            let net = &mut nets[place];
            match &change.what {
                What::Delete => net.deleted.push(change),
                What::Put(row) if row.is_whole() => net.whole.push(change),
                What::Put(_) => net.partial.push(change),
            }
        }
        nets
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::Sent;
    use super::super::values::Field;
    use super::*;

    fn layout(table: usize) -> Arc<Layout> {
        let column = |name: &str| Sent {
            name: name.into(),
            type_name: "text".into(),
        };
        Arc::new(Layout {
            table,
            name: "t".into(),
            columns: vec![column("k"), column("v"), column("w")],
            key: vec![0],
            found_by: vec![0],
            shard_key: vec![0],
        })
    }

    fn change(layout: &Arc<Layout>, key: &str, row: Option<[Field<'_>; 2]>) -> Change {
        let key = Field::Text(key);
        Change {
            layout: Arc::clone(layout),
            xid: Xid(1),
            key: Values::of(&[key]),
            what: match row {
                None => What::Delete,
                Some([v, w]) => What::Put(Values::of(&[key, v, w])),
            },
        }
    }

    #[test]
    fn a_row_is_as_its_last_change_says() {
        let (one, two) = (layout(0), layout(1));
        let text = Field::Text;
        let mut batch = Batch::default();
        for change in [
            change(&one, "a", Some([text("1"), text("long")])),
            change(&two, "a", None),
            change(&one, "b", Some([text("1"), text("x")])),
            change(&one, "a", Some([text("2"), Field::Unchanged])),
            change(&one, "b", None),
            change(&one, "c", Some([text("3"), Field::Unchanged])),
        ] {
            assert!(batch.suits(&change));
            batch.push(change);
        }
        let nets = batch.net();
        assert_eq!(nets.len(), 2);
        let keys = |changes: &[&Change]| -> Vec<String> {
            let key = |change: &&Change| format!("{:?}", change.key);
            changes.iter().map(key).collect()
        };
        assert_eq!(keys(&nets[0].deleted), ["[Text(\"a\")]"]);
        assert_eq!(keys(&nets[1].whole), ["[Text(\"a\")]"]);
        assert_eq!(keys(&nets[1].deleted), ["[Text(\"b\")]"]);
        assert_eq!(keys(&nets[1].partial), ["[Text(\"c\")]"]);
        let What::Put(row) = &nets[1].whole[0].what else {
            panic!("put");
        };
        assert_eq!(*row, Values::of(&[text("a"), text("2"), text("long")]));
        // What must be found is not looked for in a row that this very batch deletes.
        assert!(!batch.suits(&change(&one, "b", Some([text("4"), Field::Unchanged]))));
        assert!(
            !batch.suits(&change(&layout(0), "d", None)),
            "other columns"
        );
        batch.clear();
        assert!(batch.is_empty() && batch.net().is_empty());
    }
}
