"""psycopg 3 through Trunkline; the connection string is the only argument. Exits with 0 when all of it holds."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timezone
from decimal import Decimal
from uuid import UUID

import psycopg
from psycopg import errors, sql

DSN = sys.argv[1]
# On several shards.
TENANTS = list(range(100, 120))


def typed(conn):
    day, moment = date(2024, 2, 29), datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=timezone.utc)
    uuid = UUID("6f9619ff-8b86-d011-b42d-00c04fc964ff")
    values = (7, 1, "it's é", day, moment, uuid, Decimal("12.50"), [1, 2], b"\x00\xff", True, None)
    for binary in (False, True):
        conn.execute("DELETE FROM typed WHERE tenant = %s", [7])
        with conn.cursor(binary=binary) as cur:
            marks = ", ".join(["%b" if binary else "%s"] * len(values))
            cur.execute(f"INSERT INTO typed VALUES ({marks}) RETURNING *", values)
            assert cur.fetchone() == values
            cur.execute("SELECT * FROM typed WHERE tenant = %s AND day = %s AND uuid = %s", [7, day, uuid])
            assert cur.fetchall() == [values]
            assert [column.type_code for column in cur.description][:3] == [20, 23, 25]


def prepared(dsn):
    # From the first execution, from the third, never.
    for threshold in (0, 2, None):
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=threshold) as conn:
            for turn in range(3):
                for tenant in TENANTS:
                    row = conn.execute("SELECT body FROM items WHERE tenant = %s AND id = %s", [tenant, 1]).fetchone()
                    assert row == (f"body of {tenant}",), row
            conn.execute("SELECT 1", prepare=True)
            conn.prepared_max = 1
            for number in range(5):
                assert conn.execute(f"SELECT {number}, %s::text", ["x"], prepare=True).fetchone() == (number, "x")


def transactions(dsn):
    with psycopg.connect(dsn) as conn:
        with conn.transaction():
            conn.execute("UPDATE items SET body = 'changed' WHERE tenant = %s", [100])
            try:
                with conn.transaction():
                    conn.execute("INSERT INTO items VALUES (%s, 1, 'taken')", [100])
            except errors.UniqueViolation as error:
                assert error.sqlstate == "23505" and error.diag.constraint_name == "items_pkey", error
            else:
                raise AssertionError("the row was there")
            with conn.transaction() as inner:
                conn.execute("UPDATE items SET body = 'undone' WHERE tenant = %s", [100])
                raise psycopg.Rollback(inner)
        body = conn.execute("SELECT body FROM items WHERE tenant = 100").fetchone()
        assert body == ("changed",), body
        conn.rollback()

        # After an error nothing goes until the end of the transaction.
        try:
            conn.execute("SELECT 1/0 FROM items WHERE tenant = 100")
        except errors.DivisionByZero:
            pass
        try:
            conn.execute("SELECT 1")
        except errors.InFailedSqlTransaction:
            pass
        else:
            raise AssertionError("the transaction had failed")
        conn.rollback()
        conn.execute("UPDATE items SET body = 'body of 100' WHERE tenant = 100")
        conn.commit()
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        conn.read_only = True
        try:
            conn.execute("DELETE FROM items WHERE tenant = 100")
        except errors.ReadOnlySqlTransaction:
            conn.rollback()
        else:
            raise AssertionError("read only")


def refused(conn):
    for statement, code in [
        ("MERGE INTO items USING (SELECT 5 AS x) AS s ON false WHEN NOT MATCHED THEN DO NOTHING", "0A000"),
        ("INSERT INTO items VALUES (NULL, 1, 'x')", "22004"),
    ]:
        try:
            conn.execute(statement)
        except psycopg.Error as error:
            assert error.sqlstate == code and "Refused by Trunkline" in error.diag.message_detail, error.diag
            assert error.diag.message_hint
        else:
            raise AssertionError(statement)
        assert conn.execute("SELECT 1").fetchone() == (1,)


def many(conn):
    # psycopg sends them as one pipeline, which is one transaction.
    rows = [(106, number, f"row {number}") for number in range(10, 60)]
    with conn.cursor() as cur:
        cur.executemany("INSERT INTO items VALUES (%s, %s, %s)", rows)
        assert cur.rowcount == len(rows)
        cur.executemany("DELETE FROM items WHERE tenant = %s AND id = %s RETURNING body", [row[:2] for row in rows], returning=True)
        found = []
        while True:
            found += [row[0] for row in cur.fetchall()]
            if not cur.nextset():
                break
        assert found == [row[2] for row in rows], found
        cur.executemany("INSERT INTO items VALUES (%s, 2, 'x')", [(tenant,) for tenant in TENANTS])
        cur.executemany("DELETE FROM items WHERE tenant = %s AND id = 2", [(tenant,) for tenant in TENANTS])
    count = sum(conn.execute("SELECT count(*) FROM items WHERE tenant = %s", [tenant]).fetchone()[0] for tenant in TENANTS)
    assert count == len(TENANTS), count


def pipeline(conn):
    with conn.pipeline() as pipe:
        cursors = []
        for tenant in TENANTS:
            cursors.append(conn.execute("SELECT body FROM items WHERE tenant = %s", [tenant]))
            pipe.sync()
        for tenant, cur in zip(TENANTS, cursors):
            assert cur.fetchone() == (f"body of {tenant}",)
    # An error spoils its pipeline up to the sync, and no more.
    with conn.pipeline() as pipe:
        conn.execute("SELECT body FROM items WHERE tenant = 101")
        try:
            conn.execute("SELECT 1/0")
            pipe.sync()
        except errors.DivisionByZero:
            pass
        else:
            raise AssertionError("division by zero")
    with conn.pipeline():
        assert conn.execute("SELECT body FROM items WHERE tenant = 102").fetchone() == ("body of 102",)


def cursors(dsn):
    with psycopg.connect(dsn) as conn:
        conn.execute("INSERT INTO items SELECT 105, g, 'many' FROM generate_series(1000, 1999) g")
        with conn.cursor(name="by name") as cur:
            cur.itersize = 100
            cur.execute("SELECT id FROM items WHERE tenant = %s AND id >= 1000 ORDER BY id", [105])
            assert cur.fetchmany(3) == [(1000,), (1001,), (1002,)]
            assert sum(1 for _ in cur) == 997
        everywhere = "SELECT tenant, id FROM items WHERE id >= %s ORDER BY tenant, id"
        expected = conn.execute(everywhere, [0]).fetchall()
        with conn.cursor(name="of all shards") as cur:
            cur.itersize = 100
            cur.execute(everywhere, [0])
            assert cur.fetchmany(3) == expected[:3]
            assert list(cur) == expected[3:]
        with conn.cursor(name="scrolls", scrollable=True) as cur:
            cur.execute("SELECT id FROM items WHERE tenant = 105 AND id >= 1000 ORDER BY id")
            cur.scroll(500)
            assert cur.fetchone() == (1500,)
            cur.scroll(-2)
            assert cur.fetchone() == (1499,)
        with conn.cursor() as cur:
            rows = list(cur.stream("SELECT id FROM items WHERE tenant = 105 AND id >= 1000 ORDER BY id"))
            assert len(rows) == 1000
        conn.rollback()
        with psycopg.ClientCursor(conn) as cur:
            cur.execute("SELECT body FROM items WHERE tenant = %s AND body = %s", [100, "body of 100"])
            assert cur.fetchone() == ("body of 100",)


def copies(dsn):
    with psycopg.connect(dsn) as conn, conn.cursor() as cur:
        rows = [(number, f"tab\t, quote\" and é {number}", None) for number in range(2000)]
        with cur.copy("COPY settings (id, name, value) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        with cur.copy("COPY (SELECT id, name, value FROM settings ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4", "text", "text"])
            assert list(copy.rows()) == rows
        with cur.copy("COPY (SELECT body FROM items WHERE tenant = 103) TO STDOUT") as copy:
            assert b"".join(copy) == b"body of 103\n"
        conn.rollback()
        try:
            with cur.copy("COPY settings (id) FROM STDIN") as copy:
                copy.write("not a number\n")
        except errors.InvalidTextRepresentation:
            conn.rollback()
        else:
            raise AssertionError("COPY of nonsense")
        assert cur.execute("SELECT count(*) FROM settings").fetchone() == (0,)


def notices(conn):
    heard = []
    conn.add_notice_handler(lambda diag: heard.append((diag.severity, diag.message_primary)))
    conn.execute("/* trunkline: shard=s3 */ DO $$ BEGIN RAISE NOTICE 'hello from %', 's3'; END $$")
    assert heard == [("NOTICE", "hello from s3")], heard


def notifications(dsn):
    with psycopg.connect(dsn, autocommit=True) as hears, psycopg.connect(dsn, autocommit=True) as speaks:
        hears.execute("LISTEN news")
        speaks.execute("NOTIFY news, 'first'")
        speaks.execute("SELECT pg_notify('news', %s)", ["second"])
        heard = [note.payload for note in hears.notifies(timeout=20, stop_after=2)]
        assert heard == ["first", "second"], heard
        hears.execute("UNLISTEN news")


def cancels(dsn):
    with psycopg.connect(dsn, autocommit=True) as conn:
        began = time.monotonic()
        timer = threading.Timer(0.3, conn.cancel_safe)
        timer.start()
        try:
            conn.execute("SELECT pg_sleep(60), body FROM items WHERE tenant = 104")
        except errors.QueryCanceled:
            assert time.monotonic() - began < 30
        else:
            raise AssertionError("not cancelled")
        timer.join()
        assert conn.execute("SELECT body FROM items WHERE tenant = 104").fetchone() == ("body of 104",)


def workers(dsn):
    def work(worker):
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=1) as conn:
            for turn in range(25):
                tenant = TENANTS[(worker + turn) % len(TENANTS)]
                row = conn.execute("SELECT tenant, body FROM items WHERE tenant = %s AND id = 1", [tenant]).fetchone()
                assert row == (tenant, f"body of {tenant}"), row
                with conn.transaction():
                    conn.execute("UPDATE counters SET n = n + 1 WHERE tenant = %s", [tenant])
                    conn.execute("INSERT INTO items VALUES (%s, %s, %s)", [tenant, 100_000 + worker * 1000 + turn, f"w{worker}"])
        return worker

    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(work, range(20))) == list(range(20))
    with psycopg.connect(dsn, autocommit=True) as conn:
        total = sum(conn.execute("SELECT n FROM counters WHERE tenant = %s", [tenant]).fetchone()[0] for tenant in TENANTS)
        assert total == 20 * 25, total
        inserted = sum(
            conn.execute("SELECT count(*) FROM items WHERE tenant = %s AND id >= 100000", [tenant]).fetchone()[0] for tenant in TENANTS
        )
        assert inserted == 20 * 25, inserted


with psycopg.connect(DSN, autocommit=True) as conn:
    for tenant in TENANTS:
        conn.execute("INSERT INTO items VALUES (%s, 1, %s)", [tenant, f"body of {tenant}"])
        conn.execute("INSERT INTO counters VALUES (%s, 0)", [tenant])
    assert conn.info.server_version >= 140000 and conn.info.parameter_status("client_encoding") == "UTF8"
    for test in (typed, refused, many, pipeline, notices):
        print(test.__name__)
        test(conn)
for test in (prepared, transactions, cursors, copies, notifications, cancels, workers):
    print(test.__name__)
    test(DSN)
