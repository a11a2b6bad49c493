//! COPY of tables on several shards: rows in by their keys, rows out from all shards.

use std::task::{Context, Poll};

use super::{Call, Own, Telling, all_shards, needed, without_moved_position};
use crate::execution::branch::{self, Audience, Branch, Failure};
use crate::execution::client::ClientError;
use crate::execution::copy::{Locate, Splitter};
use crate::plan::bind::shard_of;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::copy::{CopyIn, CopyOut};
use crate::session::link::Link;
use crate::session::numbers::AsOf;
use crate::session::reads::Seeks;
use crate::session::respond::{End, Fault};
use crate::session::{HIGH_WATER, Session};
use crate::sharding::{KeyValue, ShardId};
use crate::sql::copy::CopyFormat;
use crate::wire::answer::Severity;
use crate::wire::frame::{self, Frame, HEADER};

/// What a shard gets in one CopyData message, bytes, about.
const CHUNK: usize = 32 * 1024;

/// Rows that numbers are taken for at first, and at most.
const FIRST_NUMBERS: usize = 32;
const MOST_NUMBERS: usize = 8192;

/// A COPY FROM STDIN on its way.
pub struct SplitCopy {
    links: Vec<Link>,
    /// By link.
    shards: Vec<ShardId>,
    distribution: Option<crate::catalog::DistributionId>,
    splitter: Splitter,
    own: Own,
    telling: Telling,
    /// Bytes of a CopyData message that are still to come.
    rest: usize,
    /// When the first numbers were taken.
    as_of: AsOf,
}

/// Why the client's data are looked away from.
enum Step {
    Ended(Ending),
    /// Rows wait for numbers.
    Numbers,
}

/// How the client ended its data.
enum Ending {
    Done,
    /// In its words.
    Failed(Vec<u8>),
}

/// Waits until every shard asks for data.
pub(super) struct Asked {
    said: Vec<bool>,
    /// The body of CopyInResponse.
    response: Vec<u8>,
}

impl Asked {
    pub(super) fn new(shards: usize) -> Asked {
        Asked {
            said: vec![false; shards],
            response: Vec::new(),
        }
    }
}

impl Audience for Asked {
    fn wants(&self, branch: usize) -> bool {
        !self.said[branch]
    }

    fn hear(
        &mut self,
        branch: usize,
        tag: u8,
        body: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if tag == b'G' {
            self.said[branch] = true;
            self.response = body.to_vec();
        }
        Ok(())
    }

    fn is_satisfied(&self) -> bool {
        self.said.iter().all(|said| *said)
    }
}

/// Counts what shards have done.
#[derive(Default)]
pub(super) struct Tally {
    pub rows: u64,
}

impl Tally {
    /// The number that a command's tag ends in.
    pub fn add(&mut self, tag: &[u8]) {
        let digits = tag.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        let digits = digits.strip_suffix(b"\0").unwrap_or(digits);
        let count = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse::<u64>().ok());
        self.rows += count.unwrap_or(0);
    }
}

/// Shards end their COPY FROM; one branch of those that all got the same counts.
pub(super) struct Ended {
    pub tally: Tally,
    pub counts: Counts,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    All,
    First,
}

impl Audience for Ended {
    fn hear(
        &mut self,
        branch: usize,
        tag: u8,
        body: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if tag == b'C' && (self.counts == Counts::All || branch == 0) {
            self.tally.add(body);
        }
        Ok(())
    }
}

/// Rows of all shards, as one COPY TO STDOUT.
struct Outflow {
    form: CopyFormat,
    /// Whether each shard's data begin with a line that is no row.
    header: bool,
    begun: Vec<bool>,
    responded: bool,
    /// The binary trailer, when a shard has sent it.
    trailer: bool,
    open: usize,
    tally: Tally,
}

impl Audience for Outflow {
    fn hear(
        &mut self,
        branch: usize,
        tag: u8,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match tag {
            b'H' if !std::mem::replace(&mut self.responded, true) => {
                branch::pass_on(b'H', body, out)
            }
            b'd' => self.data(branch, body, out),
            b'c' => {
                self.open -= 1;
                if self.open == 0 {
                    if self.trailer {
                        branch::pass_on(b'd', &(-1_i16).to_be_bytes(), out);
                    }
                    branch::pass_on(b'c', b"", out);
                }
            }
            b'C' => self.tally.add(body),
            _ => {}
        }
        Ok(())
    }
}

impl Outflow {
    fn data(&mut self, branch: usize, body: &[u8], out: &mut Vec<u8>) {
        let first_of_all = self.begun.iter().all(|begun| !begun);
        let first = !std::mem::replace(&mut self.begun[branch], true);
        if self.form == CopyFormat::Binary {
            self.binary(first, first_of_all, body, out);
        } else if !(self.header && first && !first_of_all) {
            branch::pass_on(b'd', body, out);
        }
    }

    /// One header and one trailer for all; the trailer is a tuple of -1 fields and comes last.
    fn binary(&mut self, first: bool, first_of_all: bool, body: &[u8], out: &mut Vec<u8>) {
        /// Signature, flags, and the length of an extension that Postgres does not write.
        const HEADER: usize = 19;
        let start = if first { HEADER.min(body.len()) } else { 0 };
        let (head, rest) = body.split_at(start);
        let rest = match rest {
            [.., 0xff, 0xff] if is_trailer(rest) => {
                self.trailer = true;
                &rest[..rest.len() - 2]
            }
            rest => rest,
        };
        let head = if first_of_all { head } else { &[] };
        if head.len() + rest.len() > 0 {
            branch::pass_on(b'd', &[head, rest].concat(), out);
        }
    }
}

/// Whether what Postgres sent in one message is the trailer: it comes on its own, or right behind the header.
fn is_trailer(rest: &[u8]) -> bool {
    rest.len() == 2
}

impl Session {
    /// COPY FROM STDIN: the shards are asked, and then the client is.
    pub(super) async fn begin_copy(&mut self, call: &Call<'_>, copy: &CopyIn) -> Result<(), Fault> {
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let shards = match copy.key {
            None => all_shards(&catalog),
            Some(_) => call.over(&catalog),
        };
        let key = match &copy.key {
            None => Vec::new(),
            Some(key) => {
                let distribution = &catalog.distributions[usize::from(key.distribution.0)];
                let types = distribution.map.key_types();
                let columns = key.columns.iter().zip(types);
                columns
                    .map(|((place, column), key_type)| (*place, *column, *key_type))
                    .collect()
            }
        };
        let mut splitter = Splitter::new(copy.form.clone(), copy.table.clone(), key, shards.len());
        splitter.number_rows(&copy.numbered);
        splitter.given.clone_from(&copy.given);
        let as_of = self.numbers_as_of();
        self.check_numbers_of_others(&splitter)?;
        self.draw_rows(&mut splitter, FIRST_NUMBERS).await?;
        let own = self.begin_own(call.telling);
        let mut links = match self.enlist_for(call, &shards).await {
            Ok(links) => links,
            Err(fault) => return self.end_own(own, Err(fault)).await,
        };
        let text = String::from_utf8_lossy(&copy.text(call.own_text())).into_owned();
        let mut asked = Asked::new(links.len());
        let result = {
            self.show_running(&mut links);
            let mut branches = Vec::with_capacity(links.len());
            for link in &mut links {
                let mut branch = Branch::new(link.server());
                branch.query(&text);
                branches.push(branch);
            }
            let (client, scratch) = (&mut self.client, &self.worker.scratch);
            branch::attend(client, &mut branches, scratch, &mut asked).await
        };
        if let Err(failure) = result {
            return self.abandon_copy(links, own, failure).await;
        }
        let response = without_columns(&asked.response, copy.numbered.len());
        branch::pass_on(b'G', &response, &mut self.client.outbox);
        self.copy_in = Some(Box::new(SplitCopy {
            links,
            shards,
            distribution: copy.key.as_ref().map(|key| key.distribution),
            splitter,
            own,
            telling: call.telling,
            rest: 0,
            as_of,
        }));
        Ok(())
    }

    /// The client's data, to their end.
    pub(in crate::session) async fn copy_rows(&mut self) -> Result<(), End> {
        let Some(mut copy) = self.copy_in.take() else {
            return Ok(());
        };
        let moved = self.move_rows(&mut copy).await;
        let telling = copy.telling;
        let SplitCopy {
            links,
            own,
            splitter,
            distribution,
            as_of,
            ..
        } = *copy;
        for numbers in splitter.numbers {
            self.give_back_numbers(&numbers.column.sequence, numbers.left, as_of);
        }
        let done = match moved {
            Ok(Ending::Done) => self.end_copy(links, own, distribution.is_some()).await,
            Ok(Ending::Failed(words)) => self.fail_copy(links, own, &words).await,
            Err(Stopped::Failure(failure)) => self.abandon_copy(links, own, failure).await,
            Err(Stopped::End(end)) => {
                for link in links {
                    link.clean_up(&self.worker);
                }
                return Err(end);
            }
        };
        match (done, telling) {
            (Ok(()), Telling::Rows) => Ok(()),
            (Ok(()), Telling::Description) => match self.answer_query(Vec::new()) {
                Ok(()) => Ok(()),
                Err(fault) => self.fail_query(&fault),
            },
            (Err(fault), Telling::Description) => self.fail_query(&fault),
            (Err(fault), Telling::Rows) => {
                self.fail_batch(&fault);
                Ok(())
            }
        }
    }

    async fn move_rows(&mut self, copy: &mut SplitCopy) -> Result<Ending, Stopped> {
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let SplitCopy {
            links,
            shards,
            distribution,
            splitter,
            rest,
            ..
        } = copy;
        let distribution = distribution.and_then(|id| catalog.distributions.get(usize::from(id.0)));
        let locate = |key: &[KeyValue]| -> Result<usize, String> {
            let Some(distribution) = distribution else {
                return Ok(0);
            };
            let shard = shard_of(distribution, key).map_err(|refusal| refusal.message)?;
            shards
                .iter()
                .position(|known| *known == shard)
                .ok_or_else(|| "the row's shard is not among those of the COPY".to_owned())
        };
        let mut branches: Vec<Branch<'_>> = links
            .iter_mut()
            .map(|link| Branch::new(link.server()))
            .collect();
        let mut count = FIRST_NUMBERS;
        loop {
            let step = std::future::poll_fn(|cx| {
                self.poll_rows(cx, &mut branches, splitter, rest, &locate)
            });
            match step.await? {
                Step::Ended(ending) => return Ok(ending),
                Step::Numbers => {
                    count = (2 * count).min(MOST_NUMBERS);
                    let drawn = self.draw_rows(splitter, count).await;
                    drawn.map_err(|fault| Stopped::Failure(failure_of(&fault)))?;
                    splitter.feed(&[], &locate).map_err(Stopped::Failure)?;
                }
            }
        }
    }

    /// Numbers for so many rows to come.
    async fn draw_rows(&mut self, splitter: &mut Splitter, rows: usize) -> Result<(), Fault> {
        for numbers in &mut splitter.numbers {
            let sequence = numbers.column.sequence.clone();
            numbers
                .left
                .extend(self.take_numbers(&sequence, rows).await?);
        }
        Ok(())
    }

    /// While a COPY goes on, its numbers are taken beside the transaction, which must not keep others from them.
    fn check_numbers_of_others(&self, splitter: &Splitter) -> Result<(), Fault> {
        if splitter.numbers.is_empty() || !self.has_changed_sequences() {
            return Ok(());
        }
        let message = "the transaction has made or set sequences, whose numbers nobody else can take before its end";
        Err(Fault::Refused(Refusal::new(
            Reason::SequenceDefault,
            message,
        )))
    }

    fn poll_rows(
        &mut self,
        cx: &mut Context<'_>,
        branches: &mut [Branch<'_>],
        splitter: &mut Splitter,
        rest: &mut usize,
        locate: &Locate<'_>,
    ) -> Poll<Result<Step, Stopped>> {
        loop {
            if let Poll::Ready(Err(_)) = self.client.poll_flush(cx) {
                return Poll::Ready(Err(Stopped::End(End::Client)));
            }
            for (number, branch) in branches.iter_mut().enumerate() {
                // A shard speaks before the end only to complain.
                if let Poll::Ready(said) = branch.poll_message(cx, &self.worker.scratch) {
                    let failure = match said {
                        Ok(heard) if heard.tag == b'E' => Failure::Server {
                            branch: number,
                            error: branch.body(&heard).to_vec(),
                        },
                        Ok(_) => continue,
                        Err(error) => Failure::Broken {
                            branch: number,
                            error,
                            words: None,
                        },
                    };
                    return Poll::Ready(Err(Stopped::Failure(failure)));
                }
            }
            if branches
                .iter()
                .any(|branch| branch.server.backlog() > 4 * HIGH_WATER)
            {
                return Poll::Pending;
            }
            let inbox = std::mem::take(&mut self.client.inbox);
            let mut taken = 0;
            let ending = take_data(
                &inbox,
                &mut taken,
                rest,
                self.max_message_size,
                splitter,
                locate,
            );
            self.client.inbox = inbox;
            self.client.inbox.drain(..taken);
            let whole = !matches!(ending, Ok(None));
            for (branch, output) in branches.iter_mut().zip(&mut splitter.outputs) {
                if output.len() >= CHUNK || (whole && !output.is_empty()) {
                    push_data(output, branch.server.outbox());
                    output.clear();
                }
            }
            match ending {
                Err(stopped) => return Poll::Ready(Err(stopped)),
                Ok(Some(step)) => return Poll::Ready(Ok(step)),
                Ok(None) => {}
            }
            match self
                .client
                .poll_fill(cx, &mut self.worker.scratch.borrow_mut())
            {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(
                    ClientError::Drained | ClientError::Closed | ClientError::Io(_),
                )) => {
                    return Poll::Ready(Err(Stopped::End(End::Client)));
                }
            }
        }
    }

    /// All shards have all of their rows.
    async fn end_copy(&mut self, mut links: Vec<Link>, own: Own, split: bool) -> Result<(), Fault> {
        let mut ended = Ended {
            tally: Tally::default(),
            counts: if split { Counts::All } else { Counts::First },
        };
        let result = {
            let mut branches = Vec::with_capacity(links.len());
            for link in &mut links {
                link.push(&[b'c', 0, 0, 0, 4]);
                link.copy_ended();
                branches.push(Branch::new(link.server()));
            }
            let (client, scratch) = (&mut self.client, &self.worker.scratch);
            branch::attend(client, &mut branches, scratch, &mut ended).await
        };
        if let Err(failure) = result {
            return self.abandon_copy(links, own, failure).await;
        }
        let done = self.finish(links, Ok(())).await;
        self.end_own(own, done).await?;
        self.tell_tag(&format!("COPY {}", ended.tally.rows));
        Ok(())
    }

    /// The client gives up its COPY: a shard says so, in Postgres's words.
    async fn fail_copy(
        &mut self,
        mut links: Vec<Link>,
        own: Own,
        words: &[u8],
    ) -> Result<(), Fault> {
        let mut unheard = Ended {
            tally: Tally::default(),
            counts: Counts::All,
        };
        let result = {
            let mut first = Branch::new(links[0].server());
            branch::pass_on(b'f', words, first.server.outbox());
            first.server.pipeline.copy_ended();
            let (client, scratch) = (&mut self.client, &self.worker.scratch);
            let one = std::slice::from_mut(&mut first);
            let attended = branch::attend(client, one, scratch, &mut unheard).await;
            branch::quiet(one, scratch).await;
            attended
        };
        match result {
            Err(failure) => self.abandon_copy(links, own, failure).await,
            Ok(()) => self.finish(links, Ok(())).await,
        }
    }

    /// The COPY has failed on one shard: the others throw away what they have.
    async fn abandon_copy(
        &mut self,
        mut links: Vec<Link>,
        own: Own,
        failure: Failure,
    ) -> Result<(), Fault> {
        for link in links.iter_mut().filter(|link| !link.is_settled()) {
            let server = link.server();
            branch::pass_on(b'f', b"COPY failed on another shard\0", server.outbox());
            server.pipeline.copy_ended();
        }
        // The transaction has failed with its COPY, and one that has failed is told of no refusal.
        let failure = match failure {
            Failure::Refused(refusal) => failure_of(&Fault::Refused(refusal)),
            other => other,
        };
        let done = self.finish(links, Err(failure)).await;
        self.end_own(own, done).await
    }

    /// The session ends in the middle of a COPY.
    pub(in crate::session) fn drop_copy(&mut self) {
        for link in self.copy_in.take().into_iter().flat_map(|copy| copy.links) {
            link.clean_up(&self.worker);
        }
    }

    /// COPY TO STDOUT.
    pub(super) async fn copy_out(&mut self, call: &Call<'_>, copy: &CopyOut) -> Result<(), Fault> {
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let shards = call.over(&catalog);
        let own = needed(copy.own.as_ref(), &catalog, &shards);
        if own.is_some() {
            // Whose rows they are is known of primaries.
            self.reads.seeks = Seeks::Primary;
        }
        let mut links = self.enlist_for(call, &shards).await?;
        let mut outflow = Outflow {
            form: copy.form.format.clone(),
            header: copy.form.header,
            begun: vec![false; links.len()],
            responded: false,
            trailer: false,
            open: links.len(),
            tally: Tally::default(),
        };
        self.show_running(&mut links);
        let result = {
            let mut branches = Vec::with_capacity(links.len());
            for link in &mut links {
                let catalog = self.database.catalog();
                let text = call.text_on(link.shard(), &catalog, &[], copy.own.as_ref());
                let mut branch = Branch::new(link.server());
                branch.query(&String::from_utf8_lossy(&text));
                branches.push(branch);
            }
            let (client, scratch) = (&mut self.client, &self.worker.scratch);
            let attended = branch::attend(client, &mut branches, scratch, &mut outflow).await;
            if attended.is_err() {
                self.silence(&mut branches, super::Silence::Cancels).await;
            }
            attended
        };
        let same = call.unedited(&[], own);
        let result = result.map_err(|failure| without_moved_position(failure, same));
        self.finish(links, result).await?;
        self.tell_tag(&format!("COPY {}", outflow.tally.rows));
        Ok(())
    }
}

/// Why the client's data came to no end.
enum Stopped {
    Failure(Failure),
    End(End),
}

/// Feeds the splitter with the data at hand; `None`: there is more to come.
fn take_data(
    inbox: &[u8],
    taken: &mut usize,
    rest: &mut usize,
    limit: usize,
    splitter: &mut Splitter,
    locate: &Locate<'_>,
) -> Result<Option<Step>, Stopped> {
    while *taken < inbox.len() {
        if splitter.is_behind() && splitter.needs_numbers() {
            return Ok(Some(Step::Numbers));
        }
        if *rest > 0 {
            let end = inbox.len().min(*taken + *rest);
            splitter
                .feed(&inbox[*taken..end], locate)
                .map_err(Stopped::Failure)?;
            *rest -= end - *taken;
            *taken = end;
            continue;
        }
        let frame =
            frame::first(inbox, *taken, limit).map_err(|error| Stopped::End(End::Frame(error)))?;
        match frame {
            Frame::Whole { tag, range } => {
                let start = *taken;
                *taken = range.end;
                let body = &inbox[range][HEADER..];
                match tag {
                    b'd' => splitter.feed(body, locate).map_err(Stopped::Failure)?,
                    b'c' => {
                        splitter.finish(locate).map_err(Stopped::Failure)?;
                        if splitter.is_behind() {
                            // It is looked at again when there are numbers.
                            *taken = start;
                            return Ok(Some(Step::Numbers));
                        }
                        return Ok(Some(Step::Ended(Ending::Done)));
                    }
                    b'f' => return Ok(Some(Step::Ended(Ending::Failed(body.to_vec())))),
                    // A server that reads COPY data ignores them.
                    b'H' | b'S' => {}
                    other => return Err(Stopped::End(End::CopyInterrupted(other))),
                }
            }
            Frame::CopyPart { range, rest: more } => {
                *taken = range.end;
                *rest = more;
                splitter
                    .feed(&inbox[range][HEADER..], locate)
                    .map_err(Stopped::Failure)?;
            }
            Frame::Partial { .. } => break,
        }
    }
    Ok(None)
}

/// A CopyInResponse without its first columns, which the client does not know of.
fn without_columns(response: &[u8], count: usize) -> Vec<u8> {
    let formats = response.get(3 + 2 * count..).unwrap_or_default();
    let left = u16::try_from(formats.len() / 2).expect("fewer than there were");
    let mut body = response.get(..1).unwrap_or(&[0]).to_vec();
    body.extend_from_slice(&left.to_be_bytes());
    body.extend_from_slice(formats);
    body
}

/// As if a shard had said it.
fn failure_of(fault: &Fault) -> Failure {
    let mut said = Vec::new();
    fault.write(Severity::Error, &mut said);
    Failure::Server {
        branch: 0,
        error: said.split_off(HEADER.min(said.len())),
    }
}

fn push_data(data: &[u8], out: &mut Vec<u8>) {
    branch::pass_on(b'd', data, out);
}
