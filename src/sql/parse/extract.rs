//! From the tree to [`Facts`].
//!
//! Every node that can hold a table is visited; one that is not understood ends in [`Unread`] and the statement counts as not parsed.
//! Recursion follows the nesting of queries only, which the parser limits; chains of operators, joins and set operations are loops.

use super::conditions::{self, fold, is_value_function};
use super::from::{JoinKind, Side, join};
use super::shim::{COLLATED, Notes};
use super::walk::{self, Part, Unread, identifiers};
use crate::sql::facts::{
    Access, Assignment, Block, ColumnRef, Conjunct, Doubt, Facts, Insert, InsertSource, Leaves,
    Name, Operand, Relation, Source,
};
use sqlparser::ast::{
    self, Expr, ObjectName, Query, Select, SelectItem, SetExpr, Statement, TableAlias, TableFactor,
    TableWithJoins,
};
use std::collections::HashSet;

/// More relations in one block than this are not planned: what restricts what grows with the square.
const MOST_RELATIONS: usize = 300;

/// The facts of a statement.
pub(super) fn facts(statement: &Statement, notes: Notes) -> Result<Facts, Unread> {
    let mut extraction = Extraction {
        facts: Facts::default(),
        scopes: Vec::new(),
        functions: HashSet::new(),
    };
    extraction.statement(statement, None, None)?;
    for name in notes.functions {
        extraction.called(name);
    }
    if notes.positioned {
        extraction.doubt(Doubt::Unread("WHERE CURRENT OF".into()));
    }
    Ok(extraction.facts)
}

struct Extraction {
    facts: Facts,
    /// Names of the WITH queries that can be seen, innermost last.
    scopes: Vec<Vec<Box<str>>>,
    /// Those already in `facts.functions`.
    functions: HashSet<Name>,
}

/// What a query turned out to be.
struct Shape {
    /// Its first block.
    block: usize,
    /// Whether that block alone is the query: no set operation, nothing around it.
    plain: bool,
}

impl Extraction {
    fn block(&mut self, parent: Option<usize>) -> usize {
        self.facts.blocks.push(Block {
            parent,
            ..Block::default()
        });
        self.facts.blocks.len() - 1
    }

    fn doubt(&mut self, doubt: Doubt) {
        if !self.facts.doubts.contains(&doubt) {
            self.facts.doubts.push(doubt);
        }
    }

    fn leaves(&mut self, leaves: Leaves) {
        if !self.facts.leaves.contains(&leaves) {
            self.facts.leaves.push(leaves);
        }
    }

    fn called(&mut self, name: Name) {
        if self.functions.insert(name.clone()) {
            self.facts.functions.push(name);
        }
    }

    /// `block`: the one that was made for this statement already, if any.
    fn statement(
        &mut self,
        statement: &Statement,
        block: Option<usize>,
        parent: Option<usize>,
    ) -> Result<Shape, Unread> {
        if let Statement::Query(query) = statement {
            return self.query(query, block, parent);
        }
        let block = block.unwrap_or_else(|| self.block(parent));
        match statement {
            Statement::Insert(insert) => self.insert(insert, block)?,
            Statement::Update(update) => self.update(update, block)?,
            Statement::Delete(delete) => self.delete(delete, block)?,
            Statement::Merge(merge) => self.merge(merge, block)?,
            _ => return Err(Unread("a statement that reads or writes no rows")),
        }
        Ok(Shape {
            block,
            plain: false,
        })
    }

    // Queries

    fn query(
        &mut self,
        query: &Query,
        block: Option<usize>,
        parent: Option<usize>,
    ) -> Result<Shape, Unread> {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        if for_clause.is_some()
            || settings.is_some()
            || format_clause.is_some()
            || !pipe_operators.is_empty()
        {
            return Err(Unread("a clause that is not Postgres's"));
        }
        let block = block.unwrap_or_else(|| self.block(parent));
        let scopes = self.scopes.len();
        if let Some(with) = with {
            self.with(with, parent)?;
        }
        let plain = self.set_expression(body, block, parent)?;
        let mut parts = Vec::new();
        if let Some(clause) = order_by {
            walk::order_by(clause, &mut parts)?;
        }
        if let Some(clause) = limit_clause {
            walk::limit(clause, &mut parts);
        }
        parts.extend(
            fetch
                .iter()
                .flat_map(|fetch| &fetch.quantity)
                .map(Part::Expr),
        );
        let trimmed = order_by.is_some() || limit_clause.is_some() || fetch.is_some();
        self.walk(parts, Some(block))?;
        self.facts.locking |= !locks.is_empty();
        self.scopes.truncate(scopes);
        let values = matches!(**body, SetExpr::Values(_));
        Ok(Shape {
            block,
            plain: plain && !(values && trimmed),
        })
    }

    /// Adds a scope with the names of WITH; a query in it sees the earlier ones, or all when RECURSIVE.
    fn with(&mut self, with: &ast::With, parent: Option<usize>) -> Result<(), Unread> {
        let names = if with.recursive {
            with.cte_tables
                .iter()
                .map(|cte| fold(&cte.alias.name))
                .collect()
        } else {
            Vec::new()
        };
        self.scopes.push(names);
        let scope = self.scopes.len() - 1;
        for cte in &with.cte_tables {
            if cte.from.is_some() {
                return Err(Unread("WITH .. FROM"));
            }
            self.query(&cte.query, None, parent)?;
            if !with.recursive {
                self.scopes[scope].push(fold(&cte.alias.name));
            }
        }
        Ok(())
    }

    /// The branches of a set operation in their order; the first goes into `block`. Whether there is one branch only.
    fn set_expression(
        &mut self,
        body: &SetExpr,
        block: usize,
        parent: Option<usize>,
    ) -> Result<bool, Unread> {
        let mut open = vec![body];
        let mut first = Some(block);
        let mut plain = true;
        while let Some(body) = open.pop() {
            if let SetExpr::SetOperation {
                left,
                right,
                set_quantifier,
                ..
            } = body
            {
                use ast::SetQuantifier::{All, AllByName, ByName, Distinct, DistinctByName, None};
                match set_quantifier {
                    All | Distinct | None => {}
                    ByName | AllByName | DistinctByName => return Err(Unread("UNION BY NAME")),
                }
                plain = false;
                open.extend([&**right, &**left]);
                continue;
            }
            let reserved = first.take();
            match body {
                SetExpr::Query(query) => plain &= self.query(query, reserved, parent)?.plain,
                SetExpr::Insert(statement)
                | SetExpr::Update(statement)
                | SetExpr::Delete(statement)
                | SetExpr::Merge(statement) => {
                    plain &= self.statement(statement, reserved, parent)?.plain;
                }
                SetExpr::Select(select) => {
                    let block = reserved.unwrap_or_else(|| self.block(parent));
                    self.select(select, block)?;
                }
                SetExpr::Values(values) => {
                    let block = reserved.unwrap_or_else(|| self.block(parent));
                    self.walk(
                        values
                            .rows
                            .iter()
                            .flat_map(|row| &row.content)
                            .map(Part::Expr)
                            .collect(),
                        Some(block),
                    )?;
                    if let [row] = values.rows.as_slice() {
                        self.facts.blocks[block].output =
                            row.content.iter().map(conditions::operand).collect();
                    }
                    plain = false;
                }
                SetExpr::Table(_) => return Err(Unread("TABLE")),
                SetExpr::SetOperation { .. } => return Err(Unread("a set operation")),
            }
        }
        Ok(plain)
    }

    fn select(&mut self, select: &Select, block: usize) -> Result<(), Unread> {
        refuse_foreign_clauses(select)?;
        if let Some(into) = &select.into {
            self.doubt(Doubt::SelectInto);
            if into.temporary {
                self.leaves(Leaves::TemporaryTable);
            }
        }
        let nullable = self.from(&select.from, block)?;
        self.restrict(select.selection.as_ref(), block)?;
        let mut parts = Vec::new();
        if let Some(clause) = &select.distinct {
            walk::distinct(clause, &mut parts);
        }
        for item in &select.projection {
            walk::select_item(item, &mut parts)?;
        }
        walk::group_by(&select.group_by, &mut parts)?;
        parts.extend(select.having.as_ref().map(Part::Expr));
        for ast::NamedWindowDefinition(_, window) in &select.named_window {
            walk::named_window(window, &mut parts)?;
        }
        self.walk(parts, Some(block))?;
        let grouping = has_grouping_sets(&select.group_by);
        let output: Vec<Operand> = select.projection.iter().map_while(output).collect();
        let relations = &self.facts.blocks[block].relations;
        let may_be_null = |column: &ColumnRef| match &column.qualifier {
            _ if grouping => true,
            Some(qualifier) => nullable
                .iter()
                .any(|relation| relations[*relation].alias == *qualifier),
            None => !nullable.is_empty(),
        };
        self.facts.blocks[block].output = output
            .into_iter()
            .map(|operand| match operand {
                // A row without a partner, or of another grouping set, has NULL instead.
                Operand::Column(column) if may_be_null(&column) => Operand::Unknown,
                operand => operand,
            })
            .collect();
        Ok(())
    }

    /// Records a WHERE clause: for every relation of the block.
    fn restrict(&mut self, condition: Option<&Expr>, block: usize) -> Result<(), Unread> {
        let Some(condition) = condition else {
            return Ok(());
        };
        let added = self.conjuncts(condition, block);
        for relation in &mut self.facts.blocks[block].relations {
            relation.usable.extend(&added);
        }
        self.walk(vec![Part::Expr(condition)], Some(block))
    }

    /// Adds the conjuncts of a condition to a block; their indexes.
    fn conjuncts(&mut self, condition: &Expr, block: usize) -> Vec<usize> {
        let conjuncts = &mut self.facts.blocks[block].conjuncts;
        let first = conjuncts.len();
        conjuncts.extend(conditions::conjuncts(condition));
        (first..conjuncts.len()).collect()
    }

    // FROM

    /// Adds the relations of a FROM clause to a block, with the conditions of its joins. Which of them may be NULL in the result.
    fn from(&mut self, from: &[TableWithJoins], block: usize) -> Result<Vec<usize>, Unread> {
        let before = self.facts.blocks[block].relations.len();
        // A target that stands before FROM is joined with it like by a comma.
        let mut usable = vec![Vec::new(); before];
        let mut all: Option<Side> = (before > 0).then(|| Side {
            relations: (0..before).collect(),
            ..Side::default()
        });
        for item in from {
            let side = self.joined(item, block, &mut usable)?;
            all = Some(match all {
                None => side,
                Some(left) => join(left, JoinKind::Inner, &[], side, &mut usable),
            });
            if usable.len() > MOST_RELATIONS {
                return Err(Unread("more than 300 tables in one FROM"));
            }
        }
        for (relation, usable) in self.facts.blocks[block].relations.iter_mut().zip(usable) {
            relation.usable.extend(usable);
        }
        Ok(all.map(|side| side.nullable).unwrap_or_default())
    }

    fn joined(
        &mut self,
        item: &TableWithJoins,
        block: usize,
        usable: &mut Vec<Vec<usize>>,
    ) -> Result<Side, Unread> {
        let mut left = self.factor(&item.relation, block, usable)?;
        for joined in &item.joins {
            let right = self.factor(&joined.relation, block, usable)?;
            if joined.global || usable.len() > MOST_RELATIONS {
                return Err(Unread("GLOBAL JOIN, or more than 300 tables in one FROM"));
            }
            let (kind, constraint) = join_kind(&joined.join_operator)?;
            let on = self.constraint(constraint, &left, &right, block)?;
            left = join(left, kind, &on, right, usable);
        }
        Ok(left)
    }

    /// The conditions of a join, by index.
    fn constraint(
        &mut self,
        constraint: &ast::JoinConstraint,
        left: &Side,
        right: &Side,
        block: usize,
    ) -> Result<Vec<usize>, Unread> {
        match constraint {
            ast::JoinConstraint::None => Ok(Vec::new()),
            ast::JoinConstraint::Natural => {
                self.doubt(Doubt::Natural);
                Ok(Vec::new())
            }
            ast::JoinConstraint::On(condition) => {
                let added = self.conjuncts(condition, block);
                self.walk(vec![Part::Expr(condition)], Some(block))?;
                Ok(added)
            }
            ast::JoinConstraint::Using(columns) => {
                let mut added = Vec::new();
                for column in columns {
                    let [column] = identifiers(column)?[..] else {
                        return Err(Unread("a qualified column in USING"));
                    };
                    let conjuncts = &mut self.facts.blocks[block].conjuncts;
                    added.push(conjuncts.len());
                    conjuncts.push(Conjunct::Using {
                        column: fold(column),
                        left: left.relations.clone(),
                        right: right.relations.clone(),
                    });
                }
                Ok(added)
            }
        }
    }

    /// One item of FROM.
    fn factor(
        &mut self,
        factor: &TableFactor,
        block: usize,
        usable: &mut Vec<Vec<usize>>,
    ) -> Result<Side, Unread> {
        let (source, alias) = match factor {
            TableFactor::NestedJoin {
                table_with_joins,
                alias,
            } => {
                if alias.is_some() {
                    self.doubt(Doubt::Unread("an alias on a join".into()));
                }
                return self.joined(table_with_joins, block, usable);
            }
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints,
                version,
                with_ordinality: _,
                partitions,
                json_path,
                sample,
                index_hints,
            } => {
                if !with_hints.is_empty()
                    || version.is_some()
                    || !partitions.is_empty()
                    || json_path.is_some()
                    || !index_hints.is_empty()
                {
                    return Err(Unread("a table with options that are not Postgres's"));
                }
                self.sample(sample.as_ref(), block)?;
                match args {
                    None => {
                        let source = self.table_or_cte(name)?;
                        // A key could hide behind another column's name.
                        if matches!(source, Source::Table(_))
                            && alias
                                .as_ref()
                                .is_some_and(|alias| !alias.columns.is_empty())
                        {
                            self.doubt(Doubt::Unread("an alias with column names".into()));
                        }
                        (source, alias_name(alias.as_ref(), Some(name))?)
                    }
                    Some(args) => {
                        if args.settings.is_some() {
                            return Err(Unread("a table function with settings"));
                        }
                        self.table_function(name, &args.args, block)?;
                        (Source::Function, alias_name(alias.as_ref(), Some(name))?)
                    }
                }
            }
            TableFactor::Function {
                name,
                args,
                alias,
                lateral: _,
                with_ordinality: _,
            } => {
                self.table_function(name, args, block)?;
                (Source::Function, alias_name(alias.as_ref(), Some(name))?)
            }
            TableFactor::Derived {
                lateral,
                subquery,
                alias,
                sample,
            } => {
                self.sample(sample.as_ref(), block)?;
                let parent = if *lateral {
                    Some(block)
                } else {
                    self.facts.blocks[block].parent
                };
                self.query(subquery, None, parent)?;
                (Source::Derived, alias_name(alias.as_ref(), None)?)
            }
            TableFactor::TableFunction { expr, alias } => {
                self.walk(vec![Part::Expr(expr)], Some(block))?;
                (Source::Function, alias_name(alias.as_ref(), None)?)
            }
            TableFactor::UNNEST {
                alias,
                array_exprs,
                with_offset: false,
                with_offset_alias: None,
                with_ordinality: _,
            } => {
                self.walk(array_exprs.iter().map(Part::Expr).collect(), Some(block))?;
                (Source::Function, alias_name(alias.as_ref(), None)?)
            }
            TableFactor::JsonTable {
                json_expr,
                json_path: _,
                columns: _,
                alias,
            } => {
                self.walk(vec![Part::Expr(json_expr)], Some(block))?;
                (Source::Function, alias_name(alias.as_ref(), None)?)
            }
            TableFactor::XmlTable {
                namespaces,
                row_expression,
                passing,
                columns,
                alias,
            } => {
                let mut parts: Vec<Part> = namespaces
                    .iter()
                    .map(|namespace| Part::Expr(&namespace.uri))
                    .collect();
                parts.push(Part::Expr(row_expression));
                parts.extend(
                    passing
                        .arguments
                        .iter()
                        .map(|argument| Part::Expr(&argument.expr)),
                );
                for column in columns {
                    match &column.option {
                        ast::XmlTableColumnOption::NamedInfo { path, default, .. } => {
                            parts.extend(path.iter().chain(default).map(Part::Expr));
                        }
                        ast::XmlTableColumnOption::ForOrdinality => {}
                    }
                }
                self.walk(parts, Some(block))?;
                (Source::Function, alias_name(alias.as_ref(), None)?)
            }
            TableFactor::UNNEST { .. }
            | TableFactor::OpenJsonTable { .. }
            | TableFactor::Pivot { .. }
            | TableFactor::Unpivot { .. }
            | TableFactor::UnpivotExpr { .. }
            | TableFactor::MatchRecognize { .. }
            | TableFactor::SemanticView { .. } => {
                return Err(Unread("an item of FROM that is not Postgres's"));
            }
        };
        Ok(self.relation(source, alias, Access::Read, block, usable))
    }

    fn relation(
        &mut self,
        source: Source,
        alias: Box<str>,
        access: Access,
        block: usize,
        usable: &mut Vec<Vec<usize>>,
    ) -> Side {
        let relations = &mut self.facts.blocks[block].relations;
        relations.push(Relation {
            source,
            alias,
            access,
            usable: Vec::new(),
        });
        usable.push(Vec::new());
        Side::one(relations.len() - 1)
    }

    fn table_or_cte(&mut self, table: &ObjectName) -> Result<Source, Unread> {
        let parts = identifiers(table)?;
        if let [only] = parts[..] {
            if is_value_function(only) {
                self.called(Name {
                    schema: None,
                    name: fold(only),
                });
                return Ok(Source::Function);
            }
            let folded = fold(only);
            if self.scopes.iter().flatten().any(|name| *name == folded) {
                return Ok(Source::Cte(folded));
            }
        }
        Ok(Source::Table(name(table)?))
    }

    fn table_function(
        &mut self,
        function: &ObjectName,
        arguments: &[ast::FunctionArg],
        block: usize,
    ) -> Result<(), Unread> {
        let name = name(function)?;
        self.called(name);
        let mut parts = Vec::new();
        walk::arguments(arguments, &mut parts)?;
        self.walk(parts, Some(block))
    }

    fn sample(
        &mut self,
        sample: Option<&ast::TableSampleKind>,
        block: usize,
    ) -> Result<(), Unread> {
        let Some(
            ast::TableSampleKind::BeforeTableAlias(sample)
            | ast::TableSampleKind::AfterTableAlias(sample),
        ) = sample
        else {
            return Ok(());
        };
        if sample.bucket.is_some() || sample.offset.is_some() {
            return Err(Unread("a sample that is not Postgres's"));
        }
        self.walk(
            sample
                .quantity
                .iter()
                .map(|quantity| Part::Expr(&quantity.value))
                .collect(),
            Some(block),
        )
    }

    // Expressions

    /// Looks through expressions for subqueries and calls. `block` is the one whose columns they see.
    fn walk<'a>(&mut self, parts: Vec<Part<'a>>, block: Option<usize>) -> Result<(), Unread> {
        let mut open: Vec<Part<'a>> = parts.into_iter().rev().collect();
        while let Some(part) = open.pop() {
            let below = open.len();
            match part {
                Part::Query(query) => {
                    self.query(query, None, block)?;
                }
                Part::Expr(Expr::Identifier(name)) if is_value_function(name) => {
                    self.called(Name {
                        schema: None,
                        name: fold(name),
                    })
                }
                Part::Expr(expr) => walk::parts(expr, &mut open)?,
                Part::Call(function) => {
                    self.call(function)?;
                    walk::call_parts(function, &mut open)?;
                }
            }
            open[below..].reverse();
        }
        Ok(())
    }

    fn call(&mut self, function: &ast::Function) -> Result<(), Unread> {
        let name = name(&function.name)?;
        match &*name.name {
            "pg_advisory_lock"
            | "pg_advisory_lock_shared"
            | "pg_try_advisory_lock"
            | "pg_try_advisory_lock_shared" => {
                self.leaves(Leaves::AdvisoryLock);
            }
            "set_config" if !sets_locally(function) => self.leaves(Leaves::Setting),
            "lo_open" => self.leaves(Leaves::LargeObject),
            // Constructors that the parser reads as calls.
            "row" | "array" | "values" if name.schema.is_none() => return Ok(()),
            _ => {}
        }
        self.called(name);
        Ok(())
    }

    // Writes

    /// Adds the target of a write as the first relation of its block.
    fn target(
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
    fn target_factor(&mut self, factor: &TableFactor, block: usize) -> Result<Name, Unread> {
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

    fn insert(&mut self, insert: &ast::Insert, block: usize) -> Result<(), Unread> {
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

    fn insert_source(&mut self, query: &Query) -> Result<InsertSource, Unread> {
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

    fn assignments(
        &mut self,
        table: Name,
        assignments: &[ast::Assignment],
        block: usize,
    ) -> Result<(), Unread> {
        let mut columns = Vec::new();
        for assignment in assignments {
            match &assignment.target {
                ast::AssignmentTarget::ColumnName(name) => columns.push(first_part(name)?),
                ast::AssignmentTarget::Tuple(names) => {
                    for name in names {
                        columns.push(first_part(name)?);
                    }
                }
            }
        }
        self.facts.assignments.push(Assignment { table, columns });
        self.walk(
            assignments
                .iter()
                .map(|assignment| Part::Expr(&assignment.value))
                .collect(),
            Some(block),
        )
    }

    fn update(&mut self, update: &ast::Update, block: usize) -> Result<(), Unread> {
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

    fn delete(&mut self, delete: &ast::Delete, block: usize) -> Result<(), Unread> {
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

    /// MERGE is doubted whatever it says; what it touches is recorded all the same.
    fn merge(&mut self, merge: &ast::Merge, block: usize) -> Result<(), Unread> {
        self.doubt(Doubt::Merge);
        let table = self.target_factor(&merge.table, block)?;
        let before = self.facts.blocks[block].relations.len();
        self.factor(&merge.source, block, &mut vec![Vec::new(); before])?;
        self.walk(vec![Part::Expr(&merge.on)], Some(block))?;
        for clause in &merge.clauses {
            self.walk(
                clause.predicate.iter().map(Part::Expr).collect(),
                Some(block),
            )?;
            match &clause.action {
                ast::MergeAction::Insert(insert) => {
                    if let ast::MergeInsertKind::Values(values) = &insert.kind {
                        self.walk(
                            values
                                .rows
                                .iter()
                                .flat_map(|row| &row.content)
                                .map(Part::Expr)
                                .collect(),
                            Some(block),
                        )?;
                    }
                    self.walk(
                        insert.insert_predicate.iter().map(Part::Expr).collect(),
                        Some(block),
                    )?;
                }
                ast::MergeAction::Update(update) => {
                    if let ast::MergeUpdateKind::Set(assignments) = &update.kind {
                        self.assignments(table.clone(), assignments, block)?;
                    }
                    self.walk(
                        update
                            .update_predicate
                            .iter()
                            .chain(&update.delete_predicate)
                            .map(Part::Expr)
                            .collect(),
                        Some(block),
                    )?;
                }
                ast::MergeAction::Delete { .. } | ast::MergeAction::DoNothing { .. } => {}
            }
        }
        match &merge.output {
            None => Ok(()),
            Some(ast::OutputClause::Returning { select_items, .. }) => {
                self.returning(Some(select_items), block)
            }
            Some(ast::OutputClause::Output { .. }) => Err(Unread("MERGE .. OUTPUT")),
        }
    }

    fn returning(&mut self, items: Option<&[SelectItem]>, block: usize) -> Result<(), Unread> {
        let mut parts = Vec::new();
        for item in items.unwrap_or_default() {
            walk::select_item(item, &mut parts)?;
        }
        self.walk(parts, Some(block))
    }
}

/// The alias of an item of FROM, else its own name, else nothing.
fn alias_name(alias: Option<&TableAlias>, own: Option<&ObjectName>) -> Result<Box<str>, Unread> {
    match (alias, own) {
        (Some(alias), _) if alias.at.is_some() => Err(Unread("an alias with AT")),
        (Some(alias), _) => Ok(Some(fold(&alias.name))
            .filter(|alias| **alias != *COLLATED)
            .unwrap_or_default()),
        (None, Some(own)) => Ok(name(own)?.name),
        (None, None) => Ok(Box::default()),
    }
}

/// Clauses that the parser knows from other databases.
fn refuse_foreign_clauses(select: &Select) -> Result<(), Unread> {
    let foreign = select.select_modifiers.is_some()
        || select.top.is_some()
        || select.exclude.is_some()
        || !select.lateral_views.is_empty()
        || select.prewhere.is_some()
        || !select.connect_by.is_empty()
        || !select.cluster_by.is_empty()
        || !select.distribute_by.is_empty()
        || !select.sort_by.is_empty()
        || select.qualify.is_some()
        || select.value_table_mode.is_some()
        || select.flavor != ast::SelectFlavor::Standard;
    if foreign {
        Err(Unread("a clause of SELECT that is not Postgres's"))
    } else {
        Ok(())
    }
}

fn join_kind(operator: &ast::JoinOperator) -> Result<(JoinKind, &ast::JoinConstraint), Unread> {
    use ast::JoinOperator as Of;
    match operator {
        Of::Join(constraint) | Of::Inner(constraint) | Of::CrossJoin(constraint) => {
            Ok((JoinKind::Inner, constraint))
        }
        Of::Left(constraint) | Of::LeftOuter(constraint) => Ok((JoinKind::Left, constraint)),
        Of::Right(constraint) | Of::RightOuter(constraint) => Ok((JoinKind::Right, constraint)),
        Of::FullOuter(constraint) => Ok((JoinKind::Full, constraint)),
        Of::Semi(_)
        | Of::LeftSemi(_)
        | Of::RightSemi(_)
        | Of::Anti(_)
        | Of::LeftAnti(_)
        | Of::RightAnti(_)
        | Of::CrossApply
        | Of::OuterApply
        | Of::AsOf { .. }
        | Of::StraightJoin(_)
        | Of::ArrayJoin
        | Of::LeftArrayJoin
        | Of::InnerArrayJoin => Err(Unread("a join that is not Postgres's")),
    }
}

/// What an output column is; `None` for a wildcard, whose columns and those after it have unknown places.
fn output(item: &SelectItem) -> Option<Operand> {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            Some(conditions::operand(expr))
        }
        SelectItem::ExprWithAliases { .. }
        | SelectItem::QualifiedWildcard(..)
        | SelectItem::Wildcard(_) => None,
    }
}

fn has_grouping_sets(group_by: &ast::GroupByExpr) -> bool {
    match group_by {
        ast::GroupByExpr::All(_) => true,
        ast::GroupByExpr::Expressions(exprs, modifiers) => {
            !modifiers.is_empty()
                || exprs.iter().any(|expr| {
                    matches!(
                        expr,
                        Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_)
                    )
                })
        }
    }
}

/// In VALUES there is no column to refer to.
fn not_a_column(operand: Operand) -> Operand {
    match operand {
        Operand::Column(_) => Operand::Unknown,
        operand => operand,
    }
}

/// `set_config(name, value, true)` and nothing else is over at the end of the transaction.
fn sets_locally(function: &ast::Function) -> bool {
    let ast::FunctionArguments::List(list) = &function.args else {
        return false;
    };
    let [
        _,
        _,
        ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(Expr::Value(flag))),
    ] = list.args.as_slice()
    else {
        return false;
    };
    flag.value == ast::Value::Boolean(true)
}

/// `[database.][schema.]name`
fn name(name: &ObjectName) -> Result<Name, Unread> {
    match identifiers(name)?[..] {
        [name] => Ok(Name {
            schema: None,
            name: fold(name),
        }),
        [.., schema, name] => Ok(Name {
            schema: Some(fold(schema)),
            name: fold(name),
        }),
        [] => Err(Unread("an empty name")),
    }
}

/// A column in an INSERT's list; a field of a composite column is not read.
fn column(name: &ObjectName) -> Result<Box<str>, Unread> {
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
