//! `RESOLVE TRANSACTION`: an administrator asks for one transaction, or says what shall become of it when nobody can know.

use futures_util::future::join_all;

use super::Outcome;
use super::decision::{self, Doubt, Verdict, shard_named};
use super::id::{Gid, TransactionId};
use super::ledger::Place;
use super::recovery::Recovery;
use super::statements::{Finished, Prepared};

/// What became of a transaction at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub place: Place,
    /// `None`: it is not known.
    pub outcome: Option<Outcome>,
    pub result: Done,
}

/// What has been done at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    Finished,
    /// Somebody else was faster.
    FinishedBefore,
    /// Nothing of it is prepared anywhere, and this shard has its row.
    Recorded,
    /// It is still there, and why.
    Left(String),
}

/// Why an administrator's word is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotResolved {
    #[error("nothing of transaction {0} is prepared on any shard, and none knows of it")]
    Unheard(TransactionId),
    #[error("transaction {id} is decided, and its outcome is {}", .outcome.as_str())]
    Decided { id: TransactionId, outcome: Outcome },
    #[error("the owner of transaction {0} may still decide")]
    Open(TransactionId),
    #[error("transaction {id} is not decided by hand while its decision shard answers: {doubt}")]
    Answers { id: TransactionId, doubt: Doubt },
}

impl Recovery {
    /// Finishes a transaction wherever it is prepared. `by_hand`: as what, when its decision shard is lost; it is followed only then.
    pub async fn resolve(
        &self,
        id: TransactionId,
        by_hand: Option<Outcome>,
    ) -> Result<Vec<Resolved>, NotResolved> {
        let (mut resolved, mut found) = (Vec::new(), Vec::new());
        let looks = self.places().into_iter().map(|place| async move {
            let prepared = self.prepared(&place).await;
            (place, prepared)
        });
        for (place, prepared) in join_all(looks).await {
            match prepared {
                Ok(prepared) => {
                    found.extend(of(id, prepared).map(|(one, gid)| (place.clone(), one, gid)))
                }
                Err(trouble) => resolved.push(Resolved {
                    place,
                    outcome: None,
                    result: Done::Left(format!("the shard cannot be asked: {trouble}")),
                }),
            }
        }
        if found.is_empty() {
            resolved.extend(self.recorded(id).await);
            return match resolved.is_empty() {
                true => Err(NotResolved::Unheard(id)),
                false => Ok(resolved),
            };
        }
        for (place, prepared, gid) in found {
            let verdict = self.verdict(&place.database, &gid.decision_shard, id).await;
            let outcome = match follow(id, verdict, by_hand)? {
                Follow::Outcome(outcome) => outcome,
                Follow::Leave(reason) => {
                    let (outcome, result) = (None, Done::Left(reason));
                    resolved.push(Resolved {
                        place,
                        outcome,
                        result,
                    });
                    continue;
                }
                Follow::Word(outcome) => {
                    let (gid, outcome_word) = (&prepared.gid, outcome.as_str());
                    tracing::warn!(database = %place.database, shard = %place.shard, gid, outcome = outcome_word, "an administrator decides a transaction whose decision shard is lost");
                    outcome
                }
            };
            for (_, _, result) in self.finish(&place, vec![(prepared, outcome)]).await {
                resolved.push(Resolved {
                    place: place.clone(),
                    outcome: Some(outcome),
                    result: match result {
                        Ok(Finished::Now) => Done::Finished,
                        Ok(Finished::Before) => Done::FinishedBefore,
                        Ok(Finished::Soon) => {
                            Done::Left("somebody else is finishing it".to_owned())
                        }
                        Err(reason) => Done::Left(reason),
                    },
                });
            }
        }
        resolved.sort_by(|a, b| a.place.cmp(&b.place));
        Ok(resolved)
    }

    /// The places whose tables know of a transaction.
    async fn recorded(&self, id: TransactionId) -> Vec<Resolved> {
        let config = self.topology().config();
        let config = &config;
        let asked = self.places().into_iter().map(|place| async move {
            let shard = shard_named(config, &place.shard)?;
            let rows = decision::rows(self.topology(), &place.database, shard, &[id]).await;
            let outcome = rows.ok()?.get(&id).copied()?;
            Some(Resolved {
                place,
                outcome: Some(outcome),
                result: Done::Recorded,
            })
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

/// Those of one transaction.
fn of(id: TransactionId, prepared: Vec<Prepared>) -> impl Iterator<Item = (Prepared, Gid)> {
    prepared.into_iter().filter_map(move |prepared| {
        let gid = Gid::parse(&prepared.gid).ok()?;
        (gid.id == id).then_some((prepared, gid))
    })
}

/// What to do at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Follow {
    Outcome(Outcome),
    /// The administrator's.
    Word(Outcome),
    Leave(String),
}

/// The truth goes before the administrator's word.
fn follow(
    id: TransactionId,
    verdict: Verdict,
    by_hand: Option<Outcome>,
) -> Result<Follow, NotResolved> {
    match (verdict, by_hand) {
        (Verdict::Decided(outcome), Some(word)) if word != outcome => {
            Err(NotResolved::Decided { id, outcome })
        }
        (Verdict::Decided(outcome), _) => Ok(Follow::Outcome(outcome)),
        (Verdict::Open, Some(_)) => Err(NotResolved::Open(id)),
        (Verdict::Open, None) => Ok(Follow::Leave("its owner may still decide".to_owned())),
        (Verdict::Unknown(doubt), None) => Ok(Follow::Leave(doubt.to_string())),
        (Verdict::Unknown(doubt), Some(word)) => match doubt.is_lost() {
            true => Ok(Follow::Word(word)),
            false => Err(NotResolved::Answers { id, doubt }),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::execution::commit::id::Proxy;

    #[test]
    fn an_administrator_decides_only_what_nobody_can_know() {
        let id = TransactionId::new(SystemTime::now(), Proxy(1));
        let [committed, aborted] = [Outcome::Committed, Outcome::Aborted];
        let shard = || Box::from("s1");
        let lost = [
            Doubt::NotConfigured(shard()),
            Doubt::Unreachable {
                shard: shard(),
                error: String::new(),
            },
            Doubt::NoTable {
                shard: shard(),
                error: String::new(),
            },
        ];
        for doubt in lost {
            let said = follow(id, Verdict::Unknown(doubt.clone()), Some(aborted));
            assert_eq!(said, Ok(Follow::Word(aborted)));
            let left = follow(id, Verdict::Unknown(doubt.clone()), None);
            assert_eq!(left, Ok(Follow::Leave(doubt.to_string())));
        }
        let answers = Doubt::Refused {
            shard: shard(),
            error: String::new(),
        };
        let said = follow(id, Verdict::Unknown(answers.clone()), Some(committed));
        assert_eq!(said, Err(NotResolved::Answers { id, doubt: answers }));
        assert_eq!(
            follow(id, Verdict::Open, Some(committed)),
            Err(NotResolved::Open(id))
        );
        let decided = |by_hand| follow(id, Verdict::Decided(committed), by_hand);
        assert_eq!(decided(None), Ok(Follow::Outcome(committed)));
        assert_eq!(decided(Some(committed)), Ok(Follow::Outcome(committed)));
        let outcome = committed;
        assert_eq!(
            decided(Some(aborted)),
            Err(NotResolved::Decided { id, outcome })
        );
    }
}
