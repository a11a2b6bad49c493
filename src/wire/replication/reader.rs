//! Reads fields off the front of a message and knows where it is, so that an error can say so.

/// A message that is not what its type promises. Positions are in bytes from the message's type byte, which is at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{expected} was expected at byte {at}, and {left} bytes are left there")]
    Truncated {
        expected: &'static str,
        at: usize,
        left: usize,
    },
    #[error("{expected} was expected at byte {at}, and no end of a text follows")]
    Unterminated { expected: &'static str, at: usize },
    #[error("{expected} was expected at byte {at}, and it is not UTF-8")]
    NotUtf8 { expected: &'static str, at: usize },
    #[error("{expected} was expected at byte {at}, and {found} is there")]
    Unexpected {
        expected: &'static str,
        at: usize,
        found: u64,
    },
    #[error("the end of the message was expected at byte {at}, and {left} more bytes follow")]
    TrailingBytes { at: usize, left: usize },
    /// In the version of the protocol that was asked for.
    #[error("a message of type {0:?} is not known")]
    UnknownType(char),
    /// A message that cannot stand where it stands, as a row in no transaction.
    #[error("a message of type {kind:?} has no place {place}")]
    OutOfPlace { kind: char, place: &'static str },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Reader<'a> {
        Reader {
            rest: message,
            at: 0,
        }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) fn take(
        &mut self,
        length: usize,
        expected: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            return Err(self.truncated(expected));
        };
        self.rest = rest;
        self.at += length;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((taken, rest)) = self.rest.split_first_chunk() else {
            return Err(self.truncated(expected));
        };
        self.rest = rest;
        self.at += N;
        Ok(*taken)
    }

    #[cold]
    fn truncated(&self, expected: &'static str) -> DecodeError {
        DecodeError::Truncated {
            expected,
            at: self.at,
            left: self.rest.len(),
        }
    }

    /// A field that has just been read, of so many bytes, holds what it must not.
    #[cold]
    pub(super) fn unexpected(
        &self,
        width: usize,
        expected: &'static str,
        found: u64,
    ) -> DecodeError {
        DecodeError::Unexpected {
            expected,
            at: self.at - width,
            found,
        }
    }

    #[inline]
    pub(super) fn byte(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        self.array(expected).map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn int16(&mut self, expected: &'static str) -> Result<u16, DecodeError> {
        self.array(expected).map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn int32(&mut self, expected: &'static str) -> Result<u32, DecodeError> {
        self.array(expected).map(u32::from_be_bytes)
    }

    #[inline]
    pub(super) fn int64(&mut self, expected: &'static str) -> Result<u64, DecodeError> {
        self.array(expected).map(u64::from_be_bytes)
    }

    /// Bytes behind their number, which is no more than an `i32` holds.
    #[inline]
    pub(super) fn counted(&mut self, expected: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.int32(expected)?;
        if i32::try_from(length).is_err() {
            return Err(self.unexpected(4, "a length of 0 or more", u64::from(length)));
        }
        self.take(length as usize, expected)
    }

    /// Up to a NUL, which is taken but not given.
    pub(super) fn text(&mut self, expected: &'static str) -> Result<&'a str, DecodeError> {
        let at = self.at;
        let Some(end) = memchr::memchr(0, self.rest) else {
            return Err(DecodeError::Unterminated { expected, at });
        };
        let text = std::str::from_utf8(&self.rest[..end])
            .map_err(|_| DecodeError::NotUtf8 { expected, at })?;
        self.rest = &self.rest[end + 1..];
        self.at += end + 1;
        Ok(text)
    }

    /// Flags that have no meaning yet. Postgres refuses any but 0, as what they mean may change what follows.
    pub(super) fn no_flags(&mut self) -> Result<(), DecodeError> {
        match self.byte("flags")? {
            0 => Ok(()),
            other => Err(self.unexpected(1, "no flag", u64::from(other))),
        }
    }

    /// Nothing may be left.
    #[inline]
    pub(super) fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingBytes {
                at: self.at,
                left: self.rest.len(),
            })
        }
    }
}
