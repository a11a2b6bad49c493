//! Rows that looked different while changes were on their way: each is judged exactly, or left open.
//!
//! Nothing stops meanwhile, so what is seen on one side is always older than what is seen on the other. A verdict needs a time for which the
//! owner's row is known and in which the receiving shard was looked at:
//!
//! ```text
//! owner's log   ──── ours seen ── mark ────────────────────────── again seen ────────▶
//! receiver                              applied up to mark, theirs seen
//! ```
//!
//! * Theirs is as ours was: no difference. What comes later comes in order and as whole rows.
//! * Ours and again are one version of the row (rows have versions: `xmin`, `ctid`): the owner's row was this one all the time, so theirs should
//!   have been. `again` has to see all commits that theirs could have, and a commit is in the log before it can be seen: hence the wait for writers
//!   ([`RowsAt::settle`]) between the two.
//! * The owner has no row: absence has no version, and a row may have come and gone. But theirs has one: if theirs is the same version when
//!   it is looked at behind another mark, no change of the row was applied around `again`, where the owner had none.
//! * Else the row changes too fast. In the end it is locked on the owner, for share and for a short time, and theirs looked at behind a mark.

use std::collections::HashSet;

use crate::resharding::job::ShardName;

use super::receipt::{Reached, Receipt};
use super::rows::{Found, RowsAt, Settled};
use super::text::{Hold, Key};
use super::{Limits, VerifyError};

/// Most rows that are locked at a time.
const HELD: usize = 100;

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    Differs,
    OnlyOn(ShardName),
}

/// What became of suspects; those that are in neither list are alike.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) differences: Vec<(Key, Wrong)>,
    /// To be looked at again.
    pub(super) open: Vec<Key>,
}

/// One table on both sides.
pub(super) struct Pair<'a> {
    pub(super) owner: RowsAt,
    pub(super) receiver: RowsAt,
    pub(super) receipt: &'a Receipt,
    pub(super) number: u64,
    pub(super) limits: &'a Limits,
}

impl Pair<'_> {
    /// Looks at these rows without stopping anybody.
    pub(super) async fn judge(&self, keys: &[Key]) -> Result<Judged, VerifyError> {
        let ours = self.owner.found(keys, Hold::No).await?;
        self.mark().await?;
        let theirs = self.receiver.found(keys, Hold::No).await?;
        let unlike: Vec<usize> = (0..keys.len())
            .filter(|place| !alike(ours.get(place), theirs.get(place)))
            .collect();
        let mut judged = Judged::default();
        if unlike.is_empty() {
            return Ok(judged);
        }
        let rest: Vec<Key> = unlike.iter().map(|place| keys[*place].clone()).collect();
        if self.owner.settle(self.limits.settle).await? == Settled::No {
            judged.open = rest;
            return Ok(judged);
        }
        let again = self.owner.found(&rest, Hold::No).await?;
        let mut seen = HashSet::new();
        let mut without = Vec::new();
        for ((place, key), before) in rest.into_iter().enumerate().zip(unlike) {
            match (ours.get(&before), theirs.get(&before), again.get(&place)) {
                (Some(one), theirs, Some(two)) if one.version == two.version => {
                    // Two texts of one key, as 1.0 and 1.00, are one row.
                    if seen.insert(two.version.clone()) {
                        judged.differences.push((key, self.wrong(theirs)));
                    }
                }
                (None, Some(theirs), None) => without.push((key, theirs.clone())),
                _ => judged.open.push(key),
            }
        }
        self.judge_absent(without, &mut judged).await?;
        Ok(judged)
    }

    /// Rows that the owner has not, and the receiver had so.
    async fn judge_absent(
        &self,
        suspects: Vec<(Key, Found)>,
        judged: &mut Judged,
    ) -> Result<(), VerifyError> {
        if suspects.is_empty() {
            return Ok(());
        }
        self.mark().await?;
        let keys: Vec<Key> = suspects.iter().map(|(key, _)| key.clone()).collect();
        let now = self.receiver.found(&keys, Hold::No).await?;
        let mut seen = HashSet::new();
        for (place, (key, before)) in suspects.into_iter().enumerate() {
            match now.get(&place) {
                None => {}
                Some(row) if row.version != before.version => judged.open.push(key),
                Some(_) if !seen.insert(before.version.clone()) => {}
                Some(_) => {
                    let only = Wrong::OnlyOn(self.receiver.shard.clone());
                    judged.differences.push((key, only));
                }
            }
        }
        Ok(())
    }

    /// Looks at these rows while nobody can change them. `holder`: another connection to the owner.
    pub(super) async fn judge_held(
        &self,
        holder: &RowsAt,
        keys: Vec<Key>,
    ) -> Result<Judged, VerifyError> {
        let mut judged = Judged::default();
        for keys in keys.chunks(HELD) {
            let Some(held) = holder.hold(keys, self.limits.lock).await? else {
                judged.open.extend_from_slice(keys);
                continue;
            };
            let mark = self.owner.mark(self.number).await?;
            let reached = self.receipt.reached(mark, self.limits.hold).await?;
            if reached == Reached::NotInTime {
                holder.release().await?;
                judged.open.extend_from_slice(keys);
                continue;
            }
            let theirs = self.receiver.found(keys, Hold::No).await?;
            holder.release().await?;
            for (place, key) in keys.iter().enumerate() {
                match (held.get(&place), theirs.get(&place)) {
                    // What is not there cannot be locked.
                    (None, _) => judged.open.push(key.clone()),
                    (ours, theirs) if alike(ours, theirs) => {}
                    (_, theirs) => judged.differences.push((key.clone(), self.wrong(theirs))),
                }
            }
        }
        Ok(judged)
    }

    /// Waits until all that could be seen on the owner is applied.
    async fn mark(&self) -> Result<(), VerifyError> {
        let mark = self.owner.mark(self.number).await?;
        let limit = self.limits.lag;
        match self.receipt.reached(mark, limit).await? {
            Reached::Yes => Ok(()),
            Reached::NotInTime => Err(VerifyError::Lagging { waited: limit }),
        }
    }

    /// Of a row that the owner has.
    fn wrong(&self, theirs: Option<&Found>) -> Wrong {
        match theirs {
            Some(_) => Wrong::Differs,
            None => Wrong::OnlyOn(self.owner.shard.clone()),
        }
    }
}

fn alike(ours: Option<&Found>, theirs: Option<&Found>) -> bool {
    ours.map(|row| &row.digest) == theirs.map(|row| &row.digest)
}
