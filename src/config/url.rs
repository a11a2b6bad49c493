//! Addresses of servers that speak HTTP, and how they are trusted.

use super::section::{Entry, Section};
use super::settings::existing_file;
use super::{Certificate, Endpoint, HttpTls, Scheme, Url};

/// What [`tls`] reads.
pub(super) const TLS_KEYS: [&str; 3] = ["root_certificate", "certificate", "key"];

/// An address with its port; without a path it is `/`.
pub(super) fn read(entry: &Entry<'_>, allowed: &str) -> Option<Url> {
    let url = parse(entry.text(allowed)?);
    if url.is_none() {
        entry.wrong("an address", allowed);
    }
    url
}

fn parse(text: &str) -> Option<Url> {
    let (scheme, rest) = match text.split_once("://")? {
        ("http", rest) => (Scheme::Http, rest),
        ("https", rest) => (Scheme::Https, rest),
        _ => return None,
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let (host, port) = authority.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port: &u16| *port != 0)?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    let is_path = path.bytes().all(|byte| byte.is_ascii_graphic()) && !path.contains('#');
    (is_host && is_path).then(|| Url {
        scheme,
        endpoint: Endpoint {
            host: bracketed.unwrap_or(host).to_owned(),
            port,
        },
        path: path.to_owned(),
    })
}

/// The keys of [`TLS_KEYS`]. Without a root certificate nobody is trusted.
pub(super) fn tls(section: &mut Section<'_>) -> Option<HttpTls> {
    let root_certificate = section.read("root_certificate", existing_file);
    let certificate = section.read("certificate", existing_file);
    let key = section.read("key", existing_file);
    match (section.has("certificate"), section.has("key")) {
        (true, false) => section.note_key("key", "is missing; give it beside certificate"),
        (false, true) => section.note_key("certificate", "is missing; give it beside key"),
        _ => {}
    }
    let certificate = certificate
        .zip(key)
        .map(|(certificate, key)| Certificate { certificate, key });
    Some(HttpTls {
        root_certificate: root_certificate?,
        certificate,
    })
}
