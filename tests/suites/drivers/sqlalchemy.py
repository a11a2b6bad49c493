"""SQLAlchemy 2: the compliance suite of its dialects and its own tests of PostgreSQL, with three drivers: psycopg, asyncpg and psycopg2."""

import re

import sources
from drivers import command, junit

VERSION = "2.0.52"
DATABASES = ["sqlalchemy"]
# What needs a database: statements, results, types, reflection, transactions, connections that break.
FILES = ["dialect/test_suite.py", "dialect/postgresql", "engine/test_execute.py", "engine/test_reconnect.py", "engine/test_transaction.py"]
FILES += ["ext/asyncio", "orm/test_transaction.py", "sql/test_insert_exec.py", "sql/test_query.py", "sql/test_resultset.py"]
FILES += ["sql/test_returning.py", "sql/test_sequences.py"]
# 11000 round trips of the same few statements with each type in turn: most of the time for nothing that the drivers' own suites do not show.
LEFT_OUT = "dialect/postgresql/test_types.py"


def prepare(mirrors):
    packages = ["psycopg[binary]==3.3.4", "asyncpg==0.31.0", "psycopg2-binary==2.9.11", "greenlet==3.2.4", "typing-extensions==4.15.0"]
    python = sources.virtual_environment("sqlalchemy", *packages, "pytest==8.4.2", "pytest-timeout==2.4.0")
    return python, sources.source_distribution(python, "sqlalchemy", VERSION)


def run(prepared, target, only, output):
    python, source = prepared
    target.postgres.psql(
        "CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2; CREATE EXTENSION hstore; CREATE EXTENSION citext;"
        "ALTER DATABASE sqlalchemy SET default_text_search_config TO 'pg_catalog.english';",
        "sqlalchemy",
    )
    report = output / "report.xml"
    # The tests run with the library of the sources beside them, without its parts in C.
    words = [python, "-m", "pytest", "-p", "no:cacheprovider", "--timeout=120", "--maxfail=0", f"--junitxml={report}"]
    words += ["--dburi", f"postgresql+psycopg://postgres:password@{target.host}:{target.port}/sqlalchemy"]
    words += ["--dbdriver", "asyncpg", "--dbdriver", "psycopg2", "-m", "not memory_intensive and not mypy"]
    words += [f"--ignore=test/{LEFT_OUT}", *(f"test/{name}" for name in FILES)]
    words += ["-k", only] if only else []
    command(words, output / "log", 2400, cwd=source, env=target.environment())
    # A class that runs with several drivers has the driver in its name, and the server's version, which is no part of the test's.
    plain = lambda name: re.sub(r"(_postgresql\+[a-z0-9]+(?:_async)?)(?:_\d+)+::", r"\1::", name.removeprefix("test."))
    return {plain(name): outcome for name, outcome in junit(report).items()}
