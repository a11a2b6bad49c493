//! A unit of work is begun anew on another connection when the one it was sent on broke before its server had said a word.
//!
//! Only where that can change nothing but the time it takes: a statement by itself that only reads, or that its server did not come to read, or the
//! first unit of work of a transaction block, which cannot have been committed. Anything else ends in an error that says what is known of it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Session;
use super::link::{Link, Naming, Phase};
use super::prepared::speaks_of_prepared;
use super::respond::{End, Fault};
use super::shape::Difference;
use super::statement::{Source, Statement};
use super::transaction::{Prologue, Transaction, default_modes};
use crate::backend::pipeline::{Reached, Token};
use crate::backend::server::ServerError;
use crate::backend::undone::{Asked, Undone, Whose};
use crate::plan::{Effect, Planned, PlannedStatement};
use crate::sharding::ShardId;
use crate::sql::class::{Class, Copy, CopyDirection, Executes};
use crate::topology::view::{NodePlace, Seen, Sighting};
use crate::wire::message::{Bind, Describe, Parse, Query, Target};

/// How long a unit of work that a node has refused waits for another primary to be found.
const SUCCESSION: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

/// What is to be asked again.
pub struct Anew {
    undone: Undone,
    shard: ShardId,
    effect: Effect,
    /// The client has sent its end.
    closing: bool,
    phase: Phase,
    /// A node that is no primary any more: another one is waited for.
    refused_by: Option<NodePlace>,
}

/// How often the unit of work at hand was begun anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts(u8);

impl Attempts {
    /// A node that dies leaves connections behind that seem to be alive for a moment.
    const MOST: u8 = 8;

    pub fn may_go_on(self) -> bool {
        self.0 < Attempts::MOST
    }

    pub fn count(&mut self) {
        self.0 += 1;
    }
}

/// What a unit of work is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A transaction of its own.
    Whole,
    /// It begins a transaction block.
    Beginning,
    /// The server has said that it did nothing.
    Refused,
    /// The server ended before it had read it.
    Unread,
    /// Nothing was to run.
    Definitions,
}

impl Part {
    /// Whether such a statement may be sent twice. The second time it finds nothing of the first.
    fn allows(self, planned: &Planned) -> bool {
        planned.statements.iter().all(|statement| {
            let plain = matches!(
                statement.class,
                Class::Data
                    | Class::Empty
                    | Class::Show(_)
                    | Class::Explain { .. }
                    | Class::Copy(Copy {
                        direction: CopyDirection::ToClient,
                        ..
                    })
            );
            let harmless = self != Part::Whole || statement.effect == Effect::Reads;
            plain && harmless && statement.leaves.is_empty()
        })
    }
}

impl Session {
    /// Whoever watches the nodes is told of a connection that broke.
    pub(super) fn was_lost(&self, link: &mut Link, error: &ServerError) {
        let seen = match error {
            ServerError::Severed => return,
            ServerError::ReadOnly(_) => {
                link.evict_pool();
                Seen::ReadOnly
            }
            _ => Seen::Lost,
        };
        let node = NodePlace(link.server().node);
        self.worker.shared.sighted(Sighting {
            shard: link.shard(),
            node,
            seen,
        });
    }

    /// The node of a primary's connection takes no writes: perhaps because it is the primary no more. Then its other connections take none either.
    #[cold]
    pub(super) fn saw_no_writes(&mut self) {
        let defaults = default_modes(&self.settled);
        let as_wanted = match &self.opened {
            Some(opened) => opened.is_read_only(defaults),
            None => defaults.is_read_only(),
        };
        let Some(link) = self.link.as_mut().filter(|link| !link.is_replica()) else {
            return;
        };
        if as_wanted {
            return;
        }
        link.evict_pool();
        self.worker.shared.sighted(Sighting {
            shard: link.shard(),
            node: NodePlace(link.server().node),
            seen: Seen::ReadOnly,
        });
    }

    /// A replica that has failed the statement at hand is not asked again for it.
    pub(super) fn pass_by(&mut self, link: &mut Link) {
        self.reads.lost = Some(link.server().seat);
        if link.is_replica() {
            self.reads.has_failed(NodePlace(link.server().node));
        }
    }

    /// What is to be begun anew, if it can be.
    pub(super) fn may_begin_anew(&mut self, link: &mut Link, error: &ServerError) -> Option<Anew> {
        let gone = matches!(
            error,
            ServerError::Closed
                | ServerError::Io(_)
                | ServerError::Severed
                | ServerError::ReadOnly(_)
        );
        let alone = self.party.is_empty() && !link.is_kept() && !link.is_copying();
        if !gone || !alone || self.failed || !self.attempts.may_go_on() {
            return None;
        }
        let (shard, effect, closing) = (link.shard(), link.effect(), link.is_closing());
        let unread = link.server().is_unread();
        let undone = link.server().take_undone()?;
        let part = match error {
            // Again and again would be too often.
            ServerError::ReadOnly(_) if self.attempts == Attempts::default() => Part::Refused,
            ServerError::ReadOnly(_) => return None,
            _ if link.is_metadata() => Part::Definitions,
            _ => match self.part(&undone)? {
                Part::Whole if unread => Part::Unread,
                part => part,
            },
        };
        let texts: Vec<Rc<Planned>> = self.planned(&undone)?;
        // Without any of the client's it was only looked at, for a message that has failed with the connection.
        let asks = undone
            .messages()
            .any(|asked| asked.whose == Whose::Client && asked.tag != b'S');
        if !asks || !texts.iter().all(|planned| part.allows(planned)) {
            return None;
        }
        self.attempts.count();
        self.pass_by(link);
        Some(Anew {
            undone,
            shard,
            effect,
            closing,
            phase: link.phase(),
            refused_by: (part == Part::Refused).then(|| NodePlace(link.server().node)),
        })
    }

    /// Takes another connection in place of one that broke before it had anything of the client's. What was asked there for the session itself is
    /// forgotten, from this effect on.
    pub(super) async fn attach_anew(
        &mut self,
        error: &ServerError,
        first: usize,
    ) -> Result<(), Fault> {
        let Some(mut link) = self.link.take() else {
            return Err(Fault::Told);
        };
        self.card.set_running(None);
        self.was_lost(&mut link, error);
        self.pass_by(&mut link);
        for token in first..self.effects.len() {
            self.dropped(Token(u32::try_from(token).unwrap_or(u32::MAX)), Reached::No);
        }
        self.attempts.count();
        let (shard, effect) = (link.shard(), link.effect());
        let phase = link.phase();
        drop(link);
        let mut link = self.take_link(shard, phase).await?;
        link.note(effect);
        self.link_up(link);
        self.bring_settings(phase).await?;
        self.tell_reported();
        Ok(())
    }

    fn part(&self, undone: &Undone) -> Option<Part> {
        let first = undone.messages().next()?;
        match self.transaction {
            Transaction::Idle => Some(Part::Whole),
            // BEGIN is among what is to be sent again.
            Transaction::Open if first.whose == Whose::Ours && first.tag == b'Q' => {
                Some(Part::Beginning)
            }
            _ => None,
        }
    }

    /// The plans of what the client asked; `None` where they are not at hand.
    fn planned(&mut self, undone: &Undone) -> Option<Vec<Rc<Planned>>> {
        let mut plans = Vec::new();
        for asked in undone
            .messages()
            .filter(|asked| asked.whose == Whose::Client)
        {
            match asked.tag {
                b'Q' => {
                    let text = Query::decode(asked.body).ok()?.text;
                    let planned = self.plan(text).ok()?;
                    if speaks_of_prepared(&planned) {
                        plans.push(self.executed_by_servers(undone, &planned)?);
                    } else {
                        plans.push(planned);
                    }
                }
                b'B' => {
                    let name = Bind::decode(asked.body).ok()?.statement;
                    let statement = self.known_to_servers_as(name)?;
                    plans.push(self.run_by_servers(undone, &statement)?);
                }
                b'P' | b'D' | b'E' | b'S' => {}
                _ => return None,
            }
        }
        Some(plans)
    }

    /// What a statement runs that servers know; `None`: it was on the way to its server, by a PREPARE that a second server may have had already.
    fn run_by_servers(&mut self, undone: &Undone, statement: &Statement) -> Option<Rc<Planned>> {
        let planned = self.plan_statement(statement).ok()?.planned;
        if matches!(statement.source, Source::Parse { .. }) {
            return Some(planned);
        }
        let on_the_way = |asked: Asked<'_>| asked.whose == Whose::Ours && asked.tag == b'P';
        if undone.messages().any(on_the_way) {
            return None;
        }
        let statements = planned.statements.iter().map(|one| PlannedStatement {
            class: Class::Data,
            ..one.clone()
        });
        Some(Rc::new(Planned {
            statements: statements.collect(),
        }))
    }

    /// What a message runs that has nothing but EXECUTE, under the names that servers know; `None`: there is more, or it is not known.
    fn executed_by_servers(&mut self, undone: &Undone, planned: &Planned) -> Option<Rc<Planned>> {
        let mut statements = Vec::new();
        for one in &planned.statements {
            match &one.class {
                Class::Empty => {}
                Class::Execute {
                    name,
                    executes: Executes::Plainly,
                    ..
                } => {
                    let statement = self.known_to_servers_as(name.name.as_bytes())?;
                    let run = self.run_by_servers(undone, &statement)?;
                    statements.extend(run.statements.iter().cloned());
                }
                _ => return None,
            }
        }
        Some(Rc::new(Planned { statements }))
    }

    /// A statement of this session by its name on servers.
    fn known_to_servers_as(&self, name: &[u8]) -> Option<Rc<Statement>> {
        if name.is_empty() {
            return self.unnamed.clone();
        }
        let known = self.prepared.values().chain(&self.unnamed);
        known
            .into_iter()
            .find(|one| *one.server_name == *name)
            .cloned()
    }

    /// Sends what was lost to another connection; the client is told when that cannot be done.
    pub(super) async fn begin_anew(&mut self, anew: Anew) -> Result<(), End> {
        let closing = anew.closing;
        if let Err(fault) = self.ask_elsewhere(anew).await {
            if let Some(link) = self.link.take() {
                self.card.set_running(None);
                link.clean_up(&self.worker);
            }
            if self.transaction == Transaction::Open {
                // The block that it was the beginning of: no server has anything of it.
                let begin = self.opened.take();
                let begin =
                    begin.map_or_else(|| "BEGIN".to_owned(), |begin| begin.begin().to_owned());
                self.transaction = Transaction::Failed(Prologue::new(&begin));
            }
            let fault = match fault {
                // Another connection broke. An error of a server's that the client has been told of stands for itself.
                Fault::Told => Fault::Postgres {
                    sqlstate: "08006",
                    message: "the server connection was lost before the statement was sent"
                        .to_owned(),
                },
                fault => fault,
            };
            self.unit_lost(&fault, closing);
        }
        Ok(())
    }

    async fn ask_elsewhere(&mut self, anew: Anew) -> Result<(), Fault> {
        let undone = anew.undone;
        if let Some(node) = anew.refused_by {
            self.await_other_primary(anew.shard, node).await;
        }
        let link = self.take_link(anew.shard, anew.phase).await?;
        self.link_up(link);
        match anew.phase {
            Phase::Metadata => self.bring_up(Phase::Metadata).await?,
            // BEGIN is among what was lost, if there was one.
            Phase::Working => {
                self.bring_settings(Phase::Working).await?;
                self.tell_reported();
            }
        }
        for (statement, naming, sent) in self.statements_of(&undone)? {
            let Some(link) = &mut self.link else {
                return Err(Fault::Told);
            };
            match sent {
                Sent::Along if naming == Naming::Named => {
                    if link.has(&statement, naming) {
                        link.close_statement(&statement);
                    }
                    link.now_has(statement.id, statement.weight());
                }
                Sent::Along => link.server().unnamed = Some(statement.id),
                Sent::Before if self.hold(&statement, naming).await? != Difference::None => {
                    return Err(Fault::StalePlan);
                }
                Sent::Before => self.ensure_parsed(&statement, naming),
            }
        }
        let Some(link) = &mut self.link else {
            return Err(Fault::Told);
        };
        link.note(anew.effect);
        undone.ask(link.server());
        Ok(())
    }

    /// Waits a moment for the nodes to be looked at: whoever refuses to write may be the primary all the same.
    async fn await_other_primary(&self, shard: ShardId, node: NodePlace) {
        let until = Instant::now() + SUCCESSION;
        let primary = || {
            let snapshot = self.worker.snapshot();
            snapshot.view.shard(shard).and_then(|view| view.primary)
        };
        while primary() == Some(node) && Instant::now() < until {
            let never = std::future::pending::<()>();
            let _ = self.worker.shared.timers.timeout(LOOK, never).await;
        }
    }

    /// The statements that a unit of work needs on its connection, and whether it prepares them itself.
    fn statements_of(
        &mut self,
        undone: &Undone,
    ) -> Result<Vec<(Rc<Statement>, Naming, Sent)>, Fault> {
        let mut needed: Vec<(Rc<Statement>, Naming, Sent)> = Vec::new();
        for asked in undone.messages() {
            let (name, sent) = match asked.tag {
                b'Q' if asked.whose == Whose::Client => {
                    let text = Query::decode(asked.body).map_err(Fault::Violation)?.text;
                    for one in &self.plan(text)?.statements {
                        if let Class::Execute { name, .. } = &one.class {
                            let statement = self.known_to_servers_as(name.name.as_bytes());
                            let statement = statement.ok_or(Fault::StalePlan)?;
                            needed.push((statement, Naming::Named, Sent::Before));
                        }
                    }
                    continue;
                }
                b'P' => {
                    let parse = Parse::decode(asked.body).map_err(Fault::Violation)?;
                    (parse.name, Sent::Along)
                }
                b'B' => {
                    let bind = Bind::decode(asked.body).map_err(Fault::Violation)?;
                    (bind.statement, Sent::Before)
                }
                b'D' => match Describe::decode(asked.body).map_err(Fault::Violation)? {
                    Describe {
                        target: Target::Statement,
                        name,
                    } => (name, Sent::Before),
                    _ => continue,
                },
                _ => continue,
            };
            let Some(statement) = self.known_to_servers_as(name) else {
                return Err(Fault::StalePlan);
            };
            let naming = if name.is_empty() {
                Naming::Unnamed
            } else {
                Naming::Named
            };
            let there = |(known, how, _): &(Rc<Statement>, Naming, Sent)| {
                known.id == statement.id && *how == naming
            };
            if !needed.iter().any(there) {
                needed.push((statement, naming, sent));
            }
        }
        Ok(needed)
    }
}

/// How a connection gets a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Before,
    /// Its Parse is among what is sent again.
    Along,
}
