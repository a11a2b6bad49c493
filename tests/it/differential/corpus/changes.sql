-- Changes on several shards, and what they leave behind: joined, from queries, of reference tables. All is undone at the end of a block.

# line by line
BEGIN
UPDATE parts SET qty = qty + 1
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
UPDATE parts p SET label = i.name FROM items i WHERE i.id = p.item_id AND i.flag
SELECT item_id, part, label FROM parts ORDER BY item_id, part
DELETE FROM parts p USING items i WHERE i.id = p.item_id AND i.grp = 1
SELECT item_id, part FROM parts ORDER BY item_id, part
INSERT INTO parts (item_id, part, qty) SELECT id, 500, grp FROM items WHERE grp IS NOT NULL
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
UPDATE parts SET qty = (SELECT max(small) FROM items WHERE items.id = parts.item_id) WHERE part = 500
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
DELETE FROM parts WHERE EXISTS (SELECT 1 FROM items WHERE items.id = parts.item_id AND price > 5)
SELECT item_id, part, qty FROM parts ORDER BY item_id, part
ROLLBACK
SELECT count(*), sum(qty) FROM parts

# line by line
BEGIN
INSERT INTO parts (item_id, part, qty) VALUES (1, 700, 1), (2, 700, 2), (3, 700, 3), (4, 700, 4), (5, 700, 5), (6, 700, 6) RETURNING item_id, qty * 10
INSERT INTO parts (item_id, part, qty) VALUES (1, 700, 9), (2, 701, 9), (3, 700, 9), (4, 701, 9) ON CONFLICT (item_id, part) DO UPDATE SET qty = parts.qty + excluded.qty
SELECT item_id, part, qty FROM parts WHERE part >= 700 ORDER BY 1, 2
INSERT INTO parts (item_id, part, qty) VALUES (1, 700, 9), (2, 702, 9) ON CONFLICT DO NOTHING
SELECT item_id, part, qty FROM parts WHERE part >= 700 ORDER BY 1, 2
INSERT INTO colours VALUES ('mauve', 77), ('taupe', 78) RETURNING colour
UPDATE colours SET rank = rank * 2 WHERE rank > 70
SELECT * FROM colours ORDER BY colour COLLATE "C"
DELETE FROM colours WHERE colour = 'mauve'
SELECT count(*) FROM colours
INSERT INTO parts (item_id, part, qty) VALUES (1, 800, 1), (2, 800, 1), (3, 800, 1), (2, 800, 1), (4, 800, 1)
SELECT 1
ROLLBACK
SELECT count(*), sum(qty) FROM parts
SELECT count(*), sum(rank) FROM colours

# line by line
UPDATE parts SET qty = qty / 0
INSERT INTO parts (item_id, part, qty) VALUES (1, 800, 1), (2, 800, 1), (3, 800, 1), (2, 800, 1), (4, 800, 1)
SELECT count(*), sum(qty) FROM parts
