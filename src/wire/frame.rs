//! Frames: one byte of type, four bytes of length (which counts itself), a body. Every length is checked here, before
//! anything else looks at a message.
//! Source: Postgres `src/backend/tcop/postgres.c` (SocketBackend) for the limits by type.

use std::ops::Range;

/// Type byte and length.
pub const HEADER: usize = 5;

/// The largest body of the messages that carry no data (`PQ_SMALL_MESSAGE_LIMIT`), bytes.
const SMALL: usize = 10_000;

/// A message of a client that cannot be accepted; the connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("invalid frontend message type {0}")]
    UnknownType(u8),
    #[error(
        "invalid message length {length} in a message of type {tag:?}; the largest allowed is {limit}"
    )]
    Length {
        tag: char,
        length: u32,
        limit: usize,
    },
}

/// The first message in a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Whole: header and body.
    Whole { tag: u8, range: Range<usize> },
    /// COPY data of which only a part has arrived: `rest` bytes are still to come after `range` (which begins with the header).
    CopyPart { range: Range<usize>, rest: usize },
    /// Not yet whole; `needed` bytes in total from the start when the header is there.
    Partial { needed: Option<usize> },
}

/// Finds the first message of a client in `buffer[start..]`; `limit` is the largest body in bytes.
#[inline]
pub fn first(buffer: &[u8], start: usize, limit: usize) -> Result<Frame, FrameError> {
    let bytes = &buffer[start..];
    let Some(&tag) = bytes.first() else {
        return Ok(Frame::Partial { needed: None });
    };
    let limit = match tag {
        b'Q' | b'P' | b'B' | b'F' | b'd' => limit,
        b'E' | b'D' | b'C' | b'H' | b'S' | b'X' | b'c' | b'f' | b'p' => SMALL,
        _ => return Err(FrameError::UnknownType(tag)),
    };
    let Some(length) = bytes.get(1..HEADER) else {
        return Ok(Frame::Partial { needed: None });
    };
    let length = u32::from_be_bytes(length.try_into().expect("four bytes were taken"));
    let body = (length as usize).wrapping_sub(4);
    if length < 4 || body > limit {
        return Err(FrameError::Length {
            tag: char::from(tag),
            length,
            limit: limit + 4,
        });
    }
    let whole = HEADER + body;
    if bytes.len() >= whole {
        return Ok(Frame::Whole {
            tag,
            range: start..start + whole,
        });
    }
    if tag == b'd' {
        return Ok(Frame::CopyPart {
            range: start..buffer.len(),
            rest: whole - bytes.len(),
        });
    }
    Ok(Frame::Partial {
        needed: Some(whole),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_checked_before_a_body_is_waited_for() {
        let limit = 1000;
        assert_eq!(
            first(b"Q\0\0\0\x05", 0, limit),
            Ok(Frame::Partial { needed: Some(6) })
        );
        assert_eq!(
            first(b"S\0\0\0\x04X", 0, limit),
            Ok(Frame::Whole {
                tag: b'S',
                range: 0..5
            })
        );
        assert!(matches!(
            first(b"Q\0\0\0\x03", 0, limit),
            Err(FrameError::Length { length: 3, .. })
        ));
        assert!(matches!(
            first(b"Q\x40\0\0\0", 0, limit),
            Err(FrameError::Length { .. })
        ));
        assert!(matches!(
            first(b"E\0\0\x40\0", 0, 1 << 30),
            Err(FrameError::Length { limit: 10_004, .. })
        ));
        assert_eq!(first(b"!", 0, limit), Err(FrameError::UnknownType(b'!')));
    }

    #[test]
    fn copy_data_is_passed_on_in_parts() {
        assert_eq!(
            first(b"d\0\0\0\x0aabc", 0, 1000),
            Ok(Frame::CopyPart {
                range: 0..8,
                rest: 3
            })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_reach_past_the_buffer(buffer: Vec<u8>, start in 0usize..8, limit in 0usize..100_000) {
            let start = start.min(buffer.len());
            match first(&buffer, start, limit) {
                Ok(Frame::Whole { range, .. } | Frame::CopyPart { range, .. }) => prop_assert!(range.end <= buffer.len()),
                Ok(Frame::Partial { needed: Some(needed) }) => prop_assert!(needed <= HEADER + limit.max(SMALL)),
                _ => {}
            }
        }
    }
}
