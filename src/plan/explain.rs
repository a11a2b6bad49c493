//! Where a statement goes, and why, for people: `trunkline route` and `SHOW ROUTE`.

use std::fmt;

use crate::catalog::{Catalog, SearchPath};
use crate::config::MaxLag;
use crate::sharding::{KeyValue, Location, Via};
use crate::sql::class::Class;
use crate::sql::facts::{Facts, Name, Source};
use crate::sql::normalise::{Literal, normalise};
use crate::sql::{self, Body, Hint, ReadHint, Statement};

use super::bind::{Bound, Values, bind, each_key};
use super::cache::Unplannable;
use super::parameters::Parameters;
use super::refusal::{Reason, Refusal};
use super::scope::{self, Meaning};
use super::{KeySet, Plan, Target, plan};

/// Keys that are shown; of more only the number is.
const MOST_SHOWN: usize = 8;

/// One statement, explained.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// As it was written.
    pub statement: String,
    /// Like `data` or `begin`.
    pub class: String,
    pub hint: Option<String>,
    pub tables: Vec<Table>,
    pub keys: Vec<Key>,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    /// Like `sharded by customer_id in distribution customers`.
    pub placement: String,
}

/// A key that was found, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub distribution: String,
    pub values: String,
    /// Like `bucket 17`.
    pub via: String,
    pub shard: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The session itself answers.
    Session,
    /// Every shard gives the same answer.
    AnyShard {
        home: String,
    },
    Shard(String),
    /// Parameters decide it.
    AtBind(String),
    /// On several shards: a label and its text a line.
    Spread(String),
    Refused(Refusal),
}

/// Explains every statement of a text. With `parameters` keys are found even where they are not literals.
pub fn explain(
    text: &str,
    catalog: &Catalog,
    search_path: &SearchPath,
    parameters: Option<&Parameters<'_>>,
) -> Result<Vec<Explanation>, Unplannable> {
    let statements = sql::read(text)?;
    let planned = plan(text, &statements, catalog, search_path);
    let (mut normal, mut literals) = (Vec::new(), Vec::new());
    // What was read has a normal form; without one no literal is known, and keys are refused below.
    if normalise(text.as_bytes(), &mut normal, &mut literals).is_err() {
        literals.clear();
    }
    let values = Known {
        text,
        literals: &literals,
        parameters,
        catalog,
    };
    let explained = statements
        .iter()
        .zip(planned.statements)
        .map(|(statement, planned)| {
            let spread = planned
                .spread
                .as_ref()
                .map(|spread| spread.describe(text, catalog));
            let refused = planned.plan.is_err();
            let (keys, outcome) = match (&statement.class, planned.plan) {
                // Only the session knows what it executes.
                (Class::Execute { .. }, Ok(Plan::Relay(Target::Any))) => {
                    (Vec::new(), Outcome::Session)
                }
                (_, plan) => values.outcome(plan),
            };
            let outcome = match (outcome, spread) {
                // What is wrong with the values is wrong on several shards, too.
                (Outcome::Refused(refusal), Some(spread))
                    if refused || refusal.is_of_several_shards() =>
                {
                    Outcome::Spread(spread)
                }
                (outcome, _) => outcome,
            };
            Explanation {
                statement: text[statement.range.clone()].to_owned(),
                class: class_name(statement),
                hint: hints_text(statement),
                tables: match &statement.body {
                    Body::Facts(facts) => tables(facts, catalog, search_path),
                    Body::None | Body::Unparsed { .. } => Vec::new(),
                },
                keys,
                outcome,
            }
        });
    Ok(explained.collect())
}

/// What the statements' values are taken from.
struct Known<'a> {
    text: &'a str,
    literals: &'a [Literal],
    parameters: Option<&'a Parameters<'a>>,
    catalog: &'a Catalog,
}

impl Known<'_> {
    fn outcome(&self, plan: Result<Plan, Refusal>) -> (Vec<Key>, Outcome) {
        let target = match plan {
            Ok(Plan::Session) => return (Vec::new(), Outcome::Session),
            Ok(Plan::Relay(target)) => target,
            Err(refusal) => return (Vec::new(), Outcome::Refused(refusal)),
        };
        if self.parameters.is_none()
            && let Target::Keys { sets, .. } = &target
            && let Some(waiting) = parameters_of(sets)
        {
            return (Vec::new(), Outcome::AtBind(waiting));
        }
        let parameters = self.parameters.unwrap_or(&Parameters::NONE);
        let values = Values {
            text: self.text.as_bytes(),
            literals: self.literals,
            parameters,
            passage: crate::plan::Passage::Through,
        };
        let mut keys = Vec::new();
        // A key that has no place ends the list; `bind` reports it.
        let _ = each_key(
            &target,
            self.catalog,
            &values,
            |distribution, key, location| {
                keys.push(self.key(&distribution.name, key, &location));
                Ok(())
            },
        );
        let outcome = match bind(&target, self.catalog, &values) {
            Ok(Bound::Any) => Outcome::AnyShard {
                home: self.catalog.shards[self.catalog.home.index()].to_string(),
            },
            Ok(Bound::Shard(shard)) => {
                Outcome::Shard(self.catalog.shards[shard.index()].to_string())
            }
            Err(refusal) => Outcome::Refused(refusal),
        };
        (keys, outcome)
    }

    fn key(&self, distribution: &str, key: &[KeyValue], location: &Location) -> Key {
        let values: Vec<String> = key.iter().map(ToString::to_string).collect();
        Key {
            distribution: distribution.to_owned(),
            values: values.join(", "),
            via: match &location.via {
                Via::Bucket(bucket) => format!("bucket {bucket}"),
                Via::Range(place) => format!("range {place}"),
                Via::Listed => "listed".to_owned(),
                Via::Default => "default".to_owned(),
                Via::Region {
                    region,
                    bucket: None,
                } => format!("region {region}"),
                Via::Region {
                    region,
                    bucket: Some(bucket),
                } => format!("region {region}, bucket {bucket}"),
                Via::Pin => "pin".to_owned(),
            },
            shard: self.catalog.shards[location.shard.index()].to_string(),
        }
    }
}

/// The parameters that decide the shard, like `$1, $3`.
fn parameters_of(sets: &[KeySet]) -> Option<String> {
    let operands = sets
        .iter()
        .flat_map(|set| &set.tuples)
        .flat_map(|tuple| &tuple.0);
    let mut numbers: Vec<u16> = operands
        .filter_map(|operand| match &operand.operand {
            sql::facts::Operand::Param { number, .. } => Some(*number),
            _ => None,
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let names: Vec<String> = numbers.iter().map(|number| format!("${number}")).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Every table that the statement names, once.
fn tables(facts: &Facts, catalog: &Catalog, search_path: &SearchPath) -> Vec<Table> {
    let relations = facts.blocks.iter().flat_map(|block| &block.relations);
    let read = relations.filter_map(|relation| match &relation.source {
        Source::Table(name) => Some(name),
        Source::Cte(_) | Source::Derived | Source::Function => None,
    });
    let mut tables: Vec<Table> = Vec::new();
    for name in facts.inserts.iter().map(|insert| &insert.table).chain(read) {
        let table = Table {
            name: full_name(name),
            placement: placement(
                scope::Known::look_up(catalog, search_path, name).meaning,
                catalog,
            ),
        };
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    tables
}

fn full_name(name: &Name) -> String {
    match &name.schema {
        Some(schema) => format!("{schema}.{}", name.name),
        None => name.name.to_string(),
    }
}

fn placement(meaning: Meaning<'_>, catalog: &Catalog) -> String {
    match meaning {
        Meaning::Sharded { distribution, key } => {
            let distribution = &catalog.distributions[usize::from(distribution.0)].name;
            format!(
                "sharded by {} in distribution {distribution}",
                key.join(", ")
            )
        }
        Meaning::Reference => "reference, on every shard".to_owned(),
        Meaning::Single(shard) => format!("single, on shard {}", catalog.shards[shard.index()]),
        Meaning::View => "view of sharded or reference tables".to_owned(),
        Meaning::Refused(why) => format!("refused: {why}"),
        Meaning::System => "system catalog".to_owned(),
        Meaning::Temporary => "temporary".to_owned(),
        Meaning::Unknown | Meaning::NotATable => "not known".to_owned(),
    }
}

/// The class in lower-case words.
fn class_name(statement: &Statement) -> String {
    use crate::sql::class::Class;
    let name = match &statement.class {
        Class::SetConfig(_) => "setting",
        Class::Empty => "empty",
        Class::Data => "data",
        Class::Begin => "begin",
        Class::Commit { .. } => "commit",
        Class::Rollback { .. } => "rollback",
        Class::Savepoint(_) | Class::RollbackTo(_) | Class::Release(_) => "savepoint",
        Class::TwoPhase => "two-phase commit",
        Class::Set { .. } | Class::SetTransaction | Class::SetConstraints => "set",
        Class::Reset(_) | Class::ResetAll => "reset",
        Class::Show(_) => "show",
        Class::Declare { .. } | Class::Fetch(_) | Class::CloseCursor(_) => "cursor",
        Class::Prepare { .. } | Class::Execute { .. } | Class::Deallocate(_) => {
            "prepared statement"
        }
        Class::Discard(_) => "discard",
        Class::Listen(_) | Class::Unlisten(_) | Class::Notify => "notification",
        Class::Lock => "lock",
        Class::Explain { .. } => "explain",
        Class::Copy(_) => "copy",
        Class::Ddl(_) => "definition",
        Class::Maintenance => "maintenance",
        Class::Call | Class::Do => "code",
        Class::Load => "load",
        Class::Unknown => "unknown",
    };
    name.to_owned()
}

fn hints_text(statement: &Statement) -> Option<String> {
    let ReadHint { from, max_lag } = statement.reads;
    let parts: Vec<String> = statement
        .hint
        .iter()
        .map(hint_text)
        .chain(from.map(|from| format!("read={}", from.as_str())))
        .chain(max_lag.map(|limit| match limit {
            MaxLag::Off => "max_lag=off".to_owned(),
            MaxLag::Within(limit) => format!("max_lag={}ms", limit.as_millis()),
        }))
        .collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

fn hint_text(hint: &Hint) -> String {
    match hint {
        Hint::Shard(name) => format!("shard={name}"),
        Hint::Key {
            distribution: None,
            values,
        } => format!("key={}", values.join(",")),
        Hint::Key {
            distribution: Some(name),
            values,
        } => format!("distribution={name} key={}", values.join(",")),
        Hint::Reference => "placement=reference".to_owned(),
        Hint::Malformed(why) => format!("cannot be read: {why}"),
    }
}

impl Explanation {
    pub fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Refused(_))
    }
}

impl fmt::Display for Explanation {
    /// A label and its text a line, the texts aligned.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "class   {}", self.class)?;
        if let Some(hint) = &self.hint {
            writeln!(f, "hint    {hint}")?;
        }
        let width = self
            .tables
            .iter()
            .map(|table| table.name.len())
            .max()
            .unwrap_or(0);
        for table in &self.tables {
            writeln!(f, "table   {:width$}  {}", table.name, table.placement)?;
        }
        for key in self.keys.iter().take(MOST_SHOWN) {
            writeln!(
                f,
                "key     {} {}: {} -> {}",
                key.distribution, key.values, key.via, key.shard
            )?;
        }
        if self.keys.len() > MOST_SHOWN {
            writeln!(f, "key     and {} more", self.keys.len() - MOST_SHOWN)?;
        }
        match &self.outcome {
            Outcome::Session => writeln!(f, "goes    nowhere: the session answers or remembers"),
            Outcome::AnyShard { home } => writeln!(
                f,
                "goes    to any shard (the open transaction's, else {home})"
            ),
            Outcome::Shard(shard) => writeln!(f, "goes    to shard {shard}"),
            Outcome::AtBind(parameters) => {
                writeln!(f, "goes    to the shard that {parameters} decides")
            }
            Outcome::Spread(lines) => writeln!(f, "{lines}"),
            Outcome::Refused(refusal) => {
                writeln!(f, "refused {} ({})", refusal.id, refusal.sqlstate)?;
                writeln!(f, "reason  {}", refusal.message)?;
                writeln!(f, "hint    {}", refusal.hint)
            }
        }
    }
}

/// What cannot be planned at all, as a refusal.
impl From<&Unplannable> for Refusal {
    fn from(error: &Unplannable) -> Refusal {
        match error {
            Unplannable::NotUtf8 { position } => {
                Refusal::new(Reason::NotUtf8, error.to_string()).at(*position)
            }
            Unplannable::Sql(error) => {
                let kind = Reason::UnreadSyntax.kind();
                let position = Some(error.position());
                Refusal {
                    id: kind.id,
                    sqlstate: error.sqlstate(),
                    message: error.to_string(),
                    hint: kind.hint,
                    position,
                }
            }
        }
    }
}
