//! Finding out what became of transactions whose owner may be gone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio_postgres::error::SqlState;

use super::Outcome;
use super::id::TransactionId;
use super::install::Trouble;
use super::statements::{self, Attempt};
use crate::config::Config;
use crate::sharding::ShardId;
use crate::topology::Topology;

/// How long one shard may take for one step, connecting included.
const LONGEST: Duration = Duration::from_secs(20);

/// After so many transactions in a row whose owners still work on them the rest waits for the next time: each of them costs a wait.
const MOST_OPEN: usize = 20;

/// What is known of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Decided(Outcome),
    /// Its owner may still decide.
    Open,
    /// Nobody can tell now.
    Unknown(Doubt),
}

/// Why nobody can tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    #[error("its decision shard {0:?} is not in the configuration")]
    NotConfigured(Box<str>),
    #[error("its decision shard {shard:?} has no trunkline.commits: {error}")]
    NoTable { shard: Box<str>, error: String },
    #[error("its decision shard {shard:?} cannot be asked: {error}")]
    Unreachable { shard: Box<str>, error: String },
    /// It answers, and does not do what is asked.
    #[error("its decision shard {shard:?} said: {error}")]
    Refused { shard: Box<str>, error: String },
}

/// Whether a shard other than the decision shard shows the transaction's row: it does so only when it has committed its part, which is after the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elsewhere {
    Committed,
    Nothing,
}

/// What to do about one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Tell(Verdict),
    /// On the decision shard.
    TryAbort,
}

/// `row`: the decision shard's.
fn weigh(row: Result<Option<Outcome>, Doubt>, elsewhere: Elsewhere) -> Step {
    match (row, elsewhere) {
        (Ok(Some(outcome)), _) => Step::Tell(Verdict::Decided(outcome)),
        (Ok(None) | Err(_), Elsewhere::Committed) => {
            Step::Tell(Verdict::Decided(Outcome::Committed))
        }
        (Ok(None), Elsewhere::Nothing) => Step::TryAbort,
        (Err(doubt), Elsewhere::Nothing) => Step::Tell(Verdict::Unknown(doubt)),
    }
}

/// The verdicts on transactions of one decision shard. Whatever was not decided and cannot be any more is aborted by the question.
pub async fn verdicts(
    topology: &Arc<Topology>,
    database: &str,
    decision_shard: &str,
    ids: &[TransactionId],
) -> BTreeMap<TransactionId, Verdict> {
    let config = topology.config();
    let decides = shard_named(&config, decision_shard)
        .ok_or_else(|| Doubt::NotConfigured(Box::from(decision_shard)));
    let rows = match decides.clone() {
        Ok(shard) => rows(topology, database, shard, ids)
            .await
            .map_err(|trouble| Doubt::of(decision_shard, trouble)),
        Err(doubt) => Err(doubt),
    };
    let row = |id: &TransactionId| match &rows {
        Ok(rows) => Ok(rows.get(id).copied()),
        Err(doubt) => Err(doubt.clone()),
    };
    let unseen: Vec<_> = ids
        .iter()
        .copied()
        .filter(|id| !matches!(row(id), Ok(Some(_))))
        .collect();
    let committed = committed_elsewhere(topology, &config, database, decision_shard, &unseen).await;
    let (mut told, mut to_abort) = (BTreeMap::new(), Vec::new());
    for id in ids {
        let elsewhere = match committed.contains(id) {
            true => Elsewhere::Committed,
            false => Elsewhere::Nothing,
        };
        match weigh(row(id), elsewhere) {
            Step::Tell(verdict) => _ = told.insert(*id, verdict),
            Step::TryAbort => to_abort.push(*id),
        }
    }
    if let (Ok(shard), false) = (decides, to_abort.is_empty()) {
        let tried = within(abort(topology, database, shard, &to_abort, &mut told)).await;
        if let Err(trouble) = tried {
            let doubt = Doubt::of(decision_shard, trouble);
            for id in to_abort {
                told.entry(id)
                    .or_insert_with(|| Verdict::Unknown(doubt.clone()));
            }
        }
    }
    told
}

/// What a shard's table says.
pub async fn rows(
    topology: &Topology,
    database: &str,
    shard: ShardId,
    ids: &[TransactionId],
) -> Result<HashMap<TransactionId, Outcome>, Trouble> {
    within(async {
        let primary = topology.primary(database, shard).await?;
        let found = statements::outcomes(&primary, ids).await?;
        primary.release();
        Ok(found)
    })
    .await
}

/// Those of which another shard shows that they are committed. One that cannot be asked shows nothing.
async fn committed_elsewhere(
    topology: &Topology,
    config: &Config,
    database: &str,
    decision_shard: &str,
    ids: &[TransactionId],
) -> HashSet<TransactionId> {
    if ids.is_empty() {
        return HashSet::new();
    }
    let others = shards(config).filter(|(_, name)| *name != decision_shard);
    let asked = others.map(|(shard, _)| rows(topology, database, shard, ids));
    let answers = join_all(asked).await;
    let rows = answers.into_iter().flatten().flatten();
    rows.filter(|(_, outcome)| *outcome == Outcome::Committed)
        .map(|(id, _)| id)
        .collect()
}

/// One after the other. What was told before an error stays told.
async fn abort(
    topology: &Topology,
    database: &str,
    shard: ShardId,
    ids: &[TransactionId],
    told: &mut BTreeMap<TransactionId, Verdict>,
) -> Result<(), Trouble> {
    let primary = topology.primary(database, shard).await?;
    let mut open = 0;
    for id in ids {
        let attempt = match open < MOST_OPEN {
            true => statements::try_abort(&primary, *id).await?,
            false => Attempt::Open,
        };
        let verdict = match attempt {
            Attempt::Aborted => Verdict::Decided(Outcome::Aborted),
            Attempt::Open => {
                open += 1;
                Verdict::Open
            }
            Attempt::Decided => {
                let rows = statements::outcomes(&primary, &[*id]).await?;
                // A row that is gone again was old: nothing of it can still be prepared.
                rows.get(id)
                    .map_or(Verdict::Open, |outcome| Verdict::Decided(*outcome))
            }
        };
        told.insert(*id, verdict);
    }
    primary.release();
    Ok(())
}

/// Gives up on a server that does not answer. The connection is dropped with the future, and so closed.
pub async fn within<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::time::timeout(LONGEST, work)
        .await
        .unwrap_or(Err(Trouble::Slow(LONGEST)))
}

/// All shards with their names.
pub fn shards(config: &Config) -> impl Iterator<Item = (ShardId, &str)> {
    let numbers = (0..).map(ShardId);
    numbers.zip(config.shards.iter().map(|shard| &*shard.name))
}

pub fn shard_named(config: &Config, name: &str) -> Option<ShardId> {
    shards(config)
        .find(|(_, known)| *known == name)
        .map(|(shard, _)| shard)
}

impl Doubt {
    fn of(shard: &str, trouble: Trouble) -> Doubt {
        let (shard, error) = (Box::from(shard), trouble.to_string());
        match trouble {
            Trouble::Postgres(said) => match said.code() {
                Some(code) if *code == SqlState::UNDEFINED_TABLE => Doubt::NoTable { shard, error },
                Some(_) => Doubt::Refused { shard, error },
                None => Doubt::Unreachable { shard, error },
            },
            Trouble::Topology(_) | Trouble::Slow(_) | Trouble::NoShard(_) => {
                Doubt::Unreachable { shard, error }
            }
        }
    }

    /// Whether only a person can know more.
    pub fn is_lost(&self) -> bool {
        !matches!(self, Doubt::Refused { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decision_shard_s_row_says_it() {
        for outcome in [Outcome::Committed, Outcome::Aborted] {
            for elsewhere in [Elsewhere::Committed, Elsewhere::Nothing] {
                assert_eq!(
                    weigh(Ok(Some(outcome)), elsewhere),
                    Step::Tell(Verdict::Decided(outcome))
                );
            }
        }
    }

    #[test]
    fn without_a_row_it_is_aborted_only_where_that_can_be_put_down() {
        let doubt = Doubt::NotConfigured(Box::from("s9"));
        assert_eq!(weigh(Ok(None), Elsewhere::Nothing), Step::TryAbort);
        assert_eq!(
            weigh(Err(doubt.clone()), Elsewhere::Nothing),
            Step::Tell(Verdict::Unknown(doubt))
        );
    }

    #[test]
    fn what_one_shard_has_committed_is_committed() {
        let doubt = Doubt::NotConfigured(Box::from("s9"));
        let committed = Step::Tell(Verdict::Decided(Outcome::Committed));
        assert_eq!(weigh(Ok(None), Elsewhere::Committed), committed);
        assert_eq!(weigh(Err(doubt), Elsewhere::Committed), committed);
    }
}
