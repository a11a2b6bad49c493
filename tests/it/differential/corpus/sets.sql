-- Set operations and CTEs.

SELECT grp FROM items UNION ALL SELECT small FROM items

SELECT id FROM items UNION ALL SELECT item_id FROM parts

SELECT id, name FROM items UNION ALL SELECT item_id, tag FROM tags

SELECT grp FROM items UNION SELECT weight FROM tags

SELECT grp FROM items INTERSECT SELECT weight FROM tags

SELECT grp FROM items INTERSECT ALL SELECT small FROM items

SELECT grp FROM items EXCEPT SELECT weight FROM tags

SELECT grp FROM items EXCEPT ALL SELECT small FROM items

SELECT grp FROM items UNION ALL SELECT 5 UNION ALL SELECT NULL

SELECT 1 UNION ALL SELECT grp FROM items

SELECT grp FROM items UNION ALL SELECT rank FROM colours

SELECT id FROM lone UNION ALL SELECT id FROM items

SELECT id FROM lone UNION ALL SELECT rank FROM colours

SELECT grp::bigint FROM items UNION ALL SELECT id FROM empty

SELECT grp FROM items UNION ALL SELECT price FROM items

SELECT grp FROM items UNION ALL SELECT name FROM items

SELECT grp, id FROM items UNION ALL SELECT grp FROM items

SELECT name FROM items UNION ALL SELECT c_name FROM items

SELECT name FROM items UNION SELECT i_name FROM items

SELECT i_name FROM items UNION SELECT kind FROM tags

(SELECT id FROM items ORDER BY id LIMIT 3) UNION ALL (SELECT item_id FROM parts ORDER BY item_id DESC, part LIMIT 3)

(SELECT grp FROM items UNION SELECT small FROM items) EXCEPT SELECT 1

SELECT count(*) FROM items UNION ALL SELECT count(*) FROM parts UNION ALL SELECT count(*) FROM tags

SELECT 'items', count(*) FROM items UNION ALL SELECT 'empty', count(*) FROM empty

SELECT x.n FROM (SELECT grp AS n FROM items UNION ALL SELECT qty FROM parts) x WHERE x.n > 5

SELECT n, count(*) FROM (SELECT grp AS n FROM items UNION ALL SELECT qty FROM parts) x GROUP BY n

SELECT id FROM items WHERE id IN (SELECT item_id FROM parts INTERSECT SELECT item_id FROM tags)

SELECT v FROM empty UNION ALL SELECT v FROM empty

SELECT v FROM empty UNION SELECT grp FROM items WHERE false

VALUES (1) UNION ALL SELECT grp FROM items

TABLE parts UNION TABLE parts

SELECT DISTINCT grp FROM items UNION ALL SELECT DISTINCT small FROM items

WITH w AS (SELECT id, grp FROM items WHERE flag) SELECT w.id, t.tag FROM w JOIN tags t ON t.item_id = w.id

WITH w AS (SELECT grp, count(*) AS n FROM items GROUP BY grp) SELECT a.grp, b.n FROM w a JOIN w b ON a.grp = b.grp + 1

WITH w AS MATERIALIZED (SELECT id FROM items) SELECT count(*) FROM w

WITH w AS NOT MATERIALIZED (SELECT * FROM parts) SELECT item_id, sum(qty) FROM w GROUP BY item_id

WITH a AS (SELECT id FROM items), b AS (SELECT id FROM a WHERE id > 50) SELECT * FROM b

WITH items AS (SELECT 1 AS id) SELECT * FROM items

WITH items AS (SELECT id FROM items WHERE id < 3) SELECT * FROM items

WITH w AS (SELECT 1 AS one) SELECT id, one FROM items, w WHERE id < 5

WITH unused AS (SELECT * FROM tags) SELECT id FROM items WHERE id < 5

WITH RECURSIVE t AS (SELECT id, parent, 1 AS depth FROM nodes WHERE parent IS NULL UNION ALL SELECT n.id, n.parent, t.depth + 1 FROM nodes n JOIN t ON n.parent = t.id) SELECT * FROM t

WITH RECURSIVE t(id) AS (SELECT 7::bigint UNION SELECT n.parent FROM nodes n JOIN t ON n.id = t.id WHERE n.parent IS NOT NULL) SELECT id FROM t

WITH RECURSIVE t AS (SELECT id, parent, title AS path FROM nodes WHERE id = 1 UNION ALL SELECT n.id, n.parent, t.path || '/' || n.title FROM nodes n JOIN t ON n.parent = t.id) SELECT path FROM t

WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 10) SELECT x, i.name FROM n LEFT JOIN items i ON i.id = n.x

WITH RECURSIVE t AS (SELECT id, parent FROM nodes WHERE id = 1 UNION ALL SELECT n.id, n.parent FROM nodes n JOIN t ON n.parent = t.id) SEARCH DEPTH FIRST BY id SET o SELECT id FROM t

SELECT x.id FROM (WITH w AS (SELECT id FROM items) SELECT * FROM w) x JOIN tags t ON t.item_id = x.id

# in order
SELECT grp FROM items UNION ALL SELECT small FROM items ORDER BY 1

# in order
SELECT grp AS g FROM items UNION SELECT weight FROM tags ORDER BY g DESC NULLS LAST

# in order
SELECT id, name FROM items UNION ALL SELECT item_id, label FROM parts ORDER BY 2, 1 LIMIT 20

# in order
SELECT i_name FROM items UNION ALL SELECT kind FROM tags ORDER BY 1 LIMIT 10 OFFSET 5

# in order
SELECT c_name FROM items UNION ALL SELECT 'x' ORDER BY 1

# in order
WITH w AS (SELECT id, grp FROM items) SELECT id FROM w ORDER BY grp, id

# in order
WITH w AS (SELECT id FROM items ORDER BY id DESC LIMIT 5) SELECT id FROM w ORDER BY id
