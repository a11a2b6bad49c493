//! Reading a parsed file without stopping at the first mistake.
//!
//! [`Source`] is one file and the mistakes found in it so far. A [`Section`] is one of its tables: it hands out each key it is asked for
//! and [`Section::done`] refuses the keys that nobody asked for, so what is read and what is allowed cannot drift apart.
//! An [`Entry`] is one value; its methods note a [`Problem`] and give `None` when the value is not of the wanted kind.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::{self, Interval, Size};
use super::{ByteSize, Line, Problem};

/// The longest name Postgres keeps whole (NAMEDATALEN - 1).
const LONGEST_NAME: usize = 63;

/// One file being read.
pub(super) struct Source<'a> {
    file: &'a str,
    line_starts: Vec<usize>,
    /// What relative paths in the file start from.
    directory: PathBuf,
    env: &'a dyn Fn(&str) -> Option<String>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl<'a> Source<'a> {
    pub fn new(
        text: &str,
        file: &'a str,
        directory: PathBuf,
        env: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Source {
            file,
            line_starts,
            directory,
            env,
            problems: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    pub fn line_of(&self, offset: usize) -> Line {
        Line(self.line_starts.partition_point(|start| *start <= offset))
    }

    pub fn env(&self, name: &str) -> Option<String> {
        (self.env)(name)
    }

    pub fn resolve(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    pub fn note(&self, line: Line, key: &str, message: impl Into<String>) {
        self.problems
            .borrow_mut()
            .push(self.problem(line, key, message.into()));
    }

    pub fn warn(&self, line: Line, key: &str, message: impl Into<String>) {
        self.warnings
            .borrow_mut()
            .push(self.problem(line, key, message.into()));
    }

    /// Notes a mistake in another file, which this one names.
    pub fn note_in(&self, file: &str, line: Line, key: &str, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem {
            file: file.to_owned(),
            line,
            key: key.to_owned(),
            message: message.into(),
        });
    }

    fn problem(&self, line: Line, key: &str, message: String) -> Problem {
        Problem {
            file: self.file.to_owned(),
            line,
            key: key.to_owned(),
            message,
        }
    }

    /// The mistakes and the warnings, each in the order of the file; then those in other files.
    pub fn findings(self) -> (Vec<Problem>, Vec<Problem>) {
        let mut problems = self.problems.into_inner();
        let mut warnings = self.warnings.into_inner();
        problems.sort_by(|a, b| {
            let place = |problem: &Problem| (problem.file != self.file, problem.line.0);
            place(a).cmp(&place(b))
        });
        warnings.sort_by_key(|problem| problem.line.0);
        (problems, warnings)
    }
}

/// One table of the file.
pub(super) struct Section<'a> {
    pub source: &'a Source<'a>,
    /// Empty for the file itself.
    pub path: String,
    pub line: Line,
    /// `None`: the section is left out, and every key of it too.
    table: Option<&'a DeTable<'a>>,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub fn root(source: &'a Source<'a>, table: &'a DeTable<'a>) -> Self {
        Section {
            source,
            path: String::new(),
            line: Line(1),
            table: Some(table),
            asked: vec![],
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            path_part(key)
        } else {
            format!("{}.{}", self.path, path_part(key))
        }
    }

    /// Replaces the index in the path by the entry's name: `users[0]` becomes `users.alice`.
    pub fn call_it(&mut self, name: &str) {
        if let Some(index) = self.path.rfind('[') {
            self.path.truncate(index);
            self.path.push('.');
            self.path.push_str(&path_part(name));
        }
    }

    pub fn note(&self, message: impl Into<String>) {
        self.source.note(self.line, &self.path, message);
    }

    /// Notes a mistake about a key, be it there or missing.
    pub fn note_key(&self, key: &str, message: impl Into<String>) {
        self.source
            .note(self.line_of(key), &self.path_of(key), message);
    }

    /// The line of a key, or of the section when it is not there.
    pub fn line_of(&self, key: &str) -> Line {
        self.get(key).map_or(self.line, |entry| entry.line)
    }

    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub fn is_empty_array(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|entry| entry.value.as_array().is_some_and(|array| array.is_empty()))
    }

    pub fn is_given(&self) -> bool {
        self.table.is_some()
    }

    fn get(&self, key: &str) -> Option<Entry<'a>> {
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Entry {
            source: self.source,
            path: self.path_of(key),
            line: self.source.line_of(name.span().start),
            value: value.get_ref(),
        })
    }

    /// The value of a key, which is thereby known here.
    pub fn take(&mut self, key: &'static str) -> Option<Entry<'a>> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.get(key)
    }

    /// A value read by `read`; `None` when it is left out or wrong (which has then been noted).
    pub fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Entry<'a>) -> Option<T>,
    ) -> Option<T> {
        self.take(key).and_then(read)
    }

    /// As [`Section::read`]; that it is left out is a mistake. `what` completes "give ...".
    pub fn required<T>(
        &mut self,
        key: &'static str,
        what: &str,
        read: impl FnOnce(Entry<'a>) -> Option<T>,
    ) -> Option<T> {
        match self.take(key) {
            Some(entry) => read(entry),
            None => {
                self.note_key(key, format!("is missing; give {what}"));
                None
            }
        }
    }

    /// The table under a key, without saying that the key is known here.
    pub fn peek(&self, key: &str) -> Section<'a> {
        let table = self.get(key).and_then(|entry| entry.value.as_table());
        Section {
            source: self.source,
            path: self.path_of(key),
            line: self.line_of(key),
            table,
            asked: vec![],
        }
    }

    /// The table under a key. One that is left out reads as an empty one.
    pub fn section(&mut self, key: &'static str) -> Section<'a> {
        let absent = Section {
            source: self.source,
            path: self.path_of(key),
            line: self.line,
            table: None,
            asked: vec![],
        };
        self.read(key, |entry| entry.section()).unwrap_or(absent)
    }

    /// The tables under a key: `[[key]]` or an array of inline tables.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let items = self.read(key, |entry| match entry.value {
            DeValue::Array(_) => entry.items("an array of tables"),
            _ => {
                entry.wrong(
                    "an array of tables",
                    &format!("one [[{}]] for each", entry.path),
                );
                None
            }
        });
        items
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.section())
            .collect()
    }

    /// The keys and values of a table whose keys are the user's own names.
    pub fn named_entries(&self) -> Vec<(&'a str, Entry<'a>)> {
        let Some(table) = self.table else {
            return vec![];
        };
        let mut entries: Vec<_> = table
            .iter()
            .filter_map(|(name, _)| Some((name.get_ref().as_ref(), self.get(name.get_ref())?)))
            .collect();
        entries.sort_by_key(|(_, entry)| entry.line.0);
        entries
    }

    /// Refuses the keys that were not asked for.
    pub fn done(self) {
        let Some(table) = self.table else { return };
        for name in table.keys() {
            let key = name.get_ref().as_ref();
            if self.asked.contains(&key) {
                continue;
            }
            let guess = value::nearest(key, &self.asked)
                .map_or(String::new(), |near| format!("; did you mean {near}?"));
            let end = if guess.is_empty() { ";" } else { "" };
            self.source.note(
                self.source.line_of(name.span().start),
                &self.path_of(key),
                format!(
                    "is not a key here{guess}{end} allowed: {}",
                    self.asked.join(", ")
                ),
            );
        }
    }
}

/// A key as it is written in a path: bare where TOML allows it.
fn path_part(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare {
        key.to_owned()
    } else {
        format!("{key:?}")
    }
}

/// One value of the file.
#[derive(Clone)]
pub(super) struct Entry<'a> {
    pub source: &'a Source<'a>,
    pub path: String,
    pub line: Line,
    pub value: &'a DeValue<'a>,
}

impl<'a> Entry<'a> {
    pub fn note(&self, message: impl Into<String>) {
        self.source.note(self.line, &self.path, message);
    }

    /// Notes `<the value> is not <what>; give <allowed>`.
    pub fn wrong(&self, what: &str, allowed: &str) {
        self.note(format!(
            "{} is not {what}; give {allowed}",
            shown(self.value)
        ));
    }

    pub fn text(&self, allowed: &str) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong("a string", allowed);
        }
        text
    }

    /// A name that Postgres would keep whole.
    pub fn name(&self) -> Option<String> {
        let allowed = format!("a name of 1 to {LONGEST_NAME} bytes");
        let name = self.text(&allowed)?;
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains('\0') {
            self.wrong("a name", &allowed);
            return None;
        }
        Some(name.to_owned())
    }

    pub fn boolean(&self) -> Option<bool> {
        let flag = self.value.as_bool();
        if flag.is_none() {
            self.wrong("true or false", "one of them, without quotes");
        }
        flag
    }

    fn integer(&self) -> Option<i128> {
        let integer = self.value.as_integer()?;
        i128::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    pub fn whole(&self, allowed: RangeInclusive<usize>) -> Option<usize> {
        let wanted = format!(
            "a whole number from {} to {}",
            allowed.start(),
            allowed.end()
        );
        self.whole_said(allowed, &wanted)
    }

    /// As [`Entry::whole`]; `0` and `"off"` give `Some(None)`.
    pub fn whole_or_off(&self, allowed: RangeInclusive<usize>) -> Option<Option<usize>> {
        if self.is_off() {
            return Some(None);
        }
        let wanted = format!(
            "a whole number from {} to {}, or \"off\"",
            allowed.start(),
            allowed.end()
        );
        self.whole_said(allowed, &wanted).map(Some)
    }

    fn whole_said(&self, allowed: RangeInclusive<usize>, wanted: &str) -> Option<usize> {
        if !self.value.is_integer() {
            self.wrong("a number", wanted);
            return None;
        }
        let number = self
            .integer()
            .and_then(|number| usize::try_from(number).ok());
        let number = number.filter(|number| allowed.contains(number));
        if number.is_none() {
            self.note(format!(
                "{} is out of range; give {wanted}",
                shown(self.value)
            ));
        }
        number
    }

    pub fn is_off(&self) -> bool {
        self.value.as_str() == Some("off") || self.integer() == Some(0)
    }

    pub fn duration(&self, allowed: RangeInclusive<Duration>) -> Option<Duration> {
        let wanted = format!(
            "a time from {} to {}, like \"500ms\", \"15s\", \"10m\", \"1h\" or \"1d\"",
            Interval(*allowed.start()),
            Interval(*allowed.end())
        );
        self.duration_said(allowed, &wanted)
    }

    /// As [`Entry::duration`]; `0` and `"off"` give `Some(None)`.
    pub fn duration_or_off(&self, allowed: RangeInclusive<Duration>) -> Option<Option<Duration>> {
        if self.is_off() {
            return Some(None);
        }
        let wanted = format!(
            "a time from {} to {}, like \"500ms\", \"15s\", \"10m\", \"1h\" or \"1d\", or \"off\"",
            Interval(*allowed.start()),
            Interval(*allowed.end())
        );
        self.duration_said(allowed, &wanted).map(Some)
    }

    fn duration_said(&self, allowed: RangeInclusive<Duration>, wanted: &str) -> Option<Duration> {
        if self.value.is_integer() {
            self.note(format!("{} has no unit; give {wanted}", shown(self.value)));
            return None;
        }
        let Some(time) = self.value.as_str().and_then(value::duration) else {
            self.wrong("a time", wanted);
            return None;
        };
        if !allowed.contains(&time) {
            self.note(format!(
                "{} is out of range; give {wanted}",
                shown(self.value)
            ));
            return None;
        }
        Some(time)
    }

    pub fn size(&self, allowed: RangeInclusive<u64>) -> Option<ByteSize> {
        let wanted = format!(
            "a size from {} to {}, like \"64kB\", \"1MB\" or \"1GB\"",
            Size(*allowed.start()),
            Size(*allowed.end())
        );
        if self.value.is_integer() {
            self.note(format!("{} has no unit; give {wanted}", shown(self.value)));
            return None;
        }
        let Some(size) = self.value.as_str().and_then(value::size) else {
            self.wrong("a size", &wanted);
            return None;
        };
        if !allowed.contains(&size) {
            self.note(format!(
                "{} is out of range; give {wanted}",
                shown(self.value)
            ));
            return None;
        }
        Some(ByteSize(size))
    }

    /// One of a few words.
    pub fn choice<T: Clone>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let found = self.value.as_str().and_then(|text| {
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, meaning)| meaning.clone())
        });
        if found.is_none() {
            let quoted: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            let mut allowed = quoted.join(", ");
            if let (Some(near), [_, _, ..]) = (
                self.value.as_str().and_then(|text| {
                    value::nearest(
                        text,
                        &words.iter().map(|(word, _)| *word).collect::<Vec<_>>(),
                    )
                }),
                words,
            ) {
                allowed.push_str(&format!(" (did you mean {near:?}?)"));
            }
            self.note(format!(
                "{} is not allowed; give {}",
                shown(self.value),
                allowed
            ));
        }
        found
    }

    /// The name of something that the file declares elsewhere.
    pub fn reference(&self, kind: &str, declared: &[String]) -> Option<String> {
        let name = self.text(&format!("the name of a {kind}"))?;
        if declared.iter().any(|known| known == name) {
            return Some(name.to_owned());
        }
        let known: Vec<_> = declared.iter().map(String::as_str).collect();
        let guess = value::nearest(name, &known)
            .map_or(String::new(), |near| format!("did you mean {near:?}? "));
        let list = match known.as_slice() {
            [] => format!("there is no [[{kind}s]] entry"),
            _ => format!("there are {}", value::listed(&known)),
        };
        self.note(format!(
            "{name:?} is not the name of a {kind}; {guess}{list}"
        ));
        None
    }

    /// The elements of an array.
    pub fn items(&self, allowed: &str) -> Option<Vec<Entry<'a>>> {
        let Some(array) = self.value.as_array() else {
            self.wrong("an array", allowed);
            return None;
        };
        Some(
            array
                .iter()
                .enumerate()
                .map(|(index, item)| self.item(index, item))
                .collect(),
        )
    }

    /// The elements of an array, or the value itself when it is none.
    pub fn one_or_more(&self) -> Vec<Entry<'a>> {
        match self.value.as_array() {
            Some(array) => array
                .iter()
                .enumerate()
                .map(|(index, item)| self.item(index, item))
                .collect(),
            None => vec![self.clone()],
        }
    }

    fn item(&self, index: usize, item: &'a Spanned<DeValue<'a>>) -> Entry<'a> {
        Entry {
            source: self.source,
            path: format!("{}[{index}]", self.path),
            line: self.source.line_of(item.span().start),
            value: item.get_ref(),
        }
    }

    pub fn section(&self) -> Option<Section<'a>> {
        let Some(table) = self.value.as_table() else {
            self.wrong("a table", &format!("[{}] with its keys", self.path));
            return None;
        };
        Some(Section {
            source: self.source,
            path: self.path.clone(),
            line: self.line,
            table: Some(table),
            asked: vec![],
        })
    }

    /// The text of one value of a shard key. Its type is not known here.
    pub fn key_value(&self) -> Option<String> {
        match self.value {
            DeValue::String(text) => Some(text.as_ref().to_owned()),
            DeValue::Integer(_) => {
                let integer = self.integer();
                if integer.is_none() {
                    self.note(format!(
                        "{} has too many digits; give it as a string",
                        shown(self.value)
                    ));
                }
                integer.map(|integer| integer.to_string())
            }
            // TOML puts a T between date and time where Postgres writes a blank; both read both.
            DeValue::Datetime(time) => Some(time.to_string()),
            _ => {
                self.wrong("a key", "a whole number, a string or a date");
                None
            }
        }
    }
}

/// A value as a message shows it.
fn shown(value: &DeValue<'_>) -> String {
    const LONGEST: usize = 60;
    match value {
        DeValue::String(text) if text.chars().count() > LONGEST => {
            format!("{:?}...", text.chars().take(LONGEST).collect::<String>())
        }
        DeValue::String(text) => format!("{:?}", text.as_ref()),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
