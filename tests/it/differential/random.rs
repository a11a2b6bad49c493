//! Statements made at random, the same for the same seed. They lean towards keys that stay on one shard, so that most are answered, and
//! try what would go to the wrong shard if a rule of the planner were left out.

use super::data;
use super::pair::{Case, Rows, Sending};

/// A generator of numbers (splitmix64) and of statements.
pub struct Random {
    state: u64,
    parameters: Vec<(String, Option<String>)>,
    /// The customer that the statement at hand is mostly about.
    customer: i64,
}

/// A table of the customers' distribution, its key and two more columns.
#[derive(Clone, Copy)]
struct Table {
    name: &'static str,
    key: &'static str,
    number: &'static str,
    text: &'static str,
}

const TABLES: [Table; 4] = [
    Table {
        name: "customers",
        key: "customer_id",
        number: "balance",
        text: "name",
    },
    Table {
        name: "orders",
        key: "customer_id",
        number: "order_id",
        text: "status",
    },
    Table {
        name: "order_lines",
        key: "customer_id",
        number: "line",
        text: "product",
    },
    Table {
        name: "notes",
        key: "client",
        number: "client",
        text: "body",
    },
];

impl Random {
    pub fn new(seed: u64) -> Random {
        Random {
            state: seed,
            parameters: Vec::new(),
            customer: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % end as u64).unwrap()
    }

    pub(super) fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn any_customer(&mut self) -> i64 {
        if self.one_in(12) {
            return self.pick(&[i64::MIN, -5, -1, 0, 4_294_967_296, i64::MAX, 77_777]);
        }
        i64::try_from(self.below(24)).unwrap() + *data::CUSTOMERS.start()
    }

    pub fn case(&mut self) -> Case {
        self.parameters.clear();
        self.customer = self.any_customer();
        let sql = match self.below(20) {
            0..=12 => self.query(),
            13 => self.insert(),
            14 => self.insert_select(),
            15 | 16 => self.update(),
            17 => self.delete(),
            18 => self.text_query(),
            _ => self.pair_query(),
        };
        Case {
            sql,
            parameters: std::mem::take(&mut self.parameters),
            rows: Rows::Multiset,
            sending: Sending::Whole,
        }
    }

    /// MERGE, of rows of which most are joined on the key.
    pub fn merge_case(&mut self) -> Case {
        self.parameters.clear();
        self.customer = self.any_customer();
        Case {
            sql: self.merge(),
            parameters: std::mem::take(&mut self.parameters),
            rows: Rows::Multiset,
            sending: Sending::Whole,
        }
    }

    fn merge(&mut self) -> String {
        // No other table takes every row.
        let notes = TABLES[3];
        let target = if self.one_in(4) {
            self.pick(&TABLES)
        } else {
            notes
        };
        let source = self.pick(&TABLES);
        let (name, key, text) = (source.name, source.key, source.text);
        let (from, id, words) = match self.below(11) {
            0..=3 => (format!("{name} s"), format!("s.{key}"), format!("s.{text}")),
            4 => {
                let condition = self.small_condition(source.number, text);
                let query =
                    format!("SELECT {key} AS id, {text} AS words FROM {name} WHERE {condition}");
                (format!("({query}) s"), "s.id".into(), "s.words".into())
            }
            5 => (
                format!("(SELECT * FROM {name}) s"),
                format!("s.{key}"),
                format!("s.{text}"),
            ),
            6 => {
                let query =
                    format!("SELECT {key} AS id, min({text}) AS words FROM {name} GROUP BY {key}");
                (format!("({query}) s"), "s.id".into(), "s.words".into())
            }
            7 => {
                let query = format!("SELECT {} AS id, 'a'::text AS words", self.value());
                (format!("({query}) s"), "s.id".into(), "s.words".into())
            }
            8 => {
                let row = format!("({}, 'b')", self.value());
                let list = format!("(VALUES {row}) s (id, words)");
                (list, "s.id".into(), "s.words".into())
            }
            9 => {
                let condition = self.key_condition(key);
                let query =
                    format!("SELECT {key} AS id, {text} AS words FROM {name} WHERE {condition}");
                (format!("({query}) s"), "s.id".into(), "s.words".into())
            }
            _ => {
                let query = format!("SELECT {key} + 1 AS id, {text} AS words FROM {name}");
                (format!("({query}) s"), "s.id".into(), "s.words".into())
            }
        };
        let same = format!("t.{} = {id}", target.key);
        let number = format!("t.{}", target.number);
        let on = match self.below(10) {
            0..=3 => same,
            4 => format!("{id} = t.{}", target.key),
            5 | 6 => format!("{same} AND {}", self.small_condition(&number, &words)),
            7 => format!(
                "{} AND {same}",
                self.key_condition(&format!("t.{}", target.key))
            ),
            8 => self.key_condition(&format!("t.{}", target.key)),
            _ => format!("{same} OR {}", self.small_condition(&number, &words)),
        };
        let mut merge = format!("MERGE INTO {} t USING {from} ON {on}", target.name);
        let has_matched = target.name != notes.name || self.one_in(2);
        if has_matched {
            let update = format!("UPDATE SET {} = coalesce({words}, 'x')", target.text);
            let condition = self.small_condition(&number, &words);
            merge += &match self.below(3) {
                0 => format!(" WHEN MATCHED AND {condition} THEN {update}"),
                1 => format!(
                    " WHEN MATCHED AND {condition} THEN DO NOTHING WHEN MATCHED THEN {update}"
                ),
                _ => format!(" WHEN MATCHED THEN {update}"),
            };
        }
        if !has_matched || target.name == notes.name && self.one_in(2) {
            let inserted = match self.below(8) {
                0 => format!("{id} + 1"),
                1 => self.value(),
                _ => id.clone(),
            };
            let condition = match self.below(3) {
                0 => format!(" AND {}", self.small_condition(&id, &words)),
                _ => String::new(),
            };
            merge += &format!(
                " WHEN NOT MATCHED{condition} THEN INSERT (body, client) VALUES ({words}, {inserted})"
            );
        }
        merge
    }

    /// The statement's customer, at times another one.
    fn id(&mut self) -> i64 {
        if self.one_in(10) {
            self.any_customer()
        } else {
            self.customer
        }
    }

    /// A value for the key, in one of the forms that it may be written in.
    fn value(&mut self) -> String {
        let id = self.id();
        // A parameter goes by different ways, with its value as a literal in one of them.
        if self.one_in(3) {
            let of_type = if i32::try_from(id).is_ok() {
                self.pick(&["bigint", "bigint", "int"])
            } else {
                "bigint"
            };
            self.parameters.push((of_type.into(), Some(id.to_string())));
            let cast = self.pick(&["", "", "", "::bigint"]);
            return format!("${}{cast}", self.parameters.len());
        }
        match self.below(12) {
            0..=4 => id.to_string(),
            5 => format!("'{id}'"),
            6 => format!("'{id}'::bigint"),
            7 => format!("({id})"),
            8 => format!("CAST({id} AS bigint)"),
            9 => format!("bigint '{id}'"),
            10 if id >= 0 => format!("+{id}"),
            10 | 11 if id < 0 && id != i64::MIN => format!("-({})", -id),
            _ => format!("({id}::bigint)"),
        }
    }

    /// A condition that keeps the relation on one shard, most of the time.
    fn key_condition(&mut self, column: &str) -> String {
        let form = self.below(24);
        if form >= 22 {
            let (one, other) = (self.customer, self.id());
            let array = if form == 22 {
                format!("ARRAY[{one}, {other}]")
            } else {
                format!("'{{{one},{other}}}'")
            };
            return format!("{column} = ANY ({array})");
        }
        let value = self.value();
        match form {
            0..=9 => format!("{column} = {value}"),
            10 | 11 => format!("{value} = {column}"),
            12 => format!("{column} IN ({value})"),
            13 => format!("{column} IN ({value}, {})", self.value()),
            14 => format!("({column} = {value} OR {column} = {})", self.value()),
            15 => format!("({column} = {value} AND {column} IS NOT NULL)"),
            16 => format!("{column} = {value} AND {column} > {}", self.id()),
            17 => format!("({column}) = {value}"),
            18 => format!("NOT ({column} <> {value})"),
            19 => format!("{column} BETWEEN {value} AND {}", self.value()),
            20 => format!("({column} = {value}) IS NOT FALSE"),
            _ => format!("{column} = {value} OR {}", self.small_condition("1", "'a'")),
        }
    }

    /// A condition that says nothing of keys.
    fn small_condition(&mut self, number: &str, text: &str) -> String {
        match self.below(8) {
            0 => format!("{number} > {}", self.below(5)),
            1 => format!("{number} = 1"),
            2 => format!("{text} LIKE '%a%'"),
            3 => format!("{text} IS NOT NULL"),
            4 => format!("coalesce({number}, 0) <> 2"),
            5 => format!("{text} <> 'it''s; -- not'"),
            6 => "true".into(),
            _ => format!("{number} IN (1, 2, 3)"),
        }
    }

    fn condition(&mut self, alias: &str, table: Table) -> String {
        let key = self.key_condition(&format!("{alias}.{}", table.key));
        if self.one_in(3) {
            return key;
        }
        let small = self.small_condition(
            &format!("{alias}.{}", table.number),
            &format!("{alias}.{}", table.text),
        );
        match self.below(12) {
            0..=4 => format!("{key} AND {small}"),
            5..=8 => format!("{small} AND {key}"),
            9 => format!("({key}) AND ({small})"),
            10 => format!("{key} OR {small}"),
            _ => format!("NOT (NOT ({key}) OR NOT ({small}))"),
        }
    }

    fn query(&mut self) -> String {
        match self.below(14) {
            0..=2 => self.simple_query("t"),
            3..=7 => self.join(),
            8 => self.set_operation(),
            9 => format!(
                "SELECT * FROM ({}) s{}",
                self.simple_query("t"),
                self.pick(&["", " WHERE true", " ORDER BY 1 LIMIT 100"])
            ),
            10 => format!("WITH w AS ({}) SELECT * FROM w", self.simple_query("t")),
            11 => self.filtered_outside(),
            12 => self.correlated(),
            _ => self.aggregate(),
        }
    }

    fn simple_query(&mut self, alias: &str) -> String {
        let table = self.pick(&TABLES);
        let condition = self.condition(alias, table);
        let (key, number, text) = (table.key, table.number, table.text);
        let columns = match self.below(5) {
            0 => "*".into(),
            1 => format!("{alias}.*, 1 AS one"),
            2 => format!("{alias}.{key}, {alias}.{number} + 1, upper({alias}.{text})"),
            3 => format!("DISTINCT {alias}.{key}, {alias}.{text}"),
            _ => format!("{key}, count(*) OVER (PARTITION BY {alias}.{text}), {text}"),
        };
        format!(
            "SELECT {columns} FROM {} {alias} WHERE {condition}",
            table.name
        )
    }

    fn join(&mut self) -> String {
        let (a, b) = (self.pick(&TABLES), self.pick(&TABLES));
        let kind = self.pick(&[
            "JOIN",
            "JOIN",
            "LEFT JOIN",
            "RIGHT JOIN",
            "FULL JOIN",
            "INNER JOIN",
        ]);
        let same = format!("a.{} = b.{}", a.key, b.key);
        let on = match self.below(9) {
            0..=3 => same,
            4 => format!("b.{} = a.{}", b.key, a.key),
            5 => format!("{same} AND {}", self.key_condition(&format!("b.{}", b.key))),
            6 => format!(
                "{same} AND {}",
                self.small_condition(&format!("b.{}", b.number), &format!("b.{}", b.text))
            ),
            7 => self.key_condition(&format!("b.{}", b.key)),
            _ => format!("a.{} = b.{}", a.number, b.number),
        };
        let side = if self.one_in(3) { ("b", b) } else { ("a", a) };
        let mut condition = self.condition(side.0, side.1);
        if self.one_in(4) {
            let other = if side.0 == "a" { ("b", b) } else { ("a", a) };
            condition += &format!(
                " AND {}",
                self.key_condition(&format!("{}.{}", other.0, other.1.key))
            );
        }
        let mut from = format!("{} a {kind} {} b ON {on}", a.name, b.name);
        if self.one_in(4) {
            let c = self.pick(&TABLES);
            let kind = self.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
            let to = self.pick(&[("a", a), ("b", b)]);
            from += &format!(
                " {kind} {} c ON c.{} = {}.{}",
                c.name, c.key, to.0, to.1.key
            );
        }
        if self.one_in(6) {
            from += " LEFT JOIN countries k ON k.code = 'DE'";
        }
        if self.one_in(8) {
            from = format!("{} a, {} b", a.name, b.name);
        }
        if self.one_in(12) {
            return format!("SELECT * FROM {from}");
        }
        format!("SELECT * FROM {from} WHERE {condition}")
    }

    fn set_operation(&mut self) -> String {
        let one = |random: &mut Random| {
            let table = random.pick(&TABLES);
            let condition = random.condition("t", table);
            format!(
                "SELECT t.{} FROM {} t WHERE {condition}",
                table.key, table.name
            )
        };
        let operation = self.pick(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT", "EXCEPT ALL"]);
        format!("{} {operation} {}", one(self), one(self))
    }

    /// The key's condition stands outside the query that reads the table.
    fn filtered_outside(&mut self) -> String {
        let table = self.pick(&TABLES);
        let (name, key) = (table.name, table.key);
        let inner = match self.below(7) {
            0 => format!("SELECT * FROM {name}"),
            1 => format!("SELECT {key}, count(*) AS n FROM {name} GROUP BY {key}"),
            2 => format!("SELECT DISTINCT {key} FROM {name}"),
            3 => format!("SELECT {key} + 1 AS {key} FROM {name}"),
            4 => format!("SELECT * FROM {name} ORDER BY 1, 2, 3 LIMIT 3"),
            5 => format!("SELECT *, rank() OVER (ORDER BY {key}) FROM {name}"),
            _ => format!("SELECT {key} FROM {name} UNION SELECT customer_id FROM customers"),
        };
        let condition = self.key_condition(&format!("s.{key}"));
        match self.below(3) {
            0 => format!("WITH s AS ({inner}) SELECT * FROM s WHERE {condition}"),
            1 => format!(
                "WITH s AS NOT MATERIALIZED ({inner}) SELECT * FROM s JOIN orders o ON o.customer_id = s.{key} WHERE {condition}"
            ),
            _ => format!("SELECT * FROM ({inner}) s WHERE {condition}"),
        }
    }

    fn correlated(&mut self) -> String {
        let (a, b) = (self.pick(&TABLES), self.pick(&TABLES));
        let inner = match self.below(5) {
            0..=2 => format!("b.{} = a.{}", b.key, a.key),
            3 => self.condition("b", b),
            _ => format!(
                "b.{} = a.{} AND {}",
                b.key,
                a.key,
                self.key_condition(&format!("b.{}", b.key))
            ),
        };
        let condition = match self.below(6) {
            0 => format!("EXISTS (SELECT 1 FROM {} b WHERE {inner})", b.name),
            1 => format!("NOT EXISTS (SELECT 1 FROM {} b WHERE {inner})", b.name),
            2 => format!(
                "a.{} IN (SELECT b.{} FROM {} b WHERE {inner})",
                a.key, b.key, b.name
            ),
            3 => format!(
                "a.{} NOT IN (SELECT b.{} FROM {} b WHERE {inner})",
                a.key, b.key, b.name
            ),
            4 => format!("(SELECT count(*) FROM {} b WHERE {inner}) > 0", b.name),
            _ => format!(
                "a.{} = (SELECT max(b.{}) FROM {} b WHERE {inner})",
                a.key, b.key, b.name
            ),
        };
        if self.one_in(4) {
            return format!("SELECT * FROM {} a WHERE {condition}", a.name);
        }
        format!(
            "SELECT * FROM {} a WHERE {} AND {condition}",
            a.name,
            self.key_condition(&format!("a.{}", a.key))
        )
    }

    fn aggregate(&mut self) -> String {
        let table = self.pick(&TABLES);
        let condition = self.condition("t", table);
        let Table {
            name,
            key,
            number,
            text,
        } = table;
        match self.below(5) {
            0 => format!(
                "SELECT count(*), min({number}), max({text}) FROM {name} t WHERE {condition}"
            ),
            1 => format!(
                "SELECT {text}, sum({number}) FROM {name} t WHERE {condition} GROUP BY {text} HAVING count(*) > 0"
            ),
            2 => format!(
                "SELECT count(*) FILTER (WHERE {}) FROM {name} t",
                self.key_condition(&format!("t.{key}"))
            ),
            3 => format!(
                "SELECT {key}, string_agg({text}, ',' ORDER BY {text}, {number}) FROM {name} t WHERE {condition} GROUP BY 1"
            ),
            _ => format!(
                "SELECT {text} FROM {name} t GROUP BY {text} HAVING {}",
                self.key_condition(&format!("max(t.{key})"))
            ),
        }
    }

    fn insert(&mut self) -> String {
        let rows = self.below(3) + 1;
        let new = 100_000 + i64::try_from(self.below(1000)).unwrap();
        self.customer = if self.one_in(3) { self.customer } else { new };
        let values: Vec<String> = (0..rows)
            .map(|row| format!("({}, 'row {row}', {row})", self.value()))
            .collect();
        let (columns, values) = if self.one_in(3) {
            (
                "",
                values
                    .join(", ")
                    .replace(", 0)", ")")
                    .replace(", 1)", ")")
                    .replace(", 2)", ")"),
            )
        } else {
            (" (customer_id, name, balance)", values.join(", "))
        };
        let conflict = self.pick(&[
            "",
            "",
            " ON CONFLICT DO NOTHING",
            " ON CONFLICT (customer_id) DO UPDATE SET name = excluded.name || '!'",
            " ON CONFLICT (customer_id) DO UPDATE SET customer_id = excluded.customer_id + 1",
        ]);
        let returning = self.pick(&["", " RETURNING *", " RETURNING customer_id AS c, name"]);
        format!("INSERT INTO customers{columns} VALUES {values}{conflict}{returning}")
    }

    fn insert_select(&mut self) -> String {
        let table = self.pick(&TABLES);
        let condition = self.condition("t", table);
        let (name, key, text) = (table.name, table.key, table.text);
        let (columns, output) = self.pick(&[
            ("(client, body)", "{key}, {text}"),
            ("(client, body)", "{key}, {text}"),
            ("(body, client)", "{text}, {key}"),
            ("(client, body)", "{key} + 1, {text}"),
            ("(client, body)", "5, {text}"),
            ("", "{key}, '2024-01-01'::timestamp, {text}"),
        ]);
        let output = output
            .replace("{key}", &format!("t.{key}"))
            .replace("{text}", &format!("t.{text}"));
        format!(
            "INSERT INTO notes {columns} SELECT {output} FROM {name} t WHERE {condition} RETURNING client"
        )
    }

    fn update(&mut self) -> String {
        let table = self.pick(&TABLES);
        let condition = self.condition("t", table);
        let (name, key, text) = (table.name, table.key, table.text);
        let set = match self.below(7) {
            6 => format!("{text} = (SELECT max(o.{text}) FROM {name} o WHERE o.{key} < t.{key})"),
            0..=2 => format!("{text} = t.{text} || '+'"),
            3 => format!(
                "{text} = (SELECT max(c.name) FROM customers c WHERE c.customer_id = t.{key})"
            ),
            4 => format!(
                "{text} = (SELECT max(c.name) FROM customers c WHERE {})",
                self.key_condition("c.customer_id")
            ),
            _ => format!("{key} = t.{key} + 1"),
        };
        let from = self.pick(&[
            "",
            "",
            " FROM customers c WHERE c.customer_id = t.{key} AND",
            " FROM customers c WHERE c.customer_id = least(t.{key}, 1000) + 1 AND",
            " FROM customers c WHERE c.name > t.{text} AND",
            " FROM countries k WHERE k.code = 'DE' AND",
        ]);
        let from = if from.is_empty() {
            " WHERE".to_owned()
        } else {
            from.replace("{key}", key).replace("{text}", text)
        };
        format!("UPDATE {name} t SET {set}{from} ({condition}) RETURNING t.*")
    }

    fn delete(&mut self) -> String {
        let table = self.pick(&TABLES);
        let condition = self.condition("t", table);
        let (name, key) = (table.name, table.key);
        let using = self.pick(&[
            "",
            "",
            " USING customers c WHERE c.customer_id = t.{key} AND",
            " USING customers c WHERE least(c.customer_id, 1000) + 1 = t.{key} AND",
            " WHERE t.{key} IN (SELECT least(o.{key}, 1000) + 1 FROM {name} o) AND",
            " WHERE NOT EXISTS (SELECT FROM customers c WHERE c.name = t.{text}) AND",
        ]);
        let using = if using.is_empty() {
            " WHERE".to_owned()
        } else {
            let of_key = using.replace("{key}", key);
            of_key.replace("{name}", name).replace("{text}", table.text)
        };
        format!("DELETE FROM {name} t{using} ({condition})")
    }

    /// Keys of text.
    fn text_query(&mut self) -> String {
        let slug = self.pick(&data::SLUGS);
        let quoted = slug.replace('\'', "''");
        let value = match self.below(6) {
            0 => {
                let of_type = self.pick(&["text", "varchar"]);
                self.parameters.push((of_type.into(), Some(slug.into())));
                "$1".into()
            }
            1 => format!("E'{}'", slug.replace('\\', "\\\\").replace('\'', "\\'")),
            2 => format!("$x${slug}$x$"),
            3 => format!("'{quoted}'::text"),
            _ => format!("'{quoted}'"),
        };
        match self.below(4) {
            0 => format!(
                "SELECT * FROM pages p LEFT JOIN links l USING (slug) WHERE p.slug = {value}"
            ),
            1 => format!("SELECT * FROM pages WHERE slug IN ({value}, {value})"),
            2 => format!("UPDATE pages SET views = views + 1 WHERE {value} = slug RETURNING *"),
            _ => format!("SELECT title, {value} FROM pages WHERE slug = {value} AND views >= 0"),
        }
    }

    /// Keys of two columns.
    fn pair_query(&mut self) -> String {
        let country = self.pick(&["DE", "FR", "US", "XX", "PL"]);
        let user = self.below(9) + 1;
        match self.below(7) {
            0 | 1 => {
                format!("SELECT * FROM profiles WHERE country = '{country}' AND user_id = {user}")
            }
            2 => format!(
                "SELECT * FROM profiles WHERE user_id = {user} AND country IN ('{country}', '{}')",
                self.pick(&["DE", "FR", "US", "XX", "PL"])
            ),
            3 => format!(
                "SELECT * FROM profiles WHERE (country, user_id) IN (('{country}', {user}), ('{country}', 7))"
            ),
            4 => format!("SELECT count(*) FROM profiles WHERE country = '{country}'"),
            5 => format!(
                "SELECT * FROM profiles a JOIN profiles b USING (country, user_id) WHERE a.country = '{country}' AND b.user_id = {user}"
            ),
            _ => format!(
                "UPDATE profiles SET name = 'x' WHERE country = '{country}' AND (user_id = {user} OR user_id = 7) RETURNING *"
            ),
        }
    }
}
