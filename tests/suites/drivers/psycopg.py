"""psycopg 3: its tests are in its repository. Both of its implementations are the same on the wire; the tests run with the one in C."""

import sources
from drivers import command, junit

VERSION = "3.3.4"
URL = "https://github.com/psycopg/psycopg"
DATABASES = ["psycopg_test"]


def prepare(mirrors):
    source = sources.git("psycopg", URL, VERSION, mirrors)
    packages = [f"psycopg[binary]=={VERSION}", "psycopg-pool==3.3.1", "pytest==8.4.2", "anyio==4.11.0", "pytest-timeout==2.4.0"]
    python = sources.virtual_environment("psycopg", *packages, "pytest-randomly==4.0.1")
    return python, source


def run(prepared, target, only, output):
    python, source = prepared
    report = output / "report.xml"
    name = f"host={target.host} port={target.port} user=postgres dbname=psycopg_test"
    words = [python, "-m", "pytest", "-q", "-p", "no:randomly", f"--junitxml={report}", "tests"]
    words += ["-o", f"cache_dir={output}/cache"]
    words += ["--test-dsn", name, "--timeout=120", "-m", "not (timing or refcount or mypy or dns or proxy or flakey)"]
    words += ["-k", only] if only else []
    environment = target.environment(PSYCOPG_IMPL="binary")
    # The connection string says it all; some tests want to see the environment without these.
    for variable in ("PGHOST", "PGPORT", "PGUSER"):
        del environment[variable]
    command(words, output / "log", 2400, cwd=source, env=environment)
    return junit(report)
