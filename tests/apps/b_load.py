"""Clients of `b_death` that write again and again while something happens to its database."""

import time
from threading import Event, Thread

from support.clients import Answer, burst
from support.server import Server


class Load:
    """Clients that write again and again; what they are answered, and when."""

    def __init__(self, server: Server, kind: str, *, clients: int = 8) -> None:
        self.answers: list[tuple[float, Answer]] = []
        self._url = f"{server.url}/{kind}/notes/x"
        self._over = Event()
        self._clients = [Thread(target=self._write) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for one in self._clients:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._clients:
            one.join()

    def since(self, start: float) -> list[Answer]:
        """Give the answers to requests that were sent since."""
        return [answer for when, answer in list(self.answers) if when >= start]

    def _write(self) -> None:
        while not self._over.wait(0.005):
            when = time.monotonic()
            (answer,) = burst(self._url, 1, method="POST", timeout=30)
            self.answers.append((when, answer))
