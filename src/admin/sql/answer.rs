//! Answers on the wire: our tables and failures in pgwire's terms, for the simple and the extended protocol.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{Sink, stream};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::QueryParser;
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, Type};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::DataRow;

use super::command::{self, Command};
use super::table::{Cell, Column, Kind, Table};
use super::{Failure, Outcome, run, show};
use crate::admin::Access;

/// Answers the commands of one connection.
pub struct Answers {
    access: Access,
    commands: Arc<Commands>,
}

impl Answers {
    pub fn new(access: Access) -> Answers {
        Answers {
            access,
            commands: Arc::new(Commands),
        }
    }
}

/// A prepared command.
#[derive(Clone, Debug)]
pub struct Statement(Arc<Command>);

impl Statement {
    fn columns(&self) -> &'static [Column] {
        show::columns_of(&self.0)
    }
}

#[async_trait]
impl SimpleQueryHandler for Answers {
    /// The commands before one that fails keep their answers, as in Postgres.
    async fn do_query<C>(&self, _client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let commands = command::parse(query).map_err(Failure::from)?;
        if commands.is_empty() {
            return Ok(vec![Response::EmptyQuery]);
        }
        let mut responses = Vec::new();
        for command in &commands {
            match run(command, &self.access).await {
                Ok(outcome) => responses.push(response(outcome, &Format::UnifiedText)?),
                Err(failure) => {
                    responses.push(failed(failure));
                    break;
                }
            }
        }
        Ok(responses)
    }
}

#[async_trait]
impl ExtendedQueryHandler for Answers {
    type Statement = Statement;
    type QueryParser = Commands;

    fn query_parser(&self) -> Arc<Commands> {
        Arc::clone(&self.commands)
    }

    async fn do_query<C>(
        &self,
        _client: &mut C,
        portal: &Portal<Statement>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !portal.parameters.is_empty() {
            return Err(Failure::Parameters.into());
        }
        let statement = &portal.statement.statement;
        check_formats(statement.columns(), &portal.result_column_format)?;
        response(
            run(&statement.0, &self.access).await?,
            &portal.result_column_format,
        )
    }
}

/// Reads prepared commands, and knows their columns before they run.
pub struct Commands;

#[async_trait]
impl QueryParser for Commands {
    type Statement = Statement;

    async fn parse_sql<C>(
        &self,
        _client: &C,
        sql: &str,
        _types: &[Option<Type>],
    ) -> PgWireResult<Option<Statement>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let mut commands = command::parse(sql).map_err(Failure::from)?;
        match commands.len() {
            0 | 1 => Ok(commands.pop().map(|command| Statement(Arc::new(command)))),
            _ => Err(Failure::SeveralInOne.into()),
        }
    }

    fn get_parameter_types(&self, _statement: &Statement) -> PgWireResult<Vec<Type>> {
        Ok(Vec::new())
    }

    fn get_result_schema(
        &self,
        statement: &Statement,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        let format = format.unwrap_or(&Format::UnifiedText);
        check_formats(statement.columns(), format)?;
        Ok(fields(statement.columns(), format))
    }
}

/// pgwire indexes the formats by column.
fn check_formats(columns: &[Column], format: &Format) -> Result<(), Failure> {
    match format {
        Format::Individual(formats) if formats.len() != columns.len() => {
            Err(Failure::ResultFormats {
                formats: formats.len(),
                columns: columns.len(),
            })
        }
        _ => Ok(()),
    }
}

fn fields(columns: &[Column], format: &Format) -> Vec<FieldInfo> {
    let field = |(at, column): (usize, &Column)| {
        let (kind, size) = match column.kind {
            Kind::Text => (Type::TEXT, -1),
            Kind::Whole => (Type::INT8, 8),
            Kind::Truth => (Type::BOOL, 1),
        };
        let format = match format {
            Format::Individual(formats) => formats
                .get(at)
                .map_or(FieldFormat::Text, |code| FieldFormat::from(*code)),
            Format::UnifiedText | Format::UnifiedBinary => format.format_for(at),
        };
        FieldInfo::new(column.name.to_owned(), None, None, kind, format).with_type_size(size)
    };
    columns.iter().enumerate().map(field).collect()
}

fn response(outcome: Outcome, format: &Format) -> PgWireResult<Response> {
    match outcome {
        Outcome::Rows(table, tag) => rows(table, tag, format).map(Response::Query),
        Outcome::Done(tag) => Ok(Response::Execution(Tag::new(tag))),
    }
}

fn rows(table: Table, tag: &str, format: &Format) -> PgWireResult<QueryResponse> {
    let fields = Arc::new(fields(table.columns, format));
    let mut encoder = DataRowEncoder::new(Arc::clone(&fields));
    let encoded: Vec<PgWireResult<DataRow>> = table
        .rows
        .iter()
        .map(|cells| encode(&mut encoder, cells))
        .collect();
    let mut response = QueryResponse::new(fields, stream::iter(encoded));
    response.set_command_tag(tag);
    Ok(response)
}

fn encode(encoder: &mut DataRowEncoder, cells: &[Cell]) -> PgWireResult<DataRow> {
    for cell in cells {
        match cell {
            Cell::Null => encoder.encode_field(&None::<&str>)?,
            Cell::Text(text) => encoder.encode_field(&text.as_str())?,
            Cell::Whole(number) => encoder.encode_field(number)?,
            Cell::Truth(truth) => encoder.encode_field(truth)?,
        }
    }
    Ok(encoder.take_row())
}

fn failed(failure: Failure) -> Response {
    let info = match PgWireError::from(failure) {
        PgWireError::UserError(info) => info,
        other => Box::new(other.into()),
    };
    Response::Error(info)
}
