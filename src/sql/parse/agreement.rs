//! What `sql::select` finds on lexemes against what the parser reads, over all statements of the golden files.

use std::path::Path;

use sqlparser::ast::{
    Distinct, GroupByExpr, LimitClause, OrderByKind, OrderBySort, SelectItem, SetExpr, Statement,
};
use sqlparser::parser::Parser;

use super::{DEEPEST, dialect, shim, tokens};
use crate::sql::select::{self, SetOperation, Shape};
use crate::sql::{Body, Source, split};

/// What both can tell of a SELECT.
#[derive(Debug, PartialEq)]
struct Reading {
    with: bool,
    distinct: Option<bool>,
    /// For each item whether it is a wildcard, and its label. `None` where the lexemes do not say.
    items: Vec<(bool, Option<Option<String>>)>,
    from: bool,
    selection: bool,
    groups: usize,
    having: bool,
    windows: usize,
    set_operation: bool,
    /// For each key whether it is descending, and where NULLs go.
    order: Vec<(bool, bool)>,
    limit: bool,
    offset: bool,
    locks: bool,
}

fn by_lexemes(text: &str) -> Option<Reading> {
    let select = select::read(text, 0..text.len())?;
    let items = select.items.iter().map(|item| match &item.shape {
        Shape::Star => (true, Some(None)),
        Shape::Expression(_, label) => (false, Some(label.as_deref().map(str::to_owned))),
        Shape::Unclear => (false, None),
    });
    Some(Reading {
        with: select.with.is_some(),
        distinct: match select.distinct {
            select::Distinct::All => None,
            select::Distinct::Rows => Some(false),
            select::Distinct::On => Some(true),
        },
        items: items.collect(),
        from: select.from.is_some(),
        selection: select.selection.is_some(),
        groups: select.group_by.len(),
        having: select.having.is_some(),
        windows: select.windows.len(),
        set_operation: select.set_operation == SetOperation::Some,
        order: select
            .order_by
            .iter()
            .map(|item| {
                (
                    item.direction == select::Direction::Descending,
                    item.nulls == select::Nulls::First,
                )
            })
            .collect(),
        limit: select.limit.is_some(),
        offset: select.offset.is_some(),
        locks: select.locking.is_some(),
    })
}

fn by_the_parser(text: &str) -> Option<Reading> {
    let source = Source::lex(text).ok()?;
    let lexemes: Vec<_> = source
        .lexemes
        .iter()
        .filter(|lexeme| !split::is_comment(lexeme))
        .copied()
        .collect();
    let shimmed = shim::shim(tokens::tokens(text, &lexemes, &source.literals)).ok()?;
    let mut parser = Parser::new(&dialect::PgShim)
        .with_recursion_limit(DEEPEST)
        .with_tokens_with_locations(shimmed.tokens);
    let Statement::Query(query) = parser.parse_statement().ok()? else {
        return None;
    };
    let mut body = &*query.body;
    let mut set_operation = false;
    while let SetExpr::SetOperation { left, .. } = body {
        set_operation = true;
        body = left;
    }
    let SetExpr::Select(read) = body else {
        return None;
    };
    let items = read.projection.iter().map(|item| match item {
        SelectItem::UnnamedExpr(_) => (false, Some(None)),
        SelectItem::ExprWithAlias { alias, .. } => {
            (false, Some(Some(super::conditions::fold(alias).into())))
        }
        _ => (true, Some(None)),
    });
    let order = query.order_by.iter().flat_map(|order| match &order.kind {
        OrderByKind::Expressions(items) => items.as_slice(),
        OrderByKind::All(_) => &[],
    });
    let (limit, offset) = match &query.limit_clause {
        Some(LimitClause::LimitOffset { limit, offset, .. }) => (limit.is_some(), offset.is_some()),
        Some(LimitClause::OffsetCommaLimit { .. }) => (true, true),
        None => (false, false),
    };
    Some(Reading {
        with: query.with.is_some(),
        distinct: match &read.distinct {
            None | Some(Distinct::All) => None,
            Some(Distinct::Distinct) => Some(false),
            Some(Distinct::On(_)) => Some(true),
        },
        items: items.collect(),
        from: !read.from.is_empty(),
        selection: read.selection.is_some(),
        groups: match &read.group_by {
            GroupByExpr::Expressions(groups, _) => groups.len(),
            GroupByExpr::All(_) => return None,
        },
        having: read.having.is_some(),
        windows: read.named_window.len(),
        set_operation,
        order: order
            .map(|item| {
                let descending = matches!(item.options.sort, Some(OrderBySort::Desc));
                (descending, item.options.nulls_first.unwrap_or(descending))
            })
            .collect(),
        limit: limit || query.fetch.is_some() || text.to_ascii_uppercase().contains("LIMIT ALL"),
        offset,
        locks: !query.locks.is_empty(),
    })
}

fn statements() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src/sql/testdata", "tests/golden/plan"] {
        let entries = std::fs::read_dir(root.join(folder)).expect("the folder exists");
        for entry in entries {
            let path = entry.expect("it can be listed").path();
            let text = String::from_utf8(std::fs::read(path).expect("a file")).expect("text");
            for case in text.split("\n\n") {
                let question = case.split("\n----").next().unwrap_or_default();
                let lines = question
                    .lines()
                    .filter(|line| !line.starts_with(['#', '@']) && !line.starts_with("    "));
                found.push(lines.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    found
}

#[test]
fn lexemes_and_parser_agree() {
    let mut compared = 0;
    let mut wrong = Vec::new();
    for text in statements() {
        // One SELECT that both read.
        let Ok(read) = crate::sql::read(&text) else {
            continue;
        };
        let [statement] = read.as_slice() else {
            continue;
        };
        // The shim writes the fields of a value as items of their own.
        if text.contains(").*") || !matches!(statement.body, Body::Facts(_)) {
            continue;
        }
        let (Some(mut lexemes), Some(parser)) = (by_lexemes(&text), by_the_parser(&text)) else {
            continue;
        };
        compared += 1;
        if parser.set_operation {
            // What follows belongs to the whole, and is not read.
            lexemes.order.clone_from(&parser.order);
            (lexemes.limit, lexemes.offset, lexemes.locks) =
                (parser.limit, parser.offset, parser.locks);
        }
        for (found, read) in lexemes.items.iter_mut().zip(&parser.items) {
            if found.1.is_none() {
                found.1.clone_from(&read.1);
            }
        }
        if lexemes != parser {
            wrong.push(format!(
                "{text}\n  lexemes {lexemes:?}\n  parser  {parser:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 300, "only {compared} statements were compared");
}
