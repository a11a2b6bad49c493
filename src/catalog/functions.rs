//! What kind of function a name may be. One name may stand for several functions: what one of them is, the name may be.

use std::collections::HashSet;

/// Names of functions in any schema, folded as Postgres keeps them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FunctionKinds {
    /// Aggregates of `pg_catalog`.
    pub aggregates: HashSet<Box<str>>,
    /// Aggregates of other schemas.
    pub own_aggregates: HashSet<Box<str>>,
    pub windows: HashSet<Box<str>>,
    pub volatile: HashSet<Box<str>>,
    pub set_returning: HashSet<Box<str>>,
}

/// Those of every server, and what a grammar treats as aggregates.
const AGGREGATES: [&str; 57] = [
    "any_value",
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "cume_dist",
    "dense_rank",
    "every",
    "grouping",
    "json_agg",
    "json_agg_strict",
    "json_arrayagg",
    "json_object_agg",
    "json_object_agg_strict",
    "json_object_agg_unique",
    "json_object_agg_unique_strict",
    "json_objectagg",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_object_agg",
    "jsonb_object_agg_strict",
    "jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict",
    "max",
    "min",
    "mode",
    "percent_rank",
    "percentile_cont",
    "percentile_disc",
    "range_agg",
    "range_intersect_agg",
    "rank",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "sum",
    "var_pop",
    "var_samp",
    "variance",
    "xmlagg",
];

const VOLATILE: [&str; 14] = [
    "random",
    "random_normal",
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "clock_timestamp",
    "timeofday",
    "setseed",
    "nextval",
    "currval",
    "lastval",
    "setval",
    "pg_sleep",
    "set_config",
];

const SET_RETURNING: [&str; 23] = [
    "generate_series",
    "generate_subscripts",
    "unnest",
    "json_array_elements",
    "json_array_elements_text",
    "json_each",
    "json_each_text",
    "json_object_keys",
    "json_populate_recordset",
    "json_to_recordset",
    "jsonb_array_elements",
    "jsonb_array_elements_text",
    "jsonb_each",
    "jsonb_each_text",
    "jsonb_object_keys",
    "jsonb_path_query",
    "jsonb_populate_recordset",
    "jsonb_to_recordset",
    "regexp_matches",
    "regexp_split_to_table",
    "string_to_table",
    "ts_debug",
    "ts_parse",
];

impl FunctionKinds {
    pub fn may_aggregate(&self, name: &str) -> bool {
        AGGREGATES.contains(&name)
            || self.aggregates.contains(name)
            || self.own_aggregates.contains(name)
    }

    /// Whether an aggregate of another schema than `pg_catalog` has the name.
    pub fn is_own_aggregate(&self, name: &str) -> bool {
        self.own_aggregates.contains(name)
    }

    pub fn may_be_volatile(&self, name: &str) -> bool {
        VOLATILE.contains(&name) || self.volatile.contains(name)
    }

    pub fn may_return_sets(&self, name: &str) -> bool {
        SET_RETURNING.contains(&name) || self.set_returning.contains(name)
    }
}
