//! Hints in a statement's leading comments: where it goes, `/* trunkline: shard=eu1 */`, `/* trunkline: distribution=d key='DE',7 */`, which
//! nodes it may read from, `/* trunkline: read=replica max_lag=500ms */`, and where the rows of a table that it creates belong,
//! `/* trunkline: distribution=d key=country,id */` (columns then), `/* trunkline: placement=reference */`.

use super::{Hint, ReadHint};
use crate::config::{MaxLag, ReadFrom};

/// The hints among the comments that stand before a statement (their text, `/*` and `*/` included; line comments are not hints).
pub(super) fn read<'a>(comments: impl Iterator<Item = &'a str>) -> (Option<Hint>, ReadHint) {
    let malformed = |why: &str| (Some(Hint::Malformed(why.into())), ReadHint::default());
    let mut found = None;
    for comment in comments {
        let Some(content) = comment
            .strip_prefix("/*")
            .and_then(|rest| rest.strip_suffix("*/"))
        else {
            continue;
        };
        let Some(items) = content.trim_start().strip_prefix("trunkline:") else {
            continue;
        };
        if found.is_some() {
            return malformed("more than one trunkline comment");
        }
        found = Some(parse(items).unwrap_or_else(|why| malformed(&why)));
    }
    found.unwrap_or_default()
}

fn parse(items: &str) -> Result<(Option<Hint>, ReadHint), String> {
    let (mut shard, mut distribution, mut key) = (None, None, None);
    let (mut from, mut max_lag, mut placement) = (None, None, None);
    let mut rest = items.trim();
    while !rest.is_empty() {
        let (name, after) = rest
            .split_once('=')
            .ok_or_else(|| format!("expected name=value, found {rest:?}"))?;
        let (values, after) = values(after.trim_start())?;
        let slot = match name.trim() {
            "shard" => &mut shard,
            "distribution" => &mut distribution,
            "key" => &mut key,
            "read" => &mut from,
            "max_lag" => &mut max_lag,
            "placement" => &mut placement,
            other => {
                return Err(format!(
                    "unknown item {other:?}; known are shard, key, distribution, placement, read and max_lag"
                ));
            }
        };
        if slot.replace(values).is_some() {
            return Err(format!("{} is given twice", name.trim()));
        }
        rest = after.trim_start();
    }
    let reads = ReadHint {
        from: word(from, "read", "primary, any or replica", ReadFrom::named)?,
        max_lag: word(
            max_lag,
            "max_lag",
            "a time like 500ms, or off",
            MaxLag::parse,
        )?,
    };
    let is_reference = |word: &str| (word == "reference").then_some(());
    let reference = word(placement, "placement", "reference", is_reference)?;
    let place = match (shard, distribution, key) {
        (None, None, None) if reference.is_some() => Some(Hint::Reference),
        _ if reference.is_some() => {
            return Err("placement stands alone: no shard, no key, no distribution".into());
        }
        (Some(shard), None, None) => Some(Hint::Shard(single(shard, "shard")?)),
        (None, None, Some(values)) => Some(Hint::Key {
            distribution: None,
            values,
        }),
        (None, Some(name), Some(values)) => Some(Hint::Key {
            distribution: Some(single(name, "distribution")?),
            values,
        }),
        (None, Some(_), None) => return Err("distribution needs a key".into()),
        (Some(_), ..) => return Err("shard stands alone: no key, no distribution".into()),
        (None, None, None) if reads == ReadHint::default() => {
            return Err("nothing after trunkline:".into());
        }
        (None, None, None) => None,
    };
    Ok((place, reads))
}

/// The meaning of an item's only value, if it is given.
fn word<T>(
    values: Option<Vec<Box<str>>>,
    item: &str,
    allowed: &str,
    meaning: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, String> {
    let Some(values) = values else {
        return Ok(None);
    };
    let value = single(values, item)?;
    match meaning(&value.to_ascii_lowercase()) {
        Some(meaning) => Ok(Some(meaning)),
        None => Err(format!("{item} is {allowed}, not {value:?}")),
    }
}

fn single(values: Vec<Box<str>>, item: &str) -> Result<Box<str>, String> {
    let [value] = <[Box<str>; 1]>::try_from(values).map_err(|_| format!("{item} has one value"))?;
    Ok(value)
}

/// Values with commas between them, and what follows.
fn values(mut rest: &str) -> Result<(Vec<Box<str>>, &str), String> {
    let mut values = Vec::new();
    loop {
        let (value, after) = value(rest)?;
        values.push(value);
        match after.trim_start().strip_prefix(',') {
            Some(next) => rest = next.trim_start(),
            None => return Ok((values, after)),
        }
    }
}

/// One value: `'quoted'`, with quotes doubled inside, or bare up to white space or a comma.
fn value(text: &str) -> Result<(Box<str>, &str), String> {
    let Some(quoted) = text.strip_prefix('\'') else {
        let end = text
            .find(|c: char| c.is_whitespace() || matches!(c, ',' | '\'' | '='))
            .unwrap_or(text.len());
        let (bare, after) = text.split_at(end);
        if bare.is_empty() || after.starts_with(['\'', '=']) {
            return Err(format!("expected a value at {text:?}"));
        }
        return Ok((bare.into(), after));
    };
    let mut value = String::new();
    let mut rest = quoted;
    loop {
        let (part, after) = rest
            .split_once('\'')
            .ok_or_else(|| format!("no closing quote in {text:?}"))?;
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(next) => {
                value.push('\'');
                rest = next;
            }
            None => return Ok((value.into(), after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hint(comment: &str) -> Option<Hint> {
        read([comment].into_iter()).0
    }

    #[test]
    fn where_to_read() {
        let reads = |comment| read([comment].into_iter());
        assert_eq!(
            reads("/* trunkline: read=replica max_lag=1500ms */"),
            (
                None,
                ReadHint {
                    from: Some(ReadFrom::Replica),
                    max_lag: Some(MaxLag::Within(Duration::from_millis(1500))),
                }
            )
        );
        assert_eq!(
            reads("/* trunkline: key=7 read='any' */"),
            (
                Some(Hint::Key {
                    distribution: None,
                    values: vec!["7".into()]
                }),
                ReadHint {
                    from: Some(ReadFrom::Any),
                    max_lag: None,
                }
            )
        );
        assert_eq!(
            reads("/* trunkline: max_lag=off */").1.max_lag,
            Some(MaxLag::Off)
        );
    }

    #[test]
    fn well_formed() {
        assert_eq!(
            hint("/* trunkline: shard=eu1 */"),
            Some(Hint::Shard("eu1".into()))
        );
        assert_eq!(
            hint("/*trunkline:key=-42*/"),
            Some(Hint::Key {
                distribution: None,
                values: vec!["-42".into()]
            })
        );
        assert_eq!(
            hint("/* trunkline: distribution=d key='D''E', 7 */"),
            Some(Hint::Key {
                distribution: Some("d".into()),
                values: vec!["D'E".into(), "7".into()]
            })
        );
        assert_eq!(
            hint("/* trunkline: placement=reference */"),
            Some(Hint::Reference)
        );
        assert_eq!(hint("/* something else */"), None);
        assert_eq!(hint("-- trunkline: shard=eu1"), None);
    }

    #[test]
    fn malformed() {
        for comment in [
            "/* trunkline: */",
            "/* trunkline: shard */",
            "/* trunkline: shard= */",
            "/* trunkline: shard=a,b */",
            "/* trunkline: shard=a key=1 */",
            "/* trunkline: distribution=d */",
            "/* trunkline: key='a */",
            "/* trunkline: key=1, */",
            "/* trunkline: node=a */",
            "/* trunkline: shard=a shard=b */",
            "/* trunkline: read=replicas */",
            "/* trunkline: read=any,primary */",
            "/* trunkline: max_lag=soon */",
            "/* trunkline: read=any read=any */",
            "/* trunkline: placement=single */",
            "/* trunkline: placement=reference key=1 */",
        ] {
            assert!(
                matches!(hint(comment), Some(Hint::Malformed(_))),
                "{comment}"
            );
        }
        let two = ["/* trunkline: shard=a */", "/* trunkline: shard=b */"];
        assert!(matches!(read(two.into_iter()).0, Some(Hint::Malformed(_))));
    }
}
