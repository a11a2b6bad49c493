//! What an administrator's connection says, checked before pgwire's decoders see it.
//!
//! Those decoders believe lengths, read past the message when a NUL is missing, panic on counts that are not there, and reserve memory for as
//! many rows as Execute asks for. So they get exactly one whole message, which our own strict decoders have accepted.

use std::io;

use bytes::BytesMut;
use pgwire::error::PgWireError;
use pgwire::messages::PgWireFrontendMessage;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::codec::Decoder;

use crate::wire::frame::{self, Frame, FrameError, HEADER};
use crate::wire::message::{self, ProtocolViolation};

/// The largest message, bytes: commands are short, only statements to be explained are not.
const LARGEST: usize = 1 << 20;

/// More rows than any answer has.
const MOST_ROWS: i32 = 1 << 20;

/// Why nothing more is read from a connection.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("unexpected message of type {0:?}")]
    Unexpected(char),
    #[error("message of type {0:?} cannot be decoded")]
    Undecoded(char),
}

/// A message, or what is wrong with one that can be passed over.
#[derive(Debug)]
pub enum Heard {
    Message(PgWireFrontendMessage),
    Malformed { tag: u8, violation: Violation },
}

/// What is wrong inside a message whose frame is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error(transparent)]
    Protocol(#[from] ProtocolViolation),
    #[error("the text is not valid UTF-8")]
    NotUtf8,
}

impl Violation {
    pub fn sqlstate(self) -> &'static str {
        match self {
            Violation::Protocol(violation) => violation.sqlstate(),
            Violation::NotUtf8 => "22021",
        }
    }
}

/// What has arrived and was not yet read.
#[derive(Default)]
pub struct Inbox(BytesMut);

impl Inbox {
    /// Waits until a whole message is there. `None`: the client has closed the connection. Loses nothing when it is dropped while it waits.
    pub async fn fill(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<Option<()>, Unreadable> {
        loop {
            match frame::first(&self.0, 0, LARGEST)? {
                Frame::Whole { .. } => return Ok(Some(())),
                Frame::CopyPart { .. } => return Err(Unreadable::Unexpected('d')),
                Frame::Partial { needed } => self
                    .0
                    .reserve(needed.unwrap_or(HEADER).saturating_sub(self.0.len())),
            }
            if stream.read_buf(&mut self.0).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Takes the message that [`Inbox::fill`] has waited for.
    pub fn take<D>(&mut self, decoder: &mut D) -> Result<Option<Heard>, Unreadable>
    where
        D: Decoder<Item = PgWireFrontendMessage, Error = PgWireError>,
    {
        let Frame::Whole { tag, range } = frame::first(&self.0, 0, LARGEST)? else {
            return Ok(None);
        };
        let mut whole = self.0.split_to(range.end);
        if let Err(violation) = check(tag, &whole[HEADER..])? {
            return Ok(Some(Heard::Malformed { tag, violation }));
        }
        let decoded = decoder
            .decode(&mut whole)
            .ok()
            .flatten()
            .filter(|_| whole.is_empty());
        let mut decoded = decoded.ok_or(Unreadable::Undecoded(char::from(tag)))?;
        if let PgWireFrontendMessage::Execute(execute) = &mut decoded {
            // Nought, less, and more than there can be all ask for every row.
            execute.max_rows = if (1..=MOST_ROWS).contains(&execute.max_rows) {
                execute.max_rows
            } else {
                0
            };
        }
        Ok(Some(Heard::Message(decoded)))
    }
}

/// Whether a body is what its type promises. The outer error is of messages that have no business here.
fn check(tag: u8, body: &[u8]) -> Result<Result<(), Violation>, Unreadable> {
    let sound = match tag {
        b'Q' => message::Query::decode(body).map(|query| vec![query.text]),
        b'P' => message::Parse::decode(body).map(|parse| vec![parse.name, parse.text]),
        b'B' => message::Bind::decode(body).map(|bind| vec![bind.portal, bind.statement]),
        b'D' => message::Describe::decode(body).map(|describe| vec![describe.name]),
        b'C' => message::Close::decode(body).map(|close| vec![close.name]),
        b'E' => message::Execute::decode(body).map(|execute| vec![execute.portal]),
        b'H' | b'S' | b'X' => message::empty(body).map(|()| Vec::new()),
        other => return Err(Unreadable::Unexpected(char::from(other))),
    };
    Ok(match sound {
        Ok(texts) if texts.iter().all(|text| std::str::from_utf8(text).is_ok()) => Ok(()),
        Ok(_) => Err(Violation::NotUtf8),
        Err(violation) => Err(violation.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgwire::api::{ClientInfo, DefaultClient, PgWireConnectionState};
    use pgwire::tokio::server::PgWireMessageServerCodec;
    use proptest::prelude::*;

    fn codec() -> PgWireMessageServerCodec<()> {
        let mut client = DefaultClient::new(([127, 0, 0, 1], 0).into(), false);
        client.set_state(PgWireConnectionState::ReadyForQuery);
        PgWireMessageServerCodec::new(client)
    }

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![tag];
        frame.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        frame.extend_from_slice(body);
        frame
    }

    fn hear(bytes: &[u8]) -> Result<Option<Heard>, Unreadable> {
        Inbox(BytesMut::from(bytes)).take(&mut codec())
    }

    #[test]
    fn a_text_ends_with_its_message() {
        let mut bytes = frame(b'Q', b"SHOW");
        bytes.extend_from_slice(b" POOLS; RELOAD\0");
        assert!(matches!(
            hear(&bytes),
            Ok(Some(Heard::Malformed { tag: b'Q', .. }))
        ));
    }

    #[test]
    fn rows_are_not_made_room_for_because_a_client_says_so() {
        for (asked, granted) in [(-1, 0), (i32::MAX, 0), (i32::MIN, 0), (7, 7)] {
            let mut body = vec![0];
            body.extend_from_slice(&i32::to_be_bytes(asked));
            match hear(&frame(b'E', &body)) {
                Ok(Some(Heard::Message(PgWireFrontendMessage::Execute(execute)))) => {
                    assert_eq!(execute.max_rows, granted)
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_has_no_business_here_ends_the_connection() {
        for bytes in [
            frame(b'p', b"secret\0"),
            frame(b'F', b""),
            frame(b'd', b""),
            frame(b'c', b""),
            frame(b'!', b""),
        ] {
            assert!(hear(&bytes).is_err(), "{bytes:?}");
        }
        assert!(matches!(
            hear(b"Q\x40\0\0\0"),
            Err(Unreadable::Frame(FrameError::Length { .. }))
        ));
    }

    #[test]
    fn bytes_that_are_no_text_are_not_guessed_at() {
        let heard = hear(&frame(b'Q', b"SHOW \xff\0"));
        assert!(
            matches!(
                heard,
                Ok(Some(Heard::Malformed {
                    violation: Violation::NotUtf8,
                    ..
                }))
            ),
            "{heard:?}"
        );
    }

    proptest! {
        #[test]
        fn no_body_makes_the_decoders_panic(tag in prop::sample::select(b"QPBDCEHSXdcfpF".to_vec()), body: Vec<u8>) {
            let _ = hear(&frame(tag, &body));
        }

        #[test]
        fn no_bind_makes_the_decoders_panic(
            names in prop::sample::select(vec!["\0\0", "a\0b\0", "\0"]), numbers in prop::collection::vec(-2i16..4, 0..12), tail: Vec<u8>
        ) {
            let mut body = names.as_bytes().to_vec();
            numbers.iter().for_each(|number| body.extend_from_slice(&number.to_be_bytes()));
            body.extend_from_slice(&tail);
            let _ = hear(&frame(b'B', &body));
            let _ = hear(&frame(b'P', &body));
        }
    }
}
