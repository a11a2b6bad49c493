"""node-postgres: the integration tests of its repository, with parameters and results as text and in binary.

A file is a test, which passes with exit status 0; so is each case that says so of itself in a file. A file whose callbacks are not called ends like one that passes.
"""

import shutil

import sources
from drivers import command

VERSION = "8.16.3"
URL = "https://github.com/brianc/node-postgres"
DATABASES = ["pg_test"]
# A test runs psql there.
ALSO_KNOWN = ["template1"]
# What the package and its tests need; its own siblings at the versions of that release.
PACKAGES = ["pg-connection-string@2.9.1", "pg-pool@3.10.1", "pg-protocol@1.10.3", "pg-types@2.2.0", "pgpass@1.0.5"]
PACKAGES += ["async@2.6.4", "bluebird@3.7.2", "co@4.6.0", "pg-copy-streams@0.3.0"]

# Where a case has passed, and what tells of it.
TICK = "process.stdout.write('✔\\n')"
TELL = "require('fs').appendFileSync(process.env.SUITE_OUTCOMES, test.name.replaceAll('\\n', ' ') + '\\n')"


def prepare(mirrors):
    source = sources.git("node-postgres", URL, f"pg@{VERSION}", mirrors)

    def make(folder):
        shutil.copytree(source / "packages/pg", folder, dirs_exist_ok=True)
        (folder / "package.json").unlink()
        sources.run("npm", "install", "--no-save", "--no-audit", "--no-fund", *PACKAGES, cwd=folder)
        shutil.copy(source / "packages/pg/package.json", folder)
        suite = folder / "test/suite.js"
        if TICK not in suite.read_text():
            raise sources.Problem(f"{suite} does not tell of a case as it did")
        suite.write_text(suite.read_text().replace(TICK, f"{TICK}; {TELL}"))

    return sources.once(sources.CACHE / f"node-postgres-{VERSION}-cases", make)


def run(folder, target, only, output):
    url = f"postgres://postgres@{target.host}:{target.port}/pg_test"
    environment = target.environment(PGDATABASE="pg_test", PGTESTNOSSL="true", SCRAM_TEST_PGUSER="scram_user", SCRAM_TEST_PGPASSWORD="password")
    # Who has no password says nothing when a user is asked for one who does not exist, and waits until the time for logins is over.
    environment["PGPASSWORD"] = "password"
    outcomes = {}
    # A table that all of them read.
    command(["node", "script/create-test-tables.js", url], output / "tables.log", 60, cwd=folder, env=environment)
    for path in sorted((folder / "test/integration").rglob("*-tests.js")):
        name = str(path.relative_to(folder / "test/integration"))
        if only and only not in name:
            continue
        for mode in ("text", "binary"):
            log = output / f"{name.replace('/', '_')}.{mode}.log"
            cases = log.with_suffix(".cases")
            cases.touch()
            words = ["node", path, url] + (["binary"] if mode == "binary" else [])
            code = command(words, log, 30, cwd=folder, env=environment | {"SUITE_OUTCOMES": str(cases)})
            outcomes[f"{name} {mode}"] = "pass" if code == 0 else "fail"
            for case in cases.read_text().splitlines():
                outcomes[f"{name} {mode}: {case.strip()}"] = "pass"
    return outcomes
