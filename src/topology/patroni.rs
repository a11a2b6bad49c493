//! What a node's Patroni says of the leader's lock.
//!
//! Patroni answers `GET /primary` with 200 while its node runs as the primary and holds the lock of its cluster, by the lock's own time; else with 503 and what the node
//! is (<https://patroni.readthedocs.io/en/latest/rest_api.html>). Nothing else is asked of it, and it is never told anything.
//! Each question is a task of its own: a Patroni that hangs delays no look at its node. The next one is asked when the one before has its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::watch;

use super::answer::Lock;
use crate::config::{HttpTls, Url};
use crate::http::{self, Dialer};

/// From one question to the next at least, however often its node is looked at.
const SOONEST: Duration = Duration::from_millis(100);

/// How long a look that has its node's answer waits for this one.
const GRACE: Duration = Duration::from_millis(50);

/// The way to a node's Patroni.
pub(super) struct Patroni {
    asking: Arc<Asking>,
    words: watch::Receiver<Option<Lock>>,
}

struct Asking {
    url: Url,
    dialer: Result<Dialer, String>,
    timeout: Duration,
    /// `None`: it was never asked.
    word: watch::Sender<Option<Lock>>,
    is_asked: AtomicBool,
    begun: std::sync::Mutex<Option<Instant>>,
}

/// The part of an answer that people are shown.
#[derive(Deserialize)]
struct Said {
    role: Option<String>,
    state: Option<String>,
}

impl Patroni {
    pub fn new(url: &Url, tls: Option<&HttpTls>, timeout: Duration) -> Patroni {
        let (word, words) = watch::channel(None);
        Patroni {
            asking: Arc::new(Asking {
                url: url.clone(),
                dialer: Dialer::to(url, tls),
                timeout,
                word,
                is_asked: AtomicBool::new(false),
                begun: std::sync::Mutex::default(),
            }),
            words,
        }
    }

    /// Has it asked, unless it is being asked or was just now. Needs the control plane's runtime.
    pub fn ask(&self) {
        if self.asking.begin() {
            let asking = Arc::clone(&self.asking);
            tokio::spawn(async move { asking.ask().await });
        }
    }

    /// What it has said: as of the question under way, if that is answered soon, else of the one before. The first one is waited for.
    pub async fn word(&self) -> Lock {
        let mut words = self.words.clone();
        let answered = async {
            // The sender is ours, so there is one.
            let _ = words
                .wait_for(|_| !self.asking.is_asked.load(Ordering::Acquire))
                .await;
        };
        let _ = tokio::time::timeout(GRACE, answered).await;
        let mut words = self.words.clone();
        match words.wait_for(Option::is_some).await {
            Ok(word) => word.clone().expect("it was waited for"),
            Err(_) => Lock::Unknown("it was never asked".into()),
        }
    }
}

impl Asking {
    fn begin(&self) -> bool {
        let now = Instant::now();
        let mut begun = self.begun.lock().expect("nothing panics while it holds it");
        let was_now = begun.is_some_and(|begun| now < begun + SOONEST);
        if was_now || self.is_asked.swap(true, Ordering::AcqRel) {
            return false;
        }
        *begun = Some(now);
        true
    }

    async fn ask(&self) {
        let answer = match &self.dialer {
            Ok(dialer) => {
                let asked = http::call(dialer, &self.url, None);
                tokio::time::timeout(self.timeout, asked)
                    .await
                    .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout)))
            }
            Err(error) => Err(error.clone()),
        };
        let lock = read(&self.url, answer, self.word.borrow().as_ref());
        self.is_asked.store(false, Ordering::Release);
        self.word.send_replace(Some(lock));
    }
}

/// `before` is what it has said before.
fn read(url: &Url, answer: Result<http::Answer, String>, before: Option<&Lock>) -> Lock {
    match answer {
        Ok(answer) if answer.status == 200 => Lock::Held {
            times: 1 + match before {
                Some(Lock::Held { times }) => *times,
                _ => 0,
            },
        },
        // It answers like that whatever the reason is.
        Ok(answer) if answer.status == 503 => {
            let said = serde_json::from_slice::<Said>(&answer.body).ok();
            let (role, state) = said.map_or((None, None), |said| (said.role, said.state));
            let word = |word: Option<String>| word.unwrap_or_else(|| "unknown".to_owned());
            Lock::NotHeld {
                said: format!("role {}, state {}", word(role), word(state)).into(),
                times: 1 + match before {
                    Some(Lock::NotHeld { times, .. }) => *times,
                    _ => 0,
                },
            }
        }
        Ok(answer) => Lock::Unknown(format!("{url} answered {}", answer.status).into()),
        Err(error) => Lock::Unknown(format!("{url}: {error}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, Scheme};

    fn answered(status: u16, body: &str) -> Result<http::Answer, String> {
        Ok(http::Answer {
            status,
            body: body.into(),
        })
    }

    #[test]
    fn only_the_documented_answers_say_anything() {
        let url = Url {
            scheme: Scheme::Http,
            endpoint: Endpoint {
                host: "::1".to_owned(),
                port: 8008,
            },
            path: "/primary".to_owned(),
        };
        let no = |times| Lock::NotHeld {
            said: "role replica, state running".into(),
            times,
        };
        let (yes, before) = (Lock::Held { times: 1 }, no(2));
        assert_eq!(read(&url, answered(200, ""), None), yes);
        assert_eq!(
            read(&url, answered(200, ""), Some(&yes)),
            Lock::Held { times: 2 }
        );
        let read = |answer| read(&url, answer, Some(&before));
        assert_eq!(read(answered(200, "")), yes);
        let replica = r#"{"state": "running", "role": "replica", "server_version": 150008}"#;
        assert_eq!(read(answered(503, replica)), no(3));
        let strange = Lock::NotHeld {
            said: "role unknown, state unknown".into(),
            times: 3,
        };
        assert_eq!(read(answered(503, "<html>")), strange);
        let unknown = |said: &str| Lock::Unknown(said.into());
        let wanted = unknown("http://[::1]:8008/primary answered 404");
        assert_eq!(read(answered(404, "")), wanted);
        let wanted = unknown("http://[::1]:8008/primary: refused");
        assert_eq!(read(Err("refused".to_owned())), wanted);
    }
}
