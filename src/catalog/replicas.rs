//! Which functions and relations mean the same on a streaming replica, and which only the primary can serve.
//!
//! A replica refuses what writes or locks; worse is what it does not refuse: functions that speak of the server they run on, and tables
//! whose rows it does not have. Whatever calls such a function or reads such a table, by its definition or by its text, is no better.
//! Only what is known to be fit is taken to be.

use std::collections::{HashMap, HashSet};

use super::residue::{Routine, Runs, Taint, When, words};

/// A function as the servers have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub name: Box<str>,
    pub volatility: Volatility,
    pub author: Author,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volatility {
    Volatile,
    /// Or immutable.
    Stable,
}

/// Who brings a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    Postgres,
    /// In C.
    Library,
    User,
}

/// What was read of one database.
#[derive(Debug, Default)]
pub struct Found<'a> {
    pub functions: &'a [Function],
    /// The bodies that can be read.
    pub routines: &'a [Routine],
    /// What relations run or touch.
    pub runs: &'a [Runs],
    /// Unlogged and foreign relations, and views that lock what they read.
    pub unreadable: HashSet<Box<str>>,
    /// Operators that run something volatile.
    pub operators: Vec<Box<str>>,
    pub conversions: Conversions,
}

/// What casts, domains and types run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conversions {
    #[default]
    Plain,
    /// Something volatile: no text shows where.
    Volatile,
}

/// What only the primary can serve, of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    functions: HashSet<Box<str>>,
    relations: HashSet<Box<str>>,
    operators: Vec<Box<str>>,
    conversions: Conversions,
}

/// Volatile, and as good on a replica: chance, clocks, waiting, and what reads the system's tables. The last ones are of extensions.
const HARMLESS: [&str; 21] = [
    "bernoulli",
    "clock_timestamp",
    "current_query",
    "gen_random_uuid",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "random",
    "random_normal",
    "system",
    "timeofday",
    "uuidv4",
    "uuidv7",
    "crypt",
    "gen_random_bytes",
    "gen_salt",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
];

/// Of those that are not volatile and begin with `pg_`: what reads the system's tables, or its arguments only. The others speak of the server,
/// of the connection or of transactions.
const PLAIN: [&str; 66] = [
    "pg_basetype",
    "pg_char_to_encoding",
    "pg_client_encoding",
    "pg_collation_for",
    "pg_collation_is_visible",
    "pg_column_compression",
    "pg_column_is_updatable",
    "pg_column_size",
    "pg_conversion_is_visible",
    "pg_describe_object",
    "pg_encoding_max_length",
    "pg_encoding_to_char",
    "pg_function_is_visible",
    "pg_get_catalog_foreign_keys",
    "pg_get_constraintdef",
    "pg_get_expr",
    "pg_get_function_arg_default",
    "pg_get_function_arguments",
    "pg_get_function_identity_arguments",
    "pg_get_function_result",
    "pg_get_function_sqlbody",
    "pg_get_functiondef",
    "pg_get_indexdef",
    "pg_get_keywords",
    "pg_get_object_address",
    "pg_get_partition_constraintdef",
    "pg_get_partkeydef",
    "pg_get_publication_tables",
    "pg_get_replica_identity_index",
    "pg_get_ruledef",
    "pg_get_serial_sequence",
    "pg_get_statisticsobjdef",
    "pg_get_statisticsobjdef_columns",
    "pg_get_statisticsobjdef_expressions",
    "pg_get_triggerdef",
    "pg_get_userbyid",
    "pg_get_viewdef",
    "pg_has_role",
    "pg_identify_object",
    "pg_identify_object_as_address",
    "pg_index_column_has_property",
    "pg_index_has_property",
    "pg_indexam_has_property",
    "pg_input_error_info",
    "pg_input_is_valid",
    "pg_mcv_list_items",
    "pg_opclass_is_visible",
    "pg_operator_is_visible",
    "pg_opfamily_is_visible",
    "pg_options_to_table",
    "pg_relation_is_publishable",
    "pg_relation_is_updatable",
    "pg_sequence_parameters",
    "pg_size_bytes",
    "pg_size_pretty",
    "pg_statistics_obj_is_visible",
    "pg_table_is_visible",
    "pg_timezone_abbrevs",
    "pg_timezone_names",
    "pg_ts_config_is_visible",
    "pg_ts_dict_is_visible",
    "pg_ts_parser_is_visible",
    "pg_ts_template_is_visible",
    "pg_type_is_visible",
    "pg_typeof",
    "pg_wal_lsn_diff",
];

/// Neither volatile nor `pg_` before them, and yet about the server, the connection or its transactions; the last ones run queries or read
/// tables that a text names.
const ABOUT_THE_SERVER: [&str; 22] = [
    "current_setting",
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "mxid_age",
    "txid_current",
    "txid_current_if_assigned",
    "txid_current_snapshot",
    "txid_status",
    "version",
    "cursor_to_xml",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
    "crosstab",
];

/// The system's relations that show the server, its connections, or what it has done. What begins like one of [`SYSTEM_FAMILIES`] does, too.
const SYSTEM: [&str; 17] = [
    "pg_aios",
    "pg_available_extension_versions",
    "pg_available_extensions",
    "pg_backend_memory_contexts",
    "pg_config",
    "pg_cursors",
    "pg_dsm_registry_allocations",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_locks",
    "pg_prepared_statements",
    "pg_prepared_xacts",
    "pg_sequences",
    "pg_settings",
    "pg_shmem_allocations",
    "pg_shmem_allocations_numa",
];

const SYSTEM_FAMILIES: [&str; 3] = ["pg_stat_", "pg_statio_", "pg_replication_"];

impl Replicas {
    pub fn of(found: Found<'_>) -> Replicas {
        let unfit = found.functions.iter().filter(|function| !is_fit(function));
        let functions: HashSet<Box<str>> = unfit.map(|function| function.name.clone()).collect();
        let mut relations = found.unreadable;
        relations.extend(SYSTEM.map(Box::from));
        // Families are not written out: what is read of them is known by the definitions that read it.
        let read = found.runs.iter().map(|run| &run.what);
        relations.extend(read.filter(|name| is_about_the_server(name)).cloned());
        let mut bodies: HashMap<&str, Vec<Vec<String>>> = HashMap::new();
        for routine in found.routines {
            let mut words = words(&without_own_settings(&routine.text));
            for word in &mut words {
                if is_about_the_server(word) {
                    *word = SYSTEM[0].to_owned();
                }
            }
            bodies.entry(&routine.name).or_default().push(words);
        }
        // What writing runs does not run on a replica.
        let runs: Vec<Runs> = found
            .runs
            .iter()
            .filter(|run| run.when == When::Used)
            .cloned()
            .collect();
        let taint = Taint::of(functions, relations, &bodies, &runs);
        let mut functions = taint.functions;
        let lower = functions
            .iter()
            .map(|name| name.to_ascii_lowercase().into());
        functions.extend(lower.collect::<Vec<Box<str>>>());
        Replicas {
            functions,
            relations: taint.used,
            operators: found.operators,
            conversions: found.conversions,
        }
    }

    /// A call of this function means the same on a replica, if there is such a function.
    pub fn can_call(&self, function: &str) -> bool {
        !self.functions.contains(function)
    }

    /// To read this relation means the same on a replica, if there is such a relation.
    pub fn can_read(&self, relation: &str) -> bool {
        !self.relations.contains(relation) && !is_about_the_server(relation)
    }

    /// No operator and no conversion in this text can run what a replica cannot.
    pub fn can_compute(&self, text: &str) -> bool {
        self.conversions == Conversions::Plain
            && !self
                .operators
                .iter()
                .any(|operator| text.contains(&**operator))
    }
}

/// The function itself, whatever it calls.
fn is_fit(function: &Function) -> bool {
    let name = &*function.name;
    match (function.author, function.volatility) {
        (Author::User, Volatility::Volatile) => false,
        (Author::User, Volatility::Stable) => true,
        (Author::Postgres | Author::Library, Volatility::Volatile) => HARMLESS.contains(&name),
        (Author::Library, Volatility::Stable) => !ABOUT_THE_SERVER.contains(&name),
        (Author::Postgres, Volatility::Stable) if name.starts_with("pg_") => PLAIN.contains(&name),
        (Author::Postgres, Volatility::Stable) => !ABOUT_THE_SERVER.contains(&name),
    }
}

fn is_about_the_server(relation: &str) -> bool {
    SYSTEM.contains(&relation)
        || SYSTEM_FAMILIES
            .iter()
            .any(|family| relation.starts_with(family))
}

/// The text without `current_setting('name.part` and its like: the applications' own settings follow a session everywhere.
pub fn without_own_settings(text: &str) -> String {
    const CALL: &str = "current_setting";
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(place) = rest.find(CALL) {
        let (before, after) = (&rest[..place], &rest[place + CALL.len()..]);
        kept.push_str(before);
        if !names_own_setting(after) {
            kept.push_str(CALL);
        }
        rest = after;
    }
    kept.push_str(rest);
    kept
}

/// Behind `current_setting`: `('name.`
fn names_own_setting(after: &str) -> bool {
    let name = after
        .trim_start()
        .strip_prefix('(')
        .and_then(|after| after.trim_start().strip_prefix('\''));
    name.is_some_and(|name| {
        let end = name.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        end.is_some_and(|end| end > 0 && name[end..].starts_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, volatility: Volatility, author: Author) -> Function {
        Function {
            name: name.into(),
            volatility,
            author,
        }
    }

    fn routine(name: &str, text: &str) -> Routine {
        Routine {
            name: name.into(),
            language: "sql".into(),
            text: text.into(),
        }
    }

    fn reads(relation: &str, what: &str) -> Runs {
        Runs {
            relation: relation.into(),
            what: what.into(),
            when: When::Used,
        }
    }

    #[test]
    fn what_runs_or_reads_the_unfit_is_unfit() {
        use Author::{Library, Postgres, User};
        use Volatility::{Stable, Volatile};
        let functions = [
            function("lower", Stable, Postgres),
            function("random", Volatile, Postgres),
            function("nextval", Volatile, Postgres),
            function("pg_get_viewdef", Stable, Postgres),
            function("pg_backend_pid", Stable, Postgres),
            function("current_setting", Stable, Postgres),
            function("dblink", Volatile, Library),
            function("st_area", Stable, Library),
            function("Writes", Volatile, User),
            function("reads", Stable, User),
            function("asks", Stable, User),
            function("of_tenant", Stable, User),
            function("of_server", Stable, User),
            function("counts", Stable, User),
            function("calls", Stable, User),
        ];
        let routines = [
            routine("Writes", "INSERT INTO t VALUES (1)"),
            routine("reads", "SELECT random() FROM t"),
            routine("asks", "SELECT PG_BACKEND_PID()"),
            routine("of_tenant", "SELECT current_setting('app.tenant', true)"),
            routine(
                "of_server",
                "SELECT current_setting('app.a') || current_setting('work_mem')",
            ),
            routine("counts", "SELECT count(*) FROM pg_stat_io"),
            routine("calls", "SELECT * FROM seen_fast"),
        ];
        let runs = [
            reads("seen", "lower"),
            reads("seen", "t"),
            reads("seen_fast", "fast"),
            reads("seen_twice", "seen_fast"),
            reads("numbered", "nextval"),
            reads("busy", "pg_stat_activity"),
            Runs {
                when: When::Written,
                ..reads("t", "nextval")
            },
        ];
        let replicas = Replicas::of(Found {
            functions: &functions,
            routines: &routines,
            runs: &runs,
            unreadable: HashSet::from(["fast".into()]),
            operators: vec!["<~>".into()],
            conversions: Conversions::Plain,
        });
        for fit in [
            "lower",
            "random",
            "pg_get_viewdef",
            "st_area",
            "reads",
            "of_tenant",
        ] {
            assert!(replicas.can_call(fit), "{fit}");
        }
        for unfit in [
            "nextval",
            "pg_backend_pid",
            "current_setting",
            "dblink",
            "Writes",
            "writes",
            "asks",
            "of_server",
            "counts",
            "calls",
        ] {
            assert!(!replicas.can_call(unfit), "{unfit}");
        }
        for fit in ["t", "seen", "pg_class", "pg_stats", "pg_statistic"] {
            assert!(replicas.can_read(fit), "{fit}");
        }
        for unfit in [
            "fast",
            "seen_fast",
            "seen_twice",
            "numbered",
            "busy",
            "pg_locks",
            "pg_stat_wal",
        ] {
            assert!(!replicas.can_read(unfit), "{unfit}");
        }
        assert!(replicas.can_compute("SELECT 1 < 2"));
        assert!(!replicas.can_compute("SELECT 1 <~> 2"));
    }

    #[test]
    fn conversions_that_run_something_spoil_everything() {
        let replicas = Replicas::of(Found {
            conversions: Conversions::Volatile,
            ..Found::default()
        });
        assert!(!replicas.can_compute("SELECT 1"));
    }

    #[test]
    fn own_settings_are_known_by_their_dot() {
        for own in [
            "current_setting('app.tenant')",
            "a = current_setting ( 'app.tenant'::text, true)",
        ] {
            let kept = without_own_settings(own);
            assert!(!kept.contains("current_setting"), "{kept}");
        }
        for other in [
            "current_setting('work_mem')",
            "current_setting(name)",
            "current_setting($1)",
            "current_setting('.x')",
            "current_setting('app.a') || current_setting('app' || '.b')",
        ] {
            assert!(
                without_own_settings(other).contains("current_setting"),
                "{other}"
            );
        }
    }
}
