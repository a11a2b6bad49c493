//! Taking the client's messages from the inbox, one by one, as far as they can be dealt with now.

use std::ops::Range;

use super::Session;
use super::link::Link;
use super::respond::End;
use super::straight::Path;
use crate::execution::client::Coming;
use crate::wire::frame::{self, Frame, FrameError};

impl Session {
    /// Deals with the messages that meet no obstacle, as far as they can be dealt with now.
    pub(super) fn take_straight(&mut self) -> Result<Path, End> {
        // The inbox is lent out so that messages can be borrowed from it while the session works on them.
        let inbox = std::mem::take(&mut self.client.inbox);
        self.held_bytes = inbox.len() as u64;
        let mut taken = 0;
        let result = loop {
            match self.next_message(&inbox, &mut taken) {
                Ok(Some((tag, range))) => {
                    let end = range.end;
                    match self.straight(tag, &inbox[range]) {
                        Path::Done => taken = end,
                        Path::Obstacle => break Ok(Path::Obstacle),
                    }
                }
                Ok(None) => break Ok(Path::Done),
                Err(end) => break Err(end),
            }
        };
        self.client.inbox = inbox;
        self.client.consume(taken, self.coming());
        result
    }

    /// Deals with all messages that can be dealt with now.
    pub(super) async fn take_messages(&mut self) -> Result<(), End> {
        let inbox = std::mem::take(&mut self.client.inbox);
        self.held_bytes = inbox.len() as u64;
        let mut taken = 0;
        let result = self.take_from(&inbox, &mut taken).await;
        // What was read meanwhile stands behind it.
        let ahead = std::mem::replace(&mut self.client.inbox, inbox);
        self.client.consume(taken, self.coming());
        self.client.inbox.extend_from_slice(&ahead);
        result
    }

    async fn take_from(&mut self, inbox: &[u8], taken: &mut usize) -> Result<(), End> {
        while let Some((tag, range)) = self.next_message(inbox, taken)? {
            *taken = range.end;
            self.message(tag, &inbox[range]).await?;
            // It was about this message.
            self.decided = None;
            if self.copy_in.is_some() {
                // What the client has sent of its data is read in front of what is to come.
                self.client
                    .inbox
                    .splice(..0, inbox[*taken..].iter().copied());
                *taken = inbox.len();
                self.copy_rows().await?;
            }
        }
        Ok(())
    }

    /// The next whole message that can be dealt with now. COPY data before it are passed on in parts.
    #[inline(always)]
    fn next_message(
        &mut self,
        inbox: &[u8],
        taken: &mut usize,
    ) -> Result<Option<(u8, Range<usize>)>, End> {
        let limit = self.max_message_size;
        while *taken < inbox.len() {
            if self.copy_rest > 0 {
                let end = inbox.len().min(*taken + self.copy_rest);
                self.copy_rest -= end - *taken;
                self.copy_bytes(&inbox[*taken..end]);
                *taken = end;
                continue;
            }
            let (mut waits, mut copy_waits) = (false, false);
            if let Some(link) = &self.link {
                if link.backlog() > super::HIGH_WATER {
                    return Ok(None);
                }
                let copying = link.is_copying();
                waits = link.is_closing() && !copying;
                copy_waits = waits || (link.expects_copy() && !copying);
            }
            match frame::first(inbox, *taken, limit).map_err(End::Frame)? {
                Frame::Whole { tag, range } => {
                    if waits || (copy_waits && matches!(tag, b'd' | b'c' | b'f')) {
                        return Ok(None);
                    }
                    return Ok(Some((tag, range)));
                }
                Frame::CopyPart { range, rest } => {
                    if copy_waits {
                        return Ok(None);
                    }
                    *taken = range.end;
                    self.copy_rest = rest;
                    self.copy_bytes(&inbox[range]);
                }
                Frame::Partial { .. } => return Ok(None),
            }
        }
        Ok(None)
    }

    async fn message(&mut self, tag: u8, frame: &[u8]) -> Result<(), End> {
        if self.is_party() {
            self.let_cancels_arrive().await?;
        }
        match tag {
            b'Q' | b'F' if self.link.as_ref().is_some_and(Link::is_copying) => {
                Err(End::CopyInterrupted(tag))
            }
            b'Q' | b'F' if self.batch.is_skipping() => Ok(()),
            b'Q' => self.simple(frame).await,
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'S' => self.extended(tag, frame).await,
            b'd' | b'c' | b'f' => {
                self.copy_message(tag, frame);
                Ok(())
            }
            b'F' => self.function_call(frame).await,
            b'X' => Err(End::Client),
            other => Err(End::Frame(FrameError::UnknownType(other))),
        }
    }

    fn coming(&self) -> Coming {
        match &self.link {
            Some(link) if link.is_copying() => Coming::CopyData,
            _ => Coming::Statements,
        }
    }

    /// CopyData, CopyDone or CopyFail.
    pub(super) fn copy_message(&mut self, tag: u8, frame: &[u8]) {
        self.copy_bytes(frame);
        if tag != b'd'
            && let Some(link) = &mut self.link
        {
            link.copy_ended();
        }
    }

    /// COPY data, or the rest of it; without a COPY they are ignored, as Postgres does after a COPY has failed.
    fn copy_bytes(&mut self, bytes: &[u8]) {
        if let Some(link) = self.link.as_mut().filter(|link| link.is_copying()) {
            link.push(bytes);
        }
    }
}
