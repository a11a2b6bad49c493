-- Window functions.

SELECT id, row_number() OVER (ORDER BY id) FROM items

SELECT id, row_number() OVER (PARTITION BY grp ORDER BY id DESC) FROM items

SELECT id, rank() OVER (ORDER BY grp), dense_rank() OVER (ORDER BY grp NULLS FIRST) FROM items

SELECT id, percent_rank() OVER (ORDER BY price), cume_dist() OVER (ORDER BY price) FROM items

SELECT id, ntile(4) OVER (ORDER BY id) FROM items

SELECT id, lag(name) OVER (ORDER BY id), lead(id, 2, -1) OVER (ORDER BY id) FROM items

SELECT id, first_value(id) OVER w, last_value(id) OVER w, nth_value(id, 2) OVER w FROM items WINDOW w AS (PARTITION BY flag ORDER BY id)

SELECT id, sum(grp) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM items

SELECT id, sum(grp) OVER (ORDER BY grp RANGE BETWEEN 1 PRECEDING AND 1 FOLLOWING) FROM items

SELECT id, count(*) OVER (ORDER BY grp GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE TIES) FROM items

SELECT id, count(*) OVER () FROM items

SELECT id, count(*) OVER (PARTITION BY id) FROM items

SELECT item_id, part, sum(qty) OVER (PARTITION BY item_id ORDER BY part) FROM parts

SELECT item_id, part, rank() OVER (PARTITION BY label ORDER BY qty) FROM parts

SELECT item_id, part, avg(cost) OVER (PARTITION BY item_id) FROM parts

SELECT i.id, rank() OVER (ORDER BY i_name) FROM items i

SELECT id, rank() OVER (PARTITION BY i_name ORDER BY c_name) FROM items

SELECT grp, count(*), rank() OVER (ORDER BY count(*)) FROM items GROUP BY grp

SELECT grp, sum(sum(id)) OVER (ORDER BY grp) FROM items GROUP BY grp

SELECT * FROM (SELECT id, row_number() OVER (PARTITION BY grp ORDER BY id) AS n FROM items) x WHERE n = 1

SELECT id, max(name) OVER (PARTITION BY grp), min(i_name) OVER (PARTITION BY small) FROM items

SELECT id, bool_and(flag) OVER (ORDER BY id) FROM items

SELECT id, count(*) FILTER (WHERE flag) OVER (ORDER BY id) FROM items

SELECT DISTINCT grp, count(*) OVER (PARTITION BY grp) FROM items

SELECT v, sum(v) OVER () FROM empty

# in order
SELECT id, row_number() OVER (ORDER BY id DESC) AS n FROM items ORDER BY n LIMIT 5

# in order
SELECT id, rank() OVER (PARTITION BY flag ORDER BY price) AS r FROM items ORDER BY r DESC, id

# counted
SELECT id, row_number() OVER (ORDER BY grp) FROM items

# counted
SELECT row_number() OVER () FROM items
