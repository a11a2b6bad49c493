//! Which reply belongs to which request: a queue of what a server connection still owes, moved by the type of each message it sends.
//!
//! Pure: no socket, no clock. The relay asks it for a verdict on every message of a server: is it the client's, is it the
//! answer to something that Trunkline put in between, or does something of ours take its place. Requests are answered in
//! order; after an error in the extended protocol a server skips to the next Sync, and so does the queue.
//! Source: "Message Flow" in the chapter "Frontend/Backend Protocol" of Postgres's manual.

use std::collections::VecDeque;

use super::position::Shift;
use crate::wire::answer::TransactionStatus;
use crate::wire::frame::HEADER;

/// Marks a request whose outcome the session wants to know. Chosen by the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u32);

/// A request as far as its replies are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Parse,
    Bind,
    Close,
    DescribeStatement,
    DescribePortal,
    Execute,
    /// A simple query: everything up to ReadyForQuery.
    Query,
    /// A function call: likewise.
    Function,
    Sync,
}

/// What becomes of the replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They are the client's.
    Forward,
    /// The request is ours and the client must not see its replies, but for an error: that one it gets.
    Swallow,
    /// The request was sent to fail: this ErrorResponse takes the place of the server's.
    Refuse(Box<[u8]>),
    /// A query of ours that gives one value, for [`Event::Marked`]. The client sees nothing of it, not even an error, and is not read before it is answered.
    Mark,
}

#[derive(Clone, Debug, PartialEq)]
enum Item {
    Owed {
        request: Request,
        fate: Fate,
        token: Option<Token>,
        telling: Telling,
        /// Its text is not quite what the client wrote.
        shift: Option<Box<Shift>>,
    },
    /// An answer of our own, due when everything before it has been answered.
    Answer {
        bytes: Box<[u8]>,
        token: Option<Token>,
    },
}

/// What is told of a request with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Whether it was done or not.
    Outcome,
    /// Only [`Event::Dropped`]: when it was done there is nothing new to know.
    Loss,
}

/// What to do with one message of the server.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Forward,
    Swallow,
    Instead(Box<[u8]>),
}

/// What the session should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request with a token was done. For a simple query: once per CommandComplete, with its ordinal from 0.
    Done {
        token: Token,
        ordinal: u32,
        committed: Committed,
    },
    /// A request with a token will never be done: it failed, or a request before it did.
    Dropped(Token, Reached),
    /// The server reported an error in the current unit of work.
    Failed(Rest),
    /// A prepared statement no longer fits the definitions that it was parsed with; the error is told as well.
    Stale,
    /// A statement that writes was told that nothing can be written now (25006); the error is told as well.
    ReadOnly,
    /// What a request with a token was told of a statement or portal: the bodies of ParameterDescription, if there was one, and of
    /// RowDescription, `None` for NoData. A body that is very long is not whole.
    Described {
        token: Token,
        parameters: Vec<u8>,
        columns: Option<Vec<u8>>,
    },
    /// The server's last words before it closes the connection: the body of its ErrorResponse.
    Fatal(Vec<u8>),
    /// ReadyForQuery arrived for a Sync, query or function call.
    Ready(TransactionStatus),
    /// ReadyForQuery arrived for a Sync that the client does not know of.
    Synced,
    /// A [`Fate::Mark`] was answered: with this value, or `None` when it failed.
    Marked(Option<Box<[u8]>>, TransactionStatus),
    /// The server asks for the client's COPY data.
    CopyIn,
    /// A prepared statement's result has another shape than when it was prepared. What was asked is still owed, the client was told
    /// nothing, and the server is ready: it may be asked again.
    StaleUnseen,
}

/// Whether a request that was not done was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It is the one that failed.
    Yes,
    /// It was skipped behind an error.
    No,
}

/// What a server does with the rest of a unit of work that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The end of the unit was sent: its ReadyForQuery follows.
    Ends,
    /// It ignores all that comes up to the next Sync, which was not sent yet.
    SkipsToSync,
}

/// Whether a CommandComplete's tag was COMMIT: tells a commit from a COMMIT that rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    Yes,
    No,
}

/// The server sent a message that nothing asked for: the connection cannot be trusted any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent an unexpected message of type {0:?}")]
pub struct Unexpected(pub char);

/// What one server connection still owes.
#[derive(Debug, Default)]
pub struct Pipeline {
    queue: VecDeque<Item>,
    copying: Copying,
    unit: Unit,
    /// How many requests in the queue end in a ReadyForQuery for the client.
    closing: usize,
    /// CommandComplete messages seen for the query at the head.
    ordinal: u32,
    course: Course,
    /// The parameters of the statement that is being described, when somebody wants to know them.
    parameters: Vec<u8>,
    /// What a [`Fate::Mark`] was answered so far.
    mark: Option<Box<[u8]>>,
}

/// Whether the unit of work has failed on a stale prepared statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Course {
    #[default]
    Straight,
    /// It has, unseen; the server skips to the unit's end.
    Stale,
    /// It is asked again. Once is enough.
    Again,
}

/// Whether requests were sent whose ReadyForQuery the server has not sent yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Unit {
    #[default]
    None,
    Open,
}

/// Whether the server reads COPY data from the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copying {
    #[default]
    No,
    /// A COPY from the client is about to run: the client's data must wait for CopyInResponse.
    Expected,
    /// CopyInResponse was seen; the client has not yet sent CopyDone or CopyFail.
    In,
}

impl Pipeline {
    /// Notes that a request was put on its way.
    pub fn expect(&mut self, request: Request, fate: Fate, token: Option<Token>) {
        self.expect_telling(request, fate, token, Telling::Outcome);
    }

    /// Likewise, and how much is to be told of it.
    pub fn expect_telling(
        &mut self,
        request: Request,
        fate: Fate,
        token: Option<Token>,
        telling: Telling,
    ) {
        if ends_in_ready(request) && matches!(fate, Fate::Forward | Fate::Mark) {
            self.closing += 1;
        }
        self.unit = Unit::Open;
        self.queue.push_back(Item::Owed {
            request,
            fate,
            token,
            telling,
            shift: None,
        });
    }

    /// What is owed for another unit of work, behind what is owed for this one.
    pub fn append(&mut self, mut other: Pipeline) {
        self.queue.append(&mut other.queue);
        self.closing += other.closing;
        self.unit = Unit::Open;
        if other.copying != Copying::No {
            self.copying = other.copying;
        }
    }

    /// The requests that are owed, but for answers of our own, which may stand between them.
    pub fn requests(&self) -> impl Iterator<Item = (Request, &Fate)> {
        self.queue.iter().filter_map(|item| match item {
            Item::Owed { request, fate, .. } => Some((*request, fate)),
            Item::Answer { .. } => None,
        })
    }

    /// One unit of work is owed, and the client has seen nothing of its answer.
    pub fn is_unanswered(&self) -> bool {
        let client = |item: &Item| {
            matches!(
                item,
                Item::Owed {
                    fate: Fate::Forward,
                    ..
                }
            )
        };
        self.ordinal == 0 && self.queue.front().is_some_and(client)
    }

    /// The request with this token has not been done.
    pub fn owes(&self, wanted: Token) -> bool {
        let is_it = |item: &Item| {
            let (Item::Owed { token, .. } | Item::Answer { token, .. }) = item;
            *token == Some(wanted)
        };
        self.queue.iter().any(is_it)
    }

    /// Nothing of the client's is owed, only a [`Fate::Mark`].
    pub fn owes_only_mark(&self) -> bool {
        let mut requests = self.requests();
        matches!(
            (requests.next(), requests.next()),
            (Some((_, Fate::Mark)), None)
        )
    }

    /// How much is owed.
    pub fn owed(&self) -> usize {
        self.queue.len()
    }

    /// In the texts of what was put on its way when so much was owed already, names were replaced: errors point into the client's.
    pub fn shift(&mut self, owed: usize, by: &Shift) {
        for item in self.queue.iter_mut().skip(owed) {
            if let Item::Owed { shift, .. } = item {
                *shift = Some(Box::new(by.clone()));
            }
        }
    }

    /// Notes an answer of our own that is due after all that was asked before.
    pub fn answer(&mut self, bytes: Box<[u8]>, token: Option<Token>) {
        self.queue.push_back(Item::Answer { bytes, token });
    }

    /// Nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The server works in a transaction that has not ended, though all that was asked may have been answered.
    pub fn is_in_unit(&self) -> bool {
        self.unit == Unit::Open
    }

    pub fn copying(&self) -> Copying {
        self.copying
    }

    /// The request that was put on its way last copies from the client.
    pub fn expect_copy(&mut self) {
        self.copying = Copying::Expected;
    }

    /// The client ended its COPY data.
    pub fn copy_ended(&mut self) {
        self.copying = Copying::No;
    }

    /// Takes the answers of our own that are due now.
    #[inline]
    pub fn due(&mut self, events: &mut Vec<Event>) -> Option<Box<[u8]>> {
        match self.queue.front() {
            Some(Item::Answer { .. }) => self.take_due(events),
            _ => None,
        }
    }

    #[cold]
    fn take_due(&mut self, events: &mut Vec<Event>) -> Option<Box<[u8]>> {
        match self.queue.pop_front() {
            Some(Item::Answer { bytes, token }) => {
                done(token, 0, Committed::No, events);
                Some(bytes)
            }
            _ => None,
        }
    }

    /// The next message of the server says that a prepared statement is stale. When all that the server owes is one unit of work
    /// that begins with it, and the client is told the result's shape in the same unit, the error is kept from the client and
    /// [`Event::StaleUnseen`] follows. `false`: it goes its way.
    pub fn may_ask_again(&mut self) -> bool {
        let owed = |place: usize| match self.queue.get(place) {
            Some(Item::Owed {
                request,
                fate: Fate::Forward,
                ..
            }) => Some(*request),
            _ => None,
        };
        let described = owed(0) == Some(Request::Bind) && owed(1) == Some(Request::DescribePortal);
        let last = self.queue.len().saturating_sub(1);
        let one_unit = (0..last)
            .all(|place| owed(place).is_some_and(|request| !ends_in_ready(request)))
            && owed(last).is_some_and(ends_in_ready);
        let may = self.course == Course::Straight && described && one_unit;
        if may {
            self.course = Course::Stale;
        }
        may
    }

    /// Requests of ours go before all that is owed.
    pub fn ask_again(&mut self, first: &[(Request, Option<Token>)]) {
        for (request, token) in first.iter().rev() {
            self.queue.push_front(Item::Owed {
                request: *request,
                fate: Fate::Swallow,
                token: *token,
                telling: Telling::Outcome,
                shift: None,
            });
        }
    }

    /// Whether [`Pipeline::step`] needs the body of a message of this type; the rest may be passed on in pieces.
    pub fn inspects(&self, tag: u8) -> bool {
        matches!(tag, b'Z' | b'C' | b'S' | b'E' | b'T' | b't') || (tag == b'D' && self.is_marking())
    }

    fn is_marking(&self) -> bool {
        let head = self.queue.front();
        matches!(
            head,
            Some(Item::Owed {
                fate: Fate::Mark,
                ..
            })
        )
    }

    /// Moves on over messages that are the client's and of which no more is to be said, from `at` on; [`Pipeline::step`] would do the same at
    /// greater length. Where that ends, and how many bytes of the last message are not in `chunk`.
    #[inline]
    pub fn step_over(&mut self, chunk: &[u8], mut at: usize) -> (usize, usize) {
        while let Some(Item::Owed {
            request,
            fate: Fate::Forward,
            token,
            telling,
            ..
        }) = self.queue.front()
        {
            let request = *request;
            let unmarked = token.is_none() || *telling == Telling::Loss;
            let ends = unmarked && self.copying == Copying::No;
            loop {
                let left = &chunk[at..];
                let Some([tag, length @ ..]) = left.first_chunk::<HEADER>() else {
                    return (at, 0);
                };
                let length = u32::from_be_bytes(*length);
                if length < 4 {
                    return (at, 0);
                }
                let ended = match (tag, request) {
                    (b'D' | b'd', Request::Query | Request::Execute) | (b'T', Request::Query) => {
                        false
                    }
                    (b'C', Request::Query) if unmarked => {
                        self.ordinal += 1;
                        false
                    }
                    (b'1', Request::Parse)
                    | (b'2', Request::Bind)
                    | (b'T' | b'n', Request::DescribePortal | Request::DescribeStatement)
                    | (b'C', Request::Execute)
                        if ends =>
                    {
                        true
                    }
                    _ => return (at, 0),
                };
                if ended {
                    self.queue.pop_front();
                }
                let whole = 1 + length as usize;
                if whole > left.len() {
                    return (chunk.len(), whole - left.len());
                }
                at += whole;
                if ended {
                    break;
                }
            }
        }
        (at, 0)
    }

    /// Moves on by one message of the server; `body` is whole for the types that are inspected.
    pub fn step(
        &mut self,
        tag: u8,
        body: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<Verdict, Unexpected> {
        let unexpected = Unexpected(char::from(tag));
        if self.course == Course::Stale && matches!(tag, b'E' | b'Z') && !is_fatal(body) {
            if tag == b'Z' {
                self.course = Course::Again;
                events.push(Event::StaleUnseen);
            }
            return Ok(Verdict::Swallow);
        }
        if tag == b'E' && is_fatal(body) {
            events.push(Event::Fatal(body.to_vec()));
            return Ok(Verdict::Swallow);
        }
        let head = match self.queue.front_mut() {
            Some(Item::Owed {
                request,
                fate,
                token,
                telling,
                shift,
            }) => {
                let told = token.filter(|_| *telling == Telling::Outcome);
                (*request, fate, told, shift)
            }
            // Notices, notifications and parameters may come at any time.
            _ if matches!(tag, b'N' | b'A' | b'S') => return Ok(Verdict::Forward),
            _ => return Err(unexpected),
        };
        let (request, fate, token, shift) = head;
        let verdict = match fate {
            Fate::Forward => Verdict::Forward,
            Fate::Swallow | Fate::Refuse(_) | Fate::Mark => Verdict::Swallow,
        };
        let marks = *fate == Fate::Mark;
        let whole_unit = matches!(request, Request::Query | Request::Function);
        match (tag, request) {
            (b'A' | b'S', _) => return Ok(Verdict::Forward),
            (b'N', _) => return Ok(verdict),
            (b'D', Request::Query) if marks => {
                self.mark = first_column(body).map(Box::from);
                return Ok(verdict);
            }
            (b'E', Request::Query) if marks => return Ok(verdict),
            (b'E', _) => {
                let verdict = match fate {
                    Fate::Refuse(bytes) => Verdict::Instead(std::mem::take(bytes)),
                    Fate::Forward | Fate::Swallow | Fate::Mark => shift
                        .as_ref()
                        .and_then(|shift| shift.error(body))
                        .map_or(Verdict::Forward, |error| Verdict::Instead(error.into())),
                };
                self.copying = Copying::No;
                if is_stale(body) {
                    events.push(Event::Stale);
                }
                if is_read_only(body) {
                    events.push(Event::ReadOnly);
                }
                let failed = events.len();
                if !whole_unit {
                    self.skip_to_sync(events);
                }
                let rest = if self.queue.is_empty() {
                    Rest::SkipsToSync
                } else {
                    Rest::Ends
                };
                events.insert(failed, Event::Failed(rest));
                return Ok(verdict);
            }
            (b'Z', Request::Sync | Request::Query | Request::Function) => {
                let status = body
                    .first()
                    .copied()
                    .and_then(TransactionStatus::from_byte)
                    .ok_or(unexpected)?;
                self.queue.pop_front();
                self.ordinal = 0;
                self.course = Course::Straight;
                if self.copying == Copying::In {
                    self.copying = Copying::No;
                }
                self.unit = if self.queue.is_empty() {
                    Unit::None
                } else {
                    Unit::Open
                };
                if verdict == Verdict::Forward {
                    self.closing -= 1;
                    events.push(Event::Ready(status));
                } else if marks {
                    self.closing -= 1;
                    events.push(Event::Marked(self.mark.take(), status));
                } else if request == Request::Sync {
                    events.push(Event::Synced);
                }
                return Ok(verdict);
            }
            (b'C', Request::Query) => {
                done(token, self.ordinal, committed(body), events);
                self.ordinal += 1;
                return Ok(verdict);
            }
            (b'T' | b'D' | b'I' | b'H' | b'd' | b'c', Request::Query)
            | (b'V', Request::Function) => return Ok(verdict),
            (b'G', Request::Query) => {
                self.copying = Copying::In;
                events.push(Event::CopyIn);
                return Ok(verdict);
            }
            (b't', Request::DescribeStatement) => {
                if token.is_some() {
                    self.parameters = body.to_vec();
                }
                return Ok(verdict);
            }
            (b'D' | b'H' | b'd' | b'c', Request::Execute) => return Ok(verdict),
            (b'G', Request::Execute) => {
                // A server that reads COPY data ignores the Syncs that were sent along with Execute.
                self.copying = Copying::In;
                let before = self.queue.len();
                self.queue.retain(|item| {
                    !matches!(
                        item,
                        Item::Owed {
                            request: Request::Sync,
                            ..
                        }
                    )
                });
                self.closing -= before - self.queue.len();
                events.push(Event::CopyIn);
                return Ok(verdict);
            }
            (b'1', Request::Parse)
            | (b'2', Request::Bind)
            | (b'3', Request::Close)
            | (b'I' | b's', Request::Execute) => done(token, 0, Committed::No, events),
            (b'T' | b'n', Request::DescribeStatement | Request::DescribePortal) => {
                events.extend(token.map(|token| Event::Described {
                    token,
                    parameters: std::mem::take(&mut self.parameters),
                    columns: (tag == b'T').then(|| body.to_vec()),
                }));
                done(token, 0, Committed::No, events);
            }
            (b'C', Request::Execute) => {
                if self.copying == Copying::In {
                    self.copying = Copying::No;
                }
                done(token, 0, committed(body), events);
            }
            _ => return Err(unexpected),
        }
        self.queue.pop_front();
        Ok(verdict)
    }

    /// A ReadyForQuery for the client is among what is owed.
    pub fn is_closing(&self) -> bool {
        self.closing > 0
    }

    /// What stands before the next Sync will not be answered; queries and function calls neither. The last is told first, so that
    /// what each of them was thought to do can be undone in turn.
    fn skip_to_sync(&mut self, events: &mut Vec<Event>) {
        let is_sync = |item: &Item| {
            matches!(
                item,
                Item::Owed {
                    request: Request::Sync,
                    ..
                }
            )
        };
        let skipped = self
            .queue
            .iter()
            .position(is_sync)
            .unwrap_or(self.queue.len());
        for (place, item) in self.queue.drain(..skipped).enumerate().rev() {
            if let Item::Owed {
                request: Request::Query | Request::Function,
                fate: Fate::Forward | Fate::Mark,
                ..
            } = item
            {
                self.closing -= 1;
            }
            let (Item::Owed { token, .. } | Item::Answer { token, .. }) = item;
            let reached = if place == 0 {
                Reached::Yes
            } else {
                Reached::No
            };
            events.extend(token.map(|token| Event::Dropped(token, reached)));
        }
    }
}

fn ends_in_ready(request: Request) -> bool {
    matches!(request, Request::Sync | Request::Query | Request::Function)
}

/// Of a DataRow: count, then length and bytes of each value.
fn first_column(body: &[u8]) -> Option<&[u8]> {
    let length = u32::from_be_bytes(body.get(2..6)?.try_into().ok()?);
    body.get(6..)?.get(..usize::try_from(length).ok()?)
}

/// The server closes the connection after an error of this severity. Field `V` is never translated.
fn is_fatal(body: &[u8]) -> bool {
    let mut fields = body.split(|byte| *byte == 0).take(3);
    fields.any(|field| matches!(field, b"VFATAL" | b"VPANIC"))
}

/// "cached plan must not change result type", known by the function that reports it: the message is translated, its SQLSTATE is
/// that of many others.
pub fn is_stale(body: &[u8]) -> bool {
    let mut fields = body.split(|byte| *byte == 0);
    fields.any(|field| field == b"RRevalidateCachedQuery")
}

/// `read_only_sql_transaction`.
fn is_read_only(body: &[u8]) -> bool {
    let mut fields = body.split(|byte| *byte == 0);
    fields.any(|field| field == b"C25006")
}

fn done(token: Option<Token>, ordinal: u32, committed: Committed, events: &mut Vec<Event>) {
    if let Some(token) = token {
        events.push(Event::Done {
            token,
            ordinal,
            committed,
        });
    }
}

fn committed(tag: &[u8]) -> Committed {
    if tag == b"COMMIT\0" {
        Committed::Yes
    } else {
        Committed::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the server's messages and prints one verdict a message.
    fn play(pipeline: &mut Pipeline, script: &[(u8, &[u8])]) -> (String, Vec<Event>) {
        let (mut verdicts, mut events) = (String::new(), Vec::new());
        for (tag, body) in script {
            while let Some(bytes) = pipeline.due(&mut events) {
                verdicts.push_str(&format!("<{}>", String::from_utf8_lossy(&bytes)));
            }
            let length = u32::try_from(body.len() + 4).unwrap();
            let message = [&[*tag][..], &length.to_be_bytes(), body].concat();
            match pipeline.step_over(&message, 0) {
                (0, 0) => {}
                (end, rest) => {
                    assert_eq!((end, rest), (message.len(), 0));
                    verdicts.push(char::from(*tag));
                    continue;
                }
            }
            match pipeline.step(*tag, body, &mut events) {
                Ok(Verdict::Forward) => verdicts.push(char::from(*tag)),
                Ok(Verdict::Swallow) => verdicts.push('.'),
                Ok(Verdict::Instead(bytes)) => {
                    verdicts.push_str(&format!("[{}]", String::from_utf8_lossy(&bytes)))
                }
                Err(unexpected) => verdicts.push_str(&format!("!{}", unexpected.0)),
            }
        }
        (verdicts, events)
    }

    #[test]
    fn a_run_of_messages_is_stepped_over_at_once() {
        let mut pipeline = Pipeline::default();
        for request in [
            Request::Parse,
            Request::Bind,
            Request::DescribePortal,
            Request::Execute,
            Request::Sync,
        ] {
            pipeline.expect(request, Fate::Forward, None);
        }
        let run = b"1\0\0\0\x042\0\0\0\x04T\0\0\0\x06xxD\0\0\0\x05yC\0\0\0\x06zz";
        let mut all = run.to_vec();
        all.extend_from_slice(b"Z\0\0\0\x05I");
        // Of the last only a part.
        for cut in 1..run.len() {
            let mut pipeline = Pipeline::default();
            pipeline.expect(Request::Query, Fate::Forward, None);
            let row = b"D\0\0\0\x0aabcdefT\0\0\0\x04";
            let cut = cut.min(row.len());
            let expected = match cut {
                0..5 => (0, 0),
                5..11 => (cut, 11 - cut),
                11..16 => (11, 0),
                _ => (16, 0),
            };
            assert_eq!(pipeline.step_over(&row[..cut], 0), expected, "{cut}");
        }
        assert_eq!(pipeline.step_over(&all, 0), (run.len(), 0));
        assert_eq!(pipeline.queue.len(), 1, "only Sync is owed");
        // A length that cannot be is left to who looks closer.
        let mut pipeline = Pipeline::default();
        pipeline.expect(Request::Query, Fate::Forward, None);
        assert_eq!(pipeline.step_over(b"D\0\0\0\x03", 0), (0, 0));
    }

    #[test]
    fn a_simple_query_is_forwarded_to_its_end() {
        let mut pipeline = Pipeline::default();
        pipeline.expect(Request::Query, Fate::Forward, Some(Token(7)));
        let script: [(u8, &[u8]); 5] = [
            (b'T', b""),
            (b'D', b""),
            (b'C', b"SELECT 1\0"),
            (b'C', b"COMMIT\0"),
            (b'Z', b"I"),
        ];
        let (verdicts, events) = play(&mut pipeline, &script);
        assert_eq!(verdicts, "TDCCZ");
        assert_eq!(
            events,
            [
                Event::Done {
                    token: Token(7),
                    ordinal: 0,
                    committed: Committed::No
                },
                Event::Done {
                    token: Token(7),
                    ordinal: 1,
                    committed: Committed::Yes
                },
                Event::Ready(TransactionStatus::Idle)
            ]
        );
        assert!(pipeline.is_empty());
    }

    #[test]
    fn an_injected_parse_is_swallowed_and_its_place_kept() {
        let mut pipeline = Pipeline::default();
        pipeline.expect(Request::Query, Fate::Swallow, None);
        pipeline.answer(Box::from(*b"parsed"), Some(Token(1)));
        pipeline.expect(Request::Parse, Fate::Swallow, None);
        pipeline.expect(Request::Bind, Fate::Forward, None);
        pipeline.expect(Request::Execute, Fate::Forward, None);
        pipeline.expect(Request::Sync, Fate::Forward, None);
        let script: [(u8, &[u8]); 7] = [
            (b'C', b"BEGIN\0"),
            (b'Z', b"T"),
            (b'1', b""),
            (b'2', b""),
            (b'D', b""),
            (b'C', b"SELECT 1\0"),
            (b'Z', b"T"),
        ];
        let (verdicts, events) = play(&mut pipeline, &script);
        assert_eq!(verdicts, "..<parsed>.2DCZ");
        assert_eq!(
            events.last(),
            Some(&Event::Ready(TransactionStatus::InTransaction))
        );
    }

    #[test]
    fn an_error_skips_to_sync_and_drops_what_was_ours() {
        let mut pipeline = Pipeline::default();
        pipeline.expect(Request::Bind, Fate::Forward, None);
        pipeline.expect(Request::Parse, Fate::Forward, Some(Token(3)));
        pipeline.answer(Box::from(*b"never"), Some(Token(4)));
        pipeline.expect(Request::Sync, Fate::Forward, None);
        let (verdicts, events) = play(&mut pipeline, &[(b'E', b""), (b'Z', b"E")]);
        assert_eq!(verdicts, "EZ");
        assert_eq!(
            events,
            [
                Event::Failed(Rest::Ends),
                Event::Dropped(Token(4), Reached::No),
                Event::Dropped(Token(3), Reached::No),
                Event::Ready(TransactionStatus::Failed)
            ]
        );
    }

    #[test]
    fn of_some_only_the_loss_is_told() {
        let owed = || {
            let mut pipeline = Pipeline::default();
            pipeline.expect_telling(Request::Parse, Fate::Forward, Some(Token(3)), Telling::Loss);
            pipeline.expect(Request::Sync, Fate::Forward, None);
            pipeline
        };
        let mut done = owed();
        let (verdicts, events) = play(&mut done, &[(b'1', b""), (b'Z', b"I")]);
        assert_eq!(verdicts, "1Z");
        assert_eq!(events, [Event::Ready(TransactionStatus::Idle)]);
        let mut stepped = owed();
        let mut events = Vec::new();
        let verdict = stepped.step(b'1', b"", &mut events);
        assert_eq!((verdict, &events[..]), (Ok(Verdict::Forward), &[][..]));
        let mut lost = owed();
        let (_, events) = play(&mut lost, &[(b'E', b""), (b'Z', b"I")]);
        assert_eq!(
            events,
            [
                Event::Failed(Rest::Ends),
                Event::Dropped(Token(3), Reached::Yes),
                Event::Ready(TransactionStatus::Idle)
            ]
        );
    }

    #[test]
    fn a_query_behind_an_error_is_not_answered() {
        let mut pipeline = Pipeline::default();
        pipeline.expect(Request::Execute, Fate::Forward, None);
        pipeline.expect(Request::Query, Fate::Forward, None);
        let (verdicts, events) = play(&mut pipeline, &[(b'E', b"")]);
        assert_eq!(
            (verdicts.as_str(), events),
            ("E", vec![Event::Failed(Rest::SkipsToSync)])
        );
        assert!(pipeline.is_empty() && !pipeline.is_closing());
        pipeline.expect(Request::Sync, Fate::Forward, None);
        assert_eq!(
            play(&mut pipeline, &[(b'Z', b"I")]).1,
            [Event::Ready(TransactionStatus::Idle)]
        );
    }

    #[test]
    fn a_refusal_takes_the_place_of_the_error_it_provoked() {
        let mut pipeline = Pipeline::default();
        pipeline.expect(Request::Execute, Fate::Refuse(Box::from(*b"no")), None);
        pipeline.expect(Request::Sync, Fate::Forward, None);
        let (verdicts, _) = play(&mut pipeline, &[(b'E', b""), (b'Z', b"I")]);
        assert_eq!(verdicts, "[no]Z");
    }

    #[test]
    fn copy_in_ignores_the_syncs_sent_with_execute() {
        let mut pipeline = Pipeline::default();
        pipeline.expect(Request::Execute, Fate::Forward, None);
        pipeline.expect(Request::Sync, Fate::Forward, None);
        play(&mut pipeline, &[(b'G', b"")]);
        assert_eq!(pipeline.copying(), Copying::In);
        assert!(!pipeline.is_closing());
        pipeline.copy_ended();
        pipeline.expect(Request::Sync, Fate::Forward, None);
        let (verdicts, _) = play(&mut pipeline, &[(b'C', b"COPY 2\0"), (b'Z', b"I")]);
        assert_eq!(verdicts, "CZ");
        assert!(pipeline.is_empty());
    }

    #[test]
    fn last_words_are_kept_from_the_client() {
        let mut pipeline = Pipeline::default();
        pipeline.expect(Request::Query, Fate::Forward, None);
        let words: &[u8] = b"SFATAL\0VFATAL\0C57P01\0Mgoing\0\0";
        let (verdicts, events) = play(&mut pipeline, &[(b'E', words)]);
        assert_eq!(verdicts, ".");
        assert_eq!(events, [Event::Fatal(words.to_vec())]);
    }

    #[test]
    fn what_nobody_asked_for_is_unexpected() {
        let mut pipeline = Pipeline::default();
        assert_eq!(
            pipeline.step(b'D', b"", &mut Vec::new()),
            Err(Unexpected('D'))
        );
        assert_eq!(
            pipeline.step(b'N', b"", &mut Vec::new()),
            Ok(Verdict::Forward)
        );
        pipeline.expect(Request::Bind, Fate::Forward, None);
        assert_eq!(
            pipeline.step(b'1', b"", &mut Vec::new()),
            Err(Unexpected('1'))
        );
    }
}
