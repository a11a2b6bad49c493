//! An UPDATE or DELETE for which rows of other shards are brought to those that change rows. `plan/spread/gather/feed.rs` says why that is the same.
//!
//! The rows wait in memory meanwhile, up to a limit. `execution/row_array.rs` makes a parameter of them, `execution/column_arrays.rs` several, of a
//! table that only one shard has. A transaction that is begun for the statement keeps
//! one snapshot on each shard, so that what is brought and what is changed are of the same moment there.

use std::sync::Arc;

use super::changes::{Answer, FIRST_OWN_OID, Fed, MOST_KEPT, Texts};
use super::explain::only_value;
use super::gather::Gathering;
use super::{Call, Description, NO_PARAMETERS, Silence, all_shards};
use crate::execution::branch::{self, Audience, Branch, Failure, Question};
use crate::execution::column_arrays::{self, ColumnArrays};
use crate::execution::row_array::{self, RowType, Rows, Unfit};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::gather::{Columns, Fetch, Origin};
use crate::plan::spread::write::{Feed, Write};
use crate::session::Session;
use crate::session::link::Link;
use crate::session::respond::Fault;
use crate::session::transaction::Transaction;
use crate::sharding::ShardId;
use crate::wire::answer::ErrorFields;

/// COPY's data, by the places of the connections that send them.
struct Brought<'a> {
    data: Vec<Vec<u8>>,
    /// Bytes that may still come.
    left: usize,
    table: &'a str,
}

impl Audience for Brought<'_> {
    fn hear(
        &mut self,
        branch: usize,
        tag: u8,
        body: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if tag == b'd' {
            let rest = self.left.checked_sub(body.len());
            self.left = rest.ok_or_else(|| too_many(self.table))?;
            self.data[branch].extend_from_slice(body);
        }
        Ok(())
    }
}

/// The one value of an answer.
#[derive(Default)]
struct OneValue(String);

impl Audience for OneValue {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], _: &mut Vec<u8>) -> Result<(), Failure> {
        if tag == b'D' {
            self.0 = only_value(body).unwrap_or_default();
        }
        Ok(())
    }
}

/// The shards of a statement, in their order.
struct Concerned {
    shards: Vec<ShardId>,
    /// Those that change rows.
    targets: Vec<ShardId>,
}

/// The rows of a table, as all shards have sent them.
struct Table {
    data: Vec<Vec<u8>>,
    form: Form,
}

/// What the servers get them as.
enum Form {
    /// One array, of the row type as each of these servers numbers it.
    RowTypes(Vec<RowType>),
    /// An array for each column.
    Columns(ColumnArrays),
}

impl Table {
    fn rows(&self) -> Option<Vec<Rows<'_>>> {
        self.data.iter().map(|data| Rows::read(data)).collect()
    }

    /// Bytes of the parameters, about.
    fn size(&self) -> Option<usize> {
        let rows = self.rows()?;
        Some(match &self.form {
            Form::RowTypes(row_types) => {
                { row_types.first() }.map_or(0, |row_type| row_type.array_size(&rows))
            }
            Form::Columns(columns) => columns.size(&rows),
        })
    }

    /// The query of the rows, and its parameters for the server at this place; the first of them has this number.
    fn query(&self, fetch: &Fetch, place: usize, first: usize) -> Option<(String, Vec<Vec<u8>>)> {
        let rows = self.rows()?;
        Some(match &self.form {
            Form::RowTypes(row_types) => (
                fetch.of_row_type(first),
                vec![row_types[place].array(&rows)],
            ),
            Form::Columns(columns) => (columns.select(first), columns.arrays(&rows)),
        })
    }
}

impl Session {
    pub(super) async fn do_fed(
        &mut self,
        call: &Call<'_>,
        write: &Write,
        feed: &Feed,
    ) -> Result<(), Fault> {
        let Concerned { shards, targets } = self.concerned(call, feed);
        let is_first = self.is_first_in_transaction();
        let (own, mut links) = self.begin_change(call, &shards, &targets).await?;
        let kept = match is_first {
            true => self.keep_snapshots_on(&mut links).await,
            false => Ok(()),
        };
        let outcome = match kept {
            Ok(()) => self.feed_to(call, write, feed, &mut links, &targets).await,
            Err(failure) => Err(failure),
        };
        self.end_change(call, own, links, outcome).await
    }

    fn concerned(&self, call: &Call<'_>, feed: &Feed) -> Concerned {
        let catalog = Arc::clone(&self.database.catalog());
        let config = Arc::clone(&self.worker.shared.snapshot().config);
        let gathering = Gathering::new(call, &feed.brings, &catalog, &config.gather);
        let targets = feed.shards(&catalog, &call.values());
        let concerned = |shard: &ShardId| targets.contains(shard) || gathering.asks(*shard);
        Concerned {
            shards: all_shards(&catalog).into_iter().filter(concerned).collect(),
            targets,
        }
    }

    /// Whether nothing has run in the transaction that a statement of several shards would begin.
    pub(super) fn is_first_in_transaction(&self) -> bool {
        self.transaction == Transaction::Idle
            && self.link.as_ref().is_none_or(|link| !link.is_in_unit())
    }

    /// In a transaction that has just been begun for the statement: one snapshot on each of its shards, whatever they begin with.
    pub(super) async fn keep_snapshots(
        &mut self,
        call: &Call<'_>,
        feed: &Feed,
    ) -> Result<(), Fault> {
        let shards = self.concerned(call, feed).shards;
        let mut links = self.enlist(&shards).await?;
        let done = self.keep_snapshots_on(&mut links).await;
        self.finish(links, done).await
    }

    /// Neither SHOW nor SET takes a snapshot.
    async fn keep_snapshots_on(&mut self, links: &mut [Link]) -> Result<(), Failure> {
        const RAISE: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ";
        for (place, link) in links.iter_mut().enumerate() {
            let level = self.one_value(link, "SHOW transaction_isolation").await;
            let level = level.map_err(|failure| failure.at(place))?;
            if ["read committed", "read uncommitted"].contains(&&*level) {
                let raised = self.one_value(link, RAISE).await;
                raised.map_err(|failure| failure.at(place))?;
            }
        }
        Ok(())
    }

    /// The tag for the client.
    async fn feed_to(
        &mut self,
        call: &Call<'_>,
        write: &Write,
        feed: &Feed,
        links: &mut [Link],
        targets: &[ShardId],
    ) -> Result<String, Failure> {
        let mut tables = Vec::with_capacity(feed.brings.fetches.len());
        let mut left = MOST_KEPT;
        for fetch in &feed.brings.fetches {
            let table = self.bring_table(call, feed, fetch, links, targets).await?;
            let size = table.size().ok_or_else(|| refused(fetch, Unfit::Changed))?;
            let rest = left.checked_sub(size);
            left = rest.ok_or_else(|| too_many(&fetch.table))?;
            tables.push(table);
        }
        // Rows may have begun to move.
        let catalog = Arc::clone(&self.database.catalog());
        let feeding = |place: usize, shard: ShardId, first: usize| {
            let text = call.text_on(shard, &catalog, &feed.brings.edits, write.own.as_ref());
            let (mut queries, mut values) = (Vec::new(), Vec::new());
            for (table, fetch) in tables.iter().zip(&feed.brings.fetches) {
                let (query, own) = table.query(fetch, place, first + values.len())?;
                queries.push(query);
                values.extend(own);
            }
            let text = [feed.brings.given(&queries).into_bytes(), text].concat();
            Some(Fed { text, values })
        };
        let description = match feed.describer {
            None => None,
            Some(shard) => Some(self.describe_fed(call, links, shard).await?),
        };
        let is_target = |link: &&mut Link| targets.contains(&link.shard());
        let mut changing: Vec<&mut Link> = links.iter_mut().filter(is_target).collect();
        let (texts, answer) = (Texts::Fed(&feeding), &Answer::All);
        let changed = match &description {
            None => self.change_on(call, &mut changing, texts, answer).await,
            Some(known) => {
                self.change_as(call, known, &mut changing, texts, answer)
                    .await
            }
        };
        changed
            .map_err(|failure| of_changing(failure, links, targets))
            .map_err(without_primary_key)
    }

    /// What the statement takes and gives, as the one shard says it that has all of its tables.
    async fn describe_fed(
        &mut self,
        call: &Call<'_>,
        links: &mut [Link],
        shard: ShardId,
    ) -> Result<Description, Failure> {
        let refused =
            |why: &str| Failure::Refused(Refusal::new(Reason::JoinNotColocated, why.to_owned()));
        let place = links.iter().position(|link| link.shard() == shard);
        let place = place.ok_or_else(|| refused("the shard of the table takes no part"))?;
        let described = self
            .describe_on(&mut links[place], call.own_text(), call.types)
            .await;
        let description = described.map_err(|failure| failure.at(place))?;
        match description.types.iter().all(|oid| *oid < FIRST_OWN_OID) {
            true => Ok(description),
            // No other could say how it numbers the types.
            false => Err(refused(
                "a parameter has a type that each server numbers for itself, and a table is on one shard only",
            )),
        }
    }

    async fn bring_table(
        &mut self,
        call: &Call<'_>,
        feed: &Feed,
        fetch: &Fetch,
        links: &mut [Link],
        targets: &[ShardId],
    ) -> Result<Table, Failure> {
        let catalog = Arc::clone(&self.database.catalog());
        let config = Arc::clone(&self.worker.shared.snapshot().config);
        let gathering = Gathering::new(call, &feed.brings, &catalog, &config.gather);
        let asked = gathering.asked(fetch)?;
        let mut brought = Brought {
            data: vec![Vec::new(); links.len()],
            left: MOST_KEPT,
            table: &fetch.table,
        };
        self.show_running(links);
        let branches = links.iter_mut().map(|link| {
            let asked = asked.iter().find(|(shard, _)| *shard == link.shard());
            let mut branch = Branch::new(link.server());
            if let Some((_, query)) = asked {
                branch.query(query);
            }
            branch
        });
        let mut branches: Vec<Branch<'_>> = branches.collect();
        let (client, scratch) = (&mut self.client, &self.worker.scratch);
        let attended = branch::attend(client, &mut branches, scratch, &mut brought).await;
        if attended.is_err() {
            self.silence(&mut branches, Silence::Cancels).await;
        }
        drop(branches);
        attended?;
        let Columns::Named { needed, .. } = &fetch.columns else {
            return Err(refused(fetch, Unfit::Changed));
        };
        if let Origin::One(shard) = fetch.origin {
            let columns = self.columns_on(links, shard, fetch, needed).await?;
            return Ok(Table {
                data: brought.data,
                form: Form::Columns(columns),
            });
        }
        let mut row_types = Vec::with_capacity(targets.len());
        for (place, link) in links.iter_mut().enumerate() {
            if !targets.contains(&link.shard()) {
                continue;
            }
            let row_type = self.row_type_on(link, &fetch.permanent(), needed).await;
            let row_type = row_type.map_err(|failure| failure.at(place))?;
            row_types.push(row_type.map_err(|unfit| refused(fetch, unfit))?);
        }
        Ok(Table {
            data: brought.data,
            form: Form::RowTypes(row_types),
        })
    }

    /// The columns of a table, as its own shard has them.
    async fn columns_on(
        &mut self,
        links: &mut [Link],
        shard: ShardId,
        fetch: &Fetch,
        columns: &[Box<str>],
    ) -> Result<ColumnArrays, Failure> {
        let place = links.iter().position(|link| link.shard() == shard);
        let place = place.ok_or_else(|| refused(fetch, Unfit::Changed))?;
        let question = column_arrays::question(&fetch.permanent(), columns);
        let said = self.one_value(&mut links[place], &question).await;
        let said = said.map_err(|failure| failure.at(place))?;
        ColumnArrays::read(&said, columns).map_err(|unfit| refused(fetch, unfit))
    }

    /// The row type of a table as this server numbers it, for values of these columns.
    pub(super) async fn row_type_on(
        &mut self,
        link: &mut Link,
        table: &str,
        columns: &[Box<str>],
    ) -> Result<Result<RowType, Unfit>, Failure> {
        let said = self
            .one_value(link, &row_array::question(table, columns))
            .await?;
        Ok(RowType::read(&said, columns.len()))
    }

    /// What a server answers to a statement of ours; nothing where it gives no row.
    async fn one_value(&mut self, link: &mut Link, text: &str) -> Result<String, Failure> {
        let question = Question {
            text: text.as_bytes(),
            types: &[],
            parameters: NO_PARAMETERS,
            formats: &[],
        };
        let mut said = OneValue::default();
        let one = std::slice::from_mut(link);
        self.converse(one, &[question], &mut said).await?;
        Ok(said.0)
    }
}

/// A failure of one of those that change rows, as one of all.
fn of_changing(failure: Failure, links: &[Link], targets: &[ShardId]) -> Failure {
    let (Failure::Server { branch, .. } | Failure::Broken { branch, .. }) = failure else {
        return failure;
    };
    let place = |shard: &ShardId| links.iter().position(|link| link.shard() == *shard);
    let place = targets.get(branch).and_then(place);
    failure.at(place.unwrap_or_default())
}

/// What GROUP BY does not say without the primary key that rows which were brought do not have.
fn without_primary_key(failure: Failure) -> Failure {
    const GROUPING_ERROR: &str = "42803";
    if let Failure::Server { error, .. } = &failure
        && let Some(said) = ErrorFields::parse(error)
        && said.sqlstate == GROUPING_ERROR
    {
        let message = "GROUP BY leaves it to a primary key which columns depend on it, and the rows are brought from other shards without it";
        return Failure::Refused(Refusal::new(Reason::JoinNotColocated, message));
    }
    failure
}

fn too_many(table: &str) -> Failure {
    Failure::Ours {
        sqlstate: "54000",
        message: format!(
            "the rows that are brought from other shards take more than {} MB; those of \"{table}\" are among them",
            MOST_KEPT >> 20
        ),
        hint: Some("Compare the table's columns with literals, so that fewer rows are needed."),
    }
}

fn refused(fetch: &Fetch, unfit: Unfit) -> Failure {
    let why = unfit.why("a column that is not needed has a domain");
    let message = format!(
        "rows of \"{}\" cannot be brought to other shards: {why}",
        fetch.table
    );
    Failure::Refused(Refusal::new(Reason::JoinNotColocated, message))
}
