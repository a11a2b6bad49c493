//! What is said to a receiving shard for the changes of a table. Pure.
//!
//! Values are texts, in an array for each column: `unnest` makes rows of them, casts make values.

use crate::resharding::condition::quoted_name;

use super::place::Layout;

/// Which columns of a row are known.
pub type Mask = Box<[bool]>;

/// The alias of the table.
const T: &str = "trunkline_t";
/// The alias of the rows.
const N: &str = "trunkline_n";

/// The columns at these places as a relation of typed columns `a0`, `a1`, ..., from `$1`, `$2`, ...
fn rows(layout: &Layout, places: &[usize], ordinality: &str) -> String {
    let arrays: Vec<_> = (1..=places.len())
        .map(|n| format!("${n}::text[]"))
        .collect();
    let names: Vec<_> = (0..places.len()).map(|n| format!("a{n}")).collect();
    let typed = places
        .iter()
        .enumerate()
        .map(|(n, place)| format!("r.a{n}::{} AS a{n}", layout.columns[*place].type_name));
    let mut typed: Vec<_> = typed.collect();
    let mut names = names.join(", ");
    if !ordinality.is_empty() {
        typed.push("r.place".to_owned());
        names.push_str(", place");
    }
    format!(
        "SELECT {} FROM ROWS FROM ({}){ordinality} AS r({names})",
        typed.join(", "),
        arrays
            .iter()
            .map(|array| format!("pg_catalog.unnest({array})"))
            .collect::<Vec<_>>()
            .join(", "),
    )
}

/// What rows are found by, as a relation of typed columns, from arrays.
pub fn keys(layout: &Layout) -> String {
    rows(layout, &layout.found_by, "")
}

fn column(layout: &Layout, place: usize) -> String {
    quoted_name(&layout.columns[place].name)
}

fn list(layout: &Layout, places: impl IntoIterator<Item = usize>) -> String {
    let names: Vec<_> = { places.into_iter() }
        .map(|place| column(layout, place))
        .collect();
    names.join(", ")
}

/// `table.key = rows.key`, where the rows have the columns at these places.
fn found(layout: &Layout, places: &[usize]) -> String {
    let same: Vec<_> = { layout.found_by.iter() }
        .map(|place| {
            let n = places.iter().position(|one| one == place);
            let n = n.expect("rows have what they are found by");
            format!("{T}.{} = {N}.a{n}", column(layout, *place))
        })
        .collect();
    same.join(" AND ")
}

/// Whether a row has other values in these columns than what is given for it.
fn differs(layout: &Layout, fixed: &[usize], places: &[usize]) -> String {
    let given = |place: &usize| {
        let n = places.iter().position(|one| one == place);
        format!("{N}.a{}", n.expect("is given"))
    };
    let given: Vec<_> = fixed.iter().map(given).collect();
    let there: Vec<_> = { fixed.iter() }
        .map(|place| format!("{T}.{}", column(layout, *place)))
        .collect();
    format!(
        "ROW({}) IS DISTINCT FROM ROW({})",
        there.join(", "),
        given.join(", ")
    )
}

/// Whole rows, with all columns in order. Says how many were put: fewer than given, when a row of the same key is there that belongs to another
/// shard key. `fixed`: the columns that no UPDATE sets; where a row is there with other values in them, it is made anew.
pub fn put(layout: &Layout, fixed: &[usize]) -> String {
    let all: Vec<usize> = (0..layout.columns.len()).collect();
    let set: Vec<_> = { all.iter().filter(|place| !layout.found_by.contains(place)) }
        .filter(|place| !fixed.contains(place))
        .map(|place| column(layout, *place))
        .map(|name| format!("{name} = EXCLUDED.{name}"))
        .collect();
    let rows = rows(layout, &all, "");
    // One statement, so that many can be sent one behind the other and are made in this order.
    let (first, rows) = match fixed.is_empty() {
        true => (String::new(), rows),
        false => (
            format!(
                "WITH given AS ({rows}), gone AS (DELETE FROM {} AS {T} USING given AS {N} WHERE {} AND {} RETURNING 1) ",
                layout.name,
                found(layout, &all),
                differs(layout, fixed, &all),
            ),
            // Nothing is inserted before all are gone.
            "SELECT * FROM given WHERE (SELECT count(*) FROM gone) >= 0".to_owned(),
        ),
    };
    let mut text = format!(
        "{first}INSERT INTO {} AS {T} ({}) OVERRIDING SYSTEM VALUE {rows} ON CONFLICT ({}) DO ",
        layout.name,
        list(layout, all.iter().copied()),
        list(layout, layout.key.iter().copied()),
    );
    if set.is_empty() && !layout.key_may_repeat() {
        text.push_str("NOTHING");
        return text;
    }
    let set = match set.is_empty() {
        // Itself, so that it counts.
        true => {
            let name = column(layout, layout.shard_key[0]);
            format!("{name} = EXCLUDED.{name}")
        }
        false => set.join(", "),
    };
    text.push_str(&format!("UPDATE SET {set}"));
    if layout.key_may_repeat() {
        let same: Vec<_> = { layout.shard_key.iter() }
            .map(|place| column(layout, *place))
            .map(|name| format!("{T}.{name} = EXCLUDED.{name}"))
            .collect();
        text.push_str(&format!(" WHERE {}", same.join(" AND ")));
    }
    text
}

/// By what rows are found by.
pub fn delete(layout: &Layout) -> String {
    format!(
        "DELETE FROM {} AS {T} USING ({}) AS {N} WHERE {}",
        layout.name,
        rows(layout, &layout.found_by, ""),
        found(layout, &layout.found_by)
    )
}

/// Known places of a mask, in order.
pub fn known(mask: &Mask) -> Vec<usize> {
    { mask.iter().enumerate() }
        .filter_map(|(place, known)| known.then_some(place))
        .collect()
}

/// Writes what is known of rows that are there, and answers with the numbers (from 1) of those. `fixed`: the columns that no UPDATE sets; a row with
/// other values in them is made anew, and keeps what is not known.
pub fn update(layout: &Layout, mask: &Mask, fixed: &[usize]) -> String {
    let (name, places) = (&layout.name, known(mask));
    let set: Vec<_> = { places.iter().enumerate() }
        .filter(|(_, place)| !layout.found_by.contains(place) && !fixed.contains(place))
        .map(|(n, place)| format!("{} = {N}.a{n}", column(layout, *place)))
        .collect();
    let rows = rows(layout, &places, " WITH ORDINALITY");
    let found = found(layout, &places);
    let write = |rows: &str, found: &str| match set.is_empty() {
        true => format!("SELECT {N}.place FROM {name} AS {T} JOIN {rows} AS {N} ON {found}"),
        false => format!(
            "UPDATE {name} AS {T} SET {} FROM {rows} AS {N} WHERE {found} RETURNING {N}.place",
            set.join(", ")
        ),
    };
    if fixed.is_empty() {
        return write(&format!("({rows})"), &found);
    }
    let all = 0..layout.columns.len();
    let values: Vec<_> = { all.clone() }
        .map(|place| match places.iter().position(|one| *one == place) {
            Some(n) => format!("{N}.a{n}"),
            None => format!("{T}.{}", column(layout, place)),
        })
        .enumerate()
        .map(|(n, value)| format!("{value} AS v{n}"))
        .collect();
    let columns: Vec<_> = all.clone().map(|n| format!("v{n}")).collect();
    let differs = differs(layout, fixed, &places);
    // Sorted: nothing is inserted before all are gone, for they may change places.
    format!(
        "WITH given AS ({rows}), same AS ({}),
         gone AS (DELETE FROM {name} AS {T} USING given AS {N} WHERE {found} AND {differs} RETURNING {N}.place, {}),
         anew AS (INSERT INTO {name} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone ORDER BY place)
         SELECT place FROM same UNION ALL SELECT place FROM gone",
        write("given", &format!("{found} AND NOT {differs}")),
        values.join(", "),
        list(layout, all),
        columns.join(", "),
    )
}

/// For a source: the values that a mask lacks, as texts, of the rows with these keys; the first column is the number (from 1) of the key.
pub fn fetch(layout: &Layout, mask: &Mask) -> String {
    let lacking: Vec<_> = { mask.iter().enumerate() }
        .filter(|(_, known)| !**known)
        .map(|(place, _)| {
            let name = column(layout, place);
            // A row as a value is NOT NULL only when none of its fields is; it is a value all the same.
            format!("CASE WHEN {T}.{name} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {T}.{name}) END")
        })
        .collect();
    format!(
        "SELECT {N}.place, {} FROM {} AS {T} JOIN ({}) AS {N} ON {}",
        lacking.join(", "),
        layout.name,
        rows(layout, &layout.found_by, " WITH ORDINALITY"),
        found(layout, &layout.found_by)
    )
}
