-- Statements that run on one Postgres and through Trunkline on four. Each ends with an empty line. Lines that begin with @ give
-- the value of a parameter: "@ type value", NULL as the bare word. A text with several statements goes by simple protocol alone.
-- "# in order": the order of the rows counts, too. "# counted": SQL leaves it open which rows there are, but not how many.

-- Keys in all forms.

SELECT * FROM customers WHERE customer_id = 5

SELECT * FROM customers WHERE 5 = customer_id

SELECT * FROM customers WHERE customer_id = '5'

SELECT * FROM customers WHERE customer_id = ' 5 '

SELECT * FROM customers WHERE customer_id = '+5'

SELECT * FROM customers WHERE customer_id = '0005'

SELECT * FROM customers WHERE customer_id = 5::bigint

SELECT * FROM customers WHERE customer_id = 5::int

SELECT * FROM customers WHERE customer_id = '5'::smallint

SELECT * FROM customers WHERE customer_id = CAST('5' AS bigint)

SELECT * FROM customers WHERE customer_id = bigint '5'

SELECT * FROM customers WHERE customer_id = int8 '5'

SELECT * FROM customers WHERE customer_id = +5

SELECT * FROM customers WHERE customer_id = -5

SELECT * FROM customers WHERE customer_id=-5

SELECT * FROM customers WHERE customer_id = - 5

SELECT * FROM customers WHERE customer_id = - -5

SELECT * FROM customers WHERE customer_id = (-5)

SELECT * FROM customers WHERE customer_id = -(5)

SELECT * FROM customers WHERE customer_id = '-5'

SELECT * FROM customers WHERE customer_id = -5::bigint

SELECT * FROM customers WHERE customer_id = (-5)::bigint

SELECT * FROM customers WHERE customer_id = -'5'::bigint

SELECT * FROM customers WHERE customer_id = -'5'

SELECT * FROM customers WHERE customer_id = 5.0

SELECT * FROM customers WHERE customer_id = 5.5

SELECT * FROM customers WHERE customer_id = '5.0'

SELECT * FROM customers WHERE customer_id = 5e0

SELECT * FROM customers WHERE customer_id = 50e-1

SELECT * FROM customers WHERE customer_id = 5.4::int

SELECT * FROM customers WHERE customer_id = 5.5::bigint

SELECT * FROM customers WHERE customer_id = -4.5::int

SELECT * FROM customers WHERE customer_id = 5.4::numeric

SELECT * FROM customers WHERE customer_id = 5::float8

SELECT * FROM customers WHERE customer_id = 9007199254740993::float8

SELECT * FROM customers WHERE customer_id = 9007199254740993::real

SELECT * FROM customers WHERE customer_id = 70000::smallint

SELECT * FROM customers WHERE customer_id = '70000'::smallint

SELECT * FROM customers WHERE customer_id = 9223372036854775807

SELECT * FROM customers WHERE customer_id = -9223372036854775808

SELECT * FROM customers WHERE customer_id = 9223372036854775808

SELECT * FROM customers WHERE customer_id = '9223372036854775808'

SELECT * FROM customers WHERE customer_id = 4294967296

SELECT * FROM customers WHERE customer_id = 0x5

SELECT * FROM customers WHERE customer_id = 1_0

SELECT * FROM customers WHERE customer_id = 'five'

SELECT * FROM customers WHERE customer_id = ''

SELECT * FROM customers WHERE customer_id = true

SELECT * FROM customers WHERE customer_id = E'5'

SELECT * FROM customers WHERE customer_id = E'\x35'

SELECT * FROM customers WHERE customer_id = U&'\0035'

SELECT * FROM customers WHERE customer_id = $$5$$

SELECT * FROM customers WHERE customer_id = $q$5$q$

SELECT * FROM customers WHERE customer_id = '1'
'2'

SELECT * FROM customers WHERE customer_id = 1/* 2 */

SELECT * FROM customers WHERE customer_id = 1 -- 2

SELECT * FROM customers WHERE customer_id = 2 + 3

SELECT * FROM customers WHERE customer_id + 1 = 6

SELECT * FROM customers WHERE customer_id = 10 / 2

SELECT * FROM customers WHERE customer_id % 10 = 5

SELECT * FROM customers WHERE -customer_id = -5

SELECT * FROM customers WHERE customer_id::text = '5'

SELECT * FROM customers WHERE customer_id::int = 5

SELECT * FROM customers WHERE (customer_id) = 5

SELECT * FROM customers WHERE ((customer_id = (5)))

SELECT * FROM customers WHERE (customer_id = 5) IS NOT TRUE

SELECT * FROM customers WHERE (customer_id = 5) IS TRUE

SELECT * FROM customers WHERE (customer_id = 5) = false

SELECT * FROM customers WHERE (customer_id = 5) = true

SELECT * FROM customers WHERE NOT customer_id = 5

SELECT * FROM customers WHERE NOT (customer_id <> 5)

SELECT * FROM customers WHERE NOT NOT customer_id = 5

SELECT * FROM customers WHERE customer_id IS NOT DISTINCT FROM 5

SELECT * FROM customers WHERE customer_id IS NULL

SELECT * FROM customers WHERE customer_id = NULL

SELECT * FROM customers WHERE customer_id = 5 AND NULL

SELECT * FROM customers WHERE customer_id BETWEEN 5 AND 5

SELECT * FROM customers WHERE customer_id >= 5 AND customer_id <= 5

SELECT * FROM customers WHERE customer_id = 5 AND customer_id = 6

SELECT * FROM customers WHERE customer_id = 5 AND customer_id = 5

SELECT * FROM customers WHERE customer_id = 5 OR customer_id = 5

SELECT * FROM customers WHERE customer_id = 5 OR customer_id = 6

SELECT * FROM customers WHERE customer_id = 5 OR name = 'Ada 6'

SELECT * FROM customers WHERE customer_id = 5 OR true

SELECT * FROM customers WHERE customer_id = 5 AND name = 'Ada 5' OR customer_id = 6

SELECT * FROM customers WHERE (customer_id = 5 OR customer_id = 6) AND customer_id = 6

SELECT * FROM customers WHERE customer_id = 5 AND (name = 'x' OR balance >= 0)

SELECT * FROM customers WHERE customer_id IN (5)

SELECT * FROM customers WHERE customer_id IN (5, 5, '5')

SELECT * FROM customers WHERE customer_id IN (1, 2, 3, 4, 5, 6)

SELECT * FROM customers WHERE customer_id IN (5, NULL)

SELECT * FROM customers WHERE customer_id NOT IN (5)

SELECT * FROM customers WHERE customer_id IN (5, 2 + 4)

SELECT * FROM customers WHERE customer_id IN (-5, -5)

SELECT * FROM customers WHERE customer_id IN (5, 5.5)

SELECT * FROM customers WHERE customer_id IN (VALUES (5), (6))

SELECT * FROM customers WHERE (customer_id, name) = (5, 'Ada 5')

SELECT * FROM customers WHERE (customer_id, name) IN ((5, 'Ada 5'))

SELECT * FROM customers WHERE (customer_id, name) IN ((5, 'Ada 5'), (6, 'Ada 6'))

SELECT * FROM customers WHERE ROW(customer_id) = ROW(5)

SELECT * FROM customers WHERE customer_id = ANY (ARRAY[5])

SELECT * FROM customers WHERE customer_id = ANY (ARRAY[5, 6])

SELECT * FROM customers WHERE customer_id = ANY ('{5}')

SELECT * FROM customers WHERE customer_id = ANY ('{5,5}'::bigint[])

SELECT * FROM customers WHERE customer_id = ANY ('{5,6}'::bigint[])

SELECT * FROM customers WHERE customer_id = ANY ('{5,NULL}'::bigint[])

SELECT * FROM customers WHERE customer_id = ANY ('{}'::bigint[])

SELECT * FROM customers WHERE customer_id = ANY ('{{5},{5}}'::bigint[])

SELECT * FROM customers WHERE customer_id = ALL (ARRAY[5])

SELECT * FROM customers WHERE customer_id <> ALL (ARRAY[5])

SELECT * FROM customers WHERE customer_id = SOME (ARRAY[5])

SELECT * FROM customers WHERE customer_id > ANY (ARRAY[5])

SELECT * FROM customers WHERE customer_id = (SELECT 5)

SELECT * FROM customers WHERE customer_id = abs(-5)

SELECT * FROM customers WHERE customer_id = twice(3)

SELECT * FROM customers WHERE customer_id = coalesce(5, 6)

SELECT * FROM customers WHERE customer_id = CASE WHEN true THEN 5 END

SELECT * FROM customers WHERE CASE WHEN customer_id = 5 THEN true ELSE name = 'Ada 6' END

SELECT * FROM customers WHERE coalesce(customer_id = 5, true)

SELECT * FROM customers WHERE customer_id = 5 IS TRUE

SELECT * FROM customers WHERE customer_id OPERATOR(pg_catalog.=) 5

SELECT * FROM customers WHERE "customer_id" = 5

SELECT * FROM customers WHERE CUSTOMER_ID = 5

SELECT * FROM "customers" WHERE "CUSTOMER_ID" = 5

SELECT * FROM Customers WHERE Customers.Customer_Id = 5

SELECT * FROM public.customers WHERE public.customers.customer_id = 5

SELECT * FROM customers c WHERE c.customer_id = 5

SELECT * FROM customers AS c (id, n) WHERE id = 5

SELECT * FROM customers AS c (name, customer_id) WHERE customer_id = 'Ada 5'

SELECT * FROM customers AS c (x, y, customer_id) WHERE customer_id = '5'

SELECT * FROM orders AS o (order_id, customer_id) WHERE customer_id = 1

SELECT * FROM customers global WHERE customer_id = 5

SELECT * FROM customers semi WHERE semi.customer_id = 5

SELECT * FROM ONLY customers WHERE customer_id = 5

SELECT * FROM ONLY (customers) WHERE customer_id = 5

SELECT * FROM customers * WHERE customer_id = 5

TABLE customers

SELECT c.customer_id FROM customers c WHERE customers.customer_id = 5

SELECT * FROM customers WHERE customer_id>-6 AND customer_id = -5

SELECT * FROM customers WHERE customer_id = 5 AND customer_id>-1

SELECT * FROM customers WHERE customer_id>-5

SELECT * FROM customers WHERE customer_id<>-5

SELECT * FROM customers WHERE customer_id BETWEEN 5 AND 5 AND customer_id = 5

SELECT * FROM customers WHERE false

SELECT * FROM customers WHERE customer_id = 5 AND false

SELECT * FROM customers WHERE customer_id = 5 LIMIT 0

SELECT 1 FROM customers

SELECT

SELECT 1

SELECT 'a' = 'b', 1 + 1, NULL, 'é', current_schema()

VALUES (1, 'a'), (2, 'b')

SELECT * FROM customers WHERE customer_id = $1
@ bigint 5

SELECT * FROM customers WHERE $1 = customer_id
@ bigint -5

SELECT * FROM customers WHERE customer_id = $1::int
@ int 5

SELECT * FROM customers WHERE customer_id = $1::text::bigint
@ text 5

SELECT * FROM customers WHERE customer_id = $1::smallint
@ smallint 5

SELECT * FROM customers WHERE customer_id = $1
@ bigint NULL

SELECT * FROM customers WHERE customer_id = $1 AND name = $2
@ bigint 5
@ text Ada 5

SELECT * FROM customers WHERE name = $1 AND customer_id = $2
@ text Ada 6
@ bigint 6

SELECT * FROM customers WHERE customer_id = $1 AND customer_id = $1
@ bigint 7

SELECT * FROM customers WHERE customer_id = $1 OR customer_id = $2
@ bigint 5
@ bigint 5

SELECT * FROM customers WHERE customer_id IN ($1, $2)
@ bigint 1
@ bigint 6

SELECT * FROM customers WHERE customer_id IN ($1)
@ bigint 6

SELECT * FROM customers WHERE customer_id = ANY ($1)
@ bigint[] {5}

SELECT * FROM customers WHERE customer_id = ANY ($1)
@ bigint[] {1,2,3,4,5,6,7,8}

SELECT * FROM customers WHERE customer_id = ANY ($1::int[])
@ int[] {-5,-5}

SELECT * FROM customers WHERE customer_id = ANY ($1)
@ bigint[] {}

SELECT * FROM customers WHERE customer_id = ANY ($1)
@ bigint[] NULL

SELECT * FROM customers WHERE customer_id = $1 + 1
@ bigint 5

SELECT * FROM customers WHERE customer_id = -$1
@ bigint 5

SELECT * FROM customers WHERE customer_id = $1 AND balance > $2
@ int 5
@ numeric -1.5

SELECT * FROM customers WHERE customer_id = $1 AND order_count(customer_id) >= 0
@ bigint 5

SELECT $2::text, name FROM customers WHERE customer_id = $1
@ bigint 5
@ text it's "quoted" \ and é

SELECT $1, name FROM customers WHERE customer_id = $1
@ bigint 5

SELECT name FROM customers WHERE customer_id = $1 LIMIT $1
@ bigint 5

SELECT name FROM customers WHERE customer_id = $1 AND length(name) = $1
@ int 5

-- Text, with quotes, unicode, trailing blanks and patterns.

SELECT * FROM pages WHERE slug = 'home'

SELECT * FROM pages WHERE slug = 'it''s'

SELECT * FROM pages WHERE slug = E'it\'s'

SELECT * FROM pages WHERE slug = 'it"s'

SELECT * FROM pages WHERE slug = 'back\slash'

SELECT * FROM pages WHERE slug = E'back\\slash'

SELECT * FROM pages WHERE slug = 'zażółć gęślą'

SELECT * FROM pages WHERE slug = U&'za\017C\00F3\0142\0107 g\0119\015Bl\0105'

SELECT * FROM pages WHERE slug = U&'za!017C\00F3' UESCAPE '!'

SELECT * FROM pages WHERE slug = E'\u65e5\u672c'

SELECT * FROM pages WHERE slug = '日本'

SELECT * FROM pages WHERE slug = '🙂'

SELECT * FROM pages WHERE slug = ''

SELECT * FROM pages WHERE slug = ' '

SELECT * FROM pages WHERE slug = 'home '

SELECT * FROM pages WHERE slug = 'HOME'

SELECT * FROM pages WHERE slug = 'home'::text

SELECT * FROM pages WHERE slug = 'home'::varchar

SELECT * FROM pages WHERE slug = 'home'::varchar(2)

SELECT * FROM pages WHERE slug = 'home '::char(5)

SELECT * FROM pages WHERE slug = 'home '::bpchar

SELECT * FROM pages WHERE slug = 'home'::name

SELECT * FROM pages WHERE slug = text 'home'

SELECT * FROM pages WHERE slug = 5

SELECT * FROM pages WHERE slug = 5::text

SELECT * FROM pages WHERE slug = '5'

SELECT * FROM pages WHERE slug LIKE 'home'

SELECT * FROM pages WHERE slug ILIKE 'home'

SELECT * FROM pages WHERE lower(slug) = 'home'

SELECT * FROM pages WHERE slug = lower('HOME')

SELECT * FROM pages WHERE slug = 'ho' || 'me'

SELECT * FROM pages WHERE slug = 'ho'
  'me'

SELECT * FROM pages WHERE slug = 'home' COLLATE "C"

SELECT * FROM pages WHERE slug COLLATE "C" = 'home'

SELECT * FROM pages WHERE slug IN ('home', 'it''s')

SELECT * FROM pages WHERE slug = ANY ('{home,"home"}')

SELECT * FROM pages WHERE slug = ANY (ARRAY['home'])

SELECT * FROM pages WHERE slug = ANY ('{"it''s"}'::text[])

SELECT * FROM pages WHERE slug = ANY ('{NULL}'::text[])

SELECT * FROM pages WHERE slug = $1
@ text it's

SELECT * FROM pages WHERE slug = $1
@ varchar zażółć gęślą

SELECT * FROM pages WHERE slug = $1
@ text '; DROP TABLE pages; --

SELECT * FROM pages WHERE slug = ANY ($1)
@ text[] {"back\\slash"}

SELECT * FROM pages JOIN links USING (slug) WHERE slug = 'home'

SELECT slug, count(*) FROM pages p JOIN links l USING (slug) WHERE p.slug = 'home' GROUP BY slug

SELECT * FROM codes WHERE code = 'ab'

SELECT * FROM codes WHERE code = 'ab  '

SELECT * FROM codes WHERE code = 'ab'::text

SELECT * FROM codes WHERE code = 'ab  '::text

SELECT * FROM codes WHERE code = 'abcd'

SELECT * FROM codes WHERE code = 'abcde'

SELECT * FROM codes WHERE code = 'ab'::char(1)

SELECT * FROM codes WHERE code = 'ab'::char

SELECT * FROM codes WHERE code = $1
@ text ab

SELECT * FROM codes WHERE code = $1
@ bpchar ab

SELECT * FROM contracts WHERE "Tenant" = 'acme'

SELECT * FROM contracts WHERE Tenant = 'acme'

SELECT * FROM contracts WHERE "Tenant" = 'acme '

SELECT * FROM contracts WHERE "Tenant" = ''

SELECT * FROM contracts WHERE "Tenant" IN ('acme', 'globex')

SELECT * FROM contracts WHERE "Tenant" IN ('acme', 'initech')

SELECT * FROM contracts WHERE "Tenant" IN ('umbrella', 'hooli')

SELECT * FROM contracts WHERE "Tenant" = 'acme and a name that is longer than its column'

SELECT * FROM contracts WHERE "Tenant" = $1
@ varchar initech

-- uuid, date, timestamps, numbers, bytes, several columns.

SELECT * FROM sessions WHERE id = '6f9619ff-8b86-d011-b42d-00c04fc964ff'

SELECT * FROM sessions WHERE id = '{6F9619FF-8B86-D011-B42D-00C04FC964FF}'

SELECT * FROM sessions WHERE id = '6f9619ff8b86d011b42d00c04fc964ff'

SELECT * FROM sessions WHERE id = uuid '6f9619ff-8b86-d011-b42d-00c04fc964ff'

SELECT * FROM sessions WHERE id = 'not a uuid'

SELECT * FROM sessions WHERE id::text = '6f9619ff-8b86-d011-b42d-00c04fc964ff'

SELECT data->>'a', data->'b'->0 FROM sessions WHERE id = $1
@ uuid 00000000-0000-0000-0000-000000000001

SELECT * FROM sessions WHERE id = ANY ($1)
@ uuid[] {00000000-0000-0000-0000-000000000001}

SELECT * FROM sessions WHERE id = $1 AND data ? 'a'
@ uuid 00000000-0000-0000-0000-000000000001

SELECT * FROM events WHERE day = '2024-02-29'

SELECT * FROM events WHERE day = '20240229'

SELECT * FROM events WHERE day = 'Feb 29 2024'

SELECT * FROM events WHERE day = '2024-02-30'

SELECT * FROM events WHERE day = date '2024-02-29'

SELECT * FROM events WHERE day = '2024-02-29'::timestamp

SELECT * FROM events WHERE day = '2024-02-29 12:00'::timestamp

SELECT * FROM events WHERE day = '2024-02-29 00:00'

SELECT * FROM events WHERE day = timestamptz '2024-02-29 00:00+00'

SELECT * FROM events WHERE day = 'infinity'

SELECT * FROM events WHERE day = '-infinity'

SELECT * FROM events WHERE day = 'today'

SELECT * FROM events WHERE day = current_date

SELECT * FROM events WHERE day = '0044-03-15 BC'

SELECT * FROM events WHERE day >= '2024-01-01' AND day < '2024-02-01'

SELECT * FROM events WHERE day BETWEEN '2024-01-01' AND '2024-01-31'

SELECT * FROM events WHERE day IN ('2024-01-01', '2024-12-31')

SELECT * FROM events WHERE day IN ('2023-12-31', '2024-01-01')

SELECT * FROM events WHERE day = '2027-01-01'

SELECT * FROM events WHERE day = $1
@ date 2024-02-29

SELECT * FROM events WHERE day = $1::timestamp
@ timestamp 2024-02-29 00:00:00

SELECT extract(month FROM day), count(*) FROM events WHERE day = date '2024-02-29' GROUP BY 1

SELECT * FROM readings WHERE device = 1 AND at = '2024-01-01 00:00:00+00'

SELECT * FROM readings WHERE device = 1 AND at = '2024-01-01 01:00:00+01'

SELECT * FROM readings WHERE device = 1 AND at = '2024-01-01 00:00:00'

SELECT * FROM readings WHERE device = 1 AND at = '2024-01-01'::timestamp

SELECT * FROM readings WHERE device = 1 AND at = timestamptz '2024-01-01 00:00:00 UTC'

SELECT * FROM readings WHERE device = 1

SELECT * FROM readings WHERE at = '2024-01-01 00:00:00+00'

SELECT * FROM readings WHERE (device, at) = (1, '2024-01-01 00:00:00+00')

SELECT * FROM readings WHERE device = $1 AND at = $2
@ smallint 1
@ timestamptz 2024-01-01 00:00:00+00

SELECT * FROM readings WHERE device = 1 AND at IN ('2024-01-01 00:00:00+00', '2024-01-02 00:00:00+00')

SELECT * FROM profiles WHERE country = 'DE' AND user_id = 7

SELECT * FROM profiles WHERE country = 'DE' AND user_id = 8

SELECT * FROM profiles WHERE country = 'DE'

SELECT * FROM profiles WHERE country = 'US'

SELECT * FROM profiles WHERE country = 'US' AND user_id > 3

SELECT * FROM profiles WHERE country IN ('US') AND user_id IN (1, 2, 3)

SELECT * FROM profiles WHERE country IN ('US', 'DE') AND user_id = 8

SELECT * FROM profiles WHERE user_id = 8

SELECT * FROM profiles WHERE country = 'XX' AND user_id = 8

SELECT * FROM profiles WHERE (country, user_id) IN (('DE', 7), ('US', 1))

SELECT * FROM profiles WHERE (country = 'DE' AND user_id = 7) OR (country = 'DE' AND user_id = 7)

SELECT * FROM profiles WHERE (country = 'DE' AND user_id = 7) OR (country = 'US' AND user_id = 1)

SELECT * FROM profiles WHERE country = $1 AND user_id = $2
@ text FR
@ bigint 2

SELECT * FROM accounts WHERE id = 7

SELECT * FROM accounts WHERE id = -7

SELECT * FROM accounts WHERE id = 3000000000

SELECT * FROM accounts WHERE id = 7::bigint

SELECT * FROM accounts WHERE id = $1
@ int -7

SELECT * FROM accounts WHERE id = $1::bigint
@ bigint 7

SELECT * FROM ledger WHERE number = 7

SELECT * FROM ledger WHERE number = 7.0

SELECT * FROM ledger WHERE number = 7.000

SELECT * FROM ledger WHERE number = 7e0

SELECT * FROM ledger WHERE number = 70e-1

SELECT * FROM ledger WHERE number = 7.5

SELECT * FROM ledger WHERE number = '7'

SELECT * FROM ledger WHERE number = 7::int

SELECT * FROM ledger WHERE number = 7::float8

SELECT * FROM ledger WHERE number = 7::numeric(3,1)

SELECT * FROM ledger WHERE number = 7.4::numeric(3,0)

SELECT * FROM ledger WHERE number = 'NaN'

SELECT * FROM ledger WHERE number = 1e30

SELECT * FROM ledger WHERE number = -12345678901234567890

SELECT * FROM ledger WHERE number = $1
@ numeric 7.00

SELECT * FROM blobs WHERE hash = '\x00ff'

SELECT * FROM blobs WHERE hash = '\x00FF'

SELECT * FROM blobs WHERE hash = E'\\x00ff'

SELECT * FROM blobs WHERE hash = E'\\000\\377'

SELECT * FROM blobs WHERE hash = 'abc'

SELECT * FROM blobs WHERE hash = '\x616263'::bytea

SELECT * FROM blobs WHERE hash = decode('00ff', 'hex')

SELECT * FROM blobs WHERE hash = $1
@ bytea \x00ff

-- Joins.

SELECT * FROM customers c JOIN orders o ON o.customer_id = c.customer_id WHERE c.customer_id = 5

SELECT * FROM customers c JOIN orders o ON o.customer_id = c.customer_id WHERE o.customer_id = 5

SELECT * FROM customers c JOIN orders o USING (customer_id) WHERE customer_id = 5

SELECT * FROM customers NATURAL JOIN orders WHERE customer_id = 5

SELECT * FROM customers c, orders o WHERE c.customer_id = o.customer_id AND c.customer_id = 5

SELECT * FROM customers c, orders o WHERE c.customer_id = 5 AND o.customer_id = 5

SELECT * FROM customers c, orders o WHERE c.customer_id = 5

SELECT * FROM customers c, orders o WHERE c.customer_id = 5 AND o.customer_id = 6

SELECT * FROM customers c CROSS JOIN orders o WHERE c.customer_id = 5 AND o.customer_id = c.customer_id

SELECT * FROM customers c JOIN orders o ON o.order_id = c.customer_id WHERE c.customer_id = 1

SELECT * FROM customers c JOIN orders o ON o.customer_id > c.customer_id WHERE c.customer_id = 1

SELECT * FROM customers c JOIN orders o ON o.customer_id = c.customer_id OR true WHERE c.customer_id = 5

SELECT * FROM customers c JOIN orders o ON true WHERE c.customer_id = 5

SELECT * FROM customers c JOIN orders o ON o.customer_id = c.customer_id + 0 WHERE c.customer_id = 5

SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = c.customer_id WHERE c.customer_id = 5

SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = c.customer_id WHERE o.customer_id = 5

SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = c.customer_id AND c.customer_id = 5

SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = c.customer_id AND o.customer_id = 5

SELECT * FROM customers c LEFT JOIN orders o ON c.customer_id = 5

SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = 5 WHERE c.customer_id = 5

SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = 5 WHERE c.customer_id = 6

SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = c.customer_id AND o.total > 1000 WHERE c.customer_id = 5

SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = c.customer_id WHERE o.customer_id IS NULL

SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = c.customer_id WHERE o.customer_id IS NULL AND c.customer_id = 9

SELECT * FROM orders o RIGHT JOIN customers c ON o.customer_id = c.customer_id WHERE c.customer_id = 9

SELECT * FROM customers c RIGHT JOIN orders o ON o.customer_id = c.customer_id WHERE c.customer_id = 5

SELECT * FROM customers c RIGHT JOIN orders o ON o.customer_id = c.customer_id AND o.customer_id = 5

SELECT * FROM customers c FULL JOIN orders o ON o.customer_id = c.customer_id WHERE c.customer_id = 5

SELECT * FROM customers c FULL JOIN orders o ON o.customer_id = c.customer_id WHERE c.customer_id = 5 AND o.customer_id = 5

SELECT * FROM customers c FULL JOIN orders o USING (customer_id) WHERE customer_id = 5

SELECT * FROM customers c LEFT JOIN orders o USING (customer_id) WHERE customer_id = 5

SELECT * FROM customers c RIGHT JOIN orders o USING (customer_id) WHERE customer_id = 5

SELECT * FROM customers c LEFT JOIN (orders o JOIN order_lines l USING (customer_id, order_id)) ON o.customer_id = c.customer_id WHERE c.customer_id = 1

SELECT * FROM customers c JOIN orders o USING (customer_id) JOIN order_lines l USING (customer_id, order_id) WHERE c.customer_id = 1

SELECT * FROM customers c JOIN orders o USING (customer_id) JOIN order_lines l ON l.order_id = o.order_id WHERE c.customer_id = 1

SELECT * FROM customers c LEFT JOIN orders o USING (customer_id) LEFT JOIN order_lines l ON l.customer_id = o.customer_id AND l.order_id = o.order_id WHERE c.customer_id = 5

SELECT * FROM customers c LEFT JOIN orders o USING (customer_id) LEFT JOIN order_lines l ON l.customer_id = c.customer_id WHERE c.customer_id = 5

SELECT * FROM customers c LEFT JOIN orders o ON false LEFT JOIN order_lines l ON l.customer_id = o.customer_id WHERE c.customer_id = 5

SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = c.customer_id LEFT JOIN order_lines l ON l.customer_id = o.customer_id WHERE l.customer_id = 1

SELECT * FROM customers a, customers b WHERE a.customer_id = 5 AND b.customer_id = 5

SELECT * FROM customers a, customers b WHERE a.customer_id = 5 AND a.customer_id = b.customer_id

SELECT * FROM customers a JOIN customers b ON a.name = b.name WHERE a.customer_id = 5

SELECT * FROM customers c JOIN notes n ON n.client = c.customer_id WHERE c.customer_id = 5

SELECT * FROM notes WHERE customer_id = 5

SELECT * FROM notes WHERE client = 5

SELECT * FROM notes WHERE client IS NULL

SELECT * FROM customers c JOIN pages p ON p.slug = c.name WHERE c.customer_id = 5

SELECT * FROM customers c JOIN pages p ON true WHERE c.customer_id = 5 AND p.slug = 'home'

SELECT * FROM customers c JOIN accounts a ON a.id = c.customer_id WHERE c.customer_id = 5

SELECT * FROM customers c JOIN accounts a ON a.id = c.customer_id WHERE c.customer_id = 5 AND a.id = 5

SELECT * FROM customers c JOIN countries k ON k.code = c.country WHERE c.customer_id = 5

SELECT * FROM customers c LEFT JOIN countries k ON k.code = c.country WHERE c.customer_id = 5

SELECT * FROM countries k LEFT JOIN customers c ON k.code = c.country WHERE c.customer_id = 5

SELECT * FROM countries k LEFT JOIN customers c ON k.code = c.country AND c.customer_id = 5

SELECT * FROM countries k LEFT JOIN customers c ON k.code = c.country AND c.customer_id = 5 LEFT JOIN orders o ON o.customer_id = c.customer_id

SELECT * FROM countries k JOIN customers c ON k.code = c.country

SELECT * FROM countries

SELECT count(*), max(name) FROM countries WHERE continent = 'Europe'

SELECT * FROM countries FOR UPDATE

SELECT * FROM customers c JOIN countries k ON k.code = c.country WHERE c.customer_id = 5 FOR UPDATE OF c

SELECT * FROM settings

SELECT * FROM settings s, audit a

SELECT * FROM settings s, customers c WHERE c.customer_id = 5

SELECT * FROM audit

SELECT * FROM audit a JOIN countries k ON true

SELECT * FROM audit a JOIN customers c USING (customer_id) WHERE c.customer_id = 5

SELECT * FROM customers c, audit a WHERE a.customer_id = 5

SELECT * FROM nowhere

SELECT * FROM customers, nowhere WHERE customer_id = 5

SELECT nothing FROM customers WHERE customer_id = 5

SELECT * FROM big_orders WHERE customer_id = 5

SELECT * FROM big_orders

-- Subqueries and common table expressions.

SELECT * FROM (SELECT * FROM customers) c WHERE customer_id = 5

SELECT * FROM (SELECT * FROM customers WHERE customer_id = 5) c

SELECT * FROM (SELECT customer_id + 1 AS customer_id FROM customers) c WHERE customer_id = 5

SELECT * FROM (SELECT name AS customer_id, customer_id AS id FROM customers) c WHERE id = 5

SELECT * FROM (SELECT customer_id, count(*) FROM orders GROUP BY customer_id) o WHERE customer_id = 5

SELECT * FROM (SELECT count(*) AS customer_id FROM customers) c WHERE customer_id = 5

SELECT * FROM (SELECT * FROM customers ORDER BY customer_id LIMIT 1) c WHERE customer_id = 5

SELECT * FROM (SELECT *, row_number() OVER (ORDER BY name, customer_id) FROM customers) c WHERE customer_id = 5

SELECT * FROM (SELECT DISTINCT ON (country) * FROM customers ORDER BY country, customer_id) c WHERE customer_id = 5

SELECT * FROM (SELECT customer_id FROM customers UNION ALL SELECT customer_id FROM orders) u WHERE customer_id = 5

SELECT * FROM (VALUES (5)) v (customer_id) JOIN customers USING (customer_id)

SELECT * FROM (VALUES (5)) v (customer_id), customers WHERE customers.customer_id = 5

SELECT * FROM generate_series(1, 3) g, customers WHERE customers.customer_id = 5

SELECT * FROM unnest(ARRAY[5, 6]) u (customer_id) JOIN customers USING (customer_id)

SELECT * FROM generate_series(1, 3)

SELECT * FROM customers c WHERE c.customer_id = 5 AND EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.customer_id)

SELECT * FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = 5)

SELECT * FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.customer_id AND o.customer_id = 5)

SELECT * FROM customers c WHERE c.customer_id = 5 AND EXISTS (SELECT 1 FROM orders o WHERE o.order_id = 1)

SELECT * FROM customers c WHERE c.customer_id = 5 AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.customer_id)

SELECT * FROM customers c WHERE c.customer_id = 5 AND NOT EXISTS (SELECT 1 FROM orders WHERE customer_id = customer_id)

SELECT * FROM customers WHERE customer_id = 5 AND EXISTS (SELECT 1 FROM orders WHERE orders.customer_id = customers.customer_id)

SELECT * FROM customers WHERE customer_id IN (SELECT customer_id FROM orders WHERE customer_id = 5)

SELECT * FROM customers WHERE customer_id IN (SELECT customer_id FROM orders)

SELECT * FROM customers WHERE customer_id = 5 AND customer_id IN (SELECT customer_id FROM orders WHERE customer_id = 5)

SELECT * FROM customers WHERE customer_id = 5 AND name NOT IN (SELECT status FROM orders WHERE customer_id = 5)

SELECT * FROM customers WHERE customer_id = 5 AND name NOT IN (SELECT name FROM customers WHERE customer_id = 6)

SELECT (SELECT max(total) FROM orders WHERE customer_id = 5)

SELECT (SELECT max(total) FROM orders)

SELECT (SELECT max(total) FROM orders WHERE customer_id = 5) FROM customers

SELECT name, (SELECT max(total) FROM orders o WHERE o.customer_id = c.customer_id) FROM customers c WHERE c.customer_id = 5

SELECT name, (SELECT count(*) FROM orders) FROM customers WHERE customer_id = 5

SELECT name, (SELECT name FROM countries WHERE code = country) FROM customers WHERE customer_id = 5

SELECT * FROM customers c, LATERAL (SELECT * FROM orders o WHERE o.customer_id = c.customer_id) x WHERE c.customer_id = 5

SELECT * FROM customers c LEFT JOIN LATERAL (SELECT * FROM orders o WHERE o.customer_id = c.customer_id ORDER BY total DESC LIMIT 1) x ON true WHERE c.customer_id = 5

SELECT * FROM customers c, LATERAL (SELECT * FROM orders o ORDER BY o.customer_id, order_id LIMIT 1) x WHERE c.customer_id = 5

WITH c AS (SELECT * FROM customers WHERE customer_id = 5) SELECT * FROM c

WITH c AS (SELECT * FROM customers) SELECT * FROM c WHERE customer_id = 5

WITH c AS (SELECT * FROM customers WHERE customer_id = 5), o AS (SELECT * FROM orders WHERE customer_id = 5) SELECT * FROM c JOIN o USING (customer_id)

WITH c AS (SELECT * FROM customers WHERE customer_id = 5) SELECT * FROM c JOIN orders USING (customer_id)

WITH c AS (SELECT * FROM customers WHERE customer_id = 5) SELECT * FROM orders

WITH customers AS (SELECT 1 AS customer_id) SELECT * FROM customers

WITH customers AS (SELECT * FROM customers WHERE customer_id = 5) SELECT * FROM customers

WITH customers AS (SELECT * FROM customers WHERE customer_id = 5) SELECT * FROM public.customers

WITH orders AS (SELECT 5 AS customer_id) SELECT * FROM customers JOIN orders USING (customer_id)

WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT * FROM t

WITH RECURSIVE t AS (SELECT customer_id FROM customers WHERE customer_id = 5 UNION SELECT o.customer_id FROM orders o JOIN t USING (customer_id)) SELECT * FROM t

WITH RECURSIVE t AS (SELECT customer_id FROM customers WHERE customer_id = 5 UNION SELECT t.customer_id + 1 FROM t JOIN customers c ON c.customer_id = t.customer_id WHERE t.customer_id < 8) SELECT * FROM t

WITH a AS MATERIALIZED (SELECT * FROM orders WHERE customer_id = 5) SELECT sum(total) FROM a

WITH a (customer_id, name) AS (SELECT name, customer_id FROM customers) SELECT * FROM a WHERE name = 5

-- Set operations.

SELECT name FROM customers WHERE customer_id = 5 UNION SELECT status FROM orders WHERE customer_id = 5

SELECT name FROM customers WHERE customer_id = 5 UNION SELECT name FROM customers

SELECT name FROM customers UNION ALL SELECT name FROM customers WHERE customer_id = 5

SELECT name FROM customers WHERE customer_id = 5 UNION ALL SELECT name FROM customers WHERE customer_id = 6

SELECT customer_id FROM customers WHERE customer_id = 5 EXCEPT SELECT customer_id FROM orders WHERE customer_id = 5

SELECT customer_id FROM customers WHERE customer_id = 5 INTERSECT SELECT customer_id FROM orders

(SELECT name FROM customers WHERE customer_id = 5) UNION (SELECT name FROM countries) ORDER BY 1 LIMIT 3

SELECT name FROM customers WHERE customer_id = 5 UNION ALL TABLE countries

SELECT name FROM customers WHERE customer_id = 5 UNION ALL (TABLE pages)

SELECT 1 UNION SELECT 2

-- Aggregates, windows, order, limits.

SELECT count(*) FROM customers

SELECT count(*) FROM customers WHERE customer_id = 5

SELECT count(*) FILTER (WHERE customer_id = 5) FROM customers

SELECT name FROM customers GROUP BY name HAVING max(customer_id) = 5

SELECT customer_id, sum(total), avg(total), array_agg(order_id ORDER BY order_id) FROM orders WHERE customer_id = 1 GROUP BY customer_id

SELECT status, count(*) FROM orders WHERE customer_id = 1 GROUP BY ROLLUP (status) ORDER BY 1 NULLS FIRST

SELECT order_id, sum(total) OVER (ORDER BY order_id) FROM orders WHERE customer_id = 1

SELECT DISTINCT status FROM orders WHERE customer_id = 1

SELECT DISTINCT ON (status) * FROM orders WHERE customer_id = 1 ORDER BY status, order_id

SELECT * FROM orders WHERE customer_id = 1 ORDER BY total DESC NULLS LAST, order_id LIMIT 2 OFFSET 1

SELECT * FROM orders WHERE customer_id = 1 ORDER BY order_id FETCH FIRST ROW ONLY

SELECT * FROM orders WHERE customer_id = 1 FOR UPDATE

SELECT * FROM orders WHERE customer_id = 1 FOR NO KEY UPDATE SKIP LOCKED

SELECT * FROM customers TABLESAMPLE BERNOULLI (100) WHERE customer_id = 5

SELECT * FROM customers ORDER BY customer_id LIMIT 1

SELECT max(customer_id) FROM customers

SELECT CASE WHEN customer_id = 5 THEN 1 ELSE 0 END FROM customers

SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY total) FROM orders WHERE customer_id = 1

SELECT string_agg(name, ',' ORDER BY name) FROM customers WHERE customer_id IN (1, 2)

SELECT order_count(5)

SELECT order_count(5) FROM customers WHERE customer_id = 5

SELECT order_count(5) FROM customers WHERE customer_id = 6

SELECT twice(4)

SELECT * FROM order_count(5)

EXPLAIN (COSTS OFF) SELECT * FROM customers WHERE customer_id = 5

EXPLAIN (COSTS OFF) UPDATE customers SET name = 'x' WHERE customer_id = 5

EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) UPDATE customers SET name = 'x' WHERE customer_id = 5

SELECT relname, relkind FROM pg_catalog.pg_class WHERE relname = 'customers'

SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'

SELECT count(*) FROM pg_class c JOIN customers k ON true WHERE k.customer_id = 5 AND c.relname = 'orders'

SELECT current_user, current_database()

SELECT version() = version()

SHOW search_path

SHOW server_version

SELECT 1/0

SELECT 1/(customer_id - 5) FROM customers WHERE customer_id = 5

SELECT 1/customer_id FROM customers WHERE customer_id = 5 AND customer_id = 0

SELECT name::int FROM customers WHERE customer_id = 5

SELECT * FROM customers WHERE customer_id = 5 AND

SELECT * FORM customers

SELEC 1

SELECT 'unterminated

SELECT "unterminated

SELECT $$unterminated

SELECT /* unterminated

SELECT * FROM customers WHERE customer_id = 5 AND name = 'a

SELECT * FROM customers WHERE customer_id = 5)

SELECT $1

SELECT * FROM customers WHERE customer_id = $0

SELECT 1; SELECT 2

SELECT 1;; SELECT 2;

;

/* only a comment */

SELECT name FROM customers WHERE customer_id = 5; SELECT status FROM orders WHERE customer_id = 5

SELECT name FROM customers WHERE customer_id = 5; SELECT 1/0; SELECT 3

SELECT name FROM customers WHERE customer_id = 1; SELECT name FROM customers WHERE customer_id = 2; SELECT name FROM customers WHERE customer_id = 4

-- INSERT.

INSERT INTO customers (customer_id, name) VALUES (1001, 'new')

INSERT INTO customers (name, customer_id) VALUES ('new', 1002)

INSERT INTO customers VALUES (1003, 'new')

INSERT INTO customers VALUES (1003, 'new', 'DE', 1.5, 'note')

INSERT INTO customers VALUES (1003, 'new', 'DE', 1.5, 'note', 'more')

INSERT INTO customers (customer_id, name) VALUES (1001)

INSERT INTO customers (customer_id, name) VALUES ('1004', 'new') RETURNING *

INSERT INTO customers (customer_id, name) VALUES (-1004, 'new') RETURNING customer_id, balance, name || '!' AS shouted

INSERT INTO customers AS c (customer_id, name) VALUES (1005, 'new') RETURNING c.customer_id

INSERT INTO customers (customer_id, name) VALUES (1006::int, 'new')

INSERT INTO customers (customer_id, name) VALUES ('1006'::text, 'new')

INSERT INTO customers (customer_id, name) VALUES (1006.4, 'new')

INSERT INTO customers (customer_id, name) VALUES (1006.0, 'new')

INSERT INTO customers (customer_id, name) VALUES (1006.4::int, 'new')

INSERT INTO customers (customer_id, name) VALUES (1000 + 6, 'new')

INSERT INTO customers (customer_id, name) VALUES (abs(-1006), 'new')

INSERT INTO customers (customer_id, name) VALUES (NULL, 'new')

INSERT INTO customers (customer_id, name) VALUES (DEFAULT, 'new')

INSERT INTO customers (name) VALUES ('new')

INSERT INTO customers DEFAULT VALUES

INSERT INTO customers (customer_id, name) VALUES (9223372036854775808, 'new')

INSERT INTO customers (customer_id, name) VALUES ((SELECT 1006), 'new')

INSERT INTO customers (customer_id, name) VALUES (1006, (SELECT name FROM customers WHERE customer_id = 5))

INSERT INTO customers (customer_id, name) VALUES (1006, (SELECT name FROM countries WHERE code = 'DE'))

INSERT INTO customers (customer_id, name) VALUES (1007, 'a'), (1007, 'b')

INSERT INTO customers (customer_id, name) VALUES (1008, 'a'), (1009, 'b'), (1010, 'c'), (1011, 'd'), (1012, 'e')

INSERT INTO orders (customer_id, order_id, total) VALUES (5, 101, 1), (5, 102, 2), (5, 103, 3) RETURNING order_id

INSERT INTO customers (customer_id, name) VALUES (5, 'taken')

INSERT INTO orders (customer_id, order_id, total) VALUES (5, 101, -1)

INSERT INTO orders (customer_id, order_id, total) VALUES (987654, 101, 1)

INSERT INTO order_lines (customer_id, order_id, line) VALUES (1, 1, 77)

INSERT INTO order_lines VALUES (78, 1, 1, 'thing', 2)

INSERT INTO order_lines VALUES (1, 1, 78, 'thing', 2)

INSERT INTO customers (customer_id, name) VALUES (5, 'taken') ON CONFLICT DO NOTHING

INSERT INTO customers (customer_id, name) VALUES (5, 'taken') ON CONFLICT (customer_id) DO UPDATE SET name = excluded.name RETURNING *

INSERT INTO customers (customer_id, name) VALUES (1020, 'free') ON CONFLICT (customer_id) DO UPDATE SET name = excluded.name, balance = customers.balance + 1

INSERT INTO customers (customer_id, name) VALUES (5, 'taken') ON CONFLICT (customer_id) DO UPDATE SET customer_id = 6

INSERT INTO customers (customer_id, name) VALUES (5, 'taken') ON CONFLICT (customer_id) DO UPDATE SET customer_id = excluded.customer_id

INSERT INTO customers (customer_id, name) VALUES (5, 'taken') ON CONFLICT (customer_id) DO UPDATE SET name = 'changed' WHERE customers.name = 'Ada 5'

INSERT INTO customers (customer_id, name) VALUES (5, 'taken') ON CONFLICT (customer_id) DO UPDATE SET name = (SELECT name FROM customers WHERE customer_id = 6)

INSERT INTO customers (customer_id, name) VALUES (5, 'taken') ON CONFLICT ON CONSTRAINT customers_pkey DO NOTHING

INSERT INTO customers (customer_id, name) VALUES (5, 'taken') ON CONFLICT (customer_id) DO UPDATE SET (name, note) = ROW ('x', 'y')

INSERT INTO customers (customer_id, name) SELECT 1021, 'selected'

INSERT INTO customers (customer_id, name) SELECT customer_id + 2000, name FROM customers WHERE customer_id = 5

INSERT INTO notes (client, body) SELECT customer_id, name FROM customers WHERE customer_id = 5

INSERT INTO notes (client, body) SELECT c.customer_id, o.status FROM customers c JOIN orders o USING (customer_id) WHERE c.customer_id = 1 RETURNING body

INSERT INTO notes (body, client) SELECT name, customer_id FROM customers WHERE customer_id = 5

INSERT INTO notes SELECT customer_id, '2024-01-01', name FROM customers WHERE customer_id = 5

INSERT INTO notes SELECT * FROM notes WHERE client = 5

INSERT INTO notes (client, body) SELECT 6, name FROM customers WHERE customer_id = 5

INSERT INTO notes (client, body) SELECT customer_id, name FROM customers

INSERT INTO notes (client, body) SELECT order_id, status FROM orders WHERE customer_id = 1

INSERT INTO notes (client, body) SELECT customer_id, name FROM customers WHERE customer_id = 5 UNION ALL SELECT customer_id, name FROM customers WHERE customer_id = 5

INSERT INTO notes (client, body) VALUES (NULL, 'no client')

INSERT INTO notes (body) VALUES ('no client')

INSERT INTO notes TABLE notes

INSERT INTO notes (client, body) WITH c AS (SELECT * FROM customers WHERE customer_id = 5) SELECT customer_id, name FROM c

WITH c AS (SELECT * FROM customers WHERE customer_id = 5) INSERT INTO notes (client, body) SELECT customer_id, name FROM c

INSERT INTO notes (client, body) SELECT customer_id, name FROM (SELECT * FROM customers WHERE customer_id = 5) c

INSERT INTO notes (client, body) SELECT u, 'x' FROM unnest(ARRAY[5, 6]) u

INSERT INTO notes (client, body) VALUES (5, 'x'), (5, DEFAULT)

INSERT INTO notes (client, body) OVERRIDING USER VALUE VALUES (5, 'x')

INSERT INTO customers (customer_id, name) VALUES ($1, $2)
@ bigint 1030
@ text param

INSERT INTO customers (customer_id, name) VALUES ($2, $1) RETURNING customer_id
@ text param
@ bigint -1031

INSERT INTO customers (customer_id, name) VALUES ($1, $2), ($3, $4)
@ bigint 1032
@ text a
@ bigint 1033
@ text b

INSERT INTO customers (customer_id, name) VALUES ($1, $2), ($1, $3) ON CONFLICT DO NOTHING
@ bigint 1034
@ text a
@ text b

INSERT INTO customers (customer_id, name) VALUES ($1 + 1, 'x')
@ bigint 1035

INSERT INTO customers (customer_id, name) VALUES ($1, 'x')
@ bigint NULL

INSERT INTO orders (customer_id, order_id, total) SELECT customer_id, 500, $2 FROM customers WHERE customer_id = $1
@ bigint 5
@ numeric 12.5

INSERT INTO notes (client, body) SELECT $1, unnest($2::text[])
@ bigint 5
@ text[] {a,b}

INSERT INTO notes (client, body) SELECT unnest($1::bigint[]), unnest($2::text[])
@ bigint[] {5,6}
@ text[] {a,b}

INSERT INTO pages VALUES ('it''s new', 'quoted')

INSERT INTO pages VALUES (E'tab\there', E'new\nline') RETURNING slug

INSERT INTO pages VALUES ($1, $2)
@ text \'); DROP TABLE pages; --
@ text O'Brien

INSERT INTO sessions VALUES ('11111111-2222-3333-4444-555555555555', 5, '{"a": 1}')

INSERT INTO sessions VALUES (gen_random_uuid(), 5, '{"a": 1}')

INSERT INTO sessions (id, data) VALUES ($1, $2)
@ uuid 11111111-2222-3333-4444-555555555556
@ jsonb {"a": [1, 2]}

INSERT INTO events VALUES ('2024-06-01', 1, 'new'), ('2024-07-01', 1, 'new')

INSERT INTO events VALUES ('2024-06-01', 1, 'new'), ('2025-07-01', 1, 'new')

INSERT INTO events VALUES ('2030-01-01', 1, 'new')

INSERT INTO events VALUES (current_date, 1, 'new')

INSERT INTO events VALUES ('2024-06-01 13:14:15', 9, 'new')

INSERT INTO events VALUES ($1, 5, 'new')
@ date 2023-06-01

INSERT INTO contracts VALUES ('acme', 9, 'x'), ('globex', 9, 'y')

INSERT INTO contracts VALUES ('someone else', 9, 'x')

INSERT INTO contracts VALUES ('a name longer than twenty bytes', 9, 'x')

INSERT INTO contracts VALUES ('twenty bytes and blanks               ', 9, 'x')

INSERT INTO profiles VALUES ('DE', 7000, 'x')

INSERT INTO profiles VALUES ('US', 7000, 'x'), ('US', 7001, 'y'), ('US', 7002, 'z')

INSERT INTO profiles VALUES ('DE', 1000, 'x'), ('DE', 1001, 'y'), ('DE', 1002, 'z'), ('DE', 1003, 'z')

INSERT INTO accounts VALUES (1000, 'x'), (1004, 'y'), (-1000, 'z')

INSERT INTO accounts VALUES (1000, 'x'), (1001, 'y')

INSERT INTO accounts VALUES (-3, 'x')

INSERT INTO readings VALUES (5, '2024-01-01 00:00:00+02', 1.5)

INSERT INTO readings VALUES (5, '2024-01-01 00:00:00', 1.5)

INSERT INTO readings VALUES (5, now(), 1.5)

INSERT INTO readings VALUES ($1, $2, $3)
@ smallint 6
@ timestamptz 2024-05-05 05:05:05.123456+00
@ double precision 1.25

INSERT INTO ledger VALUES (1000.0, 'x')

INSERT INTO ledger VALUES (1000.5, 'x')

INSERT INTO ledger VALUES ($1, 'x')
@ numeric 123456789012345678901234567890

INSERT INTO blobs VALUES ('\xdeadbeef', 4)

INSERT INTO blobs VALUES ($1, 4)
@ bytea \x00010203

INSERT INTO codes VALUES ('x', 'blank padded')

INSERT INTO codes VALUES ('x   ', 'blank padded')

INSERT INTO codes VALUES ('xxxxx', 'too long')

INSERT INTO codes VALUES ('xxxx ', 'blank cut')

INSERT INTO codes VALUES ($1, 'param')
@ bpchar y

INSERT INTO countries VALUES ('XX', 'new', 'none')

INSERT INTO settings VALUES ('new', 'value') RETURNING *

INSERT INTO settings SELECT name, 'x' FROM countries

INSERT INTO audit VALUES (1000, 5, 'new')

INSERT INTO audit SELECT 1000, customer_id, name FROM customers WHERE customer_id = 5

INSERT INTO notes (client, body) SELECT 5, value FROM settings

INSERT INTO nowhere VALUES (1)

-- UPDATE and DELETE.

UPDATE customers SET name = 'changed' WHERE customer_id = 5

UPDATE customers SET name = 'changed' WHERE customer_id = 5 RETURNING *

UPDATE customers c SET name = c.name || '!' WHERE c.customer_id = -5 RETURNING c.name

UPDATE ONLY customers SET name = 'changed' WHERE customer_id = 5

UPDATE customers SET name = 'changed'

UPDATE customers SET name = 'changed' WHERE customer_id + 0 = 5

UPDATE customers SET name = 'changed' WHERE customer_id = 5 OR name = 'Ada 6'

UPDATE customers SET name = 'changed' WHERE customer_id IN (5, 6, 7, 8)

UPDATE customers SET name = 'changed' WHERE customer_id IN (5, 5)

UPDATE customers SET name = 'changed' WHERE customer_id = 123456

UPDATE customers SET name = 'changed' WHERE customer_id = NULL

UPDATE customers SET customer_id = 5 WHERE customer_id = 5

UPDATE customers SET customer_id = customer_id + 100 WHERE customer_id = 9

UPDATE customers SET (customer_id, name) = (100, 'x') WHERE customer_id = 9

UPDATE customers SET (name, note) = (SELECT 'a', 'b') WHERE customer_id = 5

UPDATE customers SET name = NULL WHERE customer_id = 5

UPDATE customers SET balance = balance + (SELECT sum(total) FROM orders WHERE customer_id = 5) WHERE customer_id = 5

UPDATE customers SET balance = (SELECT sum(total) FROM orders o WHERE o.customer_id = customers.customer_id) WHERE customer_id = 1

UPDATE customers SET balance = (SELECT sum(total) FROM orders) WHERE customer_id = 5

UPDATE customers SET balance = (SELECT sum(total) FROM orders WHERE customer_id = 6) WHERE customer_id = 5

UPDATE customers c SET balance = o.total FROM orders o WHERE o.customer_id = c.customer_id AND c.customer_id = 5 AND o.order_id = 1

UPDATE customers c SET balance = o.total FROM orders o WHERE o.customer_id = 5 AND o.order_id = 1

UPDATE customers c SET balance = o.total FROM orders o WHERE o.customer_id = c.customer_id AND o.order_id = 1

UPDATE customers c SET note = k.name FROM countries k WHERE k.code = c.country AND c.customer_id = 5 RETURNING c.note, k.continent

UPDATE customers c SET note = x.n FROM (SELECT count(*)::text AS n FROM orders WHERE customer_id = 1) x WHERE c.customer_id = 1

UPDATE orders o SET status = 'paid' FROM customers c JOIN notes n ON n.client = c.customer_id WHERE c.customer_id = o.customer_id AND o.customer_id = 5

UPDATE orders SET total = total + 1 WHERE customer_id = 1 AND order_id IN (SELECT order_id FROM order_lines WHERE customer_id = 1)

UPDATE orders SET total = total + 1 WHERE order_id IN (SELECT order_id FROM order_lines WHERE customer_id = 1)

UPDATE orders SET total = -1 WHERE customer_id = 1

UPDATE order_lines SET customer_id = 2 WHERE customer_id = 1

UPDATE pages SET views = views + 1 WHERE slug = 'it''s' RETURNING views

UPDATE pages SET slug = 'x' WHERE slug = 'home'

UPDATE profiles SET name = 'x' WHERE country = 'DE' AND user_id = 7

UPDATE profiles SET name = 'x' WHERE country = 'US'

UPDATE profiles SET name = 'x' WHERE country = 'DE'

UPDATE events SET kind = 'x' WHERE day = '2024-02-29'

UPDATE events SET kind = 'x' WHERE day >= '2024-01-01'

UPDATE countries SET name = 'x' WHERE code = 'DE'

UPDATE settings SET value = 'x'

UPDATE settings SET value = c.name FROM customers c WHERE c.customer_id = 5

UPDATE orders SET status = s.value FROM settings s WHERE s.name <> orders.status RETURNING orders.order_id, s.*

UPDATE customers SET note = (SELECT max(a.what) FROM audit a WHERE a.customer_id = customers.customer_id)

UPDATE customers SET note = (SELECT count(*) FROM settings s) WHERE customer_id = 5 AND name NOT IN (SELECT what FROM audit)

UPDATE customers SET note = row_to_json(s)::text FROM settings s, orders o WHERE o.total > 10 AND s.name = customers.note AND o.status = 'new'

DELETE FROM orders WHERE status IN (SELECT value FROM settings UNION SELECT what FROM audit)

DELETE FROM orders WHERE customer_id NOT IN (SELECT customer_id FROM audit) RETURNING *

UPDATE audit SET what = 'x' WHERE customer_id = 5

UPDATE customers SET name = $1 WHERE customer_id = $2
@ text it's
@ bigint 5

UPDATE customers SET name = $2, balance = $3 WHERE customer_id = $1 RETURNING customer_id, balance
@ bigint 5
@ text x
@ numeric 99.99

UPDATE customers SET balance = balance + $1 WHERE customer_id = ANY ($2)
@ numeric 1
@ bigint[] {5,5}

UPDATE customers SET balance = $1 WHERE customer_id = $1
@ bigint 5

UPDATE big_orders SET status = 'x' WHERE customer_id = 5

WITH u AS (UPDATE customers SET name = 'x' WHERE customer_id = 5 RETURNING *) SELECT * FROM u

WITH u AS (UPDATE customers SET name = 'x' WHERE customer_id = 5 RETURNING *) INSERT INTO notes (client, body) SELECT customer_id, name FROM u

WITH u AS (UPDATE customers SET name = 'x' RETURNING *) SELECT * FROM u WHERE customer_id = 5

WITH d AS (DELETE FROM order_lines WHERE customer_id = 1 RETURNING *), i AS (INSERT INTO notes (client, body) VALUES (1, 'x')) SELECT count(*) FROM d

WITH d AS (DELETE FROM notes WHERE client = 5 RETURNING *) INSERT INTO notes SELECT * FROM d

WITH d AS (DELETE FROM notes WHERE client = 5 RETURNING *) INSERT INTO notes (client, body) SELECT 6, body FROM d

WITH i AS (INSERT INTO notes (client, body) VALUES (5, 'x')) SELECT name FROM customers WHERE customer_id = 6

DELETE FROM notes WHERE client = 5

DELETE FROM notes WHERE client = 5 RETURNING body

DELETE FROM notes n WHERE n.client IN (5)

DELETE FROM notes

DELETE FROM notes WHERE client IS NULL

DELETE FROM notes WHERE client <> 5

DELETE FROM notes USING customers c WHERE c.customer_id = client AND client = 5

DELETE FROM notes USING customers c WHERE c.customer_id = client

DELETE FROM notes USING customers c WHERE c.customer_id = 5

DELETE FROM orders WHERE customer_id = 1 AND order_id = 2

DELETE FROM orders o WHERE o.customer_id = 1 AND NOT EXISTS (SELECT 1 FROM order_lines l WHERE l.customer_id = o.customer_id AND l.order_id = o.order_id)

DELETE FROM customers WHERE customer_id = 5

DELETE FROM customers WHERE customer_id = 9

DELETE FROM order_lines USING orders o WHERE o.customer_id = order_lines.customer_id AND o.order_id = order_lines.order_id AND o.customer_id = 1 AND o.total > 10 RETURNING line

DELETE FROM contracts WHERE "Tenant" = 'umbrella'

DELETE FROM blobs WHERE hash = '\x00ff'

DELETE FROM profiles WHERE country = 'DE' AND user_id IN (7, 8)

DELETE FROM notes WHERE client = $1
@ bigint 5

DELETE FROM notes WHERE client = $1 AND body = ANY ($2)
@ bigint 5
@ text[] {"note of 5"}

DELETE FROM countries WHERE code = 'FR'

DELETE FROM settings WHERE name = 'theme'

MERGE INTO customers c USING (VALUES (5)) v (id) ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = 'merged'

MERGE INTO settings s USING (VALUES ('theme', 'x')) v (n, v) ON s.name = v.n WHEN MATCHED THEN UPDATE SET value = v.v WHEN NOT MATCHED THEN INSERT VALUES (v.n, v.v)

TRUNCATE notes

TRUNCATE settings

LOCK TABLE customers

SELECT * INTO copied FROM customers WHERE customer_id = 5

CREATE TABLE copied AS SELECT * FROM customers WHERE customer_id = 5

DO $$ BEGIN DELETE FROM notes; END $$

COPY customers TO STDOUT

-- MERGE.

MERGE INTO customers c USING (VALUES (5, 'merged')) AS v (id, name) ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (v.id, v.name)

MERGE INTO customers c USING (VALUES (2001, 'merged')) AS v (id) ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = column2 WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (id, column2)

MERGE INTO customers c USING (VALUES (-5, 'merged')) AS v (id, name) ON v.id = c.customer_id WHEN MATCHED AND c.balance > 1000 THEN DELETE WHEN MATCHED THEN UPDATE SET note = v.name, balance = DEFAULT WHEN NOT MATCHED THEN DO NOTHING

MERGE INTO customers c USING (VALUES ('5', 'merged')) AS v (id, name) ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = v.name

MERGE INTO customers c USING (VALUES ('5'::bigint, 'merged')) AS v (id, name) ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = v.name

MERGE INTO customers c USING (VALUES (5.0, 'merged')) AS v (id, name) ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (v.id, v.name)

MERGE INTO customers c USING (VALUES (2001.4, 'merged')) AS v (id, name) ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (v.id, v.name)

MERGE INTO customers c USING (VALUES (5::float8, 'merged')) AS v (id, name) ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = v.name

MERGE INTO customers c USING (VALUES (NULL::bigint, 'merged')) AS v (id, name) ON c.customer_id = v.id WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (v.id, v.name)

MERGE INTO customers c USING (VALUES (5, 'a'), (6, 'b')) AS v (id, name) ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = v.name

MERGE INTO customers c USING (VALUES (5, 'a'), (5, 'b')) AS v (id, name) ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = v.name

MERGE INTO customers c USING (VALUES (5, 'a'), (2002, 'b')) AS v (id, name) ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (v.id, v.name)

MERGE INTO customers c USING (VALUES (5, 'merged')) AS v (id, name) ON c.customer_id = v.id WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (6, v.name)

MERGE INTO customers c USING (VALUES (2003, 'merged')) AS v (id, name) ON c.customer_id = v.id WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (2004, v.name)

MERGE INTO customers c USING (VALUES (5, 'merged')) AS v (id, name) ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET customer_id = 6

MERGE INTO customers c USING (VALUES (5, 'merged')) AS v (id, name) ON c.customer_id = v.id AND c.name = 'nobody' WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (v.id, v.name)

MERGE INTO customers c USING (VALUES (5, 'merged')) AS v (id, name) ON c.customer_id = v.id WHEN NOT MATCHED BY SOURCE THEN DELETE

MERGE INTO customers c USING (SELECT $1::bigint AS id, $2::text AS name) v ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = v.name || c.name WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (v.id, v.name)
@ bigint 5
@ text merged

MERGE INTO customers c USING (SELECT $1::bigint AS id, $2::text AS name) v ON c.customer_id = v.id WHEN MATCHED THEN UPDATE SET name = v.name || c.name WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (v.id, v.name)
@ bigint 2005
@ text merged

MERGE INTO customers c USING (SELECT $1 AS id) v ON c.customer_id = v.id WHEN MATCHED THEN DELETE
@ bigint 9

MERGE INTO customers c USING (SELECT $1 AS id) v ON c.customer_id = v.id WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES ($1, $2)
@ bigint 2006
@ text merged

MERGE INTO customers c USING countries k ON c.customer_id = $1 AND c.country = k.code WHEN MATCHED THEN UPDATE SET note = k.name
@ bigint 5

MERGE INTO customers c USING (SELECT * FROM countries WHERE code = 'FR') k ON c.customer_id = 2007 WHEN NOT MATCHED THEN INSERT (customer_id, name, country) VALUES (2007, k.name, k.code)

MERGE INTO pages p USING (VALUES ('it''s', 7)) v (slug, views) ON p.slug = v.slug WHEN MATCHED THEN UPDATE SET views = p.views + v.views WHEN NOT MATCHED THEN INSERT VALUES (v.slug, 'new', v.views)

MERGE INTO pages p USING (VALUES ('home ', 7)) v (slug, views) ON p.slug = v.slug WHEN MATCHED THEN UPDATE SET views = p.views + v.views WHEN NOT MATCHED THEN INSERT VALUES (v.slug, 'new', v.views)

MERGE INTO codes c USING (VALUES ('x ', 'merged')) v (code, meaning) ON c.code = v.code WHEN MATCHED THEN UPDATE SET meaning = v.meaning WHEN NOT MATCHED THEN INSERT VALUES (v.code, v.meaning)

MERGE INTO codes c USING (VALUES ('ab', 'merged')) v (code, meaning) ON c.code = v.code WHEN MATCHED THEN UPDATE SET meaning = v.meaning WHEN NOT MATCHED THEN INSERT VALUES (v.code, v.meaning)

MERGE INTO codes c USING (VALUES ('ab '::bpchar, 'merged')) v (code, meaning) ON c.code = v.code WHEN MATCHED THEN UPDATE SET meaning = v.meaning WHEN NOT MATCHED THEN INSERT VALUES (v.code, v.meaning)

MERGE INTO contracts c USING (VALUES ('acme', 1::smallint)) v (t, n) ON c."Tenant" = v.t AND c.number = v.n WHEN MATCHED THEN UPDATE SET title = 'merged' WHEN NOT MATCHED THEN INSERT VALUES (v.t, v.n, 'new')

MERGE INTO contracts c USING (VALUES ('twenty bytes and blanks               ', 1::smallint)) v (t, n) ON c."Tenant" = v.t AND c.number = v.n WHEN NOT MATCHED THEN INSERT VALUES (v.t, v.n, 'new')

MERGE INTO ledger l USING (VALUES (1000.00, 'merged')) v (number, text) ON l.number = v.number WHEN MATCHED THEN UPDATE SET text = v.text WHEN NOT MATCHED THEN INSERT VALUES (v.number, v.text)

MERGE INTO events e USING (VALUES (date '2024-01-01', 1)) v (day, id) ON e.day = v.day AND e.id = v.id WHEN MATCHED THEN UPDATE SET kind = 'merged' WHEN NOT MATCHED THEN INSERT VALUES (v.day, v.id, 'new')

MERGE INTO profiles p USING (VALUES ('DE', 7, 'merged')) v (c, u, n) ON p.country = v.c AND p.user_id = v.u WHEN MATCHED THEN UPDATE SET name = v.n WHEN NOT MATCHED THEN INSERT VALUES (v.c, v.u, v.n)

MERGE INTO notes n USING (SELECT customer_id, name FROM customers WHERE customer_id = 5) c ON n.client = c.customer_id WHEN MATCHED THEN UPDATE SET body = c.name WHEN NOT MATCHED THEN INSERT (client, body) VALUES (c.customer_id, c.name)

MERGE INTO notes n USING (SELECT * FROM customers WHERE customer_id = 5) c ON n.client = c.customer_id AND n.body = 'other' WHEN MATCHED THEN UPDATE SET body = c.name WHEN NOT MATCHED THEN INSERT (client, body) VALUES (customer_id, name)

MERGE INTO notes n USING customers c ON n.client = c.customer_id WHEN MATCHED THEN UPDATE SET body = c.name WHEN NOT MATCHED THEN INSERT (client, body) VALUES (c.customer_id, c.name)

MERGE INTO notes n USING customers c ON n.client = c.customer_id AND c.customer_id % 2 = 0 WHEN MATCHED AND c.country = 'DE' THEN DELETE WHEN MATCHED THEN UPDATE SET body = c.name, written = now() - now() + timestamp '2025-01-01' WHEN NOT MATCHED AND c.country IS NULL THEN INSERT (body, client) VALUES (c.name, c.customer_id) WHEN NOT MATCHED THEN DO NOTHING

MERGE INTO notes USING customers ON client = customer_id WHEN MATCHED THEN DELETE

MERGE INTO notes n USING notes m ON n.client = m.client AND n.body <> m.body WHEN NOT MATCHED THEN INSERT VALUES (m.client, m.written, m.body || ' twice')

MERGE INTO notes n USING notes m ON n.client = m.client WHEN NOT MATCHED THEN INSERT VALUES (m.client, m.written, m.body || ' twice')

MERGE INTO notes n USING customers c ON n.client = c.customer_id AND c.customer_id = 5 WHEN NOT MATCHED THEN INSERT (client, body) VALUES (c.customer_id, 'not five')

MERGE INTO notes n USING customers c ON n.client = c.customer_id AND c.customer_id = 5 WHEN MATCHED THEN DELETE

MERGE INTO notes n USING customers c ON n.client = c.customer_id AND c.customer_id IN (1, 2, 3, 4, 5, 6) WHEN MATCHED THEN DELETE

MERGE INTO notes n USING (SELECT customer_id AS id, sum(total) AS total, count(*) AS orders FROM orders GROUP BY customer_id HAVING count(*) > 1) o ON n.client = o.id WHEN MATCHED THEN UPDATE SET body = o.total || ' for ' || o.orders WHEN NOT MATCHED THEN INSERT (client, body) VALUES (o.id, o.total::text)

MERGE INTO notes n USING (SELECT o.customer_id, k.name FROM orders o JOIN customers c USING (customer_id) LEFT JOIN countries k ON k.code = c.country WHERE o.order_id = 2) s ON n.client = s.customer_id AND n.body = s.name WHEN NOT MATCHED THEN INSERT (client, body) VALUES (s.customer_id, s.name)

MERGE INTO notes n USING (customers c LEFT JOIN countries k ON k.code = c.country) ON n.client = c.customer_id WHEN MATCHED THEN UPDATE SET body = k.name WHEN NOT MATCHED THEN INSERT (client, body) VALUES (c.customer_id, k.name)

MERGE INTO orders o USING order_lines l ON o.customer_id = l.customer_id AND o.order_id = l.order_id WHEN MATCHED THEN UPDATE SET status = l.product

MERGE INTO orders o USING (SELECT DISTINCT customer_id FROM order_lines) l ON o.customer_id = l.customer_id AND o.order_id = 77 WHEN NOT MATCHED THEN INSERT (customer_id, order_id) VALUES (l.customer_id, 77)

MERGE INTO orders o USING customers c ON o.customer_id = c.customer_id AND o.order_id = 90 WHEN NOT MATCHED THEN INSERT VALUES (c.customer_id, 90, c.balance, DEFAULT, DEFAULT)

MERGE INTO orders o USING customers c ON o.customer_id = c.customer_id AND o.order_id = 1 WHEN NOT MATCHED THEN INSERT VALUES (c.customer_id, 1, -1)

MERGE INTO orders o USING customers c ON o.customer_id = c.customer_id WHEN MATCHED THEN UPDATE SET total = (SELECT count(*) FROM order_lines l WHERE l.customer_id = o.customer_id AND l.order_id = o.order_id)

MERGE INTO links l USING pages p ON l.slug = p.slug AND l.position = 0 WHEN MATCHED THEN UPDATE SET target = p.title WHEN NOT MATCHED THEN INSERT VALUES (p.slug, p.title, 0)

MERGE INTO profiles p USING profiles q ON p.country = q.country AND p.user_id = q.user_id WHEN MATCHED THEN UPDATE SET name = q.name || '!'

MERGE INTO profiles p USING profiles q ON p.country = q.country AND p.user_id = q.user_id + 1 WHEN MATCHED THEN UPDATE SET name = q.name || '!'

MERGE INTO customers c USING countries k ON c.country = k.code WHEN MATCHED AND k.code = 'DE' THEN UPDATE SET note = k.name WHEN MATCHED THEN UPDATE SET note = lower(k.continent)

MERGE INTO customers c USING countries k ON c.country = k.code WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (2008, k.name)

MERGE INTO customers c USING countries k ON c.country = k.code WHEN MATCHED THEN UPDATE SET note = $1
@ text merged

MERGE INTO customers c USING orders o ON c.customer_id = o.customer_id WHEN MATCHED THEN UPDATE SET note = 'twice'

MERGE INTO customers c USING orders o ON c.customer_id = o.order_id WHEN MATCHED THEN UPDATE SET note = 'x'

MERGE INTO customers c USING accounts a ON c.customer_id = a.id WHEN MATCHED THEN UPDATE SET note = 'x'

MERGE INTO customers c USING settings s ON c.name = s.name WHEN MATCHED THEN DELETE

MERGE INTO notes n USING customers c ON n.client = c.customer_id WHEN NOT MATCHED THEN INSERT (client, body) VALUES (c.customer_id + 1, c.name)

MERGE INTO settings s USING (VALUES ('colour', 'blue'), ('new', 'x')) v (name, value) ON s.name = v.name WHEN MATCHED THEN UPDATE SET value = v.value WHEN NOT MATCHED THEN INSERT VALUES (v.name, v.value)

MERGE INTO settings s USING countries k ON s.name = k.code WHEN NOT MATCHED THEN INSERT VALUES (k.code, k.name)

MERGE INTO settings s USING customers c ON s.name = c.name WHEN NOT MATCHED THEN INSERT VALUES (c.name, c.note)

MERGE INTO countries k USING (VALUES ('DE', 'x'), ('XX', 'y')) v (code, name) ON k.code = v.code WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT VALUES (v.code, v.name)

MERGE INTO countries k USING (VALUES ('DE', 'x'), ('DE', 'y')) v (code, name) ON k.code = v.code WHEN MATCHED THEN UPDATE SET name = v.name

MERGE INTO countries k USING countries l ON k.continent = l.continent AND k.code > l.code WHEN MATCHED THEN DELETE

MERGE INTO countries k USING countries l ON k.code = l.code AND l.code <> 'DE' WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN DO NOTHING

MERGE INTO countries k USING customers c ON k.code = c.country WHEN MATCHED THEN DELETE

BEGIN; MERGE INTO notes n USING customers c ON n.client = c.customer_id WHEN MATCHED THEN DELETE; ROLLBACK

-- Several statements in a message, and transactions in one.

BEGIN; INSERT INTO customers (customer_id, name) VALUES (2001, 'batch'); COMMIT

BEGIN; INSERT INTO customers (customer_id, name) VALUES (2001, 'batch'); ROLLBACK

BEGIN; INSERT INTO customers (customer_id, name) VALUES (5, 'taken'); COMMIT

INSERT INTO notes (client, body) VALUES (5, 'one'); INSERT INTO notes (client, body) VALUES (5, 'two'); UPDATE notes SET body = body || '!' WHERE client = 5

INSERT INTO notes (client, body) VALUES (5, 'one'); SELECT 1/0

INSERT INTO notes (client, body) VALUES (5, 'one'); INSERT INTO notes (client, body) VALUES (6, 'two'); INSERT INTO notes (client, body) VALUES (7, 'three'); INSERT INTO notes (client, body) VALUES (8, 'four')

INSERT INTO notes (client, body) VALUES (5, 'one'); COMMIT; INSERT INTO notes (client, body) VALUES (5, 'two'); SELECT 1/0

INSERT INTO notes (client, body) VALUES (5, 'one'); ROLLBACK; INSERT INTO notes (client, body) VALUES (5, 'two')

BEGIN; SAVEPOINT a; INSERT INTO notes (client, body) VALUES (5, 'one'); ROLLBACK TO a; INSERT INTO notes (client, body) VALUES (5, 'two'); COMMIT

BEGIN; SELECT name FROM customers WHERE customer_id = 5; SELECT 1/0; SELECT 2; COMMIT

BEGIN; COMMIT

BEGIN; BEGIN; COMMIT

COMMIT

ROLLBACK

BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY; DELETE FROM notes WHERE client = 5; COMMIT

START TRANSACTION READ ONLY; SELECT name FROM customers WHERE customer_id = 5; COMMIT

SAVEPOINT a

DECLARE c CURSOR FOR SELECT 1

BEGIN; DECLARE c CURSOR FOR SELECT order_id FROM orders WHERE customer_id = 1 ORDER BY order_id; FETCH 2 FROM c; FETCH c; MOVE c; CLOSE c; COMMIT

BEGIN; DECLARE c CURSOR FOR SELECT * FROM orders; FETCH 2 FROM c; COMMIT

BEGIN; SET LOCAL statement_timeout = '10s'; SHOW statement_timeout; COMMIT; SHOW statement_timeout
