//! Views whose rows are those of all shards together, each with the shard key of the rows that it is made from: to a query they are sharded tables.
//!
//! Every shard has the view, so a query that names it runs there as it is written. Views of other kinds are made anew where a query over them is
//! gathered (`spread/gather/views.rs`).

use std::sync::Arc;

use crate::catalog::{Catalog, Placement, QualifiedName, Relation, SearchPath, SpreadView, Writes};
use crate::sql;

use super::spread::scatter::{Keyed, MadeFrom, keyed};

/// Finds such views in a catalog that was just made. A view may read another that is found to be one.
pub fn place(catalog: &mut Catalog) {
    if catalog.shards.len() == 1 {
        return;
    }
    let mut open: Vec<QualifiedName> = catalog.views.keys().cloned().collect();
    loop {
        let before = open.len();
        let mut found = Vec::new();
        open.retain(|name| match sharded(&catalog.views[name], catalog) {
            Some(sharded) => {
                found.push((name.clone(), sharded));
                false
            }
            None => true,
        });
        for (name, (relation, writes)) in found {
            if let Some(view) = catalog.views.get_mut(&name) {
                view.writes = writes;
            }
            catalog.relations.insert(name, relation);
        }
        if open.len() == before {
            break;
        }
    }
    for name in open {
        if let Some(view) = catalog.views.get_mut(&name) {
            view.writes = Writes::Elsewhere;
        }
    }
}

/// The view as a sharded table, and what writing to it comes to.
fn sharded(view: &SpreadView, catalog: &Catalog) -> Option<(Relation, Writes)> {
    let search_path = SearchPath(Arc::new([]));
    let statements = sql::read(&view.query).ok()?;
    let [statement] = &statements[..] else {
        return None;
    };
    let Keyed {
        distribution,
        places,
        made_from,
    } = keyed(&view.query, statement, catalog, &search_path)?;
    let column = |place: &usize| Some(view.columns.get(*place)?.name.clone());
    let key: Option<Arc<[Box<str>]>> = places
        .iter()
        .map(|places| places.first().and_then(column))
        .collect();
    // Under another name, too, a key column must not be assigned.
    let is_once = places.iter().all(|places| places.len() == 1);
    let reads_as_written = view.reads.iter().all(|read| {
        let of_view = catalog.views.get(read);
        of_view.is_none_or(|view| view.writes == Writes::AsToTable)
    });
    let writes = match (view.writes, made_from) {
        (Writes::AsToTable, MadeFrom::OneTable) if is_once && reads_as_written => Writes::AsToTable,
        _ => Writes::Elsewhere,
    };
    let placement = Placement::Sharded {
        distribution,
        key: key?,
    };
    let columns = Some(Arc::clone(&view.columns));
    Some((Relation::Table { placement, columns }, writes))
}
