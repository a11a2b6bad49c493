//! What etcd's gateway answers, as far as it is needed (etcd `api/etcdserverpb/rpc.proto`, by the JSON mapping of proto3: numbers of
//! 64 bits are text, bytes are base64, and what is zero or empty is left out).

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Header {
    #[serde(default, deserialize_with = "number")]
    pub cluster_id: u64,
    /// Of the whole store, when the question was answered.
    #[serde(default, deserialize_with = "number")]
    pub revision: u64,
    #[serde(default, deserialize_with = "number")]
    pub raft_term: u64,
}

/// What an answer says of the cluster; by that it is checked.
pub(super) trait Answer {
    fn header(&self) -> Option<&Header>;
    /// Whether the revision in it is that of a moment after the question was asked.
    const IS_LINEARIZABLE: bool;
}

#[derive(Debug, Deserialize)]
pub(super) struct KeyValue {
    pub key: String,
    #[serde(default)]
    pub value: String,
    #[serde(default, deserialize_with = "number")]
    pub create_revision: u64,
    #[serde(default, deserialize_with = "number")]
    pub mod_revision: u64,
}

/// `RangeResponse`
#[derive(Debug, Deserialize)]
pub(super) struct Ranged {
    #[serde(default)]
    pub header: Header,
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    #[serde(default)]
    pub more: bool,
}

impl Answer for Ranged {
    fn header(&self) -> Option<&Header> {
        Some(&self.header)
    }
    const IS_LINEARIZABLE: bool = true;
}

/// `TxnResponse`
#[derive(Debug, Deserialize)]
pub(super) struct Transacted {
    #[serde(default)]
    pub header: Header,
    #[serde(default)]
    pub succeeded: bool,
    #[serde(default)]
    pub responses: Vec<ResponseOp>,
}

impl Answer for Transacted {
    fn header(&self) -> Option<&Header> {
        Some(&self.header)
    }
    const IS_LINEARIZABLE: bool = true;
}

#[derive(Debug, Deserialize)]
pub(super) struct ResponseOp {
    pub response_range: Option<Ranged>,
}

/// `LeaseGrantResponse`
#[derive(Debug, Deserialize)]
pub(super) struct Granted {
    #[serde(default)]
    pub header: Header,
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: i64,
    /// In seconds.
    #[serde(rename = "TTL", deserialize_with = "number")]
    pub ttl: u64,
}

impl Answer for Granted {
    fn header(&self) -> Option<&Header> {
        Some(&self.header)
    }
    const IS_LINEARIZABLE: bool = false;
}

/// `LeaseKeepAliveResponse`
#[derive(Debug, Deserialize)]
pub(super) struct KeepAlive {
    #[serde(default)]
    pub header: Header,
    #[serde(default, rename = "TTL", deserialize_with = "number")]
    pub ttl: u64,
}

/// A line of what answers a streaming call.
#[derive(Debug, Deserialize)]
pub(super) struct Streamed<T> {
    pub result: Option<T>,
    pub error: Option<StreamError>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StreamError {
    #[serde(default)]
    pub message: String,
}

impl Answer for Streamed<KeepAlive> {
    fn header(&self) -> Option<&Header> {
        self.result.as_ref().map(|result| &result.header)
    }
    const IS_LINEARIZABLE: bool = false;
}

/// `WatchResponse`
#[derive(Debug, Deserialize)]
pub(super) struct WatchTold {
    #[serde(default)]
    pub header: Header,
    #[serde(default)]
    pub canceled: bool,
    /// What happened is seen by looking.
    #[serde(default)]
    pub events: Vec<de::IgnoredAny>,
}

/// `AuthenticateResponse`
#[derive(Deserialize)]
pub(super) struct Authenticated {
    pub token: String,
}

impl Answer for Authenticated {
    fn header(&self) -> Option<&Header> {
        None
    }
    const IS_LINEARIZABLE: bool = false;
}

/// An answer in which nothing is looked at.
#[derive(Debug, Deserialize)]
pub(super) struct Nothing {}

impl Answer for Nothing {
    fn header(&self) -> Option<&Header> {
        None
    }
    const IS_LINEARIZABLE: bool = false;
}

/// What stands in an answer whose HTTP status is an error.
#[derive(Debug, Deserialize)]
pub(super) struct Fault {
    /// Of gRPC.
    #[serde(default)]
    pub code: i64,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub error: String,
}

fn number<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    struct Visitor<T>(std::marker::PhantomData<T>);

    impl<T: FromStr<Err: Display>> de::Visitor<'_> for Visitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a whole number, or its text")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }
    }
    from.deserialize_any(Visitor(std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_text_and_what_is_left_out() {
        let text = r#"{"header":{"cluster_id":"18446744073709551615","revision":"7","raft_term":2},
            "kvs":[{"key":"aw==","mod_revision":"5"}],"count":"1"}"#;
        let ranged: Ranged = serde_json::from_str(text).unwrap();
        assert_eq!(ranged.header.cluster_id, u64::MAX);
        assert_eq!((ranged.header.revision, ranged.header.raft_term), (7, 2));
        assert_eq!(ranged.kvs[0].mod_revision, 5);
        assert!(ranged.kvs[0].value.is_empty() && !ranged.more);
        assert!(serde_json::from_str::<Ranged>(r#"{"header":{"revision":"-1"}}"#).is_err());
    }

    #[test]
    fn what_a_watch_tells() {
        let line = r#"{"result":{"header":{"revision":"4"},"events":[{"type":"DELETE","kv":{"key":"aw==","mod_revision":"4"}}]}}"#;
        let told: Streamed<WatchTold> = serde_json::from_str(line).unwrap();
        let told = told.result.unwrap();
        assert_eq!((told.events.len(), told.canceled), (1, false));
        let line = r#"{"result":{"header":{},"canceled":true,"compact_revision":"3"}}"#;
        let told: Streamed<WatchTold> = serde_json::from_str(line).unwrap();
        assert!(told.result.unwrap().canceled);
    }
}
