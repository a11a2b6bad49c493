//! The section `[store]`: a directory, or an etcd cluster and how to get in.

use std::time::Duration;

use super::secret::secret;
use super::section::{Entry, Section};
use super::url;
use super::{Endpoint, Etcd, EtcdLogin, HttpTls, Scheme, Store, StorePlace};

/// The directory beside the configuration file.
const DIRECTORY: &str = "state";
const PREFIX: &str = "/trunkline/";

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    File,
    Etcd,
}

pub(super) fn read(mut section: Section<'_>) -> Store {
    let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
    let kind = section
        .read("kind", |entry| {
            entry.choice(&[("file", Kind::File), ("etcd", Kind::Etcd)])
        })
        .unwrap_or(Kind::File);
    let timeout = section
        .read("timeout", |entry| entry.duration(millis(100)..=seconds(60)))
        .unwrap_or(seconds(5));
    let lease_ttl = section
        .read("lease_ttl", |entry| {
            entry.duration(seconds(1)..=seconds(600))
        })
        .unwrap_or(seconds(10));
    let place = match kind {
        Kind::File => file(&mut section),
        Kind::Etcd => etcd(&mut section),
    };
    section.done();
    Store {
        place,
        timeout,
        lease_ttl,
    }
}

fn file(section: &mut Section<'_>) -> StorePlace {
    let path = section.read("path", |entry| {
        let path = entry.text("the path of a directory")?;
        if path.is_empty() {
            entry.wrong("a path", "the path of a directory");
            return None;
        }
        Some(entry.source.resolve(path))
    });
    StorePlace::File(path.unwrap_or_else(|| section.source.resolve(DIRECTORY)))
}

fn etcd(section: &mut Section<'_>) -> StorePlace {
    const WANTED: &str = "an array like [\"http://10.0.0.1:2379\"]";
    let endpoints = section
        .required("endpoints", WANTED, |entry| {
            let items = entry.items(WANTED)?;
            if items.is_empty() {
                entry.note(format!("is empty; give {WANTED}"));
            }
            Some(items.into_iter().filter_map(endpoint).collect::<Vec<_>>())
        })
        .unwrap_or_default();
    let is_https = endpoints.iter().any(|(scheme, _)| *scheme == Scheme::Https);
    if is_https && endpoints.iter().any(|(scheme, _)| *scheme == Scheme::Http) {
        section.note_key("endpoints", "has both http and https; give one of them");
    }
    let prefix = section.read("prefix", |entry| {
        let prefix = entry.text("text that ends with /")?;
        if !prefix.ends_with('/') || prefix.len() > 512 || prefix.chars().any(char::is_control) {
            entry.wrong(
                "a prefix",
                "text of up to 512 bytes that ends with /, like \"/trunkline/\"",
            );
            return None;
        }
        Some(prefix.to_owned())
    });
    let login = login(section);
    let tls = tls(section, is_https);
    StorePlace::Etcd(Etcd {
        endpoints: endpoints
            .into_iter()
            .map(|(_, endpoint)| endpoint)
            .collect(),
        prefix: prefix.unwrap_or_else(|| PREFIX.to_owned()),
        login,
        tls,
    })
}

fn endpoint(entry: Entry<'_>) -> Option<(Scheme, Endpoint)> {
    const ALLOWED: &str = "http:// or https://, a host and a port, like \"http://10.0.0.1:2379\"";
    let url = url::read(&entry, ALLOWED)?;
    if url.path != "/" {
        entry.wrong("an endpoint", ALLOWED);
        return None;
    }
    Some((url.scheme, url.endpoint))
}

fn login(section: &mut Section<'_>) -> Option<EtcdLogin> {
    let user = section.read("user", |entry| entry.name());
    let password = section.read("password", |entry| secret(&entry));
    match (section.has("user"), section.has("password")) {
        (true, false) => section.note_key("password", "is missing; give it beside user"),
        (false, true) => section.note_key("user", "is missing; give it beside password"),
        _ => {}
    }
    Some(EtcdLogin {
        user: user?,
        password: password?,
    })
}

fn tls(section: &mut Section<'_>, is_https: bool) -> Option<HttpTls> {
    if !is_https {
        for key in url::TLS_KEYS {
            section.take(key);
            if section.has(key) {
                section.note_key(
                    key,
                    "is for https, and the endpoints are http; take it away",
                );
            }
        }
        return None;
    }
    if !section.has("root_certificate") {
        section.note_key(
            "root_certificate",
            "is missing; give the path of a PEM file with the authorities to trust",
        );
    }
    url::tls(section)
}
