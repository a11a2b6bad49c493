-- DISTINCT and DISTINCT ON.

SELECT DISTINCT grp FROM items

SELECT DISTINCT grp, small FROM items

SELECT DISTINCT name FROM items

SELECT DISTINCT c_name FROM items

SELECT DISTINCT i_name FROM items

SELECT DISTINCT ratio FROM items

SELECT DISTINCT price FROM items

SELECT DISTINCT flag, feel FROM items

SELECT DISTINCT bytes FROM items

SELECT DISTINCT fixed FROM items

SELECT DISTINCT doc FROM items

SELECT DISTINCT list FROM items

SELECT DISTINCT day, tod FROM items

SELECT DISTINCT atz FROM items

SELECT DISTINCT code FROM items

SELECT DISTINCT id FROM items

SELECT DISTINCT * FROM parts

SELECT DISTINCT grp + 1 FROM items

SELECT DISTINCT 1 FROM items

SELECT DISTINCT NULL FROM items

SELECT DISTINCT v FROM empty

SELECT DISTINCT count(*) FROM items GROUP BY grp

SELECT ALL grp FROM items

SELECT count(DISTINCT grp) FROM items

SELECT count(DISTINCT name), count(DISTINCT id) FROM items

SELECT grp, count(DISTINCT small) FROM items GROUP BY grp

SELECT sum(DISTINCT grp), avg(DISTINCT small) FROM items

SELECT DISTINCT label FROM parts WHERE qty > 3

SELECT DISTINCT i.grp, p.label FROM items i JOIN parts p ON p.item_id = i.id

SELECT DISTINCT t.kind, i.grp FROM tags t JOIN items i ON i.id = t.item_id

SELECT count(*) FROM (SELECT DISTINCT grp, flag FROM items) x

# in order
SELECT DISTINCT grp FROM items ORDER BY grp

# in order
SELECT DISTINCT grp FROM items ORDER BY 1 DESC

# in order
SELECT DISTINCT grp, small FROM items ORDER BY small, grp DESC

# in order
SELECT DISTINCT name FROM items ORDER BY name

# in order
SELECT DISTINCT c_name FROM items ORDER BY c_name DESC

# in order
SELECT DISTINCT i_name FROM items ORDER BY i_name

# in order
SELECT DISTINCT grp * 2 AS g FROM items ORDER BY g

# in order
SELECT DISTINCT grp FROM items ORDER BY id

# in order
SELECT DISTINCT ON (grp) grp, id FROM items ORDER BY grp, id

# in order
SELECT DISTINCT ON (grp) grp, id, name FROM items ORDER BY grp DESC NULLS LAST, id DESC

# in order
SELECT DISTINCT ON (grp, flag) id FROM items ORDER BY grp, flag, id

# in order
SELECT DISTINCT ON (id) id FROM items ORDER BY id

# in order
SELECT DISTINCT ON (i_name) i_name, id FROM items ORDER BY i_name, id LIMIT 5

# in order
SELECT DISTINCT ON (p.label) p.label, p.item_id, p.part FROM parts p ORDER BY p.label, p.qty DESC, p.item_id, p.part

# in order
SELECT DISTINCT ON (grp) id FROM items ORDER BY id

# counted
SELECT DISTINCT n_name FROM items

# counted
SELECT DISTINCT ON (grp) grp, id FROM items
