//! SWITCHOVER: what was done, a row for each step and node.

use super::super::table::{Column, Table, row, text, whole};
use crate::topology::promotion::Done;

pub const STEPS: &[Column] = &[
    text("step"),
    text("node"),
    whole("milliseconds"),
    text("detail"),
];

pub fn steps(done: &[Done]) -> Table {
    let mut table = Table::new(STEPS);
    for Done {
        step,
        node,
        took,
        detail,
    } in done
    {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        table.push(row![step.as_str(), node.as_str(), took, detail.as_str()]);
    }
    table
}
