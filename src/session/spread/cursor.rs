//! The result of a query over several shards that a client takes in portions.
//!
//! The query runs in a transaction block on its shards, and each keeps a portal of ours for it. Shards whose rows add up are asked for as many
//! as the next portion needs (`execution/portions.rs`). What has to be gathered is read to its end when it is opened, by a cursor on the
//! gathering shard, whose rows that server keeps, on its disk if they are many: temporary tables must not outlive the statement, because they would
//! hide the real ones from the next. Between two portions all connections are settled, so that the transaction can go on in
//! between. The end of the transaction, and a savepoint that is gone back to, end the portals on servers and here.

use super::gather::Outlet;
use super::scatter::Prepared;
use super::{Call, Telling, with_formats, without_moved_position};
use crate::execution::branch::{self, Audience, Branch, Failure, Question};
use crate::execution::columns;
use crate::execution::portions::{Order, Portion, Portions};
use crate::plan::Spread;
use crate::plan::spread::{Gather, Scatter};
use crate::session::Session;
use crate::session::link::Link;
use crate::session::reads::Seeks;
use crate::session::respond::Fault;
use crate::session::transaction::{Opener, Transaction};
use crate::sharding::ShardId;

/// An open result.
pub struct Cursor {
    /// The name of its portals on servers.
    portal: Box<str>,
    /// Where it has portals.
    shards: Vec<ShardId>,
    /// Which nodes of these shards the transaction works on.
    seeks: Seeks,
    /// The body of RowDescription, with the formats of the rows.
    columns: Vec<u8>,
    rows: Portions,
}

/// Whether the client gets the rows that it moves over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Yes,
    No,
}

impl Cursor {
    /// A result that is here already: DataRow messages.
    pub fn kept(rows: Vec<u8>) -> Cursor {
        Cursor {
            portal: Box::default(),
            shards: Vec::new(),
            seeks: Seeks::Primary,
            columns: Vec::new(),
            rows: Portions::kept(rows),
        }
    }

    pub fn columns(&self) -> &[u8] {
        &self.columns
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Hears that portals are opened or closed.
struct Nobody;

impl Audience for Nobody {
    fn hear(&mut self, _: usize, _: u8, _: &[u8], _: &mut Vec<u8>) -> Result<(), Failure> {
        Ok(())
    }
}

impl Session {
    /// Runs a query without giving its rows yet. Outside a transaction block the unit of work becomes one.
    pub(super) async fn open_cursor(&mut self, call: &Call<'_>) -> Result<Cursor, Fault> {
        self.prepare_for(call).await?;
        if self.transaction == Transaction::Idle {
            self.reads.seeks = Seeks::Primary;
            self.begin_own(Telling::Rows);
        }
        // In a block, so that it begins none.
        self.begin_atomic_read(call).await?;
        match call.spread {
            Spread::Scatter { scatter, otherwise } => {
                match (self.open_scatter(call, scatter).await?, otherwise) {
                    (Some(cursor), _) => Ok(cursor),
                    (None, Ok(gather)) => self.open_gather(call, gather).await,
                    (None, Err(refusal)) => Err(Fault::Refused(refusal.clone())),
                }
            }
            Spread::Gather(gather) => self.open_gather(call, gather).await,
            _ => Err(Fault::Refused(super::portal::portions_of_no_query())),
        }
    }

    fn name_portal(&mut self) -> Box<str> {
        let number = self.batch.next_cursor();
        format!("trunkline_portal_{number}").into()
    }

    pub(super) async fn open_scatter(
        &mut self,
        call: &Call<'_>,
        scatter: &Scatter,
    ) -> Result<Option<Cursor>, Fault> {
        let Some(prepared) = self.prepare_scatter(call, scatter).await? else {
            return Ok(None);
        };
        let Prepared {
            mut links,
            texts,
            description,
            columns: all_columns,
            merger,
            same,
        } = prepared;
        let mut columns = Vec::new();
        columns::encode(&all_columns[..merger.visible()], &mut columns);
        let formats = merger.formats();
        let order = match scatter.locks {
            true => Order::Fixed,
            false => Order::Any,
        };
        let cursor = Cursor {
            portal: self.name_portal(),
            shards: links.iter().map(Link::shard).collect(),
            seeks: self.reads.seeks,
            columns: with_formats(&columns, call.formats),
            rows: Portions::merged(merger, links.len(), order),
        };
        let mut branches: Vec<Branch<'_>> = links
            .iter_mut()
            .map(|link| Branch::new(link.server()))
            .collect();
        for (branch, text) in branches.iter_mut().zip(&texts) {
            let question = Question {
                text,
                types: &description.types,
                parameters: call.raw_parameters,
                formats: &formats,
            };
            branch.open(&cursor.portal, &question);
        }
        let done = self.hear(&mut branches, &mut Nobody).await;
        let done = done.map_err(|failure| without_moved_position(failure, same));
        self.finish(links, done).await?;
        Ok(Some(cursor))
    }

    async fn open_gather(&mut self, call: &Call<'_>, gather: &Gather) -> Result<Cursor, Fault> {
        self.reads.seeks = Seeks::Primary;
        let portal = self.name_portal();
        let (mut rows, mut columns) = (Portions::of_one(), Vec::new());
        let outlet = Outlet::Portal {
            name: &portal,
            rows: &mut rows,
            columns: &mut columns,
        };
        self.gather_to(call, gather, outlet).await?;
        Ok(Cursor {
            portal,
            shards: vec![gather.shard],
            seeks: Seeks::Primary,
            columns,
            rows,
        })
    }

    /// Moves over up to `limit` of the next rows, or all; how many.
    pub(super) async fn give_portion(
        &mut self,
        cursor: &mut Cursor,
        limit: Option<u64>,
        shown: Shown,
    ) -> Result<u64, Fault> {
        let outbox = match shown {
            Shown::Yes => Some(&mut self.client.outbox),
            Shown::No => None,
        };
        let mut portion = Portion::begin(&mut cursor.rows, limit, outbox);
        let mut asks = portion.asks();
        if asks.is_empty() {
            return Ok(portion.given());
        }
        self.reads.seeks = cursor.seeks;
        let mut links = self.enlist(&cursor.shards).await?;
        self.show_running(&mut links);
        let mut done = Ok(());
        while done.is_ok() && !asks.is_empty() {
            let mut branches: Vec<Branch<'_>> = links
                .iter_mut()
                .map(|link| Branch::new(link.server()))
                .collect();
            for ask in &asks {
                branches[ask.source].draw(&cursor.portal, ask.max_rows);
            }
            done = self.hear(&mut branches, &mut portion).await;
            asks = portion.asks();
        }
        let given = portion.given();
        self.finish(links, done).await?;
        Ok(given)
    }

    /// The client is done with it, before its transaction is.
    pub(in crate::session) async fn close_cursor(&mut self, cursor: &Cursor) -> Result<(), Fault> {
        // Where the transaction has failed or is about to end, its end frees them.
        if cursor.shards.is_empty()
            || self.opener == Opener::Unit
            || self.transaction != Transaction::Open
            || self.is_failed()
        {
            return Ok(());
        }
        self.end_unit_of_others().await?;
        self.reads.seeks = cursor.seeks;
        let mut links = self.enlist(&cursor.shards).await?;
        let mut branches: Vec<Branch<'_>> = links
            .iter_mut()
            .map(|link| Branch::new(link.server()))
            .collect();
        for branch in &mut branches {
            branch.close(&cursor.portal);
        }
        let done = self.hear(&mut branches, &mut Nobody).await;
        self.finish(links, done).await
    }

    /// Lets all branches speak until they owe nothing. Where nothing is cancelled.
    pub(super) async fn hear(
        &mut self,
        branches: &mut [Branch<'_>],
        audience: &mut impl Audience,
    ) -> Result<(), Failure> {
        let attended =
            branch::attend(&mut self.client, branches, &self.worker.scratch, audience).await;
        self.silence(branches, super::Silence::Waits).await;
        attended
    }
}
