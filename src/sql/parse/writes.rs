//! INSERT, UPDATE and DELETE, for [`Extraction`].

use super::conditions::{self, fold};
use super::extract::{Extraction, name};
use super::walk::{self, Part, Unread, identifiers};
use crate::sql::facts::{Access, Assignment, Insert, InsertSource, Name, Operand, Source};
use sqlparser::ast::{self, ObjectName, Query, SelectItem, SetExpr, TableFactor};

impl Extraction {
    /// Adds the target of a write as the first relation of its block.
    pub(super) fn target(
        &mut self,
        table: &ObjectName,
        alias: Option<&ast::Ident>,
        block: usize,
    ) -> Result<Name, Unread> {
        let table = name(table)?;
        let alias = alias.map_or_else(|| table.name.clone(), fold);
        self.relation(
            Source::Table(table.clone()),
            alias,
            Access::Write,
            block,
            &mut Vec::new(),
        );
        Ok(table)
    }

    /// The target of UPDATE, DELETE and MERGE.
    pub(super) fn target_factor(
        &mut self,
        factor: &TableFactor,
        block: usize,
    ) -> Result<Name, Unread> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                with_hints,
                version: None,
                with_ordinality: false,
                partitions,
                json_path: None,
                sample: None,
                index_hints,
            } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => {
                if alias
                    .as_ref()
                    .is_some_and(|alias| !alias.columns.is_empty())
                {
                    return Err(Unread("a target with column names"));
                }
                self.target(name, alias.as_ref().map(|alias| &alias.name), block)
            }
            _ => Err(Unread("a target that is no plain table")),
        }
    }

    pub(super) fn insert(&mut self, insert: &ast::Insert, block: usize) -> Result<(), Unread> {
        let ast::Insert {
            insert_token: _,
            optimizer_hints: _,
            into: _,
            has_table_keyword: _,
            ..
        } = insert;
        let foreign = insert.or.is_some()
            || insert.ignore
            || insert.overwrite
            || !insert.assignments.is_empty()
            || insert.partitioned.is_some()
            || !insert.after_columns.is_empty()
            || insert.output.is_some()
            || insert.replace_into
            || insert.priority.is_some()
            || insert.insert_alias.is_some()
            || insert.settings.is_some()
            || insert.format_clause.is_some()
            || insert.multi_table_insert_type.is_some();
        let ast::TableObject::TableName(table) = &insert.table else {
            return Err(Unread("INSERT into something that is no table"));
        };
        if foreign {
            return Err(Unread("an INSERT that is not Postgres's"));
        }
        let alias = insert.table_alias.as_ref().map(|alias| &alias.alias);
        let table = self.target(table, alias, block)?;
        let columns: Vec<Box<str>> = insert
            .columns
            .iter()
            .map(column)
            .collect::<Result<_, _>>()?;
        let place = self.facts.inserts.len();
        self.facts.inserts.push(Insert {
            table: table.clone(),
            columns: (!columns.is_empty()).then_some(columns),
            source: InsertSource::DefaultValues,
        });
        if let Some(query) = &insert.source {
            self.facts.inserts[place].source = self.insert_source(query)?;
        }
        match &insert.on {
            None => {}
            Some(ast::OnInsert::OnConflict(conflict)) => {
                if let ast::OnConflictAction::DoUpdate(update) = &conflict.action {
                    self.assignments(table, &update.assignments, block)?;
                    self.walk(
                        update.selection.iter().map(Part::Expr).collect(),
                        Some(block),
                    )?;
                }
            }
            Some(_) => return Err(Unread("ON DUPLICATE KEY UPDATE")),
        }
        self.returning(insert.returning.as_deref(), block)
    }

    pub(super) fn insert_source(&mut self, query: &Query) -> Result<InsertSource, Unread> {
        let Query {
            with: None,
            body,
            order_by: None,
            limit_clause: None,
            fetch: None,
            ..
        } = query
        else {
            let shape = self.query(query, None, None)?;
            return Ok(InsertSource::Select(shape.plain.then_some(shape.block)));
        };
        let SetExpr::Values(values) = &**body else {
            let shape = self.query(query, None, None)?;
            return Ok(InsertSource::Select(shape.plain.then_some(shape.block)));
        };
        // An INSERT's VALUES sees no columns at all.
        self.walk(
            values
                .rows
                .iter()
                .flat_map(|row| &row.content)
                .map(Part::Expr)
                .collect(),
            None,
        )?;
        Ok(InsertSource::Values(
            values
                .rows
                .iter()
                .map(|row| {
                    row.content
                        .iter()
                        .map(|value| not_a_column(conditions::operand(value)))
                        .collect()
                })
                .collect(),
        ))
    }

    pub(super) fn assignments(
        &mut self,
        table: Name,
        assignments: &[ast::Assignment],
        block: usize,
    ) -> Result<(), Unread> {
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        for assignment in assignments {
            match &assignment.target {
                ast::AssignmentTarget::ColumnName(name) => {
                    columns.push(first_part(name)?);
                    // A part of a column's value is not the whole.
                    values.push(match name.0.len() {
                        1 => conditions::operand(&assignment.value),
                        _ => Operand::Unknown,
                    });
                }
                ast::AssignmentTarget::Tuple(names) => {
                    for name in names {
                        columns.push(first_part(name)?);
                        values.push(Operand::Unknown);
                    }
                }
            }
        }
        self.facts.assignments.push(Assignment {
            table,
            columns,
            values,
        });
        self.walk(
            assignments
                .iter()
                .map(|assignment| Part::Expr(&assignment.value))
                .collect(),
            Some(block),
        )
    }

    pub(super) fn update(&mut self, update: &ast::Update, block: usize) -> Result<(), Unread> {
        if update.or.is_some()
            || !update.order_by.is_empty()
            || update.limit.is_some()
            || update.output.is_some()
            || !update.table.joins.is_empty()
        {
            return Err(Unread("an UPDATE that is not Postgres's"));
        }
        let table = self.target_factor(&update.table.relation, block)?;
        match &update.from {
            None => {}
            Some(ast::UpdateTableFromKind::AfterSet(from)) => {
                self.from(from, block)?;
            }
            Some(ast::UpdateTableFromKind::BeforeSet(_)) => return Err(Unread("FROM before SET")),
        }
        self.restrict(update.selection.as_ref(), block)?;
        self.assignments(table, &update.assignments, block)?;
        self.returning(update.returning.as_deref(), block)
    }

    pub(super) fn delete(&mut self, delete: &ast::Delete, block: usize) -> Result<(), Unread> {
        let ast::FromTable::WithFromKeyword(from) = &delete.from else {
            return Err(Unread("DELETE without FROM"));
        };
        let ([target], true) = (from.as_slice(), delete.tables.is_empty()) else {
            return Err(Unread("DELETE of several tables"));
        };
        if !target.joins.is_empty()
            || !delete.order_by.is_empty()
            || delete.limit.is_some()
            || delete.output.is_some()
        {
            return Err(Unread("a DELETE that is not Postgres's"));
        }
        self.target_factor(&target.relation, block)?;
        if let Some(using) = &delete.using {
            self.from(using, block)?;
        }
        self.restrict(delete.selection.as_ref(), block)?;
        self.returning(delete.returning.as_deref(), block)
    }

    pub(super) fn returning(
        &mut self,
        items: Option<&[SelectItem]>,
        block: usize,
    ) -> Result<(), Unread> {
        let mut parts = Vec::new();
        for item in items.unwrap_or_default() {
            walk::select_item(item, &mut parts)?;
        }
        self.walk(parts, Some(block))
    }
}

/// In VALUES there is no column to refer to.
fn not_a_column(operand: Operand) -> Operand {
    match operand {
        Operand::Column(_) => Operand::Unknown,
        operand => operand,
    }
}

/// A column in an INSERT's list; a field of a composite column is not read.
pub(super) fn column(name: &ObjectName) -> Result<Box<str>, Unread> {
    match identifiers(name)?[..] {
        [column] => Ok(fold(column)),
        _ => Err(Unread("a field of a column in INSERT")),
    }
}

/// The column in `SET column.field = ..`.
fn first_part(name: &ObjectName) -> Result<Box<str>, Unread> {
    identifiers(name)?
        .first()
        .map(|column| fold(column))
        .ok_or(Unread("an empty name"))
}
