"""Postgres's own regression suite, by pg_regress, in an existing database; each script is a test."""

import os
import pathlib
import re
import shlex
import shutil

import places
import sources
from drivers import command

DATABASES = ["regression", "postgres"]


def prepare(mirrors):
    source = sources.postgres_sources() / "src/test/regress"
    headers, major = sources.server_headers()

    def make(folder):
        include = headers / f"usr/include/postgresql/{major}/server"
        # The headers of these sources, which are the server's version; those of the package where they are made while building.
        words = f"cc -shared -fPIC -O1 -o {folder}/regress.so {source}/regress.c -I{source}/../../include -I{include} -I/usr/include/postgresql"
        sources.run(*shlex.split(words))
        library = pathlib.Path(sources.run("pg_config", "--pkglibdir").strip())
        for module in ("refint.so", "autoinc.so"):
            shutil.copy(library / module, folder)

    return source, sources.once(places.CACHE / f"regress-{major}", make), major


def run(prepared, target, only, output):
    source, libraries, major = prepared
    for name in ("lc_messages", "lc_monetary", "lc_numeric", "lc_time"):
        target.postgres.psql(f"ALTER DATABASE regression SET {name} TO 'C';")
    target.postgres.psql("ALTER DATABASE regression SET bytea_output TO 'hex';")
    target.postgres.psql("ALTER DATABASE regression SET timezone_abbreviations TO 'Default';")
    # The server writes files of the tests, as another user.
    user = target.postgres.user
    folder = target.postgres.folder / "regress"
    shutil.copytree(libraries, folder / "libraries")
    for name in ("sql", "expected", "data", "parallel_schedule", "resultmap"):
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy
        copy(source / name, folder / name)
    for path, directories, files in os.walk(folder):
        os.chmod(path, 0o755)
        if user:
            os.chown(path, user["user"], user["group"])
    schedule = folder / "parallel_schedule"
    if only:
        schedule = folder / "only_schedule"
        schedule.write_text("test: test_setup\n" + "".join(f"test: {name}\n" for name in only.split(",")))
    program = places.pg_bin().parent / "lib/pgxs/src/test/regress/pg_regress"
    words = [program, "--use-existing", "--dbname=regression", f"--host={target.host}", f"--port={target.port}", "--user=postgres"]
    words += [f"--inputdir={folder}", f"--outputdir={folder}", f"--dlpath={folder / 'libraries'}", f"--bindir={places.pg_bin()}"]
    words += [f"--schedule={schedule}", "--max-concurrent-tests=20"]
    code = command(words, output / "log", 1800, cwd=folder, env=target.environment(PGSSLMODE="disable"), **user)
    for name in ("regression.diffs", "regression.out"):
        if (folder / name).exists():
            shutil.copy(folder / name, output)
    if (folder / "results").exists():
        shutil.copytree(folder / "results", output / "results")
    outcomes = {}
    for line in (output / "log").read_text(errors="replace").splitlines():
        found = re.match(r"(?:test|    )\s*(\S+)\s+\.\.\. (?:ok|(FAILED|failed))", line)
        if found:
            outcomes[found[1]] = "fail" if found[2] else "pass"
    return outcomes
