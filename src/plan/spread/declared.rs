//! DECLARE of a cursor whose query several shards do.

use std::ops::Range;
use std::rc::Rc;

use super::gather::Gives;
use super::{Spread, spread};
use crate::catalog::{Catalog, SearchPath};
use crate::plan::refusal::Refusal;
use crate::sql::Statement;
use crate::sql::class::Class;

/// The query of a cursor.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    pub spread: Rc<Spread>,
    /// Its bytes in the text.
    pub query: Range<usize>,
}

/// `None`: it is no DECLARE.
pub fn declared(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
    refusal: &Refusal,
) -> Option<Result<Declared, Refusal>> {
    let Class::Declare { query, .. } = &statement.class else {
        return None;
    };
    let inner = Statement {
        range: query.clone(),
        class: Class::Data,
        ..statement.clone()
    };
    let spread = match spread(text, &inner, catalog, search_path, refusal.clone()) {
        Ok(spread) => spread,
        Err(refusal) => return Some(Err(refusal)),
    };
    let gives_rows = match &*spread {
        Spread::Scatter { .. } => true,
        Spread::Gather(gather) => gather.gives == Gives::Rows,
        _ => false,
    };
    Some(match gives_rows {
        true => Ok(Declared {
            spread,
            query: query.clone(),
        }),
        false => Err(refusal.clone()),
    })
}

impl Declared {
    pub fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        self.query = to(self.query.start)..to(self.query.end);
        if let Some(spread) = Rc::get_mut(&mut self.spread) {
            spread.move_places(to);
        }
    }

    pub fn bytes(&self) -> usize {
        size_of::<Spread>() + self.spread.bytes()
    }
}
