"""A statement that failed fails its unit of work, on every database.

PostgreSQL refuses all further statements of such a transaction and answers COMMIT with ROLLBACK, but only
for what failed in the server; SQLite commits what came before. Units of work mean the same everywhere: a
failure outside a savepoint can not be committed, one inside a savepoint that is rolled back can.
"""

from __future__ import annotations

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, ExceptionContext

from fastapi_database.errors import SCHEMA_MISMATCH, TransactionAborted, problem_for

UNIT = "fastapi_database_unit"
"""The execution option that marks the engines of units of work; on others SQLAlchemy's own rules hold."""

ABORTED = (
    "COMMIT was refused: a statement of this transaction had failed, and what it was part of is incomplete. Let the "
    "error pass, or run the statement that may fail inside `with session.begin_nested():`"
)

MISMATCH = (
    "A table or column that this statement names does not exist here: run your migrations; in a demo or a test call "
    "db.create_all(), with models= given and the models imported [schema-mismatch]"
)

_FAILED = "fastapi_database_failed"
_SAVEPOINTS = "fastapi_database_savepoints"


def watch_failures(engine: Engine) -> None:
    """Remember failed statements of each transaction, and refuse COMMIT after one."""
    event.listen(engine, "begin", _begin)
    event.listen(engine, "handle_error", _fail)
    event.listen(engine, "savepoint", _savepoint)
    event.listen(engine, "rollback_savepoint", _rollback_savepoint)
    event.listen(engine, "release_savepoint", _release_savepoint)
    event.listen(engine, "commit", _refuse_failed)


def _begin(connection: Connection) -> None:
    info = connection.info
    info[_FAILED] = False
    info[_SAVEPOINTS] = []


def _fail(context: ExceptionContext) -> None:
    wrapped = context.sqlalchemy_exception
    if wrapped is not None and problem_for(wrapped) is SCHEMA_MISMATCH:
        wrapped.add_note(MISMATCH)
    connection = context.connection
    if connection is not None and not connection.closed and not connection.invalidated:
        connection.info[_FAILED] = True


def _savepoint(connection: Connection, name: str) -> None:
    connection.info[_SAVEPOINTS].append((name, connection.info[_FAILED]))


def _rollback_savepoint(connection: Connection, name: str, _context: None) -> None:
    savepoints: list[tuple[str, bool]] = connection.info[_SAVEPOINTS]
    while savepoints:
        opened, failed_before = savepoints.pop()
        connection.info[_FAILED] = failed_before
        if opened == name:
            return


def _release_savepoint(connection: Connection, name: str, _context: None) -> None:
    savepoints: list[tuple[str, bool]] = connection.info[_SAVEPOINTS]
    while savepoints and savepoints.pop()[0] != name:
        pass


def _refuse_failed(connection: Connection) -> None:
    if connection.info.get(_FAILED) and UNIT in connection.get_execution_options():
        raise TransactionAborted(ABORTED)
