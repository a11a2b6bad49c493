//! EXECUTE of what several shards do: the query by itself, with the arguments as parameters. What was prepared by PREPARE and what came by a Parse
//! message is the same to it.

use std::rc::Rc;

use super::{Call, Telling, without_moved_position};
use crate::execution::branch::{Audience, Branch, Failure};
use crate::plan::functions::SEQUENCE;
use crate::plan::parameters::oid_of;
use crate::plan::spread::gather::{Fetch, Origin, travels_in_binary};
use crate::plan::{Effect, Parameters, Plan, Planned, PlannedStatement, Spread, Target, Values};
use crate::session::Session;
use crate::session::effects::literal;
use crate::session::respond::Fault;
use crate::session::route::Destination;
use crate::session::statement::{Source, Statement};
use crate::sql;
use crate::sql::class::{Argument, Class, Executes};
use crate::sql::normalise::Literal;
use crate::sql::prepared::written_arguments;
use crate::wire::message::Bind;

/// Whether EXECUTE is answered, or has to go to a server as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executed {
    Yes,
    No,
}

/// An EXECUTE that several shards do.
pub struct Execution {
    text: Vec<u8>,
    planned: Rc<Planned>,
    literals: Vec<Literal>,
    types: Types,
    /// As Bind has them.
    values: Vec<u8>,
    count: u16,
    /// Of the values, as Bind has them.
    formats: Vec<u8>,
    /// All of these, as Bind has them between the names and the result formats.
    raw_parameters: Vec<u8>,
}

/// An EXECUTE whose arguments may not be known yet.
struct Executing {
    query: Execution,
    /// They stand behind it.
    name_end: usize,
    values: Arguments,
}

/// The values of the arguments, as Bind has them.
enum Arguments {
    Read(Vec<u8>),
    /// A server is to be asked for them. If it cannot be: as they were read, if they could be.
    Asked(Option<Vec<u8>>),
}

/// The types of the query's parameters.
enum Types {
    Known(Box<[u32]>),
    /// As PREPARE has them, where not all are known by their names.
    Written(Vec<Box<str>>),
}

impl Session {
    /// Runs it when it is one for several shards.
    pub(in crate::session) async fn execute_on_several(
        &mut self,
        one: &PlannedStatement,
        text: &[u8],
    ) -> Result<Executed, Fault> {
        // Those of EXECUTE, which may be sent yet.
        let literals = std::mem::take(&mut self.literals);
        let done = self.try_on_several(one, text).await;
        self.literals = literals;
        done
    }

    async fn try_on_several(
        &mut self,
        one: &PlannedStatement,
        text: &[u8],
    ) -> Result<Executed, Fault> {
        let Some(statement) = self.executed_alone(one) else {
            return Ok(Executed::No);
        };
        let prefix = explaining(one, text);
        let execution = self.execution(one, text, &statement, prefix).await?;
        let Some(execution) = execution else {
            return Ok(Executed::No);
        };
        let run = async |session: &mut Session, call: &Call<'_>| session.spread(call).await;
        self.with_execution(&execution, &[], Telling::Description, run)
            .await?;
        self.answer_query(Vec::new())?;
        Ok(Executed::Yes)
    }

    /// What an EXECUTE executes whose shard neither a hint nor a setting names.
    pub(in crate::session) fn executed_alone(
        &self,
        one: &PlannedStatement,
    ) -> Option<Rc<Statement>> {
        match (&one.class, &one.plan) {
            (
                Class::Execute {
                    name,
                    executes: Executes::Plainly | Executes::Explained,
                    ..
                },
                Ok(Plan::Relay(Target::Any)),
            ) if !self.own_settings.has_shard() => self.executed_at(0, name),
            _ => None,
        }
    }

    /// What the arguments of an EXECUTE call: one server computes them, by itself, for all shards.
    pub(in crate::session) fn check_arguments(
        &mut self,
        one: &PlannedStatement,
        text: &[u8],
    ) -> Result<(), Fault> {
        let Class::Execute {
            name, arguments, ..
        } = &one.class
        else {
            return Ok(());
        };
        // Who names a shard has chosen where they are computed.
        let is_named =
            self.own_settings.has_shard() || !matches!(one.plan, Ok(Plan::Relay(Target::Any)));
        let only_one = self.database.catalog().shards.len() == 1;
        if !arguments.contains(&Argument::Unknown) || is_named || only_one {
            return Ok(());
        }
        let text = std::str::from_utf8(text).unwrap_or_default();
        let written = written_arguments(text, name.range.end);
        // Of its own sequences a server knows only some of the numbers that are taken.
        let words = sql::words(written).unwrap_or_default();
        let numbers = words.iter().any(|word| SEQUENCE.contains(&&**word));
        let query = format!("SELECT ROW{written}");
        let literals = std::mem::take(&mut self.literals);
        let planned = self.plan(query.as_bytes());
        self.literals = literals;
        match &planned?.statements[..] {
            // The server says what is wrong with them.
            [query] if query.class == Class::Unknown => Ok(()),
            [query] => match &query.plan {
                Err(refusal) => Err(Fault::Refused(refusal.clone())),
                Ok(_) if query.effect == Effect::Reads && query.leaves.is_empty() && !numbers => {
                    Ok(())
                }
                Ok(_) => Err(Fault::execute(
                    "an argument of EXECUTE calls a function that may write, ask a sequence, or leave something behind",
                )),
            },
            _ => Err(Fault::execute("the arguments of EXECUTE cannot be read")),
        }
    }

    /// What this EXECUTE of the statement, in this text, does on several shards; `None`: one shard does it. `prefix`: what [`explaining`] says.
    pub(in crate::session) async fn execution(
        &mut self,
        one: &PlannedStatement,
        text: &[u8],
        statement: &Rc<Statement>,
        prefix: &[u8],
    ) -> Result<Option<Execution>, Fault> {
        let Some(Executing {
            query,
            name_end,
            values,
        }) = self.read_execute(one, statement, prefix)?
        else {
            return Ok(None);
        };
        match values {
            Arguments::Read(values) => self.with_arguments(query, statement, values, &[]),
            Arguments::Asked(values) => {
                let text = std::str::from_utf8(text).unwrap_or_default();
                let written = written_arguments(text, name_end);
                let (values, formats) = self.evaluate(&query, written, values).await?;
                self.with_arguments(query, statement, values, &formats)
            }
        }
    }

    /// Whether the EXECUTE is one for several shards, as far as that is known before it is executed.
    pub(in crate::session) fn is_for_several(
        &mut self,
        one: &PlannedStatement,
        statement: &Rc<Statement>,
        prefix: &[u8],
    ) -> Result<bool, Fault> {
        let executing = self.read_execute(one, statement, prefix)?;
        let Some(Executing { query, values, .. }) = executing else {
            return Ok(false);
        };
        match values {
            Arguments::Read(values) => {
                let execution = self.with_arguments(query, statement, values, &[])?;
                Ok(execution.is_some())
            }
            Arguments::Asked(_) => Ok(true),
        }
    }

    fn read_execute(
        &mut self,
        one: &PlannedStatement,
        statement: &Rc<Statement>,
        prefix: &[u8],
    ) -> Result<Option<Executing>, Fault> {
        let Class::Execute {
            name, arguments, ..
        } = &one.class
        else {
            return Ok(None);
        };
        let Some(mut query) = self.query_of(statement, prefix)? else {
            return Ok(None);
        };
        let takes = query.takes();
        // Postgres does not look at the arguments of one that takes none.
        let written = if takes == 0 { &[][..] } else { arguments };
        if takes != written.len() {
            return Err(Fault::Postgres {
                sqlstate: "42601",
                message: format!(
                    "wrong number of parameters for prepared statement \"{}\"",
                    name.name
                ),
            });
        }
        query.count = u16::try_from(takes).unwrap_or(u16::MAX);
        let only_several = match query.planned.statements.first() {
            Some(one) => one.plan.is_err(),
            None => true,
        };
        let values = match encode(written) {
            None if !only_several && !self.is_decided_by(written, &query, statement)? => {
                return Ok(None);
            }
            Some(values) if !only_several || are_read_alike(written, &query.types) => {
                Arguments::Read(values)
            }
            values => Arguments::Asked(values),
        };
        Ok(match query.spread() {
            None | Some((_, Spread::Numbered(_))) => None,
            Some(_) => Some(Executing {
                query,
                name_end: name.range.end,
                values,
            }),
        })
    }

    /// Whether the arguments that are known already say that several shards are needed.
    fn is_decided_by(
        &mut self,
        arguments: &[Argument],
        query: &Execution,
        statement: &Statement,
    ) -> Result<bool, Fault> {
        let values = Values {
            text: &query.text,
            literals: &query.literals,
            parameters: &Parameters::written(arguments, &statement.types),
            passage: self.passage(),
        };
        // What decides and is not known is told as such where one shard does it.
        let destination = self.destination(&query.planned, &values);
        Ok(matches!(destination, Ok(Some(Destination::Several))))
    }

    /// The query with these values, if they are not those of one shard. Without formats they are texts.
    fn with_arguments(
        &mut self,
        query: Execution,
        statement: &Statement,
        values: Vec<u8>,
        formats: &[u16],
    ) -> Result<Option<Execution>, Fault> {
        let codes: Vec<u8> = formats.iter().flat_map(|code| code.to_be_bytes()).collect();
        let of_formats = u16::try_from(formats.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes();
        let count = query.count.to_be_bytes();
        let execution = Execution {
            raw_parameters: [&of_formats, &codes[..], &count, &values].concat(),
            formats: codes,
            values,
            ..query
        };
        let parameters = execution.parameters(&statement.types)?;
        let destination = self.destination(
            &execution.planned,
            &Values {
                text: &execution.text,
                literals: &execution.literals,
                parameters: &parameters,
                passage: self.passage(),
            },
        )?;
        Ok((destination == Some(Destination::Several)).then_some(execution))
    }

    /// What a Bind message of a statement that came by PREPARE does.
    pub(in crate::session) fn bound_execution(
        &mut self,
        statement: &Statement,
        bind: &Bind<'_>,
    ) -> Result<Option<Execution>, Fault> {
        let query = self.query_of(statement, &[])?;
        Ok(query.map(|query| Execution {
            values: bind.raw_values().to_vec(),
            count: bind.parameter_count,
            formats: bind.formats.raw().to_vec(),
            raw_parameters: bind.raw_parameters().to_vec(),
            ..query
        }))
    }

    /// Does something with the query and its arguments.
    pub(in crate::session) async fn with_execution<T>(
        &mut self,
        execution: &Execution,
        formats: &[u16],
        telling: Telling,
        run: impl AsyncFnOnce(&mut Session, &Call<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.seek(&execution.planned);
        let types = match &execution.types {
            Types::Known(types) => types.to_vec(),
            Types::Written(written) => self.types_of(written).await?,
        };
        let parameters = execution.parameters(&types)?;
        let Some((one, spread)) = execution.spread() else {
            return Err(Fault::Told);
        };
        let call = Call {
            statement: one,
            spread,
            text: &execution.text,
            literals: &execution.literals,
            types: &types,
            raw_parameters: &execution.raw_parameters,
            parameters: &parameters,
            formats,
            telling,
            returned: None,
        };
        run(self, &call).await
    }

    /// An execution without arguments yet; `None`: it never needs several shards.
    fn query_of(
        &mut self,
        statement: &Statement,
        prefix: &[u8],
    ) -> Result<Option<Execution>, Fault> {
        let plan = self.plan_statement(statement)?;
        let [one] = &plan.planned.statements[..] else {
            return Ok(None);
        };
        let without_values = |text: Vec<u8>, planned, literals, types| Execution {
            text,
            planned,
            literals,
            types,
            values: Vec::new(),
            count: 0,
            formats: Vec::new(),
            raw_parameters: Vec::new(),
        };
        let known = || Types::Known(statement.types.clone());
        match (&statement.source, &one.class, one.spread.as_deref()) {
            (_, Class::Prepare { query, types, .. }, Some(Spread::Prepared(_))) => {
                let text = [prefix, &statement.text()[query.clone()]].concat();
                let planned = self.plan(&text)?;
                let literals = std::mem::take(&mut self.literals);
                let all_known = statement.types.len() == types.len()
                    && !statement.types.contains(&oid_of("void"));
                let types = match all_known {
                    true => known(),
                    false => Types::Written(types.clone()),
                };
                Ok(Some(without_values(text, planned, literals, types)))
            }
            (Source::Parse { .. }, Class::Data, Some(_)) => {
                let text = [prefix, statement.text()].concat();
                let planned = self.plan(&text)?;
                let literals = std::mem::take(&mut self.literals);
                Ok(Some(without_values(text, planned, literals, known())))
            }
            _ => Ok(None),
        }
    }

    /// The arguments of an EXECUTE as the home shard understands them: their values and formats as Bind has them. Where it cannot be asked, as
    /// they are read here.
    async fn evaluate(
        &mut self,
        query: &Execution,
        arguments: &str,
        as_read: Option<Vec<u8>>,
    ) -> Result<(Vec<u8>, Vec<u16>), Fault> {
        const NAME: &str = "trunkline_arguments";
        self.end_unit_of_others().await?;
        let Some(types) = self.all_types(query).await? else {
            return as_read.map(|values| (values, Vec::new())).ok_or_else(|| {
                Fault::execute(
                    "an argument of EXECUTE of a statement of several shards is not a literal, and the types of its parameters are not known",
                )
            });
        };
        let in_binary: Vec<bool> = types.iter().map(|oid| travels_in_binary(*oid)).collect();
        if in_binary.contains(&false) && self.rounds_in_text() {
            return Err(Fault::execute(
                "an argument of EXECUTE is not a literal, and extra_float_digits would round numbers in it",
            ));
        }
        let formats: Vec<u16> = in_binary.into_iter().map(u16::from).collect();
        let values = (1..=types.len()).map(|number| format!("${number}"));
        let text = format!("SELECT {}", values.collect::<Vec<_>>().join(", "));
        let execute = format!("EXECUTE {NAME}{arguments}");
        let home = self.database.catalog().home;
        let mut links = self.enlist(&[home]).await?;
        let mut branches: Vec<Branch<'_>> = links
            .iter_mut()
            .map(|link| Branch::new(link.server()))
            .collect();
        for branch in &mut branches {
            let asked = (text.as_bytes(), &types[..]);
            branch.execute_once(NAME, asked, execute.as_bytes(), &formats);
        }
        let mut values = Evaluated(Vec::new());
        let done = self.hear(&mut branches, &mut values).await;
        // None of its places is one in the client's text.
        let done = done.map_err(|failure| without_moved_position(failure, Some(0)));
        self.finish(links, done).await?;
        Ok((values.0, formats))
    }

    /// The types of a query's parameters; `None`: not all are declared, and no shard has all of its tables.
    async fn all_types(&mut self, query: &Execution) -> Result<Option<Vec<u32>>, Fault> {
        let types = match &query.types {
            Types::Known(types) => types.to_vec(),
            Types::Written(written) => self.types_of(written).await?,
        };
        let is_declared = |oid: &u32| ![0, oid_of("unknown")].contains(oid);
        if types.len() == query.takes() && types.iter().all(is_declared) {
            return Ok(Some(types));
        }
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let shard = match query.spread() {
            Some((_, Spread::Gather(gather))) => {
                let elsewhere = |fetch: &Fetch| matches!(fetch.origin, Origin::One(_));
                (!gather.fetches.iter().any(elsewhere)).then_some(gather.shard)
            }
            Some((_, spread)) if spread.describer().is_some() => spread.describer(),
            Some((one, _)) => match &one.over {
                Some(over) => catalog.shards_of(over).first().copied(),
                None => Some(catalog.home),
            },
            None => None,
        };
        let Some(shard) = shard else {
            return Ok(None);
        };
        let mut links = self.enlist(&[shard]).await?;
        let described = self.describe_on(&mut links[0], &query.text, &types).await;
        let described = described.map_err(|failure| without_moved_position(failure, Some(0)));
        match described {
            Ok(description) => {
                self.finish(links, Ok(())).await?;
                Ok(Some(description.types))
            }
            Err(failure) => {
                self.finish(links, Err(failure)).await?;
                Err(Fault::Told)
            }
        }
    }

    /// What the server calls types that are written like this.
    async fn types_of(&mut self, written: &[Box<str>]) -> Result<Vec<u32>, Fault> {
        self.end_unit_of_others().await?;
        let names: Vec<String> = written
            .iter()
            .map(|name| format!("{}::pg_catalog.regtype::pg_catalog.oid", literal(name)))
            .collect();
        let sql = format!("SELECT pg_catalog.concat_ws(' ', {})", names.join(", "));
        let home = self.database.catalog().home;
        let mut links = self.enlist(&[home]).await?;
        let worker = Rc::clone(&self.worker);
        let said = match links.first_mut() {
            Some(link) => link.ask(&sql, &worker).await,
            None => None,
        };
        self.finish(links, Ok(())).await?;
        let oids = said.map(|said| said.split(' ').map(str::parse).collect());
        match oids {
            Some(Ok(oids)) => Ok(oids),
            _ => Err(Fault::execute(
                "the types of the parameters of a statement of several shards are not known",
            )),
        }
    }
}

/// Hears one row, whose values are as Bind has them.
struct Evaluated(Vec<u8>);

impl Audience for Evaluated {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], _: &mut Vec<u8>) -> Result<(), Failure> {
        if tag == b'D' {
            self.0 = body.get(2..).unwrap_or_default().to_vec();
        }
        Ok(())
    }
}

/// What stands in front of EXECUTE in its text: EXPLAIN and its options, or nothing.
pub(in crate::session) fn explaining<'a>(one: &PlannedStatement, text: &'a [u8]) -> &'a [u8] {
    let Class::Execute {
        name,
        executes: Executes::Explained,
        ..
    } = &one.class
    else {
        return &[];
    };
    let before = text.get(..name.range.start).unwrap_or_default();
    let words = before.to_ascii_lowercase();
    let execute = words.windows(7).rposition(|word| word == b"execute");
    execute.map_or(&[], |place| &before[..place])
}

impl Execution {
    /// The statement that is executed.
    fn spread(&self) -> Option<(&PlannedStatement, &Spread)> {
        let mut statements = self.planned.statements.iter();
        statements.find_map(|one| Some((one, one.spread.as_deref()?)))
    }

    /// How many parameters.
    fn takes(&self) -> usize {
        let declared = match &self.types {
            Types::Known(types) => types.len(),
            Types::Written(types) => types.len(),
        };
        let text = std::str::from_utf8(&self.text).ok();
        let used = text.and_then(sql::highest_parameter).unwrap_or(0);
        declared.max(usize::from(used))
    }

    fn parameters<'a>(&'a self, types: &'a [u32]) -> Result<Parameters<'a>, Fault> {
        Parameters::from_bind(&self.formats, self.count, &self.values, types)
            .map_err(Fault::MalformedBind)
    }
}

/// Whether parameters of these types read all of the arguments as EXECUTE would bring them to the types. Not every type takes every number.
fn are_read_alike(arguments: &[Argument], types: &Types) -> bool {
    let takes = |place: usize, number: &str| {
        let oid = match types {
            Types::Known(types) => types.get(place).copied(),
            Types::Written(types) => types.get(place).map(|name| oid_of(name)),
        };
        let is = |name| oid == Some(oid_of(name));
        is("numeric")
            || is("text")
            || is("bigint") && number.parse::<i64>().is_ok()
            || is("integer") && number.parse::<i32>().is_ok()
            || is("smallint") && number.parse::<i16>().is_ok()
    };
    let mut arguments = arguments.iter().enumerate();
    arguments.all(|(place, argument)| match argument {
        Argument::Number(number) => takes(place, number),
        Argument::Null | Argument::Text(_) => true,
        Argument::Unknown => false,
    })
}

/// The values as Bind has them, in text; `None`: one is not known.
fn encode(arguments: &[Argument]) -> Option<Vec<u8>> {
    let mut values = Vec::new();
    for argument in arguments {
        match argument {
            Argument::Null => values.extend_from_slice(&(-1_i32).to_be_bytes()),
            Argument::Text(text) | Argument::Number(text) => {
                let length = i32::try_from(text.len()).ok()?;
                values.extend_from_slice(&length.to_be_bytes());
                values.extend_from_slice(text.as_bytes());
            }
            Argument::Unknown => return None,
        }
    }
    Some(values)
}
