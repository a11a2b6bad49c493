//! Values as people read them.

use std::fmt;

use super::{KeyValue, moment};

/// Longer values are cut in messages.
const SHOWN_CHARACTERS: usize = 80;

/// A value as a message quotes it.
pub(super) fn quoted(text: &str) -> Box<str> {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("\"{}...\"", &text[..end]).into(),
        None => format!("\"{text}\"").into(),
    }
}

/// As a SQL literal. A timestamp with time zone is shown in UTC, without an offset.
impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyValue::Int(whole) => write!(f, "{whole}"),
            KeyValue::Numeric(whole) => write!(f, "{whole}"),
            KeyValue::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
            KeyValue::Uuid(bytes) => show_uuid(bytes, f),
            KeyValue::Date(days) => write!(f, "'{}'", moment::show_date(*days)),
            KeyValue::Timestamp(micros) => write!(f, "'{}'", moment::show_timestamp(*micros)),
            KeyValue::Bytea(bytes) => {
                f.write_str("'\\x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("'")
            }
        }
    }
}

fn show_uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("'")?;
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    f.write_str("'")
}
