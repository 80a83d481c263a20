"""Opening connections while the database may be away: the clock, the lock and the messages around ``reconnect.py``."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from fastapi_database.core.reconnect import Attempt, Reconnect
from fastapi_database.engines import Dialect
from fastapi_database.errors import RETRY_AFTER, FastAPIDatabaseError, Unavailable, Unreachable

logger = logging.getLogger("fastapi_database")

GIVEN_UP = 0.5
"""Seconds after which an attempt that was cancelled counts as failed: a healthy server would have answered."""


class Outages:
    """Lets attempts through, or refuses them with the error of the last one. For any thread and loop."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._dialect = dialect
        self._clock = clock
        self._reconnect = Reconnect(random=random)
        self._lock = threading.Lock()
        self._last: Unavailable = Unreachable(f"{dialect.describe()} can not be reached")
        self._failed_at = float("-inf")

    @contextmanager
    def attempt(self) -> Generator[None]:
        """Open a connection inside the block; what the driver raises there becomes an error of this library.

        Raises the last attempt's error at once where it is too early to try again.
        """
        with self._lock:
            now = self._clock()
            attempt = self._reconnect.start(now)
            if attempt is None:
                raise self._too_early(now)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - drivers raise anything: OSError, their own, TimeoutError
            told = error if isinstance(error, FastAPIDatabaseError) else self._dialect.connect_error(error)
            self._failed(attempt, told)
            # `from None`: the original could carry the connection string; the message has what is needed.
            raise told from None
        except BaseException:
            self._given_up(attempt)
            raise
        self._succeeded(attempt)

    def _too_early(self, now: float) -> Unavailable:
        last, wait = self._last, self._reconnect.wait(now)
        message = str(last).removesuffix(f" [{last.code}]").rstrip(".")
        stop = "" if message.endswith("?") else "."
        due = f"is due in {wait:.1f} s" if wait else "is under way"
        return type(last)(
            f"{message}{stop} That was {now - self._failed_at:.1f} s ago; the next attempt {due}, and is made by one "
            "request for all",
            retry_after=max(RETRY_AFTER, wait),
        )

    def _failed(self, attempt: Attempt, error: FastAPIDatabaseError) -> None:
        with self._lock:
            # A mistake in the settings says nothing about the database; and a file nobody can run over.
            if isinstance(error, Unavailable) and self._dialect.remote:
                self._last, self._failed_at = error, self._clock()
                self._reconnect.failed(attempt, self._failed_at)
            else:
                self._reconnect.withdrawn(attempt)

    def _given_up(self, attempt: Attempt) -> None:
        waited = self._clock() - attempt.started
        if waited < GIVEN_UP:
            with self._lock:
                self._reconnect.withdrawn(attempt)
        else:
            self._failed(attempt, Unreachable(f"{self._dialect.describe()} did not answer within {waited:.1f} s"))

    def _succeeded(self, attempt: Attempt) -> None:
        with self._lock:
            ended = self._reconnect.succeeded(attempt)
            seconds = 0.0 if ended is None else self._clock() - ended.since
        if ended is not None:
            logger.warning(
                "%s can be reached again, after %.1f s and %d attempts",
                self._dialect.describe(),
                seconds,
                ended.attempts,
            )
