//! `trunkline.read_consistency = 'atomic'`: a query over several shards sees each commit of several shards on all of them or on none.
//!
//! Every shard's part of such a commit becomes visible on its own, so snapshots that are taken at the same time may show one and not another. They
//! are compared when they are taken (`execution/commit/snapshots.rs`), before anything is read, and taken again until they go together. Outside a block that is
//! done for one query, in a transaction of its own. A block that keeps its snapshot takes those of all shards before its first statement.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;

use super::{Call, Own, all_shards};
use crate::execution::commit::id::Gid;
use crate::execution::commit::snapshots::{Doubt, Expected, Look, Verdict, compare};
use crate::execution::commit::words;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::{Effect, Spread};
use crate::session::Session;
use crate::session::link::Link;
use crate::session::own_settings::ReadConsistency;
use crate::session::respond::{Fault, Loss};
use crate::session::transaction::{Prologue, Snapshots, Transaction};
use crate::session::worker::Worker;
use crate::sharding::ShardId;
use crate::wire::frame::HEADER;

/// How often snapshots are taken, before the query is given up.
const MOST_TRIES: u32 = 12;

/// The wait before the second try; each further one is twice as long, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// For a query outside a block. What it gathers needs temporary tables, so it is not read only.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";

impl Session {
    /// Before a query over several shards: its snapshots are taken, where that is wanted.
    pub(super) async fn begin_atomic_read(&mut self, call: &Call<'_>) -> Result<Own, Fault> {
        let atomic = self.own_settings.read_consistency() == ReadConsistency::Atomic;
        if !atomic || call.statement.effect == Effect::Writes {
            return Ok(Own::No);
        }
        let together = |opened: &Prologue| opened.snapshots() == Snapshots::Together;
        match &self.transaction {
            Transaction::Idle => {}
            Transaction::Begun(prologue) if prologue.keeps_snapshot(self.default_modes()) => {
                return Ok(Own::No);
            }
            Transaction::Open if self.opened.as_deref().is_some_and(together) => {
                return Ok(Own::No);
            }
            _ => {
                let message = "the query reads several shards, and not in one snapshot of all";
                return Err(Fault::Refused(Refusal::new(Reason::AtomicRead, message)));
            }
        }
        let shards = {
            let catalog = self.database.catalog();
            match call.spread {
                Spread::Scatter { .. } => call.shards(&catalog).map_err(Fault::Refused)?,
                _ => all_shards(&catalog),
            }
        };
        self.agree(&shards, Prologue::new(BEGIN)).await?;
        Ok(Own::Yes)
    }

    /// Before the first statement of a block that keeps its snapshot.
    pub(in crate::session) async fn take_snapshots_together(&mut self) -> Result<(), Fault> {
        let Transaction::Begun(prologue) = &self.transaction else {
            return Ok(());
        };
        if self.own_settings.read_consistency() == ReadConsistency::Off
            || self.has_one_shard()
            || !prologue.keeps_snapshot(self.default_modes())
        {
            return Ok(());
        }
        let prologue = prologue.clone();
        let shards = all_shards(&self.database.catalog());
        self.transaction = Transaction::Idle;
        // What the transaction has set belongs inside it, and is in its prologue.
        let settings = std::mem::replace(&mut self.settings, self.settled.clone());
        let agreed = Box::pin(self.agree(&shards, prologue.clone())).await;
        self.settings = settings;
        if agreed.is_err() {
            self.transaction = Transaction::Failed(prologue);
            return agreed;
        }
        for link in self.link.iter_mut().chain(&mut self.party) {
            link.set_settings(&self.settings);
        }
        self.tell_reported();
        Ok(())
    }

    /// Begins a transaction on these shards whose snapshots go together.
    async fn agree(&mut self, shards: &[ShardId], prologue: Prologue) -> Result<(), Fault> {
        let worker = Rc::clone(&self.worker);
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let names: Vec<&str> = shards
            .iter()
            .map(|shard| &*catalog.shards[shard.index()])
            .collect();
        let mut links = Box::pin(self.enlist(shards)).await?;
        let mut wait = FIRST_WAIT;
        for _ in 0..MOST_TRIES {
            match take(&mut links, &names, prologue.text(), &worker).await {
                Ok(Taken::Whole) => {
                    self.party.append(&mut links);
                    if let Some(link) = self.party.pop() {
                        self.link_up(link);
                    }
                    self.transaction = Transaction::Open;
                    self.card.keeps_snapshot.set(true);
                    self.opened = Some(Box::new(prologue.taken_together()));
                    return Ok(());
                }
                Ok(Taken::Torn) => {}
                Err(fault) => {
                    self.roll_back(&mut links).await;
                    self.dismiss(links).await;
                    return Err(fault);
                }
            }
            self.roll_back(&mut links).await;
            let timers = &worker.shared.timers;
            let _ = timers.timeout(wait, std::future::pending::<()>()).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        self.dismiss(links).await;
        Err(Fault::Limit {
            sqlstate: "40001",
            message: "could not take snapshots of several shards that go together: too many transactions commit on several of them".to_owned(),
            hint: Some("Try again."),
        })
    }
}

enum Taken {
    Whole,
    Torn,
}

/// One try.
async fn take(
    links: &mut [Link],
    names: &[&str],
    begin: &str,
    worker: &Rc<Worker>,
) -> Result<Taken, Fault> {
    for link in links.iter_mut() {
        link.server().queue(words::FIRST_LOOK);
    }
    let first = answers(links.iter_mut(), worker).await?;
    for (link, rows) in links.iter_mut().zip(&first) {
        let Some([snapshot]) = rows.first().map(Vec::as_slice) else {
            return Err(strange());
        };
        let server = link.server();
        server.queue(words::PREPARED);
        server.queue(begin);
        server.queue(&words::committed_since(snapshot));
    }
    let looks: Vec<Look> = answers(links.iter_mut(), worker)
        .await?
        .into_iter()
        .map(look)
        .collect();
    match compare(names, &looks) {
        Verdict::Whole => Ok(Taken::Whole),
        Verdict::Torn => Ok(Taken::Torn),
        Verdict::Ask(doubts) => ask(links, &doubts, worker).await,
    }
}

fn look(rows: Vec<Vec<String>>) -> Look {
    let mut look = Look::default();
    for row in rows {
        match &row[..] {
            [gid] => {
                if let Ok(gid) = Gid::parse(gid) {
                    look.prepared.insert(gid.id.to_string());
                }
            }
            [id, shard] => {
                let shards = look.committed.entry(id.clone()).or_default();
                shards.insert(shard.clone());
            }
            _ => {}
        }
    }
    look
}

/// Whether the snapshots are as those who go together would be.
async fn ask(links: &mut [Link], doubts: &[Doubt], worker: &Rc<Worker>) -> Result<Taken, Fault> {
    let of = |place: usize| doubts.iter().filter(move |doubt| doubt.shard == place);
    let mut asked = Vec::new();
    for (place, link) in links.iter_mut().enumerate() {
        if of(place).next().is_some() {
            let ids = of(place).map(|doubt| &*doubt.id);
            link.server().queue(&words::among_committed(ids));
            asked.push(place);
        }
    }
    let in_doubt = links.iter_mut().enumerate();
    let in_doubt = in_doubt.filter_map(|(place, link)| asked.contains(&place).then_some(link));
    let answers = answers(in_doubt, worker).await?;
    let whole = asked.iter().zip(answers).all(|(place, rows)| {
        let is_in = |id: &str| {
            rows.iter()
                .any(|row| row.first().is_some_and(|known| known == id))
        };
        of(*place).all(|doubt| is_in(&doubt.id) == (doubt.expected == Expected::In))
    });
    Ok(if whole { Taken::Whole } else { Taken::Torn })
}

/// The rows that these answer to what was queued, as texts.
async fn answers(
    links: impl Iterator<Item = &mut Link>,
    worker: &Rc<Worker>,
) -> Result<Vec<Vec<Vec<String>>>, Fault> {
    let heard = links.map(|link| async move {
        let mut said = Vec::new();
        let heard = link.server().hear(&worker.scratch, &mut said).await;
        heard.map_err(|error| Fault::Broken(Loss::before(error)))?;
        rows(&said)
    });
    join_all(heard).await.into_iter().collect()
}

/// What servers said to questions of ours: all rows, or the first error.
fn rows(said: &[u8]) -> Result<Vec<Vec<String>>, Fault> {
    let mut rows = Vec::new();
    let mut rest = said;
    while let Some((header, after)) = rest.split_at_checked(HEADER) {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let (body, next) = length
            .checked_sub(4)
            .and_then(|length| after.split_at_checked(length))
            .ok_or_else(strange)?;
        match header[0] {
            b'E' => return Err(Fault::Server(body.to_vec())),
            b'D' => rows.push(row(body).ok_or_else(strange)?),
            _ => {}
        }
        rest = next;
    }
    Ok(rows)
}

/// A DataRow's values, none of which is NULL.
fn row(body: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = body.split_at_checked(2)?;
    let count = u16::from_be_bytes([count[0], count[1]]);
    let mut values = Vec::with_capacity(count.into());
    for _ in 0..count {
        let (length, after) = rest.split_at_checked(4)?;
        let length = i32::from_be_bytes(length.try_into().ok()?);
        let (value, next) = after.split_at_checked(usize::try_from(length).ok()?)?;
        values.push(std::str::from_utf8(value).ok()?.to_owned());
        rest = next;
    }
    Some(values)
}

fn strange() -> Fault {
    Fault::Limit {
        sqlstate: "08P01",
        message: "a shard gave no proper answer about its snapshot".to_owned(),
        hint: None,
    }
}
