//! Which conditions restrict which relation of a FROM clause.
//!
//! A condition is *usable* for a relation R when rows of R for which it is not true cannot change the result, so that they need not be
//! read. All conditions recorded are strict: not true when a column in them is NULL. Then, by the place of the condition:
//!
//! * WHERE: every row of the result satisfies it. Without an R row that fails it, the result loses only rows that WHERE removes; a row
//!   that is null-extended instead has NULL in R's columns, so WHERE removes it too. Usable for every relation.
//! * ON of an inner join: as WHERE, for every relation under the join.
//! * ON of an outer join: a row of the nullable side that fails it joins nothing, so it may be left out: usable for every relation under
//!   that side. A row of the preserved side stays in the result all the same: not usable there. FULL preserves both sides.
//! * What every row of one side of a join satisfies (*guaranteed* by that side) is satisfied by every row that the other side's rows
//!   can join: usable for the other side of an inner join, and for the nullable side of an outer join. Inner joins guarantee their ON
//!   and what both sides guarantee; LEFT what its left side guarantees, RIGHT what its right does; FULL and a single relation nothing.
//!
//! The comma is an inner join without a condition.

/// Part of a FROM clause: relations by their index in the block, with the conditions that all its rows satisfy.
#[derive(Default)]
pub(super) struct Side {
    pub(super) relations: Vec<usize>,
    pub(super) guaranteed: Vec<usize>,
    /// Those of `relations` whose columns may be NULL because a join found no partner.
    pub(super) nullable: Vec<usize>,
}

impl Side {
    pub(super) fn one(relation: usize) -> Side {
        Side {
            relations: vec![relation],
            ..Side::default()
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
}

/// Joins two sides on conditions given by index. `usable[relation]` gets what becomes usable.
pub(super) fn join(
    left: Side,
    kind: JoinKind,
    on: &[usize],
    right: Side,
    usable: &mut [Vec<usize>],
) -> Side {
    let mut restrict = |relations: &[usize], guaranteed: &[usize]| {
        for relation in relations {
            usable[*relation].extend(on.iter().chain(guaranteed));
        }
    };
    if matches!(kind, JoinKind::Inner | JoinKind::Right) {
        restrict(&left.relations, &right.guaranteed);
    }
    if matches!(kind, JoinKind::Inner | JoinKind::Left) {
        restrict(&right.relations, &left.guaranteed);
    }
    let nullable = match kind {
        JoinKind::Inner => [left.nullable, right.nullable].concat(),
        JoinKind::Left => [left.nullable, right.relations.clone()].concat(),
        JoinKind::Right => [left.relations.clone(), right.nullable].concat(),
        JoinKind::Full => [left.relations.as_slice(), &right.relations].concat(),
    };
    let guaranteed = match kind {
        JoinKind::Inner => [left.guaranteed.as_slice(), &right.guaranteed, on].concat(),
        JoinKind::Left => left.guaranteed,
        JoinKind::Right => right.guaranteed,
        JoinKind::Full => Vec::new(),
    };
    Side {
        relations: [left.relations, right.relations].concat(),
        guaranteed,
        nullable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preserved_side_is_not_restricted() {
        let mut usable = vec![Vec::new(), Vec::new()];
        let side = join(
            Side::one(0),
            JoinKind::Left,
            &[0],
            Side::one(1),
            &mut usable,
        );
        assert_eq!(usable, [vec![], vec![0]]);
        assert_eq!((side.guaranteed, side.nullable), (vec![], vec![1]));
        let mut usable = vec![Vec::new(), Vec::new()];
        join(
            Side::one(0),
            JoinKind::Full,
            &[0],
            Side::one(1),
            &mut usable,
        );
        assert_eq!(usable, [vec![], vec![]] as [Vec<usize>; 2]);
    }

    #[test]
    fn what_one_side_guarantees_restricts_the_nullable_side() {
        // (0 JOIN 1 ON c0) LEFT JOIN 2 ON c1
        let mut usable = vec![Vec::new(); 3];
        let left = join(
            Side::one(0),
            JoinKind::Inner,
            &[0],
            Side::one(1),
            &mut usable,
        );
        join(left, JoinKind::Left, &[1], Side::one(2), &mut usable);
        assert_eq!(usable, [vec![0], vec![0], vec![1, 0]]);
    }
}
