//! Views that the statement reads: each is made anew over the temporary tables, because the permanent one keeps to the permanent tables.
//!
//! The new view runs with the client's rights on rows that the client was allowed to fetch. Where row security would show the view's owner
//! other rows, it is refused.

use std::collections::HashSet;

use crate::catalog::schema::{Barrier, Rights};
use crate::catalog::{Catalog, QualifiedName, Relation, Resolved, SearchPath, SpreadView};
use crate::plan::functions::Functions;
use crate::plan::refusal::{Reason, Refusal};
use crate::sql::class::Class;
use crate::sql::facts::{self, Access, Facts, Source};
use crate::sql::{self, Body};

use super::names::{self, StandIn};
use super::piece::Piece;
use super::tables::Tables;
use super::texts::{list, quoted};
use super::{View, edit, only_reads};

/// A view as it is read.
pub struct Seen<'a> {
    pub name: &'a QualifiedName,
    pub view: &'a SpreadView,
    pub facts: Box<Facts>,
    pub piece: Piece<'a>,
    pub whole: std::ops::Range<usize>,
}

/// All views of rows of several shards that the statement reads, directly or through others; one comes after those that it reads.
pub fn seen<'a>(
    facts: &Facts,
    catalog: &'a Catalog,
    search_path: &SearchPath,
) -> Result<Vec<Seen<'a>>, Refusal> {
    let mut found = Found {
        catalog,
        seen: Vec::new(),
        open: HashSet::new(),
    };
    let relations = facts.blocks.iter().flat_map(|block| &block.relations);
    for relation in relations.filter(|relation| relation.access == Access::Read) {
        let Source::Table(name) = &relation.source else {
            continue;
        };
        let resolved = catalog.resolve(search_path, name.schema.as_deref(), &name.name);
        if let Resolved::Found {
            schema,
            relation: Relation::ShardedView,
        } = resolved
        {
            found.add(&(schema.into(), name.name.clone()))?;
        }
    }
    Ok(found.seen)
}

struct Found<'a> {
    catalog: &'a Catalog,
    seen: Vec<Seen<'a>>,
    open: HashSet<QualifiedName>,
}

impl Found<'_> {
    fn add(&mut self, name: &QualifiedName) -> Result<(), Refusal> {
        if self.catalog.relations.get(name) != Some(&Relation::ShardedView)
            || !self.open.insert(name.clone())
        {
            return Ok(());
        }
        // Not a materialised one, and not one that calls opaque functions.
        let (name, view) = self
            .catalog
            .views
            .get_key_value(name)
            .ok_or_else(|| refused(name, "its rows are stored, or not known, by a server"))?;
        for read in &view.reads {
            self.add(read)?;
        }
        let seen = read(name, view)
            .ok_or_else(|| refused(name, "its definition has a form that is not read"))?;
        let functions = Functions::of(&seen.facts, self.catalog);
        if !only_reads(&seen.facts)
            || functions.opaque.is_some()
            || functions.sequence.is_some()
            || functions.home.is_some()
        {
            return Err(refused(
                name,
                "it locks, or uses what belongs to one server",
            ));
        }
        if view.rights == Rights::Owner
            && view
                .reads
                .iter()
                .any(|read| is_secured(read, self.catalog, 0))
        {
            return Err(refused(name, "row security chooses rows for its owner"));
        }
        self.seen.push(seen);
        Ok(())
    }
}

/// Whether row security chooses among the relation's rows, for whoever reads it.
fn is_secured(name: &QualifiedName, catalog: &Catalog, depth: usize) -> bool {
    /// Rules can make views read each other in a circle.
    const DEEPEST: usize = 64;
    let in_view = |view: &SpreadView| {
        view.rights == Rights::Caller
            && (depth > DEEPEST || { view.reads.iter() }
                .any(|read| is_secured(read, catalog, depth + 1)))
    };
    catalog.details.secured.contains(name) || catalog.views.get(name).is_some_and(in_view)
}

fn read<'a>(name: &'a QualifiedName, view: &'a SpreadView) -> Option<Seen<'a>> {
    let statements = sql::read(&view.query).ok()?;
    let [statement] = <[_; 1]>::try_from(statements).ok()?;
    let (Class::Data, Body::Facts(facts)) = (statement.class, statement.body) else {
        return None;
    };
    Some(Seen {
        name,
        view,
        facts,
        piece: Piece::read(&view.query, statement.range.clone())?,
        whole: statement.range,
    })
}

fn refused((schema, name): &QualifiedName, why: &str) -> Refusal {
    Refusal::new(
        Reason::ViewOverSharded,
        format!("view \"{schema}.{name}\" cannot be made over rows of several shards: {why}"),
    )
}

impl Seen<'_> {
    /// All that its query reads, blocks by blocks.
    pub fn relations(&self) -> impl Iterator<Item = &facts::Relation> {
        self.facts.blocks.iter().flat_map(|block| &block.relations)
    }

    /// What makes it where the statement runs.
    pub fn made(&self, tables: &Tables<'_>, stand_ins: &[StandIn<'_>]) -> Result<View, Refusal> {
        names::none_asks_for_the_table_itself(&self.piece, &self.facts, tables)?;
        let edits = names::edits(&self.piece, &self.facts, stand_ins)?;
        let query = edit::apply(&edits, self.whole.clone(), self.view.query.as_bytes(), &[]);
        let query = String::from_utf8_lossy(&query);
        let (schema, name) = self.name;
        let columns: Vec<Box<str>> = { self.view.columns.iter() }
            .map(|column| column.name.clone())
            .collect();
        let columns = match &columns[..] {
            [] => String::new(),
            columns => format!(" ({})", list(columns)),
        };
        let options = match self.view.barrier {
            Barrier::None => "",
            Barrier::Security => " WITH (security_barrier)",
        };
        Ok(View {
            schema: schema.clone(),
            name: name.clone(),
            create: format!(
                "CREATE TEMPORARY VIEW pg_temp.{}{columns}{options} AS {query}",
                quoted(name)
            )
            .into(),
        })
    }
}
