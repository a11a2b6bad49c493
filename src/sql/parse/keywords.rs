//! The key words of Postgres (`src/include/parser/kwlist.h`, versions 14 to 18 as far as the parser has a use for them).

use sqlparser::keywords::Keyword;

/// Whether Postgres knows this word, in any case, as a key word.
pub(super) fn is_keyword(word: &str) -> bool {
    let mut folded = [0; LONGEST];
    let Some(folded) = folded.get_mut(..word.len()) else {
        return false;
    };
    folded.copy_from_slice(word.as_bytes());
    folded.make_ascii_lowercase();
    KEYWORDS
        .binary_search_by(|keyword| keyword.as_bytes().cmp(folded))
        .is_ok()
}

/// Words that cannot be a column's label without AS (`AS_LABEL` in the list of key words).
pub(super) const NEEDS_AS: [Keyword; 38] = [
    Keyword::ARRAY,
    Keyword::AS,
    Keyword::CHAR,
    Keyword::CHARACTER,
    Keyword::CREATE,
    Keyword::DAY,
    Keyword::EXCEPT,
    Keyword::FETCH,
    Keyword::FILTER,
    Keyword::FOR,
    Keyword::FROM,
    Keyword::GRANT,
    Keyword::GROUP,
    Keyword::HAVING,
    Keyword::HOUR,
    Keyword::INTERSECT,
    Keyword::INTO,
    Keyword::LIMIT,
    Keyword::MINUTE,
    Keyword::MONTH,
    Keyword::NOTNULL,
    Keyword::OFFSET,
    Keyword::ON,
    Keyword::ORDER,
    Keyword::OVER,
    Keyword::OVERLAPS,
    Keyword::PRECISION,
    Keyword::RETURNING,
    Keyword::SECOND,
    Keyword::TO,
    Keyword::UNION,
    Keyword::VARYING,
    Keyword::WHERE,
    Keyword::WINDOW,
    Keyword::WITH,
    Keyword::WITHIN,
    Keyword::WITHOUT,
    Keyword::YEAR,
];

/// Longest of the list below.
const LONGEST: usize = 17;

/// Sorted. `global` is left out: the parser takes it for a kind of join. `bernoulli` is none of Postgres's, but the parser reads it as one in TABLESAMPLE.
#[rustfmt::skip]
const KEYWORDS: [&str; 479] = [
    "abort", "absent", "absolute", "access", "action", "add", "admin", "after", "aggregate", "all", "also", "alter", "always", "analyse",
    "analyze", "and", "any", "array", "as", "asc", "asensitive", "assertion", "assignment", "asymmetric", "at", "atomic", "attach",
    "attribute", "authorization", "backward", "before", "begin", "bernoulli", "between", "bigint", "binary", "bit", "boolean", "both",
    "breadth", "by", "cache", "call", "called", "cascade", "cascaded", "case", "cast", "catalog", "chain", "char", "character",
    "characteristics", "check", "checkpoint", "class", "close", "cluster", "coalesce", "collate", "collation", "column", "columns",
    "comment", "comments", "commit", "committed", "compression", "concurrently", "configuration", "conflict", "connection", "constraint",
    "constraints", "content", "continue", "conversion", "copy", "cost", "create", "cross", "csv", "cube", "current", "current_catalog",
    "current_date", "current_role", "current_schema", "current_time", "current_timestamp", "current_user", "cursor", "cycle", "data",
    "database", "day", "deallocate", "dec", "decimal", "declare", "default", "defaults", "deferrable", "deferred", "definer", "delete",
    "delimiter", "delimiters", "depends", "depth", "desc", "detach", "dictionary", "disable", "discard", "distinct", "do", "document",
    "domain", "double", "drop", "each", "else", "enable", "encoding", "encrypted", "end", "enum", "escape", "event", "except", "exclude",
    "excluding", "exclusive", "execute", "exists", "explain", "expression", "extension", "external", "extract", "false", "family", "fetch",
    "filter", "finalize", "first", "float", "following", "for", "force", "foreign", "forward", "freeze", "from", "full", "function",
    "functions", "generated", "grant", "granted", "greatest", "group", "grouping", "groups", "handler", "having", "header",
    "hold", "hour", "identity", "if", "ilike", "immediate", "immutable", "implicit", "import", "in", "include", "including", "increment",
    "index", "indexes", "inherit", "inherits", "initially", "inline", "inner", "inout", "input", "insensitive", "insert", "instead", "int",
    "integer", "intersect", "interval", "into", "invoker", "is", "isnull", "isolation", "join", "json", "json_array", "json_arrayagg",
    "json_exists", "json_object", "json_objectagg", "json_query", "json_scalar", "json_serialize", "json_table", "json_value", "key",
    "keys", "label", "language", "large", "last", "lateral", "leading", "leakproof", "least", "left", "level", "like", "limit", "listen",
    "load", "local", "localtime", "localtimestamp", "location", "lock", "locked", "logged", "mapping", "match", "matched", "materialized",
    "maxvalue", "merge", "method", "minute", "minvalue", "mode", "month", "move", "name", "names", "national", "natural", "nchar", "nested",
    "new", "next", "nfc", "nfd", "nfkc", "nfkd", "no", "none", "normalize", "normalized", "not", "nothing", "notify", "notnull", "nowait",
    "null", "nullif", "nulls", "numeric", "object", "of", "off", "offset", "oids", "old", "on", "only", "operator", "option", "options",
    "or", "order", "ordinality", "others", "out", "outer", "over", "overlaps", "overlay", "overriding", "owned", "owner", "parallel",
    "parameter", "parser", "partial", "partition", "passing", "password", "path", "placing", "plans", "policy", "position", "preceding",
    "precision", "prepare", "prepared", "preserve", "primary", "prior", "privileges", "procedural", "procedure", "procedures", "program",
    "publication", "quote", "range", "read", "real", "reassign", "recheck", "recursive", "ref", "references", "referencing", "refresh",
    "reindex", "relative", "release", "rename", "repeatable", "replace", "replica", "reset", "restart", "restrict", "return", "returning",
    "returns", "revoke", "right", "role", "rollback", "rollup", "routine", "routines", "row", "rows", "rule", "savepoint", "scalar",
    "schema", "schemas", "scroll", "search", "second", "security", "select", "sequence", "sequences", "serializable", "server", "session",
    "session_user", "set", "setof", "sets", "share", "show", "similar", "simple", "skip", "smallint", "snapshot", "some", "source", "sql",
    "stable", "standalone", "start", "statement", "statistics", "stdin", "stdout", "storage", "stored", "strict", "strip", "subscription",
    "substring", "support", "symmetric", "sysid", "system", "system_user", "table", "tables", "tablesample", "tablespace", "target", "temp",
    "template", "temporary", "text", "then", "ties", "time", "timestamp", "to", "trailing", "transaction", "transform", "treat", "trigger",
    "trim", "true", "truncate", "trusted", "type", "types", "uescape", "unbounded", "uncommitted", "unencrypted", "union", "unique",
    "unknown", "unlisten", "unlogged", "until", "update", "user", "using", "vacuum", "valid", "validate", "validator", "value", "values",
    "varchar", "variadic", "varying", "verbose", "version", "view", "views", "volatile", "when", "where", "whitespace", "window", "with",
    "within", "without", "work", "wrapper", "write", "xml", "xmlattributes", "xmlconcat", "xmlelement", "xmlexists", "xmlforest",
    "xmlnamespaces", "xmlparse", "xmlpi", "xmlroot", "xmlserialize", "xmltable", "year", "yes", "zone",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(KEYWORDS.is_sorted());
        assert!(is_keyword("Select") && is_keyword("zone") && is_keyword("abort"));
        assert!(
            !is_keyword("top")
                && !is_keyword("semi")
                && !is_keyword("a_very_long_name_that_is_not_a_keyword")
        );
    }
}
