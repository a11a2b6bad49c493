//! EXECUTE, in the simple protocol, of what PREPARE has prepared and several shards do: the query by itself, with the arguments as parameters.

use std::rc::Rc;

use super::{Call, Telling};
use crate::plan::parameters::oid_of;
use crate::plan::{Parameters, Planned, Spread, Values};
use crate::session::Session;
use crate::session::effects::literal;
use crate::session::respond::Fault;
use crate::session::route::Destination;
use crate::session::statement::Statement;
use crate::sql::class::{Argument, Class};
use crate::sql::normalise::Literal;

/// Whether EXECUTE is answered, or has to go to a server as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executed {
    Yes,
    No,
}

/// A query out of PREPARE.
struct Query {
    text: Vec<u8>,
    planned: Rc<Planned>,
    literals: Vec<Literal>,
    /// The types of its parameters, as they were written.
    types: Vec<Box<str>>,
}

impl Session {
    /// Runs it when it is one for several shards.
    pub(in crate::session) async fn execute_on_several(
        &mut self,
        statement: &Rc<Statement>,
        arguments: &[Argument],
    ) -> Result<Executed, Fault> {
        // Those of EXECUTE, which may be sent yet.
        let literals = std::mem::take(&mut self.literals);
        let done = self.try_on_several(statement, arguments).await;
        self.literals = literals;
        Ok(done?.map_or(Executed::No, |()| Executed::Yes))
    }

    async fn try_on_several(
        &mut self,
        statement: &Rc<Statement>,
        arguments: &[Argument],
    ) -> Result<Option<()>, Fault> {
        let Some(query) = self.prepared_query_of(statement)? else {
            return Ok(None);
        };
        let values = match encode(arguments) {
            Some(values) => values,
            // Where the key is known it may be for one shard; that is found out there.
            None => match query.planned.statements.first() {
                Some(one) if one.plan.is_ok() => return Ok(None),
                _ => {
                    return Err(Fault::execute(
                        "an argument of EXECUTE of a statement of several shards is not a literal",
                    ));
                }
            },
        };
        let count = u16::try_from(arguments.len()).unwrap_or(u16::MAX);
        let parameters = Parameters::from_bind(&[], count, &values, &statement.types)
            .map_err(Fault::MalformedBind)?;
        let literals = &query.literals;
        let destination = self.destination(
            &query.planned,
            &Values {
                text: &query.text,
                literals,
                parameters: &parameters,
                passage: self.passage(),
            },
        )?;
        let several = query
            .planned
            .statements
            .iter()
            .find_map(|one| Some((one, one.spread.as_deref()?)));
        let (Some(Destination::Several), Some((one, spread))) = (destination, several) else {
            return Ok(None);
        };
        if matches!(spread, Spread::Numbered(_)) {
            return Ok(None);
        }
        self.seek(&query.planned);
        let types = self.types_of(&query.types, &statement.types).await?;
        // No formats, which is text, and the values.
        let raw_parameters = [&[0, 0], &count.to_be_bytes()[..], &values].concat();
        let call = Call {
            statement: one,
            spread,
            text: &query.text,
            literals,
            types: &types,
            raw_parameters: &raw_parameters,
            parameters: &parameters,
            formats: &[],
            telling: Telling::Description,
            returned: None,
        };
        self.spread(&call).await?;
        self.answer_query(Vec::new())?;
        Ok(Some(()))
    }

    /// `None`: it never needs several shards.
    fn prepared_query_of(&mut self, statement: &Statement) -> Result<Option<Query>, Fault> {
        let plan = self.plan_statement(statement)?;
        let [one] = &plan.planned.statements[..] else {
            return Ok(None);
        };
        let (Class::Prepare { query, types, .. }, Some(Spread::Prepared)) =
            (&one.class, one.spread.as_deref())
        else {
            return Ok(None);
        };
        let text = statement.text()[query.clone()].to_vec();
        let planned = self.plan(&text)?;
        Ok(Some(Query {
            text,
            planned,
            literals: std::mem::take(&mut self.literals),
            types: types.clone(),
        }))
    }

    /// What the server calls types that are written like this.
    async fn types_of(&mut self, written: &[Box<str>], known: &[u32]) -> Result<Vec<u32>, Fault> {
        if known.len() == written.len() && !known.contains(&oid_of("void")) {
            return Ok(known.to_vec());
        }
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

/// The values as Bind has them, in text; `None`: one is not known.
fn encode(arguments: &[Argument]) -> Option<Vec<u8>> {
    let mut values = Vec::new();
    for argument in arguments {
        match argument {
            Argument::Null => values.extend_from_slice(&(-1_i32).to_be_bytes()),
            Argument::Text(text) => {
                let length = i32::try_from(text.len()).ok()?;
                values.extend_from_slice(&length.to_be_bytes());
                values.extend_from_slice(text.as_bytes());
            }
            Argument::Unknown => return None,
        }
    }
    Some(values)
}
