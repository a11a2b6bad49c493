//! RESHARD, SHOW RESHARDS and SHOW RESHARD EVENTS: plans that move data, as the control plane tells of them.
//!
//! One plan is told in rows of several kinds, which the column `item` names: `plan` with its sums, then `pace`, `driver` and what there is to say
//! in words, then a `table` and a `stream` for each way. Further kinds may be added.

use super::super::Failure;
use super::super::table::{Cell, Column, Table, row, text, whole};
use super::clock;
use crate::admin::{Access, Request};
use crate::resharding::language::Statement;
use crate::resharding::report::{
    Answer, Happening, PlanStatus, StreamProgress, TableProgress, Totals,
};

const PAGE: &[Column] = &[text("page")];

pub const PLANS: &[Column] = &[
    text("plan"),
    text("database"),
    text("phase"),
    text("pace"),
    whole("copied_rows"),
    whole("estimated_rows"),
    whole("percent"),
    whole("copied_bytes"),
    whole("compared_rows"),
    whole("removed_rows"),
    whole("lag_bytes"),
    whole("retained_bytes"),
    whole("differences"),
    whole("problems"),
    text("driver"),
    text("note"),
    text("as_of"),
];

const DETAILS: &[Column] = &[
    text("plan"),
    text("database"),
    text("item"),
    text("table"),
    text("from_shard"),
    text("to_shard"),
    text("state"),
    whole("copied_rows"),
    whole("estimated_rows"),
    whole("percent"),
    whole("copied_bytes"),
    whole("compared_rows"),
    whole("removed_rows"),
    whole("changes"),
    whole("lag_bytes"),
    whole("retained_bytes"),
    whole("differences"),
    text("detail"),
    text("as_of"),
];

pub const EVENTS: &[Column] = &[text("at"), text("plan"), text("by"), text("what")];

const TAKEN: &[Column] = &[text("plan"), text("phase")];

pub fn columns(statement: &Statement) -> &'static [Column] {
    match statement {
        Statement::Plan { .. } | Statement::Show(_) => PAGE,
        Statement::Status(None) => PLANS,
        Statement::Status(Some(_)) => DETAILS,
        Statement::Events(_) => EVENTS,
        Statement::Command { .. } => TAKEN,
    }
}

/// Asks the control plane.
pub async fn answer(statement: &Statement, access: &Access) -> Result<Table, Failure> {
    let answered = access
        .ask(|answer| Request::Reshard(statement.clone(), answer))
        .await?;
    table(statement, answered.map_err(Failure::Reshard)?).ok_or(Failure::OtherAnswer)
}

/// `None`: this is no answer to the statement.
pub fn table(statement: &Statement, answer: Answer) -> Option<Table> {
    let mut table = Table::new(columns(statement));
    match (statement, answer) {
        (Statement::Plan { .. } | Statement::Show(_), Answer::Page(page)) => {
            page.lines().for_each(|line| table.push(row![line]));
        }
        (Statement::Plan { .. } | Statement::Show(_), Answer::Taken { plan, phase }) => {
            table.push(row![format!("plan {plan}: {phase}")]);
        }
        (Statement::Status(None), Answer::Status(plans)) => {
            plans.iter().for_each(|plan| table.push(summary(plan)));
        }
        (Statement::Status(Some(_)), Answer::Status(plans)) => {
            plans.iter().for_each(|plan| details(plan, &mut table));
        }
        (Statement::Events(_), Answer::Events(mut events)) => {
            events.sort_by_key(|event| event.at);
            events.iter().for_each(|event| table.push(happening(event)));
        }
        (Statement::Command { .. }, Answer::Taken { plan, phase }) => {
            table.push(row![&*plan, &*phase]);
        }
        _ => return None,
    }
    Some(table)
}

fn summary(status: &PlanStatus) -> Vec<Cell> {
    let totals = status.progress.totals();
    row![
        &*status.plan,
        &*status.database,
        &*status.phase,
        &*status.pace,
        totals.copied_rows,
        totals.estimated_rows,
        totals.percent.map(u16::from),
        totals.copied_bytes,
        totals.compared_rows,
        totals.removed_rows,
        totals.behind,
        totals.retained,
        status.differences,
        status.problems.len(),
        status.driver.as_deref(),
        status.note.as_deref(),
        as_of(status),
    ]
}

fn as_of(status: &PlanStatus) -> Option<String> {
    let at = status.progress.at;
    (at > 0).then(|| clock::instant(at))
}

fn happening(event: &Happening) -> Vec<Cell> {
    let Happening { at, plan, by, what } = event;
    row![clock::instant(*at), &**plan, &**by, &**what]
}

fn details(status: &PlanStatus, table: &mut Table) {
    let mut push = |detail: Detail| table.push(detail.row(status));
    push(Detail::of_plan(status));
    let (pace, why) = match status.pace.split_once(": ") {
        Some((pace, why)) => (pace, Some(why)),
        None => (&*status.pace, None),
    };
    push(Detail::word("pace", Some(pace), why));
    push(Detail::word("driver", None, status.driver.as_deref()));
    if let Some(note) = &status.note {
        push(Detail::word("note", None, Some(note)));
    }
    for problem in &status.problems {
        push(Detail::word("problem", None, Some(problem)));
    }
    for note in &status.notes {
        push(Detail::word("note", Some("check"), Some(note)));
    }
    for one in &status.progress.tables {
        push(Detail::of_table(one));
    }
    for stream in &status.progress.streams {
        push(Detail::of_stream(stream));
    }
}

/// One row of the answer about one plan.
#[derive(Default)]
struct Detail<'a> {
    item: &'static str,
    table: Option<&'a str>,
    from: Option<&'a str>,
    to: Option<&'a str>,
    state: Option<&'a str>,
    copied_rows: Option<u64>,
    estimated_rows: Option<u64>,
    percent: Option<u8>,
    copied_bytes: Option<u64>,
    compared_rows: Option<u64>,
    removed_rows: Option<u64>,
    changes: Option<u64>,
    lag_bytes: Option<u64>,
    retained_bytes: Option<u64>,
    differences: Option<u64>,
    detail: Option<&'a str>,
    as_of: Option<String>,
}

impl<'a> Detail<'a> {
    fn of_plan(status: &'a PlanStatus) -> Detail<'a> {
        let Totals {
            copied_rows,
            copied_bytes,
            estimated_rows,
            compared_rows,
            removed_rows,
            percent,
            behind,
            retained,
        } = status.progress.totals();
        Detail {
            item: "plan",
            state: Some(&status.phase),
            copied_rows: Some(copied_rows),
            estimated_rows,
            percent,
            copied_bytes: Some(copied_bytes),
            compared_rows: Some(compared_rows),
            removed_rows: Some(removed_rows),
            lag_bytes: behind,
            retained_bytes: retained,
            differences: status.differences,
            as_of: as_of(status),
            ..Detail::default()
        }
    }

    fn word(item: &'static str, state: Option<&'a str>, detail: Option<&'a str>) -> Detail<'a> {
        Detail {
            item,
            state,
            detail,
            ..Detail::default()
        }
    }

    fn of_table(progress: &'a TableProgress) -> Detail<'a> {
        Detail {
            item: "table",
            table: Some(&progress.table),
            from: Some(&progress.from),
            to: Some(&progress.to),
            state: Some(match (progress.copied, progress.copied_rows) {
                (true, _) => "copied",
                (false, 0) => "waiting",
                (false, _) => "copying",
            }),
            copied_rows: Some(progress.copied_rows),
            estimated_rows: progress.estimated_rows,
            percent: progress.percent(),
            copied_bytes: Some(progress.copied_bytes),
            compared_rows: Some(progress.compared_rows),
            removed_rows: Some(progress.removed_rows),
            ..Detail::default()
        }
    }

    fn of_stream(progress: &'a StreamProgress) -> Detail<'a> {
        Detail {
            item: "stream",
            from: Some(&progress.from),
            to: Some(&progress.to),
            changes: Some(progress.changes),
            lag_bytes: progress.behind,
            retained_bytes: progress.retained,
            ..Detail::default()
        }
    }

    fn row(self, status: &PlanStatus) -> Vec<Cell> {
        row![
            &*status.plan,
            &*status.database,
            self.item,
            self.table,
            self.from,
            self.to,
            self.state,
            self.copied_rows,
            self.estimated_rows,
            self.percent.map(u16::from),
            self.copied_bytes,
            self.compared_rows,
            self.removed_rows,
            self.changes,
            self.lag_bytes,
            self.retained_bytes,
            self.differences,
            self.detail,
            self.as_of,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resharding::language::parse;
    use crate::resharding::report::Progress;

    fn status() -> PlanStatus {
        PlanStatus {
            plan: "split".into(),
            database: "shop".into(),
            phase: "copying".into(),
            pace: "stopped: s5 is out of reach: refused".into(),
            note: Some("the cutover was given up".into()),
            problems: vec!["one".into(), "two".into()],
            notes: vec!["three".into()],
            driver: Some("proxy-1".into()),
            differences: Some(3),
            progress: Progress {
                obstacle: None,
                at: 1_700_000_000_123,
                tables: vec![
                    TableProgress {
                        table: "public.orders".into(),
                        from: "s1".into(),
                        to: "s5".into(),
                        copied_rows: 250,
                        copied_bytes: 4000,
                        estimated_rows: Some(1000),
                        copied: false,
                        compared_rows: 5,
                        removed_rows: 6,
                    },
                    TableProgress {
                        table: "public.lines".into(),
                        from: "s1".into(),
                        to: "s5".into(),
                        ..TableProgress::default()
                    },
                ],
                streams: vec![StreamProgress {
                    from: "s1".into(),
                    to: "s5".into(),
                    changes: 17,
                    behind: Some(80),
                    retained: Some(90),
                }],
            },
        }
    }

    fn shown(statement: &str, answer: Answer) -> String {
        let statement = parse(statement).unwrap();
        let table = table(&statement, answer).unwrap();
        let cell = |cell: &Cell| match cell {
            Cell::Null => "-".to_owned(),
            Cell::Text(text) => text.clone(),
            Cell::Whole(number) => number.to_string(),
            Cell::Truth(truth) => truth.to_string(),
        };
        let line = |row: &Vec<Cell>| row.iter().map(cell).collect::<Vec<_>>().join("|");
        table.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_plan_is_one_row() {
        assert_eq!(
            shown(
                "STATUS",
                Answer::Status(vec![status(), PlanStatus::default()])
            ),
            "split|shop|copying|stopped: s5 is out of reach: refused|250|-|-|4000|5|6|80|90|3|2|proxy-1|the cutover was given up|2023-11-14 22:13:20.123 UTC\n\
             ||||0|-|-|0|0|0|-|-|-|0|-|-|-"
        );
        assert_eq!(shown("STATUS", Answer::Status(vec![])), "");
    }

    #[test]
    fn one_plan_is_told_table_by_table() {
        assert_eq!(
            shown("STATUS split", Answer::Status(vec![status()])),
            "split|shop|plan|-|-|-|copying|250|-|-|4000|5|6|-|80|90|3|-|2023-11-14 22:13:20.123 UTC\n\
             split|shop|pace|-|-|-|stopped|-|-|-|-|-|-|-|-|-|-|s5 is out of reach: refused|-\n\
             split|shop|driver|-|-|-|-|-|-|-|-|-|-|-|-|-|-|proxy-1|-\n\
             split|shop|note|-|-|-|-|-|-|-|-|-|-|-|-|-|-|the cutover was given up|-\n\
             split|shop|problem|-|-|-|-|-|-|-|-|-|-|-|-|-|-|one|-\n\
             split|shop|problem|-|-|-|-|-|-|-|-|-|-|-|-|-|-|two|-\n\
             split|shop|note|-|-|-|check|-|-|-|-|-|-|-|-|-|-|three|-\n\
             split|shop|table|public.orders|s1|s5|copying|250|1000|25|4000|5|6|-|-|-|-|-|-\n\
             split|shop|table|public.lines|s1|s5|waiting|0|-|-|0|0|0|-|-|-|-|-|-\n\
             split|shop|stream|-|s1|s5|-|-|-|-|-|-|-|17|80|90|-|-|-"
        );
    }

    #[test]
    fn events_are_in_the_order_of_time() {
        let event = |at, what: &str| Happening {
            at,
            plan: "split".into(),
            by: "proxy-1".into(),
            what: what.into(),
        };
        let events = vec![event(2000, "c"), event(1000, "a"), event(1000, "b")];
        assert_eq!(
            shown("EVENTS", Answer::Events(events)),
            "1970-01-01 00:00:01.000 UTC|split|proxy-1|a\n\
             1970-01-01 00:00:01.000 UTC|split|proxy-1|b\n\
             1970-01-01 00:00:02.000 UTC|split|proxy-1|c"
        );
    }

    #[test]
    fn a_page_is_a_row_for_each_line() {
        let page = || Answer::Page("distribution d: hash\n  move a -> b\n".to_owned());
        let taken = || Answer::Taken {
            plan: "p".into(),
            phase: "planned".into(),
        };
        assert_eq!(
            shown("SHOW p", page()),
            "distribution d: hash\n  move a -> b"
        );
        assert_eq!(
            shown("PLAN p DRAIN s1", page()),
            "distribution d: hash\n  move a -> b"
        );
        assert_eq!(shown("PLAN p DRAIN s1", taken()), "plan p: planned");
        assert_eq!(shown("CHECK p", taken()), "p|planned");
        // Columns are told before the statement runs, so no other answer can be shown.
        for (statement, answer) in [("CHECK p", page()), ("STATUS", taken()), ("EVENTS", page())] {
            assert_eq!(table(&parse(statement).unwrap(), answer), None);
        }
    }
}
