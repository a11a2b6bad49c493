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
}

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
        let mut residue = Residue {
            harmless: system,
            ..Residue::default()
        };
        residue.harmless.extend(GRAMMAR.map(Box::from));
        for name in RUN_TEXT {
            residue.harmless.remove(name);
        }
        let mut tainted: HashSet<Box<str>> = HashSet::new();
        let mut bodies: HashMap<&str, Vec<Vec<String>>> = HashMap::new();
        for routine in routines {
            if is_plain(routine) {
                let words = words(&routine.text);
                bodies.entry(&routine.name).or_default().push(words);
            } else {
                tainted.insert(routine.name.clone());
            }
        }
        loop {
            let before = tainted.len() + residue.used.len() + residue.written.len();
            residue.spread(&mut tainted, &bodies, runs);
            if tainted.len() + residue.used.len() + residue.written.len() == before {
                break;
            }
        }
        let named = routines.iter().map(|routine| routine.name.clone());
        residue.harmless.extend(named);
        let lower = |name: &str| Box::<str>::from(name.to_ascii_lowercase());
        for name in tainted.iter().flat_map(|name| [name.clone(), lower(name)]) {
            residue.harmless.remove(&name);
        }
        residue
    }

    /// One step from what leaves something behind to what runs it.
    fn spread(
        &mut self,
        tainted: &mut HashSet<Box<str>>,
        bodies: &HashMap<&str, Vec<Vec<String>>>,
        runs: &[Runs],
    ) {
        for run in runs {
            let what = &run.what;
            if tainted.contains(what) || self.used.contains(what) {
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
                tainted.contains(word) || self.used.contains(word) || self.written.contains(word)
            };
            if texts.iter().any(|words| words.iter().any(bad)) {
                tainted.insert(Box::from(*name));
            }
        }
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
}

/// Its text can be read, and has no word that may leave something behind.
fn is_plain(routine: &Routine) -> bool {
    if !matches!(&*routine.language, "sql" | "plpgsql") || routine.text.trim().is_empty() {
        return false;
    }
    let words = words(&routine.text);
    !words.iter().any(|word| WORDS.contains(&word.as_str())) && !sets(&words)
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
fn words(text: &str) -> Vec<String> {
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
    }
}
