CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE items (
    id bigint PRIMARY KEY,
    grp integer,
    small smallint,
    price numeric(12, 3),
    amount numeric,
    ratio double precision,
    ratio4 real,
    flag boolean,
    day date,
    at timestamp,
    atz timestamptz,
    tod time,
    span interval,
    code uuid,
    name text,
    c_name text COLLATE "C",
    i_name text COLLATE "en-x-icu",
    n_name text COLLATE nocase,
    bytes bytea,
    fixed char(6),
    short varchar(12),
    doc jsonb,
    list integer[],
    feel mood
);
CREATE TABLE parts (
    item_id bigint,
    part integer,
    qty integer,
    cost numeric(10, 2),
    label text,
    PRIMARY KEY (item_id, part)
);
CREATE TABLE tags (tag text PRIMARY KEY, item_id bigint, weight integer, kind text COLLATE "en-x-icu");
CREATE TABLE nodes (id bigint PRIMARY KEY, parent bigint, title text);
CREATE TABLE empty (id bigint PRIMARY KEY, v integer, t text);
CREATE TABLE "Odd Table" ("Key" bigint PRIMARY KEY, "Mixed Case" text, "select" integer);
CREATE SCHEMA side;
CREATE TABLE side.things (id bigint PRIMARY KEY, v text);
CREATE TABLE colours (colour text PRIMARY KEY, rank integer);
CREATE TABLE lone (id integer PRIMARY KEY, note text);
CREATE VIEW busy AS SELECT item_id, count(*) AS n, sum(qty) AS qty FROM parts GROUP BY item_id;
CREATE FUNCTION half(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 2';
CREATE VIEW cheap AS SELECT id, grp AS "Group", price, name, doc, feel FROM items WHERE price < 50;
CREATE VIEW part_items AS SELECT i.id AS item, p.part, p.qty, i.name, c.rank FROM items i JOIN parts p ON p.item_id = i.id LEFT JOIN colours c ON c.rank = p.part;
CREATE VIEW by_group (g, n, total, first_name) AS SELECT grp, count(*), sum(price), min(name) FROM items GROUP BY grp;
CREATE VIEW per_item AS SELECT i.*, (SELECT count(*) FROM tags t WHERE t.item_id = i.id) AS tagged FROM items i;
CREATE VIEW grouped_items AS SELECT i.id, i.name, i.price * 2 AS twice, count(t.tag) AS tags FROM items i LEFT JOIN tags t ON t.item_id = i.id GROUP BY i.id;
CREATE VIEW over_views AS SELECT b.g, b.n, c.id, c.price FROM by_group b JOIN cheap c ON c."Group" = b.g;
CREATE VIEW named AS SELECT name FROM items;
CREATE VIEW all_ids AS SELECT id, 'item' AS what FROM items UNION ALL SELECT id, 'node' FROM nodes;
CREATE VIEW newest WITH (security_barrier) AS SELECT id, name FROM items ORDER BY id DESC LIMIT 7;
CREATE VIEW odd AS SELECT "Key", "Mixed Case" AS "mixed ""case""", "select" FROM "Odd Table";
CREATE RECURSIVE VIEW tree (id, depth) AS SELECT id, 0 FROM nodes WHERE parent IS NULL UNION ALL SELECT n.id, t.depth + 1 FROM nodes n JOIN tree t ON n.parent = t.id WHERE t.depth < 20;
CREATE VIEW side.things_of AS SELECT t.id, t.v, n.title, half(n.parent::int) AS h FROM side.things t, nodes n WHERE n.parent = t.id;
CREATE VIEW ranked AS SELECT id, price, rank() OVER (ORDER BY price DESC NULLS LAST, id) AS place FROM items;
CREATE VIEW with_lone AS SELECT l.note, i.id FROM lone l LEFT JOIN items i ON i.id = l.id;
CREATE VIEW shown AS SELECT upper(feel::text) AS feel, count(*) AS n, array_agg(id ORDER BY id) AS ids FROM items GROUP BY feel;
CREATE VIEW whole AS SELECT i AS item, i.id FROM items i;
CREATE VIEW editable AS SELECT item_id, part, qty, label FROM parts WHERE part < 1000 WITH CHECK OPTION;
CREATE VIEW palette AS SELECT colour, rank * 2 AS twice FROM colours;
