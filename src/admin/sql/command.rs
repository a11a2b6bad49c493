//! What an administrator says: text to commands. Pure.
//!
//! A word has no case unless it is in double quotes; a string is in single quotes or between `$$`; comments are as in SQL. What follows RESHARD
//! is the language of `resharding/language.rs`.

use super::alter::alter;
use crate::catalog::QualifiedName;
use crate::catalog::placed::Place;
use crate::execution::commit::Outcome;
use crate::execution::commit::id::{Gid, TransactionId};
use crate::resharding::language;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Show(Show),
    Reload,
    /// `None`: every database.
    Pause(Option<String>),
    Resume(Option<String>),
    /// `by_hand`: what shall become of it when nobody can know.
    Resolve {
        id: TransactionId,
        by_hand: Option<Outcome>,
    },
    /// A node's host and port.
    Drain(String),
    Undrain(String),
    /// `node` is its host and port.
    Switchover {
        shard: String,
        node: String,
    },
    /// About plans that move data.
    Reshard(language::Statement),
    /// Where a table belongs that is not there yet; `None`: what was recorded of it is forgotten. The database may be left out when there is only one.
    Place {
        table: QualifiedName,
        place: Option<Place>,
        database: Option<String>,
    },
    Shutdown,
}

/// What SHOW shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    Clients,
    Config,
    Databases,
    Distributions,
    Help,
    Lists,
    Nodes,
    Pools,
    Refusals,
    /// What has happened to plans that move data; `None`: to all.
    ReshardEvents(Option<String>),
    Reshards,
    /// Where a statement would go; `database` may be left out when there is only one.
    Route {
        sql: String,
        database: Option<String>,
    },
    Servers,
    Shards,
    Stats,
    StatsAverages,
    StatsTotals,
    Tables,
    Totals,
    Transactions,
    Users,
    Version,
}

/// Every command with what it does, for SHOW HELP and for error messages.
pub const COMMANDS: &[(&str, &str)] = &[
    (
        "SHOW CLIENTS",
        "the clients that are connected, and what each is doing",
    ),
    (
        "SHOW CONFIG",
        "settings with their defaults, and which of them a reload changes",
    ),
    (
        "SHOW DATABASES",
        "databases, their limits, and whether they are paused",
    ),
    (
        "SHOW DISTRIBUTIONS",
        "which part of each key space is on which shard",
    ),
    ("SHOW HELP", "this list"),
    ("SHOW LISTS", "how many of each thing there are"),
    ("SHOW NODES", "the servers of each shard: role, health, lag"),
    (
        "SHOW POOLS",
        "server connections and waiting clients by user, database, shard and worker",
    ),
    (
        "SHOW REFUSALS",
        "every reason for which a statement is refused, and what to do",
    ),
    (
        "SHOW RESHARD EVENTS [plan]",
        "what has happened to plans that move data, the latest last",
    ),
    (
        "SHOW RESHARDS",
        "plans that move data, and how far each has come; the same as RESHARD STATUS",
    ),
    (
        "SHOW ROUTE 'SQL' [IN database]",
        "where statements would go, or why they are refused; the text may stand between $$ too",
    ),
    (
        "SHOW SERVERS",
        "the connections to servers, and which client each works for",
    ),
    ("SHOW SHARDS", "shards with their primaries"),
    (
        "SHOW STATS",
        "by database: totals since the start, and averages of the last stats_period",
    ),
    ("SHOW STATS_AVERAGES", "these averages alone"),
    (
        "SHOW STATS_TOTALS",
        "the totals under PgBouncer's shorter names",
    ),
    ("SHOW TABLES", "where the rows of each table are"),
    ("SHOW TOTALS", "SHOW STATS of all databases together"),
    (
        "SHOW TRANSACTIONS",
        "transactions that shards have prepared, and why they wait",
    ),
    ("SHOW USERS", "users, their limits and connections"),
    ("SHOW VERSION", "the version of this program"),
    (
        "ALTER TABLE table DISTRIBUTE BY distribution (column) [IN database]",
        "where the rows of a table belong that is created next; several columns with commas between them",
    ),
    (
        "ALTER TABLE table SET REFERENCE [IN database]",
        "likewise: a full copy on every shard",
    ),
    (
        "ALTER TABLE table RESET [IN database]",
        "forget what was recorded of a table that does not exist",
    ),
    (
        "RELOAD",
        "read the configuration file again: all of it, or nothing",
    ),
    (
        "PAUSE [database]",
        "lend no more server connections; answered when all that were lent have come back",
    ),
    ("RESUME [database]", "lend them again"),
    (
        "RESOLVE TRANSACTION id [COMMIT|ROLLBACK]",
        "finish what is prepared of it; COMMIT or ROLLBACK decide only when its decision shard is lost",
    ),
    (
        "DRAIN 'host:port'",
        "send no reads to a node; a primary cannot be drained",
    ),
    ("UNDRAIN 'host:port'", "send reads to it again"),
    (
        "SWITCHOVER shard TO 'host:port'",
        "make a replica the primary: statements wait meanwhile, nothing is lost, and when it cannot be done nothing is changed",
    ),
    (
        "RESHARD PLAN plan AS 'a -> a 50%, b 50%' [FOR distribution] [IN database]",
        "plan to give keys to other shards, in parts; several with ; in the text, all at once",
    ),
    (
        "RESHARD PLAN plan FROM CONFIG [FOR distribution] [IN database]",
        "plan the way to the map in the configuration file",
    ),
    (
        "RESHARD PLAN plan MOVE BUCKETS 0-1023, 2048 TO shard [FOR distribution]",
        "plan to move buckets of hash, or remainders of modulo; changes may be joined by AND",
    ),
    (
        "RESHARD PLAN plan MOVE RANGE [FROM 10] TO 20 TO shard [FOR distribution]",
        "plan to move a range of keys; its end is exclusive, and may be left out like its beginning",
    ),
    (
        "RESHARD PLAN plan MOVE VALUES 'x', 'y' TO shard [FOR distribution]",
        "plan to move listed values; MOVE OTHER VALUES moves the default",
    ),
    (
        "RESHARD PLAN plan MOVE REGION region TO a, b [FOR distribution]",
        "plan to move a region to other shards",
    ),
    (
        "RESHARD PLAN plan MOVE KEY 42 TO shard [FOR distribution]",
        "plan to place one key by hand; a key of several columns is in parentheses",
    ),
    (
        "RESHARD PLAN plan DRAIN shard [TO other]",
        "plan to move everything away from a shard",
    ),
    (
        "RESHARD PLAN plan MERGE a, b INTO c",
        "plan to bring several shards together",
    ),
    (
        "RESHARD PLAN plan REBALANCE [OVER a, b, c]",
        "plan to give shards even parts of hash",
    ),
    (
        "RESHARD SHOW plan",
        "both maps, what moves, and what CHECK found",
    ),
    ("RESHARD CHECK plan", "find all that stands against a plan"),
    (
        "RESHARD START plan [THROTTLE 20 MB LATENCY 5 ms]",
        "copy the rows and follow their changes; limited to so many bytes a second, and while clients' statements take longer",
    ),
    (
        "RESHARD THROTTLE plan 20 MB LATENCY 5 ms",
        "change these limits: one of them, both, or NONE",
    ),
    (
        "RESHARD STATUS [plan]",
        "how far plans are; of one plan each table, stream and problem",
    ),
    (
        "RESHARD PAUSE plan",
        "copy and compare no more; changes are still followed",
    ),
    (
        "RESHARD RESUME plan",
        "go on, after PAUSE or when the plan has stopped by itself",
    ),
    (
        "RESHARD VERIFY plan",
        "compare both sides, row by row, while clients write",
    ),
    (
        "RESHARD CUTOVER plan [MAX PAUSE 200 ms]",
        "put the new map in force; statements on moving keys wait meanwhile, at most for the pause",
    ),
    (
        "RESHARD ROLLBACK plan [MAX PAUSE 200 ms]",
        "put the old map in force again, in the same way",
    ),
    (
        "RESHARD FINISH plan",
        "remove the moved rows from the old shards; there is no way back then",
    ),
    (
        "RESHARD CANCEL plan",
        "give the plan up before its cutover, and remove all it has made",
    ),
    ("RESHARD EVENTS [plan]", "the same as SHOW RESHARD EVENTS"),
    ("SHUTDOWN", "let transactions finish, then end the process"),
];

/// What cannot be understood; the message names what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    #[error("there is no command {0}")]
    Unknown(String),
    #[error("{after} ends too early: {expected} is missing")]
    Missing {
        after: &'static str,
        expected: &'static str,
    },
    #[error("{found} is not understood at its place")]
    Unexpected { found: String },
    #[error("{found} is not the id of a transaction")]
    NotAnId { found: String },
    #[error("a quote or comment is not closed")]
    Unterminated,
    #[error("commands take no parameters: write the value into the command")]
    Parameter,
    #[error("RESHARD is not understood: {}, where {} was expected", .0.wrong.found, .0.wrong.expected)]
    Reshard(Box<InReshard>),
}

/// What is wrong in a RESHARD statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InReshard {
    pub wrong: language::SyntaxError,
    /// Characters of the whole text before the statement.
    before: usize,
    verb: Option<Box<str>>,
}

impl SyntaxError {
    /// The place in the whole text, in characters from 1, where it is known.
    pub fn position(&self) -> Option<usize> {
        match self {
            SyntaxError::Reshard(inside) => Some(inside.before + inside.wrong.at + 1),
            _ => None,
        }
    }

    /// What could be said instead.
    pub fn hint(&self) -> String {
        let forms = |wanted: &dyn Fn(&str) -> bool| {
            let forms = COMMANDS.iter().map(|(form, _)| *form);
            forms.filter(|form| wanted(form)).collect::<Vec<_>>()
        };
        match self {
            SyntaxError::Reshard(inside) => {
                let verb = inside.verb.as_deref().unwrap_or_default();
                let near = forms(&|form| form.split(' ').nth(1) == Some(verb));
                match near.is_empty() || !near[0].starts_with("RESHARD ") {
                    true => "SHOW HELP lists every form.".to_owned(),
                    false => format!("Like this: {}.", near.join("; ")),
                }
            }
            _ => {
                let mut shown = forms(&|form| !form.starts_with("RESHARD "));
                shown.push("RESHARD ...");
                format!("Commands: {}.", shown.join(", "))
            }
        }
    }
}

/// Every command of a text; none in a text of blanks, comments and semicolons.
pub fn parse(text: &str) -> Result<Vec<Command>, SyntaxError> {
    let mut commands = Vec::new();
    let mut rest = text;
    while let Some(first) = next(rest)? {
        rest = first.rest;
        if first.token.keyword().as_deref() == Some("RESHARD") {
            rest = behind_command(first.rest);
            let statement = &first.from[..first.from.len() - rest.len()];
            let before = &text[..text.len() - first.from.len()];
            commands.push(reshard(statement, before.chars().count())?);
        } else if first.token != Token::Semicolon {
            let mut tokens = vec![first.token];
            while let Some(further) = next(rest)?.filter(|one| one.token != Token::Semicolon) {
                rest = further.rest;
                tokens.push(further.token);
            }
            commands.push(command(&tokens)?);
        }
    }
    Ok(commands)
}

/// From the semicolon that ends the command on. Where a quote is not closed, the command goes to the end of the text.
fn behind_command(text: &str) -> &str {
    let mut rest = text;
    while let Ok(Some(token)) = next(rest) {
        if token.token == Token::Semicolon {
            return token.from;
        }
        rest = token.rest;
    }
    ""
}

fn reshard(statement: &str, before: usize) -> Result<Command, SyntaxError> {
    language::parse(statement)
        .map(Command::Reshard)
        .map_err(|wrong| {
            let verb = next(statement).ok().flatten();
            let verb = verb.and_then(|reshard| next(reshard.rest).ok().flatten());
            SyntaxError::Reshard(Box::new(InReshard {
                wrong,
                before,
                verb: verb.and_then(|verb| verb.token.keyword().map(Into::into)),
            }))
        })
}

fn command(tokens: &[Token]) -> Result<Command, SyntaxError> {
    let (first, rest) = (&tokens[0], &tokens[1..]);
    match first.keyword().as_deref() {
        Some("SHOW") => show(rest).map(Command::Show),
        Some("RELOAD") => done(rest, Command::Reload),
        Some("PAUSE") => name(rest).map(Command::Pause),
        Some("RESUME") => name(rest).map(Command::Resume),
        Some("RESOLVE") => resolve(rest),
        Some("DRAIN") => node(rest, "DRAIN").map(Command::Drain),
        Some("UNDRAIN") => node(rest, "UNDRAIN").map(Command::Undrain),
        Some("SWITCHOVER") => switchover(rest),
        Some("ALTER") => alter(rest),
        Some("SHUTDOWN") => done(rest, Command::Shutdown),
        _ => Err(SyntaxError::Unknown(first.shown())),
    }
}

fn show(tokens: &[Token]) -> Result<Show, SyntaxError> {
    let Some((first, rest)) = tokens.split_first() else {
        return Err(SyntaxError::Missing {
            after: "SHOW",
            expected: "what to show",
        });
    };
    let show = match first.keyword().as_deref() {
        Some("CLIENTS") => Show::Clients,
        Some("CONFIG") => Show::Config,
        Some("DATABASES") => Show::Databases,
        Some("DISTRIBUTIONS") => Show::Distributions,
        Some("HELP") => Show::Help,
        Some("LISTS") => Show::Lists,
        Some("NODES") => Show::Nodes,
        Some("POOLS") => Show::Pools,
        Some("REFUSALS") => Show::Refusals,
        Some("RESHARD") => return events(rest),
        Some("RESHARDS") => Show::Reshards,
        Some("ROUTE") => return route(rest),
        Some("SERVERS") => Show::Servers,
        Some("SHARDS") => Show::Shards,
        Some("STATS") => Show::Stats,
        Some("STATS_AVERAGES") => Show::StatsAverages,
        Some("STATS_TOTALS") => Show::StatsTotals,
        Some("TABLES") => Show::Tables,
        Some("TOTALS") => Show::Totals,
        Some("TRANSACTIONS") => Show::Transactions,
        Some("USERS") => Show::Users,
        Some("VERSION") => Show::Version,
        _ => return Err(SyntaxError::Unknown(format!("SHOW {}", first.shown()))),
    };
    done(rest, show)
}

fn events(tokens: &[Token]) -> Result<Show, SyntaxError> {
    match tokens.split_first() {
        Some((word, plan)) if word.keyword().as_deref() == Some("EVENTS") => {
            name(plan).map(Show::ReshardEvents)
        }
        Some((other, _)) => Err(SyntaxError::Unexpected {
            found: other.shown(),
        }),
        None => Err(SyntaxError::Missing {
            after: "SHOW RESHARD",
            expected: "EVENTS",
        }),
    }
}

fn route(tokens: &[Token]) -> Result<Show, SyntaxError> {
    let missing = |expected| SyntaxError::Missing {
        after: "SHOW ROUTE",
        expected,
    };
    let Some((sql, rest)) = tokens.split_first() else {
        return Err(missing("a statement in quotes"));
    };
    let Token::Text(sql) = sql else {
        return Err(SyntaxError::Unexpected { found: sql.shown() });
    };
    let database = match rest.split_first() {
        None => None,
        Some((word, name)) if word.keyword().as_deref() == Some("IN") => {
            Some(self::name(name)?.ok_or_else(|| missing("a database's name after IN"))?)
        }
        Some((other, _)) => {
            return Err(SyntaxError::Unexpected {
                found: other.shown(),
            });
        }
    };
    Ok(Show::Route {
        sql: sql.clone(),
        database,
    })
}

/// The id may be written as the whole name of a prepared transaction, in quotes.
fn resolve(tokens: &[Token]) -> Result<Command, SyntaxError> {
    let missing = |expected| SyntaxError::Missing {
        after: "RESOLVE",
        expected,
    };
    let (first, rest) = tokens
        .split_first()
        .ok_or_else(|| missing("TRANSACTION and its id"))?;
    if first.keyword().as_deref() != Some("TRANSACTION") {
        return Err(SyntaxError::Unexpected {
            found: first.shown(),
        });
    }
    let (id, rest) = rest.split_first().ok_or_else(|| missing("its id"))?;
    let (Token::Word(text) | Token::Quoted(text) | Token::Text(text)) = id else {
        return Err(SyntaxError::Unexpected { found: id.shown() });
    };
    let read = TransactionId::parse(text).or_else(|_| Gid::parse(text).map(|gid| gid.id));
    let id = read.map_err(|_| SyntaxError::NotAnId { found: id.shown() })?;
    let word = rest.first().and_then(Token::keyword);
    let (by_hand, rest) = match word.as_deref() {
        Some("COMMIT") => (Some(Outcome::Committed), &rest[1..]),
        Some("ROLLBACK") => (Some(Outcome::Aborted), &rest[1..]),
        _ => (None, rest),
    };
    done(rest, Command::Resolve { id, by_hand })
}

/// A node's address, in quotes.
fn node(tokens: &[Token], after: &'static str) -> Result<String, SyntaxError> {
    let expected = "the node's address in quotes, like 'db1:5432',";
    let Some((first, rest)) = tokens.split_first() else {
        return Err(SyntaxError::Missing { after, expected });
    };
    match first {
        Token::Quoted(address) | Token::Text(address) => done(rest, address.clone()),
        other => Err(SyntaxError::Unexpected {
            found: other.shown(),
        }),
    }
}

fn switchover(tokens: &[Token]) -> Result<Command, SyntaxError> {
    let missing = |expected| SyntaxError::Missing {
        after: "SWITCHOVER",
        expected,
    };
    let Some((shard, rest)) = tokens.split_first() else {
        return Err(missing("the shard's name"));
    };
    let shard = match shard {
        Token::Word(name) => name.to_lowercase(),
        Token::Quoted(name) | Token::Text(name) => name.clone(),
        other => {
            return Err(SyntaxError::Unexpected {
                found: other.shown(),
            });
        }
    };
    match rest.split_first() {
        Some((to, rest)) if to.keyword().as_deref() == Some("TO") => {
            node(rest, "SWITCHOVER").map(|node| Command::Switchover { shard, node })
        }
        Some((other, _)) => Err(SyntaxError::Unexpected {
            found: other.shown(),
        }),
        None => Err(missing("TO and the node's address")),
    }
}

/// A name, of a database or a plan, or nothing.
pub(super) fn name(tokens: &[Token]) -> Result<Option<String>, SyntaxError> {
    let Some((first, rest)) = tokens.split_first() else {
        return Ok(None);
    };
    match first {
        Token::Word(name) => done(rest, Some(name.to_lowercase())),
        Token::Quoted(name) => done(rest, Some(name.clone())),
        other => Err(SyntaxError::Unexpected {
            found: other.shown(),
        }),
    }
}

pub(super) fn done<T>(rest: &[Token], value: T) -> Result<T, SyntaxError> {
    match rest.first() {
        None => Ok(value),
        Some(token) => Err(SyntaxError::Unexpected {
            found: token.shown(),
        }),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    /// In double quotes: a name.
    Quoted(String),
    /// In single quotes or between dollars.
    Text(String),
    Semicolon,
    Other(char),
}

impl Token {
    pub(super) fn keyword(&self) -> Option<String> {
        match self {
            Token::Word(word) => Some(word.to_ascii_uppercase()),
            _ => None,
        }
    }

    pub(super) fn shown(&self) -> String {
        match self {
            Token::Word(word) => cut(word).to_uppercase(),
            Token::Quoted(name) => format!("\"{}\"", cut(name)),
            Token::Text(text) => format!("'{}'", cut(text)),
            Token::Semicolon => ";".to_owned(),
            Token::Other(other) => format!("\"{other}\""),
        }
    }
}

/// Not more of a text than a message can hold.
fn cut(text: &str) -> &str {
    const SHOWN: usize = 60;
    text.char_indices()
        .nth(SHOWN)
        .map_or(text, |(end, _)| &text[..end])
}

/// A token in its text.
struct Placed<'a> {
    token: Token,
    /// From its first character on.
    from: &'a str,
    /// What is behind it.
    rest: &'a str,
}

/// The first token; `None`: there is none any more.
fn next(text: &str) -> Result<Option<Placed<'_>>, SyntaxError> {
    let mut from = text;
    while let Some(first) = from.chars().next() {
        let after = &from[first.len_utf8()..];
        let (token, rest) = match first {
            _ if first.is_whitespace() => {
                from = after;
                continue;
            }
            '-' if after.starts_with('-') => {
                from = after.split_once('\n').map_or("", |(_, after)| after);
                continue;
            }
            '/' if after.starts_with('*') => {
                let closed = after[1..].split_once("*/");
                from = closed.ok_or(SyntaxError::Unterminated)?.1;
                continue;
            }
            '\'' => quoted(after, '\'').map(|(text, rest)| (Token::Text(text), rest))?,
            '"' => quoted(after, '"').map(|(name, rest)| (Token::Quoted(name), rest))?,
            '$' if after.starts_with(|next: char| next.is_ascii_digit()) => {
                return Err(SyntaxError::Parameter);
            }
            '$' => {
                let (tag, body) = after.split_once('$').ok_or(SyntaxError::Unterminated)?;
                let (text, rest) = body
                    .split_once(&format!("${tag}$"))
                    .ok_or(SyntaxError::Unterminated)?;
                (Token::Text(text.to_owned()), rest)
            }
            ';' => (Token::Semicolon, after),
            _ if is_word(first) => {
                let end = from.find(|other| !is_word(other)).unwrap_or(from.len());
                (Token::Word(from[..end].to_owned()), &from[end..])
            }
            other => (Token::Other(other), after),
        };
        return Ok(Some(Placed { token, from, rest }));
    }
    Ok(None)
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_' || character == '-'
}

/// What stands before the closing quote (doubled ones are one), and what follows it.
fn quoted(text: &str, quote: char) -> Result<(String, &str), SyntaxError> {
    let mut read = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once(quote).ok_or(SyntaxError::Unterminated)?;
        read.push_str(before);
        match after.strip_prefix(quote) {
            Some(further) => {
                read.push(quote);
                rest = further;
            }
            None => return Ok((read, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Command {
        match &parse(text).unwrap()[..] {
            [command] => command.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn wrong(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_switchover_names_a_shard_and_a_node() {
        let wanted = |shard: &str| {
            Ok(vec![Command::Switchover {
                shard: shard.to_owned(),
                node: "db2:5432".to_owned(),
            }])
        };
        assert_eq!(parse("switchover S1 to 'db2:5432'"), wanted("s1"));
        assert_eq!(parse("SWITCHOVER \"S1\" TO 'db2:5432';"), wanted("S1"));
        let wrong = |text| parse(text).unwrap_err().to_string();
        assert_eq!(
            wrong("SWITCHOVER"),
            "SWITCHOVER ends too early: the shard's name is missing"
        );
        assert_eq!(
            wrong("SWITCHOVER s1"),
            "SWITCHOVER ends too early: TO and the node's address is missing"
        );
        assert_eq!(
            wrong("SWITCHOVER s1 'db2:5432'"),
            "'db2:5432' is not understood at its place"
        );
    }

    #[test]
    fn case_blanks_comments_and_semicolons_do_not_matter() {
        for text in [
            "SHOW POOLS",
            "show pools;",
            " Show\n Pools ;; ",
            "/* a */ show -- b\n pools",
            ";SHOW POOLS;",
        ] {
            assert_eq!(one(text), Command::Show(Show::Pools), "{text}");
        }
        assert_eq!(parse(" ; -- nothing").unwrap(), []);
    }

    #[test]
    fn several_commands_in_one_text() {
        assert_eq!(
            parse("PAUSE app; RELOAD; RESUME \"App\"; RESUME; SHUTDOWN").unwrap(),
            [
                Command::Pause(Some("app".to_owned())),
                Command::Reload,
                Command::Resume(Some("App".to_owned())),
                Command::Resume(None),
                Command::Shutdown
            ]
        );
        assert_eq!(one("pause APP"), Command::Pause(Some("app".to_owned())));
    }

    #[test]
    fn a_statement_to_explain() {
        let route = |sql: &str, database: Option<&str>| {
            Command::Show(Show::Route {
                sql: sql.to_owned(),
                database: database.map(str::to_owned),
            })
        };
        assert_eq!(
            one("SHOW ROUTE 'SELECT ''x''; SELECT 1'"),
            route("SELECT 'x'; SELECT 1", None)
        );
        assert_eq!(
            one("show route $$SELECT 'x'$$ in app;"),
            route("SELECT 'x'", Some("app"))
        );
        assert_eq!(
            one("show route $q$SELECT $$x$$$q$ IN \"My App\""),
            route("SELECT $$x$$", Some("My App"))
        );
    }

    #[test]
    fn a_node_to_drain() {
        let node = || "db1:5432".to_owned();
        assert_eq!(one("drain 'db1:5432';"), Command::Drain(node()));
        assert_eq!(one("UNDRAIN \"db1:5432\""), Command::Undrain(node()));
        assert_eq!(
            wrong("DRAIN"),
            "DRAIN ends too early: the node's address in quotes, like 'db1:5432', is missing"
        );
        assert_eq!(wrong("DRAIN db1"), "DB1 is not understood at its place");
        assert_eq!(
            wrong("DRAIN 'a:1' now"),
            "NOW is not understood at its place"
        );
    }

    #[test]
    fn a_transaction_to_resolve() {
        let text = "0193aabbccdd-00000007-0123456789abcdef";
        let id = TransactionId::parse(text).unwrap();
        let resolve = |by_hand| Command::Resolve { id, by_hand };
        let named = format!("resolve transaction 'trunkline:{text}:0:s1' commit");
        assert_eq!(one(&format!("RESOLVE TRANSACTION {text};")), resolve(None));
        assert_eq!(one(&named), resolve(Some(Outcome::Committed)));
        let back = format!("RESOLVE TRANSACTION '{text}' ROLLBACK");
        assert_eq!(one(&back), resolve(Some(Outcome::Aborted)));
        assert_eq!(
            wrong("RESOLVE TRANSACTION 12"),
            "12 is not the id of a transaction"
        );
        assert_eq!(
            wrong("RESOLVE"),
            "RESOLVE ends too early: TRANSACTION and its id is missing"
        );
        assert_eq!(
            wrong(&format!("RESOLVE TRANSACTION {text} MAYBE")),
            "MAYBE is not understood at its place"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(wrong("SELECT 1"), "there is no command SELECT");
        assert_eq!(
            wrong("SHOW"),
            "SHOW ends too early: what to show is missing"
        );
        assert_eq!(wrong("SHOW FDS"), "there is no command SHOW FDS");
        assert_eq!(
            wrong("SHOW ROUTE"),
            "SHOW ROUTE ends too early: a statement in quotes is missing"
        );
        assert_eq!(
            wrong("SHOW ROUTE SELECT 1"),
            "SELECT is not understood at its place"
        );
        assert_eq!(
            wrong("SHOW ROUTE 'x' IN"),
            "SHOW ROUTE ends too early: a database's name after IN is missing"
        );
        assert_eq!(
            wrong("SHOW POOLS app"),
            "APP is not understood at its place"
        );
        assert_eq!(wrong("PAUSE 'app'"), "'app' is not understood at its place");
        assert_eq!(
            wrong("RELOAD; SHOW ROUTE 'x"),
            "a quote or comment is not closed"
        );
        assert_eq!(wrong("/* SHOW POOLS"), "a quote or comment is not closed");
        assert_eq!(
            wrong("SHOW ROUTE $1"),
            "commands take no parameters: write the value into the command"
        );
        assert_eq!(wrong("= 1"), "there is no command \"=\"");
    }

    #[test]
    fn every_command_of_the_list_is_understood() {
        for (form, _) in COMMANDS {
            let text = form
                .replace(
                    "id [COMMIT|ROLLBACK]",
                    "0193aabbccdd-00000007-0123456789abcdef COMMIT",
                )
                .replace(['[', ']'], "");
            assert_eq!(parse(&text).map(|all| all.len()), Ok(1), "{text}");
        }
    }

    #[test]
    fn a_plan_is_read_by_its_own_language() {
        let text = "RELOAD; /* a */ reshard plan Split as 'a -> a 50%, b 50%; b -> c' -- d\n; RESHARD STATUS;";
        let commands = parse(text).unwrap();
        assert_eq!(commands.len(), 3);
        let plan = language::parse("PLAN split AS 'a -> a 50%, b 50%; b -> c'").unwrap();
        assert_eq!(commands[1], Command::Reshard(plan));
        let status = Command::Reshard(language::Statement::Status(None));
        assert_eq!(commands[2], status);
        assert_eq!(one("RESHARD /* of all; */ STATUS"), status);
    }

    #[test]
    fn plans_are_shown_like_everything_else() {
        assert_eq!(one("show reshards"), Command::Show(Show::Reshards));
        let events =
            |plan: Option<&str>| Command::Show(Show::ReshardEvents(plan.map(str::to_owned)));
        assert_eq!(one("SHOW RESHARD EVENTS"), events(None));
        assert_eq!(one("SHOW RESHARD events Split;"), events(Some("split")));
        assert_eq!(
            wrong("SHOW RESHARD"),
            "SHOW RESHARD ends too early: EVENTS is missing"
        );
        assert_eq!(
            wrong("SHOW RESHARD PLANS"),
            "PLANS is not understood at its place"
        );
    }

    #[test]
    fn what_is_wrong_in_a_plan_has_its_place_and_a_form() {
        let wrong = |text: &str| {
            let error = parse(text).unwrap_err();
            (error.to_string(), error.position(), error.hint())
        };
        let (message, position, hint) = wrong("RELOAD; RESHARD CUTOVER p MAX PAUSE 200 m;");
        assert_eq!(
            message,
            "RESHARD is not understood: m, where MS or S was expected"
        );
        assert_eq!(
            position,
            Some("RELOAD; RESHARD CUTOVER p MAX PAUSE 200 m".len())
        );
        assert_eq!(hint, "Like this: RESHARD CUTOVER plan [MAX PAUSE 200 ms].");
        let (message, position, hint) = wrong("é; RESHARD FROG");
        assert_eq!(message, "there is no command É");
        assert_eq!(
            (position, hint.starts_with("Commands: SHOW CLIENTS")),
            (None, true)
        );
        let (_, position, hint) = wrong("SHOW ROUTE 'é'; RESHARD FROG");
        assert_eq!(position, Some(25));
        assert_eq!(hint, "SHOW HELP lists every form.");
        let (message, position, _) = wrong("RESHARD PLAN p AS 'a -> b; RELOAD");
        assert_eq!(
            (&*message, position),
            (
                "RESHARD is not understood: a quote that is not closed, where another ' behind it was expected",
                Some(19)
            )
        );
        let (message, ..) = wrong("RESHARD SHOW $1");
        assert_eq!(
            message,
            "RESHARD is not understood: \"$\", where the name of a plan was expected"
        );
        let (_, _, hint) = wrong("RESHARD DISTRIBUTIONS x");
        assert_eq!(hint, "SHOW HELP lists every form.");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String, tail in "(SHOW|ROUTE|RESHARD|PLAN|'|\"|\\$|-|/\\*|;| |é){0,12}") {
            let _ = parse(&text);
            let _ = parse(&tail);
        }
    }
}
