//! Nodes that an administrator takes out of service, and back.

use thiserror::Error;

use super::watch::Topology;

/// Whether an administrator lets a node serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Service {
    #[default]
    Offered,
    Drained,
}

/// Why a node was not taken out, or back.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DrainError {
    #[error("{0:?} is not an address like 'host:port'")]
    NotAnAddress(String),
    #[error("there is no node {0}")]
    Unknown(String),
    /// The same server serves several shards, in databases of its own for each.
    #[error("{node} is a node of several shards: {shards}")]
    Several { node: String, shards: String },
    #[error("{node} is the primary of shard {shard}")]
    IsPrimary { node: String, shard: String },
}

impl Topology {
    /// No reads go to a node that is drained. It stays so when the configuration is read again, until it is given back, leaves its shard, or becomes its primary.
    pub fn serve(&self, node: &str, service: Service) -> Result<(), DrainError> {
        let (host, port) =
            address(node).ok_or_else(|| DrainError::NotAnAddress(node.to_owned()))?;
        let watched = self.current();
        let found: Vec<_> = watched
            .shards
            .iter()
            .flat_map(|shard| shard.find(host, port).map(move |place| (shard, place)))
            .collect();
        match &found[..] {
            [] => Err(DrainError::Unknown(node.to_owned())),
            [(shard, place)] => match shard.serve(*place, service) {
                true => Ok(()),
                false => Err(DrainError::IsPrimary {
                    node: node.to_owned(),
                    shard: shard.name().to_owned(),
                }),
            },
            several => {
                let names: Vec<_> = several.iter().map(|(shard, _)| shard.name()).collect();
                Err(DrainError::Several {
                    node: node.to_owned(),
                    shards: names.join(", "),
                })
            }
        }
    }
}

/// A host and a port; an IPv6 address may stand in brackets.
fn address(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    Some((host, port.parse().ok()?)).filter(|_| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn addresses() {
        for (text, wanted) in [
            ("db1:5432", Some(("db1", 5432))),
            ("[::1]:5433", Some(("::1", 5433))),
            (
                "/var/run/postgresql:5432",
                Some(("/var/run/postgresql", 5432)),
            ),
            ("db1", None),
            (":5432", None),
            ("db1:x", None),
            ("db1:70000", None),
        ] {
            assert_eq!(address(text), wanted, "{text}");
        }
    }
}
