//! EXPLAIN of a statement that several shards do: what Trunkline does, and the plan of each shard that is asked.
//!
//! A shard that does its part by the client's own text explains it by that, and with ANALYZE does it. What is gathered is explained where it is gathered, and
//! so are the queries that bring the rows. Rows that move from shard to shard are moved under ANALYZE as without, and what that took is told.

mod form;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use super::changes::MOST_KEPT;
use super::gather::{Gathering, Outlet};
use super::{Call, Description, NO_PARAMETERS, Returned, Step, Telling, all_shards};
use crate::catalog::Catalog;
use crate::execution::branch::{Audience, Failure, Question};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::edit::Edit;
use crate::plan::spread::everywhere::{self, Everywhere};
use crate::plan::spread::explained::Explained;
use crate::plan::spread::moves::Course;
use crate::plan::spread::{Gather, Move, Scatter, Write};
use crate::plan::{Effect, Planned, PlannedStatement, Spread};
use crate::session::Session;
use crate::session::respond::Fault;
use crate::session::transaction::Transaction;
use crate::sharding::ShardId;
use crate::sql::class::Class;
use crate::sql::explain::Runs;
use crate::sql::normalise::from_normal;
use crate::wire::answer;

use form::{Part, Report};

/// What each shard answers, as text.
struct Plans(Vec<Vec<String>>);

impl Audience for Plans {
    fn hear(
        &mut self,
        branch: usize,
        tag: u8,
        body: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if tag == b'D' {
            self.0[branch].extend(only_value(body));
        }
        Ok(())
    }
}

/// Of a row with one column of text: its number, its length, its bytes.
pub(super) fn only_value(body: &[u8]) -> Option<String> {
    let value = body.get(6..)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// What a shard is asked.
type Asked = (ShardId, Vec<u8>);

impl Session {
    pub(super) async fn explain(
        &mut self,
        call: &Call<'_>,
        explained: &Explained,
    ) -> Result<(), Fault> {
        let catalog = Arc::clone(&self.database.catalog());
        let description = self.describe_explain(call).await?;
        if call.raw_parameters == NO_PARAMETERS && !description.types.is_empty() {
            let message =
                "EXPLAIN of a statement of several shards whose parameters have no values";
            return Err(Fault::Refused(Refusal::new(Reason::ExplainForm, message)));
        }
        let began = Instant::now();
        let mut report = Report {
            lines: owned(&explained.lines),
            steps: Vec::new(),
            parts: Vec::new(),
        };
        match &*explained.spread {
            Spread::Scatter { scatter, otherwise } => {
                let asked = self.scattered(call, scatter, &catalog)?;
                let query = prefix(call, explained).len();
                let Some((first, text)) = asked.first() else {
                    return Err(Fault::Told);
                };
                if self.merges(call, scatter, *first, &text[query..]).await? {
                    report.parts = self
                        .explain_on(call, &description, &asked, &catalog)
                        .await?;
                } else {
                    let gather = otherwise.as_ref();
                    let gather = gather.map_err(|refusal| Fault::Refused(refusal.clone()))?;
                    report.lines = owned(&explained.otherwise);
                    self.explain_gather(call, explained, gather, &description, &mut report)
                        .await?;
                }
            }
            Spread::Write(Write {
                feed: Some(feed), ..
            }) => {
                self.explain_brought(call, explained, &feed.brings, &description, &mut report)
                    .await?;
            }
            Spread::Write(_) | Spread::Rows(_) | Spread::Everywhere(Everywhere::Copies) => {
                let asked = self.changed(call, &explained.spread, &catalog)?;
                report.parts = self
                    .explain_on(call, &description, &asked, &catalog)
                    .await?;
            }
            Spread::Gather(gather) => {
                self.explain_gather(call, explained, gather, &description, &mut report)
                    .await?;
            }
            Spread::Delivery(delivery) => {
                let gather = &delivery.gather;
                self.explain_brought(call, explained, gather, &description, &mut report)
                    .await?;
            }
            Spread::Move(moved) => {
                self.explain_move(call, explained, moved, &description, &mut report)
                    .await?;
            }
            Spread::Once(_) => {
                self.check_options(call, explained).await?;
                self.run_explained(call, explained, &mut report).await?;
            }
            _ => {}
        }
        if explained.options.runs == Runs::Yes {
            report.steps.push(Step {
                what: "all".to_owned(),
                rows: 0,
                bytes: 0,
                time: began.elapsed(),
            });
        }
        if call.telling == Telling::Description {
            self.tell_columns(&description, call.formats);
        }
        for row in report.rows(explained.options.form) {
            answer::data_row(&mut self.client.outbox, &[Some(&row)]);
        }
        self.tell_tag("EXPLAIN");
        Ok(())
    }

    /// The type of the plan, and what is wrong with the statement in its own words.
    async fn describe_explain(&mut self, call: &Call<'_>) -> Result<Description, Fault> {
        let home = self.database.catalog().home;
        let describer = call.spread.describer().unwrap_or(home);
        let mut links = self.enlist(&[describer]).await?;
        let described = self
            .describe_on(&mut links[0], call.own_text(), call.types)
            .await;
        match described {
            Ok(description) => {
                self.finish(links, Ok(())).await?;
                Ok(description)
            }
            Err(failure) => {
                self.finish(links, Err(failure)).await?;
                Err(Fault::Told)
            }
        }
    }

    fn scattered(
        &self,
        call: &Call<'_>,
        scatter: &Scatter,
        catalog: &Catalog,
    ) -> Result<Vec<Asked>, Fault> {
        let shards = call.shards(catalog).map_err(Fault::Refused)?;
        let edits: &[Edit] = &scatter.edits;
        let text = |shard| call.text_on(shard, catalog, edits, scatter.own.as_ref());
        Ok(shards.iter().map(|shard| (*shard, text(*shard))).collect())
    }

    /// What shards are asked that change rows.
    fn changed(
        &self,
        call: &Call<'_>,
        spread: &Spread,
        catalog: &Catalog,
    ) -> Result<Vec<Asked>, Fault> {
        match spread {
            Spread::Write(write) => {
                let shards = call.shards(catalog).map_err(Fault::Refused)?;
                let text = |shard| call.text_on(shard, catalog, &[], write.own.as_ref());
                Ok(shards.iter().map(|shard| (*shard, text(*shard))).collect())
            }
            Spread::Rows(rows) => {
                let of_rows = rows.shards(catalog, &call.values());
                let of_rows = of_rows.map_err(Fault::Refused)?;
                let mut shards = of_rows.clone();
                shards.sort_unstable();
                shards.dedup();
                let whole = Planned::range_of(call.statement, call.literals);
                let text = |shard: ShardId| {
                    let own = (0..of_rows.len()).filter(|row| of_rows[*row] == shard);
                    rows.text(own, whole.clone(), call.text, call.literals)
                };
                Ok(shards.iter().map(|shard| (*shard, text(*shard))).collect())
            }
            _ => {
                everywhere::has_no_clock(&call.values()).map_err(Fault::Refused)?;
                let shards = all_shards(catalog).into_iter();
                Ok(shards
                    .map(|shard| (shard, call.own_text().to_vec()))
                    .collect())
            }
        }
    }

    /// Lets each shard explain what it is asked. One that changes rows does so, as in any change: shard after shard, in one transaction.
    async fn explain_on(
        &mut self,
        call: &Call<'_>,
        description: &Description,
        asked: &[Asked],
        catalog: &Catalog,
    ) -> Result<Vec<Part>, Fault> {
        let shards: Vec<ShardId> = asked.iter().map(|(shard, _)| *shard).collect();
        let writes = call.statement.effect == Effect::Writes;
        if writes && shards.len() > 1 && self.transaction == Transaction::Idle {
            self.check_commit(&shards)?;
        }
        let own = match writes {
            true => self.begin_own(call.telling),
            false => super::Own::No,
        };
        let mut links = match self.enlist_for(call, &shards).await {
            Ok(links) => links,
            Err(fault) => return self.end_own(own, Err(fault)).await.map(|()| Vec::new()),
        };
        let mut plans = Plans(vec![Vec::new(); links.len()]);
        let question = |text| Question {
            text,
            types: &description.types,
            parameters: call.raw_parameters,
            formats: &[],
        };
        let mut done = Ok(());
        if writes {
            for (link, (_, text)) in links.iter_mut().zip(asked) {
                let mut plan = Plans(vec![Vec::new()]);
                let one = std::slice::from_mut(link);
                done = self.converse(one, &[question(text)], &mut plan).await;
                if done.is_err() {
                    break;
                }
                let place = shards.iter().position(|shard| *shard == one[0].shard());
                plans.0[place.unwrap_or_default()] = plan.0.swap_remove(0);
            }
        } else {
            let questions: Vec<Question<'_>> =
                asked.iter().map(|(_, text)| question(text)).collect();
            done = self.converse(&mut links, &questions, &mut plans).await;
        }
        let done = self.finish(links, done).await;
        self.end_own(own, done).await?;
        let named = shards.iter().zip(plans.0);
        Ok(named
            .map(|(shard, plan)| Part::of_shard(catalog, *shard, plan))
            .collect())
    }

    /// The plans of queries that bring rows, which are not run by this.
    async fn explain_queries(
        &mut self,
        explained: &Explained,
        asked: Vec<Asked>,
        call: &Call<'_>,
        description: &Description,
    ) -> Result<Vec<Part>, Fault> {
        let catalog = Arc::clone(&self.database.catalog());
        let mut parts = Vec::new();
        for (shard, query) in asked {
            let text = [explained.options.planning.as_bytes(), &query].concat();
            let mut links = self.enlist(&[shard]).await?;
            let mut plans = Plans(vec![Vec::new()]);
            let question = Question {
                text: &text,
                // Those that this query has not are declared all the same.
                types: &description.types,
                parameters: call.raw_parameters,
                formats: &[],
            };
            let done = self.converse(&mut links, &[question], &mut plans).await;
            self.finish(links, done).await?;
            parts.push(Part::of_shard(&catalog, shard, plans.0.swap_remove(0)));
        }
        Ok(parts)
    }

    async fn explain_gather(
        &mut self,
        call: &Call<'_>,
        explained: &Explained,
        gather: &Gather,
        description: &Description,
        report: &mut Report,
    ) -> Result<(), Fault> {
        let catalog = &Arc::clone(&self.database.catalog());
        let asked = self.fetched(call, gather, catalog);
        report.parts = self
            .explain_queries(explained, asked, call, description)
            .await?;
        let returned = RefCell::new(Returned {
            room: MOST_KEPT,
            ..Returned::default()
        });
        let to_plan = Call {
            returned: Some(&returned),
            ..*call
        };
        let prefix = prefix(call, explained);
        let outlet = Outlet::Plan(&prefix, explained.options.runs);
        self.gather_to(&to_plan, gather, outlet).await?;
        let Returned { rows, steps, .. } = returned.into_inner();
        report.steps = steps;
        report.parts.push(Part {
            title: format!("Gathered on {}", catalog.shards[gather.shard.index()]),
            plan: values(&rows.unwrap_or_default()),
        });
        Ok(())
    }

    /// What brings the rows that the statement needs; with ANALYZE it is done.
    async fn explain_brought(
        &mut self,
        call: &Call<'_>,
        explained: &Explained,
        gather: &Gather,
        description: &Description,
        report: &mut Report,
    ) -> Result<(), Fault> {
        let catalog = &Arc::clone(&self.database.catalog());
        let asked = self.fetched(call, gather, catalog);
        report.parts = self
            .explain_queries(explained, asked, call, description)
            .await?;
        self.check_options(call, explained).await?;
        self.run_explained(call, explained, report).await
    }

    async fn explain_move(
        &mut self,
        call: &Call<'_>,
        explained: &Explained,
        moved: &Move,
        description: &Description,
        report: &mut Report,
    ) -> Result<(), Fault> {
        let catalog = &Arc::clone(&self.database.catalog());
        let course = moved.course(catalog, &call.values(), || call.over(catalog));
        let asked = match (course.map_err(Fault::Refused)?, &moved.way) {
            (Course::Move { from, .. }, Ok(way)) => {
                let delete = way.delete(call.text, call.literals);
                from.into_iter()
                    .map(|shard| (shard, delete.clone()))
                    .collect()
            }
            (Course::Stay(shard), _) => {
                let start = from_normal(explained.query, call.literals);
                let end = from_normal(call.statement.range.end, call.literals);
                vec![(shard, call.text[start..end].to_vec())]
            }
            (Course::Move { .. }, Err(refusal)) => return Err(Fault::Refused(refusal.clone())),
        };
        report.parts = self
            .explain_queries(explained, asked, call, description)
            .await?;
        self.check_options(call, explained).await?;
        self.run_explained(call, explained, report).await
    }

    fn fetched(&self, call: &Call<'_>, gather: &Gather, catalog: &Arc<Catalog>) -> Vec<Asked> {
        let config = Arc::clone(&self.worker.shared.snapshot().config);
        Gathering::new(call, gather, catalog, &config.gather).queries()
    }

    /// What a server has against the options.
    async fn check_options(&mut self, call: &Call<'_>, explained: &Explained) -> Result<(), Fault> {
        let mut text = prefix(call, explained);
        text.extend_from_slice(b"SELECT 1");
        let home = self.database.catalog().home;
        let mut links = self.enlist(&[home]).await?;
        let mut plans = Plans(vec![Vec::new()]);
        let question = Question {
            text: &text,
            types: &[],
            parameters: NO_PARAMETERS,
            formats: &[],
        };
        let done = self.converse(&mut links, &[question], &mut plans).await;
        self.finish(links, done).await
    }

    /// With ANALYZE the statement is done as it is without EXPLAIN; its rows are nobody's.
    async fn run_explained(
        &mut self,
        call: &Call<'_>,
        explained: &Explained,
        report: &mut Report,
    ) -> Result<(), Fault> {
        if explained.options.runs == Runs::No {
            return Ok(());
        }
        let statement = PlannedStatement {
            range: explained.query..call.statement.range.end,
            class: Class::Data,
            spread: None,
            ..call.statement.clone()
        };
        let returned = RefCell::new(Returned {
            room: MOST_KEPT,
            ..Returned::default()
        });
        let inner = Call {
            statement: &statement,
            spread: &explained.spread,
            telling: Telling::Rows,
            returned: Some(&returned),
            ..*call
        };
        let began = Instant::now();
        let is_first = self.is_first_in_transaction();
        let own = self.begin_own(call.telling);
        let kept = match &*explained.spread {
            Spread::Write(Write {
                feed: Some(feed), ..
            }) if is_first => self.keep_snapshots(&inner, feed).await,
            _ => Ok(()),
        };
        // A statement that is explained explains none.
        let done = match kept {
            Ok(()) => Box::pin(self.spread(&inner)).await,
            Err(fault) => Err(fault),
        };
        self.end_own(own, done).await?;
        let Returned { tag, steps, .. } = returned.into_inner();
        report.steps = steps;
        let (what, rows) = tag.rsplit_once(' ').unwrap_or((&tag, "0"));
        report.steps.push(Step {
            what: what.trim_end_matches(" 0").to_ascii_lowercase(),
            rows: rows.parse().unwrap_or_default(),
            bytes: 0,
            time: began.elapsed(),
        });
        Ok(())
    }
}

/// EXPLAIN and its options as the client wrote them.
fn owned(lines: &[Box<str>]) -> Vec<String> {
    lines.iter().map(ToString::to_string).collect()
}

/// What is before the explained statement.
fn prefix(call: &Call<'_>, explained: &Explained) -> Vec<u8> {
    let start = from_normal(call.statement.range.start, call.literals);
    let end = from_normal(explained.query, call.literals);
    call.text[start..end].to_vec()
}

/// The values of DataRow messages with one column each.
fn values(rows: &[u8]) -> Vec<String> {
    let mut values = Vec::new();
    let mut rest = rows;
    while let [_, a, b, c, d, ..] = rest {
        let length = 1 + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some((row, next)) = rest.split_at_checked(length) else {
            break;
        };
        values.extend(only_value(&row[5..]));
        rest = next;
    }
    values
}
