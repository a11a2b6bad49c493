//! MERGE, for [`Extraction`]: its target and its source are joined, the actions for rows without a partner say how.

use super::conditions::{self, fold};
use super::extract::{Extraction, has_grouping_sets};
use super::from::{JoinKind, Side, join};
use super::walk::{Part, Unread};
use super::writes::column;
use crate::sql::facts::{
    ColumnRef, Derived, DerivedColumns, Doubt, Insert, InsertSource, Merge, Name, Operand,
    Unmatched,
};
use sqlparser::ast::{self, SelectItem, SetExpr, TableFactor};

impl Extraction {
    /// MERGE. Where it is a part of another statement it is doubted whatever it says; what it touches is recorded all the same.
    pub(super) fn merge(&mut self, merge: &ast::Merge, block: usize) -> Result<(), Unread> {
        let table = self.target_factor(&merge.table, block)?;
        let target = self.facts.blocks[block].relations.len() - 1;
        let mut usable = vec![Vec::new(); target + 1];
        let query = self.facts.blocks.len();
        let source = self.factor(&merge.source, block, &mut usable)?;
        let alone = match source.relations[..] {
            [relation] => Some(relation),
            _ => None,
        };
        let derived = alone.and_then(|relation| derived(&merge.source, relation, query));
        let alias = alone
            .map(|relation| self.facts.blocks[block].relations[relation].alias.clone())
            .filter(|alias| !alias.is_empty());
        let on = self.conjuncts(&merge.on, block);
        self.walk(vec![Part::Expr(&merge.on)], Some(block))?;
        let unmatched = unmatched(&merge.clauses);
        let kind = match unmatched {
            Unmatched::Nothing => JoinKind::Inner,
            Unmatched::Source => JoinKind::Right,
            Unmatched::Target => JoinKind::Left,
            Unmatched::Both => JoinKind::Full,
        };
        let both = join(Side::one(target), kind, &on, source, &mut usable);
        self.joined_to(block, usable, &both.nullable);
        let mut inserts = Vec::new();
        for clause in &merge.clauses {
            self.walk(
                clause.predicate.iter().map(Part::Expr).collect(),
                Some(block),
            )?;
            match &clause.action {
                ast::MergeAction::Insert(insert) => {
                    inserts.push(self.merged_row(insert, &table, alias.as_deref(), block)?);
                }
                ast::MergeAction::Update(update) => {
                    let ast::MergeUpdateKind::Set(assignments) = &update.kind else {
                        return Err(Unread("MERGE .. UPDATE SET *"));
                    };
                    self.assignments(table.clone(), assignments, block)?;
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
        if block == 0 && self.facts.merge.is_none() {
            self.facts.merge = Some(Merge {
                unmatched,
                derived,
                inserts,
            });
        } else {
            self.doubt(Doubt::Merge);
        }
        match &merge.output {
            None => Ok(()),
            Some(ast::OutputClause::Returning { select_items, .. }) => {
                self.returning(Some(select_items), block)
            }
            Some(ast::OutputClause::Output { .. }) => Err(Unread("MERGE .. OUTPUT")),
        }
    }

    /// The row that an action of MERGE inserts. It sees the columns of the source only, which has the name `alias` when it is one relation.
    fn merged_row(
        &mut self,
        insert: &ast::MergeInsertExpr,
        table: &Name,
        alias: Option<&str>,
        block: usize,
    ) -> Result<Insert, Unread> {
        let ast::MergeInsertKind::Values(values) = &insert.kind else {
            return Err(Unread("an INSERT of MERGE that is not Postgres's"));
        };
        let [row] = values.rows.as_slice() else {
            return Err(Unread("an INSERT of MERGE with several rows"));
        };
        let columns: Vec<Box<str>> = insert
            .columns
            .iter()
            .map(column)
            .collect::<Result<_, _>>()?;
        self.walk(row.content.iter().map(Part::Expr).collect(), Some(block))?;
        self.walk(
            insert.insert_predicate.iter().map(Part::Expr).collect(),
            Some(block),
        )?;
        let operands = row.content.iter().map(conditions::operand);
        Ok(Insert {
            table: table.clone(),
            columns: (!columns.is_empty()).then_some(columns),
            source: InsertSource::Values(vec![
                operands.map(|operand| of_source(operand, alias)).collect(),
            ]),
        })
    }
}

fn unmatched(clauses: &[ast::MergeClause]) -> Unmatched {
    use ast::MergeClauseKind as Kind;
    let has = |wanted: &[Kind]| {
        let mut clauses = clauses.iter();
        clauses.any(|clause| wanted.contains(&clause.clause_kind))
    };
    let source = has(&[Kind::NotMatched, Kind::NotMatchedByTarget]);
    match (source, has(&[Kind::NotMatchedBySource])) {
        (false, false) => Unmatched::Nothing,
        (true, false) => Unmatched::Source,
        (false, true) => Unmatched::Target,
        (true, true) => Unmatched::Both,
    }
}

/// The subquery that MERGE reads its rows from, with the block `query`; `None`: it is none, or its columns cannot be told.
fn derived(source: &TableFactor, relation: usize, query: usize) -> Option<Derived> {
    let TableFactor::Derived {
        lateral: false,
        subquery,
        alias: Some(alias),
        sample: None,
    } = source
    else {
        return None;
    };
    let is_star = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_));
    let own: Vec<Option<Box<str>>> = match &*subquery.body {
        SetExpr::Select(select) if matches!(&select.projection[..], [only] if is_star(only)) => {
            return alias.columns.is_empty().then_some(Derived {
                relation,
                block: query,
                columns: DerivedColumns::All,
            });
        }
        SetExpr::Select(select) if !has_grouping_sets(&select.group_by) => {
            select.projection.iter().map_while(own_name).collect()
        }
        SetExpr::Values(values) => match values.rows.as_slice() {
            [row] => (1..=row.content.len())
                .map(|number| Some(format!("column{number}").into()))
                .collect(),
            _ => return None,
        },
        _ => return None,
    };
    let given = alias.columns.iter().map(|column| fold(&column.name));
    let given = given.map(Some).chain(std::iter::repeat(None));
    let names = own.into_iter().zip(given).map(|(own, given)| given.or(own));
    Some(Derived {
        relation,
        block: query,
        columns: DerivedColumns::Named(names.collect()),
    })
}

/// The name of an output column, when it is plain; nothing for a wildcard, behind which places are not known.
fn own_name(item: &SelectItem) -> Option<Option<Box<str>>> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(Some(fold(alias))),
        SelectItem::UnnamedExpr(expr) => Some(match conditions::operand(expr) {
            Operand::Column(column) => Some(column.column),
            _ => None,
        }),
        SelectItem::ExprWithAliases { .. }
        | SelectItem::QualifiedWildcard(..)
        | SelectItem::Wildcard(_) => None,
    }
}

/// A column without a qualifier is the source's.
fn of_source(operand: Operand, alias: Option<&str>) -> Operand {
    match operand {
        Operand::Column(ColumnRef {
            qualifier: None,
            column,
        }) => Operand::Column(ColumnRef {
            qualifier: alias.map(Box::from),
            column,
        }),
        operand => operand,
    }
}
