"""Logins by psycopg and asyncpg: port, root certificate, and libpq's words for ann's certificate are the arguments.

ann logs in by certificate; bob by SCRAM over TLS and by his password without. Exits with 0 when all of it holds.
"""

import asyncio
import ssl
import sys

import asyncpg
import psycopg

PORT, ROOT, IDENTITY = sys.argv[1:]
PASSWORD = "IX p\u00e4ss"
BASE = f"host=localhost port={PORT} dbname=app sslrootcert={ROOT}"


def psycopg_who(words):
    with psycopg.connect(f"{BASE} {words}", password=PASSWORD, autocommit=True) as conn:
        return conn.execute("SELECT current_user").fetchone()[0]


def psycopg_fails(words, said):
    try:
        psycopg_who(words)
    except psycopg.OperationalError as error:
        assert said in str(error), error
    else:
        raise AssertionError(words)


def with_psycopg():
    negotiations = ["sslnegotiation=postgres"]
    if psycopg.pq.version() >= 170000:
        negotiations.append("sslnegotiation=direct")
    for negotiation in negotiations:
        full = f"sslmode=verify-full {negotiation if psycopg.pq.version() >= 170000 else ''}"
        assert psycopg_who(f"{full} user=bob channel_binding=require require_auth=scram-sha-256") == "bob"
        assert psycopg_who(f"{full} user=bob channel_binding=disable") == "bob"
        assert psycopg_who(f"{full} user=ann require_auth=none {IDENTITY}") == "ann"
        psycopg_fails(f"{full} user=ann", "connection requires a valid client certificate")
    assert psycopg_who("user=bob sslmode=disable require_auth=password") == "bob"
    psycopg_fails("user=ann sslmode=disable", "no pg_hba.conf entry")


async def with_asyncpg():
    context = ssl.create_default_context(cafile=ROOT)
    base = {"host": "localhost", "port": int(PORT), "database": "app"}
    for kind in (context, False):
        conn = await asyncpg.connect(**base, user="bob", password=PASSWORD, ssl=kind)
        assert await conn.fetchval("SELECT current_user") == "bob"
        await conn.close()
        try:
            await asyncpg.connect(**base, user="bob", password="wrong", ssl=kind)
        except asyncpg.InvalidPasswordError:
            pass
        else:
            raise AssertionError("a wrong password")
    words = dict(word.split("=", 1) for word in IDENTITY.split())
    context.load_cert_chain(words["sslcert"], words["sslkey"])
    conn = await asyncpg.connect(**base, user="ann", ssl=context)
    assert await conn.fetchval("SELECT current_user") == "ann"
    await conn.close()


with_psycopg()
asyncio.run(with_asyncpg())
