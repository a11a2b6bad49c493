//! What an operator writes about plans: text to statements, the same in the admin database and on the command line.
//!
//! ```text
//! RESHARD PLAN name AS 'shard0 -> shard0 50%, shard4 50%; shard1 -> shard5' [FOR distribution] [IN database]
//!         PLAN name FROM CONFIG [FOR distribution] [IN database]
//!         PLAN name change [FOR distribution] { AND change [FOR distribution] } [IN database]
//!              change: MOVE BUCKETS 0-1023, 2048 TO shard | MOVE RANGE [FROM key] [TO BEFORE key] TO shard | MOVE KEY key TO shard
//!                      MOVE VALUES key, .. TO shard | MOVE OTHER VALUES TO shard | MOVE REGION name TO shard, ..
//!                      DRAIN shard [TO shard] | MERGE shard, .. INTO shard | REBALANCE [OVER shard, ..]
//!         SHOW name | CHECK name | START name [THROTTLE ..] | THROTTLE name [20 MB] [LATENCY 5 ms] | STATUS [name]
//!         PAUSE name | RESUME name | VERIFY name | CUTOVER name [MAX PAUSE 200 ms] | ROLLBACK name [MAX PAUSE 200 ms]
//!         FINISH name | CANCEL name | EVENTS [name]
//! ```
//!
//! A word has no case unless it is in double quotes; a value is a number or in single quotes; a key of several columns is in parentheses.
//! In `MOVE RANGE FROM 5 TO 10 TO shard` the first TO is the end of the range, exclusive as in the configuration.

mod token;

#[cfg(test)]
mod tests;

use super::job::{Command, MAX_PAUSE_MS, Throttle};
use token::{Placed, Token};

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    Plan {
        name: String,
        wanted: Wanted,
        /// May be left out when there is only one.
        database: Option<String>,
    },
    Show(String),
    /// `None`: of every plan.
    Status(Option<String>),
    Events(Option<String>),
    Command {
        name: String,
        command: Command,
    },
}

/// The map that shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The configuration's; `None`: of every distribution.
    Config { distribution: Option<String> },
    /// One after the other.
    Changes(Vec<Change>),
}

/// A change of one distribution's map, or of every one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub what: What,
    pub distribution: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// All at once, so that `a -> b; b -> a` is an exchange.
    Shares(Vec<Share>),
    Buckets {
        runs: Vec<(u32, u32)>,
        to: String,
    },
    Range {
        from: Option<String>,
        before: Option<String>,
        to: String,
    },
    Key {
        key: Vec<String>,
        to: String,
    },
    Values {
        values: Vec<String>,
        to: String,
    },
    OtherValues {
        to: String,
    },
    Region {
        region: String,
        to: Vec<String>,
    },
    Drain {
        shard: String,
        to: Option<String>,
    },
    Merge {
        shards: Vec<String>,
        into: String,
    },
    /// Empty: over the shards that the distribution has.
    Rebalance {
        over: Vec<String>,
    },
}

/// What some shards have together, and who shall have how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub sources: Vec<String>,
    /// Hundredths of a percent; together 10000.
    pub targets: Vec<(String, u32)>,
}

/// What cannot be understood, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {found}, where {expected} was expected", at = at + 1)]
pub struct SyntaxError {
    /// In characters, from 0.
    pub at: usize,
    pub found: String,
    pub expected: String,
}

impl SyntaxError {
    /// The text with a mark below the place.
    pub fn pointed(&self, text: &str) -> String {
        let line: String = text
            .chars()
            .map(|one| if one.is_control() { ' ' } else { one })
            .collect();
        format!("{line}\n{}^ {self}", " ".repeat(self.at))
    }
}

/// Reads one statement, with or without the word RESHARD and a semicolon at the end.
pub fn parse(text: &str) -> Result<Statement, SyntaxError> {
    let mut reader = Reader::new(text, 0, text.chars().count())?;
    reader.take_word("RESHARD");
    let statement = reader.statement()?;
    reader.take_symbol(";");
    reader.end("the end of the statement")?;
    Ok(statement)
}

/// The words of a command line as one text: a word that is no plain one is put in quotes, unless it is in quotes already.
pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words = words.into_iter().map(|word| {
        let movement = word.contains("->");
        let quoted = word.starts_with('\'');
        match movement && !quoted {
            true => format!("'{}'", word.replace('\'', "''")),
            false => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

struct Reader {
    tokens: Vec<Placed>,
    place: usize,
    /// Where the text ends.
    end: usize,
}

impl Reader {
    fn new(text: &str, begin: usize, end: usize) -> Result<Reader, SyntaxError> {
        Ok(Reader {
            tokens: token::tokens(text, begin)?,
            place: 0,
            end,
        })
    }

    fn statement(&mut self) -> Result<Statement, SyntaxError> {
        const VERBS: [&str; 14] = [
            "PLAN", "SHOW", "STATUS", "EVENTS", "CHECK", "START", "THROTTLE", "PAUSE", "RESUME",
            "VERIFY", "CUTOVER", "ROLLBACK", "FINISH", "CANCEL",
        ];
        let verb = self.one_of(&VERBS)?;
        let command = match verb {
            "PLAN" => return self.plan(),
            "SHOW" => return self.name("the name of a plan").map(Statement::Show),
            "STATUS" => return Ok(Statement::Status(self.optional_name()?)),
            "EVENTS" => return Ok(Statement::Events(self.optional_name()?)),
            other => other,
        };
        let name = self.name("the name of a plan")?;
        let command = match command {
            "CHECK" => Command::Check,
            "START" => Command::Start {
                throttle: match self.take_word("THROTTLE") {
                    true => self.throttle()?,
                    false => Throttle::default(),
                },
            },
            "THROTTLE" => Command::Throttle(self.throttle()?),
            "PAUSE" => Command::Pause,
            "RESUME" => Command::Resume,
            "VERIFY" => Command::Verify,
            "CUTOVER" => Command::Cutover {
                max_pause_ms: self.max_pause()?,
            },
            "ROLLBACK" => Command::Rollback {
                max_pause_ms: self.max_pause()?,
            },
            "FINISH" => Command::Finish,
            _ => Command::Cancel,
        };
        Ok(Statement::Command { name, command })
    }

    fn plan(&mut self) -> Result<Statement, SyntaxError> {
        let name = self.name("the name of a plan")?;
        let wanted = if self.take_word("FROM") {
            self.word("CONFIG")?;
            Wanted::Config {
                distribution: self.distribution()?,
            }
        } else {
            let mut changes = vec![self.change()?];
            while self.take_word("AND") {
                changes.push(self.change()?);
            }
            Wanted::Changes(changes)
        };
        let database = match self.take_word("IN") {
            true => Some(self.name("the name of a database")?),
            false => None,
        };
        Ok(Statement::Plan {
            name,
            wanted,
            database,
        })
    }

    fn distribution(&mut self) -> Result<Option<String>, SyntaxError> {
        match self.take_word("FOR") {
            true => self.name("the name of a distribution").map(Some),
            false => Ok(None),
        }
    }

    fn change(&mut self) -> Result<Change, SyntaxError> {
        let what = match self.one_of(&["AS", "MOVE", "DRAIN", "MERGE", "REBALANCE"])? {
            "AS" => self.shares()?,
            "MOVE" => self.movement()?,
            "DRAIN" => What::Drain {
                shard: self.shard()?,
                to: match self.take_word("TO") {
                    true => Some(self.shard()?),
                    false => None,
                },
            },
            "MERGE" => {
                let shards = self.list(Reader::shard)?;
                self.word("INTO")?;
                let into = self.shard()?;
                What::Merge { shards, into }
            }
            _ => What::Rebalance {
                over: match self.take_word("OVER") {
                    true => self.list(Reader::shard)?,
                    false => vec![],
                },
            },
        };
        let distribution = self.distribution()?;
        Ok(Change { what, distribution })
    }

    fn movement(&mut self) -> Result<What, SyntaxError> {
        const KINDS: [&str; 6] = ["BUCKETS", "RANGE", "KEY", "VALUES", "OTHER", "REGION"];
        Ok(match self.one_of(&KINDS)? {
            "BUCKETS" => What::Buckets {
                runs: self.list(Reader::run)?,
                to: self.target()?,
            },
            "RANGE" => self.range()?,
            "KEY" => What::Key {
                key: self.key()?,
                to: self.target()?,
            },
            "VALUES" => What::Values {
                values: self.list(Reader::value)?,
                to: self.target()?,
            },
            "OTHER" => {
                self.word("VALUES")?;
                What::OtherValues { to: self.target()? }
            }
            _ => {
                let region = self.name("the name of a region")?;
                self.word("TO")?;
                let to = self.list(Reader::shard)?;
                What::Region { region, to }
            }
        })
    }

    /// `[FROM value] [TO value] TO shard`: what follows the last TO is the shard.
    fn range(&mut self) -> Result<What, SyntaxError> {
        let from = match self.take_word("FROM") {
            true => Some(self.value()?),
            false => None,
        };
        self.word("TO")?;
        let is_value = matches!(
            self.peek(),
            Some(Token::Number(_) | Token::Text(_) | Token::Symbol("-"))
        );
        let before = match is_value {
            true => {
                let value = self.value()?;
                self.word("TO")?;
                Some(value)
            }
            false => None,
        };
        let to = self.shard()?;
        Ok(What::Range { from, before, to })
    }

    /// The text of AS, which is read as a text of its own, at its place in the whole.
    fn shares(&mut self) -> Result<What, SyntaxError> {
        let Some(Placed {
            token: Token::Text(text),
            at,
        }) = self.tokens.get(self.place).cloned()
        else {
            return Err(self.wrong("a text like 'shard0 -> shard0 50%, shard4 50%'"));
        };
        self.place += 1;
        let end = at + 1 + text.chars().count();
        let mut inside = Reader::new(&text, at + 1, end)?;
        let mut shares = vec![inside.share()?];
        while inside.take_symbol(";") && inside.peek().is_some() {
            shares.push(inside.share()?);
        }
        inside.end("\",\" or \";\"")?;
        Ok(What::Shares(shares))
    }

    fn share(&mut self) -> Result<Share, SyntaxError> {
        let sources = self.list(Reader::shard)?;
        if !self.take_symbol("->") {
            return Err(self.wrong("\"->\""));
        }
        let begin = self.here();
        let targets = self.list(|reader| {
            let shard = reader.shard()?;
            let part = match reader.peek() {
                Some(Token::Number(_)) => Some(reader.percent()?),
                _ => None,
            };
            Ok((shard, part))
        })?;
        if let [(only, None)] = &targets[..] {
            let targets = vec![(only.clone(), WHOLE)];
            return Ok(Share { sources, targets });
        }
        let sum: Option<u32> = targets.iter().map(|(_, part)| *part).sum();
        match sum {
            Some(WHOLE) => {}
            Some(sum) => {
                return Err(SyntaxError {
                    at: begin,
                    found: format!("parts of {}%", percent_shown(sum)),
                    expected: "a sum of 100%".to_owned(),
                });
            }
            None => {
                return Err(SyntaxError {
                    at: begin,
                    found: "a shard without its part".to_owned(),
                    expected: "a part like 50% for each of several shards".to_owned(),
                });
            }
        }
        let targets = targets
            .into_iter()
            .map(|(shard, part)| (shard, part.unwrap_or_default()))
            .collect();
        Ok(Share { sources, targets })
    }

    fn percent(&mut self) -> Result<u32, SyntaxError> {
        const EXPECTED: &str = "a part from 0.01% to 100%";
        let begin = self.place;
        let Some(Token::Number(digits)) = self.peek().cloned() else {
            return Err(self.wrong(EXPECTED));
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
        let hundredths = (fraction.len() <= 2)
            .then(|| format!("{whole}{fraction:0<2}").parse::<u32>().ok())
            .flatten()
            .filter(|part| (1..=WHOLE).contains(part));
        let Some(hundredths) = hundredths else {
            return Err(self.wrong(EXPECTED));
        };
        self.place += 1;
        if !self.take_symbol("%") {
            self.place = begin + 1;
            return Err(self.wrong("\"%\""));
        }
        Ok(hundredths)
    }

    fn throttle(&mut self) -> Result<Throttle, SyntaxError> {
        let mut throttle = Throttle::default();
        if matches!(self.peek(), Some(Token::Number(_))) {
            throttle.rate = Some(self.amount(&[
                ("B", 1),
                ("KB", 1 << 10),
                ("MB", 1 << 20),
                ("GB", 1 << 30),
            ])?);
        }
        if self.take_word("LATENCY") {
            throttle.latency_us = Some(self.amount(SHORT_TIMES)?);
        }
        if throttle == Throttle::default() && !self.take_word("NONE") {
            return Err(self.wrong("bytes in a second like 20 MB, LATENCY 5 ms, both, or NONE"));
        }
        Ok(throttle)
    }

    fn max_pause(&mut self) -> Result<u64, SyntaxError> {
        if !self.take_word("MAX") {
            return Ok(MAX_PAUSE_MS);
        }
        self.word("PAUSE")?;
        let begin = self.place;
        let pause = self.amount(TIMES)?;
        if !(1..=LONGEST_PAUSE_MS).contains(&pause) {
            self.place = begin;
            return Err(self.wrong("a pause from 1 ms to 60 s"));
        }
        Ok(pause)
    }

    /// A whole number with its unit, in the smallest unit.
    fn amount(&mut self, units: &'static [(&'static str, u64)]) -> Result<u64, SyntaxError> {
        let Some(Token::Number(digits)) = self.peek().cloned() else {
            return Err(self.wrong("a whole number"));
        };
        let Ok(number) = digits.parse::<u64>() else {
            return Err(self.wrong("a whole number"));
        };
        self.place += 1;
        let names: Vec<&'static str> = units.iter().map(|(name, _)| *name).collect();
        let unit = self.one_of(&names)?;
        let factor = units
            .iter()
            .find(|(name, _)| *name == unit)
            .map_or(1, |(_, factor)| *factor);
        match number.checked_mul(factor) {
            Some(amount) => Ok(amount),
            None => {
                self.place -= 2;
                Err(self.wrong("a smaller number"))
            }
        }
    }

    /// `0-1023` or `7`.
    fn run(&mut self) -> Result<(u32, u32), SyntaxError> {
        let first = self.bucket()?;
        let last = match self.take_symbol("-") {
            true => self.bucket()?,
            false => first,
        };
        if last < first {
            self.place -= 1;
            return Err(self.wrong(&format!("a bucket from {first} on")));
        }
        Ok((first, last))
    }

    fn bucket(&mut self) -> Result<u32, SyntaxError> {
        match self.peek() {
            Some(Token::Number(digits)) => match digits.parse() {
                Ok(bucket) => {
                    self.place += 1;
                    Ok(bucket)
                }
                Err(_) => Err(self.wrong("the number of a bucket")),
            },
            _ => Err(self.wrong("the number of a bucket")),
        }
    }

    /// A value, or several in parentheses.
    fn key(&mut self) -> Result<Vec<String>, SyntaxError> {
        if !self.take_symbol("(") {
            return Ok(vec![self.value()?]);
        }
        let key = self.list(Reader::value)?;
        match self.take_symbol(")") {
            true => Ok(key),
            false => Err(self.wrong("\",\" or \")\"")),
        }
    }

    fn value(&mut self) -> Result<String, SyntaxError> {
        const EXPECTED: &str = "a number, or a value in single quotes";
        let sign = match self.take_symbol("-") {
            true => "-",
            false => "",
        };
        let value = match self.peek() {
            Some(Token::Number(digits)) => format!("{sign}{digits}"),
            Some(Token::Text(text)) if sign.is_empty() => text.clone(),
            _ => return Err(self.wrong(EXPECTED)),
        };
        self.place += 1;
        Ok(value)
    }

    fn target(&mut self) -> Result<String, SyntaxError> {
        self.word("TO")?;
        self.shard()
    }

    fn shard(&mut self) -> Result<String, SyntaxError> {
        self.name("the name of a shard")
    }

    fn name(&mut self, expected: &str) -> Result<String, SyntaxError> {
        let name = match self.peek() {
            Some(Token::Word(word)) => word.to_lowercase(),
            Some(Token::Quoted(name)) => name.clone(),
            _ => return Err(self.wrong(expected)),
        };
        self.place += 1;
        Ok(name)
    }

    fn optional_name(&mut self) -> Result<Option<String>, SyntaxError> {
        match self.peek() {
            Some(Token::Word(_) | Token::Quoted(_)) => self.name("the name of a plan").map(Some),
            _ => Ok(None),
        }
    }

    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Reader) -> Result<T, SyntaxError>,
    ) -> Result<Vec<T>, SyntaxError> {
        let mut items = vec![item(self)?];
        while self.take_symbol(",") {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn one_of(&mut self, words: &[&'static str]) -> Result<&'static str, SyntaxError> {
        let found = words.iter().find(|word| self.take_word(word));
        found.copied().ok_or_else(|| match words {
            [only] => self.wrong(only),
            [.., last] => {
                let before = words[..words.len() - 1].join(", ");
                self.wrong(&format!("{before} or {last}"))
            }
            [] => self.wrong("nothing"),
        })
    }

    fn word(&mut self, word: &'static str) -> Result<(), SyntaxError> {
        self.one_of(&[word]).map(|_| ())
    }

    fn take_word(&mut self, word: &str) -> bool {
        let there =
            matches!(self.peek(), Some(Token::Word(found)) if found.eq_ignore_ascii_case(word));
        self.place += usize::from(there);
        there
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let there = matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol);
        self.place += usize::from(there);
        there
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.place).map(|placed| &placed.token)
    }

    fn here(&self) -> usize {
        self.tokens
            .get(self.place)
            .map_or(self.end, |placed| placed.at)
    }

    fn end(&self, expected: &str) -> Result<(), SyntaxError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong(expected)),
        }
    }

    fn wrong(&self, expected: &str) -> SyntaxError {
        SyntaxError {
            at: self.here(),
            found: self
                .peek()
                .map_or("the end".to_owned(), ToString::to_string),
            expected: expected.to_owned(),
        }
    }
}

/// All of it, in hundredths of a percent.
pub(super) const WHOLE: u32 = 10_000;
const LONGEST_PAUSE_MS: u64 = 60_000;
/// In milliseconds.
const TIMES: &[(&str, u64)] = &[("MS", 1), ("S", 1000)];
/// In microseconds.
const SHORT_TIMES: &[(&str, u64)] = &[("US", 1), ("MS", 1000), ("S", 1_000_000)];

/// Hundredths of a percent, as people write percents.
pub(super) fn percent_shown(hundredths: u32) -> String {
    let shown = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    shown.trim_end_matches('0').trim_end_matches('.').to_owned()
}
