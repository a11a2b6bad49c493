//! EXPLAIN of a statement that several shards do: what Trunkline does, and the plan of each shard that is asked.

use super::{Call, Telling};
use crate::execution::branch::{Audience, Failure, Question};
use crate::plan::Spread;
use crate::plan::spread::edit::Edit;
use crate::plan::spread::explained::Explained;
use crate::plan::spread::own_rows::OwnRows;
use crate::session::Session;
use crate::session::respond::Fault;
use crate::wire::answer;

/// The lines that each shard answers.
struct Plans(Vec<Vec<String>>);

impl Audience for Plans {
    fn hear(
        &mut self,
        branch: usize,
        tag: u8,
        body: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        // One column of text: its number, its length, its bytes.
        if tag == b'D'
            && let Some(line) = body.get(6..)
        {
            self.0[branch].push(String::from_utf8_lossy(line).into_owned());
        }
        Ok(())
    }
}

impl Session {
    pub(super) async fn explain(
        &mut self,
        call: &Call<'_>,
        explained: &Explained,
    ) -> Result<(), Fault> {
        let mut lines: Vec<String> = vec!["Trunkline".to_owned()];
        lines.extend(explained.lines.iter().map(|line| format!("  {line}")));
        let asked: Option<(&[Edit], _)> = match &*explained.spread {
            Spread::Scatter { scatter, .. } => Some((&scatter.edits, scatter.own.as_ref())),
            Spread::Write(write) => Some((&[], write.own.as_ref())),
            _ => None,
        };
        if let Some((edits, own)) = asked {
            self.explain_on_shards(call, edits, own, &mut lines).await?;
        }
        let out = &mut self.client.outbox;
        if call.telling == Telling::Description {
            answer::row_description(out, &["QUERY PLAN"]);
        }
        for line in &lines {
            answer::data_row(out, &[Some(line)]);
        }
        self.tell_tag("EXPLAIN");
        Ok(())
    }

    async fn explain_on_shards(
        &mut self,
        call: &Call<'_>,
        edits: &[Edit],
        own: Option<&OwnRows>,
        lines: &mut Vec<String>,
    ) -> Result<(), Fault> {
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let shards = call.shards(&catalog).map_err(Fault::Refused)?;
        let mut links = self.enlist_for(call, &shards).await?;
        let texts = links.iter();
        let texts = texts.map(|link| call.text_on(link.shard(), &catalog, edits, own));
        let texts: Vec<Vec<u8>> = texts.collect();
        let questions = texts.iter().map(|text| Question {
            text,
            types: call.types,
            parameters: call.raw_parameters,
            formats: &[],
        });
        let questions: Vec<Question<'_>> = questions.collect();
        let mut plans = Plans(vec![Vec::new(); links.len()]);
        let done = self.converse(&mut links, &questions, &mut plans).await;
        self.finish(links, done).await?;
        for (shard, plan) in shards.iter().zip(plans.0) {
            lines.push(format!("Shard {}", catalog.shards[shard.index()]));
            lines.extend(plan.into_iter().map(|line| format!("  {line}")));
        }
        Ok(())
    }
}
