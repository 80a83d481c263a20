"""What is asked: one function per guarantee, the same for every subject, in one file per theme.

A check gets a subject that runs and is at rest, looks at it from outside only, and says what it observed and whether
the guarantee holds. `CHECKS` is the order of the table.
"""

from bench.conformance.checks import commits, database, errors, load, session, streams
from bench.conformance.checks.check import Check

CHECKS: tuple[Check, ...] = tuple(
    sorted(
        (one for module in (commits, errors, session, streams, load, database) for one in module.CHECKS),
        key=lambda check: (check.number[0], int(check.number[1:])),
    )
)
NUMBERS = [check.number for check in CHECKS]
