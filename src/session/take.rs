//! Taking the client's messages from the inbox, one by one, as far as they can be dealt with now.

use super::Session;
use super::link::Link;
use super::respond::End;
use crate::wire::frame::{self, Frame, FrameError};

impl Session {
    /// Deals with all messages that can be dealt with now.
    pub(super) async fn take_messages(&mut self) -> Result<(), End> {
        if self.client.inbox.is_empty() {
            return Ok(());
        }
        // The inbox is lent out so that messages can be borrowed from it while the session works on them.
        let inbox = std::mem::take(&mut self.client.inbox);
        let mut taken = 0;
        let result = self.take_from(&inbox, &mut taken).await;
        self.client.inbox = inbox;
        self.client.consume(taken);
        result
    }

    async fn take_from(&mut self, inbox: &[u8], taken: &mut usize) -> Result<(), End> {
        let limit = self.max_message_size;
        while *taken < inbox.len() {
            if self.copy_rest > 0 {
                let end = inbox.len().min(*taken + self.copy_rest);
                self.copy_rest -= end - *taken;
                self.copy_bytes(&inbox[*taken..end]);
                *taken = end;
                continue;
            }
            let (closing, copying) = self.link.as_ref().map_or((false, false), |link| {
                (link.is_closing(), link.is_copying())
            });
            let copy_waits = closing || self.link.as_ref().is_some_and(|link| link.expects_copy());
            if self
                .link
                .as_ref()
                .is_some_and(|link| link.backlog() > super::HIGH_WATER)
            {
                return Ok(());
            }
            match frame::first(inbox, *taken, limit).map_err(End::Frame)? {
                Frame::Whole { tag, range } => {
                    let data_waits = copy_waits && matches!(tag, b'd' | b'c' | b'f');
                    if (closing || data_waits) && !copying {
                        return Ok(());
                    }
                    *taken = range.end;
                    self.message(tag, &inbox[range]).await?;
                }
                Frame::CopyPart { range, rest } => {
                    if copy_waits && !copying {
                        return Ok(());
                    }
                    *taken = range.end;
                    self.copy_rest = rest;
                    self.copy_bytes(&inbox[range]);
                }
                Frame::Partial { .. } => return Ok(()),
            }
        }
        Ok(())
    }

    async fn message(&mut self, tag: u8, frame: &[u8]) -> Result<(), End> {
        match tag {
            b'Q' | b'F' if self.link.as_ref().is_some_and(Link::is_copying) => {
                Err(End::CopyInterrupted(tag))
            }
            b'Q' | b'F' if self.batch.is_skipping() => Ok(()),
            b'Q' => self.simple(frame).await,
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'S' => self.extended(tag, frame).await,
            b'd' => {
                self.copy_bytes(frame);
                Ok(())
            }
            b'c' | b'f' => {
                self.copy_bytes(frame);
                if let Some(link) = &mut self.link {
                    link.copy_ended();
                }
                Ok(())
            }
            b'F' => self.function_call(frame).await,
            b'X' => Err(End::Client),
            other => Err(End::Frame(FrameError::UnknownType(other))),
        }
    }

    /// COPY data, or the rest of it; without a COPY they are ignored, as Postgres does after a COPY has failed.
    fn copy_bytes(&mut self, bytes: &[u8]) {
        if let Some(link) = self.link.as_mut().filter(|link| link.is_copying()) {
            link.push(bytes);
        }
    }
}
