//! LIMIT and OFFSET of one execution, as numbers.

use thiserror::Error;

use crate::plan::bind::Values;
use crate::plan::parameters::Format;
use crate::sql::normalise::literal_text;

/// A count in the statement's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountOperand {
    One,
    /// The number of a literal in the message.
    Literal(usize),
    Param(u16),
}

/// How many rows are shown, and how many are left out before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub limit: Option<u64>,
    pub offset: u64,
}

impl Counts {
    pub const ALL: Counts = Counts {
        limit: None,
        offset: 0,
    };
}

/// What Postgres says of such a count.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CountError {
    #[error("LIMIT must not be negative")]
    NegativeLimit,
    #[error("OFFSET must not be negative")]
    NegativeOffset,
    #[error("bigint out of range")]
    OutOfRange,
    #[error("parameter ${0} has no value")]
    Missing(u16),
    #[error("the value of parameter ${0} is no bigint")]
    NoInteger(u16),
    #[error("parameter ${0} of LIMIT or OFFSET has a type that is no integer")]
    NoIntegerType(u16),
}

impl CountError {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            CountError::NegativeLimit => "2201W",
            CountError::NegativeOffset => "2201X",
            CountError::OutOfRange => "22003",
            CountError::Missing(_) => "08P01",
            CountError::NoInteger(_) => "22P02",
            CountError::NoIntegerType(_) => "0A000",
        }
    }
}

/// The value of a count; `None` is NULL.
pub fn count(operand: CountOperand, values: &Values<'_>) -> Result<Option<i64>, CountError> {
    match operand {
        CountOperand::One => Ok(Some(1)),
        CountOperand::Literal(slot) => {
            let digits = values
                .literals
                .get(slot)
                .and_then(|literal| literal_text(values.text, literal).ok());
            let digits = digits.ok_or(CountError::OutOfRange)?;
            digits.parse().map(Some).map_err(|_| CountError::OutOfRange)
        }
        CountOperand::Param(number) => {
            let parameter = values
                .parameters
                .get(number)
                .ok_or(CountError::Missing(number))?;
            let Some(value) = parameter.value else {
                return Ok(None);
            };
            const UNDECLARED: u32 = 0;
            if ![UNDECLARED, 20, 21, 23].contains(&parameter.declared) {
                return Err(CountError::NoIntegerType(number));
            }
            match parameter.format {
                Format::Text => std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| {
                        text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c'])
                            .parse()
                            .ok()
                    })
                    .map(Some)
                    .ok_or(CountError::NoInteger(number)),
                Format::Binary => match *value {
                    [a, b] => Ok(Some(i64::from(i16::from_be_bytes([a, b])))),
                    [a, b, c, d] => Ok(Some(i64::from(i32::from_be_bytes([a, b, c, d])))),
                    [a, b, c, d, e, f, g, h] => {
                        Ok(Some(i64::from_be_bytes([a, b, c, d, e, f, g, h])))
                    }
                    _ => Err(CountError::NoInteger(number)),
                },
            }
        }
    }
}
