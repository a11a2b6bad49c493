//! EXPLAIN of a statement that several shards do.

use std::rc::Rc;

use super::{Spread, spread};
use crate::catalog::{Catalog, SearchPath};
use crate::plan::refusal::Refusal;
use crate::sql::Statement;
use crate::sql::class::Class;
use crate::sql::explain::{Options, options};

/// What EXPLAIN shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    pub spread: Rc<Spread>,
    /// What is done, line by line.
    pub lines: Vec<Box<str>>,
    /// What is done if rows cannot be merged exactly after all.
    pub otherwise: Vec<Box<str>>,
    /// Where the explained statement begins in the text.
    pub query: usize,
    pub options: Options,
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
    let options = options(text, statement.range.start..query.start);
    let spread = match spread(text, &inner, catalog, search_path, refusal.clone()) {
        Ok(spread) => spread,
        Err(refusal) => return Some(Err(refusal)),
    };
    let lines = |said: String| said.lines().map(Box::from).collect();
    let otherwise = match &*spread {
        Spread::Scatter {
            otherwise: Ok(gather),
            ..
        } => gather.describe(text, catalog),
        _ => String::new(),
    };
    Some(Ok(Explained {
        lines: lines(spread.describe(text, catalog)),
        otherwise: lines(otherwise),
        spread,
        query: query.start,
        options,
    }))
}

impl Explained {
    pub fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        self.query = to(self.query);
        if let Some(spread) = Rc::get_mut(&mut self.spread) {
            spread.move_places(to);
        }
    }

    pub fn bytes(&self) -> usize {
        let lines = self.lines.iter().chain(&self.otherwise);
        let lines: usize = lines.map(|line| line.len() + 16).sum();
        size_of::<Spread>() + self.spread.bytes() + self.options.planning.len() + lines
    }
}
