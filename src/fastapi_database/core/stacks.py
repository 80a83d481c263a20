"""Where a unit of work is being used now: looked up in the stacks of threads and tasks when somebody asks.

A request pays nothing for this. What is found is one line of the application: the innermost call on a stack on which
the unit, its session or its owner is a local variable.
"""

from __future__ import annotations

import asyncio
import os
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from fastapi_database.core.cancellation import ThreadsFirst
from fastapi_database.core.internals import current_frames
from fastapi_database.core.unit import Unit

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = ("site-packages", "dist-packages")
_PYTHON = sysconfig.get_path("stdlib") + os.sep


def line_of(owner: object, loops: Iterable[asyncio.AbstractEventLoop]) -> str | None:
    """Find the line at which the unit of an owner is now, in any thread or in a task of these loops.

    Gives None where no variable leads to it: the unit was taken by a dependency and the endpoint does not have it.
    """
    for frames in [*_threads(), *_tasks(loops)]:
        used = [frame for frame in frames if any(_belongs(value, owner) for value in frame.f_locals.values())]
        if used:
            application = [frame for frame in frames if _is_application(frame.f_code.co_filename)]
            return _name(application[-1] if application else used[-1])
    return None


def _threads() -> Iterator[list[FrameType]]:
    """Give the stacks of all other threads, outermost call first; this one has the owner because it looks for it."""
    for number, innermost in current_frames().items():
        if number == threading.get_ident():
            continue
        frames: list[FrameType] = []
        frame: FrameType | None = innermost
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        yield frames[::-1]


def _tasks(loops: Iterable[asyncio.AbstractEventLoop]) -> Iterator[list[FrameType]]:
    for loop in loops:
        for task in asyncio.all_tasks(loop):
            yield _awaiting(task.get_coro())


def _awaiting(step: Any) -> list[FrameType]:
    """Give the calls a task is in while it waits; ``Task.get_stack`` gives the first of them only."""
    frames: list[FrameType] = []
    while step is not None:
        frame = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None) or getattr(step, "ag_frame", None)
        if frame is None:
            break
        frames.append(frame)
        this = frame.f_locals.get("self")
        step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None) or getattr(step, "ag_await", None)
        if type(this) is ThreadsFirst and not hasattr(step, "gi_frame"):
            step = this.request
    return frames


def _belongs(value: object, owner: object) -> bool:
    """Tell by its exact type: what else lies in variables must not be asked, it may be a proxy that loads something."""
    from fastapi_database.core.session import UnitAsyncSession, UnitSession  # noqa: PLC0415 - the ORM: see there

    if value is owner:
        return True
    kind = type(value)
    if kind is UnitSession or kind is UnitAsyncSession:
        unit = vars(value).get("unit")
        return unit is not None and unit.owner is owner
    return issubclass(kind, Unit) and vars(value).get("owner") is owner


def _is_application(file: str) -> bool:
    if file.startswith(_OURS) or any(name in file for name in _LIBRARIES):
        return False
    return not file.startswith((_PYTHON, "<frozen"))


def _name(frame: FrameType) -> str:
    return f"{frame.f_code.co_name}, {frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
