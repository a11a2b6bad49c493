//! INSERT ... SELECT that brings rows to other shards. `plan/spread/delivery.rs` says what is done, `execution/delivery.rs` moves the rows.
//!
//! Rows that must be inserted rather than copied are for `inserting.rs`. The query is gathered on a connection beside those of the transaction: temporary tables on one of them would keep it from being prepared.

mod inserting;

use std::rc::Rc;
use std::sync::Arc;

use super::Call;
use super::copy::{Asked, Counts, Ended, Tally};
use super::gather::{Gatherer, Gathering, Numbers, of_gatherer};
use crate::backend::pipeline::Committed;
use crate::catalog::Catalog;
use crate::execution::branch::{self, Branch, Failure, Question};
use crate::execution::columns;
use crate::execution::copy::Splitter;
use crate::execution::delivery::deliver;
use crate::plan::Effect;
use crate::plan::bind::shard_of;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::delivery::{Delivery, Destination, Load};
use crate::plan::spread::gather;
use crate::session::Session;
use crate::session::link::Link;
use crate::session::respond::Fault;
use crate::session::transaction::Transaction;
use crate::sharding::{KeyValue, ShardId};
use crate::sql::copy::{CopyForm, CopyFormat};

impl Session {
    pub(super) async fn do_delivery(
        &mut self,
        call: &Call<'_>,
        delivery: &Delivery,
    ) -> Result<(), Fault> {
        let catalog = Arc::clone(&self.database.catalog());
        let config = Arc::clone(&self.worker.shared.snapshot().config);
        let mut gathering = Gathering::new(call, &delivery.gather, &catalog, &config.gather);
        let to = match &delivery.to {
            Destination::Keys(key) => catalog.shards_of(&[key.distribution]),
            Destination::Shard(shard) => vec![*shard],
        };
        if !delivery.left.is_empty() && self.has_changed_sequences() {
            let message = "the transaction may have changed the sequence that rows from other shards take their numbers from";
            return Err(Fault::Refused(Refusal::new(
                Reason::SequenceDefault,
                message,
            )));
        }
        let writes = call.statement.effect == Effect::Writes;
        if writes && to.len() > 1 && self.transaction == Transaction::Idle {
            self.check_commit(&to)?;
        }
        let mut shards = gathering.shards();
        shards.extend_from_slice(&to);
        shards.sort_unstable();
        shards.dedup();
        let fresh = self.transaction == Transaction::Idle;
        let own = self.begin_own(call.telling);
        let mut links = match self.enlist(&shards).await {
            Ok(links) => links,
            Err(fault) => return self.end_own(own, Err(fault)).await,
        };
        // A transaction that was just begun has nothing that others do not see.
        let seen = match fresh {
            true => Ok(()),
            false => self.may_gather_beside(&mut links, &delivery.gather).await,
        };
        let beside = match seen {
            Ok(()) => self.beside(delivery.gather.shard).await,
            Err(fault) => Err(fault),
        };
        for link in links.iter_mut().filter(|link| to.contains(&link.shard())) {
            link.note(call.statement.effect);
        }
        let mut gatherer = match beside {
            Ok(gatherer) => gatherer,
            Err(fault) => {
                let dismissed = self.finish(links, Ok(())).await;
                return self.end_own(own, dismissed.and(Err(fault))).await;
            }
        };
        let all = links.iter_mut().chain([&mut gatherer.link]);
        let running = all
            .map(|link| Rc::clone(&link.server().canceller))
            .collect();
        self.card.set_also_running(running);
        let outcome = self
            .deliver_on(
                call,
                delivery,
                &mut gathering,
                &mut gatherer,
                &mut links,
                &to,
            )
            .await;
        let (done, tag) = match outcome {
            Ok(tag) => (Ok(()), tag),
            Err(failure) => (Err(failure), String::new()),
        };
        if done.is_err() {
            self.abandon_participants(&mut links).await;
        }
        self.leave_beside(gatherer.link).await;
        let done = self.finish(links, done).await;
        if done.is_ok() {
            self.statement_done(&call.statement.class, Committed::No);
        }
        self.end_own(own, done).await?;
        self.tell_changed(call, tag);
        Ok(())
    }

    /// The tag for the client.
    async fn deliver_on(
        &mut self,
        call: &Call<'_>,
        delivery: &Delivery,
        gathering: &mut Gathering<'_>,
        gatherer: &mut Gatherer,
        links: &mut [Link],
        to: &[ShardId],
    ) -> Result<String, Failure> {
        // What is wrong with the statement is said in its own words.
        let own = &mut links[0];
        let description = self.describe_on(own, call.own_text(), call.types).await?;
        let query = delivery.query(call.text, call.literals);
        let described = self.describe_on(own, query, &description.types).await?;
        let columns = described.columns.as_deref().map(columns::decode);
        let load = match columns {
            Some(Ok(columns)) => delivery.load(columns.len()),
            _ => None,
        };
        let load = load.ok_or_else(|| refused(delivery, "it gives too few columns"))?;
        if load.format == gather::CopyFormat::Text && self.rounds_in_text() {
            return Err(refused(
                delivery,
                "they would travel as text, and extra_float_digits rounds numbers in it",
            ));
        }
        gathering.also = load.create.clone();
        if !delivery.left.is_empty() {
            gathering.numbers = Numbers::ForRows;
        }
        self.bring_in_time(gathering, gatherer, links).await?;
        gathering.report();
        self.store_beside(call, delivery, &mut gatherer.link, &description.types)
            .await?;
        self.remember_numbers(delivery, &mut gatherer.link).await;
        if !load.without_key.is_empty() {
            let found = gatherer.link.ask(&load.without_key, &self.worker).await;
            if found.is_some() {
                return Err(Failure::Refused(Refusal::new(
                    Reason::NullKey,
                    format!("a key column of table \"{}\" would be NULL", delivery.table),
                )));
            }
        }
        let mut targets: Vec<&mut Link> = links
            .iter_mut()
            .filter(|link| to.contains(&link.shard()))
            .collect();
        let from = &mut gatherer.link;
        if let Some(insert) = &load.insert {
            return self
                .insert_into(call, delivery, &load, insert, from, &mut targets)
                .await;
        }
        let rows = self.move_to(delivery, &load, from, &mut targets).await?;
        Ok(format!("INSERT 0 {rows}"))
    }

    /// Runs the query where the rows were gathered, into an empty copy of the table.
    async fn store_beside(
        &mut self,
        call: &Call<'_>,
        delivery: &Delivery,
        link: &mut Link,
        types: &[u32],
    ) -> Result<(), Failure> {
        let text = delivery.gather.text(call.text, call.literals);
        let mut branch = Branch::new(link.server());
        branch.ask(&Question {
            text: &text,
            types,
            parameters: call.raw_parameters,
            formats: &[],
        });
        let mut ended = Ended {
            tally: Tally::default(),
            counts: Counts::All,
        };
        let one = std::slice::from_mut(&mut branch);
        branch::attend(&mut self.client, one, &self.worker.scratch, &mut ended)
            .await
            .map_err(of_gatherer)
    }

    /// What currval and lastval give from now on.
    async fn remember_numbers(&mut self, delivery: &Delivery, link: &mut Link) {
        for left in &delivery.left {
            let number = link.ask(&left.last(), &self.worker).await;
            if let Some(number) = number.and_then(|number| number.parse().ok()) {
                let taken = self.taken.get_or_insert_default();
                taken.take(&left.sequence, number);
            }
        }
        if delivery.left.len() > 1
            && let Some(taken) = &mut self.taken
        {
            // In which order they are taken for a row is for a server to say.
            taken.doubt_last();
        }
    }

    async fn move_to(
        &mut self,
        delivery: &Delivery,
        load: &Load,
        from: &mut Link,
        to: &mut [&mut Link],
    ) -> Result<u64, Failure> {
        let catalog = Arc::clone(&self.database.catalog());
        let shards: Vec<ShardId> = to.iter().map(|link| link.shard()).collect();
        let mut targets: Vec<Branch<'_>> = to
            .iter_mut()
            .map(|link| Branch::new(link.server()))
            .collect();
        for target in &mut targets {
            target.query(&load.copy_in);
        }
        let mut asked = Asked::new(targets.len());
        let (client, scratch) = (&mut self.client, &self.worker.scratch);
        branch::attend(client, &mut targets, scratch, &mut asked).await?;
        let mut source = Branch::new(from.server());
        source.query(&load.copy_out);
        let locate = locator(delivery, &catalog, &shards);
        let mut splitter = splitter(delivery, load, &catalog, targets.len());
        deliver(
            client,
            &mut source,
            &mut targets,
            scratch,
            &mut splitter,
            &locate,
        )
        .await
        .map_err(as_of_insert)?;
        let mut ended = Ended {
            tally: Tally::default(),
            counts: Counts::All,
        };
        for target in &mut targets {
            target.server.push(&[b'c', 0, 0, 0, 4]);
            target.server.pipeline.copy_ended();
        }
        branch::attend(client, &mut targets, scratch, &mut ended)
            .await
            .map_err(as_of_insert)?;
        Ok(ended.tally.rows)
    }

    /// After a failure: those that wait for data get no more.
    async fn abandon_participants(&mut self, links: &mut [Link]) {
        for link in links.iter_mut().filter(|link| !link.is_settled()) {
            super::gather::stop(link.server());
        }
        self.settle_links(links).await;
    }
}

/// Which of these shards stores the row of a key, by its place.
fn locator<'a>(
    delivery: &Delivery,
    catalog: &'a Catalog,
    shards: &'a [ShardId],
) -> impl Fn(&[KeyValue]) -> Result<usize, String> + 'a {
    let distribution = match &delivery.to {
        Destination::Keys(key) => catalog.distributions.get(usize::from(key.distribution.0)),
        Destination::Shard(_) => None,
    };
    move |key| {
        let Some(distribution) = distribution else {
            return Ok(0);
        };
        let shard = shard_of(distribution, key).map_err(|refusal| refusal.message)?;
        shards
            .iter()
            .position(|known| *known == shard)
            .ok_or_else(|| "the row's shard is not among those that store".to_owned())
    }
}

/// What finds the keys in the rows as they are copied out.
fn splitter(delivery: &Delivery, load: &Load, catalog: &Catalog, branches: usize) -> Splitter {
    let key = match &delivery.to {
        Destination::Keys(key) => {
            let distribution = &catalog.distributions[usize::from(key.distribution.0)];
            let columns = key.columns.iter().zip(distribution.map.key_types());
            columns
                .map(|((place, column), key_type)| (*place, *column, *key_type))
                .collect()
        }
        Destination::Shard(_) => Vec::new(),
    };
    let form = CopyForm::plain(match load.format {
        gather::CopyFormat::Binary => CopyFormat::Binary,
        gather::CopyFormat::Text => CopyFormat::Text {
            delimiter: b'\t',
            null: Box::from(&b"\\N"[..]),
        },
    });
    Splitter::new(form, delivery.table.clone(), key, branches)
}

/// A shard's error without the line of its context that speaks of a COPY, of which the client knows nothing.
fn as_of_insert(failure: Failure) -> Failure {
    let Failure::Server { branch, error } = failure else {
        return failure;
    };
    let mut out = Vec::with_capacity(error.len());
    for field in error.split(|byte| *byte == 0) {
        let kept = match field.split_first() {
            None => continue,
            Some((b'W', lines)) => {
                let lines = String::from_utf8_lossy(lines);
                let own = lines.lines().filter(|line| !line.starts_with("COPY "));
                let own: Vec<&str> = own.collect();
                if own.is_empty() {
                    continue;
                }
                format!("W{}", own.join("\n")).into_bytes()
            }
            Some(_) => field.to_vec(),
        };
        out.extend_from_slice(&kept);
        out.push(0);
    }
    out.push(0);
    Failure::Server { branch, error: out }
}

fn refused(delivery: &Delivery, why: &str) -> Failure {
    Failure::Refused(Refusal::new(
        Reason::InsertSelectNotColocated,
        format!(
            "rows from other shards cannot be brought to table \"{}\": {why}",
            delivery.table
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_does_not_speak_of_the_copy() {
        let without = |error: &[u8]| match as_of_insert(Failure::Server {
            branch: 0,
            error: error.to_vec(),
        }) {
            Failure::Server { error, .. } => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            without(b"SERROR\0C23505\0WCOPY t, line 1: \"x\"\0nkey\0\0"),
            b"SERROR\0C23505\0nkey\0\0"
        );
        assert_eq!(
            without(b"SERROR\0WPL/pgSQL function f() line 1 at RAISE\nCOPY t, line 1\0\0"),
            b"SERROR\0WPL/pgSQL function f() line 1 at RAISE\0\0"
        );
    }
}
