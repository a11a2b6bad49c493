//! The tables of TPC-H, rows for them, and the 22 queries.
//!
//! Tables and queries are those of the TPC-H specification (revision 3), with its validation parameters where the rows here allow for them. Rows
//! come from a generator of ours with a fixed seed: the specification's own is not needed to compare two answers. Also used by `benches/proxy`.

use std::fmt::Write as _;

/// Primary keys, and no index besides.
pub const SCHEMA: &str = "
    CREATE TABLE region (r_regionkey int PRIMARY KEY, r_name char(25), r_comment varchar(152));
    CREATE TABLE nation (n_nationkey int PRIMARY KEY, n_name char(25), n_regionkey int, n_comment varchar(152));
    CREATE TABLE supplier (s_suppkey int PRIMARY KEY, s_name char(25), s_address varchar(40), s_nationkey int, s_phone char(15),
        s_acctbal numeric(15, 2), s_comment varchar(101));
    CREATE TABLE part (p_partkey int PRIMARY KEY, p_name varchar(55), p_mfgr char(25), p_brand char(10), p_type varchar(25), p_size int,
        p_container char(10), p_retailprice numeric(15, 2), p_comment varchar(23));
    CREATE TABLE partsupp (ps_partkey int, ps_suppkey int, ps_availqty int, ps_supplycost numeric(15, 2), ps_comment varchar(199),
        PRIMARY KEY (ps_partkey, ps_suppkey));
    CREATE TABLE customer (c_custkey int PRIMARY KEY, c_name varchar(25), c_address varchar(40), c_nationkey int, c_phone char(15),
        c_acctbal numeric(15, 2), c_mktsegment char(10), c_comment varchar(117));
    CREATE TABLE orders (o_orderkey bigint PRIMARY KEY, o_custkey int, o_orderstatus char(1), o_totalprice numeric(15, 2), o_orderdate date,
        o_orderpriority char(15), o_clerk char(15), o_shippriority int, o_comment varchar(79));
    CREATE TABLE lineitem (l_orderkey bigint, l_partkey int, l_suppkey int, l_linenumber int, l_quantity numeric(15, 2),
        l_extendedprice numeric(15, 2), l_discount numeric(15, 2), l_tax numeric(15, 2), l_returnflag char(1), l_linestatus char(1),
        l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44),
        PRIMARY KEY (l_orderkey, l_linenumber))";

/// For a configuration with the shards s1 to s4. Suppliers are sharded by a key of their own, so that no join of them is colocated.
pub const TABLES: &str = r#"
[[distributions]]
name = "orders"
key = "bigint"
strategy = "hash"
shards = ["s1", "s2", "s3", "s4"]

[[distributions]]
name = "parts"
key = "integer"
strategy = "hash"
shards = ["s1", "s2", "s3", "s4"]

[[distributions]]
name = "customers"
key = "integer"
strategy = "hash"
shards = ["s4", "s3", "s2", "s1"]

[[distributions]]
name = "suppliers"
key = "integer"
strategy = "hash"
shards = ["s2", "s3"]

[[tables]]
name = "orders"
distribution = "orders"
key = ["o_orderkey"]

[[tables]]
name = "lineitem"
distribution = "orders"
key = ["l_orderkey"]

[[tables]]
name = "part"
distribution = "parts"
key = ["p_partkey"]

[[tables]]
name = "partsupp"
distribution = "parts"
key = ["ps_partkey"]

[[tables]]
name = "customer"
distribution = "customers"
key = ["c_custkey"]

[[tables]]
name = "supplier"
distribution = "suppliers"
key = ["s_suppkey"]

[[tables]]
name = "nation"
placement = "reference"

[[tables]]
name = "region"
placement = "reference"
"#;

/// How many rows there are: so many times the smallest number with which every query has some.
#[derive(Clone, Copy, Debug)]
pub struct Scale(pub u64);

impl Scale {
    fn suppliers(self) -> u64 {
        20 * self.0
    }

    fn parts(self) -> u64 {
        60 * self.0
    }

    fn customers(self) -> u64 {
        45 * self.0
    }

    fn orders(self) -> u64 {
        150 * self.0
    }
}

const NATIONS: [(&str, u64); 25] = [
    ("ALGERIA", 0),
    ("ARGENTINA", 1),
    ("BRAZIL", 1),
    ("CANADA", 1),
    ("EGYPT", 4),
    ("ETHIOPIA", 0),
    ("FRANCE", 3),
    ("GERMANY", 3),
    ("INDIA", 2),
    ("INDONESIA", 2),
    ("IRAN", 4),
    ("IRAQ", 4),
    ("JAPAN", 2),
    ("JORDAN", 4),
    ("KENYA", 0),
    ("MOROCCO", 0),
    ("MOZAMBIQUE", 0),
    ("PERU", 1),
    ("CHINA", 2),
    ("ROMANIA", 3),
    ("SAUDI ARABIA", 4),
    ("VIETNAM", 2),
    ("RUSSIA", 3),
    ("UNITED KINGDOM", 3),
    ("UNITED STATES", 1),
];

/// A multiplicative generator (Knuth's MMIX): the same rows every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[usize::try_from(self.below(words.len() as u64)).unwrap()]
    }

    /// An amount between 0 and `most`, with cents.
    fn amount(&mut self, most: u64) -> String {
        format!("{}.{:02}", self.below(most), self.below(100))
    }
}

/// Of each table, in the order of the keys: what follows INSERT INTO for one row.
pub fn rows(scale: Scale) -> Vec<String> {
    let mut dice = Dice(22);
    let mut rows = Vec::new();
    // Few nations, so that the queries about two of them find rows.
    let nations = [2, 3, 6, 7, 7, 6, 8, 20, 3, 24];
    let nation = |dice: &mut Dice| nations[usize::try_from(dice.below(10)).unwrap()];
    for key in 1..=scale.suppliers() {
        let nation = nation(&mut dice);
        let comment =
            ["quick", "the Customer did Complaints", "slow"][usize::try_from(key % 3).unwrap()];
        rows.push(format!(
            "supplier VALUES ({key}, 'Supplier#{key:09}', 'address {key}', {nation}, '{}-555', {}, '{comment}')",
            10 + nation,
            dice.amount(9000)
        ));
    }
    let syllables = [
        ["STANDARD", "SMALL", "MEDIUM", "ECONOMY", "PROMO"],
        ["ANODIZED", "BURNISHED", "PLATED", "POLISHED", "BRUSHED"],
        ["TIN", "NICKEL", "BRASS", "STEEL", "COPPER"],
    ];
    for key in 1..=scale.parts() {
        let brand = format!("Brand#{}{}", 1 + dice.below(3), 2 + dice.below(2));
        let kind = if key % 9 == 0 {
            "ECONOMY ANODIZED STEEL".to_owned()
        } else {
            syllables.map(|words| dice.of(&words).to_owned()).join(" ")
        };
        let size = [15, 49, 14, 23, 45, 19, 3, 36, 9, 5][usize::try_from(dice.below(10)).unwrap()];
        let container = dice.of(&[
            "SM CASE", "SM BOX", "MED BOX", "MED BAG", "LG CASE", "LG PACK",
        ]);
        let name = format!(
            "{} {}",
            dice.of(&["green", "forest", "almond", "azure"]),
            dice.of(&["lace", "green", "chiffon"])
        );
        rows.push(format!(
            "part VALUES ({key}, '{name}', 'Manufacturer#{}', '{brand}', '{kind}', {size}, '{container}', {}, 'part')",
            1 + dice.below(5),
            dice.amount(2000)
        ));
        for step in 0..4 {
            let supplier = 1 + (key + step * 5) % scale.suppliers();
            rows.push(format!(
                "partsupp VALUES ({key}, {supplier}, {}, {}, 'kept')",
                1 + dice.below(9999),
                dice.amount(1000)
            ));
        }
    }
    for key in 1..=scale.customers() {
        let nation = nation(&mut dice);
        let phone = [13, 31, 23, 29, 30, 18, 17, 20][usize::try_from(dice.below(8)).unwrap()];
        rows.push(format!(
            "customer VALUES ({key}, 'Customer#{key:09}', 'address {key}', {nation}, '{phone}-555', {}, '{}', 'buys')",
            dice.amount(9000),
            dice.of(&["BUILDING", "AUTOMOBILE", "MACHINERY"])
        ));
    }
    for key in 1..=scale.orders() {
        order(key, scale, &mut dice, &mut rows);
    }
    rows
}

fn order(key: u64, scale: Scale, dice: &mut Dice, rows: &mut Vec<String>) {
    // A third of the customers buys nothing.
    let customer = 1 + dice.below(scale.customers() / 3) * 3;
    let days = dice.below(2400);
    let status = dice.of(&["F", "F", "O", "P"]);
    rows.push(format!(
        "orders VALUES ({key}, {customer}, '{status}', {}, date '1992-01-01' + {days}, '{}', 'Clerk', 0, '{}')",
        dice.amount(400_000),
        dice.of(&["1-URGENT", "2-HIGH", "3-MEDIUM", "5-LOW"]),
        dice.of(&["fine", "some special packages requests", "none"])
    ));
    for line in 1..=1 + dice.below(7) {
        let part = 1 + dice.below(scale.parts());
        let supplier = 1 + (part + dice.below(4) * 5) % scale.suppliers();
        let (shipped, committed) = (days + 1 + dice.below(120), days + 30 + dice.below(60));
        let quantity = if key.is_multiple_of(10) {
            50
        } else {
            1 + dice.below(50)
        };
        rows.push(format!(
            "lineitem VALUES ({key}, {part}, {supplier}, {line}, {quantity}, {}, 0.0{}, 0.0{}, '{}', '{}', date '1992-01-01' + {shipped}, \
                date '1992-01-01' + {committed}, date '1992-01-01' + {}, '{}', '{}', 'line')",
            dice.amount(90_000),
            dice.below(10),
            dice.below(9),
            dice.of(&["R", "A", "N"]),
            dice.of(&["O", "F"]),
            shipped + 1 + dice.below(30),
            dice.of(&["DELIVER IN PERSON", "NONE"]),
            dice.of(&["MAIL", "SHIP", "AIR", "AIR REG", "TRUCK"]),
        ));
    }
}

/// Nations and regions: what every shard has.
pub fn reference() -> String {
    let mut sql = String::from(
        "INSERT INTO region VALUES (0, 'AFRICA', ''), (1, 'AMERICA', ''), (2, 'ASIA', ''), (3, 'EUROPE', ''), (4, 'MIDDLE EAST', '');",
    );
    for (key, (name, region)) in NATIONS.iter().enumerate() {
        let _ = write!(
            sql,
            "INSERT INTO nation VALUES ({key}, '{name}', {region}, '');"
        );
    }
    sql
}

/// Q1 to Q22.
pub const QUERIES: [&str; 22] = [
    "select l_returnflag, l_linestatus, sum(l_quantity) as sum_qty, sum(l_extendedprice) as sum_base_price,
        sum(l_extendedprice * (1 - l_discount)) as sum_disc_price, sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) as sum_charge,
        avg(l_quantity) as avg_qty, avg(l_extendedprice) as avg_price, avg(l_discount) as avg_disc, count(*) as count_order
    from lineitem where l_shipdate <= date '1998-12-01' - interval '90' day
    group by l_returnflag, l_linestatus order by l_returnflag, l_linestatus",
    "select s_acctbal, s_name, n_name, p_partkey, p_mfgr, s_address, s_phone, s_comment
    from part, supplier, partsupp, nation, region
    where p_partkey = ps_partkey and s_suppkey = ps_suppkey and p_size in (15, 45, 49) and p_type like '%BRASS' and s_nationkey = n_nationkey
        and n_regionkey = r_regionkey and r_name = 'EUROPE'
        and ps_supplycost = (select min(ps_supplycost) from partsupp, supplier, nation, region
            where p_partkey = ps_partkey and s_suppkey = ps_suppkey and s_nationkey = n_nationkey and n_regionkey = r_regionkey and r_name = 'EUROPE')
    order by s_acctbal desc, n_name, s_name, p_partkey limit 100",
    "select l_orderkey, sum(l_extendedprice * (1 - l_discount)) as revenue, o_orderdate, o_shippriority
    from customer, orders, lineitem
    where c_mktsegment = 'BUILDING' and c_custkey = o_custkey and l_orderkey = o_orderkey and o_orderdate < date '1995-03-15'
        and l_shipdate > date '1993-03-15'
    group by l_orderkey, o_orderdate, o_shippriority order by revenue desc, o_orderdate limit 10",
    "select o_orderpriority, count(*) as order_count from orders
    where o_orderdate >= date '1993-07-01' and o_orderdate < date '1993-07-01' + interval '13' month
        and exists (select * from lineitem where l_orderkey = o_orderkey and l_commitdate < l_receiptdate)
    group by o_orderpriority order by o_orderpriority",
    "select n_name, sum(l_extendedprice * (1 - l_discount)) as revenue
    from customer, orders, lineitem, supplier, nation, region
    where c_custkey = o_custkey and l_orderkey = o_orderkey and l_suppkey = s_suppkey and c_nationkey = s_nationkey and s_nationkey = n_nationkey
        and n_regionkey = r_regionkey and r_name = 'EUROPE' and o_orderdate >= date '1993-01-01' and o_orderdate < date '1993-01-01' + interval '3' year
    group by n_name order by revenue desc",
    "select sum(l_extendedprice * l_discount) as revenue from lineitem
    where l_shipdate >= date '1994-01-01' and l_shipdate < date '1994-01-01' + interval '1' year
        and l_discount between .06 - 0.01 and .06 + 0.01 and l_quantity < 24",
    "select supp_nation, cust_nation, l_year, sum(volume) as revenue from (
        select n1.n_name as supp_nation, n2.n_name as cust_nation, extract(year from l_shipdate) as l_year,
            l_extendedprice * (1 - l_discount) as volume
        from supplier, lineitem, orders, customer, nation n1, nation n2
        where s_suppkey = l_suppkey and o_orderkey = l_orderkey and c_custkey = o_custkey and s_nationkey = n1.n_nationkey
            and c_nationkey = n2.n_nationkey and ((n1.n_name = 'FRANCE' and n2.n_name = 'GERMANY') or (n1.n_name = 'GERMANY' and n2.n_name = 'FRANCE'))
            and l_shipdate between date '1993-01-01' and date '1998-12-31') as shipping
    group by supp_nation, cust_nation, l_year order by supp_nation, cust_nation, l_year",
    "select o_year, sum(case when nation = 'BRAZIL' then volume else 0 end) / sum(volume) as mkt_share from (
        select extract(year from o_orderdate) as o_year, l_extendedprice * (1 - l_discount) as volume, n2.n_name as nation
        from part, supplier, lineitem, orders, customer, nation n1, nation n2, region
        where p_partkey = l_partkey and s_suppkey = l_suppkey and l_orderkey = o_orderkey and o_custkey = c_custkey and c_nationkey = n1.n_nationkey
            and n1.n_regionkey = r_regionkey and r_name = 'AMERICA' and s_nationkey = n2.n_nationkey
            and o_orderdate between date '1992-01-01' and date '1996-12-31' and p_type = 'ECONOMY ANODIZED STEEL') as all_nations
    group by o_year order by o_year",
    "select nation, o_year, sum(amount) as sum_profit from (
        select n_name as nation, extract(year from o_orderdate) as o_year,
            l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity as amount
        from part, supplier, lineitem, partsupp, orders, nation
        where s_suppkey = l_suppkey and ps_suppkey = l_suppkey and ps_partkey = l_partkey and p_partkey = l_partkey and o_orderkey = l_orderkey
            and s_nationkey = n_nationkey and p_name like '%green%') as profit
    group by nation, o_year order by nation, o_year desc",
    "select c_custkey, c_name, sum(l_extendedprice * (1 - l_discount)) as revenue, c_acctbal, n_name, c_address, c_phone, c_comment
    from customer, orders, lineitem, nation
    where c_custkey = o_custkey and l_orderkey = o_orderkey and o_orderdate >= date '1993-10-01' and o_orderdate < date '1993-10-01' + interval '13' month
        and l_returnflag = 'R' and c_nationkey = n_nationkey
    group by c_custkey, c_name, c_acctbal, c_phone, n_name, c_address, c_comment order by revenue desc limit 20",
    "select ps_partkey, sum(ps_supplycost * ps_availqty) as value from partsupp, supplier, nation
    where ps_suppkey = s_suppkey and s_nationkey = n_nationkey and n_name = 'GERMANY'
    group by ps_partkey having sum(ps_supplycost * ps_availqty) > (
        select sum(ps_supplycost * ps_availqty) * 0.0100000000 from partsupp, supplier, nation
        where ps_suppkey = s_suppkey and s_nationkey = n_nationkey and n_name = 'GERMANY')
    order by value desc",
    "select l_shipmode, sum(case when o_orderpriority = '1-URGENT' or o_orderpriority = '2-HIGH' then 1 else 0 end) as high_line_count,
        sum(case when o_orderpriority <> '1-URGENT' and o_orderpriority <> '2-HIGH' then 1 else 0 end) as low_line_count
    from orders, lineitem
    where o_orderkey = l_orderkey and l_shipmode in ('MAIL', 'SHIP') and l_commitdate < l_receiptdate and l_shipdate < l_commitdate
        and l_receiptdate >= date '1994-01-01' and l_receiptdate < date '1994-01-01' + interval '2' year
    group by l_shipmode order by l_shipmode",
    "select c_count, count(*) as custdist from (
        select c_custkey, count(o_orderkey) from customer left outer join orders on c_custkey = o_custkey and o_comment not like '%special%requests%'
        group by c_custkey) as c_orders (c_custkey, c_count)
    group by c_count order by custdist desc, c_count desc",
    "select 100.00 * sum(case when p_type like 'PROMO%' then l_extendedprice * (1 - l_discount) else 0 end) / sum(l_extendedprice * (1 - l_discount)) as promo_revenue
    from lineitem, part where l_partkey = p_partkey and l_shipdate >= date '1995-01-01' and l_shipdate < date '1995-01-01' + interval '1' year",
    "with revenue (supplier_no, total_revenue) as (
        select l_suppkey, sum(l_extendedprice * (1 - l_discount)) from lineitem
        where l_shipdate >= date '1996-01-01' and l_shipdate < date '1996-01-01' + interval '3' month group by l_suppkey)
    select s_suppkey, s_name, s_address, s_phone, total_revenue from supplier, revenue
    where s_suppkey = supplier_no and total_revenue = (select max(total_revenue) from revenue) order by s_suppkey",
    "select p_brand, p_type, p_size, count(distinct ps_suppkey) as supplier_cnt from partsupp, part
    where p_partkey = ps_partkey and p_brand <> 'Brand#45' and p_type not like 'MEDIUM POLISHED%' and p_size in (49, 14, 23, 45, 19, 3, 36, 9)
        and ps_suppkey not in (select s_suppkey from supplier where s_comment like '%Customer%Complaints%')
    group by p_brand, p_type, p_size order by supplier_cnt desc, p_brand, p_type, p_size",
    "select sum(l_extendedprice) / 7.0 as avg_yearly from lineitem, part
    where p_partkey = l_partkey and p_brand = 'Brand#23' and l_quantity < (select 0.6 * avg(l_quantity) from lineitem where l_partkey = p_partkey)",
    "select c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice, sum(l_quantity) from customer, orders, lineitem
    where o_orderkey in (select l_orderkey from lineitem group by l_orderkey having sum(l_quantity) > 200) and c_custkey = o_custkey and o_orderkey = l_orderkey
    group by c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice order by o_totalprice desc, o_orderdate limit 100",
    "select sum(l_extendedprice * (1 - l_discount)) as revenue from lineitem, part
    where (p_partkey = l_partkey and p_brand = 'Brand#12' and p_container in ('SM CASE', 'SM BOX', 'SM PACK', 'SM PKG') and l_quantity >= 1 and l_quantity <= 11
            and p_size between 1 and 50 and l_shipmode in ('AIR', 'AIR REG') and l_shipinstruct = 'DELIVER IN PERSON')
        or (p_partkey = l_partkey and p_brand = 'Brand#23' and p_container in ('MED BAG', 'MED BOX', 'MED PKG', 'MED PACK') and l_quantity >= 10
            and l_quantity <= 50 and p_size between 1 and 50 and l_shipmode in ('AIR', 'AIR REG') and l_shipinstruct = 'DELIVER IN PERSON')
        or (p_partkey = l_partkey and p_brand = 'Brand#33' and p_container in ('LG CASE', 'LG BOX', 'LG PACK', 'LG PKG') and l_quantity >= 20
            and l_quantity <= 50 and p_size between 1 and 50 and l_shipmode in ('AIR', 'AIR REG') and l_shipinstruct = 'DELIVER IN PERSON')",
    "select s_name, s_address from supplier, nation
    where s_suppkey in (select ps_suppkey from partsupp
            where ps_partkey in (select p_partkey from part where p_name like 'forest%')
                and ps_availqty > (select 0.5 * sum(l_quantity) from lineitem
                    where l_partkey = ps_partkey and l_suppkey = ps_suppkey and l_shipdate >= date '1993-01-01' and l_shipdate < date '1993-01-01' + interval '3' year))
        and s_nationkey = n_nationkey and n_name = 'CANADA'
    order by s_name",
    "select s_name, count(*) as numwait from supplier, lineitem l1, orders, nation
    where s_suppkey = l1.l_suppkey and o_orderkey = l1.l_orderkey and o_orderstatus = 'F' and l1.l_receiptdate > l1.l_commitdate
        and exists (select * from lineitem l2 where l2.l_orderkey = l1.l_orderkey and l2.l_suppkey <> l1.l_suppkey)
        and not exists (select * from lineitem l3 where l3.l_orderkey = l1.l_orderkey and l3.l_suppkey <> l1.l_suppkey and l3.l_receiptdate > l3.l_commitdate)
        and s_nationkey = n_nationkey and n_name in ('SAUDI ARABIA', 'GERMANY', 'FRANCE')
    group by s_name order by numwait desc, s_name limit 100",
    "select cntrycode, count(*) as numcust, sum(c_acctbal) as totacctbal from (
        select substring(c_phone from 1 for 2) as cntrycode, c_acctbal from customer
        where substring(c_phone from 1 for 2) in ('13', '31', '23', '29', '30', '18', '17')
            and c_acctbal > (select avg(c_acctbal) from customer where c_acctbal > 0.00 and substring(c_phone from 1 for 2) in ('13', '31', '23', '29', '30', '18', '17'))
            and not exists (select * from orders where o_custkey = c_custkey)) as custsale
    group by cntrycode order by cntrycode",
];
