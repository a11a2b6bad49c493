//! A unit of work that a server has not said a word to: it may be asked of another one.

use super::again::messages;
use super::pipeline::{Fate, Pipeline, Request};
use super::server::Server;

/// What was sent, or was about to be, and what is owed for it.
#[derive(Debug)]
pub struct Undone {
    bytes: Vec<u8>,
    owed: Pipeline,
}

/// One of its messages.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub tag: u8,
    pub body: &'a [u8],
    pub whose: Whose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Client,
    /// The client does not know of it.
    Ours,
}

impl Undone {
    /// `None` when the bytes are not all that is owed, each message with its place in the queue.
    pub(super) fn of(bytes: Vec<u8>, owed: Pipeline) -> Result<Undone, Pipeline> {
        let is_all = messages(&bytes)
            .filter(|(tag, ..)| *tag != b'H')
            .map(|(tag, body, _)| requests(tag, body))
            .eq(owed.requests().map(|(request, _)| Some(request)));
        if is_all && !bytes.is_empty() {
            Ok(Undone { bytes, owed })
        } else {
            Err(owed)
        }
    }

    pub fn messages(&self) -> impl Iterator<Item = Asked<'_>> {
        let fates = self.owed.requests().map(|(_, fate)| match fate {
            Fate::Forward | Fate::Refuse(_) => Whose::Client,
            Fate::Swallow | Fate::Mark => Whose::Ours,
        });
        messages(&self.bytes)
            .filter(|(tag, ..)| *tag != b'H')
            .zip(fates)
            .map(|((tag, body, _), whose)| Asked { tag, body, whose })
    }

    /// Asks it of this server, behind what it was asked already.
    pub fn ask(self, server: &mut Server) {
        server.push(&self.bytes);
        server.pipeline.append(self.owed);
    }
}

fn requests(tag: u8, body: &[u8]) -> Option<Request> {
    Some(match (tag, body.first()) {
        (b'Q', _) => Request::Query,
        (b'F', _) => Request::Function,
        (b'P', _) => Request::Parse,
        (b'B', _) => Request::Bind,
        (b'C', _) => Request::Close,
        (b'D', Some(b'S')) => Request::DescribeStatement,
        (b'D', _) => Request::DescribePortal,
        (b'E', _) => Request::Execute,
        (b'S', _) => Request::Sync,
        _ => return None,
    })
}
