-- Parameters of many types.

# in order
@ smallint 1
SELECT id, small FROM items WHERE small = $1 ORDER BY small, id

@ smallint 1
SELECT count(*), min($1) FROM items WHERE small > $1

@ smallint 1
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.small <= $1

@ smallint NULL
SELECT id FROM items WHERE small = $1 OR $1 IS NULL AND id < 3

# in order
@ integer 3
SELECT id, grp FROM items WHERE grp = $1 ORDER BY grp, id

@ integer 3
SELECT count(*), min($1) FROM items WHERE grp > $1

@ integer 3
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.grp <= $1

@ integer NULL
SELECT id FROM items WHERE grp = $1 OR $1 IS NULL AND id < 3

# in order
@ bigint 17
SELECT id, id FROM items WHERE id = $1 ORDER BY id, id

@ bigint 17
SELECT count(*), min($1) FROM items WHERE id > $1

@ bigint 17
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.id <= $1

@ bigint NULL
SELECT id FROM items WHERE id = $1 OR $1 IS NULL AND id < 3

# in order
@ numeric 1.500
SELECT id, price FROM items WHERE price = $1 ORDER BY price, id

@ numeric 1.500
SELECT count(*), min($1) FROM items WHERE price > $1

@ numeric 1.500
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.price <= $1

@ numeric NULL
SELECT id FROM items WHERE price = $1 OR $1 IS NULL AND id < 3

# in order
@ numeric NaN
SELECT id, amount FROM items WHERE amount = $1 ORDER BY amount, id

@ numeric NaN
SELECT count(*), min($1) FROM items WHERE amount > $1

@ numeric NaN
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.amount <= $1

@ numeric NULL
SELECT id FROM items WHERE amount = $1 OR $1 IS NULL AND id < 3

# in order
@ double 0.25
SELECT id, ratio FROM items WHERE ratio = $1 ORDER BY ratio, id

@ double 0.25
SELECT count(*), min($1) FROM items WHERE ratio > $1

@ double 0.25
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.ratio <= $1

@ double NULL
SELECT id FROM items WHERE ratio = $1 OR $1 IS NULL AND id < 3

# in order
@ double NaN
SELECT id, ratio FROM items WHERE ratio = $1 ORDER BY ratio, id

@ double NaN
SELECT count(*), min($1) FROM items WHERE ratio > $1

@ double NaN
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.ratio <= $1

@ double NULL
SELECT id FROM items WHERE ratio = $1 OR $1 IS NULL AND id < 3

# in order
@ real 0.5
SELECT id, ratio4 FROM items WHERE ratio4 = $1 ORDER BY ratio4, id

@ real 0.5
SELECT count(*), min($1) FROM items WHERE ratio4 > $1

@ real 0.5
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.ratio4 <= $1

@ real NULL
SELECT id FROM items WHERE ratio4 = $1 OR $1 IS NULL AND id < 3

# in order
@ boolean t
SELECT id, flag FROM items WHERE flag = $1 ORDER BY flag, id

@ boolean t
SELECT count(*), min($1) FROM items WHERE flag > $1

@ boolean t
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.flag <= $1

@ boolean NULL
SELECT id FROM items WHERE flag = $1 OR $1 IS NULL AND id < 3

# in order
@ date 1999-01-05
SELECT id, day FROM items WHERE day = $1 ORDER BY day, id

@ date 1999-01-05
SELECT count(*), min($1) FROM items WHERE day > $1

@ date 1999-01-05
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.day <= $1

@ date NULL
SELECT id FROM items WHERE day = $1 OR $1 IS NULL AND id < 3

# in order
@ timestamp 2024-02-02 12:01:00.5
SELECT id, at FROM items WHERE at = $1 ORDER BY at, id

@ timestamp 2024-02-02 12:01:00.5
SELECT count(*), min($1) FROM items WHERE at > $1

@ timestamp 2024-02-02 12:01:00.5
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.at <= $1

@ timestamp NULL
SELECT id FROM items WHERE at = $1 OR $1 IS NULL AND id < 3

# in order
@ timestamptz 2024-03-02 00:00:00+00
SELECT id, atz FROM items WHERE atz = $1 ORDER BY atz, id

@ timestamptz 2024-03-02 00:00:00+00
SELECT count(*), min($1) FROM items WHERE atz > $1

@ timestamptz 2024-03-02 00:00:00+00
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.atz <= $1

@ timestamptz NULL
SELECT id FROM items WHERE atz = $1 OR $1 IS NULL AND id < 3

# in order
@ time 05:30
SELECT id, tod FROM items WHERE tod = $1 ORDER BY tod, id

@ time 05:30
SELECT count(*), min($1) FROM items WHERE tod > $1

@ time 05:30
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.tod <= $1

@ time NULL
SELECT id FROM items WHERE tod = $1 OR $1 IS NULL AND id < 3

# in order
@ interval 3 days 2 hours
SELECT id, span FROM items WHERE span = $1 ORDER BY span, id

@ interval 3 days 2 hours
SELECT count(*), min($1) FROM items WHERE span > $1

@ interval 3 days 2 hours
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.span <= $1

@ interval NULL
SELECT id FROM items WHERE span = $1 OR $1 IS NULL AND id < 3

# in order
@ uuid 30000000-0000-0000-0000-000000000000
SELECT id, code FROM items WHERE code = $1 ORDER BY code, id

@ uuid 30000000-0000-0000-0000-000000000000
SELECT count(*), min($1) FROM items WHERE code > $1

@ uuid 30000000-0000-0000-0000-000000000000
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.code <= $1

@ uuid NULL
SELECT id FROM items WHERE code = $1 OR $1 IS NULL AND id < 3

# in order
@ text apfel
SELECT id, name FROM items WHERE name = $1 ORDER BY name, id

@ text apfel
SELECT count(*), min($1) FROM items WHERE name > $1

@ text apfel
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.name <= $1

@ text NULL
SELECT id FROM items WHERE name = $1 OR $1 IS NULL AND id < 3

# in order
@ text Zebra
SELECT id, c_name FROM items WHERE c_name = $1 ORDER BY c_name, id

@ text Zebra
SELECT count(*), min($1) FROM items WHERE c_name > $1

@ text Zebra
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.c_name <= $1

@ text NULL
SELECT id FROM items WHERE c_name = $1 OR $1 IS NULL AND id < 3

# in order
@ text éclair
SELECT id, i_name FROM items WHERE i_name = $1 ORDER BY i_name, id

@ text éclair
SELECT count(*), min($1) FROM items WHERE i_name > $1

@ text éclair
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.i_name <= $1

@ text NULL
SELECT id FROM items WHERE i_name = $1 OR $1 IS NULL AND id < 3

# in order
@ varchar s3
SELECT id, short FROM items WHERE short = $1 ORDER BY short, id

@ varchar s3
SELECT count(*), min($1) FROM items WHERE short > $1

@ varchar s3
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.short <= $1

@ varchar NULL
SELECT id FROM items WHERE short = $1 OR $1 IS NULL AND id < 3

# in order
@ bytea \x014a
SELECT id, bytes FROM items WHERE bytes = $1 ORDER BY bytes, id

@ bytea \x014a
SELECT count(*), min($1) FROM items WHERE bytes > $1

@ bytea \x014a
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.bytes <= $1

@ bytea NULL
SELECT id FROM items WHERE bytes = $1 OR $1 IS NULL AND id < 3

# in order
@ jsonb {"n": 1, "t": "x1"}
SELECT id, doc FROM items WHERE doc = $1 ORDER BY doc, id

@ jsonb {"n": 1, "t": "x1"}
SELECT count(*), min($1) FROM items WHERE doc > $1

@ jsonb {"n": 1, "t": "x1"}
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.doc <= $1

@ jsonb NULL
SELECT id FROM items WHERE doc = $1 OR $1 IS NULL AND id < 3

# in order
@ integer[] {1,2}
SELECT id, list FROM items WHERE list = $1 ORDER BY list, id

@ integer[] {1,2}
SELECT count(*), min($1) FROM items WHERE list > $1

@ integer[] {1,2}
SELECT i.id, $1 AS given FROM items i JOIN tags t ON t.item_id = i.id WHERE i.list <= $1

@ integer[] NULL
SELECT id FROM items WHERE list = $1 OR $1 IS NULL AND id < 3

@ text a
@ text b
SELECT count(*) FROM items WHERE name > $2 OR name < $1

@ integer 3
SELECT $1 + 1 AS n, count(*) FROM items

@ text x
SELECT id, $1 AS x FROM items

@ text x
SELECT id, $1::text AS x FROM items WHERE id < 5

@ bigint[] {1,2,3,90}
SELECT id, grp FROM items WHERE id = ANY ($1)

@ bigint 1
@ bigint 2
@ bigint 3
SELECT id, grp FROM items WHERE id IN ($1, $2, $3)

@ integer 1
SELECT id FROM items WHERE grp = $1 UNION ALL SELECT item_id FROM tags WHERE weight = $1

@ integer 1
WITH w AS (SELECT id FROM items WHERE grp = $1) SELECT count(*) FROM w

@ interval 1 day
SELECT id, day + $1 FROM items WHERE at > $1 + timestamp '2024-02-02'
