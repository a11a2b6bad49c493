//! Every name in the statement means where it runs what it meant before: a fetched table's the temporary one, any other the same as ever.
//!
//! `pg_temp` is searched first, so names without a schema find the temporary table by themselves, also as types and in column references. A schema
//! that is written is replaced.

use std::collections::HashSet;

use crate::catalog::SearchPath;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::Edit;
use crate::sql::facts::{Facts, Source};
use crate::sql::lexer::Kind;

use super::piece::Piece;
use super::tables::Tables;
use super::views::Seen;

/// What rows have besides their columns: another in a temporary table.
const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

/// Types whose values are looked up by name, tables' among them, and functions that take such a name or show temporary tables.
const LOOK_UP: [&str; 17] = [
    "regclass",
    "regtype",
    "to_regclass",
    "to_regtype",
    "current_schemas",
    "obj_description",
    "col_description",
    "row_security_active",
    "format_type",
    "currtid2",
    "has_table_privilege",
    "has_column_privilege",
    "has_any_column_privilege",
    "pg_get_serial_sequence",
    "pg_typeof",
    "pg_my_temp_schema",
    "txid_current_if_assigned",
];

/// Functions of the system's that neither look into the catalogs nor at relations.
const HARMLESS: [&str; 8] = [
    "pg_sleep",
    "pg_column_size",
    "pg_size_pretty",
    "pg_size_bytes",
    "pg_backend_pid",
    "pg_postmaster_start_time",
    "pg_client_encoding",
    "pg_conf_load_time",
];

/// Relations of the system's in which a temporary table does not show.
const WITHOUT_TABLES: [&str; 20] = [
    "pg_am",
    "pg_authid",
    "pg_auth_members",
    "pg_collation",
    "pg_database",
    "pg_db_role_setting",
    "pg_enum",
    "pg_extension",
    "pg_language",
    "pg_operator",
    "pg_proc",
    "pg_range",
    "pg_roles",
    "pg_settings",
    "pg_tablespace",
    "pg_timezone_abbrevs",
    "pg_timezone_names",
    "pg_user",
    "pg_group",
    "pg_ts_config",
];

/// Refuses what a temporary table answers differently than the one it stands for.
pub fn none_asks_for_the_table_itself(
    piece: &Piece<'_>,
    facts: &Facts,
    tables: &Tables<'_>,
) -> Result<(), Refusal> {
    let names = piece.names();
    let looks_up =
        |name: &&str| LOOK_UP.contains(name) || name.starts_with("pg_") && !HARMLESS.contains(name);
    let called = facts.functions.iter().map(|function| &*function.name);
    let system = tables.system.iter().map(|name| &*name.name);
    let found = SYSTEM_COLUMNS
        .iter()
        .chain(&LOOK_UP)
        .copied()
        .find(|name| names.contains(name))
        .or_else(|| called.into_iter().find(looks_up))
        .or_else(|| {
            system
                .into_iter()
                .find(|name| !WITHOUT_TABLES.contains(name))
        });
    match found {
        Some(name) => Err(Refusal::new(
            Reason::GatherCatalog,
            format!("\"{name}\" would tell temporary tables from the ones whose rows they hold"),
        )),
        None => Ok(()),
    }
}

/// A temporary table or view, by the name of the permanent one: it hides every other relation of its name.
#[derive(Clone, Copy, Debug)]
pub struct StandIn<'a> {
    pub schema: &'a str,
    pub name: &'a str,
}

/// What is replaced in the text so that names with a schema find the temporary relations.
pub fn edits(
    piece: &Piece<'_>,
    facts: &Facts,
    stand_ins: &[StandIn<'_>],
) -> Result<Vec<Edit>, Refusal> {
    let schemas = qualified(piece, facts, stand_ins)?.into_iter();
    let edits = schemas.map(|at| Edit::replace(piece.range(at), "pg_temp"));
    Ok(edits.collect())
}

/// Where a schema stands in front of the name of such a relation.
pub fn qualified(
    piece: &Piece<'_>,
    facts: &Facts,
    stand_ins: &[StandIn<'_>],
) -> Result<Vec<usize>, Refusal> {
    let mut found = Vec::new();
    for at in 0..piece.len() {
        if is_only(piece, at) {
            return Err(misleading(
                "ONLY leaves out rows of tables below".to_owned(),
            ));
        }
        if piece.kind(Some(at + 1)) != Some(Kind::Dot) {
            continue;
        }
        let (Some(schema), Some(name)) = (piece.identifier(at), piece.identifier(at + 2)) else {
            continue;
        };
        let is_meant = |stand_in: &StandIn<'_>| stand_in.schema == schema && stand_in.name == name;
        // A function may have a table's name.
        if !stand_ins.iter().any(is_meant) || piece.kind(Some(at + 3)) == Some(Kind::OpenParen) {
            continue;
        }
        let is_alias = |alias: &str| alias == schema;
        let mut relations = facts.blocks.iter().flat_map(|block| &block.relations);
        if at
            .checked_sub(1)
            .is_some_and(|before| piece.kind(Some(before)) == Some(Kind::Dot))
            || relations.any(|relation| is_alias(&relation.alias))
        {
            return Err(misleading(format!(
                "\"{schema}\" before \"{name}\" may be more than a schema"
            )));
        }
        found.push(at);
    }
    Ok(found)
}

/// Whether a name without a schema finds the same relation as before, or what stands in for it.
pub fn are_clear(
    facts: &Facts,
    tables: &Tables<'_>,
    views: &[Seen<'_>],
    stand_ins: &[StandIn<'_>],
    search_path: &SearchPath,
) -> Result<(), Refusal> {
    let path = || search_path.0.iter();
    if path().any(|schema| schema.starts_with("pg_temp")) {
        return Err(misleading("search_path names pg_temp".to_owned()));
    }
    // Their queries leave it out.
    if !views.is_empty() && path().any(|schema| **schema == *"pg_catalog") {
        return Err(misleading("search_path names pg_catalog".to_owned()));
    }
    let mut names = HashSet::new();
    let twice = |name: &str| Err(misleading(format!("two schemas have a table \"{name}\"")));
    if let Some(stand_in) = stand_ins
        .iter()
        .find(|stand_in| !names.insert(stand_in.name))
    {
        return twice(stand_in.name);
    }
    for table in &tables.tables {
        let is_replaced = stand_ins
            .iter()
            .any(|stand_in| (stand_in.schema, stand_in.name) == (table.schema, table.name));
        if is_replaced || !names.contains(table.name) {
            continue;
        }
        let unqualified = table.places.iter().any(|(block, relation)| {
            matches!(&facts.blocks[*block].relations[*relation].source, Source::Table(name) if name.schema.is_none())
        });
        if unqualified {
            return twice(table.name);
        }
    }
    match tables
        .system
        .iter()
        .find(|system| names.contains(&*system.name))
    {
        Some(system) => Err(misleading(format!(
            "pg_catalog, too, has a table \"{}\"",
            system.name
        ))),
        None => Ok(()),
    }
}

/// Whether ONLY stands here before a table's name. Behind FETCH FIRST n ROWS it means something else.
fn is_only(piece: &Piece<'_>, at: usize) -> bool {
    let before = at.checked_sub(1);
    piece.is_word(Some(at), &["only"])
        && !piece.is_word(before, &["row", "rows", "first", "next"])
        && !matches!(
            piece.kind(before),
            Some(Kind::CloseParen | Kind::Literal(_) | Kind::Param | Kind::Dot)
        )
}

fn misleading(what: String) -> Refusal {
    Refusal::new(
        Reason::GatherNames,
        format!(
            "the query needs rows of several shards in temporary tables of the same names: {what}"
        ),
    )
}
