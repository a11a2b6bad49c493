"""Django: those parts of its own tests that live on the database, in databases that exist already.

Its runner would create test databases and drop them. The two it uses have the names of databases that Trunkline knows, and are kept.
"""

import pathlib
import shutil

import sources
from drivers import command

VERSION = "5.2.19"
DATABASES = ["django", "django_other", "postgres"]
APPS = """
    aggregation aggregation_regress annotations backends basic bulk_create cache composite_pk constraints custom_pk datatypes datetimes
    db_functions delete distinct_on_fields expressions expressions_case expressions_window filtered_relation fixtures force_insert_update
    foreign_object get_or_create indexes inspectdb introspection lookup m2m_through many_to_many migrations model_fields multiple_database
    postgres_tests prefetch_related queries raw_query schema select_for_update serializers sessions_tests timezones transaction_hooks
    transactions update
""".split()


def prepare(mirrors):
    packages = ["asgiref==3.10.0", "sqlparse==0.5.3", "tzdata==2025.2", "psycopg[binary]==3.3.4", "psycopg-pool==3.3.1"]
    python = sources.virtual_environment("django", *packages)
    return python, sources.source_distribution(python, "django", VERSION)


def run(prepared, target, only, output, apps=APPS, **variables):
    python, source = prepared
    shutil.copy(pathlib.Path(__file__).with_name("_django_settings.py"), output / "suite_settings.py")
    words = [python, "runtests.py", "--settings=suite_settings", "--keepdb", "--noinput", "--parallel=1", *apps]
    words += ["-k", only] if only else []
    told = output / "told"
    environment = target.environment(SUITE_OUTCOMES=str(told), PYTHONPATH=f"{output}:{source}", PYTHONDONTWRITEBYTECODE="1", **variables)
    command(words, output / "log", 1800, cwd=source / "tests", env=environment)
    outcomes = {}
    for line in told.read_text().splitlines() if told.exists() else []:
        outcome, _, name = line.partition(" ")
        # A test of several parts is told of with each of them that fails.
        if outcomes.get(name) != "fail":
            outcomes[name] = outcome
    return outcomes
