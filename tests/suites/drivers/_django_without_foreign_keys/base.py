"""Django's own backend for Postgres with two differences.

There are no foreign keys: between tables that are distributed by their own keys there can be none. And bulk_create writes VALUES; with UNNEST, as
Django 5.2 has it, the number of rows is not seen, and a sharded table's numbers cannot be given to them.
"""

from django.db.backends.postgresql import base, features, operations


class DatabaseFeatures(features.DatabaseFeatures):
    supports_foreign_keys = False


class DatabaseOperations(operations.DatabaseOperations):
    compiler_module = f"{__package__}.compiler"


class DatabaseWrapper(base.DatabaseWrapper):
    features_class = DatabaseFeatures
    ops_class = DatabaseOperations
