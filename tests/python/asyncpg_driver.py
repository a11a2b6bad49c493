"""asyncpg through Trunkline: host, port and database are the arguments. Exits with 0 when all of it holds."""

import asyncio
import sys
from datetime import date, datetime, timezone
from decimal import Decimal
from uuid import UUID

import asyncpg

HOST, PORT, DATABASE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
TENANTS = list(range(200, 220))


def connect(**more):
    return asyncpg.connect(host=HOST, port=PORT, user="app", database=DATABASE, **more)


async def fails(kind, awaitable):
    try:
        await awaitable
    except kind as error:
        return error
    raise AssertionError(f"not {kind.__name__}")


async def typed(conn):
    moment = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=timezone.utc)
    uuid = UUID("6f9619ff-8b86-d011-b42d-00c04fc964ff")
    values = (8, 1, "it's é", date(2024, 2, 29), moment, uuid, Decimal("12.50"), [1, 2], b"\x00\xff", True, None)
    marks = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    row = await conn.fetchrow(f"INSERT INTO typed VALUES ({marks}) RETURNING *", *values)
    assert tuple(row) == values, row
    row = await conn.fetchrow("SELECT * FROM typed WHERE tenant = $1 AND day = $2", 8, date(2024, 2, 29))
    assert tuple(row) == values, row
    rows = await conn.fetch("SELECT * FROM typed WHERE tenant = ANY ($1)", [8, 8])
    assert len(rows) == 1


async def prepared(conn):
    statement = await conn.prepare("SELECT body FROM items WHERE tenant = $1 AND id = $2")
    assert [parameter.name for parameter in statement.get_parameters()] == ["int8", "int4"]
    for _ in range(3):
        for tenant in TENANTS:
            assert await statement.fetchval(tenant, 1) == f"body of {tenant}"
    # The cache makes room for others, and is done without.
    for size in (0, 3, 100):
        other = await connect(statement_cache_size=size)
        for turn in range(10):
            for tenant in TENANTS[:6]:
                sql = f"SELECT body, {turn} FROM items WHERE tenant = $1"
                assert tuple(await other.fetchrow(sql, tenant)) == (f"body of {tenant}", turn)
        await other.close()


async def transactions(conn):
    async with conn.transaction(isolation="serializable"):
        await conn.execute("UPDATE items SET body = 'changed' WHERE tenant = $1", 200)

        async def inner():
            async with conn.transaction():
                await conn.execute("INSERT INTO items VALUES (200, 1, 'taken')")

        error = await fails(asyncpg.UniqueViolationError, inner())
        assert error.constraint_name == "items_pkey" and error.sqlstate == "23505"
    assert await conn.fetchval("SELECT body FROM items WHERE tenant = 200") == "changed"
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute("DELETE FROM items WHERE tenant = 200")
    await transaction.rollback()
    assert await conn.execute("UPDATE items SET body = 'body of 200' WHERE tenant = 200") == "UPDATE 1"
    async with conn.transaction(readonly=True, deferrable=True, isolation="serializable"):
        assert await conn.fetchval("SELECT count(*) FROM items WHERE tenant = 201") == 1


async def refused(conn):
    error = await fails(asyncpg.FeatureNotSupportedError, conn.fetch("MERGE INTO items USING (SELECT 5 AS x) AS s ON false WHEN NOT MATCHED THEN DO NOTHING"))
    assert error.detail.startswith("Refused by Trunkline: merge"), error.detail
    error = await fails(asyncpg.UndefinedTableError, conn.fetch("SELECT * FROM nowhere"))
    assert error.sqlstate == "42P01"
    error = await fails(asyncpg.DivisionByZeroError, conn.fetch("SELECT 1/(tenant - 201) FROM items WHERE tenant = $1", 201))
    assert await conn.fetchval("SELECT 1") == 1


async def many(conn):
    # One implicit transaction: its rows belong on one shard.
    await conn.executemany("INSERT INTO items VALUES ($1, $2, $3)", [(202, number, "many") for number in range(10, 200)])
    assert await conn.fetchval("SELECT count(*) FROM items WHERE tenant = 202") == 191
    for tenant in TENANTS:
        await conn.executemany("DELETE FROM items WHERE tenant = $1 AND id = $2", [(tenant, number) for number in range(10, 200)])
    assert await conn.fetchval("SELECT count(*) FROM items WHERE tenant = 202") == 1


async def cursors(conn):
    async with conn.transaction():
        await conn.execute("INSERT INTO items SELECT 203, g, 'many' FROM generate_series(1000, 1999) g")
        found = [row["id"] async for row in conn.cursor("SELECT id FROM items WHERE tenant = $1 AND id >= 1000 ORDER BY id", 203, prefetch=77)]
        assert found == list(range(1000, 2000))
        cursor = await conn.cursor("SELECT id FROM items WHERE tenant = 203 AND id >= 1000 ORDER BY id")
        await cursor.forward(500)
        assert (await cursor.fetchrow())["id"] == 1500
        everywhere = "SELECT tenant, id FROM items WHERE id >= $1 ORDER BY tenant, id"
        expected = await conn.fetch(everywhere, 0)
        assert [row async for row in conn.cursor(everywhere, 0, prefetch=77)] == expected
        one, other = await conn.cursor(everywhere, 1001), await conn.cursor("SELECT count(*) FROM items GROUP BY tenant ORDER BY tenant")
        assert (await one.fetchrow())["id"] == 1001
        assert len(await other.fetch(2)) == 2
        assert (await one.fetchrow())["id"] == 1002
        await conn.execute("DELETE FROM items WHERE tenant = 203 AND id >= 1000")


async def copies(conn):
    records = [(number, f"name {number}", None) for number in range(5000)]
    assert await conn.copy_records_to_table("settings", records=records, columns=["id", "name", "value"]) == "COPY 5000"
    assert await conn.fetchval("SELECT count(*) FROM settings") == 5000
    got = bytearray()

    async def keep(data):
        got.extend(data)

    assert await conn.copy_from_query("SELECT body FROM items WHERE tenant = $1", 204, output=keep, format="csv") == "COPY 1"
    assert bytes(got) == b"body of 204\n", got
    await conn.execute("DELETE FROM settings")


async def notifications(conn):
    other, heard = await connect(), asyncio.Queue()
    await conn.add_listener("async_news", lambda _conn, _pid, channel, payload: heard.put_nowait((channel, payload)))
    await other.execute("NOTIFY async_news, 'hello'")
    assert await asyncio.wait_for(heard.get(), 20) == ("async_news", "hello")
    await other.close()
    heard = []
    conn.add_log_listener(lambda _conn, message: heard.append(message.message))
    await conn.execute("/* trunkline: shard=s2 */ DO $$ BEGIN RAISE WARNING 'careful'; END $$")
    await asyncio.sleep(0)
    assert heard == ["careful"], heard


async def cancels(conn):
    await fails(asyncio.TimeoutError, conn.fetch("SELECT pg_sleep(60), body FROM items WHERE tenant = 205", timeout=0.3))
    assert await conn.fetchval("SELECT body FROM items WHERE tenant = 205") == "body of 205"


async def pools():
    async with asyncpg.create_pool(host=HOST, port=PORT, user="app", database=DATABASE, min_size=5, max_size=20) as pool:

        async def work(worker):
            for turn in range(25):
                tenant = TENANTS[(worker + turn) % len(TENANTS)]
                async with pool.acquire() as conn:
                    row = await conn.fetchrow("SELECT tenant, body FROM items WHERE tenant = $1 AND id = 1", tenant)
                    assert tuple(row) == (tenant, f"body of {tenant}"), row
                    async with conn.transaction():
                        await conn.execute("UPDATE counters SET n = n + 1 WHERE tenant = $1", tenant)

        await asyncio.gather(*(work(worker) for worker in range(20)))
        counts = [await pool.fetchval("SELECT n FROM counters WHERE tenant = $1", tenant) for tenant in TENANTS]
        assert sum(counts) == 20 * 25, counts


async def main():
    conn = await connect()
    for tenant in TENANTS:
        await conn.execute("INSERT INTO items VALUES ($1, 1, $2)", tenant, f"body of {tenant}")
        await conn.execute("INSERT INTO counters VALUES ($1, 0)", tenant)
    for test in (typed, prepared, transactions, refused, many, cursors, copies, notifications, cancels):
        print(test.__name__)
        await test(conn)
    await conn.close()
    print("pools")
    await pools()


asyncio.run(asyncio.wait_for(main(), 60))
