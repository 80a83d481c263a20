"""A SQLite file that is gone, or was replaced, while connections to it are open."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import exc as sa

from fastapi_database.errors import Unreachable

_FILE = "fastapi_database_file"


class Vanishing:
    """Keeps connections from writing into a file that nobody will ever read again.

    A file that is deleted or moved away lives on for those who have it open: they go on to write, and what they
    write is gone with the last of them. And whoever opens its path anew makes an empty file without tables.
    """

    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._name = name
        self._gone = False

    def opened(self, _dbapi_connection: object, record: Any) -> None:
        """Note which file a connection has open; a listener for ``connect``."""
        self._gone = False
        record.info[_FILE] = self._identity()

    def check(self, _dbapi_connection: object, record: Any, _proxy: object) -> None:
        """Replace a connection whose file is not at its path any more; a listener for ``checkout``."""
        identity = self._identity()
        if identity != record.info.get(_FILE):
            self._gone = identity is None
            raise sa.DisconnectionError("the file of this connection is gone, or another one is in its place")

    def refuse_to_make_another(self) -> None:
        """Raise :class:`Unreachable` where opening the path would make an empty file in place of the one that is gone.

        Until it is back, or the ``Database`` is closed.
        """
        if self._gone and self._identity() is None:
            raise Unreachable(
                f"{self._name} is gone: its file was there, and was deleted or moved away. A new, empty one is not "
                "made in its place; put the file back, or restart the process to begin anew"
            )

    def forget(self) -> None:
        """Begin anew, as a new process would."""
        self._gone = False

    def _identity(self) -> tuple[int, int] | None:
        try:
            file = os.stat(self._path)
        except OSError:
            return None
        return file.st_dev, file.st_ino
