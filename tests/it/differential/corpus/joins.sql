-- Joins that are not colocated, subqueries, LATERAL, functions and values in FROM, names.

SELECT p.item_id, t.tag FROM parts p JOIN tags t ON t.item_id = p.item_id

SELECT i.id, t.tag FROM items i LEFT JOIN tags t ON t.item_id = i.id

SELECT i.id, t.tag FROM items i RIGHT JOIN tags t ON t.item_id = i.id

SELECT i.id, t.tag FROM items i FULL JOIN tags t ON t.item_id = i.id

SELECT i.id, t.tag FROM items i, tags t WHERE t.item_id = i.id AND i.grp > 2

SELECT count(*) FROM items CROSS JOIN tags

SELECT a.id, b.id FROM items a JOIN items b ON a.grp = b.small AND a.id < b.id

SELECT a.id, b.id FROM items a JOIN items b ON a.id = b.id + 1

SELECT a.id, b.id FROM items a LEFT JOIN items b ON b.id = a.id + 1 WHERE b.id IS NULL

SELECT a.id, b.id, c.id FROM nodes a JOIN nodes b ON b.parent = a.id JOIN nodes c ON c.parent = b.id

SELECT a.id, b.id FROM items a JOIN items b USING (id)

SELECT id, a.grp, b.grp FROM items a FULL JOIN empty e USING (id) JOIN items b USING (id)

SELECT * FROM parts NATURAL JOIN tags

SELECT * FROM nodes NATURAL JOIN empty

SELECT id, title, note FROM nodes NATURAL JOIN lone

SELECT id, title, v FROM nodes NATURAL LEFT JOIN empty

SELECT * FROM parts JOIN tags USING (item_id)

SELECT item_id, label, weight FROM parts FULL JOIN tags USING (item_id)

SELECT p.*, q.* FROM parts p FULL JOIN parts q ON p.item_id = q.item_id AND p.part = q.part + 1

SELECT i.id, p.part FROM items i FULL JOIN parts p ON p.item_id = i.id

SELECT i.id, p.part FROM items i LEFT JOIN parts p ON p.item_id = i.id AND p.qty > 5

SELECT i.id, p.part FROM items i LEFT JOIN parts p ON p.item_id = i.id WHERE p.qty > 5

SELECT i.id, p.part FROM items i LEFT JOIN parts p ON p.item_id = i.id WHERE p.qty IS NULL

SELECT i.id, p.part FROM parts p RIGHT JOIN items i ON p.item_id = i.id AND i.flag

SELECT i.id, c.colour FROM items i LEFT JOIN colours c ON c.rank = i.grp

SELECT i.id, c.colour FROM items i RIGHT JOIN colours c ON c.rank = i.grp

SELECT i.id, c.colour FROM items i FULL JOIN colours c ON c.rank = i.grp

SELECT c.colour, i.id FROM colours c LEFT JOIN items i ON c.rank = i.id

SELECT c.colour FROM colours c WHERE NOT EXISTS (SELECT 1 FROM items i WHERE i.grp = c.rank)

SELECT i.id, l.note FROM items i JOIN lone l ON l.id = i.id

SELECT i.id, l.note FROM items i FULL JOIN lone l ON l.id = i.grp

SELECT i.id, v.v FROM items i JOIN (VALUES (1, 'a'), (2, 'b'), (90, 'c')) v(k, v) ON v.k = i.id

SELECT v.k, i.id FROM (VALUES (1), (2), (90)) v(k) LEFT JOIN items i ON v.k = i.id

SELECT g, i.grp FROM generate_series(1, 5) g LEFT JOIN items i ON i.id = g

SELECT g, count(i.id) FROM generate_series(-1, 8) g LEFT JOIN items i ON i.grp = g GROUP BY g

SELECT i.id, u FROM items i, unnest(i.list) u

SELECT i.id, u, o FROM items i, unnest(i.list) WITH ORDINALITY AS x(u, o) WHERE i.id < 20

SELECT id, generate_series(1, small) FROM items WHERE small > 0

SELECT id, unnest(list) FROM items

SELECT i.id, k, v FROM items i, jsonb_each_text(i.doc) AS x(k, v)

SELECT i.id, x.n FROM items i, LATERAL (SELECT count(*) AS n FROM parts p WHERE p.item_id = i.id) x

SELECT i.id, x.n FROM items i, LATERAL (SELECT count(*) AS n FROM tags t WHERE t.item_id = i.id) x

SELECT i.id, x.tag FROM items i LEFT JOIN LATERAL (SELECT tag FROM tags t WHERE t.item_id = i.id ORDER BY tag LIMIT 1) x ON true

SELECT i.id, x.part FROM items i CROSS JOIN LATERAL (SELECT part FROM parts p WHERE p.item_id = i.id ORDER BY qty DESC, part LIMIT 1) x

SELECT id FROM items i WHERE EXISTS (SELECT 1 FROM tags t WHERE t.item_id = i.id)

SELECT id FROM items i WHERE NOT EXISTS (SELECT 1 FROM tags t WHERE t.item_id = i.id)

SELECT id FROM items i WHERE EXISTS (SELECT 1 FROM parts p WHERE p.item_id = i.id AND p.qty > 3)

SELECT id FROM items WHERE id IN (SELECT item_id FROM tags)

SELECT id FROM items WHERE id NOT IN (SELECT item_id FROM tags)

SELECT id FROM items WHERE id NOT IN (SELECT item_id FROM tags WHERE item_id IS NOT NULL)

SELECT id FROM items WHERE id IN (SELECT item_id FROM parts WHERE qty = 2)

SELECT id FROM items WHERE grp = ANY (SELECT small FROM items WHERE id < 10)

SELECT id FROM items WHERE grp > ALL (SELECT weight FROM tags)

SELECT id FROM items WHERE (grp, small) IN (SELECT grp, small FROM items WHERE id < 5)

SELECT id FROM items WHERE price = (SELECT max(price) FROM items)

SELECT id FROM items i WHERE price > (SELECT avg(price) FROM items j WHERE j.grp = i.grp)

SELECT id, (SELECT max(tag) FROM tags t WHERE t.item_id = i.id) FROM items i

SELECT id, (SELECT title FROM nodes n WHERE n.id = i.grp) FROM items i

SELECT id, (SELECT sum(qty) FROM parts p WHERE p.item_id = i.id) FROM items i

SELECT id, (SELECT colour FROM colours c WHERE c.rank = i.grp) FROM items i

SELECT id, (SELECT count(*) FROM items) FROM items

SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM tags), (SELECT sum(qty) FROM parts)

SELECT (SELECT id FROM items)

SELECT ARRAY(SELECT id FROM items ORDER BY id)

SELECT EXISTS (SELECT 1 FROM items WHERE id > 100), EXISTS (SELECT 1 FROM tags)

SELECT id FROM nodes n WHERE (SELECT count(*) FROM nodes m WHERE m.parent = n.id) = 2

SELECT i, t FROM items i JOIN tags t ON t.item_id = i.id WHERE i.id < 12

SELECT p FROM parts p

SELECT (p).qty, p.item_id FROM parts p WHERE (p).part = 1

SELECT row_to_json(t) FROM tags t

SELECT to_jsonb(p) FROM parts p JOIN tags t USING (item_id)

SELECT t.* FROM tags t, items i WHERE i.id = t.item_id AND i.name IS NULL

SELECT i.id FROM items i WHERE i IS NULL

SELECT a.item_id, a.part FROM parts a WHERE a = (SELECT b FROM parts b ORDER BY b LIMIT 1)

SELECT "Key", "Mixed Case", "select" FROM "Odd Table"

SELECT o."Key", i.id FROM "Odd Table" o JOIN items i ON i.grp = o."Key"

SELECT "Odd Table"."Key" FROM "Odd Table" JOIN tags ON item_id = "Key" WHERE "Odd Table"."Mixed Case" > 'a'

SELECT sum("Key"), max("Mixed Case") AS "Max Of" FROM "Odd Table" GROUP BY "select"

SELECT things.id, side.things.v FROM side.things

SELECT t.v, count(*) FROM side.things t GROUP BY t.v

SELECT t.id, i.id FROM side.things t JOIN public.items i ON i.grp = t.id

SELECT public.items.id FROM public.items JOIN public.tags ON tags.item_id = items.id

SELECT things.v FROM side.things JOIN tags ON item_id = things.id

SELECT x.a FROM items AS x (a, b) JOIN tags t ON t.item_id = x.a WHERE x.b = 2

SELECT id FROM ONLY items

SELECT * FROM items TABLESAMPLE SYSTEM (100) WHERE id < 3

TABLE parts

TABLE tags ORDER BY tag LIMIT 3

SELECT FROM items WHERE id < 4

SELECT FROM tags JOIN items ON id = item_id

SELECT half(grp), count(*) FROM items GROUP BY half(grp)

SELECT i.id, half(i.grp) FROM items i JOIN tags t ON t.item_id = i.id

VALUES (1, 'a'), (2, NULL), (3, 'c')

VALUES ((SELECT count(*) FROM items)), ((SELECT max(weight) FROM tags))

SELECT * FROM (VALUES (1), (2)) v(x), tags WHERE tags.weight = v.x

SELECT n, qty FROM busy b JOIN tags t ON t.item_id = b.item_id

SELECT i.id, b.n FROM items i LEFT JOIN busy b ON b.item_id = i.id

SELECT count(*) FROM items a, items b, tags c WHERE a.id = b.id AND b.id = c.item_id

SELECT a.name, b.tag FROM items a JOIN tags b ON a.i_name = b.kind

SELECT a.id, b.id FROM items a JOIN items b ON a.c_name = b.name COLLATE "C" WHERE a.id < b.id

SELECT a.id FROM items a JOIN items b ON a.n_name = b.n_name WHERE a.id <> b.id

SELECT a.id, b.tag FROM items a JOIN tags b ON a.name = b.kind

# in order
SELECT i.id, t.tag FROM items i JOIN tags t ON t.item_id = i.id ORDER BY t.kind DESC, t.tag, i.id

# in order
SELECT p.item_id, p.part, t.tag FROM parts p JOIN tags t USING (item_id) ORDER BY 3, 1, 2 LIMIT 10

# in order
SELECT i.id FROM items i WHERE EXISTS (SELECT 1 FROM tags t WHERE t.item_id = i.id) ORDER BY i.i_name NULLS FIRST, i.id

# in order
SELECT i_name FROM items WHERE id IN (SELECT item_id FROM tags) ORDER BY i_name

@ bigint 3
@ text tag 05
SELECT i.id, t.tag FROM items i JOIN tags t ON t.item_id = i.id WHERE i.grp <> $1 AND t.tag > $2
