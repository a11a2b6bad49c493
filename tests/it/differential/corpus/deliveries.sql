-- INSERT ... SELECT of rows from other shards, and COPY of queries over several shards. All is undone at the end of a block.

# line by line
BEGIN
INSERT INTO nodes (id, parent, title) SELECT id + 100000, id, name FROM items
SELECT * FROM nodes ORDER BY id
INSERT INTO nodes SELECT t.item_id * 7919 + 200000, count(*) FROM tags t WHERE t.item_id IS NOT NULL GROUP BY t.item_id
SELECT * FROM nodes ORDER BY id
INSERT INTO parts (item_id, part, qty, cost, label) SELECT grp, row_number() OVER (ORDER BY id) + 1000, small, price, name FROM items WHERE grp IS NOT NULL
SELECT * FROM parts ORDER BY item_id, part
INSERT INTO tags SELECT 'made ' || id, id, grp, name FROM items WHERE id < 20
SELECT * FROM tags ORDER BY tag COLLATE "C"
INSERT INTO items SELECT id + 300000, grp, small, price, amount, ratio, ratio4, flag, day, at, atz, tod, span, code, name, c_name, i_name, n_name, bytes, fixed, short, doc, list, feel FROM items
SELECT * FROM items ORDER BY id
INSERT INTO items (id, short, price, feel, day, doc) SELECT item_id * 10000 + 400000 + part, 'abc', cost, 'sad', '2024-05-05', '{"a": 1}' FROM parts WHERE item_id < 30
SELECT * FROM items WHERE id > 400000 ORDER BY id
INSERT INTO lone SELECT id + 500, name FROM items WHERE id < 10
SELECT * FROM lone ORDER BY id
INSERT INTO nodes (id, title) SELECT n + 600000, c.colour FROM by_group, colours c
SELECT count(*), max(title COLLATE "C") FROM nodes WHERE id > 600000
INSERT INTO empty (id, v) SELECT id + 1, 1 FROM items LIMIT 0
INSERT INTO empty (id, v, t) SELECT id * 3, grp, c_name FROM items ORDER BY id DESC LIMIT 5
SELECT * FROM empty ORDER BY id
INSERT INTO empty (id) TABLE lone
INSERT INTO "Odd Table" ("Key", "Mixed Case") SELECT "Key" + 1000, "Mixed Case" FROM "Odd Table"
SELECT * FROM "Odd Table" ORDER BY 1
INSERT INTO side.things (id, v) SELECT t.id + 1000, t.v FROM side.things t
SELECT * FROM side.things ORDER BY id
INSERT INTO nodes (id, title) SELECT g, 'made ' || g FROM generate_series(800000, 800099) AS g
INSERT INTO nodes (id, title) SELECT 900000 + x, y FROM (VALUES (1, 'a'), (2, 'b'), (3, 'c')) AS v (x, y)
SELECT * FROM nodes WHERE id >= 800000 ORDER BY id
ROLLBACK
SELECT count(*), sum(id) FROM nodes

# line by line
BEGIN
INSERT INTO nodes (id, title) SELECT rank + 800000, colour FROM colours WHERE rank IS NOT NULL
INSERT INTO nodes (id) SELECT 910000 + generate_series(1, 20)
SELECT * FROM nodes WHERE id >= 800000 ORDER BY id
ROLLBACK

# line by line
BEGIN
INSERT INTO nodes (id) SELECT 4321 FROM items UNION ALL SELECT 4321 FROM items
ROLLBACK

# line by line
BEGIN
INSERT INTO parts (item_id, part) SELECT parent, 5 FROM nodes WHERE parent IS NULL
ROLLBACK

# line by line
BEGIN
INSERT INTO items (id, short) SELECT id + 9000, 'far too long for this' FROM nodes
ROLLBACK

# line by line
BEGIN
INSERT INTO items (id, small) SELECT id + 9000, 70000 FROM nodes
ROLLBACK

# line by line
BEGIN
INSERT INTO items (id, grp) SELECT id + 9000, 1 / (id - id) FROM nodes
ROLLBACK

INSERT INTO items (id, grp) SELECT id + 9000, title FROM nodes

INSERT INTO items (id, no_such) SELECT id + 9000, title FROM nodes

INSERT INTO items (id, grp) SELECT id + 9000 FROM nodes

INSERT INTO nodes (id, title) SELECT id + 1, name FROM items RETURNING id

INSERT INTO nodes (id, title) SELECT id + 1, name FROM items ON CONFLICT DO NOTHING

# line by line
BEGIN
SAVEPOINT a
INSERT INTO nodes (id) SELECT 1 FROM items
ROLLBACK TO a
UPDATE items SET grp = 5 WHERE id = 3
INSERT INTO nodes (id, parent) SELECT id + 100000, grp FROM items
SELECT id, parent FROM nodes WHERE id > 100000 ORDER BY id
ROLLBACK

@ bigint 700000
@ text x
INSERT INTO empty (id, v, t) SELECT id + $1, grp, $2 FROM items WHERE id < 5

DELETE FROM empty WHERE id > 700000

COPY (SELECT grp, count(*), min(name) FROM items GROUP BY grp) TO STDOUT

# in order
COPY (SELECT id, name, feel, price FROM items ORDER BY id) TO STDOUT

# in order
COPY (SELECT id, name AS "the name", list FROM public.items WHERE id < 8 ORDER BY id) TO STDOUT (FORMAT csv, HEADER, FORCE_QUOTE *)

# in order
COPY (SELECT id, price FROM items WHERE price > 5 ORDER BY id) TO STDOUT WITH (FORMAT binary)

# in order
COPY (SELECT * FROM by_group ORDER BY 1) TO STDOUT CSV

COPY (VALUES (1, 2)) TO STDOUT

COPY (SELECT id FROM items WHERE id = 3) TO STDOUT

COPY (SELECT 1 / (id - id) FROM items) TO STDOUT

COPY (SELECT no_such FROM items) TO STDOUT

COPY (SELECT id FROM items FOR UPDATE) TO STDOUT

# line by line
BEGIN
UPDATE items SET grp = 5 WHERE id = 3
COPY (SELECT id, grp FROM items ORDER BY id) TO STDOUT
ROLLBACK
