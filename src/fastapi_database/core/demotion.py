"""Connections to a server that takes no writes any more: found by a write that was refused, and replaced."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import exc as sa
from sqlalchemy.engine import ExceptionContext

from fastapi_database.engines import Dialect

SUSPECT_AGAIN = 1.0
"""Seconds for which the others are not asked again whether they take writes, however many writes are refused."""

_TRUSTED = "fastapi_database_trusted"  # when a connection was opened, or was last known to take writes


class Demotion:
    """Suspects every connection that was opened before a write was refused, and asks each once.

    A primary that becomes a standby, or is made read-only, may keep its connections: nothing is lost, and every write
    fails until somebody connects anew, to wherever the URL leads by then. But a write is refused as well in a
    transaction that its unit made read-only, and then the server has nothing to do with it. So the connections are
    asked, one question each when they are next taken, and those that take writes stay.
    """

    def __init__(self, dialect: Dialect, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._dialect = dialect
        self._clock = clock
        self._suspected_at = float("-inf")

    def listen(self, context: ExceptionContext) -> None:
        """Look at an error of the database; a listener for ``handle_error``."""
        if self._dialect.is_read_only(context.original_exception):
            now = self._clock()
            connection = context.connection
            if connection is not None and not connection.closed and not connection.invalidated:
                connection.info.pop(_TRUSTED, None)  # whoever refused is asked when it is next taken, in any case
            if now - self._suspected_at > SUSPECT_AGAIN:
                self._suspected_at = now

    def trust(self, info: dict[Any, Any]) -> None:
        """Note that a connection was opened: the URL leads nowhere better now."""
        info[_TRUSTED] = self._clock()

    def check(self, dialect: Any, dbapi_connection: Any, info: dict[Any, Any]) -> None:
        """Raise ``DisconnectionError`` for an idle connection that takes no writes; it is replaced then."""
        if self._suspected_at <= info.get(_TRUSTED, float("-inf")):
            return
        try:
            may_write = self._dialect.may_write(dbapi_connection)
        except dialect.loaded_dbapi.Error:
            may_write = False
        if not may_write:
            raise sa.DisconnectionError("the server of this idle connection takes no writes any more")
        self.trust(info)
