//! Statements on several shards at once: one branch for each server connection that takes part.
//!
//! A branch reads whole messages, because what several shards say has to be put together; nothing is read ahead of what is asked for, so
//! that a slow client slows the shards. All branches use the extended protocol with the unnamed statement, and the unnamed portal unless rows are taken in portions (`portions.rs`).

use std::cell::RefCell;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use super::client::{Client, ClientError};
use crate::backend::pipeline::{Event, Fate, Request};
use crate::backend::server::{Server, ServerError};
use crate::plan::Refusal;
use crate::wire::frame::HEADER;
use crate::wire::message::{self, Close, Describe, Execute, Target};

/// Bytes for a client above which shards are not read.
const HIGH_WATER: usize = 64 * 1024;

/// What is read of a client ahead of its turn, while shards work for it: enough to see it leave.
const READ_AHEAD: usize = 8 * 1024;

/// Read bytes that stand in front of what is unread, above which they are dropped.
const READ_LIMIT: usize = 64 * 1024;

/// What is heard at most before others on the thread have their turn, bytes.
const TURN: usize = 256 * 1024;

/// Why the branches' work came to an end before its time.
#[derive(Debug)]
pub enum Failure {
    /// The body of a shard's ErrorResponse.
    Server {
        branch: usize,
        error: Vec<u8>,
    },
    /// With the server's last words, the body of an ErrorResponse.
    Broken {
        branch: usize,
        error: ServerError,
        words: Option<Vec<u8>>,
    },
    Client(ClientError),
    /// What turns out to be refused.
    Refused(Refusal),
    /// What Trunkline itself has against it.
    Ours {
        sqlstate: &'static str,
        message: String,
        hint: Option<&'static str>,
    },
}

impl Failure {
    /// The same of the branch at this place among others.
    pub fn at(mut self, place: usize) -> Failure {
        if let Failure::Server { branch, .. } | Failure::Broken { branch, .. } = &mut self {
            *branch = place;
        }
        self
    }
}

/// A statement as a shard is asked it.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    pub text: &'a [u8],
    /// The parameters' types; 0 or missing where the server finds them.
    pub types: &'a [u32],
    /// What Bind has between the names and the result formats: formats and values of parameters.
    pub parameters: &'a [u8],
    /// One for all, one for each column, or none, which is text.
    pub formats: &'a [u16],
}

/// Who hears what branches say.
pub trait Audience {
    /// Whether it can take something of this branch now.
    fn wants(&self, _branch: usize) -> bool {
        true
    }

    /// One message, its type and body. What is for the client is appended to `out`. Errors, notices and ReadyForQuery are not for it.
    fn hear(
        &mut self,
        branch: usize,
        tag: u8,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Failure>;

    /// Whether notices of the branches are for the client.
    fn hears_notices(&self) -> bool {
        true
    }

    /// No more is needed of any branch.
    fn is_satisfied(&self) -> bool {
        false
    }
}

/// One server connection's part in a statement.
pub struct Branch<'a> {
    pub server: &'a mut Server,
    /// What the server has said, from `at` on not yet looked at.
    unread: Vec<u8>,
    at: usize,
    words: Option<Vec<u8>>,
}

/// One message of a branch: its type, and where its body is.
#[derive(Clone, Debug)]
pub struct Heard {
    pub tag: u8,
    body: Range<usize>,
}

impl<'a> Branch<'a> {
    /// The connection owes nothing.
    pub fn new(server: &'a mut Server) -> Branch<'a> {
        Branch {
            server,
            unread: Vec::new(),
            at: 0,
            words: None,
        }
    }

    fn expect(&mut self, request: Request) {
        self.server.pipeline.expect(request, Fate::Forward, None);
    }

    /// Asks for the types of parameters and of the result: ParameterDescription, then RowDescription or NoData.
    pub fn describe(&mut self, text: &[u8], types: &[u32]) {
        self.parse(text, types);
        Describe {
            target: Target::Statement,
            name: b"",
        }
        .encode(self.server.outbox());
        self.expect(Request::DescribeStatement);
        self.sync();
    }

    /// Runs a statement; the result is not described again.
    pub fn ask(&mut self, question: &Question<'_>) {
        self.parse(question.text, question.types);
        self.bind_and_execute(question);
        self.sync();
    }

    fn bind_and_execute(&mut self, question: &Question<'_>) {
        encode_bind("", question, self.server.outbox());
        self.expect(Request::Bind);
        Execute {
            portal: b"",
            max_rows: 0,
        }
        .encode(self.server.outbox());
        self.expect(Request::Execute);
    }

    /// Runs a statement once for each of these values, which stand behind the formats of all: what Bind has between the names and the result formats.
    pub fn ask_each(&mut self, question: &Question<'_>, rows: &[Vec<u8>]) {
        self.parse(question.text, question.types);
        for row in rows {
            let parameters = [question.parameters, row].concat();
            let question = Question {
                parameters: &parameters,
                ..question.clone()
            };
            self.bind_and_execute(&question);
        }
        self.sync();
    }

    /// Opens a portal by a name of ours, of which rows can be asked for as long as the transaction block lasts.
    pub fn open(&mut self, portal: &str, question: &Question<'_>) {
        self.bind_to(portal, question);
        self.sync();
    }

    fn bind_to(&mut self, portal: &str, question: &Question<'_>) {
        self.parse(question.text, question.types);
        encode_bind(portal, question, self.server.outbox());
        self.expect(Request::Bind);
    }

    /// Declares a cursor, and opens a portal for all that it gives: when the first row of it is there the cursor has been read to its end.
    pub fn open_over(&mut self, portal: &str, declare: &Question<'_>, fetch: &str) {
        self.parse(declare.text, declare.types);
        self.bind_and_execute(&Question {
            formats: &[],
            ..declare.clone()
        });
        self.bind_to(
            portal,
            &Question {
                text: fetch.as_bytes(),
                types: &[],
                parameters: &[0, 0, 0, 0],
                formats: declare.formats,
            },
        );
        self.draw(portal, 1);
    }

    /// Asks for rows of a portal.
    pub fn draw(&mut self, portal: &str, max_rows: i32) {
        Execute {
            portal: portal.as_bytes(),
            max_rows,
        }
        .encode(self.server.outbox());
        self.expect(Request::Execute);
        self.sync();
    }

    pub fn close(&mut self, portal: &str) {
        Close {
            target: Target::Portal,
            name: portal.as_bytes(),
        }
        .encode(self.server.outbox());
        self.expect(Request::Close);
        self.sync();
    }

    /// Runs statements of ours, by the simple protocol.
    pub fn query(&mut self, sql: &str) {
        self.server.unnamed = None;
        message::encode_query(sql.as_bytes(), self.server.outbox());
        self.expect(Request::Query);
    }

    /// Runs EXECUTE of a statement that is there for that long only.
    pub fn execute_once(
        &mut self,
        name: &str,
        (text, types): (&[u8], &[u32]),
        execute: &[u8],
        formats: &[u16],
    ) {
        self.parse_as(name, text, types);
        self.sync();
        self.ask(&Question {
            text: execute,
            types: &[],
            parameters: &[0, 0, 0, 0],
            formats,
        });
        Close {
            target: Target::Statement,
            name: name.as_bytes(),
        }
        .encode(self.server.outbox());
        self.expect(Request::Close);
        self.sync();
    }

    fn parse(&mut self, text: &[u8], types: &[u32]) {
        self.server.unnamed = None;
        self.parse_as("", text, types);
    }

    fn parse_as(&mut self, name: &str, text: &[u8], types: &[u32]) {
        let mut after_name = Vec::with_capacity(text.len() + 3 + 4 * types.len());
        after_name.extend_from_slice(text);
        after_name.push(0);
        // Bind has no room for more than 65,535 values, and these are checked before.
        let count = u16::try_from(types.len()).unwrap_or(u16::MAX);
        after_name.extend_from_slice(&count.to_be_bytes());
        for oid in types.iter().take(usize::from(count)) {
            after_name.extend_from_slice(&oid.to_be_bytes());
        }
        message::encode_parse(name.as_bytes(), &after_name, self.server.outbox());
        self.expect(Request::Parse);
    }

    fn sync(&mut self) {
        message::encode_sync(self.server.outbox());
        self.expect(Request::Sync);
    }

    /// All that was asked has been answered.
    pub fn is_done(&self) -> bool {
        self.at == self.unread.len() && self.server.is_settled()
    }

    pub fn body(&self, heard: &Heard) -> &[u8] {
        &self.unread[heard.body.clone()]
    }

    /// The next message; to be called only while something is owed.
    pub fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &RefCell<Box<[u8]>>,
    ) -> Poll<Result<Heard, ServerError>> {
        loop {
            if let Some(heard) = self.take() {
                return Poll::Ready(Ok(heard));
            }
            if let Poll::Ready(Err(error)) = self.server.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            let mut scratch = scratch.borrow_mut();
            let mut events = Vec::new();
            let read = self
                .server
                .poll_read(cx, &mut scratch, &mut self.unread, &mut events);
            for event in events {
                if let Event::Fatal(words) = event {
                    self.words = Some(words);
                }
            }
            let run = ready!(read)?;
            self.unread.extend_from_slice(&scratch[run]);
        }
    }

    /// The next message, if it is there whole.
    fn take(&mut self) -> Option<Heard> {
        let left = &self.unread[self.at..];
        let whole = match left {
            [_, a, b, c, d, ..] => 1 + u32::from_be_bytes([*a, *b, *c, *d]) as usize,
            _ => HEADER,
        };
        if left.len() < whole {
            if self.at == self.unread.len() {
                self.unread.clear();
                self.at = 0;
            } else if self.at >= READ_LIMIT {
                self.unread.drain(..self.at);
                self.at = 0;
            }
            return None;
        }
        let heard = Heard {
            tag: left[0],
            body: self.at + HEADER..self.at + whole,
        };
        self.at += whole;
        Some(heard)
    }
}

/// Bind with the unnamed statement.
fn encode_bind(portal: &str, question: &Question<'_>, out: &mut Vec<u8>) {
    let formats = question.formats;
    let length = 4 + portal.len() + 2 + question.parameters.len() + 2 + 2 * formats.len();
    out.push(b'B');
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(portal.as_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(question.parameters);
    out.extend_from_slice(
        &u16::try_from(formats.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    for format in formats {
        out.extend_from_slice(&format.to_be_bytes());
    }
}

/// Lets all branches speak, until they have answered everything or the audience is satisfied. Stops at the first error: what the others
/// still owe is then up to [`quiet`].
pub async fn attend(
    client: &mut Client,
    branches: &mut [Branch<'_>],
    scratch: &RefCell<Box<[u8]>>,
    audience: &mut impl Audience,
) -> Result<(), Failure> {
    std::future::poll_fn(|cx| poll_attend(cx, client, branches, scratch, audience)).await
}

fn poll_attend(
    cx: &mut Context<'_>,
    client: &mut Client,
    branches: &mut [Branch<'_>],
    scratch: &RefCell<Box<[u8]>>,
    audience: &mut impl Audience,
) -> Poll<Result<(), Failure>> {
    let mut taken = 0;
    loop {
        if client.outbox.len() >= HIGH_WATER {
            poll_client(cx, client, scratch).map_err(Failure::Client)?;
            if client.is_behind() {
                // Still requests must leave.
                for (number, branch) in branches.iter_mut().enumerate() {
                    if let Poll::Ready(Err(error)) = branch.server.poll_flush(cx) {
                        return Poll::Ready(Err(broken(number, branch, error)));
                    }
                }
                return Poll::Pending;
            }
        }
        let mut moved = false;
        for (number, branch) in branches.iter_mut().enumerate() {
            while !branch.is_done()
                && audience.wants(number)
                && client.outbox.len() < HIGH_WATER
                && !audience.is_satisfied()
                && taken < TURN
            {
                let heard = match branch.poll_message(cx, scratch) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(heard)) => heard,
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(broken(number, branch, error)));
                    }
                };
                moved = true;
                let body = branch.body(&heard);
                taken += HEADER + body.len();
                match heard.tag {
                    b'E' => {
                        let error = body.to_vec();
                        return Poll::Ready(Err(Failure::Server {
                            branch: number,
                            error,
                        }));
                    }
                    // What changed is found out at the end.
                    b'Z' | b'S' => {}
                    b'N' if !audience.hears_notices() => {}
                    b'N' | b'A' => pass_on(heard.tag, body, &mut client.outbox),
                    tag => audience.hear(number, tag, body, &mut client.outbox)?,
                }
            }
        }
        if audience.is_satisfied() || branches.iter().all(Branch::is_done) {
            return Poll::Ready(Ok(()));
        }
        // What has come for the client leaves together, not row by row.
        if !moved || taken >= TURN {
            poll_client(cx, client, scratch).map_err(Failure::Client)?;
            if moved {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
    }
}

/// Sends the client what waits for it, and looks whether it is still there: one that leaves is not worked for any longer.
pub(super) fn poll_client(
    cx: &mut Context<'_>,
    client: &mut Client,
    scratch: &RefCell<Box<[u8]>>,
) -> Result<(), ClientError> {
    if let Poll::Ready(Err(error)) = client.poll_flush(cx) {
        return Err(error);
    }
    while client.inbox.len() < READ_AHEAD
        && let Poll::Ready(filled) = client.poll_fill(cx, &mut scratch.borrow_mut())
    {
        filled?;
    }
    Ok(())
}

/// A message as it was.
pub fn pass_on(tag: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
}

pub(super) fn broken(number: usize, branch: &mut Branch<'_>, error: ServerError) -> Failure {
    Failure::Broken {
        branch: number,
        error,
        words: branch.words.take(),
    }
}

/// Reads what the branches still owe, and throws it away. A branch that breaks meanwhile is left as it is: unsettled.
pub async fn quiet(branches: &mut [Branch<'_>], scratch: &RefCell<Box<[u8]>>) {
    for branch in branches {
        std::future::poll_fn(|cx| {
            while !branch.is_done() {
                match ready!(branch.poll_message(cx, scratch)) {
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}
