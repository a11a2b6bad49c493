-- Statements one by one on one connection: uncommitted changes on several shards are seen, settings hold everywhere.

# line by line
BEGIN
INSERT INTO parts VALUES (1, 90, 5, 1.25, 'new')
INSERT INTO parts VALUES (2, 90, 6, 2.25, 'new')
INSERT INTO parts VALUES (3, 90, NULL, NULL, 'new')
DELETE FROM parts WHERE item_id = 7
UPDATE parts SET qty = 100 WHERE item_id = 9
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
SELECT count(*), sum(qty), max(label) FROM parts
SELECT label, count(*) FROM parts GROUP BY label ORDER BY label
SELECT p.item_id, p.part, t.tag FROM parts p JOIN tags t USING (item_id) ORDER BY 1, 2, 3
SELECT item_id, part, rank() OVER (ORDER BY qty, item_id, part) AS r FROM parts ORDER BY r
SELECT DISTINCT label FROM parts ORDER BY label
ROLLBACK
SELECT count(*), sum(qty) FROM parts

# line by line
BEGIN
INSERT INTO parts VALUES (1, 90, 5, 1.25, 'new')
INSERT INTO parts VALUES (2, 90, 6, 2.25, 'new')
INSERT INTO parts VALUES (3, 90, NULL, NULL, 'new')
DELETE FROM parts WHERE item_id = 7
UPDATE parts SET qty = 100 WHERE item_id = 9
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
SELECT count(*), sum(qty), max(label) FROM parts
SELECT label, count(*) FROM parts GROUP BY label ORDER BY label
SELECT p.item_id, p.part, t.tag FROM parts p JOIN tags t USING (item_id) ORDER BY 1, 2, 3
SELECT item_id, part, rank() OVER (ORDER BY qty, item_id, part) AS r FROM parts ORDER BY r
SELECT DISTINCT label FROM parts ORDER BY label
COMMIT
SELECT count(*), sum(qty) FROM parts

# line by line
BEGIN ISOLATION LEVEL REPEATABLE READ
INSERT INTO parts VALUES (1, 90, 5, 1.25, 'new')
INSERT INTO parts VALUES (2, 90, 6, 2.25, 'new')
INSERT INTO parts VALUES (3, 90, NULL, NULL, 'new')
DELETE FROM parts WHERE item_id = 7
UPDATE parts SET qty = 100 WHERE item_id = 9
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
SELECT count(*), sum(qty), max(label) FROM parts
SELECT label, count(*) FROM parts GROUP BY label ORDER BY label
SELECT p.item_id, p.part, t.tag FROM parts p JOIN tags t USING (item_id) ORDER BY 1, 2, 3
SELECT item_id, part, rank() OVER (ORDER BY qty, item_id, part) AS r FROM parts ORDER BY r
SELECT DISTINCT label FROM parts ORDER BY label
ROLLBACK
SELECT count(*), sum(qty) FROM parts

# line by line
BEGIN ISOLATION LEVEL REPEATABLE READ
INSERT INTO parts VALUES (1, 90, 5, 1.25, 'new')
INSERT INTO parts VALUES (2, 90, 6, 2.25, 'new')
INSERT INTO parts VALUES (3, 90, NULL, NULL, 'new')
DELETE FROM parts WHERE item_id = 7
UPDATE parts SET qty = 100 WHERE item_id = 9
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
SELECT count(*), sum(qty), max(label) FROM parts
SELECT label, count(*) FROM parts GROUP BY label ORDER BY label
SELECT p.item_id, p.part, t.tag FROM parts p JOIN tags t USING (item_id) ORDER BY 1, 2, 3
SELECT item_id, part, rank() OVER (ORDER BY qty, item_id, part) AS r FROM parts ORDER BY r
SELECT DISTINCT label FROM parts ORDER BY label
COMMIT
SELECT count(*), sum(qty) FROM parts

# line by line
BEGIN ISOLATION LEVEL SERIALIZABLE
INSERT INTO parts VALUES (1, 90, 5, 1.25, 'new')
INSERT INTO parts VALUES (2, 90, 6, 2.25, 'new')
INSERT INTO parts VALUES (3, 90, NULL, NULL, 'new')
DELETE FROM parts WHERE item_id = 7
UPDATE parts SET qty = 100 WHERE item_id = 9
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
SELECT count(*), sum(qty), max(label) FROM parts
SELECT label, count(*) FROM parts GROUP BY label ORDER BY label
SELECT p.item_id, p.part, t.tag FROM parts p JOIN tags t USING (item_id) ORDER BY 1, 2, 3
SELECT item_id, part, rank() OVER (ORDER BY qty, item_id, part) AS r FROM parts ORDER BY r
SELECT DISTINCT label FROM parts ORDER BY label
ROLLBACK
SELECT count(*), sum(qty) FROM parts

# line by line
BEGIN ISOLATION LEVEL SERIALIZABLE
INSERT INTO parts VALUES (1, 90, 5, 1.25, 'new')
INSERT INTO parts VALUES (2, 90, 6, 2.25, 'new')
INSERT INTO parts VALUES (3, 90, NULL, NULL, 'new')
DELETE FROM parts WHERE item_id = 7
UPDATE parts SET qty = 100 WHERE item_id = 9
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
SELECT count(*), sum(qty), max(label) FROM parts
SELECT label, count(*) FROM parts GROUP BY label ORDER BY label
SELECT p.item_id, p.part, t.tag FROM parts p JOIN tags t USING (item_id) ORDER BY 1, 2, 3
SELECT item_id, part, rank() OVER (ORDER BY qty, item_id, part) AS r FROM parts ORDER BY r
SELECT DISTINCT label FROM parts ORDER BY label
COMMIT
SELECT count(*), sum(qty) FROM parts

# line by line
BEGIN READ ONLY
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
SELECT count(*), sum(qty), max(label) FROM parts
SELECT label, count(*) FROM parts GROUP BY label ORDER BY label
SELECT p.item_id, p.part, t.tag FROM parts p JOIN tags t USING (item_id) ORDER BY 1, 2, 3
SELECT item_id, part, rank() OVER (ORDER BY qty, item_id, part) AS r FROM parts ORDER BY r
SELECT DISTINCT label FROM parts ORDER BY label
COMMIT

# line by line
BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
SELECT count(*), sum(qty), max(label) FROM parts
SELECT label, count(*) FROM parts GROUP BY label ORDER BY label
SELECT p.item_id, p.part, t.tag FROM parts p JOIN tags t USING (item_id) ORDER BY 1, 2, 3
SELECT item_id, part, rank() OVER (ORDER BY qty, item_id, part) AS r FROM parts ORDER BY r
SELECT DISTINCT label FROM parts ORDER BY label
COMMIT

# line by line
START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
SELECT count(*), sum(qty), max(label) FROM parts
SELECT label, count(*) FROM parts GROUP BY label ORDER BY label
SELECT p.item_id, p.part, t.tag FROM parts p JOIN tags t USING (item_id) ORDER BY 1, 2, 3
SELECT item_id, part, rank() OVER (ORDER BY qty, item_id, part) AS r FROM parts ORDER BY r
SELECT DISTINCT label FROM parts ORDER BY label
COMMIT

# line by line
BEGIN
INSERT INTO empty VALUES (1, 1, 'a')
INSERT INTO empty VALUES (2, 2, 'b')
SAVEPOINT s
INSERT INTO empty VALUES (3, 3, 'c')
SELECT sum(v), count(*) FROM empty
ROLLBACK TO s
SELECT sum(v), count(*) FROM empty
SELECT e.id, t.tag FROM empty e LEFT JOIN tags t ON t.item_id = e.id ORDER BY 1, 2
INSERT INTO empty VALUES (4, 4, 'd')
RELEASE s
SELECT * FROM empty ORDER BY id
COMMIT
SELECT * FROM empty ORDER BY id DESC

# line by line
BEGIN
SELECT count(*) FROM items
SELECT 1 / (id - 30) FROM items ORDER BY id
SELECT count(*) FROM items
COMMIT
SELECT count(*) FROM items

# line by line
BEGIN
SELECT count(*) FROM items
SAVEPOINT s
SELECT sum(1 / (id - id)) FROM items
ROLLBACK TO s
SELECT i.id, t.tag FROM items i JOIN tags t ON t.item_id = i.id ORDER BY 1, 2
SAVEPOINT s2
SELECT 1 / (i.id - i.id) FROM items i JOIN tags t ON t.item_id = i.id
ROLLBACK TO s2
SELECT count(*) FROM tags
COMMIT

# line by line
BEGIN
INSERT INTO tags VALUES ('new', 5, 1, 'k')
INSERT INTO empty VALUES (5, 50, 'five')
SELECT t.tag, e.v FROM tags t JOIN empty e ON e.id = t.item_id ORDER BY 1
WITH w AS (SELECT max(v) AS v FROM empty) SELECT v FROM w
UPDATE empty SET v = 51 WHERE id = 5
SELECT t.tag, e.v FROM tags t JOIN empty e ON e.id = t.item_id ORDER BY 1
DELETE FROM empty WHERE id = 5
SELECT t.tag, e.v FROM tags t LEFT JOIN empty e ON e.id = t.item_id ORDER BY 1
ROLLBACK

# line by line
BEGIN
SET LOCAL timezone = 'Asia/Tokyo'
SELECT id, atz FROM items ORDER BY atz, id LIMIT 5
SELECT i.id, i.atz FROM items i JOIN tags t ON t.item_id = i.id ORDER BY 1, 2
COMMIT
SELECT id, atz FROM items ORDER BY atz, id LIMIT 5

# line by line
SET timezone = 'America/New_York'
SELECT id, atz, atz::date FROM items ORDER BY atz, id
SELECT atz::date AS d, count(*) FROM items GROUP BY d ORDER BY d
RESET timezone

# line by line
SET extra_float_digits = 0
SELECT id, ratio / 3 AS r FROM items ORDER BY r, id
RESET extra_float_digits

# line by line
SET bytea_output = 'escape'
SELECT id, bytes FROM items ORDER BY bytes, id
RESET bytea_output

# line by line
SET search_path = side, public
SELECT id, v FROM things ORDER BY id
SELECT t.id, i.name FROM things t JOIN items i ON i.grp = t.id ORDER BY 1, 2, i.id
RESET search_path
