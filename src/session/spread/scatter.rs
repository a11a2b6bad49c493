//! A query whose shards' answers add up: all are asked at once, and their rows are merged as they come.

use std::cell::RefCell;

use super::cursor::{Cursor, Shown};
use super::{Call, Description, Returned, Telling, needed, with_formats, without_moved_position};
use crate::execution::branch::{self, Audience, Failure, Question};
use crate::execution::columns::{self, Column};
use crate::execution::merge::{MergeError, Merger};
use crate::plan::Refusal;
use crate::plan::spread::counts::Counts;
use crate::plan::spread::{Gather, Scatter};
use crate::session::Session;
use crate::session::link::Link;
use crate::session::reads::Seeks;
use crate::session::respond::Fault;
use crate::session::transaction::Transaction;
use crate::sharding::ShardId;

impl From<MergeError> for Failure {
    fn from(error: MergeError) -> Failure {
        let hint = error.hint();
        Failure::Ours {
            sqlstate: error.sqlstate(),
            message: error.to_string(),
            hint: (!hint.is_empty()).then_some(hint),
        }
    }
}

fn columns_of(description: &Description) -> Result<Vec<Column>, Failure> {
    let described = description.columns.as_deref().unwrap_or(&[0, 0]);
    columns::decode(described).map_err(|error| Failure::Ours {
        sqlstate: "08P01",
        message: error.to_string(),
        hint: None,
    })
}

/// Hears the shards' rows.
struct Rows<'a> {
    merger: &'a mut Merger,
    /// Shards that have no more rows.
    ended: Vec<bool>,
    /// Where rows go that are not the client's at once.
    kept: Option<&'a RefCell<Returned>>,
}

impl Rows<'_> {
    fn take(
        &mut self,
        branch: usize,
        tag: u8,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match tag {
            b'D' => self.merger.row(branch, body, out)?,
            b'C' => {
                self.ended[branch] = true;
                self.merger.ended(branch, out)?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Audience for Rows<'_> {
    fn wants(&self, branch: usize) -> bool {
        self.ended[branch] || self.merger.wants(branch)
    }

    fn hear(
        &mut self,
        branch: usize,
        tag: u8,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match self.kept {
            None => self.take(branch, tag, body, out),
            Some(kept) => {
                let mut kept = kept.borrow_mut();
                kept.keep(|out| self.take(branch, tag, body, out))
            }
        }
    }

    fn is_satisfied(&self) -> bool {
        self.merger.is_satisfied()
    }
}

/// A scatter whose shards have been found to fit, before they are asked.
pub(super) struct Prepared {
    pub links: Vec<Link>,
    /// What each connection's shard is asked.
    pub texts: Vec<Vec<u8>>,
    pub description: Description,
    pub columns: Vec<Column>,
    pub merger: Merger,
    /// How many characters of the text are the client's, from the start; `None`: all of them.
    pub same: Option<usize>,
}

impl Session {
    pub(super) async fn scatter(
        &mut self,
        call: &Call<'_>,
        scatter: &Scatter,
        otherwise: &Result<Box<Gather>, Refusal>,
    ) -> Result<(), Fault> {
        // Elsewhere the locks end with the statement.
        if scatter.locks && self.transaction != Transaction::Idle && call.returned.is_none() {
            return match self.open_scatter(call, scatter).await? {
                Some(cursor) => self.lock_in_turn(call, cursor).await,
                None => self.scatter_otherwise(call, otherwise).await,
            };
        }
        let Some(prepared) = self.prepare_scatter(call, scatter).await? else {
            return self.scatter_otherwise(call, otherwise).await;
        };
        let Prepared {
            mut links,
            texts,
            description,
            columns,
            mut merger,
            same,
        } = prepared;
        if call.telling == Telling::Description || call.returned.is_some() {
            let mut body = Vec::new();
            columns::encode(&columns[..merger.visible()], &mut body);
            match call.returned {
                None => branch::pass_on(b'T', &body, &mut self.client.outbox),
                Some(returned) => {
                    let columns = with_formats(&body, call.formats);
                    returned.borrow_mut().begin(columns);
                }
            }
        }
        let formats = merger.formats();
        let questions = texts.iter().map(|text| Question {
            text,
            types: &description.types,
            parameters: call.raw_parameters,
            formats: &formats,
        });
        let questions: Vec<Question<'_>> = questions.collect();
        let mut rows = Rows {
            ended: vec![false; links.len()],
            merger: &mut merger,
            kept: call.returned,
        };
        let done = self.converse(&mut links, &questions, &mut rows).await;
        let done = done.map_err(|failure| without_moved_position(failure, same));
        self.finish(links, done).await?;
        self.tell_changed(call, format!("SELECT {}", merger.rows()));
        Ok(())
    }

    async fn scatter_otherwise(
        &mut self,
        call: &Call<'_>,
        otherwise: &Result<Box<Gather>, Refusal>,
    ) -> Result<(), Fault> {
        match otherwise {
            Ok(gather) => self.gather(call, gather).await,
            Err(refusal) => Err(Fault::Refused(refusal.clone())),
        }
    }

    /// Gives all rows, asking shard after shard for them.
    async fn lock_in_turn(&mut self, call: &Call<'_>, mut cursor: Cursor) -> Result<(), Fault> {
        if call.telling == Telling::Description {
            branch::pass_on(b'T', cursor.columns(), &mut self.client.outbox);
        }
        let rows = self.give_portion(&mut cursor, None, Shown::Yes).await?;
        self.close_cursor(&cursor).await?;
        self.tell_changed(call, format!("SELECT {rows}"));
        Ok(())
    }

    /// Everything up to the question; `None`: the types of the columns do not allow to merge exactly, and the connections are gone.
    pub(super) async fn prepare_scatter(
        &mut self,
        call: &Call<'_>,
        scatter: &Scatter,
    ) -> Result<Option<Prepared>, Fault> {
        let counts = scatter
            .counts(&call.values())
            .map_err(|error| Fault::Postgres {
                sqlstate: error.sqlstate(),
                message: error.to_string(),
            })?;
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let shards = call.shards(&catalog).map_err(Fault::Refused)?;
        let own = needed(scatter.own.as_ref(), &catalog, &shards);
        if own.is_some() {
            // Whose rows they are is known of primaries.
            self.reads.seeks = Seeks::Primary;
        }
        let mut links = self.enlist_for(call, &shards).await?;
        let texts = self.scatter_texts(call, scatter, &links);
        let (Some(first), Some(text)) = (links.first_mut(), texts.first()) else {
            return Err(Fault::Told);
        };
        let same = call.unedited(&scatter.edits, own);
        let description = match self.describe_on(first, text, call.types).await {
            Ok(description) => description,
            Err(failure) => {
                let mut failure = without_moved_position(failure, same);
                // Said of the client's own text, an error points to the right place.
                if self.transaction != Transaction::Open
                    && let Err(own) = self.describe_on(first, call.own_text(), call.types).await
                {
                    failure = own;
                }
                self.finish(links, Err(failure)).await?;
                return Err(Fault::Told);
            }
        };
        let columns = match columns_of(&description) {
            Ok(columns) => columns,
            Err(failure) => {
                self.finish(links, Err(failure)).await?;
                return Err(Fault::Told);
            }
        };
        match Merger::new(scatter, &columns, call.formats, counts, links.len()) {
            Ok(merger) => Ok(Some(Prepared {
                links,
                texts,
                description,
                columns,
                merger,
                same,
            })),
            Err(unsuitable) => {
                self.finish(links, Ok(())).await?;
                tracing::debug!(why = unsuitable.0, "rows are gathered instead of merged");
                Ok(None)
            }
        }
    }

    /// Whether the types of the columns that a shard gives for this text allow to merge exactly.
    pub(super) async fn merges(
        &mut self,
        call: &Call<'_>,
        scatter: &Scatter,
        shard: ShardId,
        text: &[u8],
    ) -> Result<bool, Fault> {
        let mut links = self.enlist(&[shard]).await?;
        let described = self.describe_on(&mut links[0], text, call.types).await;
        let fits = described
            .and_then(|description| columns_of(&description))
            .map(|columns| Merger::new(scatter, &columns, &[], Counts::ALL, 1).is_ok());
        match fits {
            Ok(fits) => {
                self.finish(links, Ok(())).await?;
                Ok(fits)
            }
            Err(failure) => {
                self.finish(links, Err(failure)).await?;
                Err(Fault::Told)
            }
        }
    }

    /// What each connection's shard is asked now.
    fn scatter_texts(&self, call: &Call<'_>, scatter: &Scatter, links: &[Link]) -> Vec<Vec<u8>> {
        let catalog = self.database.catalog();
        let (edits, own) = (&scatter.edits, scatter.own.as_ref());
        let each = links.iter();
        each.map(|link| call.text_on(link.shard(), &catalog, edits, own))
            .collect()
    }
}
