"""The compilers of Django's backend for Postgres, but for the one of INSERT."""

from django.db.backends.postgresql.compiler import *  # noqa: F403
from django.db.models.sql.compiler import SQLInsertCompiler  # noqa: F401
