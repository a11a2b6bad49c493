//! The report of EXPLAIN over several shards, in each of the forms that Postgres has.
//!
//! A shard's plan stands in it as the server wrote it. In JSON and YAML no string of it is longer than its line, so that its lines can be indented.

use std::fmt::Write as _;

use crate::catalog::Catalog;
use crate::session::spread::Step;
use crate::sharding::ShardId;
use crate::sql::explain::Form;

/// What is told.
pub struct Report {
    /// A label and its text each.
    pub lines: Vec<String>,
    pub steps: Vec<Step>,
    pub parts: Vec<Part>,
}

/// A server's plan.
pub struct Part {
    /// Like `Shard s1`.
    pub title: String,
    /// The rows that it answered: lines, or one document.
    pub plan: Vec<String>,
}

impl Part {
    pub fn of_shard(catalog: &Catalog, shard: ShardId, plan: Vec<String>) -> Part {
        Part {
            title: format!("Shard {}", catalog.shards[shard.index()]),
            plan,
        }
    }
}

impl Step {
    fn milliseconds(&self) -> String {
        format!("{:.3}", self.time.as_secs_f64() * 1000.0)
    }
}

impl Report {
    /// The rows that the client gets.
    pub fn rows(&self, form: Form) -> Vec<String> {
        match form {
            Form::Text => self.text(),
            Form::Json => vec![self.json()],
            Form::Yaml => vec![self.yaml()],
            Form::Xml => vec![self.xml()],
        }
    }

    fn text(&self) -> Vec<String> {
        let mut rows = vec!["Trunkline".to_owned()];
        rows.extend(self.lines.iter().map(|line| format!("  {line}")));
        rows.extend(self.steps.iter().map(|step| {
            let mut row = format!("  {}: ", step.what);
            if step.rows > 0 || step.bytes > 0 {
                let _ = write!(row, "{} rows, {} bytes, ", step.rows, step.bytes);
            }
            row + &step.milliseconds() + " ms"
        }));
        for part in &self.parts {
            rows.push(part.title.clone());
            rows.extend(part.plan.iter().map(|line| format!("  {line}")));
        }
        rows
    }

    fn json(&self) -> String {
        let list = |items: Vec<String>, indent: &str| match items.is_empty() {
            true => "[]".to_owned(),
            false => format!("[\n{}\n{}]", items.join(",\n"), &indent[2..]),
        };
        let lines = self
            .lines
            .iter()
            .map(|line| format!("        {}", string(line)));
        let steps = self.steps.iter().map(|step| {
            format!(
                "        {{\"Step\": {}, \"Rows\": {}, \"Bytes\": {}, \"Time\": {}}}",
                string(&step.what),
                step.rows,
                step.bytes,
                step.milliseconds()
            )
        });
        let parts = self.parts.iter().map(|part| {
            let plan = part.plan.join("\n").replace('\n', "\n          ");
            format!(
                "        {{\n          \"Server\": {},\n          \"Explained\": {plan}\n        }}",
                string(&part.title)
            )
        });
        let indent = "        ";
        format!(
            "[\n  {{\n    \"Trunkline\": {{\n      \"Done\": {},\n      \"Steps\": {},\n      \"Plans\": {}\n    }}\n  }}\n]",
            list(lines.collect(), indent),
            list(steps.collect(), indent),
            list(parts.collect(), indent)
        )
    }

    fn yaml(&self) -> String {
        let mut out = "- Trunkline: \n    Done: ".to_owned();
        for line in &self.lines {
            let _ = write!(out, "\n      - {}", string(line));
        }
        out.push_str("\n    Steps: ");
        for step in &self.steps {
            let _ = write!(
                out,
                "\n      - Step: {}\n        Rows: {}\n        Bytes: {}\n        Time: {}",
                string(&step.what),
                step.rows,
                step.bytes,
                step.milliseconds()
            );
        }
        if self.steps.is_empty() {
            out.push_str("[]");
        }
        out.push_str("\n    Plans: ");
        for part in &self.parts {
            let plan = part.plan.join("\n").replace('\n', "\n          ");
            let _ = write!(
                out,
                "\n      - Server: {}\n        Explained: \n          {plan}",
                string(&part.title)
            );
        }
        if self.parts.is_empty() {
            out.push_str("[]");
        }
        out
    }

    fn xml(&self) -> String {
        let mut out = "<explain xmlns=\"http://www.postgresql.org/2009/explain\">\n  <Trunkline>\n"
            .to_owned();
        for line in &self.lines {
            let _ = writeln!(out, "    <Done>{}</Done>", escaped(line));
        }
        for step in &self.steps {
            let _ = writeln!(
                out,
                "    <Step>\n      <What>{}</What>\n      <Rows>{}</Rows>\n      <Bytes>{}</Bytes>\n      <Time>{}</Time>\n    </Step>",
                escaped(&step.what),
                step.rows,
                step.bytes,
                step.milliseconds()
            );
        }
        for part in &self.parts {
            let _ = writeln!(
                out,
                "    <Explained>\n      <Server>{}</Server>\n{}\n    </Explained>",
                escaped(&part.title),
                // Its strings may have several lines.
                part.plan.join("\n")
            );
        }
        out + "  </Trunkline>\n</explain>"
    }
}

/// In quotes, for JSON and YAML.
fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn report() -> Report {
        Report {
            lines: vec!["goes    \"there\" & back".to_owned()],
            steps: vec![Step {
                what: "fetch".to_owned(),
                rows: 2,
                bytes: 30,
                time: Duration::from_micros(1500),
            }],
            parts: vec![Part {
                title: "Shard s1".to_owned(),
                plan: vec!["[\n  1\n]".to_owned()],
            }],
        }
    }

    #[test]
    fn every_form() {
        assert_eq!(
            report().rows(Form::Text),
            [
                "Trunkline",
                "  goes    \"there\" & back",
                "  fetch: 2 rows, 30 bytes, 1.500 ms",
                "Shard s1",
                "  [\n  1\n]"
            ]
        );
        let json = report().json();
        assert!(json.contains("\"Time\": 1.500}"), "{json}");
        assert!(json.contains("goes    \\\"there\\\" & back"), "{json}");
        assert!(
            report()
                .xml()
                .contains("<Done>goes    \"there\" &amp; back</Done>")
        );
        assert!(
            report()
                .yaml()
                .ends_with("Explained: \n          [\n            1\n          ]")
        );
    }
}
