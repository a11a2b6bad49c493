//! Who may log in from where, and how: a well-known part of Postgres's `pg_hba.conf`. The first rule that fits decides.
//!
//! What is not understood is refused, never passed over: a rule that silently meant less could let somebody in.
//! Source: <https://www.postgresql.org/docs/current/auth-pg-hba-conf.html>, Postgres `hba.c`.

use std::net::IpAddr;

use super::{CertificateDemand, Line};

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// It does not.
    Trust,
    /// It is not let in.
    Reject,
    Scram,
    /// md5, or SCRAM-SHA-256 where a verifier is stored, as in Postgres.
    Md5,
    /// The password itself is sent.
    Cleartext,
    /// The common name of its certificate is the user's name.
    Certificate,
}

impl Method {
    /// As rules and `SHOW USERS` write it.
    pub fn word(self) -> &'static str {
        match self {
            Method::Trust => "trust",
            Method::Reject => "reject",
            Method::Scram => "scram-sha-256",
            Method::Md5 => "md5",
            Method::Cleartext => "password",
            Method::Certificate => "cert",
        }
    }
}

/// The rules of one file, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub line: Line,
    transport: Transport,
    databases: Vec<Name>,
    users: Vec<Name>,
    /// `None`: from anywhere.
    network: Option<Network>,
    pub method: Method,
    pub certificate: CertificateDemand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Local,
    Host,
    HostTls,
    HostPlain,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    All,
    /// Of the database: the user's name.
    SameUser,
    /// `replication`: connections that are refused before any rule is asked.
    Nothing,
    Exactly(String),
}

/// Addresses that agree in their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    mask: IpAddr,
}

/// A client that wants in.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    pub user: &'a str,
    pub database: &'a str,
    pub origin: Origin,
}

/// How it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Over the Unix socket.
    Local,
    Plain(IpAddr),
    Tls(IpAddr),
}

impl Rules {
    /// Reads a file's text; every mistake in it at once.
    pub(super) fn parse(text: &str) -> Result<Rules, Vec<(Line, String)>> {
        let (mut rules, mut mistakes) = (Vec::new(), Vec::new());
        for (line, text) in logical_lines(text) {
            match tokens(&text)
                .map_err(|said| vec![said])
                .and_then(|tokens| rule(line, &tokens))
            {
                Ok(Some(rule)) => rules.push(rule),
                Ok(None) => {}
                Err(found) => mistakes.extend(found.into_iter().map(|said| (line, said))),
            }
        }
        if rules.is_empty() && mistakes.is_empty() {
            mistakes.push((Line(0), "holds no rule, so nobody could log in".to_owned()));
        }
        match mistakes.is_empty() {
            true => Ok(Rules(rules)),
            false => Err(mistakes),
        }
    }

    /// The rule that decides; none is a no.
    pub fn first(&self, asking: &Asking<'_>) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.fits(asking))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }
}

impl Rule {
    /// What is allowed, yet probably not meant where other machines can connect.
    pub(super) fn doubt(&self) -> Option<&'static str> {
        let from_afar = match (self.transport, self.network) {
            (Transport::Local, _) => false,
            (_, Some(network)) => !network.address.is_loopback(),
            (_, None) => true,
        };
        match (self.method, self.transport) {
            (Method::Trust, _) if from_afar && self.certificate == CertificateDemand::Nothing => {
                Some(
                    "\"trust\" asks for no password, and listen.addresses can be reached from other machines",
                )
            }
            (Method::Cleartext, Transport::Host | Transport::HostPlain) if from_afar => Some(
                "\"password\" lets clients send their passwords in the clear; write hostssl, or another method",
            ),
            _ => None,
        }
    }

    fn fits(&self, asking: &Asking<'_>) -> bool {
        let address = match (self.transport, asking.origin) {
            (Transport::Local, Origin::Local) => None,
            (Transport::Host | Transport::HostTls, Origin::Tls(address))
            | (Transport::Host | Transport::HostPlain, Origin::Plain(address)) => Some(address),
            _ => return false,
        };
        let near = match (self.network, address) {
            (Some(network), Some(address)) => network.holds(address),
            _ => true,
        };
        let named = |names: &[Name], own: &str| {
            names.iter().any(|name| match name {
                Name::All => true,
                Name::SameUser => own == asking.user,
                Name::Nothing => false,
                Name::Exactly(name) => name == own,
            })
        };
        near && named(&self.databases, asking.database) && named(&self.users, asking.user)
    }
}

impl Network {
    fn holds(&self, address: IpAddr) -> bool {
        // A socket that listens on IPv6 shows IPv4 clients as ::ffff:a.b.c.d.
        match (self.address, self.mask, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(mask), IpAddr::V4(address)) => {
                own.to_bits() & mask.to_bits() == address.to_bits() & mask.to_bits()
            }
            (IpAddr::V6(own), IpAddr::V6(mask), IpAddr::V6(address)) => {
                own.to_bits() & mask.to_bits() == address.to_bits() & mask.to_bits()
            }
            _ => false,
        }
    }

    fn of_prefix(address: IpAddr, bits: u32) -> Option<Network> {
        let mask = match address {
            IpAddr::V4(_) if bits <= 32 => {
                IpAddr::V4(u32::MAX.checked_shl(32 - bits).unwrap_or(0).into())
            }
            IpAddr::V6(_) if bits <= 128 => {
                IpAddr::V6(u128::MAX.checked_shl(128 - bits).unwrap_or(0).into())
            }
            _ => return None,
        };
        Some(Network { address, mask })
    }
}

/// Lines with their continuations (a backslash at the end), each with the number of its first.
fn logical_lines(text: &str) -> Vec<(Line, String)> {
    let mut lines: Vec<(Line, String)> = Vec::new();
    let mut continued = false;
    for (at, line) in text.lines().enumerate() {
        let (line, goes_on) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        match lines.last_mut().filter(|_| continued) {
            Some((_, begun)) => begun.push_str(line),
            None => lines.push((Line(at + 1), line.to_owned())),
        }
        continued = goes_on;
    }
    lines
}

/// One word of a line; what stood in quotes has no special meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    text: String,
    quoted: bool,
}

/// The fields of a line, each a list of words that commas divide; up to a comment.
fn tokens(line: &str) -> Result<Vec<Vec<Word>>, String> {
    let mut fields: Vec<Vec<Word>> = Vec::new();
    let mut letters = line.chars().peekable();
    // Only a comma right behind a word goes on with its field, as in Postgres; others mean nothing.
    let mut joins = false;
    loop {
        while letters
            .next_if(|letter| letter.is_whitespace() || *letter == ',')
            .is_some()
        {}
        if matches!(letters.peek(), None | Some('#')) {
            break;
        }
        let word = word(&mut letters)?;
        match fields.last_mut().filter(|_| joins) {
            Some(field) => field.push(word),
            None => fields.push(vec![word]),
        }
        joins = letters.peek() == Some(&',');
    }
    Ok(fields)
}

fn word(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Word, String> {
    let mut word = Word {
        text: String::new(),
        quoted: letters.peek() == Some(&'"'),
    };
    let mut inside = false;
    while let Some(&letter) = letters.peek() {
        match letter {
            '"' => {
                letters.next();
                // Doubled inside quotes it stands for itself.
                if inside && letters.next_if_eq(&'"').is_some() {
                    word.text.push('"');
                } else {
                    inside = !inside;
                }
                continue;
            }
            ',' | '#' if !inside => break,
            _ if letter.is_whitespace() && !inside => break,
            _ => word.text.push(letter),
        }
        letters.next();
    }
    match inside {
        true => Err("a quotation mark is not closed".to_owned()),
        false => Ok(word),
    }
}

/// A rule, or nothing for an empty line; or all that is wrong with it.
fn rule(line: Line, fields: &[Vec<Word>]) -> Result<Option<Rule>, Vec<String>> {
    let Some((first, rest)) = fields.split_first() else {
        return Ok(None);
    };
    let mut mistakes = Vec::new();
    let transport = noted(&mut mistakes, transport(first));
    // Where the fields are is known only when it is known how many there should be.
    let Some(transport) = transport else {
        return Err(mistakes);
    };
    let [databases, users, rest @ ..] = rest else {
        return Err(vec!["ends before the database and the user".to_owned()]);
    };
    let databases = noted(&mut mistakes, names(databases, Kind::Database));
    let users = noted(&mut mistakes, names(users, Kind::User));
    let (network, rest) = match transport {
        Transport::Local => (Some(None), rest),
        Transport::Host | Transport::HostTls | Transport::HostPlain => {
            let (found, rest) = network(rest);
            (noted(&mut mistakes, found), rest)
        }
    };
    let (method, options) = match rest.split_first() {
        Some((field, options)) => (noted(&mut mistakes, method(field)), options),
        None => {
            mistakes.push("ends before the method".to_owned());
            (None, rest)
        }
    };
    let mut demand = CertificateDemand::Nothing;
    for option in options.iter().flatten() {
        if let Some(wanted) = noted(&mut mistakes, option_of(option)) {
            demand = demand.max(wanted);
        }
    }
    if method == Some(Method::Certificate) {
        demand = CertificateDemand::Named;
    }
    if demand != CertificateDemand::Nothing && transport != Transport::HostTls {
        mistakes.push("asks for a certificate, which only hostssl connections can show".to_owned());
    }
    match (databases, users, network, method) {
        (Some(databases), Some(users), Some(network), Some(method)) if mistakes.is_empty() => {
            Ok(Some(Rule {
                line,
                transport,
                databases,
                users,
                network,
                method,
                certificate: demand,
            }))
        }
        _ => Err(mistakes),
    }
}

fn noted<T>(mistakes: &mut Vec<String>, found: Result<T, String>) -> Option<T> {
    found.map_err(|said| mistakes.push(said)).ok()
}

/// The only word of a field.
fn single<'a>(field: &'a [Word], what: &str) -> Result<&'a Word, String> {
    match field {
        [word] => Ok(word),
        _ => Err(format!("has a list where one {what} is wanted")),
    }
}

fn transport(field: &[Word]) -> Result<Transport, String> {
    let word = single(field, "type of connection")?;
    match word.text.as_str() {
        "local" => Ok(Transport::Local),
        "host" => Ok(Transport::Host),
        "hostssl" => Ok(Transport::HostTls),
        "hostnossl" => Ok(Transport::HostPlain),
        "hostgssenc" | "hostnogssenc" => Err(format!(
            "{:?} is not supported: there is no GSSAPI encryption here; use host, hostssl or hostnossl",
            word.text
        )),
        "include" | "include_if_exists" | "include_dir" => Err(format!(
            "{:?} is not supported; put the rules into this file",
            word.text
        )),
        other => Err(format!(
            "{other:?} is not a type of connection; give local, host, hostssl or hostnossl"
        )),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Database,
    User,
}

fn names(field: &[Word], kind: Kind) -> Result<Vec<Name>, String> {
    field.iter().map(|word| name(word, kind)).collect()
}

fn name(word: &Word, kind: Kind) -> Result<Name, String> {
    let text = word.text.as_str();
    if word.quoted {
        return Ok(Name::Exactly(text.to_owned()));
    }
    match (text, kind) {
        ("all", _) => Ok(Name::All),
        ("sameuser", Kind::Database) => Ok(Name::SameUser),
        ("replication", Kind::Database) => Ok(Name::Nothing),
        ("samerole" | "samegroup", Kind::Database) => Err(format!(
            "{text:?} is not supported: membership in roles is not known here; give names, all or sameuser"
        )),
        _ if text.starts_with('+') && kind == Kind::User => Err(format!(
            "{text:?} is not supported: membership in roles is not known here; give the users' names, or all"
        )),
        _ if text.starts_with('/') => Err(format!(
            "{text:?} is not supported: no regular expressions here; give names, or all"
        )),
        _ if text.starts_with('@') => Err(format!(
            "{text:?} is not supported; put the names themselves into the rule"
        )),
        _ => Ok(Name::Exactly(text.to_owned())),
    }
}

/// An address with its length of prefix, or followed by its mask; and the fields behind it.
fn network(fields: &[Vec<Word>]) -> (Result<Option<Network>, String>, &[Vec<Word>]) {
    let Some((field, rest)) = fields.split_first() else {
        return (Err("ends before the address".to_owned()), fields);
    };
    let word = match single(field, "address") {
        Ok(word) => word,
        Err(said) => return (Err(said), rest),
    };
    let text = word.text.as_str();
    if text == "all" && !word.quoted {
        return (Ok(None), rest);
    }
    let wrong = || {
        Err(match text {
            "samehost" | "samenet" => format!(
                "{text:?} is not supported; give an address with its prefix, like 10.0.0.0/8, or all"
            ),
            _ => format!(
                "{text:?} is not an address; give one with its prefix, like 10.0.0.0/8 or ::1/128, or all (names of hosts are not looked up)"
            ),
        })
    };
    if let Some((address, bits)) = text.split_once('/') {
        let network = address.parse().ok().zip(bits.parse().ok());
        let network = network.and_then(|(address, bits)| Network::of_prefix(address, bits));
        return (network.map(Some).map_or_else(wrong, Ok), rest);
    }
    let Ok(address) = text.parse::<IpAddr>() else {
        return (wrong(), rest);
    };
    let mask = rest
        .split_first()
        .and_then(|(field, rest)| match &field[..] {
            [word] => Some((word.text.parse::<IpAddr>().ok()?, rest)),
            _ => None,
        });
    match mask {
        Some((mask, rest)) if mask.is_ipv4() == address.is_ipv4() => {
            (Ok(Some(Network { address, mask })), rest)
        }
        _ => (
            Err(format!(
                "{text} has neither a prefix nor a mask behind it; write {text}/{}",
                if address.is_ipv4() { 32 } else { 128 }
            )),
            rest,
        ),
    }
}

fn method(field: &[Word]) -> Result<Method, String> {
    const ALLOWED: &str = "give trust, reject, scram-sha-256, md5, password or cert";
    let word = single(field, "method")?;
    match word.text.as_str() {
        "trust" => Ok(Method::Trust),
        "reject" => Ok(Method::Reject),
        "scram-sha-256" => Ok(Method::Scram),
        "md5" => Ok(Method::Md5),
        "password" => Ok(Method::Cleartext),
        "cert" => Ok(Method::Certificate),
        known @ ("gss" | "sspi" | "ident" | "peer" | "ldap" | "radius" | "pam" | "bsd"
        | "oauth") => Err(format!("the method {known:?} is not supported; {ALLOWED}")),
        other => Err(format!("{other:?} is not a method; {ALLOWED}")),
    }
}

fn option_of(word: &Word) -> Result<CertificateDemand, String> {
    match word.text.split_once('=') {
        Some(("clientcert", "verify-ca")) => Ok(CertificateDemand::Valid),
        Some(("clientcert", "verify-full")) => Ok(CertificateDemand::Named),
        Some(("clientcert", other)) => Err(format!(
            "clientcert={other} is not known; give clientcert=verify-ca or clientcert=verify-full"
        )),
        Some(("clientname", "CN")) => Ok(CertificateDemand::Nothing),
        Some(("map", _)) => Err(
            "\"map\" is not supported: the common name of a certificate must be the user's name"
                .to_owned(),
        ),
        _ => Err(format!(
            "the option {:?} is not supported; clientcert=verify-ca and clientcert=verify-full are",
            word.text
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(rules: &Rules, user: &str, database: &str, origin: Origin) -> Option<usize> {
        let asking = Asking {
            user,
            database,
            origin,
        };
        rules.first(&asking).map(|rule| rule.line.0)
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let text = "# comment\n\
            local   all             all                                     trust\n\
            hostssl shop,blog       ann,\"all\"   10.0.0.0/8                  cert # behind\n\
            hostnossl all           all         10.1.0.0     255.255.0.0    reject\n\
            host    sameuser        all         ::1/128                     md5\n\
            host    replication     all         all                         trust\n\
            hostssl all, \\\n   \"x y\"  bob    0.0.0.0/0    password clientcert=verify-ca\n\
            host    all             \"Bob\"\"s\"  all                         scram-sha-256\n";
        let rules = Rules::parse(text).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (tls, plain) = (|a| Origin::Tls(ip(a)), |a| Origin::Plain(ip(a)));
        for (user, database, origin, line) in [
            ("x", "y", Origin::Local, Some(2)),
            ("ann", "shop", tls("10.9.8.7"), Some(3)),
            ("ann", "blog", tls("::ffff:10.9.8.7"), Some(3)),
            ("all", "blog", tls("10.9.8.7"), Some(3)),
            ("eve", "blog", tls("10.9.8.7"), None),
            ("ann", "shop", plain("10.9.8.7"), None),
            ("ann", "shop", plain("10.1.255.7"), Some(4)),
            ("ann", "shop", tls("11.0.0.0"), None),
            ("ann", "ann", plain("::1"), Some(5)),
            ("ann", "bob", plain("::1"), None),
            ("ann", "replication", plain("1.2.3.4"), None),
            ("bob", "any", tls("1.2.3.4"), Some(7)),
            ("bob", "any", plain("1.2.3.4"), None),
            ("bob", "any", tls("::2"), None),
            ("Bob\"s", "any", plain("::2"), Some(9)),
        ] {
            assert_eq!(
                decided(&rules, user, database, origin),
                line,
                "{user} {database} {origin:?}"
            );
        }
        let demands: Vec<_> = rules.iter().map(|rule| rule.certificate).collect();
        assert_eq!(demands[1], CertificateDemand::Named);
        assert_eq!(demands[5], CertificateDemand::Valid);
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        for (text, said) in [
            ("", "0: holds no rule"),
            ("# only this\n", "0: holds no rule"),
            ("\nhots all all all trust", "2: \"hots\" is not a type"),
            (
                "hostgssenc all all all trust",
                "1: \"hostgssenc\" is not supported",
            ),
            ("include other.conf", "1: \"include\" is not supported"),
            ("local all", "1: ends before"),
            ("local all all", "1: ends before the method"),
            ("host all all", "1: ends before the address"),
            ("host all all trust", "1: \"trust\" is not an address"),
            (
                "host all all samenet trust",
                "1: \"samenet\" is not supported",
            ),
            (
                "host all all db.example trust",
                "1: \"db.example\" is not an address",
            ),
            (
                "host all all 10.0.0.0/33 trust",
                "1: \"10.0.0.0/33\" is not",
            ),
            ("host all all 10.0.0.1 trust", "1: 10.0.0.1 has neither"),
            (
                "host all all 10.0.0.1 ffff:: trust",
                "1: 10.0.0.1 has neither",
            ),
            ("host samerole all all trust", "1: \"samerole\" is not"),
            ("host all +staff all trust", "1: \"+staff\" is not"),
            ("host all /^a all trust", "1: \"/^a\" is not"),
            ("host @dbs all all trust", "1: \"@dbs\" is not"),
            (
                "local all all peer",
                "1: the method \"peer\" is not supported",
            ),
            ("local all all tust", "1: \"tust\" is not a method"),
            ("local all all md5,trust", "1: has a list"),
            ("local all all cert", "1: asks for a certificate"),
            (
                "host all all all md5 clientcert=verify-full",
                "1: asks for a certificate",
            ),
            (
                "hostssl all all all cert map=people",
                "1: \"map\" is not supported",
            ),
            (
                "hostssl all all all md5 clientcert=1",
                "1: clientcert=1 is not known",
            ),
            (
                "local all all trust pamservice=x",
                "1: the option \"pamservice=x\"",
            ),
            ("local all \"ann trust", "1: a quotation mark is not closed"),
        ] {
            let found = Rules::parse(text).unwrap_err();
            let found = format!("{}: {}", found[0].0.0, found[0].1);
            assert!(found.starts_with(said), "{text:?}: {found}");
        }
        // Every mistake, also of one line.
        let found = Rules::parse("host samerole +x 1.2.3 foo bar\nlocal x").unwrap_err();
        assert_eq!(found.len(), 6, "{found:#?}");
    }
    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "([a-z0-9./:,\"#+@ \\n\\\\]|all|host|trust|local|\u{e4}){0,60}") {
            let _ = Rules::parse(&text);
            let _ = super::super::userlist::parse(&text);
        }
    }
}
