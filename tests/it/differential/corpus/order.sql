-- ORDER BY: every direction, kind of key and type.

# in order
SELECT id, grp FROM items ORDER BY grp, id

# in order
SELECT id, grp FROM items ORDER BY grp DESC, id DESC

# in order
SELECT id, small FROM items ORDER BY small DESC, id

# in order
SELECT id, small FROM items ORDER BY small NULLS FIRST, id DESC

# in order
SELECT id, price FROM items ORDER BY price NULLS FIRST, id

# in order
SELECT id, price FROM items ORDER BY price DESC NULLS LAST, id DESC

# in order
SELECT id, amount FROM items ORDER BY amount DESC NULLS LAST, id

# in order
SELECT id, amount FROM items ORDER BY amount, id DESC

# in order
SELECT id, ratio FROM items ORDER BY ratio, id

# in order
SELECT id, ratio FROM items ORDER BY ratio DESC, id DESC

# in order
SELECT id, ratio4 FROM items ORDER BY ratio4 DESC, id

# in order
SELECT id, ratio4 FROM items ORDER BY ratio4 NULLS FIRST, id DESC

# in order
SELECT id, flag FROM items ORDER BY flag NULLS FIRST, id

# in order
SELECT id, flag FROM items ORDER BY flag DESC NULLS LAST, id DESC

# in order
SELECT id, day FROM items ORDER BY day DESC NULLS LAST, id

# in order
SELECT id, day FROM items ORDER BY day, id DESC

# in order
SELECT id, at FROM items ORDER BY at, id

# in order
SELECT id, at FROM items ORDER BY at DESC, id DESC

# in order
SELECT id, atz FROM items ORDER BY atz DESC, id

# in order
SELECT id, atz FROM items ORDER BY atz NULLS FIRST, id DESC

# in order
SELECT id, tod FROM items ORDER BY tod NULLS FIRST, id

# in order
SELECT id, tod FROM items ORDER BY tod DESC NULLS LAST, id DESC

# in order
SELECT id, span FROM items ORDER BY span DESC NULLS LAST, id

# in order
SELECT id, span FROM items ORDER BY span, id DESC

# in order
SELECT id, code FROM items ORDER BY code, id

# in order
SELECT id, code FROM items ORDER BY code DESC, id DESC

# in order
SELECT id, name FROM items ORDER BY name DESC, id

# in order
SELECT id, name FROM items ORDER BY name NULLS FIRST, id DESC

# in order
SELECT id, c_name FROM items ORDER BY c_name NULLS FIRST, id

# in order
SELECT id, c_name FROM items ORDER BY c_name DESC NULLS LAST, id DESC

# in order
SELECT id, i_name FROM items ORDER BY i_name DESC NULLS LAST, id

# in order
SELECT id, i_name FROM items ORDER BY i_name, id DESC

# in order
SELECT id, bytes FROM items ORDER BY bytes, id

# in order
SELECT id, bytes FROM items ORDER BY bytes DESC, id DESC

# in order
SELECT id, fixed FROM items ORDER BY fixed DESC, id

# in order
SELECT id, fixed FROM items ORDER BY fixed NULLS FIRST, id DESC

# in order
SELECT id, short FROM items ORDER BY short NULLS FIRST, id

# in order
SELECT id, short FROM items ORDER BY short DESC NULLS LAST, id DESC

# in order
SELECT id, doc FROM items ORDER BY doc DESC NULLS LAST, id

# in order
SELECT id, doc FROM items ORDER BY doc, id DESC

# in order
SELECT id, list FROM items ORDER BY list, id

# in order
SELECT id, list FROM items ORDER BY list DESC, id DESC

# in order
SELECT id, feel FROM items ORDER BY feel DESC, id

# in order
SELECT id, feel FROM items ORDER BY feel NULLS FIRST, id DESC

# in order
SELECT id, grp FROM items ORDER BY grp ASC NULLS FIRST, id

# in order
SELECT id, grp FROM items ORDER BY grp ASC NULLS LAST, id

# in order
SELECT id, grp FROM items ORDER BY grp DESC NULLS FIRST, id

# in order
SELECT id, grp FROM items ORDER BY grp DESC NULLS LAST, id

# in order
SELECT id, name FROM items ORDER BY name ASC NULLS FIRST, id

# in order
SELECT id, name FROM items ORDER BY name ASC NULLS LAST, id

# in order
SELECT id, name FROM items ORDER BY name DESC NULLS FIRST, id

# in order
SELECT id, name FROM items ORDER BY name DESC NULLS LAST, id

# in order
SELECT id, i_name FROM items ORDER BY i_name ASC NULLS FIRST, id

# in order
SELECT id, i_name FROM items ORDER BY i_name ASC NULLS LAST, id

# in order
SELECT id, i_name FROM items ORDER BY i_name DESC NULLS FIRST, id

# in order
SELECT id, i_name FROM items ORDER BY i_name DESC NULLS LAST, id

# in order
SELECT id, ratio FROM items ORDER BY ratio ASC NULLS FIRST, id

# in order
SELECT id, ratio FROM items ORDER BY ratio ASC NULLS LAST, id

# in order
SELECT id, ratio FROM items ORDER BY ratio DESC NULLS FIRST, id

# in order
SELECT id, ratio FROM items ORDER BY ratio DESC NULLS LAST, id

# in order
SELECT id FROM items ORDER BY id

# in order
SELECT id FROM items ORDER BY id DESC

# in order
SELECT * FROM items ORDER BY id

# in order
SELECT items.* FROM items ORDER BY items.id DESC

# in order
SELECT i.*, i.id FROM items i ORDER BY i.id

# in order
SELECT id, grp FROM items ORDER BY 2, 1

# in order
SELECT id, grp FROM items ORDER BY 2 DESC, 1 DESC

# in order
SELECT id AS a, grp AS b FROM items ORDER BY b, a

# in order
SELECT id AS grp FROM items ORDER BY grp

# in order
SELECT grp AS id, id AS n FROM items ORDER BY id, n

# in order
SELECT grp AS id FROM items ORDER BY items.id

# in order
SELECT name FROM items ORDER BY id

# in order
SELECT name FROM items ORDER BY grp, id

# in order
SELECT name, grp FROM items ORDER BY small DESC NULLS LAST, price, id

# in order
SELECT id, grp * -1 AS minus FROM items ORDER BY grp * -1, id

# in order
SELECT id FROM items ORDER BY grp * 2 + small, id

# in order
SELECT id, -id FROM items ORDER BY -id

# in order
SELECT id FROM items ORDER BY abs(small), id DESC

# in order
SELECT id FROM items ORDER BY upper(name), id

# in order
SELECT id FROM items ORDER BY upper(c_name) COLLATE "C", id

# in order
SELECT id FROM items ORDER BY name COLLATE "C", id

# in order
SELECT id FROM items ORDER BY name COLLATE "C" DESC, id

# in order
SELECT id FROM items ORDER BY c_name COLLATE "en-x-icu", id

# in order
SELECT id FROM items ORDER BY i_name COLLATE "C" NULLS FIRST, id

# in order
SELECT id FROM items ORDER BY n_name, id

# in order
SELECT id FROM items ORDER BY length(name), c_name, id

# in order
SELECT id FROM items ORDER BY grp USING >, id

# in order
SELECT id FROM items ORDER BY grp USING <, id USING >

# in order
SELECT id, grp IS NULL AS gone FROM items ORDER BY grp IS NULL, id

# in order
SELECT id FROM items ORDER BY CASE WHEN flag THEN 0 ELSE 1 END, id

# in order
SELECT id FROM items ORDER BY coalesce(grp, -1), coalesce(small, 9), id

# in order
SELECT id, doc->>'t' AS t FROM items ORDER BY t, id

# in order
SELECT id FROM items ORDER BY (doc->>'n')::int DESC, id

# in order
SELECT id FROM items ORDER BY list[2], id

# in order
SELECT id FROM items ORDER BY (grp, small), id

# in order
SELECT id FROM items ORDER BY day + 1, id

# in order
SELECT id FROM items ORDER BY span, id

# in order
SELECT id FROM items ORDER BY 'x'::text, id

# in order
SELECT id FROM items ORDER BY 2

# in order
SELECT id FROM items ORDER BY 0

# in order
SELECT id FROM items ORDER BY nothing

# in order
SELECT item_id, part, label FROM parts ORDER BY label, item_id, part

# in order
SELECT item_id, part FROM parts ORDER BY item_id DESC, part

# in order
SELECT p.item_id, p.part, i.name FROM parts p JOIN items i ON i.id = p.item_id ORDER BY i.name DESC, p.item_id, p.part

# in order
SELECT i.id, p.part FROM items i LEFT JOIN parts p ON p.item_id = i.id ORDER BY p.part NULLS FIRST, i.id

# in order
SELECT i.id, c.rank FROM items i LEFT JOIN colours c ON c.rank = i.grp ORDER BY c.rank DESC, i.id

# in order
SELECT id FROM empty ORDER BY v, id

# in order
SELECT "Key", "select" FROM "Odd Table" ORDER BY "select", "Key"

# in order
SELECT "Key" AS "a b" FROM "Odd Table" ORDER BY "a b" DESC

# in order
SELECT "Mixed Case" FROM "Odd Table" ORDER BY "Mixed Case" COLLATE "C" NULLS FIRST

# in order
SELECT id FROM side.things ORDER BY v, id DESC

# in order
SELECT t.v, t.id FROM side.things AS t ORDER BY t.v DESC, t.id

# in order
SELECT id FROM items WHERE grp > 2 ORDER BY id

# in order
SELECT id FROM items WHERE false ORDER BY id

# in order
SELECT id FROM items WHERE grp IS NULL ORDER BY price, id

# in order
SELECT x.id FROM (SELECT id, grp FROM items) x ORDER BY x.grp, x.id

# in order
SELECT id, feel FROM items ORDER BY feel DESC, id

# in order
SELECT id, (SELECT count(*) FROM parts p WHERE p.item_id = i.id) AS n FROM items i ORDER BY n DESC, id

# in order
@ integer 2
SELECT id, grp + $1 AS g FROM items ORDER BY g, id

# in order
@ integer 2
SELECT id FROM items ORDER BY grp % $1, id

# in order
@ text a
SELECT id, name || $1 FROM items WHERE name > $1 ORDER BY name, id
