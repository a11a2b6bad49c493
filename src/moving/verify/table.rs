//! One table from its first key to the last: chunk by chunk, and then what is left of the suspects.

use std::time::Duration;

use futures_util::future::try_join;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::moving::progress::Tally;
use crate::moving::shards::Shards;
use crate::resharding::job::Route;

use super::suspects::{Judged, Pair, Wrong};
use super::text::{Key, Span};
use super::{Compared, MOST_SAMPLES, Run, VerifyError};

/// So many suspects are judged together: one wait for what is on its way, not one for each chunk.
const TOGETHER: usize = 2000;

/// The next chunk is smaller when one takes longer than this, and larger when it takes less than that.
const SLOW: Duration = Duration::from_secs(2);
const FAST: Duration = Duration::from_millis(500);

/// The comparison of one table.
pub(super) struct Comparison<'a> {
    pub(super) pair: Pair<'a>,
    pub(super) shards: &'a Shards,
    /// `schema.name`, quoted.
    pub(super) table: &'a str,
    /// The columns of its key, for people.
    pub(super) key_names: String,
    pub(super) stream: &'a Route,
    pub(super) tally: &'a Tally,
    pub(super) run: watch::Receiver<Run>,
    pub(super) suspects: Vec<Key>,
    pub(super) compared: Compared,
}

impl Comparison<'_> {
    pub(super) async fn run(mut self) -> Result<Compared, VerifyError> {
        let most = u64::from(self.pair.limits.chunk_rows.max(1));
        let mut rows = most;
        let mut after = None;
        loop {
            self.going().await;
            let begun = Instant::now();
            let mut span = Span { after, upto: None };
            // The owner says where chunks end; behind the last one there is no end, so rows that only the other has are seen.
            span.upto = self.pair.owner.bound(&span, rows).await?;
            let upto = span.upto.clone();
            self.compare(span).await?;
            if self.suspects.len() >= TOGETHER {
                self.judge_some().await?;
            }
            match begun.elapsed() {
                long if long > SLOW => rows = (rows / 2).max(most.div_ceil(64)),
                short if short < FAST => rows = (rows * 2).min(most),
                _ => {}
            }
            if upto.is_none() {
                break;
            }
            after = upto;
        }
        self.judge_all().await?;
        Ok(self.compared)
    }

    /// Compares a span, in parts when there is more in it than can be held in memory.
    async fn compare(&mut self, span: Span) -> Result<(), VerifyError> {
        let part = u64::from(self.pair.limits.chunk_rows.max(1));
        let most = usize::try_from(part * 2).unwrap_or(usize::MAX);
        let mut spans = vec![span];
        while let Some(span) = spans.pop() {
            let Pair {
                owner, receiver, ..
            } = &self.pair;
            let (ours, theirs) = try_join(owner.digest(&span), receiver.digest(&span)).await?;
            if ours == theirs {
                self.count(ours.rows);
                continue;
            }
            let many = ours.rows.max(theirs.rows) > part * 2;
            let rows = match many {
                true => (None, None),
                false => try_join(owner.rows(&span, most), receiver.rows(&span, most)).await?,
            };
            if let (Some(mut ours), Some(theirs)) = rows {
                self.count(u64::try_from(ours.len()).unwrap_or(u64::MAX));
                for (key, hashes) in theirs {
                    match ours.get(&key) {
                        Some(same) if *same == hashes => drop(ours.remove(&key)),
                        Some(_) => {}
                        None => self.suspects.push(key),
                    }
                }
                self.suspects.extend(ours.into_keys());
                continue;
            }
            let larger = if ours.rows > theirs.rows {
                owner
            } else {
                receiver
            };
            match larger.bound(&span, part).await? {
                // Its rows are gone again.
                None => spans.push(span),
                middle => {
                    let Span { after, upto } = span;
                    spans.push(Span {
                        after: middle.clone(),
                        upto,
                    });
                    spans.push(Span {
                        after,
                        upto: middle,
                    });
                }
            }
        }
        Ok(())
    }

    /// Judges all suspects once. Those left open stay suspects.
    async fn judge_some(&mut self) -> Result<(), VerifyError> {
        let suspects = std::mem::take(&mut self.suspects);
        let judged = self.pair.judge(&suspects).await?;
        self.note(judged);
        // Otherwise they would grow with the table.
        if self.suspects.len() >= TOGETHER {
            self.judge_all().await?;
        }
        Ok(())
    }

    /// Judges until no suspect is left.
    async fn judge_all(&mut self) -> Result<(), VerifyError> {
        let limit = self.pair.limits.undecided;
        let deadline = Instant::now() + limit;
        let mut tries = 0_u32;
        while let Some(one) = self.suspects.first() {
            if tries > 2 && Instant::now() >= deadline {
                return Err(VerifyError::Undecided {
                    table: self.table.into(),
                    key: self.described_key(one).into(),
                    rows: self.suspects.len(),
                    waited: limit,
                });
            }
            let suspects = std::mem::take(&mut self.suspects);
            let mut judged = self.pair.judge(&suspects).await?;
            if tries >= self.pair.limits.tries && !judged.open.is_empty() {
                let holder = self.pair.owner.beside(self.shards).await?;
                let open = std::mem::take(&mut judged.open);
                self.note(judged);
                judged = self.pair.judge_held(&holder, open).await?;
            }
            self.note(judged);
            tries += 1;
        }
        Ok(())
    }

    fn note(&mut self, judged: Judged) {
        self.suspects.extend(judged.open);
        for (key, wrong) in judged.differences {
            self.compared.differences += 1;
            if self.compared.samples.len() < MOST_SAMPLES {
                let sample = self.described(&key, &wrong);
                self.compared.samples.push(sample.into());
            }
        }
    }

    fn count(&mut self, rows: u64) {
        self.compared.rows += rows;
        self.tally.table(self.table, self.stream, |table| {
            table.compared_rows += rows;
        });
    }

    async fn going(&mut self) {
        // Without a sender there is nobody who could let it go on, or wants it to stop.
        drop(self.run.wait_for(|run| *run == Run::Going).await);
    }

    /// Without the table: `(a, b) = (1, x)`.
    fn described_key(&self, key: &Key) -> String {
        let values: Vec<String> = key.iter().map(|value| shortened(value)).collect();
        format!("{} = ({})", self.key_names, values.join(", "))
    }

    fn described(&self, key: &Key, wrong: &Wrong) -> String {
        let (table, key) = (self.table, self.described_key(key));
        let Route { from, to } = self.stream;
        match wrong {
            Wrong::Differs => format!(
                "{table} {key}: the rows of {from} and {to} differ",
                from = from.0,
                to = to.0
            ),
            Wrong::OnlyOn(shard) => format!("{table} {key}: only {} has the row", shard.0),
        }
    }
}

/// Most characters of a value that are shown.
const SHOWN: usize = 100;

fn shortened(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        None => value.to_owned(),
        Some((end, _)) => format!("{}...", &value[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let shown = shortened(&"ä".repeat(300));
        assert_eq!(shown, format!("{}...", "ä".repeat(100)));
    }
}
