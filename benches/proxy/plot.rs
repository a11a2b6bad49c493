//! The results as a picture: a bar for each subject, CPU time per statement as a ratio to PgBouncer's.

use std::fmt::Write as _;

use crate::report::{Results, Row};
use crate::subjects::Subject;

const LEFT: f64 = 330.0;
/// Of a ratio of 1.
const UNIT: f64 = 300.0;
const WIDTH: f64 = 860.0;
const BAR: f64 = 14.0;
const GAP: f64 = 14.0;

/// Bars with whiskers from the first to the third quartile of the rounds; PgBouncer is the line at 1.
pub fn ratios(results: &Results) -> String {
    let rows = results.rows();
    let mut body = String::new();
    let (mut y, mut group) = (50.0, None);
    for row in rows.iter().filter(|row| is_shown(row)) {
        let first = row.first;
        let this = (first.bench, first.protocol, first.clients);
        if group != Some(this) {
            y += GAP;
            let name = format!(
                "{}, {}, {} clients",
                first.bench,
                first.protocol.name(),
                first.clients
            );
            text(&mut body, 10.0, y + BAR - 3.0, "start", &name);
            group = Some(this);
        }
        bar(&mut body, y, row);
        y += BAR + 3.0;
    }
    let height = y + 20.0;
    let line = LEFT + UNIT;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\">CPU time of the proxy per statement, PgBouncer = 1 (less is better)</text>\n{body}\
         <line x1=\"{line}\" y1=\"40\" x2=\"{line}\" y2=\"{y}\" stroke=\"black\" stroke-dasharray=\"4 3\"/>\n\
         <text x=\"{line}\" y=\"36\" text-anchor=\"middle\">PgBouncer</text>\n</svg>\n"
    )
}

fn is_shown(row: &Row<'_>) -> bool {
    row.ratio.is_some() && row.first.subject != Subject::Pgbouncer
}

fn bar(body: &mut String, y: f64, row: &Row<'_>) {
    let Some([low, median, high]) = row.ratio else {
        return;
    };
    let colour = match row.first.subject {
        Subject::Direct
        | Subject::Pgbouncer
        | Subject::PgbouncerFourServers
        | Subject::Forwarder => "#b0b0b0",
        Subject::Trunkline | Subject::TrunklineTwoWorkers => "#3b7dd8",
        Subject::TrunklineFourShards => "#1d4f91",
    };
    let x = |ratio: f64| LEFT + UNIT * ratio.min(1.6);
    writeln!(
        body,
        "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n\
         <line x1=\"{:.1}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\" stroke=\"black\"/>",
        UNIT * median.min(1.6),
        x(low),
        x(high),
        middle = y + BAR / 2.0,
    )
    .expect("writing to a string cannot fail");
    let baseline = y + BAR - 3.0;
    text(body, LEFT - 6.0, baseline, "end", row.first.subject.name());
    text(
        body,
        x(high.max(median)) + 6.0,
        baseline,
        "start",
        &format!("{median:.2}"),
    );
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    )
    .expect("writing to a string cannot fail");
}
