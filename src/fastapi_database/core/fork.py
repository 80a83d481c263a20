"""What a fork does to a ``Database`` that was used before it: the child begins anew, the parent goes on unharmed.

A forked child has a copy of everything in memory and shares what the operating system holds: one socket, on which two
processes would speak at once. So the child forgets every connection without closing it, which would tell the server
that the parent has gone; has empty pools, which open its own; and has new locks, because a thread that does not exist
in the child may have held the old ones.

SQLite keeps the locks of a file by process. A child with a copy of a connection believes that it holds locks which only
the parent has, and so do the connections that it opens itself: https://sqlite.org/howtocorrupt.html, section 2.6. So
those that are idle are closed before the fork, in the parent, which opens them again in less than a millisecond.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import NoReturn, Protocol

from fastapi_database.errors import InheritedConnection


class Forkable(Protocol):
    """What lives on in both processes."""

    def before_fork(self) -> None:
        """Let go, in the parent, of what must not be copied."""

    def begin_anew(self) -> None:
        """Forget, in the child, what is the parent's."""


def watch_forks(one: Forkable) -> None:
    """Have both called around every ``os.fork()`` of this process, for as long as the object lives.

    Python has no way to take a hook back, so what stays of an object that is gone is a reference to nothing. A look at
    the process id in place of this would cost every use, and would come after a lock had been asked for.
    """
    if not hasattr(os, "register_at_fork"):  # Windows
        return
    os.register_at_fork(
        before=_call(weakref.WeakMethod(one.before_fork)),
        after_in_child=_call(weakref.WeakMethod(one.begin_anew)),
    )


def _call(method: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    def hook() -> None:
        found = method()
        if found is not None:
            found()

    return hook


class Inherited:
    """Stands in the child for a driver's connection that was in use: it can be let go of, and nothing else."""

    def close(self) -> None:
        """Do nothing: the socket is the parent's."""

    terminate = rollback = close

    def cursor(self, *_: object, **__: object) -> Inherited:
        """Give what a statement can not be executed on."""
        return self

    def __getattr__(self, name: str) -> NoReturn:
        raise InheritedConnection(
            "a unit of work that was open when this process was forked was used in the child: its connection is the "
            "parent's. Open a new one in the child: `with db.begin() as session:`; and leave the parent's to the parent"
        )
