-- Views of rows of several shards: those that keep the shard key, and those that are made where rows are gathered.

SELECT * FROM cheap WHERE id = 3

SELECT "Group", price FROM cheap

@ bigint 5
SELECT id, name FROM cheap WHERE id = $1

# in order
SELECT id, price FROM cheap ORDER BY price, id LIMIT 5

SELECT count(*), sum(price), min("Group") FROM cheap

SELECT "Group", count(*) FROM cheap GROUP BY "Group"

SELECT avg(price) FROM cheap

SELECT c.id, p.part FROM cheap c JOIN parts p ON p.item_id = c.id

SELECT c.id, t.tag FROM cheap c JOIN tags t ON t.item_id = c.id

SELECT c.id, t.tag FROM public.cheap c JOIN tags t ON t.item_id = c.id WHERE c.price > 2

SELECT cheap::text FROM cheap WHERE id < 5

SELECT * FROM part_items WHERE item = 4

SELECT * FROM part_items

SELECT rank, sum(qty) FROM part_items GROUP BY rank

SELECT item, qty FROM part_items WHERE item IN (1, 2, 3)

SELECT * FROM busy WHERE item_id = 3

SELECT * FROM busy

# in order
SELECT * FROM busy ORDER BY n DESC, item_id LIMIT 3

SELECT max(n), avg(qty) FROM busy

SELECT * FROM by_group

SELECT * FROM public.by_group WHERE g > 2

SELECT b.* FROM by_group b WHERE b.n > 1

SELECT public.by_group.g FROM public.by_group

@ integer 2
SELECT total FROM by_group WHERE g = $1

SELECT i.id, b.n FROM items i JOIN by_group b ON b.g = i.grp WHERE i.id < 10

SELECT i.id FROM items i WHERE EXISTS (SELECT 1 FROM by_group b WHERE b.g = i.grp AND b.n > 2)

SELECT id, tagged FROM per_item

SELECT * FROM per_item WHERE id = 3

SELECT * FROM grouped_items

# in order
SELECT name, twice FROM grouped_items WHERE tags > 0 ORDER BY id

SELECT * FROM over_views

SELECT count(*) FROM over_views o JOIN by_group b ON b.g = o.g

SELECT name FROM named

SELECT count(DISTINCT name) FROM named

SELECT what, count(*) FROM all_ids GROUP BY what

SELECT id FROM all_ids WHERE id = 3

SELECT * FROM newest

SELECT name FROM newest WHERE name > 'a'

SELECT * FROM odd

SELECT "mixed ""case""" FROM odd WHERE "Key" = 2

SELECT count("mixed ""case""") FROM odd, named

SELECT * FROM tree

SELECT max(depth) FROM public.tree

SELECT * FROM side.things_of

SELECT side.things_of.title FROM side.things_of JOIN side.things USING (id)

# in order
SELECT id, place FROM ranked WHERE place <= 5 ORDER BY place

SELECT * FROM with_lone

SELECT feel, n, ids FROM shown

SELECT item::text FROM whole WHERE id < 3

SELECT (item).name FROM whole

SELECT * FROM palette WHERE twice > 2

SELECT p.colour, b.g FROM palette p JOIN by_group b ON b.g = p.twice

WITH x AS (SELECT * FROM by_group) SELECT x.g, c.id FROM x LEFT JOIN cheap c ON c."Group" = x.g

SELECT g FROM by_group UNION SELECT "Group" FROM cheap

SELECT no_such FROM by_group

SELECT g FROM by_group WHERE g = 'x'

SELECT 1 / (g - g) FROM by_group

SELECT table_name FROM information_schema.views WHERE table_name = 'by_group'

SELECT pg_typeof(g) FROM by_group

SELECT * FROM ONLY named

SELECT n.name FROM named n FOR UPDATE

SELECT id FROM cheap WHERE id = 3 FOR UPDATE

SELECT count(*) FROM (SELECT id FROM cheap FOR UPDATE) x

EXPLAIN SELECT * FROM pg_class WHERE false

# line by line
BEGIN
UPDATE editable SET qty = qty + 1 WHERE item_id = 3
SELECT item_id, part, qty FROM parts ORDER BY 1, 2
UPDATE editable SET qty = qty * 2, label = 'all' WHERE qty > 2
SELECT item_id, part, qty, label FROM editable ORDER BY 1, 2
DELETE FROM editable WHERE item_id = 2 AND part = 1 RETURNING item_id, part
DELETE FROM editable WHERE part = 1
SELECT item_id, part, qty, label FROM parts ORDER BY 1, 2
SELECT g, n FROM by_group ORDER BY g
UPDATE items SET grp = 77 WHERE id IN (1, 2, 3, 4)
SELECT g, n FROM by_group ORDER BY g
SELECT g, n FROM by_group ORDER BY g DESC
ROLLBACK
SELECT g, n FROM by_group ORDER BY g

# line by line
BEGIN
UPDATE editable SET part = 5000 WHERE item_id = 3
ROLLBACK

# line by line
BEGIN
INSERT INTO editable VALUES (3, 900, 1, 'x')
ROLLBACK

UPDATE by_group SET n = 1

DELETE FROM part_items WHERE item = 4

UPDATE editable SET item_id = 4 WHERE item_id = 3

# line by line
BEGIN READ ONLY
SELECT g, n FROM by_group ORDER BY g
COMMIT

# line by line
BEGIN ISOLATION LEVEL REPEATABLE READ
SELECT g, n FROM by_group ORDER BY g
SELECT id, depth FROM tree ORDER BY 1, 2
SELECT g, n FROM by_group ORDER BY g
COMMIT
