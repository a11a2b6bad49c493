//! FROM clauses: relations and the conditions of their joins, for [`Extraction`].

use super::conditions::{fold, is_value_function};
use super::extract::{Extraction, name};
use super::from::{JoinKind, Side, join};
use super::shim::COLLATED;
use super::walk::{self, Part, Unread, identifiers};
use crate::sql::facts::{Access, Conjunct, Doubt, Name, Presence, Relation, Source};
use sqlparser::ast::{self, ObjectName, TableAlias, TableFactor, TableWithJoins};

/// More relations in one block than this are not planned: what restricts what grows with the square.
const MOST_RELATIONS: usize = 300;

impl Extraction {
    /// Adds the relations of a FROM clause to a block, with the conditions of its joins. Which of them may be NULL in the result.
    pub(super) fn from(
        &mut self,
        from: &[TableWithJoins],
        block: usize,
    ) -> Result<Vec<usize>, Unread> {
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
        let nullable = all.map(|side| side.nullable).unwrap_or_default();
        self.joined_to(block, usable, &nullable);
        Ok(nullable)
    }

    /// Writes down what the joins of a block have made of its relations.
    pub(super) fn joined_to(&mut self, block: usize, usable: Vec<Vec<usize>>, nullable: &[usize]) {
        let relations = &mut self.facts.blocks[block].relations;
        for (relation, usable) in relations.iter_mut().zip(usable) {
            relation.usable.extend(usable);
        }
        for relation in nullable {
            relations[*relation].presence = Presence::Optional;
        }
    }

    pub(super) fn joined(
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
    pub(super) fn constraint(
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
    pub(super) fn factor(
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
                    self.doubt(Doubt::Unread(Doubt::RENAMED_JOIN.into()));
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
                            self.doubt(Doubt::Unread(Doubt::RENAMED_COLUMNS.into()));
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

    pub(super) fn relation(
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
            presence: Presence::Always,
        });
        usable.push(Vec::new());
        Side::one(relations.len() - 1)
    }

    pub(super) fn table_or_cte(&mut self, table: &ObjectName) -> Result<Source, Unread> {
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

    pub(super) fn table_function(
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

    pub(super) fn sample(
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
