//! Who a client is: the rules, its certificate, what is stored of its password, and the proof.

use std::rc::Rc;
use std::sync::Arc;

use crate::config::{Asking, CertificateDemand, ClientTls, Line, Method, Origin, Password, User};
use crate::session::shared::Snapshot;
use crate::topology::RoleError;
use crate::wire::auth::{self, AuthError, Challenge, Credential, Stored};
use crate::wire::startup::Startup;
use crate::wire::stream::Peer;

/// Why a client is not let in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("no pg_hba.conf entry for {0}")]
    NoRule(String),
    #[error("pg_hba.conf rejects connection for {0}")]
    Rejected(String),
    #[error("connection requires a valid client certificate")]
    CertificateMissing,
    #[error("certificate authentication failed for user \"{0}\"")]
    CertificateName(String),
    #[error("the password of user \"{0}\" cannot be looked up")]
    Lookup(String, #[source] RoleError),
    /// The client has been told.
    #[error(transparent)]
    Proof(#[from] AuthError),
}

impl LoginError {
    /// What the client is to be told with the message; `None` when it has been, or is gone.
    pub fn sqlstate(&self) -> Option<&'static str> {
        match self {
            LoginError::NoRule(_)
            | LoginError::Rejected(_)
            | LoginError::CertificateMissing
            | LoginError::CertificateName(_) => Some("28000"),
            LoginError::Lookup(..) => Some("08001"),
            LoginError::Proof(_) => None,
        }
    }
}

/// A user that has proven who it is.
pub struct Proven {
    pub user: Rc<User>,
    /// What servers can be shown of it, as far as its login told.
    pub credential: Option<Credential>,
}

/// What is stored of a user, and where it was found.
enum Found<'a> {
    Configured(&'a User, &'a Stored),
    /// A configured user whose password was looked up.
    Completed(&'a User, Arc<Stored>),
    LookedUp(Arc<Stored>),
    Nobody,
}

impl Found<'_> {
    fn stored(&self) -> Option<&Stored> {
        match self {
            Found::Configured(_, stored) => Some(stored),
            Found::Completed(_, stored) | Found::LookedUp(stored) => Some(stored),
            Found::Nobody => None,
        }
    }

    fn method(&self) -> Option<Method> {
        match self {
            Found::Configured(user, stored) => Some(user.auth.unwrap_or(stored.method())),
            Found::Completed(user, stored) => Some(user.auth.unwrap_or(stored.method())),
            Found::LookedUp(stored) => Some(stored.method()),
            Found::Nobody => None,
        }
    }
}

/// Lets a client prove who it is. The caller bounds the time.
pub async fn prove(startup: &mut Startup, snapshot: &Snapshot) -> Result<Proven, LoginError> {
    let ruled = ruled(startup, snapshot)?;
    let found = find(&startup.user, ruled, snapshot).await?;
    let roles = snapshot.roles.as_deref();
    let likeness = roles
        .and_then(|roles| roles.likeness())
        .unwrap_or(snapshot.auth.stranger());
    let method = ruled
        .or_else(|| found.method())
        .unwrap_or(likeness.method());
    if method == Method::Certificate {
        // Without rules nobody has asked for it yet.
        check_certificate(startup, CertificateDemand::Named)?;
    }
    let challenge = Challenge {
        method,
        name: &startup.user,
        stored: found.stored(),
        likeness,
    };
    let proven = auth::prove(&mut startup.stream, challenge, &snapshot.auth).await;
    if let (Err(AuthError::Failed(_)), Some(roles)) = (&proven, roles) {
        roles.doubt(&startup.user);
    }
    let credential = proven?;
    let user = match found {
        Found::Configured(user, _) | Found::Completed(user, _) => user.clone(),
        Found::LookedUp(_) => User::named(&startup.user, Line(0), Password::Absent),
        // Nobody has proven to be nobody.
        Found::Nobody => return Err(AuthError::Failed(startup.user.clone()).into()),
    };
    Ok(Proven {
        user: Rc::new(user),
        credential,
    })
}

/// The method that the rules want, if there are rules; the certificate has been looked at as far as they ask for one.
fn ruled(startup: &Startup, snapshot: &Snapshot) -> Result<Option<Method>, LoginError> {
    let origin = match startup.stream.peer() {
        Peer::Unix { .. } => Some(Origin::Local),
        Peer::Tcp(address) if startup.tls => Some(Origin::Tls(address.ip())),
        Peer::Tcp(address) => Some(Origin::Plain(address.ip())),
        Peer::Unknown => None,
    };
    let origin = origin.ok_or(AuthError::Closed)?;
    let demanded = match &snapshot.config.listen.tls {
        // Unix sockets know no certificates.
        _ if origin == Origin::Local => CertificateDemand::Nothing,
        ClientTls::Disable => CertificateDemand::Nothing,
        ClientTls::Prefer(offer) | ClientTls::Require(offer) => offer.demand,
    };
    let Some(rules) = &snapshot.config.authentication.rules else {
        check_certificate(startup, demanded)?;
        return Ok(None);
    };
    let asking = Asking {
        user: &startup.user,
        database: &startup.database,
        origin,
    };
    let rule = rules
        .first(&asking)
        .ok_or_else(|| LoginError::NoRule(described(&asking)))?;
    if rule.method == Method::Reject {
        return Err(LoginError::Rejected(described(&asking)));
    }
    check_certificate(startup, demanded.max(rule.certificate))?;
    Ok(Some(rule.method))
}

/// In the words of Postgres.
fn described(asking: &Asking<'_>) -> String {
    let (host, encryption) = match asking.origin {
        Origin::Local => ("[local]".to_owned(), "no encryption"),
        Origin::Plain(address) => (address.to_canonical().to_string(), "no encryption"),
        Origin::Tls(address) => (address.to_canonical().to_string(), "SSL encryption"),
    };
    format!(
        "host \"{host}\", user \"{}\", database \"{}\", {encryption}",
        asking.user, asking.database
    )
}

fn check_certificate(startup: &Startup, demand: CertificateDemand) -> Result<(), LoginError> {
    match (demand, &startup.certificate) {
        (CertificateDemand::Nothing, _) | (CertificateDemand::Valid, Some(_)) => Ok(()),
        (CertificateDemand::Valid | CertificateDemand::Named, None) => {
            Err(LoginError::CertificateMissing)
        }
        (CertificateDemand::Named, Some(certificate)) => {
            match certificate.common_name.as_deref() == Some(&startup.user) {
                true => Ok(()),
                false => Err(LoginError::CertificateName(startup.user.clone())),
            }
        }
    }
}

/// What is stored of the user: in the configuration, or where it says that users are looked up.
async fn find<'a>(
    name: &str,
    ruled: Option<Method>,
    snapshot: &'a Snapshot,
) -> Result<Found<'a>, LoginError> {
    let configured = snapshot.user(name);
    let method = ruled.or(configured.and_then(|(user, _)| user.auth));
    let asks_for_none = matches!(method, Some(Method::Trust | Method::Certificate));
    let roles = match (&snapshot.roles, configured) {
        (None, Some((user, stored))) => return Ok(Found::Configured(user, stored)),
        (None, None) => return Ok(Found::Nobody),
        (Some(_), Some((user, stored))) if asks_for_none || !matches!(stored, Stored::Nothing) => {
            return Ok(Found::Configured(user, stored));
        }
        (Some(roles), _) => roles,
    };
    let found = roles.find(name).await;
    let found = found.map_err(|error| LoginError::Lookup(name.to_owned(), error))?;
    Ok(match (configured, found) {
        (Some((user, _)), Some(stored)) => Found::Completed(user, stored),
        (Some((user, stored)), None) => Found::Configured(user, stored),
        (None, Some(stored)) => Found::LookedUp(stored),
        (None, None) => Found::Nobody,
    })
}
