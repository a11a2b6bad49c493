//! Whether there may be a switchover: everything that would make it fail half-way is looked for before. Pure.

use super::visit::{PrimaryFacts, ReplicaFacts};
use crate::topology::Timeline;
use crate::topology::view::Stage;

/// A replica that is further behind is not waited for while clients wait.
const MOST_BEHIND: u64 = 16 << 20;

/// Why there is no switchover; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no shard {0}")]
    NoShard(String),
    #[error("shard {shard} has no node {node}")]
    NoNode { shard: String, node: String },
    #[error("shard {shard} has no primary: {trouble}")]
    NoPrimary { shard: String, trouble: String },
    #[error("{0} is the primary already")]
    IsPrimary(String),
    #[error("{node} is {}", .stage.as_str())]
    NotUp { node: String, stage: Stage },
    #[error("{node} is a node of several shards: {shards}")]
    SharedServer { node: String, shards: String },
    #[error("Patroni looks after the nodes of {0}")]
    Patroni(String),
    #[error("{0} is not in recovery: it is no replica")]
    NotReplica(String),
    #[error("{node} follows {}, and the primary is on {}", timeline(.own), timeline(.primary))]
    OtherTimeline {
        node: String,
        own: Option<Timeline>,
        primary: Option<Timeline>,
    },
    #[error("{0} is not streaming from its primary")]
    NotStreaming(String),
    #[error("{node} has still to replay {bytes} bytes; up to {MOST_BEHIND} are waited for")]
    Behind { node: String, bytes: u64 },
    #[error("the replay on {0} is paused")]
    Paused(String),
    #[error("our role lacks on {node}: {rights}")]
    Rights { node: String, rights: String },
    #[error("default_transaction_read_only is on already on {0}")]
    ReadOnly(String),
    #[error(
        "default_transaction_read_only is set on {node} for {places}, which would go on writing"
    )]
    Overridden { node: String, places: String },
}

fn timeline(timeline: &Option<Timeline>) -> String {
    timeline.map_or("an unknown timeline".to_owned(), |timeline| {
        format!("timeline {timeline}")
    })
}

impl Refusal {
    /// The way out.
    pub fn hint(&self) -> &'static str {
        match self {
            Refusal::NoShard(_) => "SHOW SHARDS lists them.",
            Refusal::NoNode { .. } | Refusal::IsPrimary(_) => "SHOW NODES lists the replicas.",
            Refusal::NoPrimary { .. } => {
                "A switchover goes from one primary that works to another. With mode = \"promote\", one that is lost is replaced."
            }
            Refusal::NotUp { .. } => "SHOW NODES says why. UNDRAIN gives a drained node back.",
            Refusal::SharedServer { .. } => {
                "All shards of a server move together: promote the replica by hand, and it is found."
            }
            Refusal::Patroni(_) => {
                "It would undo the switchover: use patronictl switchover, and the new primary is found."
            }
            Refusal::NotReplica(_) | Refusal::OtherTimeline { .. } => {
                "Rebuild it as a standby of the primary (pg_rewind or pg_basebackup)."
            }
            Refusal::NotStreaming(_) => {
                "Look at its primary_conninfo and its log; our role needs pg_read_all_stats to see it."
            }
            Refusal::Behind { .. } => "Try again when SHOW NODES shows less lag.",
            Refusal::Paused(_) => "SELECT pg_wal_replay_resume() there.",
            Refusal::Rights { .. } => {
                "The control plane logs in as the first user that has a password in the configuration; make it one with these rights."
            }
            Refusal::ReadOnly(_) => {
                "ALTER SYSTEM RESET default_transaction_read_only and SELECT pg_reload_conf() there, if nobody else wants it so."
            }
            Refusal::Overridden { .. } => {
                "ALTER ROLE or ALTER DATABASE ... RESET default_transaction_read_only."
            }
        }
    }
}

/// Whether the one can take over from the other. The names are host and port.
pub fn may_switch(
    old: &str,
    primary: &PrimaryFacts,
    new: &str,
    replica: &ReplicaFacts,
) -> Result<(), Refusal> {
    let (old, new) = (old.to_owned(), new.to_owned());
    if primary.recovering {
        return Err(Refusal::NoPrimary {
            shard: "of this node".to_owned(),
            trouble: format!("{old} is in recovery"),
        });
    }
    if !replica.recovering {
        return Err(Refusal::NotReplica(new));
    }
    if replica.timeline.is_none() || replica.timeline != primary.timeline {
        return Err(Refusal::OtherTimeline {
            node: new,
            own: replica.timeline,
            primary: primary.timeline,
        });
    }
    if !primary.missing_rights.is_empty() {
        let rights = primary.missing_rights.join(", ");
        return Err(Refusal::Rights { node: old, rights });
    }
    if !replica.may_promote {
        let rights = "EXECUTE on pg_promote(boolean, integer)".to_owned();
        return Err(Refusal::Rights { node: new, rights });
    }
    if replica.heard.is_none() {
        return Err(Refusal::NotStreaming(new));
    }
    if replica.replay_paused {
        return Err(Refusal::Paused(new));
    }
    let bytes = primary.written.0.saturating_sub(replica.replayed.0);
    if bytes > MOST_BEHIND {
        return Err(Refusal::Behind { node: new, bytes });
    }
    if primary.read_only {
        return Err(Refusal::ReadOnly(old));
    }
    if !primary.overrides.is_empty() {
        let places: Vec<_> = primary.overrides.iter().map(|place| &*place.0).collect();
        let places = places.join(", ");
        return Err(Refusal::Overridden { node: old, places });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::visit::Override;
    use super::*;
    use crate::topology::Lsn;

    fn sound() -> (PrimaryFacts, ReplicaFacts) {
        let primary = PrimaryFacts {
            recovering: false,
            timeline: Some(Timeline(3)),
            written: Lsn(50_000_000),
            missing_rights: vec![],
            read_only: false,
            configured: None,
            overrides: vec![],
        };
        let replica = ReplicaFacts {
            recovering: true,
            timeline: Some(Timeline(3)),
            received: Lsn(50_000_000),
            replayed: Lsn(49_000_000),
            heard: Some(Duration::from_millis(5)),
            may_promote: true,
            replay_paused: false,
        };
        (primary, replica)
    }

    /// Every refusal, by the one thing that is not as it must be.
    #[test]
    fn one_thing_wrong_refuses() {
        type Change = fn(&mut PrimaryFacts, &mut ReplicaFacts);
        let cases: [(Change, &str); 12] = [
            (|_, _| {}, "fine"),
            (|p, _| p.recovering = true, "a:1 is in recovery"),
            (|_, r| r.recovering = false, "b:2 is not in recovery"),
            (
                |_, r| r.timeline = Some(Timeline(2)),
                "b:2 follows timeline 2, and the primary is on timeline 3",
            ),
            (|_, r| r.timeline = None, "b:2 follows an unknown timeline"),
            (
                |p, _| p.missing_rights = vec!["x".into(), "y".into()],
                "our role lacks on a:1: x, y",
            ),
            (
                |_, r| r.may_promote = false,
                "our role lacks on b:2: EXECUTE on pg_promote",
            ),
            (|_, r| r.heard = None, "b:2 is not streaming"),
            (|_, r| r.replay_paused = true, "the replay on b:2 is paused"),
            (
                |_, r| r.replayed = Lsn(1),
                "b:2 has still to replay 49999999 bytes",
            ),
            (|p, _| p.read_only = true, "is on already on a:1"),
            (
                |p, _| p.overrides = vec![Override("role app".into())],
                "is set on a:1 for role app",
            ),
        ];
        for (change, wanted) in cases {
            let (mut primary, mut replica) = sound();
            change(&mut primary, &mut replica);
            let said = match may_switch("a:1", &primary, "b:2", &replica) {
                Ok(()) => "fine".to_owned(),
                Err(refusal) => {
                    assert!(!refusal.hint().is_empty());
                    refusal.to_string()
                }
            };
            assert!(said.contains(wanted), "{said} is not {wanted}");
        }
    }
}
