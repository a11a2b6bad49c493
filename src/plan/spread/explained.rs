//! EXPLAIN of a statement that several shards do.

use std::rc::Rc;

use super::{Spread, spread};
use crate::catalog::{Catalog, SearchPath};
use crate::plan::refusal::{Reason, Refusal};
use crate::sql::class::Class;
use crate::sql::{self, Statement};

/// What EXPLAIN shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    pub spread: Rc<Spread>,
    /// What is done, line by line.
    pub lines: Vec<Box<str>>,
}

/// `None`: it is no EXPLAIN.
pub fn explained(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
    refusal: &Refusal,
) -> Option<Result<Explained, Refusal>> {
    let Class::Explain { query } = &statement.class else {
        return None;
    };
    let inner = Statement {
        range: query.clone(),
        class: Class::Data,
        ..statement.clone()
    };
    let options = &text[statement.range.start..query.start];
    Some(
        spread(text, &inner, catalog, search_path, refusal.clone())
            .and_then(|inner| explain(inner, options, text, catalog)),
    )
}

fn explain(
    spread: Rc<Spread>,
    options: &str,
    text: &str,
    catalog: &Catalog,
) -> Result<Explained, Refusal> {
    let words = sql::words(options).unwrap_or_default();
    let has = |names: &[&str]| words.iter().any(|word| names.contains(&&**word));
    if has(&["json", "xml", "yaml"]) {
        return Err(Refusal::new(
            Reason::ExplainForm,
            "EXPLAIN of a statement of several shards in a form other than text",
        ));
    }
    if has(&["analyze", "analyse"]) && !matches!(*spread, Spread::Scatter { .. }) {
        return Err(Refusal::new(
            Reason::ExplainForm,
            "EXPLAIN ANALYZE of a statement whose rows are gathered or changed on several shards",
        ));
    }
    let lines = spread.describe(text, catalog);
    Ok(Explained {
        lines: lines.lines().map(Box::from).collect(),
        spread,
    })
}

impl Explained {
    pub fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        if let Some(spread) = Rc::get_mut(&mut self.spread) {
            spread.move_places(to);
        }
    }

    pub fn bytes(&self) -> usize {
        let lines: usize = self.lines.iter().map(|line| line.len() + 16).sum();
        size_of::<Spread>() + self.spread.bytes() + lines
    }
}
