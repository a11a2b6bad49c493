//! The way to a running proxy's admin database.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::passfile::{self, Wanted};
use crate::config::{
    self, ADMIN_DATABASE, Config, Duty, Line, Node, Password, Secret, ServerTls, SslMode,
};
use crate::topology::NodeError;
use crate::topology::connect::{Login, connect};
use crate::wire::tls::ServerEncryption;

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where Trunkline listens when its configuration does not say otherwise.
const PORT: u16 = 6432;

/// What servers show for these connections.
const APPLICATION_NAME: &str = "trunkline reshard";

#[derive(Debug, Args)]
pub struct Options {
    /// Where a proxy listens: a name, an address, or the directory of its Unix socket. Default: PGHOST, else 127.0.0.1.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Its port. Default: PGPORT, else 6432.
    #[arg(short, long, value_name = "PORT")]
    port: Option<u16>,
    /// A user with admin = true. Default: PGUSER, else who runs this command. The password is taken from PGPASSWORD, else from .pgpass.
    #[arg(short = 'U', long, value_name = "USER")]
    user: Option<String>,
    /// TLS: disable, prefer, require, verify-ca or verify-full. Default: PGSSLMODE, else prefer.
    #[arg(long, value_name = "MODE", value_parser = ssl_mode)]
    sslmode: Option<SslMode>,
    /// The authorities that verify-ca and verify-full trust, as PEM. Default: PGSSLROOTCERT.
    #[arg(long, value_name = "FILE")]
    sslrootcert: Option<PathBuf>,
    /// A proxy's configuration file: what is not said above is taken from it, the password of its admin user too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn ssl_mode(word: &str) -> Result<SslMode, String> {
    match word {
        "disable" => Ok(SslMode::Disable),
        // libpq's allow tries without TLS first, which is no better than this for what it protects.
        "allow" | "prefer" => Ok(SslMode::Prefer),
        "require" => Ok(SslMode::Require),
        "verify-ca" => Ok(SslMode::VerifyCa),
        "verify-full" => Ok(SslMode::VerifyFull),
        _ => Err("it is one of disable, prefer, require, verify-ca and verify-full".to_owned()),
    }
}

/// Why a proxy does not do what it is asked for, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Trouble {
    pub message: String,
    pub hint: Option<String>,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The proxy has not answered: asking again may help.
    Away,
    /// It has said no.
    Refused,
}

/// Where the proxy is, and as whom to come.
pub struct Way {
    node: Node,
    login: Login,
    encryption: ServerEncryption,
}

impl Way {
    /// From the options, the environment and the configuration file, in this order.
    pub fn find(options: &Options) -> Result<Way, Trouble> {
        let config = options.config.as_deref().map(config::load).transpose();
        let config = config.map_err(|problems| {
            let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
            refused(shown.join("\n"), None)
        })?;
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let listening = config.as_ref().and_then(listening);
        // Of a file that was named, nothing is overruled by the environment.
        let from = |name: &str| match config {
            Some(_) => None,
            None => variable(name),
        };
        let host = options.host.clone().or_else(|| from("PGHOST"));
        let host = host.or_else(|| listening.as_ref().map(|(host, _)| host.clone()));
        let host = host.unwrap_or_else(|| "127.0.0.1".to_owned());
        let port = match (options.port, from("PGPORT"), &listening) {
            (Some(port), ..) => port,
            (None, Some(port), _) => port
                .parse()
                .map_err(|_| refused(format!("PGPORT is no port: {port}"), None))?,
            (None, None, Some((_, port))) => *port,
            (None, None, None) => PORT,
        };
        let user = options.user.clone().or_else(|| from("PGUSER"));
        let user = match (user, &config) {
            (Some(user), _) => user,
            (None, Some(config)) => admin(config)?,
            (None, None) => whoami()?,
        };
        let wanted = Wanted {
            host: &host,
            port,
            database: ADMIN_DATABASE,
            user: &user,
        };
        let password = variable("PGPASSWORD")
            .or_else(|| config.as_ref().and_then(|config| configured(config, &user)))
            .or_else(|| passfile::password(&passfile::path()?, &wanted));
        let mode = match (options.sslmode, variable("PGSSLMODE")) {
            (Some(mode), _) => mode,
            (None, Some(word)) => {
                ssl_mode(&word).map_err(|why| refused(format!("PGSSLMODE: {why}"), None))?
            }
            (None, None) => SslMode::Prefer,
        };
        let root_certificate = options
            .sslrootcert
            .clone()
            .or_else(|| variable("PGSSLROOTCERT").map(PathBuf::from));
        let encryption = ServerEncryption::load(&ServerTls {
            mode,
            root_certificate,
        });
        Ok(Way {
            encryption: encryption.map_err(|error| refused(error.to_string(), None))?,
            login: Login {
                database: ADMIN_DATABASE.to_owned(),
                user,
                password: password.map(Secret),
            },
            node: Node {
                line: Line(0),
                host,
                port,
                database: None,
                weight: 1,
                zone: None,
                duty: Duty::Regular,
                patroni: None,
            },
        })
    }

    /// Connects and logs in.
    pub async fn open(&self) -> Result<Link, Trouble> {
        let dial = connect(&self.login, APPLICATION_NAME, &self.node, &self.encryption);
        match tokio::time::timeout(PATIENCE, dial).await {
            Ok(Ok((client, driver))) => Ok(Link {
                client,
                driver: tokio::spawn(async move { drop(driver.await) }),
            }),
            Ok(Err(error)) => Err(self.not_opened(&error)),
            Err(_) => Err(Trouble {
                kind: Kind::Away,
                ..self.unreachable(&format!("no answer within {PATIENCE:?}"))
            }),
        }
    }

    fn place(&self) -> String {
        let Node { host, port, .. } = &self.node;
        match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        }
    }

    fn unreachable(&self, why: &str) -> Trouble {
        Trouble {
            message: format!("Trunkline cannot be reached at {}: {why}", self.place()),
            hint: Some(
                "Is it running there (trunkline serve)? --host and --port say where it listens, or --config with its file."
                    .to_owned(),
            ),
            kind: Kind::Away,
        }
    }

    fn not_opened(&self, error: &tokio_postgres::Error) -> Trouble {
        let (place, user) = (self.place(), &self.login.user);
        let Some(said) = error.as_db_error() else {
            let why = NodeError::described(error);
            // Of the client's own troubles, this one is for whoever calls.
            return match why.contains("password missing") {
                true => refused(
                    format!("{place} asks for the password of {user}"),
                    Some(PASSWORD),
                ),
                false => self.unreachable(&why),
            };
        };
        let code = said.code().code();
        let message = format!(
            "{place} does not let {user} in: {} ({code})",
            said.message()
        );
        match code {
            "42501" => refused(
                message,
                Some("Give the user admin = true in [[users]], or name another one with --user."),
            ),
            "28P01" => refused(message, Some(PASSWORD)),
            "28000" => refused(
                message,
                Some(
                    "--user names an admin user; the rules of the configuration say how it must log in.",
                ),
            ),
            "3D000" => refused(
                message,
                Some(
                    "A Postgres server seems to listen there and not Trunkline: --host and --port say where Trunkline listens.",
                ),
            ),
            _ if code.starts_with("57P") || code.starts_with("53") => Trouble {
                message,
                hint: None,
                kind: Kind::Away,
            },
            _ => refused(message, None),
        }
    }
}

const PASSWORD: &str = "The password is taken from PGPASSWORD, from the file of --config, or from .pgpass (for the database trunkline).";

fn refused(message: String, hint: Option<&str>) -> Trouble {
    Trouble {
        message,
        hint: hint.map(str::to_owned),
        kind: Kind::Refused,
    }
}

/// The first address that the proxy listens on, as somebody on its machine reaches it.
fn listening(config: &Config) -> Option<(String, u16)> {
    let address = config.listen.addresses.first()?;
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(ip) if ip.is_unspecified() => "::1".to_owned(),
        ip => ip.to_string(),
    };
    Some((host, address.port()))
}

fn admin(config: &Config) -> Result<String, Trouble> {
    let admin = config.users.iter().find(|user| user.admin);
    admin.map(|user| user.name.clone()).ok_or_else(|| {
        refused(
            "the configuration has no user that may use the admin database".to_owned(),
            Some("Give one admin = true in [[users]], and reload."),
        )
    })
}

fn configured(config: &Config, user: &str) -> Option<String> {
    let user = config.users.iter().find(|one| one.name == user)?;
    match &user.password {
        Password::Plain(Secret(password)) => Some(password.clone()),
        Password::Absent | Password::Md5(_) | Password::Verifier(_) => None,
    }
}

/// The system's name of who runs this.
fn whoami() -> Result<String, Trouble> {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective());
    user.ok().flatten().map(|user| user.name).ok_or_else(|| {
        refused(
            "--user is needed: the system knows no name for who runs this".to_owned(),
            None,
        )
    })
}

/// A connection to the admin database.
pub struct Link {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Link {
    /// Asks, and gives the rows.
    pub async fn ask(&self, sql: &str) -> Result<Vec<SimpleQueryRow>, Trouble> {
        let answered = self.client.simple_query(sql).await;
        let messages = answered.map_err(|error| not_done(&error))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.collect())
    }
}

fn not_done(error: &tokio_postgres::Error) -> Trouble {
    let Some(said) = error.as_db_error() else {
        return Trouble {
            message: format!("the connection was lost: {}", NodeError::described(error)),
            hint: Some("Plans go on without it: reshard status says how far they are.".to_owned()),
            kind: Kind::Away,
        };
    };
    let code = said.code().code();
    Trouble {
        message: format!("{} ({code})", said.message()),
        hint: said.hint().map(str::to_owned),
        kind: match code {
            "57P01" => Kind::Away,
            _ => Kind::Refused,
        },
    }
}
