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
