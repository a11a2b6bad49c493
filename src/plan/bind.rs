//! From a target and the values of one execution to a shard. Runs for every statement: one key of fixed width costs no allocation.
//!
//! A value passes through the types that Postgres takes it through: the type it is written in (declared, or by its cast, or the column's),
//! the column's, the distribution's. Each step is exact or the statement is refused.

use std::borrow::Cow;

use crate::catalog::{Catalog, Distribution};
use crate::sharding::{KeyType, KeyValue, Location, ShardId};
use crate::sql::facts::{Cast, Operand};
use crate::sql::lexer::LiteralKind;
use crate::sql::normalise::{Literal, literal_text};

use super::parameters::{Format, Parameter, Parameters};
use super::proof::cast_type;
use super::refusal::{Reason, Refusal};
use super::{Arity, KeyOperand, KeyTuple, Target, Typing, Verb, array};

/// The most keys that array values of one statement may combine to.
const MOST_KEYS: usize = 65_536;

/// Where a statement with values goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Every shard gives the same answer: the open transaction's, else the home shard.
    Any,
    Shard(ShardId),
}

/// What is done with a key that is being moved to another shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passage {
    /// It is held back: [`Reason::KeyMoving`].
    #[default]
    Stopped,
    /// The unit of work has been let through: the key is where the map in force says.
    Through,
}

/// The values of one execution.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// The message's text and its literals, as `sql::normalise` found them.
    pub text: &'a [u8],
    pub literals: &'a [Literal],
    pub parameters: &'a Parameters<'a>,
    pub passage: Passage,
}

/// From this number of keys on, all parameters are found at once, so that the time does not grow with the square.
const MANY_KEYS: usize = 16;

/// The values, with their parameters by place when there are many.
struct Source<'a> {
    text: &'a [u8],
    literals: &'a [Literal],
    parameters: &'a Parameters<'a>,
    /// Empty: they are looked for one by one.
    placed: Vec<Parameter<'a>>,
}

impl<'a> Source<'a> {
    fn new(values: &Values<'a>, keys: usize) -> Source<'a> {
        let &Values {
            text,
            literals,
            parameters,
            passage: _,
        } = values;
        let placed = if keys < MANY_KEYS {
            Vec::new()
        } else {
            parameters.all().map_or_else(Vec::new, Iterator::collect)
        };
        Source {
            text,
            literals,
            parameters,
            placed,
        }
    }

    fn parameter(&self, number: u16) -> Result<Parameter<'a>, Refusal> {
        let found = match &self.placed[..] {
            [] => self.parameters.get(number),
            placed => number
                .checked_sub(1)
                .and_then(|place| placed.get(usize::from(place)).copied()),
        };
        found.ok_or_else(|| {
            let message = format!("parameter ${number} has no value");
            Refusal::new(Reason::ParameterMissing, message)
        })
    }
}

/// The shard that all keys of the target live on.
pub fn bind(target: &Target, catalog: &Catalog, values: &Values<'_>) -> Result<Bound, Refusal> {
    let (also, verb) = match target {
        Target::Any => return Ok(Bound::Any),
        Target::Shard(shard) => return Ok(Bound::Shard(*shard)),
        Target::Keys { also, verb, .. } => (*also, *verb),
    };
    if let Some(shard) = one_plain_integer(target, catalog, values)
        && also.is_none_or(|also| also == shard)
    {
        return Ok(Bound::Shard(shard));
    }
    let mut agreed = None;
    each_key(target, catalog, values, |_, _, location| match agreed {
        Some(agreed) if agreed != location.shard => {
            Err(on_several_shards(verb, agreed, location.shard, catalog))
        }
        _ => {
            agreed = Some(location.shard);
            Ok(())
        }
    })?;
    match (agreed, also) {
        (Some(keys), Some(also)) if keys != also => Err(away_from(also, keys, catalog)),
        // No key at all: an empty array, which nothing equals on any shard.
        (keys, also) => Ok(keys.or(also).map_or(Bound::Any, Bound::Shard)),
    }
}

/// The shard of the key that nearly all statements have: one whole number, written in plain digits or sent as the column's type. `None` is
/// no answer: the long way knows more, and every reason to refuse.
fn one_plain_integer(target: &Target, catalog: &Catalog, values: &Values<'_>) -> Option<ShardId> {
    let Target::Keys { sets, .. } = target else {
        return None;
    };
    let [set] = &sets[..] else { return None };
    let [tuple] = &set.tuples[..] else {
        return None;
    };
    let [operand] = &tuple.0[..] else { return None };
    let column = operand.column_type;
    let distribution = &catalog.distributions[usize::from(set.distribution.0)];
    if distribution.turning.is_some() {
        return None;
    }
    let map = &distribution.map;
    if operand.arity != Arity::One || !column.is_integer() || *map.key_types() != [column] {
        return None;
    }
    let whole = match &operand.operand {
        Operand::Literal {
            slot,
            negative: false,
            cast: None,
        } => {
            let literal = values.literals.get(*slot)?;
            let text = values
                .text
                .get(literal.start as usize..literal.end as usize)?;
            plain_digits(text).filter(|_| literal.kind == LiteralKind::Integer)?
        }
        Operand::Param { number, cast: None } => {
            let parameter = values.parameters.get(*number)?;
            let undeclared = parameter.declared == 0 && operand.typing == Typing::Certain;
            if !undeclared && parameter.declared != column.oid() {
                return None;
            }
            match (parameter.format, parameter.value?) {
                (Format::Text, text) => plain_digits(text)?,
                (Format::Binary, &[a, b]) if column == KeyType::SmallInt => {
                    i64::from(i16::from_be_bytes([a, b]))
                }
                (Format::Binary, &[a, b, c, d]) if column == KeyType::Integer => {
                    i64::from(i32::from_be_bytes([a, b, c, d]))
                }
                (Format::Binary, &[a, b, c, d, e, f, g, h]) if column == KeyType::BigInt => {
                    i64::from_be_bytes([a, b, c, d, e, f, g, h])
                }
                _ => return None,
            }
        }
        _ => return None,
    };
    let in_range = match column {
        KeyType::SmallInt => i16::try_from(whole).is_ok(),
        KeyType::Integer => i32::try_from(whole).is_ok(),
        _ => true,
    };
    if !in_range {
        return None;
    }
    Some(map.locate(&[KeyValue::Int(whole)]).ok()?.shard)
}

/// Up to 18 digits and nothing else.
fn plain_digits(text: &[u8]) -> Option<i64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.iter().try_fold(0_i64, |whole, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| whole * 10 + i64::from(digit))
    })
}

/// Calls `visit` with every key of the target and its place.
pub fn each_key(
    target: &Target,
    catalog: &Catalog,
    values: &Values<'_>,
    mut visit: impl FnMut(&Distribution, &[KeyValue], Location) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let Target::Keys { sets, .. } = target else {
        return Ok(());
    };
    let keys: usize = sets.iter().map(|set| set.tuples.len()).sum();
    let passage = values.passage;
    let values = &Source::new(values, keys);
    for set in sets {
        let distribution = &catalog.distributions[usize::from(set.distribution.0)];
        let types = distribution.map.key_types();
        let mut visit = |key: &[KeyValue]| {
            let location = locate(distribution, key)?;
            if passage == Passage::Stopped && distribution.is_moving(key, location.shard) {
                return Err(Refusal::new(Reason::KeyMoving, KEY_MOVING));
            }
            visit(distribution, key, location)
        };
        for tuple in &set.tuples {
            match (&tuple.0[..], types) {
                ([operand], [key_type]) if operand.arity == Arity::One => {
                    visit(&[value(operand, *key_type, values)?])?
                }
                _ => combined(tuple, types, values, &mut visit)?,
            }
        }
    }
    Ok(())
}

/// What is said when a key is held back for too long.
pub const KEY_MOVING: &str =
    "the key is being moved to another shard, and that takes longer than the statement could wait";

/// The shard of a key.
pub fn shard_of(distribution: &Distribution, key: &[KeyValue]) -> Result<ShardId, Refusal> {
    locate(distribution, key).map(|location| location.shard)
}

fn locate(distribution: &Distribution, key: &[KeyValue]) -> Result<Location, Refusal> {
    distribution
        .map
        .locate(key)
        .map_err(|error| Refusal::new(Reason::KeyNotPlaced, error.to_string()))
}

/// Keys of several columns, or out of arrays: every combination of one value a column.
fn combined(
    tuple: &KeyTuple,
    types: &[KeyType],
    values: &Source<'_>,
    visit: &mut impl FnMut(&[KeyValue]) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let lists = tuple
        .0
        .iter()
        .zip(types)
        .map(|(operand, key_type)| list(operand, *key_type, values));
    let lists: Vec<Vec<KeyValue>> = lists.collect::<Result<_, _>>()?;
    let count = lists
        .iter()
        .try_fold(1_usize, |count, list| count.checked_mul(list.len()));
    let Some(count) = count.filter(|count| *count <= MOST_KEYS) else {
        return Err(Refusal::new(
            Reason::TooManyKeys,
            format!("the arrays' values combine to more than {MOST_KEYS} keys"),
        ));
    };
    let mut key = Vec::with_capacity(lists.len());
    for number in 0..count {
        key.clear();
        let mut rest = number;
        for list in &lists {
            key.push(list[rest % list.len()].clone());
            rest /= list.len();
        }
        visit(&key)?;
    }
    Ok(())
}

fn list(
    operand: &KeyOperand,
    key_type: KeyType,
    values: &Source<'_>,
) -> Result<Vec<KeyValue>, Refusal> {
    match operand.arity {
        Arity::One => Ok(vec![value(operand, key_type, values)?]),
        Arity::Array => elements(operand, key_type, values),
    }
}

/// The value of one operand, as the distribution's type.
fn value(
    operand: &KeyOperand,
    key_type: KeyType,
    values: &Source<'_>,
) -> Result<KeyValue, Refusal> {
    match &operand.operand {
        Operand::Literal {
            slot,
            negative,
            cast,
        } => {
            let (literal, text) = literal(*slot, values)?;
            let target = written_type(cast.as_ref(), operand)?;
            let value = match literal.kind {
                LiteralKind::Integer | LiteralKind::Number => number(&text, *negative, target)?,
                _ if *negative => return Err(unreadable("a minus sign stands before a string")),
                _ => parse_text(target, &text)?,
            };
            through(value, target, operand.column_type, key_type)
        }
        Operand::Param { number, cast } => {
            let parameter = values.parameter(*number)?;
            let Some(raw) = parameter.value else {
                return Err(null(*number));
            };
            let (value, from) = scalar(operand, cast.as_ref(), &parameter, raw)?;
            through(value, from, operand.column_type, key_type)
        }
        _ => Err(unreadable("it is neither a literal nor a parameter")),
    }
}

/// A parameter's value in the type that the statement compares or stores: its cast's, else its own.
fn scalar(
    operand: &KeyOperand,
    cast: Option<&Cast>,
    parameter: &Parameter<'_>,
    raw: &[u8],
) -> Result<(KeyValue, KeyType), Refusal> {
    let cast_to = cast
        .map(|cast| written_type(Some(cast), operand))
        .transpose()?;
    let Some(declared) = declared_type(parameter, KeyType::from_oid)? else {
        let inferred = cast_to.unwrap_or(operand.column_type);
        if operand.typing == Typing::Doubtful {
            surely_exact(inferred, parameter.format, raw)?;
        }
        return Ok((parse(inferred, parameter.format, raw)?, inferred));
    };
    match cast_to {
        // Text becomes any other type as a literal does.
        Some(cast_to) if plain_text(declared) && !cast_to.is_text() => {
            Ok((parse_text(cast_to, utf8(raw)?)?, cast_to))
        }
        Some(cast_to) => Ok((
            convert(cast_to, parse(declared, parameter.format, raw)?, declared)?,
            cast_to,
        )),
        None => Ok((parse(declared, parameter.format, raw)?, declared)),
    }
}

/// Every element that is not NULL of an array operand, as the distribution's type.
fn elements(
    operand: &KeyOperand,
    key_type: KeyType,
    values: &Source<'_>,
) -> Result<Vec<KeyValue>, Refusal> {
    let texts = |text: &str, element: KeyType| -> Result<Vec<KeyValue>, Refusal> {
        let texts = array::of_text(text).map_err(|error| unreadable(&error.to_string()))?;
        texts
            .iter()
            .flatten()
            .map(|text| {
                through(
                    parse_text(element, text)?,
                    element,
                    operand.column_type,
                    key_type,
                )
            })
            .collect()
    };
    match &operand.operand {
        Operand::Literal { slot, cast, .. } => {
            let (literal, text) = literal(*slot, values)?;
            if matches!(literal.kind, LiteralKind::Integer | LiteralKind::Number) {
                return Err(unreadable("a number is no array"));
            }
            texts(&text, written_type(cast.as_ref(), operand)?)
        }
        Operand::Param { number, cast } => {
            let parameter = values.parameter(*number)?;
            let Some(raw) = parameter.value else {
                return Err(null(*number));
            };
            let written = written_type(cast.as_ref(), operand)?;
            let declared = declared_type(&parameter, array::element_of_oid)?;
            if declared.is_none() && operand.typing == Typing::Doubtful {
                return Err(doubtful());
            }
            // `{..}::type[]` casts each element, as a scalar is cast.
            let element = declared.unwrap_or(written);
            if cast.is_some() && element != written {
                return Err(unreadable(
                    "its array is declared as one type and cast to another",
                ));
            }
            match parameter.format {
                Format::Text => texts(utf8(raw)?, element),
                Format::Binary => {
                    let raws = array::of_binary(raw, element)
                        .map_err(|error| unreadable(&error.to_string()))?;
                    let values = raws.iter().flatten();
                    values
                        .map(|raw| {
                            through(
                                parse(element, Format::Binary, raw)?,
                                element,
                                operand.column_type,
                                key_type,
                            )
                        })
                        .collect()
                }
            }
        }
        _ => Err(unreadable("it is neither a literal nor a parameter")),
    }
}

fn literal<'a>(slot: usize, values: &Source<'a>) -> Result<(Literal, Cow<'a, str>), Refusal> {
    let literal = values
        .literals
        .get(slot)
        .ok_or_else(|| unreadable("its literal is missing"))?;
    let text = literal_text(values.text, literal)
        .map_err(|error| unreadable(&format!("its literal is {error}")))?;
    Ok((*literal, text))
}

/// A number as a value of type `target`. As text it must be written as Postgres writes it, because that is what is stored.
fn number(digits: &str, negative: bool, target: KeyType) -> Result<KeyValue, Refusal> {
    let canonical = digits == "0"
        || (!digits.starts_with('0')
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && digits.len() < 19);
    if target.is_text() && (negative || !canonical) {
        return Err(unreadable("a number is given where the key is text"));
    }
    if !negative {
        return parse_text(target, digits);
    }
    // The longest number that any key type takes has 39 digits and a sign.
    let mut signed = [0; 48];
    match signed.get_mut(..=digits.len()) {
        Some(signed) => {
            signed[0] = b'-';
            signed[1..].copy_from_slice(digits.as_bytes());
            parse_text(target, utf8(signed)?)
        }
        None => parse_text(target, &format!("-{digits}")),
    }
}

/// The type that an operand is written in: its cast's, else the column's.
fn written_type(cast: Option<&Cast>, operand: &KeyOperand) -> Result<KeyType, Refusal> {
    match cast {
        Some(cast) => cast_type(cast, operand.arity)
            .ok_or_else(|| unreadable("it is cast to a type that no key has")),
        None => Ok(operand.column_type),
    }
}

/// The declared type; `None` when none is declared (`unknown` counts as none).
fn declared_type(
    parameter: &Parameter<'_>,
    of_oid: impl Fn(u32) -> Option<KeyType>,
) -> Result<Option<KeyType>, Refusal> {
    const UNKNOWN: u32 = 705;
    match parameter.declared {
        0 | UNKNOWN => Ok(None),
        oid => of_oid(oid).map(Some).ok_or_else(|| {
            unreadable(&format!(
                "a parameter is declared with type OID {oid}, which no key has"
            ))
        }),
    }
}

/// A parameter of doubtful type: as whichever type a server takes it, a small whole number in text is the same number.
fn surely_exact(inferred: KeyType, format: Format, raw: &[u8]) -> Result<(), Refusal> {
    /// Up to here even a `real` is exact.
    const LARGEST: i64 = 1 << 24;
    let number = (format == Format::Text && inferred.is_integer())
        .then(|| std::str::from_utf8(raw).ok()?.parse::<i64>().ok())
        .flatten();
    match number {
        Some(number) if (-LARGEST..=LARGEST).contains(&number) => Ok(()),
        _ => Err(doubtful()),
    }
}

fn doubtful() -> Refusal {
    Refusal::new(
        Reason::ParameterType,
        "the type of the parameter that decides the shard is not certain",
    )
}

fn plain_text(key_type: KeyType) -> bool {
    matches!(key_type, KeyType::Text | KeyType::VarChar)
}

fn parse(key_type: KeyType, format: Format, raw: &[u8]) -> Result<KeyValue, Refusal> {
    match format {
        Format::Text => parse_text(key_type, utf8(raw)?),
        Format::Binary => key_type
            .parse_binary(raw)
            .map_err(|error| Refusal::new(Reason::KeyValue, error.to_string())),
    }
}

fn parse_text(key_type: KeyType, text: &str) -> Result<KeyValue, Refusal> {
    key_type
        .parse_text(text)
        .map_err(|error| Refusal::new(Reason::KeyValue, error.to_string()))
}

fn utf8(raw: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(raw).map_err(|_| unreadable("it is not valid UTF-8"))
}

/// From the type a value is written in, by the column's, to the key's.
fn through(
    value: KeyValue,
    written: KeyType,
    column: KeyType,
    key: KeyType,
) -> Result<KeyValue, Refusal> {
    convert(key, convert(column, value, written)?, column)
}

fn convert(to: KeyType, value: KeyValue, from: KeyType) -> Result<KeyValue, Refusal> {
    if to == from {
        return Ok(value);
    }
    to.convert(value, from)
        .map_err(|error| Refusal::new(Reason::KeyValue, error.to_string()))
}

fn unreadable(why: &str) -> Refusal {
    Refusal::new(
        Reason::KeyValue,
        format!("the value that decides the shard cannot be used: {why}"),
    )
}

fn null(number: u16) -> Refusal {
    Refusal::new(
        Reason::NullKey,
        format!("parameter ${number}, which decides the shard, is NULL"),
    )
}

fn on_several_shards(verb: Verb, one: ShardId, other: ShardId, catalog: &Catalog) -> Refusal {
    let (reason, what) = match verb {
        Verb::Select => (Reason::MultiShardSelect, "the query's keys"),
        Verb::Insert => (Reason::MultiShardInsert, "the rows of the INSERT"),
        Verb::Update => (Reason::MultiShardUpdate, "the keys of the UPDATE"),
        Verb::Delete => (Reason::MultiShardDelete, "the keys of the DELETE"),
        Verb::Merge => (Reason::Merge, "the keys of the MERGE"),
    };
    Refusal::new(
        reason,
        format!(
            "{what} are on shards {} and {}",
            catalog.shards[one.index()],
            catalog.shards[other.index()]
        ),
    )
}

fn away_from(also: ShardId, keys: ShardId, catalog: &Catalog) -> Refusal {
    let (keys, also) = (&catalog.shards[keys.index()], &catalog.shards[also.index()]);
    Refusal::new(
        Reason::SingleTablesApart,
        format!("the statement's keys are on shard {keys}, what else it uses is on shard {also}"),
    )
}
