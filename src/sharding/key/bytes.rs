//! uuid and bytea in text form.

use super::{KeyError, KeyType, malformed};

/// Every spelling of `uuid_in`: 32 hexadecimal digits in any case, a hyphen allowed after each group of four, all of it in braces or not.
/// Blanks are not allowed.
pub(super) fn parse_uuid(text: &str) -> Result<[u8; 16], KeyError> {
    let wrong = || malformed(KeyType::Uuid, text, "32 hexadecimal digits");
    let mut rest = match text.as_bytes() {
        [b'{', inside @ .., b'}'] => inside,
        bare => bare,
    };
    let mut uuid = [0; 16];
    for (at, byte) in uuid.iter_mut().enumerate() {
        let [high, low, tail @ ..] = rest else {
            return Err(wrong());
        };
        *byte = hex_pair(*high, *low).ok_or_else(wrong)?;
        rest = match tail {
            [b'-', tail @ ..] if at % 2 == 1 && at < 15 => tail,
            tail => tail,
        };
    }
    if rest.is_empty() {
        Ok(uuid)
    } else {
        Err(wrong())
    }
}

/// Both input forms of bytea: `\x` with hexadecimal digits, and escapes.
pub(super) fn parse_bytea(text: &str) -> Result<Box<[u8]>, KeyError> {
    match text.strip_prefix("\\x") {
        Some(digits) => unhex(digits).ok_or_else(|| {
            malformed(
                KeyType::Bytea,
                text,
                "an even number of hexadecimal digits after \\x",
            )
        }),
        None => unescape(text).ok_or_else(|| {
            malformed(
                KeyType::Bytea,
                text,
                "every backslash doubled or followed by three octal digits",
            )
        }),
    }
}

/// White space is allowed between the pairs of digits, not inside one.
fn unhex(digits: &str) -> Option<Box<[u8]>> {
    let mut rest = digits.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len() / 2);
    loop {
        rest = match rest {
            [] => return Some(bytes.into()),
            [b' ' | b'\n' | b'\t' | b'\r', tail @ ..] => tail,
            [high, low, tail @ ..] => {
                bytes.push(hex_pair(*high, *low)?);
                tail
            }
            [_] => return None,
        };
    }
}

fn unescape(text: &str) -> Option<Box<[u8]>> {
    let mut rest = text.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    loop {
        let (byte, tail) = match rest {
            [] => return Some(bytes.into()),
            // A zero byte never reaches a server inside a text.
            [0, ..] => return None,
            [b'\\', b'\\', tail @ ..] => (b'\\', tail),
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                tail @ ..,
            ] => (((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'), tail),
            [b'\\', ..] => return None,
            [plain, tail @ ..] => (*plain, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    Some((digit(high)? << 4) | digit(low)?)
}
