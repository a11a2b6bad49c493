-- INSERT ... SELECT of rows that belong to other shards, with ON CONFLICT and with RETURNING.

INSERT INTO nodes (id, title) SELECT id + 100000, name FROM items RETURNING id, title, parent

# in order
INSERT INTO nodes (id, title) SELECT id + 100000, name FROM items ORDER BY name COLLATE "C" DESC NULLS LAST, id RETURNING id, title

# in order
INSERT INTO items SELECT id + 300000, grp, small, price, amount, ratio, ratio4, flag, day, at, atz, tod, span, code, name, c_name, i_name, n_name, bytes, fixed, short, doc, list, feel FROM items ORDER BY id RETURNING *

INSERT INTO nodes (id, title) SELECT id + 10, name FROM items ON CONFLICT DO NOTHING

INSERT INTO nodes (id, title) SELECT id + 10, name FROM items ON CONFLICT DO NOTHING RETURNING id

INSERT INTO nodes (id, title) SELECT id % 50, name FROM items WHERE id <= 50 ON CONFLICT (id) DO NOTHING

# in order
INSERT INTO nodes AS n (id, parent, title) SELECT id + 10, grp, name FROM items ORDER BY id DESC ON CONFLICT (id) DO UPDATE SET title = n.title || ' ' || excluded.title, parent = coalesce(excluded.parent, n.parent) + 1 RETURNING n.id, n.parent, title

INSERT INTO nodes AS n (id, parent, title) SELECT id + 10, grp, name FROM items ON CONFLICT ON CONSTRAINT nodes_pkey DO UPDATE SET title = excluded.title WHERE n.parent > 6 RETURNING *

INSERT INTO parts (item_id, part, qty, cost) SELECT grp, small + 3, count(*), sum(price) FROM items WHERE grp IS NOT NULL AND small IS NOT NULL GROUP BY 1, 2 ON CONFLICT (item_id, part) DO UPDATE SET qty = parts.qty + excluded.qty, label = DEFAULT, cost = excluded.cost RETURNING item_id, part, qty, cost, label

INSERT INTO "Odd Table" ("Key", "Mixed Case", "select") SELECT "Key" + 3, "Mixed Case", 9 FROM "Odd Table" ON CONFLICT ("Key") DO UPDATE SET "Mixed Case" = excluded."Mixed Case" || '"''', "select" = "Odd Table"."select" + excluded."select"

INSERT INTO tags SELECT 'tag ' || lpad(id::text, 2, '0'), id, grp, i_name FROM items ON CONFLICT (tag) DO UPDATE SET weight = tags.weight * 10 + excluded.weight, kind = excluded.kind RETURNING tag, weight, kind

INSERT INTO lone SELECT id, name FROM items WHERE id < 10 ON CONFLICT (id) DO UPDATE SET note = lone.note || coalesce(excluded.note, '-') RETURNING *

INSERT INTO side.things (id, v) SELECT t.id + 4, t.v FROM side.things t ON CONFLICT (id) DO UPDATE SET v = things.v || excluded.v RETURNING things.*, things.id % 2 = 0 AS even

INSERT INTO empty (id, v) SELECT id + 1, 1 FROM items LIMIT 0 ON CONFLICT DO NOTHING

INSERT INTO empty (id, v) SELECT id + 1, 1 FROM items LIMIT 0 RETURNING *

INSERT INTO empty (id, v, t) OVERRIDING SYSTEM VALUE SELECT id * 3, grp, 'c ' || id FROM items WHERE id < 20 RETURNING id, v

INSERT INTO nodes (id, title) SELECT g, 'made ' || g FROM generate_series(20, 40) AS g ON CONFLICT (id) DO UPDATE SET title = excluded.title || '!' RETURNING title, half(id::int)

-- With parameters.

@ bigint 25
@ text made
@ integer 3
INSERT INTO nodes (id, title) SELECT id + $1, $2 || name FROM items ON CONFLICT (id) DO UPDATE SET title = excluded.title || $3, parent = $3 WHERE nodes.id <> $1 RETURNING id, title, $3 + 1

@ integer 7
INSERT INTO nodes (id, title) SELECT id + 10, name FROM items ON CONFLICT (id) DO UPDATE SET parent = nodes.parent + $1

-- In a transaction block.

# line by line
BEGIN
UPDATE nodes SET title = 'changed' WHERE id < 20
INSERT INTO nodes (id, title) SELECT id + 5, title || '+' FROM nodes WHERE title = 'changed' ORDER BY id ON CONFLICT (id) DO UPDATE SET title = excluded.title RETURNING id, title
SELECT id, title FROM nodes ORDER BY id
COMMIT

# line by line
BEGIN
SAVEPOINT a
INSERT INTO nodes (id, title) SELECT 7, name FROM items ON CONFLICT (id) DO UPDATE SET title = excluded.title
ROLLBACK TO a
INSERT INTO nodes (id, title) SELECT id + 100, name FROM items WHERE id < 4 ORDER BY id RETURNING id
COMMIT

-- What goes wrong, goes wrong as in Postgres.

INSERT INTO nodes (id, title) SELECT 7, name FROM items ON CONFLICT (id) DO UPDATE SET title = excluded.title

INSERT INTO nodes (id, title) SELECT 70 + id % 2, name FROM items ON CONFLICT (id) DO UPDATE SET title = excluded.title

INSERT INTO nodes (id, title) SELECT 70 + id % 2, 'x' FROM items ON CONFLICT (id) DO NOTHING RETURNING *

INSERT INTO nodes (id, title) SELECT id + 1, name FROM items RETURNING id

INSERT INTO nodes (id, title) SELECT id + 10, name FROM items ON CONFLICT (title) DO NOTHING

INSERT INTO nodes (id, title) SELECT id + 10, name FROM items ON CONFLICT (id) DO UPDATE SET nothing = 1

INSERT INTO nodes (id, title) SELECT id + 10, name FROM items ON CONFLICT (id) DO UPDATE SET parent = 1 / (nodes.id - nodes.id)

INSERT INTO items (id, short) SELECT id + 9, title || ' far too long for this' FROM nodes ON CONFLICT DO NOTHING

INSERT INTO nodes (id, title) SELECT id + 10, name FROM items RETURNING no_such

-- What is refused.

INSERT INTO nodes (id, title) SELECT id + 10, name FROM items ON CONFLICT (id) DO UPDATE SET id = excluded.id + 1

INSERT INTO nodes (id, title) SELECT id + 10, name FROM items ON CONFLICT (id) DO UPDATE SET title = (SELECT max(name) FROM items)

INSERT INTO nodes (id, title) SELECT id + 10, name FROM items RETURNING (SELECT count(*) FROM items)
