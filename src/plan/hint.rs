//! A shard named by the application: in a leading comment, or by `SET trunkline.shard` and `SET trunkline.key`.
//!
//! A hint outranks what the statement's text proves: who names a shard takes the duty to be right, as when connecting to it directly.

use crate::catalog::{Catalog, DistributionId};
use crate::sharding::ShardId;
use crate::sql::Hint;

use super::refusal::{Reason, Refusal};

/// A session setting that names a shard for the statements that follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting<'a> {
    /// `SET trunkline.shard = name`
    Shard(&'a str),
    /// `SET trunkline.key = 42`, with one value a key column. The distribution is the only one of the database, or is named before them:
    /// `SET trunkline.key = 'distribution=orders', 42`.
    Key(&'a [Box<str>]),
}

/// The shard that a comment names. `tables` is the distribution of the statement's sharded tables, when they have one in common.
pub fn hinted(
    hint: &Hint,
    tables: Option<DistributionId>,
    catalog: &Catalog,
) -> Result<ShardId, Refusal> {
    match hint {
        Hint::Shard(name) => shard_named(name, catalog),
        Hint::Key {
            distribution,
            values,
        } => {
            let distribution = match distribution {
                Some(name) => distribution_named(name, catalog)?,
                None => tables.map_or_else(|| only_distribution(catalog), Ok)?,
            };
            shard_of_key(distribution, values, catalog)
        }
        Hint::Reference => Err(Refusal::new(
            Reason::HintMalformed,
            "the trunkline comment gives a table its place, and the statement is no CREATE TABLE",
        )),
        Hint::Malformed(why) => Err(Refusal::new(
            Reason::HintMalformed,
            format!("the trunkline comment cannot be read: {why}"),
        )),
    }
}

/// The shard that a session setting names; checked when it is set, and asked again after the catalog changed.
pub fn from_setting(setting: Setting<'_>, catalog: &Catalog) -> Result<ShardId, Refusal> {
    match setting {
        Setting::Shard(name) => shard_named(name, catalog),
        Setting::Key(values) => {
            let named = match values {
                [first, rest @ ..] if !rest.is_empty() => {
                    first.strip_prefix("distribution=").map(|name| (name, rest))
                }
                _ => None,
            };
            match named {
                Some((name, values)) => {
                    shard_of_key(distribution_named(name, catalog)?, values, catalog)
                }
                None => shard_of_key(only_distribution(catalog)?, values, catalog),
            }
        }
    }
}

fn shard_named(name: &str, catalog: &Catalog) -> Result<ShardId, Refusal> {
    let place = catalog.shards.iter().position(|shard| **shard == *name);
    place
        .and_then(|place| u16::try_from(place).ok())
        .map(ShardId)
        .ok_or_else(|| {
            let known = catalog.shards.join(", ");
            Refusal::new(
                Reason::UnknownShard,
                format!("there is no shard \"{name}\"; the shards are {known}"),
            )
        })
}

pub(super) fn distribution_named(name: &str, catalog: &Catalog) -> Result<DistributionId, Refusal> {
    let place = catalog
        .distributions
        .iter()
        .position(|distribution| *distribution.name == *name);
    place
        .and_then(|place| u16::try_from(place).ok())
        .map(DistributionId)
        .ok_or_else(|| {
            let known = names_of_distributions(catalog);
            Refusal::new(
                Reason::HintKey,
                format!("there is no distribution \"{name}\"; the distributions are {known}"),
            )
        })
}

pub(super) fn only_distribution(catalog: &Catalog) -> Result<DistributionId, Refusal> {
    match catalog.distributions.len() {
        1 => Ok(DistributionId(0)),
        0 => Err(Refusal::new(
            Reason::HintKey,
            "a key is given, but no distribution is configured",
        )),
        _ => {
            let known = names_of_distributions(catalog);
            Err(Refusal::new(
                Reason::HintKey,
                format!("a key is given, but not which distribution it belongs to: {known}"),
            ))
        }
    }
}

fn names_of_distributions(catalog: &Catalog) -> String {
    catalog
        .distributions
        .iter()
        .map(|distribution| &*distribution.name)
        .collect::<Vec<_>>()
        .join(", ")
}

fn shard_of_key(
    distribution: DistributionId,
    values: &[Box<str>],
    catalog: &Catalog,
) -> Result<ShardId, Refusal> {
    let distribution = &catalog.distributions[usize::from(distribution.0)];
    let types = distribution.map.key_types();
    if types.len() != values.len() {
        let message = format!(
            "the key of distribution \"{}\" has {} columns, {} values are given",
            distribution.name,
            types.len(),
            values.len()
        );
        return Err(Refusal::new(Reason::HintKey, message));
    }
    let key = types
        .iter()
        .zip(values)
        .map(|(key_type, value)| key_type.parse_text(value))
        .collect::<Result<Vec<_>, _>>();
    let key = key.map_err(|error| Refusal::new(Reason::KeyValue, error.to_string()))?;
    super::bind::shard_of(distribution, &key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalog, config};

    #[test]
    fn a_key_is_of_the_distribution_that_is_named() {
        let text = "users = [{ name = \"u\", password = \"p\" }]\ndatabases = [{ name = \"app\" }]\n\
            shards = [{ name = \"s1\", nodes = [{ host = \"a\" }] }, { name = \"s2\", nodes = [{ host = \"b\" }] }]\n\
            [[distributions]]\nname = \"low\"\nkey = \"bigint\"\nstrategy = \"list\"\nvalues = [{ values = [1], shard = \"s1\" }, { values = [2], shard = \"s2\" }]\n\
            [[distributions]]\nname = \"words\"\nkey = [\"text\", \"bigint\"]\nstrategy = \"hash\"\nshards = [\"s2\"]\n";
        let config = config::parse(text, "test.toml", &|_| None).expect("it is sound");
        let configured = catalog::build(&config, "app").expect("it can be served");
        let (catalog, _) = Catalog::assemble(configured, None, catalog::Epoch(1));
        let shard = |values: &[&str]| {
            let values: Vec<Box<str>> = values.iter().map(|value| (*value).into()).collect();
            from_setting(Setting::Key(&values), &catalog).map_err(|refusal| refusal.message)
        };
        assert_eq!(shard(&["distribution=low", "1"]), Ok(ShardId(0)));
        assert_eq!(shard(&["distribution=low", "2"]), Ok(ShardId(1)));
        assert_eq!(shard(&["distribution=words", "a", "1"]), Ok(ShardId(1)));
        for (values, why) in [
            (
                &["1"][..],
                "a key is given, but not which distribution it belongs to: low, words",
            ),
            (
                &["distribution=high", "1"],
                "there is no distribution \"high\"; the distributions are low, words",
            ),
            (
                &["distribution=words", "a"],
                "the key of distribution \"words\" has 2 columns, 1 values are given",
            ),
            (
                &["distribution=low"],
                "a key is given, but not which distribution it belongs to: low, words",
            ),
        ] {
            assert_eq!(shard(values), Err(why.to_owned()), "{values:?}");
        }
    }
}
