//! LISTEN and UNLISTEN of one session: they count from the commit on, and keep no connection.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::Session;
use super::link::Link;
use super::listener::{Listener, Mailbox, Refused};
use super::pin::Pin;
use super::respond::{End, Fault};
use super::transaction::Transaction;
use super::worker::PoolKey;
use crate::backend::pool::Seat;
use crate::plan::{Plan, Planned, PlannedStatement, Target};
use crate::sharding::ShardId;
use crate::sql::class::Class;
use crate::wire::answer;

/// What a session listens to.
#[derive(Default)]
pub struct Channels {
    on: BTreeMap<Box<str>, Rc<Listener>>,
    /// Of the open transaction, in order.
    pending: Vec<Change>,
    mailbox: Option<Rc<Mailbox>>,
}

enum Change {
    Listen(Box<str>, Rc<Listener>),
    Unlisten(Box<str>),
    UnlistenAll,
}

impl Channels {
    /// How much of the transaction's work is done, for a savepoint.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What came after a savepoint is undone.
    pub fn back_to(&mut self, pending: usize) {
        for change in self.pending.drain(pending.min(self.pending.len())..) {
            if let Change::Listen(channel, listener) = change {
                listener.look(&channel);
            }
        }
    }

    pub fn mailbox(&self) -> Option<&Rc<Mailbox>> {
        self.mailbox.as_ref()
    }

    fn apply(&mut self, change: Change, mailbox: &Rc<Mailbox>) {
        match change {
            Change::Listen(channel, listener) => {
                listener.subscribe(&channel, mailbox);
                self.on.insert(channel, listener);
            }
            Change::Unlisten(channel) => {
                if let Some(listener) = self.on.remove(&channel) {
                    listener.unsubscribe(&channel, mailbox);
                }
            }
            Change::UnlistenAll => {
                for (channel, listener) in std::mem::take(&mut self.on) {
                    listener.unsubscribe(&channel, mailbox);
                }
            }
        }
    }
}

/// Whether a message consists of LISTEN and UNLISTEN.
pub fn speaks_of_channels(planned: &Planned) -> bool {
    let told = |class: &Class| matches!(class, Class::Listen(_) | Class::Unlisten(_));
    planned
        .statements
        .first()
        .is_some_and(|one| told(&one.class))
        && planned
            .statements
            .iter()
            .all(|one| told(&one.class) || one.class == Class::Empty)
}

impl Session {
    /// The session listens by itself, rather than its connection.
    pub(super) fn listens_itself(&self) -> bool {
        let listens = |link: &Link| link.pins().contains(&Pin::Listen);
        self.owns_names() && !self.kept.iter().chain(&self.link).any(listens)
    }

    /// A simple query that consists of LISTEN and UNLISTEN.
    pub(super) async fn channels_query(&mut self, planned: &Planned) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        for one in &planned.statements {
            if one.class != Class::Empty {
                self.change_channels(one, &mut bytes).await?;
            }
        }
        self.answer_query(bytes)
    }

    /// LISTEN or UNLISTEN; appends its answer.
    pub(super) async fn change_channels(
        &mut self,
        planned: &PlannedStatement,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        self.check_not_aborted()?;
        let change = match &planned.class {
            Class::Listen(channel) => {
                let shard = match &planned.plan {
                    Ok(Plan::Relay(Target::Shard(shard))) => *shard,
                    _ => self.database.catalog().home,
                };
                let listener = self.listener(channel, shard).await?;
                answer::command_complete(out, "LISTEN");
                Change::Listen(channel.clone(), listener)
            }
            Class::Unlisten(channel) => {
                answer::command_complete(out, "UNLISTEN");
                match channel {
                    Some(channel) => Change::Unlisten(channel.clone()),
                    None => Change::UnlistenAll,
                }
            }
            _ => return Ok(()),
        };
        self.channels.pending.push(change);
        if self.link.is_none() && self.transaction == Transaction::Idle {
            self.commit_channels();
        }
        Ok(())
    }

    /// The listener of the shard, which listens to the channel.
    async fn listener(&self, channel: &str, shard: ShardId) -> Result<Rc<Listener>, Fault> {
        let key = PoolKey {
            database: self.database.name.clone(),
            user: Box::from(&*self.user.name),
            shard,
            seat: Seat::Primary,
        };
        let refused = |Refused(sqlstate, message)| Fault::Postgres { sqlstate, message };
        let gone = || Refused("57P01", "the shard is no longer configured".to_owned());
        // One that is about to end is followed by another.
        let mut listener = Listener::of(&self.worker, &key)
            .ok_or_else(gone)
            .map_err(refused)?;
        if let Err(Refused("08006", _)) = listener.listen(channel).await {
            listener = Listener::of(&self.worker, &key)
                .ok_or_else(gone)
                .map_err(refused)?;
            listener.listen(channel).await.map_err(refused)?;
        }
        Ok(listener)
    }

    /// The transaction has committed.
    pub(super) fn commit_channels(&mut self) {
        let card = &self.card;
        let mailbox = self
            .channels
            .mailbox
            .get_or_insert_with(|| Mailbox::new(Rc::clone(card)));
        let mailbox = Rc::clone(mailbox);
        for change in std::mem::take(&mut self.channels.pending) {
            self.channels.apply(change, &mailbox);
        }
    }

    /// The transaction has ended.
    pub(super) fn channels_ended(&mut self, kept: bool) {
        if self.channels.pending.is_empty() {
            return;
        }
        if kept {
            self.commit_channels();
        } else {
            self.channels.back_to(0);
        }
    }

    /// The session listens to nothing any more.
    pub(super) fn unlisten_all(&mut self) {
        self.channels.back_to(0);
        if let Some(mailbox) = self.channels.mailbox.take() {
            self.channels.apply(Change::UnlistenAll, &mailbox);
        }
    }

    /// Between transactions the client gets what came for it.
    pub(super) fn empty_mailbox(&mut self) -> Result<(), End> {
        let Some(mailbox) = self.channels.mailbox() else {
            return Ok(());
        };
        if mailbox.is_empty() || !self.is_between_transactions() {
            return Ok(());
        }
        if mailbox.is_overflown() {
            return Err(End::Deaf);
        }
        if !self.client.is_behind() {
            mailbox.empty_into(&mut self.client.outbox);
        }
        Ok(())
    }

    fn is_between_transactions(&self) -> bool {
        self.link.is_none() && self.transaction == Transaction::Idle && !self.batch.is_open()
    }
}
