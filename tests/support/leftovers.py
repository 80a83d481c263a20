"""What a test must not leave behind."""

import gc
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 2.0


@contextmanager
def nothing_left(*, patience: float = PATIENCE) -> Iterator[None]:
    """Fail when the block leaves a thread that would keep the process alive, or an abandoned task.

    A thread that is about to end gets `patience` seconds to do so.
    """
    before = set(threading.enumerate())
    complaints = _Complaints()
    logging.getLogger("asyncio").addHandler(complaints)
    gc.freeze()  # what was there before is not the garbage of this test, and searching it takes long
    try:
        yield
        # Whatever was abandoned complains when it is destroyed: files and sockets by a ResourceWarning, which
        # pytest turns into the failure of this test, tasks by the logger of asyncio.
        gc.collect()
    finally:
        gc.unfreeze()
        logging.getLogger("asyncio").removeHandler(complaints)
    assert not complaints.messages, f"asyncio complained: {complaints.messages}"
    left = _threads_since(before, patience)
    assert not left, f"threads left behind: {left}"


def _threads_since(before: set[threading.Thread], patience: float) -> list[threading.Thread]:
    """List the threads that were started since and do not end in time."""
    deadline = time.monotonic() + patience
    left = [one for one in threading.enumerate() if one not in before and not _is_excused(one)]
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [one for one in left if one.is_alive()]


def _is_excused(thread: threading.Thread) -> bool:
    """Excuse the worker threads of an event loop: they live as long as a loop that outlives the test.

    A loop that is not closed is found all the same, by its ResourceWarning.
    """
    return thread.daemon or thread.name.startswith(("asyncio_", "AnyIO worker thread"))


class _Complaints(logging.Handler):
    """Collects what asyncio reports about tasks that were destroyed or never awaited."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
