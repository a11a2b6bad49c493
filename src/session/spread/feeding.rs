//! An UPDATE or DELETE for which rows of other shards are brought to every shard first. `plan/spread/gather/feed.rs` says why that is the same.
//!
//! The rows wait in memory meanwhile, up to a limit. `execution/row_array.rs` makes a parameter of them.

use std::sync::Arc;

use super::changes::{Answer, Fed, MOST_KEPT, Texts};
use super::gather::Gathering;
use super::{Call, Silence, all_shards};
use crate::execution::branch::{self, Audience, Branch, Failure};
use crate::execution::row_array::{self, RowType, Rows, Unfit};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::gather::{Columns, Fetch, Gather};
use crate::plan::spread::write::Write;
use crate::session::Session;
use crate::session::link::Link;
use crate::session::respond::Fault;
use crate::sharding::ShardId;
use crate::wire::answer::ErrorFields;

/// COPY's data, by the places of the connections that send them.
struct Brought<'a> {
    data: Vec<Vec<u8>>,
    /// Bytes that may still come.
    left: &'a mut usize,
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
        if tag != b'd' {
            return Ok(());
        }
        let rest = self.left.checked_sub(body.len());
        *self.left = rest.ok_or_else(|| Failure::Ours {
            sqlstate: "54000",
            message: format!(
                "the rows that are brought to all shards take more than {} MB; those of \"{}\" are among them",
                MOST_KEPT >> 20,
                self.table
            ),
            hint: Some("Compare the table's columns with literals, so that fewer rows are needed, or change rows of fewer keys in a statement."),
        })?;
        self.data[branch].extend_from_slice(body);
        Ok(())
    }
}

impl Session {
    pub(super) async fn do_fed(
        &mut self,
        call: &Call<'_>,
        write: &Write,
        feed: &Gather,
    ) -> Result<(), Fault> {
        let catalog = Arc::clone(&self.database.catalog());
        let config = Arc::clone(&self.worker.shared.snapshot().config);
        let gathering = Gathering::new(call, feed, &catalog, &config.gather);
        let targets = call.shards(&catalog).map_err(Fault::Refused)?;
        let concerned = |shard: &ShardId| targets.contains(shard) || gathering.asks(*shard);
        let shards: Vec<ShardId> = all_shards(&catalog).into_iter().filter(concerned).collect();
        let (own, mut links) = self.begin_change(call, &shards, &targets).await?;
        let outcome = match self.bring_to(&gathering, feed, &mut links, &targets).await {
            Ok(fed) => {
                let mut changing: Vec<&mut Link> = links
                    .iter_mut()
                    .filter(|link| targets.contains(&link.shard()))
                    .collect();
                let text = |shard: ShardId, first: usize| {
                    let given = feed.given(first).into_bytes();
                    let text = call.text_on(shard, &catalog, &feed.edits, write.own.as_ref());
                    Some([given, text].concat())
                };
                let texts = Texts::Fed(&fed, &text);
                self.change_on(call, &mut changing, texts, &Answer::All)
                    .await
                    .map_err(|failure| of_changing(failure, &links, &targets))
                    .map_err(without_primary_key)
            }
            Err(failure) => Err(failure),
        };
        self.end_change(call, own, links, outcome).await
    }

    /// All rows, for each of the shards that change some.
    async fn bring_to(
        &mut self,
        gathering: &Gathering<'_>,
        feed: &Gather,
        links: &mut [Link],
        targets: &[ShardId],
    ) -> Result<Vec<Fed>, Failure> {
        self.show_running(links);
        let mut fed: Vec<Fed> = targets.iter().map(|_| Fed::default()).collect();
        let mut left = MOST_KEPT;
        for fetch in &feed.fetches {
            let asked = gathering.asked(fetch)?;
            let mut brought = Brought {
                data: vec![Vec::new(); links.len()],
                left: &mut left,
                table: &fetch.table,
            };
            let mut branches: Vec<Branch<'_>> = links
                .iter_mut()
                .map(|link| {
                    let asked = asked.iter().find(|(shard, _)| *shard == link.shard());
                    let mut branch = Branch::new(link.server());
                    if let Some((_, query)) = asked {
                        branch.query(query);
                    }
                    branch
                })
                .collect();
            let (client, scratch) = (&mut self.client, &self.worker.scratch);
            let attended = branch::attend(client, &mut branches, scratch, &mut brought).await;
            if attended.is_err() {
                self.silence(&mut branches, Silence::Cancels).await;
            }
            drop(branches);
            attended?;
            let rows = brought.data.iter().map(|data| Rows::read(data));
            let rows: Option<Vec<Rows<'_>>> = rows.collect();
            let rows = rows.ok_or_else(|| refused(fetch, Unfit::Changed))?;
            let Columns::Named { needed, .. } = &fetch.columns else {
                return Err(refused(fetch, Unfit::Changed));
            };
            let question = row_array::question(&fetch.permanent(), needed);
            let targets = links
                .iter_mut()
                .filter(|link| targets.contains(&link.shard()));
            for (link, fed) in targets.zip(&mut fed) {
                let said = link.ask(&question, &self.worker).await.unwrap_or_default();
                let row_type = RowType::read(&said, needed.len());
                let row_type = row_type.map_err(|unfit| refused(fetch, unfit))?;
                fed.values.push(row_type.array(&rows));
            }
        }
        Ok(fed)
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

fn refused(fetch: &Fetch, unfit: Unfit) -> Failure {
    let why = match unfit {
        Unfit::Changed => "its definition is another one than was read",
        Unfit::Binary => "values of its columns' types mean another thing on another server",
        Unfit::Domain => "a column that is not needed has a domain",
    };
    let message = format!(
        "rows of \"{}\" cannot be brought to other shards: {why}",
        fetch.table
    );
    Failure::Refused(Refusal::new(Reason::JoinNotColocated, message))
}
