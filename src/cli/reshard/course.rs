//! What is waited for, and whether it is reached or cannot be any more. Pure.

use super::reading::Event;
use crate::resharding::job::Command;
use crate::resharding::report::PlanStatus;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The plan does nothing more by itself.
    Rest,
    Checked,
    Copied,
    Compared,
    CutOver,
    RolledBack,
    Finished,
    Cancelled,
}

/// How the waiting ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Reached(String),
    Failed(String),
}

impl Goal {
    /// What a command leads to; `None`: it is done when it is taken.
    pub fn of(command: &Command) -> Option<Goal> {
        match command {
            Command::Check => Some(Goal::Checked),
            Command::Start { .. } => Some(Goal::Copied),
            Command::Verify => Some(Goal::Compared),
            Command::Cutover { .. } => Some(Goal::CutOver),
            Command::Rollback { .. } => Some(Goal::RolledBack),
            Command::Finish => Some(Goal::Finished),
            Command::Cancel => Some(Goal::Cancelled),
            Command::Throttle(_) | Command::Pause | Command::Resume => None,
        }
    }

    /// `None`: it must still be waited. `news`: what has happened since the waiting began.
    pub fn verdict(self, status: &PlanStatus, news: &[Event]) -> Option<Verdict> {
        let phase = phase(&status.phase);
        if let Some(verdict) = self.by_events(news) {
            return Some(verdict);
        }
        if self.is_reached(phase, status) {
            return Some(Verdict::Reached(self.said(phase, status)));
        }
        let failed = match (self, phase) {
            (Goal::Checked, "planned") if !status.problems.is_empty() => problems(status),
            (Goal::Compared, _) if status.differences.is_some_and(|rows| rows > 0) => {
                differ(status.differences.unwrap_or_default())
            }
            (Goal::Cancelled, "finished") => "the plan is finished".to_owned(),
            (Goal::Cancelled, _) => return None,
            (_, "cancelled") => match &status.note {
                Some(why) => format!("the plan was cancelled: {why}"),
                None => "the plan was cancelled".to_owned(),
            },
            (Goal::RolledBack, "finishing" | "finished") => "the plan is finished".to_owned(),
            _ if status.pace.starts_with("stopped") => format!(
                "the plan has {}; mend that and RESUME, or CANCEL",
                status.pace
            ),
            _ => return None,
        };
        Some(Verdict::Failed(failed))
    }

    fn by_events(self, news: &[Event]) -> Option<Verdict> {
        news.iter().rev().find_map(|event| match self {
            Goal::CutOver | Goal::RolledBack if event.what.starts_with("tried too often") => {
                Some(Verdict::Failed(given_up(self, news)))
            }
            // The result itself is forgotten when the plan moves on.
            Goal::Compared => match event.what.strip_prefix("compared: ")? {
                "no row differs" => Some(Verdict::Reached("compared: no row differs".to_owned())),
                rows => {
                    let rows = rows.split(' ').next().and_then(|rows| rows.parse().ok());
                    Some(Verdict::Failed(differ(rows.unwrap_or_default())))
                }
            },
            _ => None,
        })
    }

    fn is_reached(self, phase: &str, status: &PlanStatus) -> bool {
        /// The phases on the way to the end, in their order.
        const WAY: [&str; 8] = [
            "checked",
            "copying",
            "following",
            "verified",
            "cutting over",
            "cut over",
            "finishing",
            "finished",
        ];
        let from_on = |first: &str| {
            let mut later = WAY.iter().skip_while(|one| **one != first);
            later.any(|one| *one == phase)
        };
        let is_back = matches!(phase, "rolling back" | "rolled back");
        match self {
            Goal::Rest => matches!(phase, "cut over" | "finished"),
            Goal::Checked => from_on("checked") || is_back,
            Goal::Copied => from_on("following") || is_back,
            Goal::Compared => status.differences == Some(0),
            Goal::CutOver => from_on("cut over"),
            Goal::RolledBack => phase == "rolled back",
            Goal::Finished => phase == "finished",
            Goal::Cancelled => phase == "cancelled",
        }
    }

    fn said(self, phase: &str, status: &PlanStatus) -> String {
        match self {
            Goal::Checked => checked(&status.notes),
            Goal::Copied => "all rows are copied, and their changes are followed".to_owned(),
            Goal::Compared => "compared: no row differs".to_owned(),
            _ => format!("{}: {phase}", status.plan),
        }
    }
}

/// Without what a turn is doing at the moment.
fn phase(phase: &str) -> &str {
    phase.split_once(':').map_or(phase, |(phase, _)| phase)
}

fn differ(rows: u64) -> String {
    format!("{rows} rows differ: RESHARD STATUS and the log say where")
}

fn checked(notes: &[Box<str>]) -> String {
    let mut text = "checked: nothing stands against it".to_owned();
    for note in notes {
        text += "\n  good to know: ";
        text += &note.replace('\n', "\n    ");
    }
    text
}

fn problems(status: &PlanStatus) -> String {
    let mut text = format!("{} problems stand against it:", status.problems.len());
    if status.problems.len() == 1 {
        text = "a problem stands against it:".to_owned();
    }
    for problem in &status.problems {
        text += "\n  ";
        text += &problem.replace('\n', "\n    ");
    }
    text
}

/// With the last reason for which it was given up.
fn given_up(goal: Goal, news: &[Event]) -> String {
    let again = match goal {
        Goal::RolledBack => "rollback",
        _ => "cutover",
    };
    let why = news
        .iter()
        .rev()
        .find_map(|event| event.what.split_once(" is given up: "));
    let why = why.map_or(String::new(), |(_, why)| format!(": {why}"));
    format!(
        "it was tried too often and given up{why}. Nothing has changed; {again} again when there is less to wait for, or with a longer pause"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(phase: &str) -> PlanStatus {
        PlanStatus {
            plan: "split".into(),
            phase: phase.into(),
            pace: "going".into(),
            ..PlanStatus::default()
        }
    }

    fn event(what: &str) -> Event {
        Event {
            at: "2026-01-01 00:00:00.000 UTC".into(),
            plan: "split".into(),
            by: "proxy".into(),
            what: what.into(),
        }
    }

    fn reached(verdict: Option<Verdict>) -> bool {
        match verdict {
            Some(Verdict::Reached(_)) => true,
            Some(Verdict::Failed(why)) => panic!("{why}"),
            None => false,
        }
    }

    fn failed(verdict: Option<Verdict>) -> String {
        match verdict {
            Some(Verdict::Failed(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    /// All phases, and for each goal those in which it is reached.
    #[test]
    fn goals_and_phases() {
        let phases = [
            "planned",
            "checked",
            "copying",
            "following",
            "verified",
            "cutting over: gating",
            "cut over",
            "rolling back: fencing",
            "rolled back",
            "finishing",
            "finished",
            "cancelling",
        ];
        for (goal, wanted) in [
            (Goal::Rest, "......x...x."),
            (Goal::Checked, ".xxxxxxxxxx."),
            (Goal::Copied, "...xxxxxxxx."),
            (Goal::CutOver, "......x..xx."),
            (Goal::Finished, "..........x."),
        ] {
            let found: String = phases
                .iter()
                .map(|phase| match reached(goal.verdict(&at(phase), &[])) {
                    true => 'x',
                    false => '.',
                })
                .collect();
            assert_eq!(found, wanted, "{goal:?}");
        }
        assert!(reached(Goal::RolledBack.verdict(&at("rolled back"), &[])));
        assert!(reached(Goal::Cancelled.verdict(&at("cancelled"), &[])));
        assert!(!reached(Goal::Cancelled.verdict(&at("cancelling"), &[])));
    }

    #[test]
    fn a_check_that_finds_something_has_failed() {
        let mut status = at("planned");
        assert_eq!(Goal::Checked.verdict(&status, &[]), None);
        status.problems = vec!["public.a has no key".into(), "b\nc".into()];
        assert_eq!(
            failed(Goal::Checked.verdict(&status, &[])),
            "2 problems stand against it:\n  public.a has no key\n  b\n    c"
        );
    }

    #[test]
    fn what_stopped_or_was_cancelled_is_not_waited_for() {
        let mut status = at("copying");
        status.pace = "stopped: the disk is full".into();
        let why = failed(Goal::Copied.verdict(&status, &[]));
        assert!(why.contains("has stopped: the disk is full"), "{why}");
        assert_eq!(Goal::Cancelled.verdict(&status, &[]), None);
        status.pace = "paused".into();
        assert_eq!(Goal::Copied.verdict(&status, &[]), None);
        let mut status = at("cancelled");
        status.note = Some("its slot is lost".into());
        for goal in [Goal::Rest, Goal::Copied, Goal::CutOver, Goal::Finished] {
            let why = failed(goal.verdict(&status, &[]));
            assert_eq!(why, "the plan was cancelled: its slot is lost");
        }
    }

    #[test]
    fn a_comparison_has_a_result_even_when_the_plan_has_moved_on() {
        assert_eq!(Goal::Compared.verdict(&at("following"), &[]), None);
        let same = [event("compared: no row differs"), event("verified")];
        assert!(reached(Goal::Compared.verdict(&at("cut over"), &same)));
        let differs = [event("compared: 7 rows differ")];
        let why = failed(Goal::Compared.verdict(&at("following"), &differs));
        assert!(why.starts_with("7 rows differ"), "{why}");
        let mut status = at("following");
        status.differences = Some(2);
        assert!(failed(Goal::Compared.verdict(&status, &[])).starts_with("2 rows"));
        status.differences = Some(0);
        assert!(reached(Goal::Compared.verdict(&status, &[])));
    }

    #[test]
    fn a_cutover_that_was_tried_too_often() {
        let news = [
            event("cutting over is given up: transactions on moving keys did not end in time"),
            event("verified"),
        ];
        assert_eq!(Goal::CutOver.verdict(&at("verified"), &news), None);
        let news = [&news[..], &[event("tried too often; CUTOVER tries again")]].concat();
        let why = failed(Goal::CutOver.verdict(&at("verified"), &news));
        assert!(
            why.contains("given up: transactions on moving keys did not end in time."),
            "{why}"
        );
    }
}
