//! Rows of several shards into one table: what their COPYs send becomes the data of one COPY on another connection.
//!
//! Rows are passed on whole, in the order in which they come, and not looked into. What waits between the connections is bounded: a slow target
//! slows the sources. Source: "COPY" and "Message Formats" in Postgres's manual.

use std::cell::RefCell;
use std::task::{Context, Poll};

use super::branch::{Branch, Failure, broken, pass_on, poll_client};
use super::client::Client;
use crate::plan::spread::gather::CopyFormat;
use crate::wire::frame::HEADER;

/// Bytes for the target above which sources are not read.
const HIGH_WATER: usize = 256 * 1024;

/// Rows are sent on in messages of about this size.
const BATCH: usize = 64 * 1024;

/// What every binary COPY begins with; flags and the length of an extension follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Flags and the length of an extension, both zero.
const NOTHING_MORE: &[u8] = &[0; 8];

/// Instead of a row's number of columns.
const TRAILER: &[u8] = &[0xff, 0xff];

/// How much may travel for one query.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub rows: u64,
    pub bytes: u64,
}

/// What has travelled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Size {
    pub rows: u64,
    pub bytes: u64,
}

impl Size {
    /// Whether a query with these rows of `table`, and others `before`, is within the limits.
    pub fn check(self, before: Size, table: &str, limits: Limits) -> Result<(), Failure> {
        let (rows, bytes) = (self.rows + before.rows, self.bytes + before.bytes);
        let limit = if rows > limits.rows {
            format!("more than {} rows (gather.max_rows)", limits.rows)
        } else if bytes > limits.bytes {
            format!("more than {} bytes (gather.max_bytes)", limits.bytes)
        } else {
            return Ok(());
        };
        Err(Failure::Ours {
            sqlstate: "53400",
            message: format!(
                "the query needs {limit} of its tables on one shard; table {table} has sent {} rows in {} bytes so far",
                self.rows, self.bytes
            ),
            hint: Some("Compare columns of the table with values in WHERE, or raise the limit."),
        })
    }
}

/// Rows on their way into one table.
#[derive(Debug)]
pub struct Filling<'a> {
    /// Its name, for people.
    table: &'a str,
    format: CopyFormat,
    limits: Limits,
    /// What other tables of the query have taken.
    before: Size,
    size: Size,
    /// A message for the target that is not yet on its way; its head comes last.
    batch: Vec<u8>,
    stage: Stage,
    /// By source.
    streams: Vec<Stream>,
}

/// Where the target's COPY stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has not asked for data yet. => Open
    Asked,
    Open,
    /// It has all.
    Ended,
}

/// Where a source's COPY stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    /// A binary one's signature is to come. => Rows
    Head,
    Rows,
    /// A binary one's trailer has come.
    Trailed,
}

impl<'a> Filling<'a> {
    pub fn new(
        table: &'a str,
        format: CopyFormat,
        sources: usize,
        before: Size,
        limits: Limits,
    ) -> Filling<'a> {
        let begin = match format {
            CopyFormat::Binary => Stream::Head,
            CopyFormat::Text => Stream::Rows,
        };
        Filling {
            table,
            format,
            limits,
            before,
            size: Size::default(),
            batch: vec![0; HEADER],
            stage: Stage::Asked,
            streams: vec![begin; sources],
        }
    }

    pub fn size(&self) -> Size {
        self.size
    }

    /// Takes a message of a source's data: one row, with what a COPY has around its rows.
    fn take(&mut self, source: usize, data: &[u8]) -> Result<(), Failure> {
        let row = match self.streams[source] {
            Stream::Head => {
                let rest = data
                    .strip_prefix(SIGNATURE)
                    .and_then(|data| data.strip_prefix(NOTHING_MORE));
                self.streams[source] = Stream::Rows;
                rest.ok_or_else(|| unreadable("it does not begin as a binary COPY"))?
            }
            Stream::Rows => data,
            Stream::Trailed => return Err(unreadable("data follow its end")),
        };
        if self.format == CopyFormat::Binary && row == TRAILER {
            self.streams[source] = Stream::Trailed;
            return Ok(());
        }
        if row.is_empty() {
            return Ok(());
        }
        self.size.rows += 1;
        self.size.bytes += row.len() as u64;
        self.batch.extend_from_slice(row);
        self.size.check(self.before, self.table, self.limits)
    }

    /// Puts what was taken on its way.
    fn send(&mut self, target: &mut Branch<'_>) {
        if self.batch.len() > HEADER {
            let length = u32::try_from(self.batch.len() - 1).unwrap_or(u32::MAX);
            self.batch[0] = b'd';
            self.batch[1..HEADER].copy_from_slice(&length.to_be_bytes());
            target.server.push(&self.batch);
            self.batch.truncate(HEADER);
            self.batch.shrink_to(2 * BATCH);
        }
    }

    /// Every source has sent all: the end of the data.
    fn end(&mut self, target: &mut Branch<'_>) -> Result<(), Failure> {
        if self.format == CopyFormat::Binary {
            if self.streams.iter().any(|stream| *stream != Stream::Trailed) {
                return Err(unreadable("it ends before its end"));
            }
            self.batch.extend_from_slice(TRAILER);
        }
        self.send(target);
        target.server.push(&[b'c', 0, 0, 0, 4]);
        target.server.pipeline.copy_ended();
        self.stage = Stage::Ended;
        Ok(())
    }
}

/// Moves rows until every source has sent all of its and the target has stored them. The sources have been asked to copy out, the target to
/// copy in. Stops at the first error; what the others still owe is up to the caller.
pub async fn fill(
    client: &mut Client,
    sources: &mut [Branch<'_>],
    target: &mut Branch<'_>,
    scratch: &RefCell<Box<[u8]>>,
    filling: &mut Filling<'_>,
) -> Result<(), Failure> {
    std::future::poll_fn(|cx| {
        loop {
            if let Err(error) = poll_client(cx, client, scratch) {
                return Poll::Ready(Err(Failure::Client(error)));
            }
            match poll_once(cx, client, sources, target, scratch, filling) {
                Ok(Moved::All) => return Poll::Ready(Ok(())),
                Ok(Moved::Something) => {}
                Ok(Moved::Nothing) => return Poll::Pending,
                Err(failure) => return Poll::Ready(Err(failure)),
            }
        }
    })
    .await
}

/// What came of one look at all connections.
enum Moved {
    All,
    Something,
    Nothing,
}

fn poll_once(
    cx: &mut Context<'_>,
    client: &mut Client,
    sources: &mut [Branch<'_>],
    target: &mut Branch<'_>,
    scratch: &RefCell<Box<[u8]>>,
    filling: &mut Filling<'_>,
) -> Result<Moved, Failure> {
    let mut moved = hear_target(cx, client, target, scratch, filling, sources.len())?;
    let mut waiting = false;
    for (number, source) in sources.iter_mut().enumerate() {
        while !source.is_done() {
            if filling.stage != Stage::Open || target.server.backlog() >= HIGH_WATER {
                if let Poll::Ready(Err(error)) = source.server.poll_flush(cx) {
                    return Err(broken(number, source, error));
                }
                waiting = true;
                break;
            }
            let heard = match source.poll_message(cx, scratch) {
                Poll::Pending => {
                    waiting = true;
                    break;
                }
                Poll::Ready(Ok(heard)) => heard,
                Poll::Ready(Err(error)) => return Err(broken(number, source, error)),
            };
            moved = true;
            let body = source.body(&heard);
            match heard.tag {
                b'd' => filling.take(number, body)?,
                b'E' => {
                    let error = body.to_vec();
                    return Err(Failure::Server {
                        branch: number,
                        error,
                    });
                }
                b'N' | b'A' => pass_on(heard.tag, body, &mut client.outbox),
                // What was asked besides has been done, and the COPY begins or ends.
                _ => {}
            }
            if filling.batch.len() >= BATCH {
                filling.send(target);
            }
        }
    }
    if filling.stage == Stage::Open {
        filling.send(target);
        if !waiting {
            filling.end(target)?;
            moved = true;
        }
        if let Poll::Ready(Err(error)) = target.server.poll_flush(cx) {
            return Err(broken(sources.len(), target, error));
        }
    }
    Ok(match (filling.stage, moved) {
        (Stage::Ended, _) if target.is_done() => Moved::All,
        (_, true) => Moved::Something,
        (_, false) => Moved::Nothing,
    })
}

/// Whether the target has said something.
fn hear_target(
    cx: &mut Context<'_>,
    client: &mut Client,
    target: &mut Branch<'_>,
    scratch: &RefCell<Box<[u8]>>,
    filling: &mut Filling<'_>,
    number: usize,
) -> Result<bool, Failure> {
    let mut moved = false;
    while !target.is_done() {
        let heard = match target.poll_message(cx, scratch) {
            Poll::Pending => break,
            Poll::Ready(Ok(heard)) => heard,
            Poll::Ready(Err(error)) => return Err(broken(number, target, error)),
        };
        moved = true;
        let body = target.body(&heard);
        match heard.tag {
            b'G' => {
                filling.stage = Stage::Open;
                if filling.format == CopyFormat::Binary {
                    filling.batch.extend_from_slice(SIGNATURE);
                    filling.batch.extend_from_slice(NOTHING_MORE);
                }
            }
            b'E' => {
                let error = body.to_vec();
                return Err(Failure::Server {
                    branch: number,
                    error,
                });
            }
            b'N' | b'A' => pass_on(heard.tag, body, &mut client.outbox),
            _ => {}
        }
    }
    Ok(moved)
}

fn unreadable(what: &str) -> Failure {
    Failure::Ours {
        sqlstate: "08P01",
        message: format!("a shard's COPY cannot be read: {what}"),
        hint: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        rows: 3,
        bytes: 100,
    };

    fn head() -> Vec<u8> {
        [SIGNATURE, NOTHING_MORE].concat()
    }

    fn filling(format: CopyFormat) -> Filling<'static> {
        Filling::new("t", format, 2, Size::default(), LIMITS)
    }

    #[test]
    fn heads_and_trailers_of_sources_are_left_out() {
        let mut filling = filling(CopyFormat::Binary);
        let first = [head(), b"\0\x01row".to_vec()].concat();
        let empty = [head(), TRAILER.to_vec()].concat();
        for (source, data) in [
            (0, &first[..]),
            (1, &empty),
            (0, b"\0\x01other"),
            (0, TRAILER),
        ] {
            filling.take(source, data).expect("it can be read");
        }
        assert_eq!(&filling.batch[HEADER..], b"\0\x01row\0\x01other");
        assert_eq!((filling.size.rows, filling.size.bytes), (2, 12));
        assert_eq!(filling.streams, [Stream::Trailed, Stream::Trailed]);
        assert!(filling.take(0, b"\0\x01late").is_err());
    }

    #[test]
    fn what_is_no_copy_is_an_error() {
        let mut binary = filling(CopyFormat::Binary);
        assert!(binary.take(0, b"something else").is_err());
    }

    #[test]
    fn limits_name_the_table_and_its_size() {
        let mut text = filling(CopyFormat::Text);
        for _ in 0..3 {
            text.take(0, b"a\tb\n").expect("within the limit");
        }
        let Err(Failure::Ours {
            sqlstate, message, ..
        }) = text.take(1, b"c\td\n")
        else {
            panic!("the fourth row is too many");
        };
        assert_eq!(sqlstate, "53400");
        assert_eq!(
            message,
            "the query needs more than 3 rows (gather.max_rows) of its tables on one shard; table t has sent 4 rows in 16 bytes so far"
        );
        let mut text = filling(CopyFormat::Text);
        assert!(text.take(0, &[b'x'; 101]).is_err());
    }
}
