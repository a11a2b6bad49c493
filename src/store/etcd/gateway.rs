//! Questions to the cluster: which endpoint is asked, what is asked again at another one, and who we are.
//!
//! The endpoint that answered last is asked first. What only reads, or does no harm when it is done twice, goes on to the next endpoint when
//! one does not answer within its share of the time. What writes goes on only while nothing of it was sent; after that
//! the answer is waited for, and without one nobody knows whether it was done, which the error says.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::messages::{Answer, Authenticated, Fault, Header};
use crate::config::{self, Endpoint, EtcdLogin};
use crate::http::{Broken, Connection, Dialer, Lines, request, whole};
use crate::store::{Outcome, StoreError};

/// The most bytes of one answer.
const LARGEST: usize = 64 << 20;

/// The most connections that wait for the next question.
const MOST_IDLE: usize = 4;

/// One that was idle for longer may be dead without a sign: firewalls forget.
const LONGEST_IDLE: Duration = Duration::from_secs(10);

/// Codes of gRPC (`google/rpc/code.proto`).
const UNAUTHENTICATED: i64 = 16;
/// Those with which etcd says no before it does anything, as any member would: INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED,
/// RESOURCE_EXHAUSTED, FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED, UNAUTHENTICATED.
const REFUSALS: [i64; 8] = [3, 5, 7, 8, 9, 11, 12, UNAUTHENTICATED];

/// Whether a question may be asked again after it may have been heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    Safe,
    Never,
}

impl Repeat {
    /// What is known of a question that was heard and not answered.
    fn outcome(self) -> Outcome {
        match self {
            Repeat::Safe => Outcome::NotDone,
            Repeat::Never => Outcome::Unknown,
        }
    }
}

/// The way to a cluster.
pub(super) struct Gateway {
    endpoints: Vec<Endpoint>,
    dialer: Dialer,
    login: Option<EtcdLogin>,
    timeout: Duration,
    /// The endpoint that answered last.
    last: AtomicUsize,
    /// By endpoint, and since when.
    idle: Mutex<Vec<(usize, Instant, Connection)>>,
    /// What etcd gave for name and password.
    token: Mutex<Option<String>>,
    /// The id of the cluster; 0: not known yet.
    cluster: AtomicU64,
    /// The greatest revision that an answer had.
    revision: AtomicU64,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

/// Why one endpoint gave no answer that can be used.
enum Failure {
    /// It did not get the question.
    NotAsked(StoreError),
    /// It may have got it.
    Asked(StoreError),
    /// It said no, and so would the others.
    Final(StoreError),
    /// It does not know us any more.
    Stranger(StoreError),
}

impl Gateway {
    pub fn new(config: &config::Etcd, timeout: Duration) -> Result<Gateway, StoreError> {
        Ok(Gateway {
            endpoints: config.endpoints.clone(),
            dialer: Dialer::new(config.tls.as_ref()).map_err(StoreError::Tls)?,
            login: config.login.clone(),
            timeout,
            last: AtomicUsize::new(0),
            idle: Mutex::default(),
            token: Mutex::default(),
            cluster: AtomicU64::new(0),
            revision: AtomicU64::new(0),
        })
    }

    /// The endpoint that answered last, for messages.
    pub fn place(&self) -> String {
        self.name(self.last.load(Ordering::Relaxed))
    }

    fn name(&self, index: usize) -> String {
        let endpoint = &self.endpoints[index];
        format!("{}:{}", endpoint.host, endpoint.port)
    }

    /// One question, one answer.
    pub async fn ask<T: Answer + DeserializeOwned>(
        &self,
        path: &'static str,
        question: &Value,
        repeat: Repeat,
    ) -> Result<T, StoreError> {
        let before = self.revision.load(Ordering::Acquire);
        let question = question.to_string();
        let deadline = Instant::now() + self.timeout;
        let (index, answer) = self
            .known(path, &question, repeat, deadline, Wanted::Whole)
            .await?;
        let nonsense = |reason: String| StoreError::Nonsense {
            place: self.name(index),
            reason,
            outcome: repeat.outcome(),
        };
        let Answered::Whole(answer) = answer else {
            return Err(nonsense("a stream".to_owned()));
        };
        let answer: T =
            serde_json::from_slice(&answer).map_err(|error| nonsense(error.to_string()))?;
        if let Some(header) = answer.header() {
            self.check(header, T::IS_LINEARIZABLE.then_some(before))
                .map_err(nonsense)?;
        }
        Ok(answer)
    }

    /// One question, and lines as they come.
    pub async fn listen(&self, path: &'static str, question: &Value) -> Result<Lines, StoreError> {
        let question = question.to_string();
        let deadline = Instant::now() + self.timeout;
        let (index, answer) = self
            .known(path, &question, Repeat::Safe, deadline, Wanted::Lines)
            .await?;
        match answer {
            Answered::Lines(lines) => Ok(lines),
            Answered::Whole(_) => Err(StoreError::Nonsense {
                place: self.name(index),
                reason: "no stream".to_owned(),
                outcome: Outcome::NotDone,
            }),
        }
    }

    /// An answer of another cluster, or of an older state of this one, would be taken for the truth.
    fn check(&self, header: &Header, not_before: Option<u64>) -> Result<(), String> {
        let known = self.cluster.compare_exchange(
            0,
            header.cluster_id,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if let Err(known) = known
            && known != header.cluster_id
        {
            return Err(format!(
                "it is a member of cluster {:x}, and other answers came from cluster {known:x}; give endpoints of one cluster",
                header.cluster_id
            ));
        }
        let Some(before) = not_before else {
            return Ok(());
        };
        if header.revision < before {
            return Err(format!(
                "it is at revision {}, and was at {before}; restart all that use it if it was restored from a copy",
                header.revision
            ));
        }
        self.revision.fetch_max(header.revision, Ordering::AcqRel);
        Ok(())
    }

    /// As one whom the cluster knows; says who we are where that is needed.
    async fn known(
        &self,
        path: &'static str,
        question: &str,
        repeat: Repeat,
        deadline: Instant,
        wanted: Wanted,
    ) -> Result<(usize, Answered), StoreError> {
        let Some(login) = &self.login else {
            let anywhere = self.anywhere(path, question, None, repeat, deadline, wanted);
            return anywhere.await.map_err(Failure::into_error);
        };
        let known = self.token().clone();
        let token = match known {
            Some(token) => token,
            None => self.authenticate(login, deadline).await?,
        };
        let answer = self
            .anywhere(path, question, Some(&token), repeat, deadline, wanted)
            .await;
        match answer {
            // Tokens end after a time. Nothing was done.
            Err(Failure::Stranger(_)) => {
                let token = self.authenticate(login, deadline).await?;
                self.anywhere(path, question, Some(&token), repeat, deadline, wanted)
                    .await
                    .map_err(Failure::into_error)
            }
            answer => answer.map_err(Failure::into_error),
        }
    }

    fn token(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn authenticate(
        &self,
        login: &EtcdLogin,
        deadline: Instant,
    ) -> Result<String, StoreError> {
        let question = json!({ "name": login.user, "password": login.password.0 }).to_string();
        let path = "/v3/auth/authenticate";
        let anywhere = self.anywhere(path, &question, None, Repeat::Safe, deadline, Wanted::Whole);
        let (index, answer) = anywhere.await.map_err(Failure::into_error)?;
        let token = match answer {
            Answered::Whole(answer) => serde_json::from_slice::<Authenticated>(&answer)
                .ok()
                .map(|answer| answer.token),
            Answered::Lines(_) => None,
        };
        let token = token.ok_or_else(|| StoreError::Nonsense {
            place: self.name(index),
            reason: "it gave no token for name and password".to_owned(),
            outcome: Outcome::NotDone,
        })?;
        *self.token() = Some(token.clone());
        Ok(token)
    }

    /// Asks one endpoint after the other.
    async fn anywhere(
        &self,
        path: &'static str,
        question: &str,
        token: Option<&str>,
        repeat: Repeat,
        deadline: Instant,
        wanted: Wanted,
    ) -> Result<(usize, Answered), Failure> {
        let (first, all) = (self.last.load(Ordering::Relaxed), self.endpoints.len());
        let mut failed = None;
        for turn in 0..all {
            let index = (first + turn) % all;
            let rest = deadline.saturating_duration_since(Instant::now());
            let share = Instant::now() + rest / u32::try_from(all - turn).unwrap_or(u32::MAX);
            let times = Times {
                began: Instant::now(),
                connected: share,
                answered: match repeat {
                    Repeat::Safe => share,
                    Repeat::Never => deadline,
                },
            };
            let attempt = Attempt {
                gateway: self,
                index,
                path,
                question,
                token,
                repeat,
                times,
            };
            match attempt.run(wanted).await {
                Ok(answer) => {
                    self.last.store(index, Ordering::Relaxed);
                    return Ok((index, answer));
                }
                Err(Failure::NotAsked(error)) => failed = Some(Failure::NotAsked(error)),
                Err(Failure::Asked(error)) if repeat == Repeat::Safe => {
                    failed = Some(Failure::Asked(error));
                }
                Err(failure) => {
                    if let Failure::Asked(_) = failure {
                        // The next question begins with the next one.
                        self.last.store((index + 1) % all, Ordering::Relaxed);
                    }
                    return Err(failure);
                }
            }
        }
        Err(failed.expect("a configuration has an endpoint"))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Instant, Connection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self, index: usize) -> Option<Connection> {
        let mut idle = self.idle();
        idle.retain(|(_, since, connection)| {
            connection.is_open() && since.elapsed() < LONGEST_IDLE
        });
        let at = idle.iter().rposition(|(of, _, _)| *of == index)?;
        Some(idle.swap_remove(at).2)
    }

    fn put_idle(&self, index: usize, connection: Connection) {
        let mut idle = self.idle();
        if connection.is_open() && idle.len() < MOST_IDLE {
            idle.push((index, Instant::now(), connection));
        }
    }
}

impl Failure {
    fn into_error(self) -> StoreError {
        match self {
            Failure::NotAsked(error)
            | Failure::Asked(error)
            | Failure::Final(error)
            | Failure::Stranger(error) => error,
        }
    }
}

#[derive(Clone, Copy)]
enum Wanted {
    Whole,
    Lines,
}

enum Answered {
    Whole(Vec<u8>),
    Lines(Lines),
}

#[derive(Clone, Copy)]
struct Times {
    began: Instant,
    connected: Instant,
    answered: Instant,
}

/// One question at one endpoint.
struct Attempt<'a> {
    gateway: &'a Gateway,
    index: usize,
    path: &'static str,
    question: &'a str,
    token: Option<&'a str>,
    repeat: Repeat,
    times: Times,
}

impl Attempt<'_> {
    async fn run(&self, wanted: Wanted) -> Result<Answered, Failure> {
        if let Some(connection) = self.gateway.take_idle(self.index) {
            match self.on(connection, wanted).await {
                // It was closed while it was idle.
                Err(Failure::NotAsked(_)) => {}
                other => return other,
            }
        }
        let dial = self
            .gateway
            .dialer
            .dial(&self.gateway.endpoints[self.index]);
        let connection = timeout_at(self.times.connected, dial)
            .await
            .map_err(|_| Failure::NotAsked(self.silent(Outcome::NotDone)))?
            .map_err(|reason| Failure::NotAsked(self.unreachable(reason, Outcome::NotDone)))?;
        self.on(connection, wanted).await
    }

    async fn on(&self, mut connection: Connection, wanted: Wanted) -> Result<Answered, Failure> {
        let endpoint = &self.gateway.endpoints[self.index];
        let request = request(endpoint, self.path, self.question.to_owned(), self.token)
            .map_err(|reason| Failure::Final(self.unreachable(reason, Outcome::NotDone)))?;
        let heard = self.repeat.outcome();
        let response = timeout_at(self.times.answered, connection.send(request))
            .await
            .map_err(|_| Failure::Asked(self.silent(heard)))?
            .map_err(|broken| match broken {
                Broken::Before(reason) => {
                    Failure::NotAsked(self.unreachable(reason, Outcome::NotDone))
                }
                Broken::After(reason) => Failure::Asked(self.unreachable(reason, heard)),
            })?;
        let (status, mut body) = (response.status(), response.into_body());
        if let (Wanted::Lines, StatusCode::OK) = (wanted, status) {
            return Ok(Answered::Lines(Lines::of(body)));
        }
        let answer = self.whole(&mut body, heard).await?;
        if status != StatusCode::OK {
            return Err(self.fault(status, &answer));
        }
        self.gateway.put_idle(self.index, connection);
        Ok(Answered::Whole(answer))
    }

    async fn whole(&self, body: &mut Incoming, heard: Outcome) -> Result<Vec<u8>, Failure> {
        timeout_at(self.times.answered, whole(body, LARGEST))
            .await
            .map_err(|_| Failure::Asked(self.silent(heard)))?
            .map_err(|reason| Failure::Asked(self.unreachable(reason, heard)))
    }

    /// What an answer means that is an error.
    fn fault(&self, status: StatusCode, answer: &[u8]) -> Failure {
        let place = self.gateway.name(self.index);
        let Ok(fault) = serde_json::from_slice::<Fault>(answer) else {
            return Failure::Final(StoreError::Refused {
                place,
                reason: format!("HTTP status {status}"),
                outcome: self.repeat.outcome(),
                hint: "see whether it is etcd 3.4 or later; one that is started with a file of settings needs \
                       enable-grpc-gateway: true",
            });
        };
        let reason = match fault.message.is_empty() {
            true => fault.error,
            false => fault.message,
        };
        let refused = |outcome, reason, hint| StoreError::Refused {
            place,
            reason,
            outcome,
            hint,
        };
        // `rpctypes/error.go`: the last two are of class InvalidArgument, and say that users or roles were changed.
        let is_stranger = fault.code == UNAUTHENTICATED
            || reason.contains("invalid auth token")
            || reason.contains("revision in header is old");
        if is_stranger && self.token.is_some() {
            let hint = "see [store] user and password";
            return Failure::Stranger(refused(Outcome::NotDone, reason, hint));
        }
        if REFUSALS.contains(&fault.code) {
            let hint = "see its log, and [store] user and password if it asks for them";
            return Failure::Final(refused(Outcome::NotDone, reason, hint));
        }
        // Such as UNAVAILABLE: it has no leader now, or did not hear from enough of the others in time.
        let hint = "see whether most of its members are well";
        Failure::Asked(refused(self.repeat.outcome(), reason, hint))
    }

    fn silent(&self, outcome: Outcome) -> StoreError {
        let after = self.times.began.elapsed().as_millis();
        let after = u64::try_from(after).unwrap_or(u64::MAX);
        StoreError::Silent {
            place: self.gateway.name(self.index),
            after: Duration::from_millis(after),
            outcome,
            hint: "see whether etcd runs well there; [store] timeout is how long it may take",
        }
    }

    fn unreachable(&self, reason: String, outcome: Outcome) -> StoreError {
        StoreError::Unreachable {
            place: self.gateway.name(self.index),
            reason,
            outcome,
            hint: "see whether etcd runs there, and [store] endpoints",
        }
    }
}
