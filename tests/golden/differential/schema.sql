CREATE TABLE customers (
    customer_id bigint PRIMARY KEY,
    name text NOT NULL,
    country char(2),
    balance numeric(12, 2) DEFAULT 0,
    note text
);
CREATE TABLE orders (
    customer_id bigint REFERENCES customers,
    order_id integer,
    total numeric(12, 2) CHECK (total >= 0),
    placed date,
    status text DEFAULT 'new',
    PRIMARY KEY (customer_id, order_id)
);
CREATE TABLE order_lines (
    line integer,
    order_id integer,
    customer_id bigint,
    product text,
    amount integer DEFAULT 1,
    PRIMARY KEY (customer_id, order_id, line),
    FOREIGN KEY (customer_id, order_id) REFERENCES orders ON DELETE CASCADE
);
-- The key may be NULL, and its column has another name.
CREATE TABLE notes (client bigint, written timestamp, body text);
CREATE TABLE pages (slug text PRIMARY KEY, title text, views integer DEFAULT 0);
CREATE TABLE links (slug text, target text, position integer, PRIMARY KEY (slug, position));
CREATE TABLE sessions (id uuid PRIMARY KEY, customer_id bigint, data jsonb);
CREATE TABLE events (day date, id integer, kind text, PRIMARY KEY (day, id));
CREATE TABLE contracts ("Tenant" varchar(20), number smallint, title text, PRIMARY KEY ("Tenant", number));
CREATE TABLE profiles (country text, user_id bigint, name text, PRIMARY KEY (country, user_id));
CREATE TABLE accounts (id integer PRIMARY KEY, owner text, amount bigint DEFAULT 0);
CREATE TABLE readings (device smallint, at timestamptz, value double precision, PRIMARY KEY (device, at));
CREATE TABLE ledger (number numeric PRIMARY KEY, text text);
CREATE TABLE blobs (hash bytea PRIMARY KEY, size integer);
CREATE TABLE codes (code char(4) PRIMARY KEY, meaning text);
CREATE TABLE countries (code char(2) PRIMARY KEY, name text, continent text);
CREATE TABLE settings (name text PRIMARY KEY, value text);
CREATE TABLE audit (id integer PRIMARY KEY, customer_id bigint, what text);
CREATE VIEW big_orders AS SELECT * FROM orders WHERE total > 50;
CREATE FUNCTION order_count(bigint) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM orders WHERE customer_id = $1';
CREATE FUNCTION twice(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
