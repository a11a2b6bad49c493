//! Plans that move data: how far each is, what it lags behind, and the log that servers keep for it.
//!
//! Every proxy of a fleet tells the same of them, as old as the driver's last saving. Of a plan that is over, only the phase is told.

use std::collections::BTreeMap;

use prometheus_client::registry::Unit;

use super::{Family, Labels, total, truth};
use crate::resharding::report::PlanStatus;

pub(super) fn families(plans: &[PlanStatus]) -> Vec<Family> {
    let labels = |plan: &PlanStatus| -> Labels {
        vec![
            ("database", plan.database.to_string()),
            ("plan", plan.plan.to_string()),
        ]
    };
    let with = |plan: &PlanStatus, more: Labels| [labels(plan), more].concat();
    let living = || plans.iter().filter(|plan| !is_over(plan));
    let each = |value: &dyn Fn(&PlanStatus) -> Option<f64>| -> Vec<(Labels, f64)> {
        distinct(living().filter_map(|plan| Some((labels(plan), value(plan)?))))
    };
    let phases = plans.iter().map(|plan| {
        let phase = vec![("phase", phase(plan).to_owned())];
        (with(plan, phase), 1.0)
    });
    let lags = living().flat_map(|plan| {
        plan.progress.streams.iter().filter_map(move |stream| {
            let way = vec![
                ("from_shard", stream.from.to_string()),
                ("to_shard", stream.to.to_string()),
            ];
            Some((with(plan, way), total(stream.behind?)))
        })
    });
    let retained = living().flat_map(|plan| {
        let sources = plan.progress.retained().into_iter();
        sources.map(move |(shard, bytes)| {
            let source = vec![("shard", shard.to_owned())];
            (with(plan, source), total(bytes))
        })
    });
    vec![
        Family::gauge(
            "reshard_phase",
            "1 for the phase in which the plan is.",
            distinct(phases),
        ),
        Family::gauge(
            "reshard_stopped",
            "1 while the plan has stopped by itself. SHOW RESHARDS says why.",
            each(&|plan| Some(truth(plan.pace.starts_with("stopped")))),
        ),
        Family::gauge(
            "reshard_driven",
            "1 while a proxy drives the plan.",
            each(&|plan| Some(truth(plan.driver.is_some()))),
        ),
        Family::gauge(
            "reshard_copied_rows",
            "Rows that the plan has copied.",
            each(&|plan| Some(total(plan.progress.totals().copied_rows))),
        ),
        Family::gauge(
            "reshard_estimated_rows",
            "Rows that the plan has to copy, by the servers' statistics.",
            each(&|plan| plan.progress.totals().estimated_rows.map(total)),
        ),
        Family::gauge(
            "reshard_copied",
            "What these rows take.",
            each(&|plan| Some(total(plan.progress.totals().copied_bytes))),
        )
        .of(Unit::Bytes),
        Family::gauge(
            "reshard_lag",
            "Log of the one shard that is written and not yet applied on the other.",
            distinct(lags),
        )
        .of(Unit::Bytes),
        Family::gauge(
            "reshard_retained",
            "Log that the shard's server keeps for the plan.",
            distinct(retained),
        )
        .of(Unit::Bytes),
        Family::gauge(
            "reshard_differences",
            "Rows that differ between both sides, by the last comparison.",
            each(&|plan| plan.differences.map(total)),
        ),
    ]
}

/// A name may be taken again once its plan is over; two samples with the same labels would be an error to whoever reads them.
fn distinct(samples: impl Iterator<Item = (Labels, f64)>) -> Vec<(Labels, f64)> {
    let samples: BTreeMap<Labels, f64> = samples.collect();
    samples.into_iter().collect()
}

/// Without what a turn is doing at the moment.
fn phase(plan: &PlanStatus) -> &str {
    let phase = &*plan.phase;
    phase.split_once(':').map_or(phase, |(phase, _)| phase)
}

fn is_over(plan: &PlanStatus) -> bool {
    matches!(&*plan.phase, "finished" | "cancelled")
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::resharding::report::{Progress, StreamProgress, TableProgress};

    fn text(plans: &[PlanStatus]) -> String {
        let text = super::super::encoded(Registry::default(), families(plans)).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn without_plans_there_are_no_metrics_of_them() {
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn a_plan_under_way() {
        let stream = |from: &str, to: &str, behind, retained| StreamProgress {
            from: from.into(),
            to: to.into(),
            changes: 5,
            behind,
            retained,
        };
        let plan = PlanStatus {
            plan: "split".into(),
            database: "shop".into(),
            phase: "cutting over: fencing".into(),
            pace: "stopped: the disk is full".into(),
            progress: Progress {
                tables: vec![TableProgress {
                    copied_rows: 10,
                    copied_bytes: 400,
                    estimated_rows: Some(20),
                    ..TableProgress::default()
                }],
                streams: vec![
                    stream("s1", "s3", Some(7), Some(70)),
                    stream("s1", "s4", None, Some(80)),
                ],
                ..Progress::default()
            },
            ..PlanStatus::default()
        };
        assert_eq!(
            text(&[plan]),
            r#"reshard_phase{database="shop",plan="split",phase="cutting over"} 1.0
reshard_stopped{database="shop",plan="split"} 1.0
reshard_driven{database="shop",plan="split"} 0.0
reshard_copied_rows{database="shop",plan="split"} 10.0
reshard_estimated_rows{database="shop",plan="split"} 20.0
reshard_copied_bytes{database="shop",plan="split"} 400.0
reshard_lag_bytes{database="shop",plan="split",from_shard="s1",to_shard="s3"} 7.0
reshard_retained_bytes{database="shop",plan="split",shard="s1"} 80.0"#
        );
    }

    #[test]
    fn of_a_plan_that_is_over_only_the_phase_is_told() {
        let plan = PlanStatus {
            plan: "split".into(),
            database: "shop".into(),
            phase: "cancelled".into(),
            pace: "going".into(),
            differences: Some(1),
            ..PlanStatus::default()
        };
        // And once, whoever had its name before.
        assert_eq!(
            text(&[plan.clone(), plan]),
            r#"reshard_phase{database="shop",plan="split",phase="cancelled"} 1.0"#
        );
    }
}
