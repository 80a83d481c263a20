"""Whom a line refuses once it must refuse somebody: those who have waited longest. Pure.

A line that stands helps nobody. Where more comes than the places can do, it fills up, and from then on as many are
refused as are too many, whatever the order; but whoever is served has waited as long as the line allows, and most of
their clients have gone. Then those who have waited too long make room, so that those behind are served early.

So once a line stands, no more may wait in it than are served within a target, and the next is refused at once. That
keeps it short, and a refusal cheap: nobody is kept for whom there will be no place. And who has waited for more than
twice the target, because the line was long before or is served more slowly now, makes room.

That is controlled delay (CoDel, https://queue.acm.org/detail.cfm?id=2209336) as Elixir's DBConnection has it for
connections (https://hexdocs.pm/db_connection/DBConnection.html#start_link/2-queue-config): who has waited more than
twice a target is refused, until somebody is served within the target again. It begins later, so that nobody is
refused whom the line could have served:

- Somebody was refused already, because the line was full or a deadline passed. A thousand patient clients that come
  again when they have their answer make a line that stands for hours, in which everybody is served.
- More came than were served in two intervals, and some were. After a burst nobody comes, and who waits can all be
  served; while nobody is served (a lock, a failover), sending them away would serve no one sooner, and when it is over
  they can be.

And whoever is refused makes room for somebody who comes (``Line.overdue``), so once nobody comes nobody is refused.
"""

from __future__ import annotations

from math import inf

INTERVAL = 1.0
"""Seconds between two judgements of a line. That of DBConnection."""

EXCESS = 1.1
"""How many must come for each that is served, before it is overload: a few more or less are chance."""


class Shedding:
    """What one line has been like, and how long a claim may wait in it."""

    def __init__(self, *, target: float) -> None:
        self.target = target
        self.limit = 2 * target
        """Seconds that a claim may have waited while the line stands."""
        self.standing = False
        self.room = inf
        """How many may wait while the line stands: those who are served within the target, at the rate of late."""
        self.least = inf
        """The least wait of this interval so far, of those who were served last in line: 0 where nobody had to wait."""
        self._pressed = False
        self._overload = False
        self._came = 0
        self._served = 0
        self._began = -inf
        self._ends = -inf

    def came(self, *, now: float) -> None:
        """Note a claim that has to wait, or is refused because too many do."""
        if now >= self._ends:
            self._judge(now)
        self._came += 1

    def served(self) -> None:
        """Note a claim that had to wait and has its place now."""
        self._served += 1

    def refused(self) -> None:
        """Note that the line could not serve everybody: it was full, or a deadline passed."""
        self._pressed = True

    def _judge(self, now: float) -> None:
        if now >= self._ends + INTERVAL:  # nobody came in a whole interval: what was before says nothing of now
            self._pressed, self._came = False, 0
        too_many = self._came > EXCESS * self._served
        if self.least <= self.target and not too_many:
            self._pressed = False
        overload = too_many and self._served > 0
        self.standing = self._pressed and overload and self._overload
        self._overload = overload
        self.room = self._served / (now - self._began) * self.target if self.standing else inf
        self.least, self._came, self._served = inf, 0, 0
        self._began, self._ends = now, now + INTERVAL
