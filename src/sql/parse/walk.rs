//! What lies directly below an expression: every variant is listed, so that a table read inside any of them is found. What Postgres
//! does not have is an error, never skipped.

use sqlparser::ast::{
    AccessExpr, Distinct, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArguments, GroupByExpr, LimitClause, ListAggOnOverflow, NamedWindowExpr, ObjectName,
    OrderBy, OrderByExpr, OrderByKind, Query, SelectItem, SelectItemQualifiedWildcardKind,
    Subscript, WildcardAdditionalOptions, WindowFrameBound, WindowSpec, WindowType,
};

/// A construct that is not understood; the text names it.
#[derive(Debug, PartialEq)]
pub(super) struct Unread(pub(super) &'static str);

/// Something inside an expression.
pub(super) enum Part<'a> {
    Expr(&'a Expr),
    Query(&'a Query),
    Call(&'a Function),
}

/// The parts of an expression, one level down, in the order of the text.
pub(super) fn parts<'a>(expr: &'a Expr, found: &mut Vec<Part<'a>>) -> Result<(), Unread> {
    let mut all = |exprs: &[&'a Expr]| found.extend(exprs.iter().map(|expr| Part::Expr(expr)));
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_) | Expr::TypedString(_) => {}
        Expr::IsFalse(expr)
        | Expr::IsNotFalse(expr)
        | Expr::IsTrue(expr)
        | Expr::IsNotTrue(expr)
        | Expr::IsNull(expr)
        | Expr::IsNotNull(expr)
        | Expr::IsUnknown(expr)
        | Expr::IsNotUnknown(expr)
        | Expr::Nested(expr) => all(&[expr]),
        Expr::IsJson { expr, .. } | Expr::IsNormalized { expr, .. } => all(&[expr]),
        Expr::UnaryOp { expr, .. } | Expr::Collate { expr, .. } | Expr::Named { expr, .. } | Expr::Extract { expr, .. } => all(&[expr]),
        Expr::Cast { expr, format: None, .. } => all(&[expr]),
        Expr::Ceil { expr, .. } | Expr::Floor { expr, .. } => all(&[expr]),
        Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => all(&[left, right]),
        Expr::BinaryOp { left, right, .. } | Expr::AnyOp { left, right, .. } | Expr::AllOp { left, right, .. } => all(&[left, right]),
        Expr::AtTimeZone { timestamp, time_zone } => all(&[timestamp, time_zone]),
        Expr::Position { expr, r#in } => all(&[expr, r#in]),
        Expr::Between { expr, low, high, .. } => all(&[expr, low, high]),
        Expr::InList { expr, list, .. } => {
            all(&[expr]);
            found.extend(list.iter().map(Part::Expr));
        }
        Expr::InSubquery { expr, subquery, .. } => {
            all(&[expr]);
            found.push(Part::Query(subquery));
        }
        Expr::Like { expr, pattern, escape_char, .. }
        | Expr::ILike { expr, pattern, escape_char, .. }
        | Expr::SimilarTo { expr, pattern, escape_char, .. } => {
            all(&[expr, pattern]);
            found.extend(escape_char.as_deref().map(Part::Expr));
        }
        Expr::Substring { expr, substring_from, substring_for, .. } => {
            all(&[expr]);
            found.extend(substring_from.as_deref().map(Part::Expr));
            found.extend(substring_for.as_deref().map(Part::Expr));
        }
        Expr::Trim { trim_what, expr, trim_characters, .. } => {
            found.extend(trim_what.as_deref().map(Part::Expr));
            found.push(Part::Expr(expr));
            found.extend(trim_characters.iter().flatten().map(Part::Expr));
        }
        Expr::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
            all(&[expr, overlay_what, overlay_from]);
            found.extend(overlay_for.as_deref().map(Part::Expr));
        }
        Expr::Case { operand, conditions, else_result, .. } => {
            found.extend(operand.as_deref().map(Part::Expr));
            for branch in conditions {
                found.extend([Part::Expr(&branch.condition), Part::Expr(&branch.result)]);
            }
            found.extend(else_result.as_deref().map(Part::Expr));
        }
        Expr::Exists { subquery, .. } => found.push(Part::Query(subquery)),
        Expr::Subquery(subquery) => found.push(Part::Query(subquery)),
        Expr::GroupingSets(sets) | Expr::Cube(sets) | Expr::Rollup(sets) => found.extend(sets.iter().flatten().map(Part::Expr)),
        Expr::Tuple(members) => found.extend(members.iter().map(Part::Expr)),
        Expr::Array(array) => found.extend(array.elem.iter().map(Part::Expr)),
        Expr::Interval(interval) => found.push(Part::Expr(&interval.value)),
        Expr::Function(function) => found.push(Part::Call(function)),
        Expr::CompoundFieldAccess { root, access_chain } => {
            found.push(Part::Expr(root));
            for access in access_chain {
                match access {
                    AccessExpr::Dot(expr) => found.push(Part::Expr(expr)),
                    AccessExpr::Subscript(Subscript::Index { index }) => found.push(Part::Expr(index)),
                    AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) => {
                        found.extend([lower_bound, upper_bound, stride].into_iter().flatten().map(Part::Expr));
                    }
                }
            }
        }
        Expr::Cast { format: Some(_), .. }
        // Where it may stand, it is no expression: among output columns and arguments.
        | Expr::Wildcard(_)
        | Expr::QualifiedWildcard(..)
        | Expr::JsonAccess { .. }
        | Expr::InUnnest { .. }
        | Expr::RLike { .. }
        | Expr::Convert { .. }
        | Expr::Prefixed { .. }
        | Expr::Struct { .. }
        | Expr::Dictionary(_)
        | Expr::Map(_)
        | Expr::MatchAgainst { .. }
        | Expr::OuterJoin(_)
        | Expr::Prior(_)
        | Expr::Lambda(_)
        | Expr::MemberOf(_) => return Err(Unread("an expression that is not Postgres's")),
    }
    Ok(())
}

/// The parts of a call.
pub(super) fn call_parts<'a>(
    function: &'a Function,
    found: &mut Vec<Part<'a>>,
) -> Result<(), Unread> {
    let Function {
        name: _,
        uses_odbc_syntax: _,
        parameters,
        args,
        within_group,
        filter,
        null_treatment: _,
        over,
    } = function;
    if !matches!(parameters, FunctionArguments::None) {
        return Err(Unread("a call with two argument lists"));
    }
    match args {
        FunctionArguments::None => {}
        FunctionArguments::Subquery(query) => found.push(Part::Query(query)),
        FunctionArguments::List(list) => {
            arguments(&list.args, found)?;
            for clause in &list.clauses {
                argument_clause(clause, found)?;
            }
        }
    }
    for item in within_group {
        order_item(item, found)?;
    }
    found.extend(filter.as_deref().map(Part::Expr));
    match over {
        None | Some(WindowType::NamedWindow(_)) => {}
        Some(WindowType::WindowSpec(window)) => window_parts(window, found)?,
    }
    Ok(())
}

pub(super) fn arguments<'a>(
    arguments: &'a [FunctionArg],
    found: &mut Vec<Part<'a>>,
) -> Result<(), Unread> {
    for argument in arguments {
        let value = match argument {
            FunctionArg::Named { arg, .. } | FunctionArg::Unnamed(arg) => arg,
            FunctionArg::ExprNamed { name, arg, .. } => {
                found.push(Part::Expr(name));
                arg
            }
        };
        match value {
            FunctionArgExpr::Expr(expr) => found.push(Part::Expr(expr)),
            FunctionArgExpr::QualifiedWildcard(_) | FunctionArgExpr::Wildcard => {}
            FunctionArgExpr::WildcardWithOptions(options) => wildcard(options)?,
        }
    }
    Ok(())
}

fn argument_clause<'a>(
    clause: &'a FunctionArgumentClause,
    found: &mut Vec<Part<'a>>,
) -> Result<(), Unread> {
    match clause {
        FunctionArgumentClause::IgnoreOrRespectNulls(_)
        | FunctionArgumentClause::JsonNullClause(_)
        | FunctionArgumentClause::JsonReturningClause(_)
        | FunctionArgumentClause::Separator(_) => {}
        FunctionArgumentClause::Where(expr) | FunctionArgumentClause::Limit(expr) => {
            found.push(Part::Expr(expr))
        }
        FunctionArgumentClause::OrderBy(items) => {
            for item in items {
                order_item(item, found)?;
            }
        }
        FunctionArgumentClause::OnOverflow(ListAggOnOverflow::Error) => {}
        FunctionArgumentClause::OnOverflow(ListAggOnOverflow::Truncate { filler, .. }) => {
            found.extend(filler.as_deref().map(Part::Expr))
        }
        FunctionArgumentClause::Having(bound) => found.push(Part::Expr(&bound.1)),
    }
    Ok(())
}

/// A wildcard; what other databases add to it changes the columns.
pub(super) fn wildcard(options: &WildcardAdditionalOptions) -> Result<(), Unread> {
    let WildcardAdditionalOptions {
        wildcard_token: _,
        opt_ilike,
        opt_exclude,
        opt_except,
        opt_replace,
        opt_rename,
        opt_alias: _,
    } = options;
    if opt_ilike.is_some()
        || opt_exclude.is_some()
        || opt_except.is_some()
        || opt_replace.is_some()
        || opt_rename.is_some()
    {
        return Err(Unread("a wildcard with options"));
    }
    Ok(())
}

pub(super) fn window_parts<'a>(
    window: &'a WindowSpec,
    found: &mut Vec<Part<'a>>,
) -> Result<(), Unread> {
    found.extend(window.partition_by.iter().map(Part::Expr));
    for item in &window.order_by {
        order_item(item, found)?;
    }
    if let Some(frame) = &window.window_frame {
        for bound in std::iter::once(&frame.start_bound).chain(&frame.end_bound) {
            match bound {
                WindowFrameBound::CurrentRow
                | WindowFrameBound::Preceding(None)
                | WindowFrameBound::Following(None) => {}
                WindowFrameBound::Preceding(Some(expr))
                | WindowFrameBound::Following(Some(expr)) => found.push(Part::Expr(expr)),
            }
        }
    }
    Ok(())
}

pub(super) fn named_window<'a>(
    window: &'a NamedWindowExpr,
    found: &mut Vec<Part<'a>>,
) -> Result<(), Unread> {
    match window {
        NamedWindowExpr::NamedWindow(_) => Ok(()),
        NamedWindowExpr::WindowSpec(window) => window_parts(window, found),
    }
}

pub(super) fn order_item<'a>(
    item: &'a OrderByExpr,
    found: &mut Vec<Part<'a>>,
) -> Result<(), Unread> {
    if item.with_fill.is_some() {
        return Err(Unread("ORDER BY .. WITH FILL"));
    }
    found.push(Part::Expr(&item.expr));
    Ok(())
}

pub(super) fn order_by<'a>(order_by: &'a OrderBy, found: &mut Vec<Part<'a>>) -> Result<(), Unread> {
    match (&order_by.kind, &order_by.interpolate) {
        (OrderByKind::Expressions(items), None) => {
            items.iter().try_for_each(|item| order_item(item, found))
        }
        _ => Err(Unread("ORDER BY ALL")),
    }
}

pub(super) fn limit<'a>(clause: &'a LimitClause, found: &mut Vec<Part<'a>>) {
    match clause {
        LimitClause::LimitOffset {
            limit,
            offset,
            limit_by,
        } => {
            found.extend(limit.iter().map(Part::Expr));
            found.extend(offset.iter().map(|offset| Part::Expr(&offset.value)));
            found.extend(limit_by.iter().map(Part::Expr));
        }
        LimitClause::OffsetCommaLimit { offset, limit } => {
            found.extend([Part::Expr(offset), Part::Expr(limit)])
        }
    }
}

pub(super) fn group_by<'a>(
    clause: &'a GroupByExpr,
    found: &mut Vec<Part<'a>>,
) -> Result<(), Unread> {
    match clause {
        GroupByExpr::Expressions(exprs, modifiers) if modifiers.is_empty() => {
            found.extend(exprs.iter().map(Part::Expr));
            Ok(())
        }
        _ => Err(Unread("GROUP BY ALL")),
    }
}

pub(super) fn distinct<'a>(distinct: &'a Distinct, found: &mut Vec<Part<'a>>) {
    match distinct {
        Distinct::All | Distinct::Distinct => {}
        Distinct::On(exprs) => found.extend(exprs.iter().map(Part::Expr)),
    }
}

pub(super) fn select_item<'a>(
    item: &'a SelectItem,
    found: &mut Vec<Part<'a>>,
) -> Result<(), Unread> {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            found.push(Part::Expr(expr))
        }
        SelectItem::ExprWithAliases { .. } => {
            return Err(Unread("an output column with several aliases"));
        }
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(_), options)
        | SelectItem::Wildcard(options) => {
            wildcard(options)?;
        }
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::Expr(expr), options) => {
            wildcard(options)?;
            found.push(Part::Expr(expr));
        }
    }
    Ok(())
}

/// A name's parts as identifiers; the parser knows other kinds.
pub(super) fn identifiers(name: &ObjectName) -> Result<Vec<&sqlparser::ast::Ident>, Unread> {
    name.0
        .iter()
        .map(|part| part.as_ident().ok_or(Unread("a computed name")))
        .collect()
}
