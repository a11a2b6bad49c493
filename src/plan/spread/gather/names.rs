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
use super::tables::{Table, Tables};

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

/// What is replaced in the text so that names with a schema find the temporary tables.
pub fn edits(
    piece: &Piece<'_>,
    facts: &Facts,
    tables: &Tables<'_>,
    fetched: &[&Table<'_>],
    search_path: &SearchPath,
) -> Result<Vec<Edit>, Refusal> {
    if search_path
        .0
        .iter()
        .any(|schema| schema.starts_with("pg_temp"))
    {
        return Err(misleading("search_path names pg_temp".to_owned()));
    }
    one_table_a_name(facts, tables, fetched)?;
    let mut edits = Vec::new();
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
        let is_meant = |table: &&&Table<'_>| table.schema == schema && table.name == name;
        // A function may have a table's name.
        if !fetched.iter().any(|table| is_meant(&table))
            || piece.kind(Some(at + 3)) == Some(Kind::OpenParen)
        {
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
        edits.push(Edit::replace(piece.range(at), "pg_temp"));
    }
    Ok(edits)
}

/// A temporary table hides every other of its name.
fn one_table_a_name(
    facts: &Facts,
    tables: &Tables<'_>,
    fetched: &[&Table<'_>],
) -> Result<(), Refusal> {
    let mut names = HashSet::new();
    if let Some(twice) = fetched.iter().find(|table| !names.insert(table.name)) {
        return Err(misleading(format!(
            "two schemas have a table \"{}\"",
            twice.name
        )));
    }
    for table in &tables.tables {
        if fetched.iter().any(|fetched| std::ptr::eq(*fetched, table))
            || !names.contains(table.name)
        {
            continue;
        }
        let unqualified = table.places.iter().any(|(block, relation)| {
            matches!(&facts.blocks[*block].relations[*relation].source, Source::Table(name) if name.schema.is_none())
        });
        if unqualified {
            return Err(misleading(format!(
                "two schemas have a table \"{}\"",
                table.name
            )));
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
