//! The options of EXPLAIN.

use std::ops::Range;

use super::cursor::Cursor;
use super::lexer::Kind;
use super::places::lexemes;

/// What EXPLAIN is asked for, as far as it matters to more than the server that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub runs: Runs,
    pub form: Form,
    /// EXPLAIN with what may also be asked of what is not run, for other queries of the same statement.
    pub planning: Box<str>,
}

/// Whether the statement is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    No,
    /// ANALYZE.
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
    Yaml,
    Xml,
}

/// Those that a server takes without ANALYZE too, in every version.
const OF_PLANS: [&str; 4] = ["verbose", "costs", "settings", "format"];

/// The options in front of the statement at this range of a text. What a server would refuse is read in some way.
pub fn options(text: &str, before: Range<usize>) -> Options {
    let mut options = Options {
        runs: Runs::No,
        form: Form::Text,
        planning: "EXPLAIN ".into(),
    };
    let Some(lexemes) = lexemes(text, before) else {
        return options;
    };
    let mut cursor = Cursor::new(text, &lexemes);
    cursor.take("explain");
    if cursor.kind() != Some(Kind::OpenParen) {
        if cursor.take_any(&["analyze", "analyse"]) {
            options.runs = Runs::Yes;
        }
        if cursor.take("verbose") {
            options.planning = "EXPLAIN VERBOSE ".into();
        }
        return options;
    }
    let mut planning: Vec<&str> = Vec::new();
    let inside = cursor.parenthesised().unwrap_or_default();
    for option in inside.split(|lexeme| lexeme.kind == Kind::Comma) {
        let (Some(first), Some(last)) = (option.first(), option.last()) else {
            continue;
        };
        let written = &text[first.range().start..last.range().end];
        let mut option = Cursor::new(text, option);
        let name = option.name().unwrap_or_default();
        let value = option.peek().map(|value| option.source(value));
        let value = value
            .unwrap_or("on")
            .trim_matches('\'')
            .to_ascii_lowercase();
        match &*name {
            "analyze" | "analyse" => {
                options.runs = match &*value {
                    "off" | "false" | "0" => Runs::No,
                    _ => Runs::Yes,
                }
            }
            "format" => {
                options.form = match value.trim_matches('"') {
                    "json" => Form::Json,
                    "yaml" => Form::Yaml,
                    "xml" => Form::Xml,
                    _ => Form::Text,
                }
            }
            _ => {}
        }
        if OF_PLANS.contains(&&*name) {
            planning.push(written);
        }
    }
    if !planning.is_empty() {
        options.planning = format!("EXPLAIN ({}) ", planning.join(", ")).into();
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let read = |text: &str| {
            let Options {
                runs,
                form,
                planning,
            } = options(text, 0..text.len());
            (runs, form, planning.into_string())
        };
        let plan = |form, planning: &str| (Runs::No, form, planning.to_owned());
        let run = |form, planning: &str| (Runs::Yes, form, planning.to_owned());
        assert_eq!(read("EXPLAIN"), plan(Form::Text, "EXPLAIN "));
        assert_eq!(
            read("explain analyse verbose"),
            run(Form::Text, "EXPLAIN VERBOSE ")
        );
        assert_eq!(
            read("EXPLAIN (ANALYZE, TIMING off, Format 'JSON', \"costs\" 0)"),
            run(Form::Json, "EXPLAIN (Format 'JSON', \"costs\" 0) ")
        );
        assert_eq!(
            read("EXPLAIN (analyze off, format yaml)"),
            plan(Form::Yaml, "EXPLAIN (format yaml) ")
        );
        assert_eq!(
            read("EXPLAIN (analyze true, analyze false, format xml, format text)").0,
            Runs::No
        );
        assert_eq!(read("EXPLAIN (buffers)"), plan(Form::Text, "EXPLAIN "));
    }
}
