"""From a URL to engines: one file per dialect, each default with its reason."""

from __future__ import annotations

from fastapi_database.config import Limits
from fastapi_database.engines.dialect import Dialect, UnitEngines
from fastapi_database.engines.postgresql import PostgreSQL
from fastapi_database.engines.sqlite import SQLite
from fastapi_database.engines.url import parse
from fastapi_database.errors import UnsupportedDatabase

__all__ = ["DIALECTS", "Dialect", "UnitEngines", "dialect_for"]

# MySQL and MariaDB will be a third file here, mysql.py.
DIALECTS: dict[str, type[Dialect]] = {"sqlite": SQLite, "postgresql": PostgreSQL}


def dialect_for(url: object, limits: Limits | None = None) -> Dialect:
    """Choose the dialect file for a URL. Connects to nothing and imports no driver."""
    parsed = parse(url)
    name = parsed.get_backend_name()
    try:
        dialect = DIALECTS[name]
    except KeyError:
        raise UnsupportedDatabase(
            f"{name}:// is not supported by this version; supported are {', '.join(f'{n}://' for n in DIALECTS)} "
            "(MariaDB and MySQL are planned)"
        ) from None
    return dialect(parsed, limits or Limits())
