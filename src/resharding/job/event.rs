//! What happened between two saved states, for people: a line each in the table of events and in the log.

use super::{End, Job, Pace, Phase, Stage, WayBack};

/// In the order in which it is told.
pub fn events(before: &Job, after: &Job) -> Vec<Box<str>> {
    let mut events: Vec<Box<str>> = Vec::new();
    if before.pace != after.pace {
        events.push(match &after.pace {
            Pace::Going => "resumed".into(),
            Pace::Paused => "paused".into(),
            Pace::Stopped(why) => format!("stopped: {why}").into(),
        });
    }
    if before.verification.differences.is_none()
        && let Some(differences) = after.verification.differences
    {
        events.push(match differences {
            0 => "compared: no row differs".into(),
            differences => format!("compared: {differences} rows differ").into(),
        });
    }
    if let WayBack::Lost(why) = &after.way_back
        && before.way_back == WayBack::Open
    {
        events.push(format!("the way back is lost: {why}").into());
    }
    for (shard, objects) in &before.objects {
        let now = after.objects.get(shard);
        if objects.slot_seen && now.is_some_and(|now| !now.slot_seen) {
            events.push(
                format!("the slot on {shard} was gone, and is made anew: it had nothing to say")
                    .into(),
            );
        }
    }
    match (&before.phase, &after.phase) {
        (Phase::Turning(old), Phase::Turning(new)) if old.stage.name() != new.stage.name() => {
            events.push(match &new.stage {
                Stage::Undoing { why, .. } => {
                    format!("{} is given up: {why}", after.phase.name()).into()
                }
                stage => format!("{}: {}", after.phase.name(), stage.name()).into(),
            });
        }
        (old, new) if old.name() != new.name() => {
            let more = match (&after.phase, after.wish) {
                (Phase::Turning(_), Some(wish)) => format!(", try {}", wish.tries + 1),
                (Phase::Ending(End::Cancel), _) if after.note != before.note => {
                    let why = after.note.as_deref().unwrap_or_default();
                    format!(": {why}")
                }
                _ => String::new(),
            };
            events.push(format!("{}{more}", new.name()).into());
        }
        _ => {}
    }
    if let Phase::Turning(turn) = &before.phase
        && matches!(turn.stage, Stage::Undoing { .. })
        && after.wish.is_none()
        && let Some(again) = match after.phase {
            Phase::Verified => Some("CUTOVER"),
            Phase::CutOver => Some("ROLLBACK"),
            _ => None,
        }
    {
        events.push(format!("tried too often; {again} tries again").into());
    }
    events
}
