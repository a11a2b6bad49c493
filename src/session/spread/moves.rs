//! Rows that get another shard key: deleted where they are, inserted where they belong. `plan/spread/moves.rs` says why that is the same.
//!
//! All deletes are done before the first insert, and everything is one transaction. The rows are kept in memory meanwhile, up to a limit.

use std::sync::Arc;

use super::changes::{Answer, FIRST_OWN_OID, MOST_KEPT, Texts};
use super::copy::Tally;
use super::{Call, Telling};
use crate::backend::pipeline::Committed;
use crate::execution::branch::{self, Audience, Failure, Question};
use crate::execution::columns;
use crate::plan::Effect;
use crate::plan::spread::gather::travels_in_binary;
use crate::plan::spread::moves::{Course, Move, Way};
use crate::session::Session;
use crate::session::link::Link;
use crate::session::respond::Fault;
use crate::session::transaction::Transaction;
use crate::sharding::ShardId;

/// `text`: what a string literal is when nothing says what it is for.
const TEXT: u32 = 25;

/// Types that take a text as it is: itself, varchar, bpchar, name.
const STRINGS: [u32; 4] = [TEXT, 1043, 1042, 19];

/// Rows as they become: bodies of DataRow, which are also what Bind has of values.
struct Leaving {
    rows: Vec<Vec<u8>>,
    /// Bytes that may still come.
    left: usize,
}

impl Audience for Leaving {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], _: &mut Vec<u8>) -> Result<(), Failure> {
        if tag == b'D' {
            self.left = self
                .left
                .checked_sub(body.len())
                .ok_or_else(|| Failure::Ours {
                    sqlstate: "54000",
                    message: format!(
                        "the rows that get another shard key take more than {} MB",
                        MOST_KEPT >> 20
                    ),
                    hint: Some("Change the key of fewer rows in a statement."),
                })?;
            self.rows.push(body.to_vec());
        }
        Ok(())
    }
}

/// Rows that are stored; what RETURNING says of them is the client's.
#[derive(Default)]
struct Arriving {
    tally: Tally,
    /// DataRow messages, when the client takes them in portions.
    kept: Option<Vec<u8>>,
}

impl Audience for Arriving {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        match tag {
            b'D' => branch::pass_on(tag, body, self.kept.as_mut().unwrap_or(out)),
            b'C' => self.tally.add(body),
            _ => {}
        }
        Ok(())
    }
}

/// How the columns of a row travel: as the types that the INSERT is told, in these formats.
struct Travel {
    types: Vec<u32>,
    formats: Vec<u16>,
}

impl Session {
    pub(super) async fn do_move(&mut self, call: &Call<'_>, moved: &Move) -> Result<(), Fault> {
        let catalog = Arc::clone(&self.database.catalog());
        let course = moved
            .course(&catalog, &call.values(), || call.over(&catalog))
            .map_err(Fault::Refused)?;
        let (from, to) = match course {
            Course::Stay(shard) => {
                return self.change(call, &[shard], Texts::Same, Answer::All).await;
            }
            Course::Move { from, to } => (from, to),
        };
        let way = moved
            .way
            .as_ref()
            .map_err(|refusal| Fault::Refused(refusal.clone()))?;
        let mut shards = from.clone();
        shards.push(to);
        shards.sort_unstable();
        shards.dedup();
        let writes = call.statement.effect == Effect::Writes;
        if writes && shards.len() > 1 && self.transaction == Transaction::Idle {
            self.check_commit(&shards)?;
        }
        let own = self.begin_own(call.telling);
        let mut links = match self.enlist_for(call, &shards).await {
            Ok(links) => links,
            Err(fault) => return self.end_own(own, Err(fault)).await,
        };
        let outcome = self.move_on(call, way, &mut links, &from, to).await;
        let (done, rows) = match outcome {
            Ok(rows) => (Ok(()), rows),
            Err(failure) => (Err(failure), 0),
        };
        let done = self.finish(links, done).await;
        if done.is_ok() {
            self.statement_done(&call.statement.class, Committed::No);
        }
        self.end_own(own, done).await?;
        self.tell_changed(call, format!("UPDATE {rows}"));
        Ok(())
    }

    /// How many rows have moved.
    async fn move_on(
        &mut self,
        call: &Call<'_>,
        way: &Way,
        links: &mut [Link],
        from: &[ShardId],
        to: ShardId,
    ) -> Result<u64, Failure> {
        let place = |shard: ShardId| links.iter().position(|link| link.shard() == shard);
        let sources: Vec<usize> = from.iter().filter_map(|shard| place(*shard)).collect();
        let target = place(to).unwrap_or_default();
        // What is wrong with the statement is said in its own words.
        let description = self
            .describe_on(&mut links[target], call.own_text(), call.types)
            .await?;
        let delete = way.delete(call.text, call.literals);
        let insert = way.insert(call.text, call.literals);
        let travel = self
            .travel(&mut links[target], &delete, &description.types, &insert)
            .await?;
        if call.telling == Telling::Description && description.columns.is_some() {
            self.tell_columns(&description, call.formats);
        }
        let mut leaving = Leaving {
            rows: Vec::new(),
            left: MOST_KEPT,
        };
        for source in sources {
            let link = &mut links[source];
            let types = self.types_on(call, link, &description).await?;
            let catalog = Arc::clone(&self.database.catalog());
            let own = way.delete_own(&catalog, link.shard(), call.text, call.literals);
            let question = Question {
                text: &own,
                types: &types,
                parameters: call.raw_parameters,
                formats: &travel.formats,
            };
            self.converse(std::slice::from_mut(link), &[question], &mut leaving)
                .await?;
        }
        let mut arriving = Arriving {
            kept: call.returned.map(|_| Vec::new()),
            ..Arriving::default()
        };
        if !leaving.rows.is_empty() {
            let question = Question {
                text: &insert,
                types: &travel.types,
                parameters: &travel.encoded_formats(),
                formats: call.formats,
            };
            self.converse_each(&mut links[target], &question, &leaving.rows, &mut arriving)
                .await?;
        }
        let (left, arrived) = (leaving.rows.len() as u64, arriving.tally.rows);
        if left != arrived {
            return Err(Failure::Ours {
                sqlstate: "XX000",
                message: format!(
                    "{left} rows were to get another shard key, {arrived} have arrived"
                ),
                hint: None,
            });
        }
        if let Some(returned) = call.returned
            && description.columns.is_some()
        {
            returned.borrow_mut().rows = arriving.kept;
        }
        Ok(arrived)
    }

    /// Asks the shard that gets the rows. The INSERT is told the types that the rows have, so that it converts them as UPDATE would have.
    async fn travel(
        &mut self,
        link: &mut Link,
        delete: &[u8],
        types: &[u32],
        insert: &[u8],
    ) -> Result<Travel, Failure> {
        let leaving = self.describe_on(link, delete, types).await?;
        let stored = self.describe_on(link, insert, &[]).await?.types;
        let columns = leaving.columns.as_deref().map(columns::decode);
        let columns = match columns {
            Some(Ok(columns)) if columns.len() == stored.len() => columns,
            _ => return Err(unlike("the rows do not fit the table")),
        };
        let mut travel = Travel {
            types: Vec::with_capacity(columns.len()),
            formats: Vec::with_capacity(columns.len()),
        };
        for (column, stored) in columns.iter().zip(stored) {
            let given = column.type_oid;
            let (told, in_binary) = if given == TEXT && !STRINGS.contains(&stored) {
                // A literal, which the column's type reads.
                (0, false)
            } else if given == stored && given >= FIRST_OWN_OID {
                (0, false)
            } else if given >= FIRST_OWN_OID {
                let name = String::from_utf8_lossy(&column.name);
                return Err(unlike(&format!(
                    "column \"{name}\" gets a value of another type"
                )));
            } else {
                (given, travels_in_binary(given))
            };
            travel.types.push(told);
            travel.formats.push(u16::from(in_binary));
        }
        if travel.formats.contains(&0) && self.rounds_in_text() {
            return Err(unlike("extra_float_digits would round numbers in them"));
        }
        Ok(travel)
    }
}

impl Travel {
    /// As Bind has them in front of the values.
    fn encoded_formats(&self) -> Vec<u8> {
        let count = u16::try_from(self.formats.len()).unwrap_or(u16::MAX);
        let formats = [count].into_iter().chain(self.formats.iter().copied());
        formats.flat_map(u16::to_be_bytes).collect()
    }
}

fn unlike(why: &str) -> Failure {
    Failure::Ours {
        sqlstate: "0A000",
        message: format!("rows cannot move to another shard: {why}"),
        hint: Some("Insert the rows with their new key and delete the old ones."),
    }
}
