//! Whether snapshots of several shards go together: each commit of several shards is in all of them or in none. Pure.
//!
//! Three looks at each shard. Every shard's first look says which transactions were over. After all first looks, each shard tells what is prepared, and after
//! that takes its snapshot and tells which commits of several shards are in it that were not over at its first look. Let a commit be in the snapshot of
//! shard A and not in that of shard B. Either it was not over at A's first look; then A has told of it. Or it was; then it was prepared on B before that, still is when B takes its
//! snapshot, and B has told of it in between. So all commits that can tear the snapshots apart are told of, and what the looks leave open is asked for by name.

use std::collections::{BTreeMap, BTreeSet};

/// What one shard has told.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Ids of what was prepared before the snapshot was taken.
    pub prepared: BTreeSet<String>,
    /// Commits in the snapshot that were not over before, with the names of their shards.
    pub committed: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Whole,
    Torn,
    /// They go together if each of these is as expected in the snapshot of its shard.
    Ask(Vec<Doubt>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The shard's place.
    pub shard: usize,
    pub id: String,
    pub expected: Expected,
}

/// Whether a commit must be in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    In,
    NotIn,
}

/// `names` are those of the shards, in the order of their looks.
pub fn compare(names: &[&str], looks: &[Look]) -> Verdict {
    let mut doubts = Vec::new();
    for (place, look) in looks.iter().enumerate() {
        for (id, shards) in &look.committed {
            let others = names.iter().zip(looks).enumerate();
            for (other, (name, its)) in others.filter(|(other, _)| *other != place) {
                if shards.contains(*name) && !its.committed.contains_key(id) {
                    if its.prepared.contains(id) {
                        return Verdict::Torn;
                    }
                    doubts.push(Doubt {
                        shard: other,
                        id: id.clone(),
                        expected: Expected::In,
                    });
                }
            }
        }
        let pending = look.prepared.iter();
        for id in pending.filter(|id| !look.committed.contains_key(*id)) {
            for (other, its) in looks
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != place)
            {
                if its.committed.contains_key(id) {
                    return Verdict::Torn;
                }
                // What is prepared in two places is committed in neither.
                doubts.push(Doubt {
                    shard: other,
                    id: id.clone(),
                    expected: Expected::NotIn,
                });
            }
        }
    }
    match doubts.is_empty() {
        true => Verdict::Whole,
        false => Verdict::Ask(doubts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(prepared: &[&str], committed: &[(&str, &[&str])]) -> Look {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Look {
            prepared: names(prepared),
            committed: committed
                .iter()
                .map(|(id, shards)| ((*id).to_owned(), names(shards)))
                .collect(),
        }
    }

    fn doubt(shard: usize, expected: Expected) -> Doubt {
        Doubt {
            shard,
            id: "t".to_owned(),
            expected,
        }
    }

    #[test]
    fn what_is_everywhere_or_nowhere_is_whole() {
        let both: &[(&str, &[&str])] = &[("t", &["a", "b"])];
        assert_eq!(
            compare(&["a", "b"], &[look(&[], both), look(&["t"], both)]),
            Verdict::Whole
        );
        let elsewhere: &[(&str, &[&str])] = &[("t", &["a", "c"])];
        assert_eq!(
            compare(&["a", "b"], &[look(&[], elsewhere), look(&[], &[])]),
            Verdict::Whole
        );
    }

    #[test]
    fn what_is_in_one_snapshot_and_prepared_elsewhere_is_torn() {
        let there: &[(&str, &[&str])] = &[("t", &["a", "b"])];
        for looks in [
            [look(&[], there), look(&["t"], &[])],
            [look(&["t"], &[]), look(&["t"], there)],
        ] {
            assert_eq!(compare(&["a", "b"], &looks), Verdict::Torn);
        }
    }

    #[test]
    fn what_the_looks_leave_open_is_asked() {
        // Over on b before its first look, or begun there after its snapshot.
        let looks = [look(&[], &[("t", &["a", "b"])]), look(&[], &[])];
        assert_eq!(
            compare(&["a", "b"], &looks),
            Verdict::Ask(vec![doubt(1, Expected::In)])
        );
        // Decided before a's first look, or not yet.
        let looks = [look(&[], &[]), look(&["t"], &[])];
        assert_eq!(
            compare(&["a", "b"], &looks),
            Verdict::Ask(vec![doubt(0, Expected::NotIn)])
        );
    }
}
