"""What a database has to say about itself. One subclass per database, each in its own file."""

from __future__ import annotations

import difflib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy.engine import URL, Engine

from fastapi_database.config import Limits, Settings, refuse_autocommit_of_the_driver
from fastapi_database.engines.transactions import Transactions, UnitEngine
from fastapi_database.errors import (
    ConflictingSettings,
    DriverNotInstalled,
    FastAPIDatabaseError,
    Unreachable,
    UnsupportedDatabase,
)


@dataclass(frozen=True, slots=True)
class UnitEngines:
    """The engines a unit of work chooses from; the same object twice where the database needs no choice."""

    read: UnitEngine
    write: UnitEngine


class Dialect(ABC):
    """A database: its URLs, its defaults, and how its connections behave."""

    name: ClassVar[str]
    drivers: ClassVar[tuple[str, ...]]
    """The drivers a URL may name."""
    single_writer: ClassVar[bool] = False
    """True where the database lets only one transaction write at a time."""
    locks_by_process: ClassVar[bool] = False
    """True where the driver keeps its locks by process, so that a forked child must not have a copy of a connection."""
    remote: ClassVar[bool] = True
    """True where connections go to a server, which many who come at once can run over."""
    room_question: str | None = None
    """Asks how many connections the server allows, how many are reserved, and how many others have."""
    question: ClassVar[str] = "SELECT 1"
    """The cheapest statement that only a database in working order answers."""

    def __init__(self, url: URL, limits: Limits = Limits()) -> None:  # noqa: B008 - it is frozen
        driver = url.drivername.partition("+")[2]
        if driver and driver not in self.drivers:
            near = difflib.get_close_matches(driver, self.drivers, n=1)
            hint = f"; did you mean {self.name}+{near[0]}://?" if near else "."
            raise UnsupportedDatabase(
                f"{self.name}+{driver}:// names a driver this version does not know{hint} Known are "
                f"{', '.join(self.drivers)}; without one the best that is installed is taken"
            )
        refuse_autocommit_of_the_driver("the URL's", url.query)
        self.url = url
        self.limits = limits

    @property
    @abstractmethod
    def sync_url(self) -> URL:
        """The URL with the driver for ``Session``. Raises :class:`DriverNotInstalled`."""

    @property
    @abstractmethod
    def async_url(self) -> URL:
        """The URL with the driver for ``AsyncSession``. Raises :class:`DriverNotInstalled`."""

    @abstractmethod
    def connect_arguments(self, driver: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Complete what the driver's ``connect`` is called with."""

    def adapted(self, connection: Any) -> Any:
        """Give what SQLAlchemy is to have for a connection that its dialect has opened."""
        return connection

    def configure(self, settings: Settings) -> None:  # noqa: B027 - most databases need nothing
        """Take from the settings what is for this database alone."""

    def transactions(self, driver: str) -> type[Transactions]:
        """Give what overrides SQLAlchemy's dialect for this driver."""
        return Transactions

    def use_transaction_pooler(self, arguments: Mapping[str, Any]) -> None:
        """Prepare for a pooler between; ``arguments`` are those for the driver. Raises where that can not be."""
        raise ConflictingSettings(
            f"transaction_pooler=True with {self.name}://, which has no pooler between: leave it out"
        )

    def listen(self, engine: Engine) -> None:  # noqa: B027 - most databases need nothing
        """Attach to an engine what this database needs besides."""

    def unit_engines(self, engine: Engine) -> UnitEngines:
        """Give the engines that units of work use in place of ``engine``."""
        unit = UnitEngine(engine)
        return UnitEngines(read=unit, write=unit)

    @abstractmethod
    def looks_alive(self, driver_connection: Any) -> bool:
        """Tell without a round trip whether an idle connection is still open at the other end."""

    def is_read_only(self, error: BaseException) -> bool:
        """Tell whether a driver's error says that the server, or the transaction, takes no writes."""
        return False

    def may_write(self, dbapi_connection: Any) -> bool:
        """Ask a connection that is in no transaction whether it takes writes."""
        return True

    def executes(self, driver_connection: Any) -> bool:
        """Tell whether a statement may be running on a connection; asked from outside, before it is interrupted."""
        return True

    @abstractmethod
    async def interrupt(self, driver_connection: Any) -> None:
        """Have the database end the statement that runs on a connection, from outside; nothing where none runs."""

    @abstractmethod
    def address(self) -> tuple[str, int] | str | None:
        """Host and port, or the path of a file or socket; None where there is nothing outside the process."""

    def connect_error(self, error: Exception) -> FastAPIDatabaseError:
        """Turn what the driver raised while connecting into an error of this library."""
        return Unreachable(f"{self.describe()} can not be reached: {_first_line(error)}")

    def describe(self) -> str:
        """Name the database for messages; never a password, wherever in the URL it stands."""
        shown = {k: "***" if "pass" in k.lower() else v for k, v in self.url.query.items()}
        return self.url.set(query=shown).render_as_string(hide_password=True)

    def open(self) -> None:  # noqa: B027 - most databases need nothing
        """Prepare what must exist before the first connection."""

    def close(self) -> None:  # noqa: B027
        """Undo :meth:`open`."""

    def begin_anew(self) -> None:  # noqa: B027
        """Have no lock, in a forked child, that a thread of the parent may hold."""

    def refuses_after_fork(self, *, in_use: int) -> FastAPIDatabaseError | None:
        """Tell why a forked child can not use this database, if so; ``in_use`` connections were copied into it."""
        return None

    def _with_driver(self, driver: str, module: str, *, extra: str | None) -> URL:
        if importlib.util.find_spec(module) is None:
            package = f"fastapi-database[{extra}]" if extra else module
            raise DriverNotInstalled(
                f"{self.name}+{driver}:// needs the driver {module!r}, which is not installed: pip install '{package}'"
            )
        return self.url.set(drivername=f"{self.name}+{driver}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
