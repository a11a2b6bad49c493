-- Errors of analysis and of execution.

SELECT 1 / (grp - grp) FROM items

SELECT id / 0 FROM items

SELECT id FROM items WHERE 10 / (id - 30) > 0

SELECT id FROM items ORDER BY 1 / (id - 30)

SELECT sum(1 / (id - 30)) FROM items

SELECT grp, 1 / (sum(id) - sum(id)) FROM items GROUP BY grp

SELECT 1 / (count(*) - 60) FROM items

SELECT small * 32767::smallint FROM items

SELECT id * 9223372036854775807 FROM items

SELECT sum(id)::smallint FROM parts p JOIN items i ON i.id = p.item_id

SELECT (grp * 1000000000)::integer FROM items

SELECT name::integer FROM items

SELECT i.name::integer FROM items i JOIN tags t ON t.item_id = i.id

SELECT 1 / (i.id - i.id) FROM items i JOIN tags t ON t.item_id = i.id

SELECT sqrt(-id) FROM items

SELECT ln(0) FROM items

SELECT (SELECT id FROM items WHERE grp = 1)

SELECT chr(0) FROM items

SELECT no_such_column FROM items

SELECT no_such_function(id) FROM items

SELECT id FROM items WHERE grp = 'x'

SELECT id FROM items WHERE name > 5

SELECT id FROM items, tags WHERE id = item_id AND nothing = 1

SELECT grp, name, count(*) FROM items GROUP BY grp

SELECT count(*) FROM items WHERE count(*) > 1

SELECT sum(count(*)) FROM items

SELECT id FROM items GROUP BY grp

SELECT x.id FROM items

SELECT id FROM items i JOIN parts p ON p.item_id = i.id JOIN nodes n ON n.id = i.id

SELECT i_name || c_name FROM items ORDER BY i_name || c_name

SELECT id FROM items WHERE i_name < c_name

SELECT id FROM items i JOIN tags t ON i.c_name < t.kind

SELECT '2024-13-01'::date FROM items

SELECT id::text::uuid FROM items

SELECT substr(name, 1, -1) FROM items WHERE name IS NOT NULL

SELECT list[1] / (list[2] - list[2]) FROM items WHERE list IS NOT NULL

SELECT FROM nowhere JOIN items ON true

SELECT id FROM items LIMIT 'a'

SELECT id FROM items ORDER BY id LIMIT 5 LIMIT 6

SELECT id FROM items ORDER BY doc->'n'->>'x', id::json

@ integer 0
SELECT id / $1 FROM items

@ integer 0
SELECT count(*) / $1 FROM items
