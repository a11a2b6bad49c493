//! The parameters of a Bind message, borrowed from its body: nothing is copied, nothing is trusted.
//!
//! Layout of the parts (protocol documentation, "Bind"): the format codes are 16-bit numbers, none (all text), one (for all) or one each;
//! a value is its length in 32 bits, -1 for NULL, and its bytes.

use crate::sharding::KeyType;
use crate::sql::class::Argument;

use super::array;

/// The OID of a type that PREPARE names, where a key may have it; what no key has gets one that no key type has.
pub fn oid_of(written: &str) -> u32 {
    /// `unknown`, which counts as not declared.
    const UNKNOWN: u32 = 705;
    /// `void`: no key, no parameter.
    const OTHER: u32 = 2278;
    if written == "unknown" {
        return UNKNOWN;
    }
    match written.strip_suffix("[]") {
        Some(element) => KeyType::parse_name(element).and_then(array::oid_of_element),
        None => KeyType::parse_name(written).map(KeyType::oid),
    }
    .unwrap_or(OTHER)
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    /// The OID that the client declared, or that the server inferred when that is known; 0 when neither.
    pub declared: u32,
    pub format: Format,
    /// `None` is NULL.
    pub value: Option<&'a [u8]>,
}

/// All parameters of a message.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    given: Given<'a>,
    declared: &'a [u32],
}

#[derive(Clone, Copy, Debug)]
enum Given<'a> {
    Bound {
        formats: &'a [u8],
        values: &'a [u8],
        count: u16,
    },
    /// Those of EXECUTE.
    Written(&'a [Argument]),
}

/// A Bind message whose parts do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedBind {
    #[error("a Bind message has {formats} parameter formats for {count} parameters")]
    FormatCount { formats: usize, count: u16 },
    #[error("parameter format {0} is neither 0 (text) nor 1 (binary)")]
    FormatCode(i16),
    #[error("the Bind message ends inside parameter {0}")]
    Cut(u16),
    #[error("bytes follow the last parameter of the Bind message")]
    Trailing,
}

impl Parameters<'static> {
    /// Those of a statement without parameters.
    pub const NONE: Parameters<'static> = Parameters {
        given: Given::Written(&[]),
        declared: &[],
    };
}

impl<'a> Parameters<'a> {
    /// `formats` are the raw format codes (two bytes each), `values` the raw values behind their 16-bit count `count`, up to the end of the
    /// last one. `declared` has the OIDs by parameter; missing ones count as 0. The whole is checked here, once.
    pub fn from_bind(
        formats: &'a [u8],
        count: u16,
        values: &'a [u8],
        declared: &'a [u32],
    ) -> Result<Parameters<'a>, MalformedBind> {
        let codes = formats.len() / 2;
        if !formats.len().is_multiple_of(2) || (codes > 1 && codes != usize::from(count)) {
            return Err(MalformedBind::FormatCount {
                formats: codes,
                count,
            });
        }
        for code in formats
            .chunks_exact(2)
            .map(|code| i16::from_be_bytes([code[0], code[1]]))
        {
            if !matches!(code, 0 | 1) {
                return Err(MalformedBind::FormatCode(code));
            }
        }
        let mut offset = 0;
        for index in 0..count {
            let (_, next) = value_at(values, offset).ok_or(MalformedBind::Cut(index + 1))?;
            offset = next;
        }
        if offset != values.len() {
            return Err(MalformedBind::Trailing);
        }
        Ok(Parameters {
            given: Given::Bound {
                formats,
                values,
                count,
            },
            declared,
        })
    }

    /// The arguments of EXECUTE for a statement with these types.
    pub fn written(arguments: &'a [Argument], declared: &'a [u32]) -> Parameters<'a> {
        Parameters {
            given: Given::Written(arguments),
            declared,
        }
    }

    /// `$number`, from 1; `None` when there is no such parameter or its value is not known. It is looked for from the front: who needs
    /// many asks for [`Parameters::all`].
    pub fn get(&self, number: u16) -> Option<Parameter<'a>> {
        let place = usize::from(number.checked_sub(1)?);
        let Given::Written(arguments) = self.given else {
            return self.all()?.nth(place);
        };
        let value = match arguments.get(place)? {
            Argument::Null => None,
            Argument::Text(text) | Argument::Number(text) => Some(text.as_bytes()),
            Argument::Unknown => return None,
        };
        Some(Parameter {
            declared: self.declared.get(place).copied().unwrap_or(0),
            format: Format::Text,
            value,
        })
    }

    /// In their order, where the values of all are known.
    pub fn all(&self) -> Option<impl Iterator<Item = Parameter<'a>> + use<'a>> {
        let Given::Bound {
            formats,
            values,
            count,
        } = self.given
        else {
            return None;
        };
        let declared = self.declared;
        Some(Self::bound(formats, values, count, declared))
    }

    fn bound(
        formats: &'a [u8],
        values: &'a [u8],
        count: u16,
        declared: &'a [u32],
    ) -> impl Iterator<Item = Parameter<'a>> + use<'a> {
        let mut offset = 0;
        (0..usize::from(count)).map_while(move |index| {
            let (value, next) = value_at(values, offset)?;
            offset = next;
            let format = match formats.len() {
                0 => Format::Text,
                2 => format_at(formats, 0),
                _ => format_at(formats, index),
            };
            Some(Parameter {
                declared: declared.get(index).copied().unwrap_or(0),
                format,
                value,
            })
        })
    }
}

fn format_at(formats: &[u8], index: usize) -> Format {
    match formats.get(2 * index + 1) {
        Some(1) => Format::Binary,
        _ => Format::Text,
    }
}

/// The value that begins at `offset`, and where the next one begins; `None` when the bytes end before it does.
fn value_at(values: &[u8], offset: usize) -> Option<(Option<&[u8]>, usize)> {
    let length = values.get(offset..offset.checked_add(4)?)?;
    let length = i32::from_be_bytes(length.try_into().ok()?);
    if length == -1 {
        return Some((None, offset + 4));
    }
    let start = offset + 4;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    Some((Some(values.get(start..end)?), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut raw = Vec::new();
        for value in values {
            match value {
                Some(value) => {
                    raw.extend((value.len() as i32).to_be_bytes());
                    raw.extend(*value);
                }
                None => raw.extend((-1_i32).to_be_bytes()),
            }
        }
        raw
    }

    #[test]
    fn values_are_found_in_any_order() {
        let raw = values(&[Some(b"one"), None, Some(b"")]);
        let parameters = Parameters::from_bind(&[0, 1], 3, &raw, &[20]).expect("well formed");
        for number in [3, 1, 2, 3, 2, 1] {
            let expected: [Option<&[u8]>; 3] = [Some(b"one"), None, Some(b"")];
            let found = parameters.get(number).expect("three parameters");
            assert_eq!(found.value, expected[usize::from(number) - 1], "${number}");
            assert_eq!(found.format, Format::Binary);
            assert_eq!(found.declared, if number == 1 { 20 } else { 0 });
        }
        assert_eq!(parameters.get(0), None);
        assert_eq!(parameters.get(4), None);
    }

    #[test]
    fn formats_are_none_one_or_one_each() {
        let raw = values(&[Some(b"1"), Some(b"2")]);
        let formats = |raw_formats: &[u8]| {
            let parameters = Parameters::from_bind(raw_formats, 2, &raw, &[]).expect("well formed");
            [1, 2].map(|number| parameters.get(number).expect("two parameters").format)
        };
        assert_eq!(formats(&[]), [Format::Text, Format::Text]);
        assert_eq!(formats(&[0, 1]), [Format::Binary, Format::Binary]);
        assert_eq!(formats(&[0, 1, 0, 0]), [Format::Binary, Format::Text]);
        assert_eq!(
            Parameters::from_bind(&[0, 1, 0, 0, 0, 0], 2, &raw, &[]).unwrap_err(),
            MalformedBind::FormatCount {
                formats: 3,
                count: 2
            }
        );
        assert_eq!(
            Parameters::from_bind(&[0, 2], 2, &raw, &[]).unwrap_err(),
            MalformedBind::FormatCode(2)
        );
        assert!(Parameters::from_bind(&[0], 2, &raw, &[]).is_err());
    }

    #[test]
    fn no_length_reaches_beyond_the_message() {
        let raw = values(&[Some(b"1"), Some(b"2")]);
        for end in 0..raw.len() {
            assert!(
                matches!(
                    Parameters::from_bind(&[], 2, &raw[..end], &[]),
                    Err(MalformedBind::Cut(_))
                ),
                "cut at {end}"
            );
        }
        assert_eq!(
            Parameters::from_bind(&[], 1, &raw, &[]).unwrap_err(),
            MalformedBind::Trailing
        );
        for length in [-2_i32, i32::MIN, i32::MAX] {
            assert_eq!(
                Parameters::from_bind(&[], 1, &length.to_be_bytes(), &[]).unwrap_err(),
                MalformedBind::Cut(1)
            );
        }
    }
}
