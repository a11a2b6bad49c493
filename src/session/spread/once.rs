//! Rows of a reference table that one shard computes and stores, and all others store as they are. `plan/spread/once.rs` has the texts.

use super::changes::MOST_KEPT;
use super::{Call, NO_PARAMETERS, Telling, all_shards, format_of};
use crate::execution::branch::{Audience, Failure, Question};
use crate::execution::columns;
use crate::execution::row_array::{Rows, Unfit, with_parameter};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::once::Once;
use crate::session::Session;
use crate::session::link::Link;
use crate::session::respond::Fault;
use crate::session::spread::copy::Tally;

/// Bodies of DataRow, where rows are returned, and how many were stored.
struct Stored {
    rows: Vec<Vec<u8>>,
    /// Bytes that may still come.
    left: usize,
    tally: Tally,
}

impl Stored {
    fn new() -> Stored {
        Stored {
            rows: Vec::new(),
            left: MOST_KEPT,
            tally: Tally::default(),
        }
    }
}

impl Audience for Stored {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], _: &mut Vec<u8>) -> Result<(), Failure> {
        if tag == b'C' {
            self.tally.add(body);
        }
        if tag == b'D' {
            let rest = self.left.checked_sub(body.len());
            self.left = rest.ok_or_else(|| Failure::Ours {
                sqlstate: "54000",
                message: format!(
                    "the rows that are stored on every shard as they are take more than {} MB",
                    MOST_KEPT >> 20
                ),
                hint: Some("Insert fewer rows in a statement."),
            })?;
            self.rows.push(body.to_vec());
        }
        Ok(())
    }
}

impl Session {
    pub(super) async fn do_once(&mut self, call: &Call<'_>, once: &Once) -> Result<(), Fault> {
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let shards = all_shards(&catalog);
        let (own, mut links) = self.begin_change(call, &shards, &shards).await?;
        let home = catalog.home.index();
        let outcome = self.store_once(call, once, &mut links, home).await;
        self.end_change(call, own, links, outcome).await
    }

    /// The tag for the client.
    async fn store_once(
        &mut self,
        call: &Call<'_>,
        once: &Once,
        links: &mut [Link],
        home: usize,
    ) -> Result<String, Failure> {
        let own = call.own_text();
        let description = self.describe_on(&mut links[home], own, call.types).await?;
        let shown = description.columns.as_deref().map(columns::decode);
        let shown = match shown {
            Some(Ok(columns)) => columns.len(),
            _ => 0,
        };
        if call.telling == Telling::Description && description.columns.is_some() {
            self.tell_columns(&description, call.formats);
        }
        let stored_formats = once.columns.iter().map(|_| 1);
        let formats: Vec<u16> = (0..shown)
            .map(|place| format_of(call.formats, place))
            .chain(stored_formats)
            .collect();
        let question = Question {
            text: &once.storing(own),
            types: &description.types,
            parameters: call.raw_parameters,
            formats: &formats,
        };
        let mut stored = Stored::new();
        let one = std::slice::from_mut(&mut links[home]);
        let asked = self.converse(one, &[question], &mut stored).await;
        asked.map_err(|failure| failure.at(home))?;
        let unread = || refused(once, Unfit::Changed);
        let (seen, rows) = Rows::behind(&stored.rows, shown).ok_or_else(unread)?;
        let count = rows.len();
        if stored.tally.rows != count as u64 {
            return Err(differs(count, stored.tally.rows));
        }
        let text = once.repeating();
        for (place, link) in links.iter_mut().enumerate() {
            if place == home || count == 0 {
                continue;
            }
            let row_type = self.row_type_on(link, &once.table, &once.columns).await;
            let row_type = row_type.map_err(|failure| failure.at(place))?;
            let row_type = row_type.map_err(|unfit| refused(once, unfit))?;
            let array = row_type.array(std::slice::from_ref(&rows));
            let question = Question {
                text: text.as_bytes(),
                types: &[],
                parameters: &with_parameter(NO_PARAMETERS, &array).ok_or_else(unread)?,
                formats: &[],
            };
            let mut repeated = Stored::new();
            let one = std::slice::from_mut(link);
            let asked = self.converse(one, &[question], &mut repeated).await;
            asked.map_err(|failure| failure.at(place))?;
            if repeated.tally.rows != count as u64 {
                return Err(differs(count, repeated.tally.rows));
            }
        }
        if description.columns.is_some() {
            let mut returned = call.returned.map(std::cell::RefCell::borrow_mut);
            let out = match &mut returned {
                Some(returned) => returned.rows.insert(Vec::new()),
                None => &mut self.client.outbox,
            };
            for row in seen {
                crate::execution::branch::pass_on(b'D', &row, out);
            }
        }
        Ok(format!("INSERT 0 {count}"))
    }
}

fn differs(returned: usize, stored: u64) -> Failure {
    Failure::Ours {
        sqlstate: "XX001",
        message: format!("{returned} rows were returned and {stored} were stored"),
        hint: Some(
            "Copies of the reference table differ, or something else changes what is inserted.",
        ),
    }
}

fn refused(once: &Once, unfit: Unfit) -> Failure {
    let why = unfit.why("a column that is computed has a domain");
    let message = format!("rows of {} cannot be computed once: {why}", once.table);
    Failure::Refused(Refusal::new(Reason::VolatileReferenceWrite, message))
}
