//! Statements that change rows or definitions on several shards.
//!
//! Shards work one after the other, in their order: two statements that want the same rows meet on the first shard that has them, so
//! neither can hold what the other waits for. All of it is one transaction: the client's, or one of its own.

use std::borrow::Cow;
use std::cell::RefCell;

use super::{Call, Description, Own, Telling, all_shards, needed, note_on, without_moved_position};
use crate::backend::pipeline::Committed;
use crate::execution::branch::{self, Audience, Failure, Question};
use crate::execution::row_array;
use crate::plan::spread::everywhere::{self, Everywhere};
use crate::plan::spread::listed::Listed;
use crate::plan::spread::own_rows::OwnRows;
use crate::plan::spread::rows::Rows;
use crate::plan::spread::write::Write;
use crate::plan::{Effect, Planned};
use crate::session::Session;
use crate::session::link::Link;
use crate::session::respond::Fault;
use crate::session::transaction::{Opener, Transaction};
use crate::sharding::ShardId;
use crate::sql::class::Class;
use crate::sql::definition::Block;

/// OIDs of types below this one are the same on every server (`FirstNormalObjectId`).
pub(super) const FIRST_OWN_OID: u32 = 16_384;

/// The most bytes of rows that are kept to be brought into the order of the statement's own rows.
pub(super) const MOST_KEPT: usize = 64 << 20;

/// How shards' answers become the client's.
pub(super) enum Answer {
    /// Counts add up, rows come shard by shard.
    All,
    /// The same, with rows in the order of the statement's: for each of these the place of its shard.
    InOrder(Vec<usize>),
    /// All shards say the same, this one is heard.
    Of(usize),
    /// The same, and it is an error when they count differently.
    Agreed(usize),
}

impl Answer {
    /// The place of the shard whose word counts.
    fn speaker(&self) -> usize {
        match self {
            Answer::Of(place) | Answer::Agreed(place) => *place,
            Answer::All | Answer::InOrder(_) => 0,
        }
    }
}

/// What the shards are sent.
#[derive(Clone, Copy)]
pub(super) enum Texts<'a> {
    /// What the client wrote.
    Same,
    /// The same, about the shard's own rows.
    Own(Option<&'a OwnRows>),
    /// By the place of the shard.
    Each(&'a [Vec<u8>]),
    /// By the place of the shard, the shard, and the number of the first parameter behind the client's.
    Fed(&'a dyn Fn(usize, ShardId, usize) -> Option<Fed>),
}

/// What a shard gets with parameters of ours.
pub(super) struct Fed {
    pub text: Vec<u8>,
    /// In their binary form.
    pub values: Vec<Vec<u8>>,
}

/// What one shard says.
struct Said<'a> {
    rows: Kept<'a>,
    notices: Notices,
    /// The body of CommandComplete.
    tag: Vec<u8>,
}

enum Kept<'a> {
    PassedOn,
    Dropped,
    /// Bodies of DataRow, and how many bytes may still come.
    Ordered(&'a mut Vec<Vec<u8>>, &'a mut usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Notices {
    PassedOn,
    Dropped,
}

impl Audience for Said<'_> {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        match (tag, &mut self.rows) {
            (b'D', Kept::PassedOn) => branch::pass_on(tag, body, out),
            (b'D', Kept::Ordered(rows, left)) => {
                let Some(rest) = left.checked_sub(body.len()) else {
                    return Err(Failure::Ours {
                        sqlstate: "54000",
                        message: format!(
                            "the rows of RETURNING take more than {} MB",
                            MOST_KEPT >> 20
                        ),
                        hint: Some("Insert fewer rows in a statement."),
                    });
                };
                **left = rest;
                rows.push(body.to_vec());
            }
            (b'C', _) => self.tag = body.to_vec(),
            _ => {}
        }
        Ok(())
    }

    fn hears_notices(&self) -> bool {
        self.notices == Notices::PassedOn
    }
}

impl Session {
    /// Each row of an INSERT on its shard.
    pub(super) async fn do_rows(&mut self, call: &Call<'_>, rows: &Rows) -> Result<(), Fault> {
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let of_rows = rows
            .shards(&catalog, &call.values())
            .map_err(Fault::Refused)?;
        let mut shards = of_rows.clone();
        shards.sort_unstable();
        shards.dedup();
        let whole = Planned::range_of(call.statement, call.literals);
        let places: Vec<usize> = of_rows
            .iter()
            .filter_map(|shard| shards.binary_search(shard).ok())
            .collect();
        let texts: Vec<Vec<u8>> = (0..shards.len())
            .map(|place| {
                let own = (0..places.len()).filter(|row| places[*row] == place);
                rows.text(own, whole.clone(), call.text, call.literals)
            })
            .collect();
        let texts = Texts::Each(&texts);
        self.change(call, &shards, texts, Answer::InOrder(places))
            .await
    }

    /// Every shard concerned changes its own rows.
    pub(super) async fn do_write(&mut self, call: &Call<'_>, write: &Write) -> Result<(), Fault> {
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        if let Some(feed) = &write.feed {
            return self.do_fed(call, write, feed).await;
        }
        let shards = call.shards(&catalog).map_err(Fault::Refused)?;
        let texts = Texts::Own(write.own.as_ref());
        self.change(call, &shards, texts, Answer::All).await
    }

    /// Each shard does it with the tables that it has.
    pub(super) async fn do_listed(
        &mut self,
        call: &Call<'_>,
        tables: &Listed,
    ) -> Result<(), Fault> {
        let in_block = self.transaction != Transaction::Idle && self.opener != Opener::Unit;
        if call.statement.class == Class::Lock && !in_block {
            return Err(Fault::no_transaction("LOCK TABLE"));
        }
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let shards = tables.shards(&catalog);
        let texts = shards.iter().map(|shard| {
            let whole = call.statement.range.clone();
            tables.text(*shard, whole, call.text, call.literals)
        });
        let texts: Vec<Vec<u8>> = texts.collect();
        let texts = Texts::Each(&texts);
        if tables.block == Block::Forbidden && self.transaction == Transaction::Idle {
            return self.change_apart(call, &shards, texts).await;
        }
        let speaker = tables.speaker(&shards, catalog.home);
        self.change(call, &shards, texts, Answer::Of(speaker)).await
    }

    /// The same on every shard.
    pub(super) async fn do_everywhere(
        &mut self,
        call: &Call<'_>,
        what: Everywhere,
    ) -> Result<(), Fault> {
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let shards = all_shards(&catalog);
        let home = catalog.home.index();
        let texts = Texts::Same;
        match what {
            Everywhere::Copies => {
                everywhere::has_no_clock(&call.values()).map_err(Fault::Refused)?;
                self.change(call, &shards, texts, Answer::Agreed(home))
                    .await
            }
            // A shard says that it cannot be done in a transaction block.
            Everywhere::Alone if self.transaction == Transaction::Idle => {
                self.change_apart(call, &shards, texts).await
            }
            Everywhere::Definition | Everywhere::Alone => {
                self.change(call, &shards, texts, Answer::Of(home)).await
            }
        }
    }

    /// Runs a text on each shard in one transaction and tells the client what came of it.
    pub(super) async fn change(
        &mut self,
        call: &Call<'_>,
        shards: &[ShardId],
        texts: Texts<'_>,
        answer: Answer,
    ) -> Result<(), Fault> {
        let (own, mut links) = self.begin_change(call, shards, shards).await?;
        let mut each: Vec<&mut Link> = links.iter_mut().collect();
        let outcome = self.change_on(call, &mut each, texts, &answer).await;
        self.end_change(call, own, links, outcome).await
    }

    /// Takes part with these shards, some of which change rows, in the client's transaction or one for the statement.
    pub(super) async fn begin_change(
        &mut self,
        call: &Call<'_>,
        shards: &[ShardId],
        changing: &[ShardId],
    ) -> Result<(Own, Vec<Link>), Fault> {
        let writes = call.statement.effect == Effect::Writes;
        if writes && changing.len() > 1 && self.transaction == Transaction::Idle {
            self.check_commit(changing)?;
        }
        let own = self.begin_own(call.telling);
        match self.enlist(shards).await {
            Ok(mut links) => {
                let changing = links
                    .iter_mut()
                    .filter(|link| changing.contains(&link.shard()));
                changing.for_each(|link| note_on(call, link));
                Ok((own, links))
            }
            Err(fault) => {
                let ended = self.end_own(own, Err(fault)).await;
                Err(ended.err().unwrap_or(Fault::Told))
            }
        }
    }

    /// Ends what [`Session::begin_change`] began, and tells the client the tag.
    pub(super) async fn end_change(
        &mut self,
        call: &Call<'_>,
        own: Own,
        links: Vec<Link>,
        outcome: Result<String, Failure>,
    ) -> Result<(), Fault> {
        let (done, tag) = match outcome {
            Ok(tag) => (Ok(()), tag),
            Err(failure) => (Err(failure), String::new()),
        };
        let done = self.finish(links, done).await;
        if done.is_ok() {
            self.statement_done(&call.statement.class, Committed::No);
        }
        self.end_own(own, done).await?;
        self.tell_changed(call, tag);
        Ok(())
    }

    /// The tag for the client.
    pub(super) async fn change_on(
        &mut self,
        call: &Call<'_>,
        links: &mut [&mut Link],
        texts: Texts<'_>,
        answer: &Answer,
    ) -> Result<String, Failure> {
        let speaker = answer.speaker();
        let description = self
            .describe_on(links[speaker], call.own_text(), call.types)
            .await?;
        self.change_as(call, &description, links, texts, answer)
            .await
    }

    /// The same, when it is known what the statement takes and gives.
    pub(super) async fn change_as(
        &mut self,
        call: &Call<'_>,
        description: &Description,
        links: &mut [&mut Link],
        texts: Texts<'_>,
        answer: &Answer,
    ) -> Result<String, Failure> {
        let speaker = answer.speaker();
        let describes = call.telling == Telling::Description && description.columns.is_some();
        // Rows that are kept to the end are described there, so that an error comes without.
        if describes && !matches!(answer, Answer::InOrder(_)) {
            self.tell_columns(description, call.formats);
        }
        let mut tags: Vec<Vec<u8>> = Vec::with_capacity(links.len());
        let mut rows: Vec<Vec<Vec<u8>>> = vec![Vec::new(); links.len()];
        let mut left = MOST_KEPT;
        for (place, link) in links.iter_mut().enumerate() {
            let is_heard = !matches!(answer, Answer::Of(_) | Answer::Agreed(_)) || place == speaker;
            let is_kept = call.returned.is_some() || matches!(answer, Answer::InOrder(_));
            let mut said = Said {
                rows: match answer {
                    _ if !is_heard => Kept::Dropped,
                    _ if is_kept => Kept::Ordered(&mut rows[place], &mut left),
                    _ => Kept::PassedOn,
                },
                notices: if is_heard {
                    Notices::PassedOn
                } else {
                    Notices::Dropped
                },
                tag: Vec::new(),
            };
            let shard = link.shard();
            let mut types = self.types_on(call, link, description).await?;
            let mut parameters = Cow::Borrowed(call.raw_parameters);
            let text = match texts {
                Texts::Fed(feed) => {
                    let fed = feed(place, shard, types.len() + 1);
                    let Fed { text, values } = fed.ok_or_else(too_many_parameters)?;
                    for value in values {
                        let with = row_array::with_parameter(&parameters, &value);
                        parameters = Cow::Owned(with.ok_or_else(too_many_parameters)?);
                        // The server finds its type.
                        types.push(0);
                    }
                    Cow::Owned(text)
                }
                _ => self.text_for(call, texts, place, shard),
            };
            let question = Question {
                text: &text,
                types: &types,
                parameters: &parameters,
                formats: call.formats,
            };
            let link = std::slice::from_mut(&mut **link);
            let asked = self.converse(link, &[question], &mut said).await;
            asked.map_err(|failure| match (failure.at(place), texts) {
                (failure, Texts::Own(own)) => {
                    let catalog = self.database.catalog();
                    let own = needed(own, &catalog, &[shard]);
                    without_moved_position(failure, call.unedited(&[], own))
                }
                // None of its places is one in the client's.
                (failure, Texts::Fed(..)) => without_moved_position(failure, Some(0)),
                (failure, Texts::Same | Texts::Each(_)) => failure,
            })?;
            let tag = said.tag;
            if matches!(answer, Answer::Agreed(_))
                && let Some(first) = tags.first()
                && *first != tag
            {
                return Err(copies_differ(first, &tag));
            }
            tags.push(tag);
        }
        if let Answer::InOrder(_) = answer
            && describes
        {
            self.tell_columns(description, call.formats);
        }
        let mut returned = call.returned.map(RefCell::borrow_mut);
        let out = match &mut returned {
            // It gives no rows, whatever is kept.
            Some(_) if description.columns.is_none() => None,
            Some(returned) => Some(returned.rows.insert(Vec::new())),
            None => Some(&mut self.client.outbox),
        };
        match (answer, out) {
            (_, None) => {}
            (Answer::InOrder(places), Some(out)) => tell_in_order(places, rows, out),
            (_, Some(out)) => {
                let rows = rows.iter().flatten();
                rows.for_each(|row| branch::pass_on(b'D', row, out));
            }
        }
        Ok(match answer {
            Answer::Of(place) | Answer::Agreed(place) => words(&tags[*place]),
            Answer::All | Answer::InOrder(_) => sum(&tags),
        })
    }

    /// What a shard is sent, as things are now: while another one did its part, rows may have begun to move.
    fn text_for<'t>(
        &self,
        call: &'t Call<'_>,
        texts: Texts<'t>,
        place: usize,
        shard: ShardId,
    ) -> Cow<'t, [u8]> {
        match texts {
            Texts::Each(texts) => Cow::Borrowed(&texts[place]),
            Texts::Same | Texts::Fed(..) => Cow::Borrowed(call.own_text()),
            Texts::Own(own) => Cow::Owned(call.text_on(shard, &self.database.catalog(), &[], own)),
        }
    }

    /// The parameters' types as this shard numbers them. A shard's text may lack the places that tell a parameter's type.
    pub(super) async fn types_on(
        &mut self,
        call: &Call<'_>,
        link: &mut Link,
        description: &Description,
    ) -> Result<Vec<u32>, Failure> {
        if description.types.iter().all(|oid| *oid < FIRST_OWN_OID) {
            return Ok(description.types.clone());
        }
        let described = self.describe_on(link, call.own_text(), call.types).await?;
        Ok(described.types)
    }

    /// What no transaction can hold: each shard does it on its own.
    async fn change_apart(
        &mut self,
        call: &Call<'_>,
        shards: &[ShardId],
        texts: Texts<'_>,
    ) -> Result<(), Fault> {
        let home = self.database.catalog().home;
        let mut tag = String::new();
        for (place, shard) in shards.iter().enumerate() {
            let mut links = self.enlist_for(call, &[*shard]).await?;
            let mut said = Said {
                rows: Kept::Dropped,
                notices: if *shard == home {
                    Notices::PassedOn
                } else {
                    Notices::Dropped
                },
                tag: Vec::new(),
            };
            let text = self.text_for(call, texts, place, *shard);
            let question = Question {
                text: &text,
                types: call.types,
                parameters: call.raw_parameters,
                formats: call.formats,
            };
            let done = self.converse(&mut links, &[question], &mut said).await;
            tag = words(&said.tag);
            let done = done.map_err(|failure| self.done_in_part(failure, place, shards));
            let done = self.finish(links, done).await;
            if done.is_err() && place == 0 {
                return done;
            }
            self.statement_done(&call.statement.class, Committed::No);
            if done.is_err() {
                self.begun_ended(Committed::Yes);
                return done;
            }
        }
        self.begun_ended(Committed::Yes);
        self.tell_tag(&tag);
        Ok(())
    }

    /// A shard's error, with what has become of the statement on the others.
    fn done_in_part(&self, failure: Failure, place: usize, shards: &[ShardId]) -> Failure {
        let catalog = self.database.catalog();
        let names = |shards: &[ShardId]| {
            let names = shards
                .iter()
                .filter_map(|shard| catalog.shards.get(shard.index()).map(|name| &**name));
            names.collect::<Vec<_>>().join(", ")
        };
        let Failure::Server { branch, error } = failure else {
            return failure;
        };
        if place == 0 {
            return Failure::Server { branch, error };
        }
        let mut hint = format!(
            "It is done on {}; it has failed on {}",
            names(&shards[..place]),
            names(&shards[place..=place]),
        );
        if place + 1 < shards.len() {
            hint.push_str(&format!(
                "; it was not tried on {}",
                names(&shards[place + 1..])
            ));
        }
        hint.push_str(". Run it on each of the others: /* trunkline: shard=name */.");
        Failure::Server {
            branch,
            error: with_hint(&error, &hint),
        }
    }
}

/// The body of an ErrorResponse with another hint.
fn with_hint(error: &[u8], hint: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(error.len() + hint.len() + 2);
    for field in error.split(|byte| *byte == 0) {
        if !matches!(field.first(), None | Some(b'H')) {
            out.extend_from_slice(field);
            out.push(0);
        }
    }
    out.push(b'H');
    out.extend_from_slice(hint.as_bytes());
    out.extend_from_slice(&[0, 0]);
    out
}

/// Rows in the order of the statement's, when every one of these came back; else shard by shard, because it is not known which did.
fn tell_in_order(places: &[usize], rows: Vec<Vec<Vec<u8>>>, out: &mut Vec<u8>) {
    let came_back = |place: usize| {
        let asked = places.iter().filter(|of_row| **of_row == place).count();
        rows[place].len() == asked
    };
    if !(0..rows.len()).all(came_back) {
        let all = rows.iter().flatten();
        all.for_each(|row| branch::pass_on(b'D', row, out));
        return;
    }
    let mut rows: Vec<_> = rows.into_iter().map(Vec::into_iter).collect();
    for place in places {
        if let Some(row) = rows[*place].next() {
            branch::pass_on(b'D', &row, out);
        }
    }
}

fn too_many_parameters() -> Failure {
    Failure::Ours {
        sqlstate: "54000",
        message: "the statement has no room for one parameter more".to_owned(),
        hint: None,
    }
}

fn copies_differ(one: &[u8], other: &[u8]) -> Failure {
    Failure::Ours {
        sqlstate: "XX001",
        message: format!(
            "the copies of the reference table are not equal: one shard says {}, another {}",
            words(one),
            words(other)
        ),
        hint: Some("Compare the table's rows on the shards, and make them equal with hints."),
    }
}

pub(super) fn words(tag: &[u8]) -> String {
    String::from_utf8_lossy(tag.strip_suffix(b"\0").unwrap_or(tag)).into_owned()
}

/// One tag for all: their last numbers add up.
fn sum(tags: &[Vec<u8>]) -> String {
    let Some(first) = tags.first() else {
        return String::new();
    };
    let first = words(first);
    let command = first
        .rsplit_once(' ')
        .map_or(&*first, |(command, _)| command);
    let count = |tag: &Vec<u8>| -> u64 {
        let tag = words(tag);
        tag.rsplit(' ')
            .next()
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(0)
    };
    format!("{command} {}", tags.iter().map(count).sum::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let tags = [b"INSERT 0 2\0".to_vec(), b"INSERT 0 3\0".to_vec()];
        assert_eq!(sum(&tags), "INSERT 0 5");
        assert_eq!(sum(&[b"DELETE 0\0".to_vec()]), "DELETE 0");
    }

    #[test]
    fn rows_come_in_the_order_of_the_statement_unless_some_are_missing() {
        let row = |text: &str| text.as_bytes().to_vec();
        let texts = |rows| {
            let mut out = Vec::new();
            tell_in_order(&[1, 0, 1], rows, &mut out);
            out.chunks(6)
                .map(|frame| char::from(frame[5]))
                .collect::<String>()
        };
        assert_eq!(texts(vec![vec![row("b")], vec![row("a"), row("c")]]), "abc");
        assert_eq!(texts(vec![vec![row("b")], vec![row("c")]]), "bc");
    }

    #[test]
    fn a_hint_takes_the_place_of_another() {
        assert_eq!(
            with_hint(b"SERROR\0C42P07\0Hold\0\0", "new"),
            b"SERROR\0C42P07\0Hnew\0\0"
        );
        assert_eq!(
            with_hint(b"SERROR\0Mtext\0\0", "new"),
            b"SERROR\0Mtext\0Hnew\0\0"
        );
    }
}
