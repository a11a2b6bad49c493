//! A query over rows that are brought to one shard first. `plan/spread/gather.rs` says what is done, `execution/gather.rs` moves the rows.
//!
//! Outside a transaction block the gathering connection works in a transaction of its own, which ends with the query; so do the sources that are asked
//! more than one question, for one snapshot each. In a block all are the client's participants, and the temporary tables are
//! dropped at once. A block that only reads has no place for them, so there a connection beside the participants gathers.
//!
//! Rows gather on a primary, always: a replica makes no tables. The other shards' rows may come from replicas, as those of any read do.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::changes::{FIRST_OWN_OID, words};
use super::{Call, Description, Returned, Step, Telling, with_formats};
use crate::backend::server::Server;
use crate::catalog::Catalog;
use crate::config;
use crate::execution::branch::{self, Audience, Branch, Failure, Question, pass_on};
use crate::execution::columns;
use crate::execution::gather::{Filling, Limits, Size, fill};
use crate::execution::portions::{Opening, Portions};
use crate::plan::bind::each_key;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::gather::{
    Choice, CopyFormat, End, Fetch, Gather, Gives, InPlace, Origin, View, is_unsteady,
};
use crate::session::Session;
use crate::session::link::{Link, Phase, run};
use crate::session::reads::Seeks;
use crate::session::respond::Fault;
use crate::session::transaction::Transaction;
use crate::session::worker::add;
use crate::sharding::ShardId;
use crate::sql::explain::Runs;
use crate::sql::facts::Leaves;
use crate::wire::answer::TransactionStatus;

/// Rows above which a temporary table is analysed, so that the planner knows what it has.
const WORTH_ANALYSING: u64 = 10_000;

/// Of a table with more rows nobody asks which values a column has, to fetch less of another table by them; nor are more bytes of them sent.
const MOST_KEYS: u64 = 10_000;
const MOST_KEY_BYTES: usize = 512 << 10;

const BEGIN_SOURCE: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
const BEGIN_GATHERING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ WRITE";
/// Whether the transaction only reads, and how it is isolated.
const MODES: &str = "SELECT pg_catalog.current_setting('transaction_read_only') || ' ' || \
    pg_catalog.current_setting('transaction_isolation')";

/// In a failure: of the connection that gathers. Any other number is a place among the sources.
const GATHERER: usize = usize::MAX;

/// A message that ends a COPY in failure, with an empty reason.
const COPY_FAIL: &[u8] = &[b'f', 0, 0, 0, 5, 0];

/// Whose transaction the query runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// One of its own.
    Own,
    /// The client's, in which temporary tables can be made.
    Client,
    /// The client's only reads: a connection beside its participants gathers, in a transaction that begins as the client's did.
    Beside,
}

/// Where rows are gathered.
pub(super) struct Gatherer {
    pub link: Link,
    block: Block,
}

/// The shards that send rows of a table.
struct Transfer<'a> {
    fetch: &'a Fetch,
    /// For people.
    name: String,
    from: Vec<ShardId>,
    /// Those that the temporary table has.
    rows: u64,
    /// Of the rows that came from other shards.
    bytes: u64,
    time: Duration,
}

/// One execution.
pub(super) struct Gathering<'a> {
    call: &'a Call<'a>,
    catalog: Arc<Catalog>,
    gather: &'a Gather,
    transfers: Vec<Transfer<'a>>,
    /// What else is made where rows are gathered, once they are there.
    pub also: Vec<String>,
    /// What numbers are taken for there.
    pub numbers: Numbers,
    /// The client's, as SQL, as far as conditions of fetches have them.
    parameters: Vec<Option<Box<str>>>,
    /// What stands in front of the query.
    prefix: Vec<u8>,
    brings: Brings,
    timeout: Duration,
    limits: Limits,
    size: Size,
}

/// Whether sequences are asked where rows are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    None,
    ForRows,
}

/// Whether the temporary tables get their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Brings {
    Rows,
    /// The query is only planned.
    Nothing,
}

/// What becomes of the query's rows.
pub(super) enum Outlet<'a> {
    /// They are the client's at once.
    Client,
    /// They wait in a portal of this name. What comes of it so far is in `rows`.
    Portal {
        name: &'a str,
        rows: &'a mut Portions,
        /// The body of RowDescription.
        columns: &'a mut Vec<u8>,
    },
    /// It is EXPLAIN with these options, in front of the statement; the plan is left with the call.
    Plan(&'a [u8], Runs),
}

impl Session {
    pub(super) async fn gather(&mut self, call: &Call<'_>, gather: &Gather) -> Result<(), Fault> {
        self.gather_to(call, gather, Outlet::Client).await
    }

    pub(super) async fn gather_to(
        &mut self,
        call: &Call<'_>,
        gather: &Gather,
        outlet: Outlet<'_>,
    ) -> Result<(), Fault> {
        let catalog = Arc::clone(&self.database.catalog());
        let config = Arc::clone(&self.worker.shared.snapshot().config);
        let mut gathering = Gathering::new(call, gather, &catalog, &config.gather);
        if let Outlet::Plan(prefix, runs) = &outlet {
            gathering.prefix = prefix.to_vec();
            gathering.brings = match runs {
                Runs::Yes => Brings::Rows,
                Runs::No => Brings::Nothing,
            };
        }
        if gathering.has_foreign_rows() {
            // Whose rows they are is known of primaries.
            self.reads.seeks = Seeks::Primary;
        }
        let own = self.transaction == Transaction::Idle;
        let shards = gathering.shards();
        let mut links = match own {
            true => self.enlist_with_primary(&shards, gather.shard).await?,
            // Who gathers there is looked for afterwards.
            false => self.enlist(&shards).await?,
        };
        let gatherer = match own {
            true => take_of(&mut links, gather.shard).map(|link| Gatherer {
                link,
                block: Block::Own,
            }),
            false => match self.gatherer_in_block(&mut links, gather).await {
                Ok(gatherer) => gatherer,
                Err(fault) => {
                    self.finish(links, Ok(())).await?;
                    return Err(fault);
                }
            },
        };
        // One of the links is to the gathering shard.
        let Some(mut gatherer) = gatherer else {
            return self.finish(links, Ok(())).await;
        };
        if gatherer.block == Block::Beside && matches!(outlet, Outlet::Portal { .. }) {
            self.leave_beside(gatherer.link).await;
            self.finish(links, Ok(())).await?;
            return Err(Fault::Refused(Refusal::new(
                Reason::RowLimit,
                "a part of the rows is asked for, and the query needs rows of several shards in temporary tables, which a transaction that only reads cannot have",
            )));
        }
        let all = links.iter_mut().chain([&mut gatherer.link]);
        let running = all
            .map(|link| Rc::clone(&link.server().canceller))
            .collect();
        self.card.set_also_running(running);
        let done = self
            .gather_on(&mut gathering, &mut gatherer, &mut links, outlet)
            .await;
        if let Err(Failure::Broken { branch, error, .. }) = &done {
            let lost = links.get_mut(*branch).unwrap_or(&mut gatherer.link);
            self.was_lost(lost, error);
            self.pass_by(lost);
        }
        let Gatherer { link, block } = gatherer;
        match block {
            Block::Own | Block::Client => {
                links.push(link);
                links.sort_by_key(Link::shard);
                if done.is_err() {
                    self.abandon(&mut links, block).await;
                }
            }
            Block::Beside => {
                if done.is_err() {
                    self.abandon(&mut links, Block::Client).await;
                }
                self.leave_beside(link).await;
            }
        }
        self.conclude(links, done).await
    }

    /// The connection that gathers in a transaction of the client's: the participant, unless the transaction only reads.
    async fn gatherer_in_block(
        &mut self,
        links: &mut Vec<Link>,
        gather: &Gather,
    ) -> Result<Option<Gatherer>, Fault> {
        let Some(mut link) = take_of(links, gather.shard) else {
            return Ok(None);
        };
        let modes = link.ask(MODES, &self.worker).await;
        if modes.as_ref().is_some_and(|modes| modes.starts_with("off")) {
            link.cannot_prepare("used temporary tables, for a query over rows of several shards");
            return Ok(Some(Gatherer {
                link,
                block: Block::Client,
            }));
        }
        links.push(link);
        if !sees_the_same(gather, modes.as_deref(), links) {
            return Err(Fault::Refused(Refusal::new(
                Reason::GatherReadOnly,
                "the query needs rows of several shards in temporary tables, which a transaction that only reads cannot have",
            )));
        }
        self.beside(gather.shard).await.map(Some)
    }

    /// Whether a connection beside the participants of the client's transaction would read what they read.
    pub(super) async fn may_gather_beside(
        &mut self,
        links: &mut [Link],
        gather: &Gather,
    ) -> Result<(), Fault> {
        let modes = match links.first_mut() {
            Some(first) => first.ask(MODES, &self.worker).await,
            None => None,
        };
        if sees_the_same(gather, modes.as_deref(), links) {
            return Ok(());
        }
        Err(Fault::Refused(Refusal::new(
            Reason::GatherReadOnly,
            "the query also reads reference or single tables, which another connection would see as of another moment",
        )))
    }

    /// A connection that gathers beside the participants, in a transaction that begins as the client's did.
    pub(super) async fn beside(&mut self, shard: ShardId) -> Result<Gatherer, Fault> {
        let lent = self.checkout(shard).await?;
        add(&self.database.counters.assignments, 1);
        self.link_up(Link::new(lent, Phase::Working, self.mode));
        let brought = self.bring_up(Phase::Working).await;
        let Some(mut link) = self.link.take() else {
            return Err(Fault::Told);
        };
        // Without success it is not in a known state, and is closed.
        brought?;
        run(link.server(), "SET TRANSACTION READ WRITE", &self.worker).await?;
        self.join(std::slice::from_ref(&link));
        Ok(Gatherer {
            link,
            block: Block::Beside,
        })
    }

    /// Brings the rows, runs the query and tells the client its answer.
    async fn gather_on(
        &mut self,
        gathering: &mut Gathering<'_>,
        gatherer: &mut Gatherer,
        sources: &mut [Link],
        outlet: Outlet<'_>,
    ) -> Result<(), Failure> {
        let call = gathering.call;
        let description = self
            .describe_on(&mut gatherer.link, call.own_text(), call.types)
            .await
            .map_err(of_gatherer)?;
        if call.statement.leaves.contains(&Leaves::Unseen) {
            gatherer.link.unsettle();
        }
        self.write_parameters(gathering, gatherer, &description.types)
            .await
            .map_err(of_gatherer)?;
        self.bring_in_time(gathering, gatherer, sources).await?;
        gathering.report();
        let answered = self.answer_gathered(gathering, gatherer, &description, outlet);
        answered.await.map_err(of_gatherer)
    }

    /// Runs the query over what was brought, tells the client its answer, and leaves nothing behind.
    async fn answer_gathered(
        &mut self,
        gathering: &Gathering<'_>,
        gatherer: &mut Gatherer,
        description: &Description,
        outlet: Outlet<'_>,
    ) -> Result<(), Failure> {
        let call = gathering.call;
        let link = &mut gatherer.link;
        let mut close = String::new();
        let tag = match (gathering.gather.gives, outlet) {
            (Gives::Rows, Outlet::Client | Outlet::Plan(..)) => {
                Some(self.run_gathered(gathering, link, description).await?)
            }
            (
                Gives::Rows,
                Outlet::Portal {
                    name,
                    rows,
                    columns,
                },
            ) => {
                close = format!("CLOSE {name}_source; ");
                if let Some(described) = &description.columns {
                    *columns = with_formats(described, call.formats);
                }
                self.open_gathered(gathering, link, description, name, rows)
                    .await?;
                None
            }
            (Gives::Copy, _) => Some(self.copy_gathered(gathering, link).await?),
        };
        let end = match (gatherer.block, gathering.gather.end) {
            // Temporary tables end with it, and take their views with them.
            (Block::Own, End::Commit) => "COMMIT".to_owned(),
            (Block::Own, End::Rollback) => "ROLLBACK".to_owned(),
            (Block::Client, _) => {
                let views = gathering.gather.views.iter().rev().map(View::drop);
                let drops = views.chain(gathering.gather.fetches.iter().map(Fetch::drop));
                close + &drops.collect::<Vec<_>>().join("; ")
            }
            (Block::Beside, _) => String::new(),
        };
        self.tell(&mut gatherer.link, &end).await?;
        match (tag, call.returned) {
            (Some(tag), None) => pass_on(b'C', &tag, &mut self.client.outbox),
            (Some(tag), Some(returned)) => returned.borrow_mut().tag = words(&tag),
            (None, _) => {}
        }
        Ok(())
    }

    /// Runs the client's text to its end; its rows stay with the server, in a portal that does not need the temporary tables any more: one for
    /// FETCH, whose result a server stores before it gives the first row.
    async fn open_gathered(
        &mut self,
        gathering: &Gathering<'_>,
        link: &mut Link,
        description: &Description,
        portal: &str,
        rows: &mut Portions,
    ) -> Result<(), Failure> {
        if has_own_types(description) {
            return Err(Failure::Refused(Refusal::new(
                Reason::RowLimit,
                "a part of the rows is asked for, and the rows of several shards may have the type of a temporary table, which is dropped before they are all given",
            )));
        }
        let call = gathering.call;
        let mut declare = format!("DECLARE {portal}_source NO SCROLL CURSOR FOR ").into_bytes();
        declare.extend(gathering.gather.text(call.text, call.literals));
        let fetch = format!("FETCH ALL FROM {portal}_source");
        let mut branch = Branch::new(link.server());
        let question = Question {
            text: &declare,
            types: &description.types,
            parameters: call.raw_parameters,
            formats: call.formats,
        };
        branch.open_over(portal, &question, &fetch);
        let branches = std::slice::from_mut(&mut branch);
        let mut opening = Opening::new(rows);
        branch::attend(
            &mut self.client,
            branches,
            &self.worker.scratch,
            &mut opening,
        )
        .await
    }

    pub(super) async fn bring_in_time(
        &mut self,
        gathering: &mut Gathering<'_>,
        gatherer: &mut Gatherer,
        sources: &mut [Link],
    ) -> Result<(), Failure> {
        let worker = Rc::clone(&self.worker);
        let timeout = gathering.timeout;
        let bringing = self.bring(gathering, gatherer, sources);
        match worker.shared.timers.timeout(timeout, bringing).await {
            Ok(brought) => brought,
            Err(_) => Err(gathering.too_slow(timeout)),
        }
    }

    /// Makes the temporary tables and fills them.
    async fn bring(
        &mut self,
        gathering: &mut Gathering<'_>,
        gatherer: &mut Gatherer,
        sources: &mut [Link],
    ) -> Result<(), Failure> {
        let mut as_text = gathering
            .gather
            .fetches
            .iter()
            .filter(|fetch| fetch.format == CopyFormat::Text);
        if let Some(fetch) = as_text.next()
            && self.rounds_in_text()
        {
            return Err(Failure::Ours {
                sqlstate: "0A000",
                message: format!(
                    "rows of table {}.{} travel as text, because of its types, and extra_float_digits would round numbers in them",
                    fetch.schema, fetch.table
                ),
                hint: Some("Reset extra_float_digits."),
            });
        }
        let here = match gatherer.block {
            Block::Own | Block::Client => Some(gathering.gather.shard),
            Block::Beside => None,
        };
        let stored = self
            .tell(
                &mut gatherer.link,
                &gathering.preparation(gatherer.block, here)?,
            )
            .await
            .map_err(of_gatherer)?;
        gathering.stored_here(here, &stored)?;
        let mut afterwards = Vec::new();
        for place in 0..gathering.transfers.len() {
            if gathering.brings == Brings::Rows {
                self.transfer(gathering, place, gatherer, sources).await?;
            }
            let Transfer { fetch, rows, .. } = &gathering.transfers[place];
            afterwards.extend(fetch.add_primary_key());
            afterwards.extend(fetch.create_index());
            if *rows > WORTH_ANALYSING {
                afterwards.push(fetch.analyze());
            }
        }
        let views = gathering.gather.views.iter();
        afterwards.extend(views.map(|view| view.create.to_string()));
        afterwards.append(&mut gathering.also);
        if gatherer.block == Block::Beside && gathering.numbers == Numbers::None {
            afterwards.push("SET TRANSACTION READ ONLY".to_owned());
        }
        self.tell(&mut gatherer.link, &afterwards.join("; "))
            .await
            .map_err(of_gatherer)?;
        Ok(())
    }

    /// Whether numbers lose digits when they are written as text.
    pub(super) fn rounds_in_text(&self) -> bool {
        let rounds = |digits: &str| digits.trim().parse::<i32>().is_ok_and(|digits| digits < 1);
        self.settings.get("extra_float_digits").is_some_and(rounds)
    }

    /// Fills one table with the rows of the shards that are not the gathering connection's own.
    async fn transfer(
        &mut self,
        gathering: &mut Gathering<'_>,
        place: usize,
        gatherer: &mut Gatherer,
        sources: &mut [Link],
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let also = self.columns_among(gathering, place, gatherer).await;
        let also = also.map_err(of_gatherer)?;
        let Transfer {
            fetch, name, from, ..
        } = &gathering.transfers[place];
        let mut branches: Vec<Branch<'_>> = Vec::new();
        let mut places = Vec::new();
        for (number, link) in sources
            .iter_mut()
            .enumerate()
            .filter(|(_, link)| from.contains(&link.shard()))
        {
            places.push(number);
            let shard = link.shard();
            let asked = |transfers: &[Transfer<'_>]| {
                transfers
                    .iter()
                    .filter(|transfer| transfer.from.contains(&shard))
                    .count()
            };
            let earlier = asked(&gathering.transfers[..place]);
            let later = asked(&gathering.transfers[place + 1..]);
            let own = gatherer.block == Block::Own && earlier + later > 0;
            let mut branch = Branch::new(link.server());
            if own && earlier == 0 {
                branch.query(BEGIN_SOURCE);
            }
            branch.query(&gathering.copy_out(fetch, shard, &also)?);
            if own && later == 0 {
                branch.query("COMMIT");
            }
            branches.push(branch);
        }
        if branches.is_empty() {
            return Ok(());
        }
        let mut target = Branch::new(gatherer.link.server());
        target.query(&fetch.copy_in());
        let mut filling = Filling::new(
            name,
            fetch.format,
            branches.len(),
            gathering.size,
            gathering.limits,
        );
        let filled = fill(
            &mut self.client,
            &mut branches,
            &mut target,
            &self.worker.scratch,
            &mut filling,
        );
        filled.await.map_err(|failure| {
            let place = |branch: usize| places.get(branch).copied().unwrap_or(GATHERER);
            with_branch(failure, place)
        })?;
        let size = filling.size();
        gathering.size.rows += size.rows;
        gathering.size.bytes += size.bytes;
        let transfer = &mut gathering.transfers[place];
        transfer.rows += size.rows;
        transfer.bytes = size.bytes;
        transfer.time = began.elapsed();
        Ok(())
    }

    /// Writes the parameters that conditions of fetches have as SQL: the server that gathers knows how.
    async fn write_parameters(
        &mut self,
        gathering: &mut Gathering<'_>,
        gatherer: &mut Gatherer,
        types: &[u32],
    ) -> Result<(), Failure> {
        let call = gathering.call;
        let fetches = gathering.gather.fetches.iter();
        let mut wanted: Vec<u16> = fetches
            .flat_map(|fetch| fetch.parameters(call.text, call.literals))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let known = wanted.into_iter().filter_map(|number| {
            let place = usize::from(number).checked_sub(1)?;
            let given = call.parameters.get(number)?;
            if given.value.is_some_and(is_unsteady) {
                return None;
            }
            let (sql, name) = written(number, *types.get(place)?)?;
            Some((place, sql, name))
        });
        let known: Vec<(usize, String, &str)> = known.collect();
        if known.is_empty() {
            return Ok(());
        }
        let columns: Vec<&str> = known.iter().map(|(_, sql, _)| &**sql).collect();
        // Rows, because a list of columns has an end.
        let asked = format!("SELECT pg_catalog.unnest(ARRAY[{}])", columns.join(", "));
        let mut branch = Branch::new(gatherer.link.server());
        branch.ask(&Question {
            text: asked.as_bytes(),
            types,
            parameters: call.raw_parameters,
            formats: &[],
        });
        let texts = self.hear_texts(branch).await?;
        gathering.parameters = vec![None; types.len()];
        for ((place, _, name), text) in known.iter().zip(texts) {
            let cast = text.map(|text| format!("{text}::pg_catalog.{name}").into());
            gathering.parameters[*place] = cast;
        }
        Ok(())
    }

    /// What is true of the rows of a table that matter, by the rows of others that are there: with whose keys only some can be equal.
    async fn columns_among(
        &mut self,
        gathering: &Gathering<'_>,
        place: usize,
        gatherer: &mut Gatherer,
    ) -> Result<Vec<String>, Failure> {
        let transfer = &gathering.transfers[place];
        let mut conditions = Vec::new();
        for among in &transfer.fetch.among {
            let of = &gathering.transfers[among.of];
            if of.rows > MOST_KEYS {
                continue;
            }
            let mut branch = Branch::new(gatherer.link.server());
            branch.query(&of.fetch.keys(among));
            let array = self.hear_texts(branch).await?.pop().flatten();
            conditions.extend(
                array
                    .filter(|array| array.len() <= MOST_KEY_BYTES)
                    .map(|array| transfer.fetch.is_among(among, &array)),
            );
        }
        Ok(conditions)
    }

    /// The values of a row that a server gives as text.
    async fn hear_texts(
        &mut self,
        mut branch: Branch<'_>,
    ) -> Result<Vec<Option<Box<str>>>, Failure> {
        let mut texts = Texts(Vec::new());
        let branches = std::slice::from_mut(&mut branch);
        branch::attend(&mut self.client, branches, &self.worker.scratch, &mut texts).await?;
        Ok(texts.0)
    }

    /// Runs the client's text; its rows are the client's, its tag is given.
    async fn run_gathered(
        &mut self,
        gathering: &Gathering<'_>,
        link: &mut Link,
        description: &Description,
    ) -> Result<Vec<u8>, Failure> {
        let call = gathering.call;
        let mut text = gathering.prefix.clone();
        text.extend(gathering.gather.text(call.text, call.literals));
        let columns = description.columns.as_ref();
        let columns = columns.map(|columns| with_formats(columns, call.formats));
        if let (Some(returned), Some(columns)) = (call.returned, &columns) {
            returned.borrow_mut().begin(columns.clone());
        }
        let mut answer = Rows {
            columns: columns
                .filter(|_| call.telling == Telling::Description && call.returned.is_none()),
            tag: Vec::new(),
            kept: call.returned,
        };
        let mut branch = Branch::new(link.server());
        branch.ask(&Question {
            text: &text,
            types: &description.types,
            parameters: call.raw_parameters,
            formats: call.formats,
        });
        let branches = std::slice::from_mut(&mut branch);
        branch::attend(
            &mut self.client,
            branches,
            &self.worker.scratch,
            &mut answer,
        )
        .await?;
        Ok(answer.tag)
    }

    /// Runs the client's COPY; its data are the client's, its tag is given.
    async fn copy_gathered(
        &mut self,
        gathering: &Gathering<'_>,
        link: &mut Link,
    ) -> Result<Vec<u8>, Failure> {
        let call = gathering.call;
        let text = utf8(gathering.gather.text(call.text, call.literals))?;
        let mut data = Data(Vec::new());
        let mut branch = Branch::new(link.server());
        branch.query(&text);
        let branches = std::slice::from_mut(&mut branch);
        branch::attend(&mut self.client, branches, &self.worker.scratch, &mut data).await?;
        Ok(data.0)
    }

    /// Runs statements of ours; how many rows each of those that store some has stored.
    async fn tell(&mut self, link: &mut Link, sql: &str) -> Result<Vec<u64>, Failure> {
        let mut stored = Stored(Vec::new());
        if !sql.is_empty() {
            let mut branch = Branch::new(link.server());
            branch.query(sql);
            let branches = std::slice::from_mut(&mut branch);
            branch::attend(
                &mut self.client,
                branches,
                &self.worker.scratch,
                &mut stored,
            )
            .await?;
        }
        Ok(stored.0)
    }

    /// After a failure: everything stops, and a transaction of the query's own is rolled back.
    async fn abandon(&mut self, links: &mut [Link], block: Block) {
        let mut stopped = Vec::new();
        for link in links.iter_mut() {
            if !link.is_settled() {
                stop(link.server());
                stopped.push(link.shard());
            }
        }
        self.settle_links(links).await;
        for link in links {
            let open = link.is_settled() && link.status() != TransactionStatus::Idle;
            // One that was stopped is cleaned up in time, because the request to stop may come late.
            if block == Block::Own && open && !stopped.contains(&link.shard()) {
                let _ = run(link.server(), "ROLLBACK", &self.worker).await;
            }
        }
    }

    /// A connection beside the client's transaction goes back to its pool.
    pub(super) async fn leave_beside(&mut self, mut link: Link) {
        self.card.company.leave(link.canceller());
        if !link.is_settled() {
            stop(link.server());
            return link.clean_up(&self.worker);
        }
        let ended = run(link.server(), "ROLLBACK", &self.worker).await;
        // What the transaction had set is as before.
        link.set_settings(&self.settled);
        match ended {
            Ok(()) if !link.is_kept() => link.give_back(&self.worker, Instant::now()),
            _ => link.clean_up(&self.worker),
        }
    }
}

/// Stops what runs. A server that waits for COPY data hears nothing else, and one that does not overlooks it.
pub(super) fn stop(server: &mut Server) {
    server.push(COPY_FAIL);
    server.pipeline.copy_ended();
    server.canceller.cancel_meanwhile();
}

impl<'a> Gathering<'a> {
    pub(super) fn new(
        call: &'a Call<'a>,
        gather: &'a Gather,
        catalog: &Arc<Catalog>,
        config: &config::Gather,
    ) -> Gathering<'a> {
        Gathering {
            call,
            gather,
            transfers: transfers(call, gather, catalog),
            catalog: Arc::clone(catalog),
            also: Vec::new(),
            numbers: Numbers::None,
            parameters: Vec::new(),
            prefix: Vec::new(),
            brings: Brings::Rows,
            timeout: config.timeout,
            limits: Limits {
                rows: config.max_rows as u64,
                bytes: config.max_bytes.0,
            },
            size: Size::default(),
        }
    }

    /// Those that send rows, and the one that gathers them, in their order.
    pub(super) fn shards(&self) -> Vec<ShardId> {
        let sending = self
            .transfers
            .iter()
            .flat_map(|transfer| transfer.from.iter().copied());
        let mut shards: Vec<ShardId> = sending.chain([self.gather.shard]).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }

    /// Whether the shard sends rows.
    pub(super) fn asks(&self, shard: ShardId) -> bool {
        let mut transfers = self.transfers.iter();
        transfers.any(|transfer| transfer.from.contains(&shard))
    }

    /// What the shards that send rows of a table are asked.
    pub(super) fn asked(&self, fetch: &Fetch) -> Result<Vec<(ShardId, String)>, Failure> {
        let mut transfers = self.transfers.iter();
        let transfer = transfers.find(|transfer| std::ptr::eq(transfer.fetch, fetch));
        let from = transfer.map_or(&[][..], |transfer| &transfer.from);
        let asked = from.iter();
        asked
            .map(|shard| Ok((*shard, self.copy_out(fetch, *shard, &[])?)))
            .collect()
    }

    fn copy_out(&self, fetch: &Fetch, shard: ShardId, also: &[String]) -> Result<String, Failure> {
        let but = self.foreign(fetch, shard);
        utf8(fetch.copy_out(&self.choice(but.as_deref(), also)))
    }

    fn choice<'s>(&'s self, but: Option<&'s str>, also: &'s [String]) -> Choice<'s> {
        Choice {
            text: self.call.text,
            literals: self.call.literals,
            parameters: &self.parameters,
            but,
            also,
        }
    }

    /// What was brought, for EXPLAIN.
    pub(super) fn report(&self) {
        if let (Brings::Rows, Some(returned)) = (self.brings, self.call.returned) {
            let steps = self.transfers.iter().map(|transfer| Step {
                what: format!("fetch {}", transfer.name),
                rows: transfer.rows,
                bytes: transfer.bytes,
                time: transfer.time,
            });
            returned.borrow_mut().steps.extend(steps);
        }
    }

    /// What each shard that sends rows is asked: for each table the shard and the query.
    pub(super) fn queries(&self) -> Vec<(ShardId, Vec<u8>)> {
        let transfers = self.transfers.iter();
        let each = transfers.flat_map(|transfer| {
            transfer.from.iter().map(|shard| {
                let but = self.foreign(transfer.fetch, *shard);
                let choice = self.choice(but.as_deref(), &[]);
                (*shard, transfer.fetch.query(&choice))
            })
        });
        each.collect()
    }

    /// A shard that sends rows has some that another one owns.
    fn has_foreign_rows(&self) -> bool {
        self.transfers.iter().any(|transfer| {
            let mut from = transfer.from.iter();
            from.any(|shard| self.foreign(transfer.fetch, *shard).is_some())
        })
    }

    /// The rows of a table that the shard has and another one owns.
    fn foreign(&self, fetch: &Fetch, shard: ShardId) -> Option<String> {
        self.catalog
            .foreign_rows(&fetch.schema, &fetch.table, shard)
    }

    /// What makes the temporary tables, and stores in them the rows that are on the gathering connection.
    fn preparation(&self, block: Block, here: Option<ShardId>) -> Result<String, Failure> {
        let mut statements = Vec::new();
        if block == Block::Own {
            statements.push(BEGIN_GATHERING.to_owned());
        }
        statements.extend(
            self.transfers
                .iter()
                .map(|transfer| transfer.fetch.create()),
        );
        for Transfer { fetch, from, .. } in &self.transfers {
            let but = here.and_then(|here| self.foreign(fetch, here));
            let insert = utf8(fetch.insert(&self.choice(but.as_deref(), &[])))?;
            if self.brings == Brings::Rows && here.is_some_and(|here| from.contains(&here)) {
                // One too many, so that the limit is noticed.
                statements.push(format!(
                    "{insert} LIMIT {}",
                    self.limits.rows.saturating_add(1)
                ));
            }
        }
        Ok(statements.join("; "))
    }

    /// Counts the rows of the gathering connection.
    fn stored_here(&mut self, here: Option<ShardId>, stored: &[u64]) -> Result<(), Failure> {
        let asked = self
            .transfers
            .iter_mut()
            .filter(|transfer| here.is_some_and(|here| transfer.from.contains(&here)));
        for (transfer, rows) in asked.zip(stored) {
            let size = Size {
                rows: *rows,
                bytes: 0,
            };
            size.check(self.size, &transfer.name, self.limits)?;
            self.size.rows += rows;
            transfer.rows = *rows;
        }
        Ok(())
    }

    fn too_slow(&self, timeout: Duration) -> Failure {
        let names: Vec<&str> = self
            .transfers
            .iter()
            .map(|transfer| &*transfer.name)
            .collect();
        Failure::Ours {
            sqlstate: "53400",
            message: format!(
                "the rows of {} were not brought to one shard within {timeout:?} (gather.timeout); {} rows in {} bytes were there",
                names.join(", "),
                self.size.rows,
                self.size.bytes
            ),
            hint: Some("Compare columns of the tables with values in WHERE, or raise the limit."),
        }
    }
}

fn transfers<'a>(call: &Call<'_>, gather: &'a Gather, catalog: &Catalog) -> Vec<Transfer<'a>> {
    let transfer = |fetch: &'a Fetch| Transfer {
        fetch,
        name: format!("{}.{}", fetch.schema, fetch.table),
        rows: 0,
        bytes: 0,
        time: Duration::ZERO,
        from: match &fetch.origin {
            Origin::Every => call.over(catalog),
            Origin::One(shard) => vec![*shard],
            Origin::Keys(target) => {
                let mut shards = Vec::new();
                let found = each_key(target, catalog, &call.values(), |_, _, location| {
                    shards.push(location.shard);
                    Ok(())
                });
                shards.sort_unstable();
                shards.dedup();
                match found {
                    Ok(()) => shards,
                    Err(_) => call.over(catalog),
                }
            }
        },
    };
    gather.fetches.iter().map(transfer).collect()
}

/// Whether a query reads on another connection what it would in this transaction: not tables at another moment, or without what was written.
fn sees_the_same(gather: &Gather, modes: Option<&str>, links: &[Link]) -> bool {
    modes.is_some_and(|modes| {
        gather.in_place == InPlace::Nothing
            || modes.ends_with(" read committed") && !links.iter().any(Link::has_written)
    })
}

/// Whether a column may have the type of a table's rows, which are those of a temporary table where rows are gathered.
fn has_own_types(description: &Description) -> bool {
    /// `record` and its array.
    const RECORDS: [u32; 2] = [2249, 2287];
    let Some(body) = &description.columns else {
        return false;
    };
    match columns::decode(body) {
        Ok(columns) => columns
            .iter()
            .any(|column| column.type_oid >= FIRST_OWN_OID || RECORDS.contains(&column.type_oid)),
        Err(_) => true,
    }
}

pub(super) fn of_gatherer(failure: Failure) -> Failure {
    with_branch(failure, |_| GATHERER)
}

/// The same, of a connection that is known by another number.
fn with_branch(failure: Failure, number: impl Fn(usize) -> usize) -> Failure {
    match failure {
        Failure::Broken {
            branch,
            error,
            words,
        } => Failure::Broken {
            branch: number(branch),
            error,
            words,
        },
        other => other,
    }
}

/// The link to this shard.
fn take_of(links: &mut Vec<Link>, shard: ShardId) -> Option<Link> {
    let place = links.iter().position(|link| link.shard() == shard)?;
    Some(links.swap_remove(place))
}

fn utf8(text: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(text).map_err(|_| Failure::Ours {
        sqlstate: "22021",
        message: "the statement's text is not valid UTF-8".to_owned(),
        hint: None,
    })
}

/// The client's rows. The tag is kept until all is done.
struct Rows<'a> {
    /// RowDescription, when the client is to be told.
    columns: Option<Vec<u8>>,
    tag: Vec<u8>,
    /// Where rows go that are not the client's at once.
    kept: Option<&'a RefCell<Returned>>,
}

impl Audience for Rows<'_> {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        match tag {
            // Bound: from here on it is a result.
            b'2' => {
                if let Some(columns) = self.columns.take() {
                    pass_on(b'T', &columns, out);
                }
            }
            b'D' => match self.kept {
                None => pass_on(tag, body, out),
                Some(kept) => kept.borrow_mut().keep(|rows| {
                    pass_on(tag, body, rows);
                    Ok(())
                })?,
            },
            b'C' => self.tag = body.to_vec(),
            _ => {}
        }
        Ok(())
    }
}

/// What a COPY to the client says. The tag is kept until all is done.
struct Data(Vec<u8>);

impl Audience for Data {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        match tag {
            b'H' | b'd' | b'c' => pass_on(tag, body, out),
            b'C' => self.0 = body.to_vec(),
            _ => {}
        }
        Ok(())
    }
}

/// How a parameter of a type is asked for as a text that any server reads as the same value, and the type's name; `None`: there is no such text for certain (floats
/// may be rounded, as the server is set).
fn written(number: u16, type_oid: u32) -> Option<(String, &'static str)> {
    let name = match type_oid {
        16 => "bool",
        20 => "int8",
        21 => "int2",
        23 => "int4",
        25 => "text",
        1042 => "bpchar",
        1043 => "varchar",
        1082 => "date",
        1083 => "time",
        1114 => "timestamp",
        1184 => "timestamptz",
        1700 => "numeric",
        2950 => "uuid",
        _ => return None,
    };
    let text = match name {
        // Whatever DateStyle is.
        "date" | "timestamp" | "timestamptz" => {
            format!("pg_catalog.to_json(${number}) OPERATOR(pg_catalog.#>>) '{{}}'")
        }
        _ => format!("${number}"),
    };
    Some((format!("pg_catalog.quote_nullable({text})"), name))
}

/// The values of rows, as texts.
struct Texts(Vec<Option<Box<str>>>);

impl Audience for Texts {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], _: &mut Vec<u8>) -> Result<(), Failure> {
        let mut rest = match tag {
            b'D' => body.get(2..).unwrap_or_default(),
            _ => &[],
        };
        while let Some((length, behind)) = rest.split_first_chunk() {
            // Of NULL there is none.
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            let Some((value, next)) = behind.split_at_checked(length.unwrap_or(0)) else {
                break;
            };
            let text = length.and_then(|_| Some(std::str::from_utf8(value).ok()?.into()));
            self.0.push(text);
            rest = next;
        }
        Ok(())
    }
}

/// How many rows each INSERT has stored.
struct Stored(Vec<u64>);

impl Audience for Stored {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], _: &mut Vec<u8>) -> Result<(), Failure> {
        if let Some(count) = body.strip_prefix(b"INSERT 0 ").filter(|_| tag == b'C') {
            let digits = std::str::from_utf8(count)
                .unwrap_or_default()
                .trim_end_matches('\0');
            self.0.push(digits.parse().unwrap_or_default());
        }
        Ok(())
    }
}
