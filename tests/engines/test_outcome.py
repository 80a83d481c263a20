"""What is known of a COMMIT that ended with an error: the whole table."""

import pytest

from fastapi_database.engines.outcome import Outcome, outcome_of_commit

KNOWN, UNKNOWN = Outcome.NOT_STORED, Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("sent", "lost", "sqlstate", "outcome"),
    [
        (False, True, None, KNOWN),
        (True, False, "23505", KNOWN),
        (True, False, "40001", KNOWN),
        (True, False, "40P01", KNOWN),
        (True, False, None, KNOWN),  # the driver refused: another statement is running, say
        (True, True, "57P01", KNOWN),  # an administrator ended the session, and it said so
        (True, True, "25P03", KNOWN),
        (True, True, None, UNKNOWN),
        (True, True, "08003", UNKNOWN),  # made up by asyncpg
        (True, False, "08P01", UNKNOWN),  # made up by PgBouncer
        (True, True, "53100", UNKNOWN),  # a PANIC on a full disk: the record of the COMMIT may be on it
        (True, True, "XX000", UNKNOWN),
    ],
)
def test_a10_the_outcome_of_a_commit(sent: bool, lost: bool, sqlstate: str | None, outcome: Outcome) -> None:
    assert outcome_of_commit(sent=sent, lost=lost, sqlstate=sqlstate) is outcome
