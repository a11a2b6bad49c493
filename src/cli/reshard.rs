//! `trunkline reshard`: plans that move data, driven from a shell. It says to a running proxy's admin database what is written, and shows what
//! is answered. The plan runs in the proxies: whatever becomes of this command, it goes on.
//!
//! `link.rs` is the way there, `reading.rs` its answers as data, `course.rs` when a waiting ends, `page.rs` what people see.

mod course;
mod link;
mod page;
mod passfile;
mod reading;
mod screen;

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use crate::resharding::language::{self, Statement};
use crate::resharding::report::PlanStatus;
use course::{Goal, Verdict};
use link::{Kind, Link, Trouble, Way};
use page::{Extent, Readings};
use reading::{Event, Row};
use screen::Screen;

/// Time between two looks at a plan.
const WATCH: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_millis(250);

/// How long a proxy may be away while it is waited for a plan: long enough to start it again.
const ABSENCE: Duration = Duration::from_secs(60);

/// Tables on a page that is drawn anew.
const TABLES: usize = 20;

const FORMS: &str = "\
Statements (docs/RESHARDING.md explains them):
  plan NAME AS 'a -> a 50%, b 50%'      plan NAME FROM CONFIG         plan NAME DRAIN a [TO b]
  plan NAME MERGE a, b INTO c           plan NAME REBALANCE OVER a, b
  plan NAME MOVE BUCKETS 0-1023 TO b    plan NAME MOVE RANGE FROM 10 TO 20 TO b
  plan NAME MOVE KEY 42 TO b            plan NAME MOVE VALUES \"'x'\" TO b     plan NAME MOVE REGION r TO a, b
  show NAME           what moves
  check NAME          what stands against it
  start NAME          copy and follow; [throttle 20 MB latency 5 ms]
  status [NAME]       how far it is
  events [NAME]       what has happened
  throttle NAME ...   pause NAME   resume NAME
  verify NAME         compare both sides
  cutover NAME        the new map, [max pause 200 ms]
  rollback NAME       the old map again
  finish NAME         remove the moved rows from the old shards
  cancel NAME         give it up before the cutover

Exit code: 0 done, 1 refused, stopped or different, 2 not understood.";

#[derive(Debug, Args)]
#[command(after_help = FORMS)]
pub(super) struct Arguments {
    /// A statement, as behind RESHARD in the admin database.
    #[arg(
        required = true,
        allow_negative_numbers = true,
        value_name = "STATEMENT"
    )]
    words: Vec<String>,
    /// With check, start, verify, cutover, rollback, finish and cancel: wait until it is done.
    #[arg(long, conflicts_with = "watch")]
    wait: bool,
    /// With status and a name: look again every second, until the plan is cut over, finished, cancelled or stopped.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    options: link::Options,
}

/// Not understood, as clap has it.
const MISUSED: u8 = 2;

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let text = language::from_words(arguments.words.iter().map(String::as_str));
    let statement = match language::parse(&text) {
        Ok(statement) => statement,
        Err(error) => {
            eprintln!("{}", error.pointed(&text));
            if error.expected.contains("single quotes") || error.found.contains("a quote") {
                eprintln!("hint: the shell takes quotes away; write \"'value'\"");
            }
            return ExitCode::from(MISUSED);
        }
    };
    let course = match Course::of(arguments, &statement) {
        Ok(course) => course,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(MISUSED);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime.map_err(Failure::Output).and_then(|runtime| {
        let way = Way::find(&arguments.options)?;
        let text = text.trim_end_matches(|one: char| one == ';' || one.is_whitespace());
        let verb = text.split_whitespace().next().unwrap_or_default();
        let said = match verb.eq_ignore_ascii_case("RESHARD") {
            true => text.to_owned(),
            false => format!("RESHARD {text}"),
        };
        runtime.block_on(run_on(&way, &statement, &said, course))
    });
    match done {
        Ok(code) => code,
        Err(Failure::Trouble(trouble)) => {
            eprintln!("error: {trouble}");
            if let Some(hint) = &trouble.hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
        // Whoever read it has had enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(Failure::Output(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// What is to be said cannot be written.
    #[error(transparent)]
    Output(#[from] io::Error),
}

/// What becomes of a statement's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Course {
    Show,
    Watch { plan: String },
    Wait { plan: String, goal: Goal },
}

impl Course {
    fn of(arguments: &Arguments, statement: &Statement) -> Result<Course, &'static str> {
        match (statement, arguments.wait, arguments.watch) {
            (_, false, false) => Ok(Course::Show),
            (Statement::Status(Some(plan)), false, true) => {
                Ok(Course::Watch { plan: plan.clone() })
            }
            (_, _, true) => Err("--watch is for status with the name of a plan"),
            (Statement::Command { name, command }, true, false) => match Goal::of(command) {
                Some(goal) => Ok(Course::Wait {
                    plan: name.clone(),
                    goal,
                }),
                None => Err(NOT_WAITED),
            },
            (_, true, false) => Err(NOT_WAITED),
        }
    }
}

const NOT_WAITED: &str = "--wait is for check, start, verify, cutover, rollback, finish and cancel";

async fn run_on(
    way: &Way,
    statement: &Statement,
    said: &str,
    course: Course,
) -> Result<ExitCode, Failure> {
    let link = way.open().await?;
    let mut screen = Screen::new();
    match course {
        Course::Watch { plan } => {
            let follower = Follower::new(way, link, &plan, Goal::Rest);
            follower.follow(&mut screen).await
        }
        Course::Wait { plan, goal } => {
            let mut follower = Follower::new(way, link, &plan, goal);
            follower.events().await?;
            let rows = follower.link().await?.ask(said).await?;
            screen.say(&shown(statement, &rows))?;
            follower.follow(&mut screen).await
        }
        Course::Show => {
            let rows = link.ask(said).await?;
            let text = shown(statement, &rows);
            if !text.is_empty() {
                screen.say(&text)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// An answer as people read it.
fn shown(statement: &Statement, rows: &[impl Row]) -> String {
    let lines = |line: &dyn Fn(&_) -> String| rows.iter().map(line).collect::<Vec<_>>().join("\n");
    match statement {
        Statement::Plan { .. } | Statement::Show(_) => {
            lines(&|row| page::plain(row.text("page").unwrap_or_default()))
        }
        Statement::Status(None) if rows.is_empty() => "there are no plans".to_owned(),
        Statement::Status(None) => plans(rows),
        Statement::Status(Some(_)) => {
            page::page(&reading::status(rows), &Readings::default(), Extent::All)
        }
        Statement::Events(_) => lines(&|row| page::event(&Event::of(row))),
        Statement::Command { .. } => lines(&|row| {
            let text = |column| row.text(column).unwrap_or_default();
            page::plain(&format!("{}: {}", text("plan"), text("phase")))
        }),
    }
}

fn plans(rows: &[impl Row]) -> String {
    const NAMES: [&str; 10] = [
        "plan", "database", "phase", "pace", "rows", "percent", "lag", "log kept", "driver", "note",
    ];
    let cells = |row: &_| {
        let text = |column| page::plain(Row::text(row, column).unwrap_or_default());
        let number = |column| Row::number(row, column);
        let percent = number("percent").map(|percent| format!("{percent}%"));
        vec![
            text("plan"),
            text("database"),
            text("phase"),
            text("pace"),
            page::counted(number("copied_rows")),
            percent.unwrap_or_default(),
            page::sized(number("lag_bytes")),
            page::sized(number("retained_bytes")),
            text("driver"),
            text("note"),
        ]
    };
    page::columns(&NAMES, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// Looks at a plan again and again, and comes back when the connection is lost.
struct Follower<'a> {
    way: &'a Way,
    link: Option<Link>,
    plan: String,
    goal: Goal,
    /// Events that have been seen, and whether they are news.
    seen: Vec<Event>,
    news: Vec<Event>,
    readings: Readings,
    away_since: Option<Instant>,
}

impl<'a> Follower<'a> {
    fn new(way: &'a Way, link: Link, plan: &str, goal: Goal) -> Follower<'a> {
        Follower {
            way,
            link: Some(link),
            plan: quoted(plan),
            goal,
            seen: Vec::new(),
            news: Vec::new(),
            readings: Readings::default(),
            away_since: None,
        }
    }

    async fn follow(mut self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        loop {
            match self.look().await {
                Ok((status, news)) => {
                    self.away_since = None;
                    if let Some(code) = self.tell(screen, &status, news)? {
                        return Ok(code);
                    }
                }
                Err(trouble) => self.bear(trouble, screen)?,
            }
            let pause = match (self.goal, screen.is_terminal()) {
                (Goal::Rest, _) => WATCH,
                _ => WAIT,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The plan now, and what has happened since the last look.
    async fn look(&mut self) -> Result<(PlanStatus, Vec<Event>), Trouble> {
        let news = match self.goal {
            Goal::Rest => Vec::new(),
            _ => self.events().await?,
        };
        let sql = format!("RESHARD STATUS {}", self.plan);
        let rows = self.link().await?.ask(&sql).await?;
        Ok((reading::status(&rows), news))
    }

    /// What has happened since it was last asked.
    async fn events(&mut self) -> Result<Vec<Event>, Trouble> {
        let sql = format!("RESHARD EVENTS {}", self.plan);
        let rows = self.link().await?.ask(&sql).await?;
        let events: Vec<Event> = rows.iter().map(Event::of).collect();
        let mut old = std::mem::take(&mut self.seen);
        let mut news = Vec::new();
        for event in &events {
            match old.iter().position(|one| one == event) {
                Some(place) => drop(old.swap_remove(place)),
                None => news.push(event.clone()),
            }
        }
        self.seen = events;
        Ok(news)
    }

    async fn link(&mut self) -> Result<&Link, Trouble> {
        let link = match self.link.take() {
            Some(link) => link,
            None => self.way.open().await?,
        };
        Ok(self.link.insert(link))
    }

    fn tell(
        &mut self,
        screen: &mut Screen,
        status: &PlanStatus,
        news: Vec<Event>,
    ) -> io::Result<Option<ExitCode>> {
        for event in &news {
            screen.say(&page::event(event))?;
        }
        self.news.extend(news);
        self.readings.take(status);
        let verdict = self.goal.verdict(status, &self.news);
        if self.goal == Goal::Rest || screen.is_terminal() {
            let page = page::page(status, &self.readings, Extent::Tables(TABLES));
            screen.draw(&page, || page::line(status))?;
        }
        Ok(match verdict {
            None => None,
            Some(Verdict::Reached(_)) if self.goal == Goal::Rest => Some(ExitCode::SUCCESS),
            Some(Verdict::Reached(what)) => {
                screen.say(&what)?;
                Some(ExitCode::SUCCESS)
            }
            Some(Verdict::Failed(why)) => {
                eprintln!("error: {why}");
                Some(ExitCode::FAILURE)
            }
        })
    }

    /// A proxy may be started again meanwhile; what it refuses, it refuses for good.
    fn bear(&mut self, trouble: Trouble, screen: &mut Screen) -> Result<(), Failure> {
        self.link = None;
        if trouble.kind == Kind::Refused {
            return Err(trouble.into());
        }
        match self.away_since {
            None => {
                self.away_since = Some(Instant::now());
                screen.say(&format!("{trouble}; it is tried again"))?;
            }
            Some(since) if since.elapsed() > ABSENCE => return Err(trouble.into()),
            Some(_) => {}
        }
        Ok(())
    }
}

/// As the language has names, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
