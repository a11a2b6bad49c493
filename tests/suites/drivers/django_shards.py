"""Django's own tests once more, on four shards: each table that can be is distributed by its primary key, the others are on one shard.

Which tables there are, and which can be distributed, is read from the database of the direct run. In both places tables have no foreign keys.
"""

import pathlib
import shutil

import places
from drivers import django

DATABASES = ["django", "django_other", "postgres"]
POOLINGS = ["transaction"]
APPS = """
    aggregation aggregation_regress annotations basic bulk_create datetimes delete distinct_on_fields expressions expressions_case
    expressions_window filtered_relation force_insert_update get_or_create lookup m2m_through many_to_many many_to_one ordering
    prefetch_related queries raw_query select_for_update select_related transactions update
""".split()

# A table can be distributed by its primary key when that has one column, of a type whose values are hashed, and stands in every unique index.
DISTRIBUTED = r"""
\pset tuples_only
\pset format unaligned
\pset fieldsep ' '
SELECT t.relname, a.attname, format_type(a.atttypid, NULL)
FROM pg_class t JOIN pg_index p ON p.indrelid = t.oid AND p.indisprimary AND p.indnkeyatts = 1
JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = p.indkey[0]
WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace AND t.relname !~ '[" \\]'
AND format_type(a.atttypid, NULL) IN ('smallint', 'integer', 'bigint', 'uuid', 'character varying', 'date')
AND NOT EXISTS (
    SELECT FROM pg_index u WHERE u.indrelid = t.oid AND (u.indisunique OR u.indisexclusion) AND NOT p.indkey[0] = ANY (u.indkey)
) ORDER BY 1
"""


def prepare(mirrors):
    return django.prepare(mirrors)


def run(prepared, target, only, output):
    backend = output / "without_foreign_keys"
    shutil.copytree(pathlib.Path(__file__).with_name("_django_without_foreign_keys"), backend)
    outcomes = django.run(prepared, target, only, output, APPS, SUITE_ENGINE=backend.name)
    if len(target.servers) == 1:
        (output / "tables.toml").write_text("".join(tables(target.servers[0], database) for database in ("django", "django_other")))
    return outcomes


def tables(postgres, database):
    """The distributions and tables of a database, for the configuration."""
    text, kinds = "", set()
    for line in postgres.psql(DISTRIBUTED, database).splitlines():
        name, key, kind = line.split(" ", 2)
        kind = kind.replace("character varying", "varchar")
        if kind not in kinds:
            kinds.add(kind)
            text += f'[[distributions]]\nname = "{database}_{kind}"\ndatabase = "{database}"\nkey = "{kind}"\n'
            text += f'strategy = "hash"\nshards = {places.SHARDS}\n'.replace("'", '"')
        text += f"[[tables]]\nname = '\"{name}\"'\ndatabase = \"{database}\"\ndistribution = \"{database}_{kind}\"\nkey = '\"{key}\"'\n"
    return text


def sharding(output):
    """What the configuration says of tables, by the direct run that wrote to this folder."""
    return (output / "tables.toml").read_text()
