//! Which functions and tables may leave something behind in a connection: settings, locks, temporary tables.
//!
//! A function's body is looked through for words that can do so; what calls it, reads it or fires it is no better. Only what is known to
//! be harmless is taken to be: a name that was not there when the definitions were read is not.

use std::collections::{HashMap, HashSet};

/// A function written here, or an aggregate with the names of the functions it is made from as its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routine {
    pub name: Box<str>,
    pub language: Box<str>,
    pub text: Box<str>,
}

/// A relation runs this function or touches this other relation, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    pub relation: Box<str>,
    pub what: Box<str>,
    pub when: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Whenever it is used: views, rules, policies.
    Used,
    /// When rows are written: triggers, defaults, constraints, partitions.
    Written,
}

/// What is known of the names of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residue {
    /// Functions that leave nothing behind.
    harmless: HashSet<Box<str>>,
    used: HashSet<Box<str>>,
    written: HashSet<Box<str>>,
    /// What asks for a sequence's last value in this connection.
    asks: Taint,
}

/// What is bad by itself, and what calls, reads or fires it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taint {
    pub functions: HashSet<Box<str>>,
    /// Relations, by name.
    pub used: HashSet<Box<str>>,
    pub written: HashSet<Box<str>>,
}

/// Give what `nextval` gave last in this connection, to whomever.
const LAST_VALUE: [&str; 2] = ["currval", "lastval"];

/// Look like functions, and are the grammar's own.
const GRAMMAR: [&str; 44] = [
    "any",
    "all",
    "array",
    "cast",
    "coalesce",
    "collation",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "exists",
    "extract",
    "greatest",
    "grouping",
    "json_array",
    "json_arrayagg",
    "json_exists",
    "json_object",
    "json_objectagg",
    "json_query",
    "json_scalar",
    "json_serialize",
    "json_table",
    "json_value",
    "least",
    "localtime",
    "localtimestamp",
    "merge_action",
    "normalize",
    "nullif",
    "overlay",
    "position",
    "row",
    "session_user",
    "some",
    "substring",
    "system_user",
    "treat",
    "trim",
    "user",
    "values",
];

/// Words that no harmless body has. SET is looked at by itself, because of UPDATE.
const WORDS: [&str; 18] = [
    "set_config",
    "execute",
    "temp",
    "temporary",
    "pg_temp",
    "listen",
    "unlisten",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "discard",
    "reset",
    "load",
    "prepare",
    "deallocate",
    "call",
    "hold",
];

/// Built-in functions that run the text they are given.
const RUN_TEXT: [&str; 9] = [
    "set_config",
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "ts_stat",
    "ts_rewrite",
    "crosstab",
    "connectby",
    "dblink_exec",
];

impl Residue {
    /// `system`: the functions that Postgres or a C library brings.
    pub fn of(system: HashSet<Box<str>>, routines: &[Routine], runs: &[Runs]) -> Residue {
        let mut harmless = system;
        harmless.extend(GRAMMAR.map(Box::from));
        for name in RUN_TEXT {
            harmless.remove(name);
        }
        let mut tainted: HashSet<Box<str>> = HashSet::new();
        let (mut bodies, mut plain): (Bodies<'_>, Bodies<'_>) = Default::default();
        for routine in routines {
            let words = words(&routine.text);
            if readable(routine) && is_plain(&words) {
                let known = plain.entry(&routine.name).or_default();
                known.push(words.clone());
            } else {
                tainted.insert(routine.name.clone());
            }
            bodies.entry(&routine.name).or_default().push(words);
        }
        let leaves = Taint::of(tainted, HashSet::new(), &plain, runs);
        let last_value = HashSet::from(LAST_VALUE.map(Box::from));
        let asks = Taint::of(last_value, HashSet::new(), &bodies, runs);
        let mut residue = Residue {
            harmless,
            used: leaves.used,
            written: leaves.written,
            asks,
        };
        let named = routines.iter().map(|routine| routine.name.clone());
        residue.harmless.extend(named);
        let lower = |name: &str| Box::<str>::from(name.to_ascii_lowercase());
        for name in leaves
            .functions
            .iter()
            .flat_map(|name| [name.clone(), lower(name)])
        {
            residue.harmless.remove(&name);
        }
        residue
    }

    /// A call of this function leaves nothing behind.
    pub fn is_harmless(&self, function: &str) -> bool {
        self.harmless.contains(function)
    }

    /// To read this relation leaves nothing behind.
    pub fn reads_harmlessly(&self, relation: &str) -> bool {
        !self.used.contains(relation)
    }

    /// To write it leaves nothing behind.
    pub fn writes_harmlessly(&self, relation: &str) -> bool {
        !self.used.contains(relation) && !self.written.contains(relation)
    }

    /// A call of this function asks for what `nextval` gave last in this connection.
    pub fn asks_for_last_value(&self, function: &str) -> bool {
        LAST_VALUE.contains(&function) || self.asks.functions.contains(function)
    }

    /// Likewise to read this relation.
    pub fn reading_asks(&self, relation: &str) -> bool {
        self.asks.used.contains(relation)
    }

    /// Likewise to write it.
    pub fn writing_asks(&self, relation: &str) -> bool {
        self.asks.used.contains(relation) || self.asks.written.contains(relation)
    }

    /// Likewise, as far as words tell, a text that is not read otherwise.
    pub fn text_asks(&self, text: &str) -> bool {
        let mut words = words(text).into_iter();
        words.any(|word| self.asks_for_last_value(&word) || self.writing_asks(&word))
    }

    /// Something in the database asks for it unseen.
    pub fn anything_asks(&self) -> bool {
        self.asks.functions.len() > LAST_VALUE.len()
            || !self.asks.used.is_empty()
            || !self.asks.written.is_empty()
    }
}

/// The words of functions' bodies, by name.
pub(super) type Bodies<'a> = HashMap<&'a str, Vec<Vec<String>>>;

impl Taint {
    /// What these functions and relations are called by, read by and fired by, to the end.
    pub fn of(
        functions: HashSet<Box<str>>,
        used: HashSet<Box<str>>,
        bodies: &Bodies<'_>,
        runs: &[Runs],
    ) -> Taint {
        let mut taint = Taint {
            functions,
            used,
            written: HashSet::new(),
        };
        loop {
            let before = taint.len();
            taint.spread(bodies, runs);
            if taint.len() == before {
                return taint;
            }
        }
    }

    fn len(&self) -> usize {
        self.functions.len() + self.used.len() + self.written.len()
    }

    /// One step from what is bad to what runs it.
    fn spread(&mut self, bodies: &Bodies<'_>, runs: &[Runs]) {
        for run in runs {
            let what = &run.what;
            if self.functions.contains(what) || self.used.contains(what) {
                match run.when {
                    When::Used => self.used.insert(run.relation.clone()),
                    When::Written => self.written.insert(run.relation.clone()),
                };
            }
            if self.written.contains(what) {
                self.written.insert(run.relation.clone());
            }
        }
        for (name, texts) in bodies {
            let bad = |word: &String| {
                let word = word.as_str();
                self.functions.contains(word)
                    || self.used.contains(word)
                    || self.written.contains(word)
            };
            if texts.iter().any(|words| words.iter().any(bad)) {
                self.functions.insert(Box::from(*name));
            }
        }
    }
}

/// Its text can be read.
fn readable(routine: &Routine) -> bool {
    matches!(&*routine.language, "sql" | "plpgsql") && !routine.text.trim().is_empty()
}

/// It has no word that may leave something behind.
fn is_plain(words: &[String]) -> bool {
    !words.iter().any(|word| WORDS.contains(&word.as_str())) && !sets(words)
}

/// SET stands somewhere where no UPDATE of the same statement is before it.
fn sets(words: &[String]) -> bool {
    let mut updating = false;
    for word in words {
        match word.as_str() {
            ";" | "begin" | "then" | "else" | "loop" | "$" => updating = false,
            "update" => updating = true,
            "set" if !updating => return true,
            "set" => updating = false,
            _ => {}
        }
    }
    false
}

/// Words in lower case, and `;` between statements. Comments and strings are looked through like anything else.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for character in text.chars() {
        if character.is_alphanumeric() || character == '_' {
            word.extend(character.to_lowercase());
            continue;
        }
        if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if character == ';' {
            words.push(";".to_owned());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routine(name: &str, text: &str) -> Routine {
        Routine {
            name: name.into(),
            language: "plpgsql".into(),
            text: text.into(),
        }
    }

    fn runs(relation: &str, what: &str, when: When) -> Runs {
        Runs {
            relation: relation.into(),
            what: what.into(),
            when,
        }
    }

    #[test]
    fn what_sets_something_taints_what_runs_it() {
        let routines = [
            routine(
                "plain",
                "BEGIN UPDATE t SET x = 1; INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET x = 2; END",
            ),
            routine("setter", "BEGIN SET work_mem = '1MB'; END"),
            routine(
                "hidden",
                "BEGIN UPDATE t SET x = 1; SET search_path = a; END",
            ),
            routine(
                "locker",
                "BEGIN PERFORM 1 FROM t FOR UPDATE; SET a.b = 1; END",
            ),
            routine("caller", "SELECT Setter()"),
            routine("writer", "BEGIN INSERT INTO audited VALUES (1); END"),
            routine("dynamic", "BEGIN EXECUTE 'SELECT 1'; END"),
            Routine {
                language: "plpython3u".into(),
                ..routine("python", "pass")
            },
        ];
        let runs = [
            runs("audited", "caller", When::Written),
            runs("seen", "setter", When::Used),
            runs("seen_again", "seen", When::Used),
            runs("calm", "plain", When::Written),
        ];
        let residue = Residue::of(
            HashSet::from(["lower".into(), "set_config".into()]),
            &routines,
            &runs,
        );
        for harmless in ["plain", "lower", "coalesce"] {
            assert!(residue.is_harmless(harmless), "{harmless}");
        }
        for tainted in [
            "setter",
            "hidden",
            "locker",
            "caller",
            "writer",
            "dynamic",
            "python",
            "set_config",
            "new_one",
        ] {
            assert!(!residue.is_harmless(tainted), "{tainted}");
        }
        assert!(residue.reads_harmlessly("audited") && !residue.writes_harmlessly("audited"));
        assert!(!residue.reads_harmlessly("seen_again") && residue.writes_harmlessly("calm"));
        assert!(!residue.anything_asks());
    }

    #[test]
    fn what_asks_for_a_last_value_is_found() {
        let routines = [
            routine("last", "BEGIN RETURN CurrVal('s'); END"),
            routine("dynamic", "BEGIN EXECUTE 'SELECT 1'; RETURN lastval(); END"),
            routine("caller", "SELECT last()"),
            routine("other", "SELECT nextval('s')"),
        ];
        let runs = [
            runs("audited", "caller", When::Written),
            runs("defaulted", "currval", When::Written),
            runs("seen", "last", When::Used),
        ];
        let residue = Residue::of(HashSet::new(), &routines, &runs);
        for asks in ["currval", "lastval", "last", "dynamic", "caller"] {
            assert!(residue.asks_for_last_value(asks), "{asks}");
        }
        assert!(!residue.asks_for_last_value("other") && !residue.asks_for_last_value("nextval"));
        assert!(residue.writing_asks("audited") && residue.writing_asks("defaulted"));
        assert!(residue.reading_asks("seen") && !residue.reading_asks("audited"));
        assert!(residue.text_asks("CALL Caller(1)") && !residue.text_asks("CALL other(1)"));
        assert!(residue.anything_asks());
        assert!(Residue::default().asks_for_last_value("currval"));
    }
}
