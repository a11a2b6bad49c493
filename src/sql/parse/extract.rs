//! From the tree to [`Facts`]: queries and expressions here, FROM in `relations.rs`, writes in `writes.rs`.
//!
//! Every node that can hold a table is visited; one that is not understood ends in [`Unread`] and the statement counts as not parsed.
//! Recursion follows the nesting of queries only, which the parser limits; chains of operators, joins and set operations are loops.

use super::conditions::{self, fold, is_value_function};
use super::shim::Notes;
use super::walk::{self, Part, Unread, identifiers};
use crate::sql::facts::{Block, ColumnRef, Doubt, Facts, Leaves, Name, Operand};
use sqlparser::ast::{self, Expr, ObjectName, Query, Select, SelectItem, SetExpr, Statement};
use std::collections::HashSet;

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

pub(super) struct Extraction {
    pub(super) facts: Facts,
    /// Names of the WITH queries that can be seen, innermost last.
    pub(super) scopes: Vec<Vec<Box<str>>>,
    /// Those already in `facts.functions`.
    functions: HashSet<Name>,
}

/// What a query turned out to be.
pub(super) struct Shape {
    /// Its first block.
    pub(super) block: usize,
    /// Whether that block alone is the query: no set operation, nothing around it.
    pub(super) plain: bool,
}

impl Extraction {
    pub(super) fn block(&mut self, parent: Option<usize>) -> usize {
        self.facts.blocks.push(Block {
            parent,
            ..Block::default()
        });
        self.facts.blocks.len() - 1
    }

    pub(super) fn doubt(&mut self, doubt: Doubt) {
        if !self.facts.doubts.contains(&doubt) {
            self.facts.doubts.push(doubt);
        }
    }

    pub(super) fn leaves(&mut self, leaves: Leaves) {
        if !self.facts.leaves.contains(&leaves) {
            self.facts.leaves.push(leaves);
        }
    }

    pub(super) fn called(&mut self, name: Name) {
        if self.functions.insert(name.clone()) {
            self.facts.functions.push(name);
        }
    }

    /// `block`: the one that was made for this statement already, if any.
    pub(super) fn statement(
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

    pub(super) fn query(
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
    pub(super) fn with(&mut self, with: &ast::With, parent: Option<usize>) -> Result<(), Unread> {
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
    pub(super) fn set_expression(
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

    pub(super) fn select(&mut self, select: &Select, block: usize) -> Result<(), Unread> {
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
    pub(super) fn restrict(
        &mut self,
        condition: Option<&Expr>,
        block: usize,
    ) -> Result<(), Unread> {
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
    pub(super) fn conjuncts(&mut self, condition: &Expr, block: usize) -> Vec<usize> {
        let conjuncts = &mut self.facts.blocks[block].conjuncts;
        let first = conjuncts.len();
        conjuncts.extend(conditions::conjuncts(condition));
        (first..conjuncts.len()).collect()
    }

    /// Looks through expressions for subqueries and calls. `block` is the one whose columns they see.
    pub(super) fn walk<'a>(
        &mut self,
        parts: Vec<Part<'a>>,
        block: Option<usize>,
    ) -> Result<(), Unread> {
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

    pub(super) fn call(&mut self, function: &ast::Function) -> Result<(), Unread> {
        let name = name(&function.name)?;
        match &*name.name {
            "pg_advisory_lock"
            | "pg_advisory_lock_shared"
            | "pg_try_advisory_lock"
            | "pg_try_advisory_lock_shared" => {
                self.leaves(Leaves::AdvisoryLock);
            }
            "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all" => {
                self.leaves(Leaves::AdvisoryUnlock);
            }
            "set_config" if sets_locally(function) => self.leaves(Leaves::LocalSetting),
            "set_config" => self.leaves(Leaves::Setting),
            "lo_open" => self.leaves(Leaves::LargeObject),
            // Constructors that the parser reads as calls.
            "row" | "array" | "values" if name.schema.is_none() => return Ok(()),
            _ => {}
        }
        self.called(name);
        Ok(())
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

pub(super) fn has_grouping_sets(group_by: &ast::GroupByExpr) -> bool {
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
pub(super) fn name(name: &ObjectName) -> Result<Name, Unread> {
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
