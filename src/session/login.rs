//! From a client that has proven who it is to a session that is ready for its first statement.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::anew::Attempts;
use super::card::{Card, Identity};
use super::causal::Causal;
use super::control::bad_token;
use super::effects::literal;
use super::extended::Batch;
use super::link::{Link, Phase};
use super::own_settings::{self, OwnSetting, OwnSettings, ReadDefaults, ReadPolicy};
use super::parse_scope::Given;
use super::prepared::Behind;
use super::reads::Reads;
use super::respond::{End, Fault, Loss};
use super::search_path;
use super::shared::{Admission, ClientPlace, UserAdmission};
use super::transaction::Transaction;
use super::worker::{Database, Worker, add};
use super::{Client, Session};
use crate::backend::connect::ConnectError;
use crate::backend::pool::{CheckoutError, Lent, Seat, Waiter};
use crate::backend::prepared::Room;
use crate::backend::settings::{Reported, Settings};
use crate::config::{PoolMode, User};
use crate::sharding::ShardId;
use crate::topology::choice;
use crate::wire::answer::{self, Report, Severity, TransactionStatus};
use crate::wire::auth::Credential;
use crate::wire::frame::HEADER;
use crate::wire::startup::Startup;
use crate::wire::stream::Peer;

/// Bytes of a name that Postgres keeps: NAMEDATALEN less its NUL.
const LONGEST_NAME: usize = 63;
/// How long a shard may take to say what it says to those who log in, while there are others to be asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// A client that has proven to be `user`.
pub struct Arrival {
    pub startup: Startup,
    pub user: Rc<User>,
    /// What servers can be shown of it, as far as its login told.
    pub credential: Option<Credential>,
    pub admission: (Admission, UserAdmission),
}

/// Begins a session, or tells the client why there is none.
pub async fn begin(worker: &Rc<Worker>, arrival: Arrival) -> Option<Box<Session>> {
    let Arrival {
        startup,
        user,
        credential,
        admission,
    } = arrival;
    let (user, presence) = worker.welcome(user, credential);
    let Startup {
        stream,
        database: name,
        parameters,
        protocol_minor,
        tls,
        ..
    } = startup;
    let mut client = Client::new(stream);
    let Opening {
        database,
        mode,
        greeting,
        own,
        own_settings,
        causal,
    } = match open(worker, &name, &user, &parameters).await {
        Ok(opening) => opening,
        Err(fault) => {
            End::Login(fault).write(&mut client.outbox);
            let _ = std::future::poll_fn(|cx| client.poll_flush(cx)).await;
            return None;
        }
    };
    let now = Instant::now();
    let card = Card::new(
        Identity {
            user: Rc::clone(&user),
            database: database.name.clone(),
            address: client.stream().peer().to_string().into_boxed_str(),
            tls,
        },
        now,
    );
    *card.application_name.borrow_mut() = Box::from(greeting.application_name);
    let secret: [u8; 32] = rand::random();
    let secret = if protocol_minor >= 2 {
        &secret[..]
    } else {
        &secret[..4]
    };
    let place = ClientPlace {
        worker: worker.index,
        card: worker.cards.insert(Rc::clone(&card)),
    };
    let process_id = own.as_ref().map(|lent| lent.canceller.process_id);
    card.process_id
        .set(worker.shared.enroll(place, secret, process_id));

    answer::authentication_ok(&mut client.outbox);
    if let Some(notice) = &greeting.notice {
        let report = Report::new(Severity::Notice, "42622", notice);
        answer::notice_response(&mut client.outbox, &report);
    }
    for (name, value) in greeting.reported.iter() {
        answer::parameter_status(&mut client.outbox, name, value);
    }
    answer::backend_key_data(&mut client.outbox, card.process_id.get(), secret);
    answer::ready_for_query(&mut client.outbox, TransactionStatus::Idle);

    add(&database.counters.logins, 1);
    if own.is_some() {
        add(&database.counters.assignments, 1);
    }
    let config = worker.config();
    let own = own.map(|lent| Link::new(lent, Phase::Working, mode));
    let server_search_path = database.server_search_path(&user.name);
    let scope = database.parse_scopes.borrow_mut().of(&Given {
        user: &user.server_user,
        server_search_path: server_search_path.as_deref(),
        settings: &greeting.settings,
        local: &Settings::default(),
    });
    let defaults = ReadDefaults::of(&config, &user, &database.name);
    let read_policy = ReadPolicy::of(&own_settings, &defaults, mode);
    let address = match client.stream().peer() {
        Peer::Tcp(address) => Some(address.ip()),
        Peer::Unix { .. } | Peer::Unknown => None,
    };
    let reads = Reads::new(choice::client_hash(address), read_policy);
    let session = Box::new(Session {
        worker: Rc::clone(worker),
        mode,
        server_search_path,
        database,
        user,
        card,
        client,
        link: None,
        kept: own.into_iter().collect(),
        party: Vec::new(),
        copy_in: None,
        opener: Default::default(),
        opened: None,
        pools: Vec::new(),
        transaction: Transaction::Idle,
        batch: Batch::default(),
        decided: None,
        anew: None,
        attempts: Attempts::default(),
        waiter: Waiter::new(now),
        place: None,
        granted: None,
        counted_bytes: (0, 0),
        failed: false,
        last_words: None,
        events: Vec::new(),
        effects: Vec::new(),
        literals: Vec::new(),
        settled: greeting.settings.clone(),
        startup_settings: greeting.settings.clone(),
        settings: greeting.settings,
        savepoints: Vec::new(),
        search_path: scope.search_path.clone(),
        scope,
        reported: greeting.reported,
        reported_before: None,
        read_policy,
        configured: worker.configured.get(),
        reads,
        own_settings,
        causal,
        prepared: Default::default(),
        resolved: None,
        behind: Behind::Nothing,
        asking: Default::default(),
        sequences: Default::default(),
        taken: None,
        looked: None,
        untold: None,
        room: Room {
            statements: config.pool.max_prepared_statements,
            bytes: usize::try_from(config.pool.max_prepared_size.0).unwrap_or(usize::MAX),
        },
        unnamed: None,
        copy_rest: 0,
        held_bytes: 0,
        max_message_size: usize::try_from(config.limits.max_message_size.0).unwrap_or(usize::MAX),
        max_prepared_statements: config.limits.max_prepared_statements,
        outcome: None,
        schema_changed: false,
        made_schema: false,
        portals: Vec::new(),
        local: Settings::default(),
        channels: Default::default(),
        catalog_follows: None,
        commit_follows: None,
        unit_began: now,
        waiting_since: now,
        transaction_began: None,
        _admission: admission,
        _presence: presence,
    });
    Some(session)
}

/// What is known and held before the client hears of its success.
struct Opening {
    database: Rc<Database>,
    mode: PoolMode,
    greeting: Greeting,
    /// The server connection of a session that keeps one and can have no other.
    own: Option<Lent>,
    own_settings: OwnSettings,
    causal: Causal,
}

async fn open(
    worker: &Rc<Worker>,
    name: &str,
    user: &User,
    parameters: &[(String, String)],
) -> Result<Opening, Fault> {
    let config = worker.config();
    let configured = config.databases.iter().find(|known| *known.name == *name);
    let (Some(database), Some(configured)) = (worker.database(name), configured) else {
        return Err(Fault::Postgres {
            sqlstate: "3D000",
            message: format!("database \"{name}\" does not exist"),
        });
    };
    let mode = config.pool_of(user, configured).mode;
    let (own_settings, causal) = own_settings(&database, parameters)?;
    let greeting = greet(worker, &database, user, parameters).await?;
    let (shards, home) = {
        let catalog = database.catalog();
        (catalog.shards.len(), catalog.home)
    };
    // Then the process id that the client is told is its server's, as applications that look themselves up there expect.
    let own = if mode == PoolMode::Session && shards == 1 {
        let pool = worker.pool(&database, user, home, Seat::Primary);
        let pool = pool.ok_or_else(reconfigured)?;
        Some(pool.checkout(0).await.map_err(Fault::Checkout)?)
    } else {
        None
    };
    Ok(Opening {
        database,
        mode,
        greeting,
        own,
        own_settings,
        causal,
    })
}

/// The database went away while a client logged in.
fn reconfigured() -> Fault {
    Fault::Postgres {
        sqlstate: "57P01",
        message: "the configuration has changed; connect again".to_owned(),
    }
}

/// What a session begins with.
struct Greeting {
    settings: Settings,
    reported: Reported,
    application_name: String,
    /// What Postgres says of a name that is too long.
    notice: Option<String>,
}

/// What a server says to this user with these settings: remembered, or asked.
async fn greet(
    worker: &Rc<Worker>,
    database: &Rc<Database>,
    user: &User,
    parameters: &[(String, String)],
) -> Result<Greeting, Fault> {
    let settings = settings(parameters);
    let named = parameters
        .iter()
        .find(|(name, _)| name == "application_name");
    let application_name = named.map_or("", |(_, value)| value.as_str());
    let longest = (0..=LONGEST_NAME.min(application_name.len()))
        .rfind(|end| application_name.is_char_boundary(*end))
        .unwrap_or(0);
    let kept = &application_name[..longest];
    let notice = (kept != application_name)
        .then(|| format!("identifier \"{application_name}\" will be truncated to \"{kept}\""));
    let application_name = kept.to_owned();
    if let Some((settings, reported)) = database.greeting(&user.name, &settings) {
        return Ok(Greeting {
            settings,
            reported,
            application_name,
            notice,
        });
    }
    let reported = ask(worker, database, user, &settings).await?;
    database.remember_greeting(&user.name, &settings, &reported);
    Ok(Greeting {
        settings,
        reported,
        application_name,
        notice,
    })
}

/// What the home shard's primary says to this user with these settings. While it cannot be asked, another shard's, as all are set up alike: who has to do
/// with other shards does not wait for that one.
async fn ask(
    worker: &Rc<Worker>,
    database: &Rc<Database>,
    user: &User,
    settings: &Settings,
) -> Result<Reported, Fault> {
    let (shards, home) = {
        let catalog = database.catalog();
        (catalog.shards.len(), catalog.home)
    };
    let others = (0..).map(ShardId).take(shards);
    let others = others.filter(|shard| *shard != home);
    let all = std::iter::once(home).chain(others);
    for shard in all.filter(|shard| shards > 1 && worker.has_primary(*shard)) {
        let asked = ask_at(shard, worker, database, user, settings);
        match worker.shared.timers.timeout(PATIENCE, asked).await {
            Ok(Ok(reported)) => return Ok(reported),
            Ok(Err(fault)) if shard == home && !is_away(&fault) => return Err(fault),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    match ask_at(home, worker, database, user, settings).await {
        // Nothing of the client's went with that server: whoever is the primary now is asked.
        Err(Fault::Broken(_)) => ask_at(home, worker, database, user, settings).await,
        asked => asked,
    }
}

/// The shard has said nothing at all.
fn is_away(fault: &Fault) -> bool {
    match fault {
        Fault::Broken(_) => true,
        Fault::Checkout(CheckoutError::Connect(_, error)) => matches!(
            **error,
            ConnectError::Io(_) | ConnectError::Timeout(_) | ConnectError::Standby
        ),
        Fault::Checkout(CheckoutError::Timeout(_) | CheckoutError::NoPrimary(..)) => true,
        _ => false,
    }
}

async fn ask_at(
    shard: ShardId,
    worker: &Rc<Worker>,
    database: &Rc<Database>,
    user: &User,
    settings: &Settings,
) -> Result<Reported, Fault> {
    let pool = worker.pool(database, user, shard, Seat::Primary);
    let pool = pool.ok_or_else(reconfigured)?;
    let mut lent = pool.checkout(0).await.map_err(Fault::Checkout)?;
    let broken = |error| Fault::Broken(Loss::before(error));
    if database.server_search_path(&user.name).is_none() && lent.settings.is_default() {
        let mut answer = Vec::new();
        lent.capture("SHOW search_path", &worker.scratch, &mut answer)
            .await
            .map_err(broken)?;
        if let Some(path) = first_value(&answer) {
            database.remember_search_path(&user.name, path);
        }
    }
    if let Some(sql) = lent.settings.statements_to(settings) {
        if let Err(body) = lent.run(&sql, &worker.scratch).await.map_err(broken)? {
            return Err(Fault::Server(body));
        }
        lent.settings = settings.clone();
    }
    let reported = lent.reported.clone();
    lent.release(Instant::now());
    Ok(reported)
}

/// The first value of the first row in a server's answer.
pub(super) fn first_value(answer: &[u8]) -> Option<&str> {
    let mut rest = answer;
    while let Some((header, body)) = rest.split_at_checked(HEADER) {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let (body, after) = body.split_at_checked(length.checked_sub(4)?)?;
        if header[0] == b'D' {
            let (length, value) = body.get(2..)?.split_at_checked(4)?;
            let length = usize::try_from(i32::from_be_bytes(length.try_into().ok()?)).ok()?;
            return std::str::from_utf8(value.get(..length)?).ok();
        }
        rest = after;
    }
    None
}

/// The settings in a startup packet.
fn settings(parameters: &[(String, String)]) -> Settings {
    let mut settings = Settings::default();
    let mut set = |name: &str, value: &str| {
        let name = name.to_ascii_lowercase();
        if name == "search_path" {
            // A list: each name is quoted by itself.
            let schemas = search_path::parse(value, "$user");
            settings.set(&name, &search_path::as_source(&schemas));
        } else {
            settings.set(&name, &literal(value));
        }
    };
    for (name, value) in parameters {
        if !own_settings::is_reserved(&name.to_ascii_lowercase()) {
            set(name, value);
        }
    }
    settings
}

/// Trunkline's own settings in a startup packet.
fn own_settings(
    database: &Database,
    parameters: &[(String, String)],
) -> Result<(OwnSettings, Causal), Fault> {
    let (mut settings, mut causal) = (OwnSettings::default(), Causal::default());
    for (name, value) in parameters {
        let Some(setting) = own_settings::known(&name.to_ascii_lowercase())? else {
            continue;
        };
        let catalog = database.catalog();
        match setting {
            OwnSetting::Token => causal
                .adopt(value, &catalog.shards, Instant::now())
                .map_err(|why| bad_token(value, why))?,
            setting => settings.set_at_startup(setting, value, &catalog)?,
        }
    }
    Ok((settings, causal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_is_found_behind_its_description() {
        let answer = b"T\0\0\0\x06\0\0D\0\0\0\x0d\0\x01\0\0\0\x03abcC\0\0\0\x04";
        assert_eq!(first_value(answer), Some("abc"));
        assert_eq!(first_value(b"D\0\0\0\xff"), None);
    }
}
