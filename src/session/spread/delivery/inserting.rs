//! Rows that were gathered are stored by an INSERT on each of their shards: with ON CONFLICT, with RETURNING, or where row security is.
//!
//! They wait in memory meanwhile, up to a limit. `plan/spread/delivery/inserting.rs` has the text, `execution/row_array.rs` the parameter.

use std::cell::RefCell;

use super::refused;
use crate::execution::branch::{self, Audience, Branch, Failure};
use crate::execution::copy::{Locate, Splitter};
use crate::execution::row_array::{self, RowType, Rows, Unfit};
use crate::plan::spread::delivery::{Delivery, Load, LoadInsert};
use crate::session::Session;
use crate::session::link::Link;
use crate::session::spread::Call;
use crate::session::spread::changes::{Answer, Fed, MOST_KEPT, Texts};
use crate::session::spread::gather::of_gatherer;
use crate::sharding::KeyValue;

/// COPY's data, by the shards of the rows.
struct Sorted<'a> {
    splitter: Splitter,
    locate: &'a Locate<'a>,
    /// Bytes that may still come.
    left: usize,
}

impl Audience for Sorted<'_> {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], _: &mut Vec<u8>) -> Result<(), Failure> {
        if tag != b'd' {
            return Ok(());
        }
        let rest = self.left.checked_sub(body.len());
        self.left = rest.ok_or_else(|| Failure::Ours {
            sqlstate: "54000",
            message: format!(
                "the rows that INSERT ... SELECT brings to other shards take more than {} MB",
                MOST_KEPT >> 20
            ),
            hint: Some("Insert fewer rows in a statement, or leave ON CONFLICT and RETURNING out."),
        })?;
        self.splitter.feed(body, self.locate)
    }
}

impl Session {
    /// The tag for the client.
    pub(super) async fn insert_into(
        &mut self,
        call: &Call<'_>,
        delivery: &Delivery,
        load: &Load,
        insert: &LoadInsert,
        from: &mut Link,
        to: &mut [&mut Link],
    ) -> Result<String, Failure> {
        let shards: Vec<_> = to.iter().map(|link| link.shard()).collect();
        let mut row_types = Vec::with_capacity(to.len());
        let question = row_array::question(&insert.table, &insert.columns);
        for link in to.iter_mut() {
            let said = link.ask(&question, &self.worker).await.unwrap_or_default();
            let read = RowType::read(&said, insert.columns.len());
            row_types.push(read.map_err(|unfit| refused(delivery, why(unfit)))?);
        }
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let mut order = RefCell::new(Vec::new());
        let find = super::locator(delivery, &catalog, &shards);
        let locate = |key: &[KeyValue]| {
            let place = find(key)?;
            order.borrow_mut().push(place);
            Ok(place)
        };
        let mut sorted = Sorted {
            splitter: super::splitter(delivery, load, &catalog, to.len()),
            locate: &locate,
            left: MOST_KEPT,
        };
        let mut source = Branch::new(from.server());
        source.query(&load.copy_out);
        let one = std::slice::from_mut(&mut source);
        let (client, scratch) = (&mut self.client, &self.worker.scratch);
        branch::attend(client, one, scratch, &mut sorted)
            .await
            .map_err(of_gatherer)?;
        sorted.splitter.finish(&locate)?;
        let outputs = std::mem::take(&mut sorted.splitter.outputs);
        drop(sorted);
        for data in &outputs {
            let rows = Rows::read(data).ok_or_else(|| refused(delivery, why(Unfit::Changed)))?;
            if delivery.is_for_one() {
                order.get_mut().resize(rows.len(), 0);
            }
        }
        let feed = |place: usize, _, parameter| {
            let rows = Rows::read(&outputs[place])?;
            Some(Fed {
                text: delivery.insert(insert, parameter, call.text, call.literals)?,
                values: vec![row_types[place].array(&[rows])],
            })
        };
        let texts = Texts::Fed(&feed);
        self.change_on(call, to, texts, &Answer::InOrder(order.into_inner()))
            .await
    }
}

fn why(unfit: Unfit) -> &'static str {
    unfit.why("a column that gets its default has a domain")
}
