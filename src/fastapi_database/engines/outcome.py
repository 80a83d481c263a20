"""What is known of a COMMIT that ended with an error."""

from __future__ import annotations

import enum


class Outcome(enum.Enum):
    """Whether the transaction is stored."""

    NOT_STORED = "not stored"
    UNKNOWN = "unknown"


# A server that ends a session by these has not committed: it obeys them before it writes the record of the COMMIT, or
# after its answer, and nowhere between (CommitTransaction() in PostgreSQL's xact.c holds interrupts). A server that
# dies at once (57P02, an immediate shutdown) says so in a warning, which is no answer to a statement.
SESSION_ENDED = frozenset({"57P01", "57P05", "25P03", "25P04"})
_NO_ANSWER = "08"  # the class that drivers and poolers make up when nobody answers; the server has no such answer


def outcome_of_commit(*, lost: bool, sqlstate: str | None) -> Outcome:
    """Tell what became of a COMMIT that was sent, when all there is is an error.

    ==== ====================== ===========
    lost SQLSTATE of the error  the outcome
    ==== ====================== ===========
    no   any other              not stored: the server says what was wrong, and goes on
    no   none                   not stored: the driver refused it
    any  ``08…``                unknown
    yes  57P01 and its like     not stored
    yes  any other, or none     unknown: the record of the COMMIT may have been written before
    ==== ====================== ===========

    >>> outcome_of_commit(lost=False, sqlstate="40001")
    <Outcome.NOT_STORED: 'not stored'>
    >>> outcome_of_commit(lost=True, sqlstate=None)
    <Outcome.UNKNOWN: 'unknown'>
    """
    if sqlstate in SESSION_ENDED:
        return Outcome.NOT_STORED
    no_answer = sqlstate is not None and sqlstate.startswith(_NO_ANSWER)
    return Outcome.UNKNOWN if lost or no_answer else Outcome.NOT_STORED
