-- Aggregates, GROUP BY, HAVING, FILTER, ordered-set aggregates, grouping sets.

SELECT count(*) FROM items

SELECT count(*), count(grp), count(name) FROM items

SELECT sum(grp), sum(small), sum(id), sum(price), sum(amount) FROM items

SELECT sum(ratio4), sum(ratio) FROM items

SELECT min(id), max(id), min(grp), max(price), min(amount), max(amount) FROM items

SELECT min(ratio), max(ratio), min(ratio4), max(ratio4) FROM items

SELECT min(name), max(name) FROM items

SELECT min(c_name), max(c_name) FROM items

SELECT min(i_name), max(i_name) FROM items

SELECT min(day), max(at), min(atz), max(tod), min(span) FROM items

SELECT min(fixed), max(short) FROM items

SELECT min(list), max(list), min(feel), max(feel) FROM items

SELECT avg(grp), avg(small), avg(id), avg(price) FROM items

SELECT avg(amount) FROM items

SELECT avg(ratio4) FROM items

SELECT avg(span), sum(span) FROM items

SELECT bool_and(flag), bool_or(flag), every(flag) FROM items

SELECT bit_and(id), bit_or(grp) FROM items

SELECT count(*) FILTER (WHERE grp > 2), sum(id) FILTER (WHERE flag), min(name) FILTER (WHERE id > 30) FROM items

SELECT count(*), sum(v), avg(v), min(t), max(id), bool_and(v > 0) FROM empty

SELECT v, count(*) FROM empty GROUP BY v

SELECT count(*) FROM items WHERE false

SELECT sum(grp), max(name) FROM items WHERE id > 1000

SELECT count(*) FROM items HAVING count(*) > 100

SELECT count(*) FROM items HAVING count(*) < 100

SELECT 1 FROM items HAVING true

SELECT sum(grp) + 1, -count(*), count(*) * 2.5 FROM items

SELECT sum(grp)::text, coalesce(sum(v), 0) FROM items i LEFT JOIN empty e ON e.id = i.id

SELECT sum(qty * cost) FROM parts

SELECT sum(cost) / count(*), avg(cost) FROM parts

SELECT count(*), 'x' AS x, 5 FROM items

SELECT grp, count(*) FROM items GROUP BY grp

SELECT grp, count(*), sum(id), min(name), max(c_name), avg(price), bool_and(flag) FROM items GROUP BY grp

SELECT grp, small, count(*) FROM items GROUP BY grp, small

SELECT count(*), grp FROM items GROUP BY 2

SELECT grp AS g, count(*) AS n FROM items GROUP BY g

SELECT count(*) FROM items GROUP BY grp

SELECT grp FROM items GROUP BY grp

SELECT name, count(*) FROM items GROUP BY name

SELECT c_name, count(*) FROM items GROUP BY c_name

SELECT i_name, count(*), sum(id) FROM items GROUP BY i_name

SELECT feel, count(*) FROM items GROUP BY feel

SELECT flag, avg(ratio4) FROM items GROUP BY flag

SELECT ratio, count(*) FROM items GROUP BY ratio

SELECT doc, count(*) FROM items GROUP BY doc

SELECT fixed, count(*) FROM items GROUP BY fixed

SELECT id, count(*) FROM items GROUP BY id

SELECT id, name, count(*) FROM items GROUP BY id

SELECT item_id, sum(qty), avg(cost) FROM parts GROUP BY item_id

SELECT label, sum(qty), count(DISTINCT item_id) FROM parts GROUP BY label

SELECT grp % 2, count(*) FROM items GROUP BY grp % 2

SELECT upper(name), count(*) FROM items GROUP BY upper(name)

SELECT date_trunc('year', day), count(*) FROM items GROUP BY 1

SELECT grp, count(*) FROM items GROUP BY grp HAVING count(*) > 8

SELECT grp FROM items GROUP BY grp HAVING sum(id) > 100 AND max(price) < 10

SELECT grp, sum(id) FROM items GROUP BY grp HAVING grp > 2

SELECT grp, count(*) FROM items WHERE flag GROUP BY grp HAVING bool_or(small > 0)

SELECT grp, sum(id) + 1, sum(id) - count(*) FROM items GROUP BY grp

SELECT grp, count(*) > 8 FROM items GROUP BY grp

SELECT grp, CASE WHEN count(*) > 8 THEN 'many' ELSE 'few' END FROM items GROUP BY grp

SELECT i.grp, sum(p.qty), count(*) FROM items i JOIN parts p ON p.item_id = i.id GROUP BY i.grp

SELECT i.grp, count(p.part) FROM items i LEFT JOIN parts p ON p.item_id = i.id GROUP BY i.grp

SELECT c.colour, count(*) FROM items i JOIN colours c ON c.rank = i.grp GROUP BY c.colour

SELECT t.kind, sum(i.price) FROM tags t JOIN items i ON i.id = t.item_id GROUP BY t.kind

SELECT array_agg(id ORDER BY id DESC) FROM items

SELECT grp, array_agg(id ORDER BY id), string_agg(name, ',' ORDER BY name, id) FROM items GROUP BY grp

SELECT json_agg(id ORDER BY id), jsonb_object_agg(id, grp) FROM items WHERE id < 9

SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY price), percentile_disc(0.25) WITHIN GROUP (ORDER BY id) FROM items

SELECT grp, percentile_disc(0.5) WITHIN GROUP (ORDER BY i_name) FROM items GROUP BY grp

SELECT mode() WITHIN GROUP (ORDER BY grp) FROM items WHERE grp < 3 OR id = 3

SELECT rank(3) WITHIN GROUP (ORDER BY grp) FROM items

SELECT stddev(grp), variance(small), var_pop(id) FROM items

SELECT corr(id, id), regr_count(id, grp) FROM items

SELECT grp, flag, count(*) FROM items GROUP BY ROLLUP (grp, flag)

SELECT grp, flag, count(*), grouping(grp, flag) FROM items GROUP BY CUBE (grp, flag)

SELECT grp, flag, sum(id) FROM items GROUP BY GROUPING SETS ((grp), (flag), ())

SELECT grp, count(*) FROM items GROUP BY GROUPING SETS (grp)

SELECT count(*) FROM items GROUP BY ()

SELECT v, count(*) FROM empty GROUP BY ROLLUP (v)

SELECT count(*) FROM empty GROUP BY ()

SELECT max(n) FROM (SELECT grp, count(*) AS n FROM items GROUP BY grp) x

SELECT n, qty FROM busy WHERE item_id < 10

SELECT count(*), sum(n) FROM busy

SELECT sum(9223372036854775807) FROM items

SELECT sum(id * 2000000000000000000) FROM items

SELECT min(grp), id FROM items

SELECT grp, sum(nothing) FROM items GROUP BY grp

SELECT sum(name) FROM items

SELECT min(DISTINCT grp), max(DISTINCT grp) FROM items

SELECT any_value(1) FROM items

SELECT count(items) FROM items

SELECT count(i.*) FROM items i

SELECT pg_typeof(sum(grp)), pg_typeof(avg(grp)) FROM items

# in order
SELECT grp, count(*) FROM items GROUP BY grp ORDER BY grp

# in order
SELECT grp, count(*) FROM items GROUP BY grp ORDER BY count(*) DESC, grp

# in order
SELECT grp, sum(id) AS s FROM items GROUP BY grp ORDER BY s

# in order
SELECT grp FROM items GROUP BY grp ORDER BY max(id)

# in order
SELECT i_name, count(*) FROM items GROUP BY i_name ORDER BY i_name DESC

# in order
SELECT c_name, count(*) FROM items GROUP BY c_name ORDER BY c_name

# in order
SELECT grp, avg(price) FROM items GROUP BY grp ORDER BY avg(price), grp

# in order
SELECT grp, flag, count(*) FROM items GROUP BY grp, flag ORDER BY flag NULLS FIRST, grp DESC

# in order
SELECT label, min(cost) FROM parts GROUP BY label ORDER BY 1 DESC

# in order
SELECT grp, flag, count(*) FROM items GROUP BY ROLLUP (grp, flag) ORDER BY grp, flag, 3

# counted
SELECT n_name, count(*) FROM items GROUP BY n_name

@ integer 3
SELECT grp, count(*) FROM items WHERE grp > $1 GROUP BY grp HAVING count(*) > $1

@ integer 3
SELECT grp + $1, count(*) FROM items GROUP BY grp + $1

@ bigint 100
SELECT sum(id) + $1, count(*) FILTER (WHERE id < $1) FROM items
