//! Whom to promote when a primary is lost. Pure.
//!
//! All that a primary acknowledged under synchronous replication is on one of its standbys at least; which one is not known when the primary is gone.
//! So all of them are asked, and the one that has received the most on the greatest timeline has everything that any of them has.
//! When one cannot be asked, that one may have more, and the administrator has said what to do then.

use std::time::Duration;

use super::visit::ReplicaFacts;
use crate::config::MissingReplicas;
use crate::topology::{Lsn, Timeline};

/// A replica, as far as it could be asked.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Host and port.
    pub name: String,
    /// Or why there is no answer.
    pub facts: Result<ReplicaFacts, String>,
    /// Of several that have the same, the greater one is taken.
    pub preference: u32,
}

/// What the one that is chosen must be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub missing: MissingReplicas,
    /// Most bytes that it may lack of `written`.
    pub max_loss: Option<u64>,
    /// What the primary was last seen to have written.
    pub written: Option<Lsn>,
    /// The greatest on which any node of the shard was seen: whoever follows an older one has other data.
    pub newest: Option<Timeline>,
    /// Whoever has heard from the primary this lately is a witness that it lives.
    pub silence: Duration,
}

/// Why nobody is promoted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotChosen {
    #[error("no replica can be asked: {0}")]
    Nobody(String),
    #[error("{0} cannot be asked how far it has come, and it may have more than the others ({1})")]
    Missing(String, String),
    #[error("{0} is a primary already")]
    AlreadyPrimary(String),
    #[error(
        "{name} heard from the primary {ago:?} ago: the primary lives, and it is this proxy that cannot reach it"
    )]
    Heard { name: String, ago: Duration },
    #[error("{name} cannot be shown to follow timeline {newest}, to which the shard has gone on")]
    OldTimeline { name: String, newest: Timeline },
    #[error("{name} lacks {bytes} bytes of what the primary had written; max_loss is {limit}")]
    TooMuchLost {
        name: String,
        bytes: u64,
        limit: u64,
    },
    #[error("our role may not promote {0}: it needs EXECUTE on pg_promote(boolean, integer)")]
    Rights(String),
}

/// The place of the best one among them, and how many bytes it lacks of what the primary was last seen to have written.
pub fn choose(candidates: &[Candidate], wanted: Wanted) -> Result<(usize, u64), NotChosen> {
    let mut best: Option<(usize, &ReplicaFacts)> = None;
    let mut astray = None;
    for (place, candidate) in candidates.iter().enumerate() {
        let facts = match (&candidate.facts, wanted.missing) {
            (Ok(facts), _) => facts,
            (Err(_), MissingReplicas::Promote) => continue,
            (Err(error), MissingReplicas::Wait) => {
                return Err(NotChosen::Missing(candidate.name.clone(), error.clone()));
            }
        };
        if !facts.recovering {
            return Err(NotChosen::AlreadyPrimary(candidate.name.clone()));
        }
        if let Some(ago) = facts.heard.filter(|ago| *ago < wanted.silence) {
            let name = candidate.name.clone();
            return Err(NotChosen::Heard { name, ago });
        }
        if let Some(newest) = wanted
            .newest
            .filter(|newest| facts.timeline < Some(*newest))
        {
            let name = candidate.name.clone();
            astray = Some(NotChosen::OldTimeline { name, newest });
            continue;
        }
        let rank = |place: usize, facts: &ReplicaFacts| {
            (facts.timeline, facts.received, candidates[place].preference)
        };
        if best.is_none_or(|(other, known)| rank(place, facts) > rank(other, known)) {
            best = Some((place, facts));
        }
    }
    let Some((place, facts)) = best else {
        if let Some(astray) = astray {
            return Err(astray);
        }
        let each = candidates.iter().map(|candidate| match &candidate.facts {
            Ok(_) => candidate.name.clone(),
            Err(error) => format!("{}: {error}", candidate.name),
        });
        return Err(NotChosen::Nobody(each.collect::<Vec<_>>().join("; ")));
    };
    let name = candidates[place].name.clone();
    if !facts.may_promote {
        return Err(NotChosen::Rights(name));
    }
    let bytes = wanted
        .written
        .map_or(0, |written| written.0.saturating_sub(facts.received.0));
    match wanted.max_loss {
        Some(limit) if bytes > limit => Err(NotChosen::TooMuchLost { name, bytes, limit }),
        _ => Ok((place, bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str, timeline: u32, received: u64) -> Candidate {
        Candidate {
            name: name.to_owned(),
            facts: Ok(ReplicaFacts {
                recovering: true,
                timeline: Some(Timeline(timeline)),
                received: Lsn(received),
                replayed: Lsn(received / 2),
                heard: None,
                may_promote: true,
                replay_paused: false,
            }),
            preference: 0,
        }
    }

    fn gone(name: &str) -> Candidate {
        Candidate {
            facts: Err("refused".to_owned()),
            ..at(name, 1, 1)
        }
    }

    fn with(mut candidate: Candidate, change: impl FnOnce(&mut ReplicaFacts)) -> Candidate {
        if let Ok(facts) = &mut candidate.facts {
            change(facts);
        }
        candidate
    }

    const WANTED: Wanted = Wanted {
        missing: MissingReplicas::Wait,
        max_loss: None,
        written: Some(Lsn(1000)),
        newest: None,
        silence: Duration::from_secs(2),
    };

    fn said(candidates: &[Candidate], wanted: Wanted) -> String {
        match choose(candidates, wanted) {
            Ok((place, lost)) => format!("{} lacks {lost}", candidates[place].name),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn the_one_with_the_most() {
        let three = [at("a", 1, 900), at("b", 1, 990), at("c", 1, 950)];
        assert_eq!(said(&three, WANTED), "b lacks 10");
        let other = [at("a", 2, 100), at("b", 1, 990)];
        assert_eq!(said(&other, WANTED), "a lacks 900");
        let mut equal = [at("a", 1, 990), at("b", 1, 990)];
        assert_eq!(said(&equal, WANTED), "a lacks 10");
        equal[1].preference = 1;
        assert_eq!(said(&equal, WANTED), "b lacks 10");
        // It has more than was seen.
        assert_eq!(said(&[at("a", 1, 2000)], WANTED), "a lacks 0");
    }

    #[test]
    fn who_cannot_be_asked() {
        let two = [at("a", 1, 900), gone("b")];
        assert!(said(&two, WANTED).starts_with("b cannot be asked"));
        let go_on = Wanted {
            missing: MissingReplicas::Promote,
            ..WANTED
        };
        assert_eq!(said(&two, go_on), "a lacks 100");
        assert!(said(&[gone("b")], go_on).contains("no replica can be asked: b: refused"));
        assert!(said(&[], WANTED).contains("no replica can be asked"));
    }

    #[test]
    fn nobody_is_promoted_beside_a_primary() {
        let heard = |millis| {
            with(at("b", 1, 900), |facts| {
                facts.heard = Some(Duration::from_millis(millis))
            })
        };
        assert!(
            said(&[at("a", 1, 990), heard(100)], WANTED)
                .starts_with("b heard from the primary 100ms ago")
        );
        assert_eq!(said(&[at("a", 1, 990), heard(2000)], WANTED), "a lacks 10");
        let primary = with(at("b", 2, 900), |facts| facts.recovering = false);
        assert_eq!(
            said(&[at("a", 1, 990), primary], WANTED),
            "b is a primary already"
        );
    }

    #[test]
    fn who_follows_an_older_timeline_is_no_candidate() {
        let newest = Wanted {
            newest: Some(Timeline(2)),
            ..WANTED
        };
        assert_eq!(
            said(&[at("a", 1, 999), at("b", 2, 900)], newest),
            "b lacks 100"
        );
        let nobody = "a cannot be shown to follow timeline 2, to which the shard has gone on";
        assert_eq!(said(&[at("a", 1, 999)], newest), nobody);
    }

    #[test]
    fn what_may_be_lost_and_what_may_be_done() {
        let limited = Wanted {
            max_loss: Some(99),
            ..WANTED
        };
        assert_eq!(
            said(&[at("a", 1, 900)], limited),
            "a lacks 100 bytes of what the primary had written; max_loss is 99"
        );
        assert_eq!(said(&[at("a", 1, 901)], limited), "a lacks 99");
        let forbidden = with(at("a", 1, 900), |facts| facts.may_promote = false);
        assert!(said(&[forbidden], WANTED).contains("may not promote a"));
    }
}
