-- UPDATE that gives rows another shard key. All is undone at the end of a block.

# line by line
BEGIN
UPDATE items SET id = 90001 WHERE id = 3
SELECT * FROM items ORDER BY id
UPDATE items SET id = 3 WHERE id = 90001 RETURNING id, name, price * 2 AS twice, feel
SELECT * FROM items ORDER BY id
UPDATE items SET id = 90002, name = 'moved', price = price + 1.0005, small = 7, feel = 'sad', at = '2024-01-01', doc = '{"a": 1}', list = '{1,2}', short = 'abc', ratio = 1 WHERE id = 4
SELECT * FROM items ORDER BY id
UPDATE items i SET id = 90003, name = i.name || coalesce(i.c_name, '-'), grp = grp * 2 WHERE i.id = 5 RETURNING i.id, i.name, grp
UPDATE items SET id = 90004 WHERE id = -12345
UPDATE parts SET item_id = 90005 WHERE item_id = 2 RETURNING part, qty, label
UPDATE parts SET item_id = 90006, qty = qty + 1 WHERE part = 1 AND item_id = 3
SELECT * FROM parts ORDER BY item_id, part
UPDATE tags SET tag = 'another', weight = weight * 2 WHERE tag = (SELECT min(tag) FROM tags)
SELECT * FROM tags ORDER BY tag COLLATE "C"
UPDATE nodes SET id = 70001 WHERE title = 'no such title'
UPDATE side.things SET id = 70002 WHERE id = 1 RETURNING *
SELECT id, v FROM side.things ORDER BY id
ROLLBACK
SELECT count(*), sum(id) FROM items

# line by line
BEGIN
UPDATE items SET id = 4 WHERE id = 3
ROLLBACK

# line by line
BEGIN
UPDATE parts SET item_id = 77 WHERE part = 1
ROLLBACK

# line by line
BEGIN
UPDATE items SET id = 90001, short = 'far too long for it' WHERE id = 3
ROLLBACK

# line by line
BEGIN
UPDATE items SET id = 90001, grp = 1 / (grp - grp) WHERE id = 3
ROLLBACK

# line by line
BEGIN
UPDATE items SET id = 90001, small = 70000 WHERE id = 3
ROLLBACK

UPDATE items SET id = 90001, grp = 'x' WHERE id = 3

UPDATE items SET id = 90001, no_such = 1 WHERE id = 3

UPDATE items SET id = 5, grp = grp WHERE id = 5

UPDATE items SET id = id + 100000 WHERE id = 3

# line by line
BEGIN
SAVEPOINT a
UPDATE items SET id = 4 WHERE id = 3
ROLLBACK TO a
UPDATE items SET id = 90001 WHERE id = 3
SAVEPOINT b
UPDATE items SET id = 90002 WHERE id = 90001
ROLLBACK TO b
SELECT id, name FROM items WHERE id > 90000
ROLLBACK

@ bigint 90001
@ bigint 3
UPDATE items SET id = $1 WHERE id = $2 RETURNING *

@ bigint 3
@ text x
@ bigint 90001
UPDATE items SET id = $1, name = $2 WHERE id = $3 RETURNING name, id

@ bigint 3
@ bigint 3
UPDATE items SET id = $1, grp = grp WHERE id = $2

SELECT id, name FROM items WHERE id IN (3, 90001)
