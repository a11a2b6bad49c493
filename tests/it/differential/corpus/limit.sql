-- LIMIT, OFFSET and FETCH.

# in order
SELECT id FROM items ORDER BY id LIMIT 5

# in order
SELECT id FROM items ORDER BY id DESC LIMIT 5

# in order
SELECT id FROM items ORDER BY id LIMIT 0

# in order
SELECT id FROM items ORDER BY id LIMIT 1000

# in order
SELECT id FROM items ORDER BY id LIMIT NULL

# in order
SELECT id FROM items ORDER BY id LIMIT ALL

# in order
SELECT id FROM items ORDER BY id LIMIT '7'

# in order
SELECT id FROM items ORDER BY id LIMIT 2.5

# in order
SELECT id FROM items ORDER BY id LIMIT 3.5 OFFSET 1.5

# in order
SELECT id FROM items ORDER BY id LIMIT -1

# in order
SELECT id FROM items ORDER BY id OFFSET -1

# in order
SELECT id FROM items ORDER BY id LIMIT -1 OFFSET -1

# in order
SELECT id FROM items ORDER BY id OFFSET 10

# in order
SELECT id FROM items ORDER BY id OFFSET 59

# in order
SELECT id FROM items ORDER BY id OFFSET 60

# in order
SELECT id FROM items ORDER BY id OFFSET 61

# in order
SELECT id FROM items ORDER BY id OFFSET NULL

# in order
SELECT id FROM items ORDER BY id OFFSET 3 ROWS

# in order
SELECT id FROM items ORDER BY id OFFSET 3 ROWS FETCH NEXT 4 ROWS ONLY

# in order
SELECT id FROM items ORDER BY id FETCH FIRST ROW ONLY

# in order
SELECT id FROM items ORDER BY id FETCH FIRST 6 ROWS ONLY

# in order
SELECT id FROM items ORDER BY id FETCH FIRST (2 + 1) ROWS ONLY

# in order
SELECT id FROM items ORDER BY id LIMIT 5 OFFSET 5

# in order
SELECT id FROM items ORDER BY id OFFSET 5 LIMIT 5

# in order
SELECT id FROM items ORDER BY id LIMIT 10 OFFSET 55

# in order
SELECT id FROM items ORDER BY id LIMIT 9223372036854775807 OFFSET 58

# in order
SELECT id FROM items ORDER BY id LIMIT 9223372036854775807 OFFSET 9223372036854775807

# in order
SELECT id FROM items ORDER BY id LIMIT 9223372036854775808

# in order
SELECT id FROM items ORDER BY id LIMIT 2 + 3

# in order
SELECT id FROM items ORDER BY id LIMIT 2 * 3 OFFSET 1 + 1

# in order
SELECT id FROM items ORDER BY id LIMIT (SELECT 4)

# in order
SELECT id FROM items ORDER BY id LIMIT (SELECT count(*) FROM lone)

# in order
SELECT id FROM items ORDER BY id LIMIT 'x'

# in order
SELECT id FROM items ORDER BY id LIMIT 1 / 0

# in order
SELECT id FROM items ORDER BY id LIMIT true

# in order
SELECT id, grp FROM items ORDER BY grp, id LIMIT 11 OFFSET 7

# in order
SELECT id, name FROM items ORDER BY i_name DESC, id LIMIT 9

# in order
SELECT id FROM items WHERE grp = 3 ORDER BY id DESC LIMIT 3

# in order
SELECT grp, count(*) FROM items GROUP BY grp ORDER BY grp LIMIT 3

# in order
SELECT grp, count(*) FROM items GROUP BY grp ORDER BY count(*) DESC, grp LIMIT 3 OFFSET 1

# in order
SELECT DISTINCT grp FROM items ORDER BY grp LIMIT 4 OFFSET 2

# in order
SELECT id FROM empty ORDER BY id LIMIT 3

# in order
SELECT grp FROM items ORDER BY grp FETCH FIRST 5 ROWS WITH TIES

# in order
SELECT grp FROM items ORDER BY grp DESC NULLS LAST OFFSET 2 FETCH FIRST 1 ROW WITH TIES

# in order
SELECT x.id FROM (SELECT id FROM items ORDER BY id LIMIT 5) x ORDER BY x.id DESC

# in order
SELECT * FROM (SELECT id FROM items ORDER BY id DESC LIMIT 3) a, (SELECT tag FROM tags ORDER BY tag LIMIT 2) b ORDER BY 1, 2

# in order
SELECT id FROM items ORDER BY id FOR UPDATE LIMIT 2

# counted
SELECT id FROM items LIMIT 5

# counted
SELECT id FROM items OFFSET 50

# counted
SELECT id FROM items ORDER BY grp LIMIT 7

# counted
SELECT * FROM items LIMIT 0

# counted
SELECT id FROM items LIMIT 100

# counted
SELECT 1 FROM items LIMIT 3 OFFSET 59

# counted
SELECT p.item_id FROM parts p JOIN items i ON i.id = p.item_id LIMIT 4

# in order
@ bigint 5
SELECT id FROM items ORDER BY id LIMIT $1

# in order
@ bigint 5
SELECT id FROM items ORDER BY id DESC OFFSET $1

# in order
@ bigint 0
SELECT id FROM items ORDER BY id LIMIT $1

# in order
@ bigint 0
SELECT id FROM items ORDER BY id DESC OFFSET $1

# in order
@ bigint NULL
SELECT id FROM items ORDER BY id LIMIT $1

# in order
@ bigint NULL
SELECT id FROM items ORDER BY id DESC OFFSET $1

# in order
@ bigint -1
SELECT id FROM items ORDER BY id LIMIT $1

# in order
@ bigint -1
SELECT id FROM items ORDER BY id DESC OFFSET $1

# in order
@ bigint 1000
SELECT id FROM items ORDER BY id LIMIT $1

# in order
@ bigint 1000
SELECT id FROM items ORDER BY id DESC OFFSET $1

# in order
@ bigint 9223372036854775807
SELECT id FROM items ORDER BY id LIMIT $1

# in order
@ bigint 9223372036854775807
SELECT id FROM items ORDER BY id DESC OFFSET $1

# in order
@ bigint 3
@ bigint 4
SELECT id FROM items ORDER BY id LIMIT $1 OFFSET $2

# in order
@ bigint 4
SELECT id FROM items ORDER BY id LIMIT $1 OFFSET $1

# in order
@ integer 4
SELECT id FROM items ORDER BY id LIMIT $1::integer

# in order
@ integer 4
SELECT id FROM items WHERE grp = $1 ORDER BY id LIMIT $1
