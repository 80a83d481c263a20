"""PostgreSQL behind a transaction pooler such as PgBouncer: a server is lent for a transaction, not for a connection.

So what is sent for the connection as a whole goes to a server that another client has next: a prepared statement is
missing where it is executed, a ``SET`` is in force for a stranger. The first is switched off, the second refused.
https://www.pgbouncer.org/features.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastapi_database.engines.transactions import Transactions
from fastapi_database.errors import ConflictingSettings, SessionFeature

SWITCH = (
    "In transaction mode write Database(..., transaction_pooler=True); in session mode statement_timeout=0 and "
    "lock_timeout=0. Set time-outs and the like for the role then: ALTER ROLE ... SET statement_timeout = '30s'"
)

UNPREPARED: Mapping[str, Mapping[str, Any]] = {
    # Parse, Bind and Execute then travel together, with a statement that has no name:
    "psycopg": {"prepare_threshold": None},
    "asyncpg": {"statement_cache_size": 0, "prepared_statement_cache_size": 0},
}
"""What the drivers are called with; values of the application win, for a pooler that follows prepared statements."""

_TRACKED = {"application_name", "client_encoding", "datestyle", "standard_conforming_strings", "timezone"}
"""Parameters that PgBouncer takes, and sets on the server for each transaction."""

_FOR_THE_CONNECTION = re.compile(
    r"""(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:
        (?P<set>(?:SET|RESET)\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b)(?:SESSION\s+)?["\w]+)
      | (?P<config>.*\bset_config\s*\(.*\bfalse\b)
      | (?P<listen>(?:UN)?LISTEN\b)
      | (?P<prepare>(?:PREPARE\s+(?!TRANSACTION\b)|DEALLOCATE\b|DISCARD\b|LOAD\b)\S*)
      | (?P<temporary>CREATE\s+(?:(?:GLOBAL|LOCAL)\s+)?TEMP(?:ORARY)?\s+(?!.*\bON\s+COMMIT\s+DROP\b)\w+)
      | (?P<cursor>DECLARE\b.*\bWITH\s+HOLD\b)
      | (?P<lock>.*\bpg_(?:try_)?advisory_lock(?:_shared)?\s*\()
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)

_INSTEAD = {
    "set": "SET LOCAL, which ends with the transaction, or ALTER ROLE ... SET for all of them",
    "config": "set_config(..., true), which ends with the transaction",
    "listen": "a Database of its own for listeners, with the server's address and not the pooler's",
    "prepare": "the statement itself",
    "temporary": "CREATE TEMPORARY TABLE ... ON COMMIT DROP, in the transaction that uses it",
    "cursor": "a cursor without WITH HOLD, read in its transaction",
    "lock": "pg_advisory_xact_lock, which ends with the transaction",
}


def refuse_start_up_parameters(where: str, arguments: Mapping[str, Any]) -> None:
    """Raise for parameters that are set when a connection opens, which the pooler refuses or does not keep."""
    settings: Mapping[str, Any] = arguments.get("server_settings") or {}
    refused = [name for name in settings if name.lower() not in _TRACKED]
    if arguments.get("options"):
        refused.insert(0, "options")
    if refused:
        raise ConflictingSettings(
            f"transaction_pooler=True and {where} {', '.join(refused)}: a pooler takes no parameters of a session. "
            "Set them for the role (ALTER ROLE ... SET ...), or with SET LOCAL in the unit of work"
        )


def session_feature(statement: str) -> str | None:
    """Tell what to write in place of a statement that is for the whole connection; None for all others.

    >>> session_feature("SET LOCAL ROLE ann"), session_feature("SELECT 1")
    (None, None)
    >>> session_feature("LISTEN orders").startswith("a Database of its own")
    True
    """
    match = _FOR_THE_CONNECTION.match(statement)
    return None if match is None or match.lastgroup is None else _INSTEAD[match.lastgroup]


class PooledTransactions(Transactions):
    """Refuses what would stay on a server that is somebody else's next."""

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        _refuse(statement)
        super().do_execute(cursor, statement, parameters, context)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        _refuse(statement)
        super().do_executemany(cursor, statement, parameters, context)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        _refuse(statement)
        super().do_execute_no_params(cursor, statement, context)


def _refuse(statement: str) -> None:
    instead = session_feature(statement)
    if instead is not None:
        raise SessionFeature(
            f"{' '.join(statement.partition('=')[0].split()[:3])!r} is for the whole connection, and behind a pooler "
            f"(transaction_pooler=True) that is a server which another client has next. Write {instead}"
        )
