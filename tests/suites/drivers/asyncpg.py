"""asyncpg: its tests come with its source distribution."""

import shutil

import sources
from drivers import command, junit

VERSION = "0.31.0"
DATABASES = ["postgres"]
# Made by the tests themselves.
ALSO_KNOWN = ["testdb", "asyncpg_intro_test"]


def prepare(mirrors):
    python = sources.virtual_environment("asyncpg", f"asyncpg=={VERSION}", "pytest==8.4.2", "distro==1.9.0", "pytest-timeout==2.4.0")
    source = sources.source_distribution(python, "asyncpg", VERSION)

    def make(folder):
        # Apart from its source, so that the installed package is the one that is tested.
        shutil.copytree(source / "tests", folder / "tests")

    return python, sources.once(sources.CACHE / f"asyncpg-{VERSION}-tests", make)


def run(prepared, target, only, output):
    python, folder = prepared
    report = output / "report.xml"
    words = [python, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--timeout=60", f"--junitxml={report}", "tests"]
    # Checks of the source's form, and of interpreters: no server.
    words += ["--ignore=tests/test__sourcecode.py", "--ignore=tests/test_subinterpreters.py"]
    words += ["-k", only] if only else []
    command(words, output / "log", 900, cwd=folder, env=target.environment())
    return junit(report)
