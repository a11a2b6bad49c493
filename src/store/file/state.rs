//! What the state file says. The first line has the revision, the length of what follows, and the xxh3 sum of that (with the revision as its seed):
//!
//! ```text
//! trunkline-store 1 1795355000007 214 5d1c3f0a9b27e644
//! {
//!   "keys": { "epoch": { "version": 1795355000003, "text": "7" }, "raw": { "version": 1795355000007, "base64": "AP8=" } },
//!   "leases": { "janitor": { "token": 1795355000005, "holder": "proxy-1", "boot": "4c4c4544-..." } }
//! }
//! ```

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::store::lease::Token;
use crate::store::transaction::Write;
use crate::store::{Conflict, Listing, Transaction, Version, Versioned};

const MAGIC: &str = "trunkline-store";
const FORMAT: &str = "1";

/// Everything, at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct State {
    pub revision: u64,
    pub keys: Listing,
    /// Those that were given and not given back. How long they last is in files of their own.
    pub leases: BTreeMap<String, Record>,
}

/// A lease that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    #[serde(with = "number")]
    pub token: Token,
    pub holder: String,
    /// The boot of the machine in which it was given; none outlives that.
    pub boot: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    keys: BTreeMap<String, Entry>,
    leases: BTreeMap<String, Record>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Of what is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

mod number {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::store::lease::Token;

    pub fn serialize<S: Serializer>(token: &Token, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(token.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Token, D::Error> {
        u64::deserialize(from).map(Token)
    }
}

impl State {
    /// The first key that is not as the transaction expects.
    pub fn conflict(&self, transaction: &Transaction) -> Option<Conflict> {
        transaction.expected.iter().find_map(|(key, expected)| {
            let found = self.keys.get(key).map(|there| there.version);
            (!expected.is(found)).then(|| Conflict {
                key: key.clone(),
                found,
            })
        })
    }

    /// The state behind a transaction's writes.
    pub fn after(&self, transaction: Transaction) -> State {
        let mut next = self.clone();
        next.revision += 1;
        let version = Version(next.revision);
        for (key, write) in transaction.writes {
            match write {
                Write::Put(value) => {
                    next.keys.insert(key, Versioned { value, version });
                }
                Write::Delete => {
                    next.keys.remove(&key);
                }
            }
        }
        next
    }

    pub fn encode(&self) -> Vec<u8> {
        let entry = |there: &Versioned| {
            let text = String::from_utf8(there.value.clone()).ok();
            let base64 = text.is_none().then(|| STANDARD.encode(&there.value));
            Entry {
                version: there.version.0,
                text,
                base64,
            }
        };
        let body = Body {
            keys: self
                .keys
                .iter()
                .map(|(key, there)| (key.clone(), entry(there)))
                .collect(),
            leases: self.leases.clone(),
        };
        let mut body = serde_json::to_vec_pretty(&body)
            .expect("maps with text as keys, and plain values, are always JSON");
        body.push(b'\n');
        let (length, sum) = (body.len(), xxh3_64_with_seed(&body, self.revision));
        let mut whole =
            format!("{MAGIC} {FORMAT} {} {length} {sum:016x}\n", self.revision).into_bytes();
        whole.append(&mut body);
        whole
    }

    /// What is wrong is said for people.
    pub fn decode(file: &[u8]) -> Result<State, String> {
        let end = file
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or("its first line has no end")?;
        let (head, body) = (&file[..end], &file[end + 1..]);
        let head = Head::read(head)?;
        if body.len() != head.length || xxh3_64_with_seed(body, head.revision) != head.sum {
            return Err(format!(
                "its content is not what its first line says ({} bytes instead of {}, or another sum)",
                body.len(),
                head.length
            ));
        }
        let body: Body =
            serde_json::from_slice(body).map_err(|error| format!("it cannot be read: {error}"))?;
        let mut state = State {
            revision: head.revision,
            keys: Listing::new(),
            leases: body.leases,
        };
        for (key, entry) in body.keys {
            let value = match (entry.text, entry.base64) {
                (Some(text), None) => Some(text.into_bytes()),
                (None, Some(base64)) => STANDARD.decode(base64).ok(),
                _ => None,
            };
            let value = value.ok_or_else(|| format!("the value of {key:?} cannot be read"))?;
            let version = Version(entry.version);
            if version.0 > state.revision {
                return Err(format!("{key:?} is newer than the file"));
            }
            state.keys.insert(key, Versioned { value, version });
        }
        Ok(state)
    }
}

/// The first line.
struct Head {
    revision: u64,
    length: usize,
    sum: u64,
}

impl Head {
    fn read(line: &[u8]) -> Result<Head, String> {
        let line = str::from_utf8(line).map_err(|_| "its first line is no text")?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [MAGIC, FORMAT, revision, length, sum] => {
                let head = || {
                    Some(Head {
                        revision: revision.parse().ok()?,
                        length: length.parse().ok()?,
                        sum: u64::from_str_radix(sum, 16).ok()?,
                    })
                };
                head().ok_or_else(|| format!("its first line has wrong numbers: {line:?}"))
            }
            [MAGIC, format, ..] => Err(format!(
                "it has format {format:?}, and this version of Trunkline knows format {FORMAT}"
            )),
            _ => Err("it is not a file of the store".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> State {
        let value = |value: &[u8], version| Versioned {
            value: value.to_vec(),
            version: Version(version),
        };
        State {
            revision: 12,
            keys: [
                ("epoch".to_owned(), value(b"7", 3)),
                ("raw \u{1f511}".to_owned(), value(&[0, 255, 10], 12)),
                ("empty".to_owned(), value(b"", 9)),
            ]
            .into(),
            leases: [(
                "janitor".to_owned(),
                Record {
                    token: Token(5),
                    holder: "proxy-1".to_owned(),
                    boot: "b".to_owned(),
                },
            )]
            .into(),
        }
    }

    #[test]
    fn there_and_back() {
        assert_eq!(State::decode(&state().encode()), Ok(state()));
        assert_eq!(
            State::decode(&State::default().encode()),
            Ok(State::default())
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let whole = state().encode();
        for at in 0..whole.len() {
            assert!(State::decode(&whole[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bad = whole.clone();
                bad[at] ^= 1 << bit;
                match State::decode(&bad) {
                    Err(_) => {}
                    // A hexadecimal digit has two cases.
                    Ok(other) => assert_eq!(other, state(), "bit {bit} of byte {at}"),
                }
            }
        }
    }

    #[test]
    fn another_format_is_told() {
        let said = State::decode(b"trunkline-store 2 1 0 0 what\n").unwrap_err();
        assert!(said.contains("\"2\""), "{said}");
        assert!(
            State::decode(b"hello\n")
                .unwrap_err()
                .contains("not a file")
        );
    }

    proptest! {
        #[test]
        fn any_value_comes_back(key in "\\PC{1,20}", value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let transaction = Transaction::new().put(key.clone(), value.clone());
            let state = State::default().after(transaction);
            let back = State::decode(&state.encode()).unwrap();
            prop_assert_eq!(&back.keys[&key].value, &value);
            prop_assert_eq!(back.keys[&key].version, Version(1));
        }
    }
}
