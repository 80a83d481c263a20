"""What is known of a COMMIT that ended with an error: the whole table."""

import pytest

from fastapi_database.engines.outcome import Outcome, outcome_of_commit

KNOWN, UNKNOWN = Outcome.NOT_STORED, Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("lost", "sqlstate", "outcome"),
    [
        (False, "23505", KNOWN),
        (False, "40001", KNOWN),
        (False, "40P01", KNOWN),
        (False, None, KNOWN),  # the driver refused: another statement is running, say
        (True, "57P01", KNOWN),  # an administrator ended the session, and it said so
        (True, "25P03", KNOWN),
        (True, None, UNKNOWN),
        (True, "08003", UNKNOWN),  # made up by asyncpg
        (False, "08P01", UNKNOWN),  # made up by PgBouncer
        (True, "53100", UNKNOWN),  # a PANIC on a full disk: the record of the COMMIT may be on it
        (True, "XX000", UNKNOWN),
    ],
)
def test_a10_the_outcome_of_a_commit(lost: bool, sqlstate: str | None, outcome: Outcome) -> None:
    assert outcome_of_commit(lost=lost, sqlstate=sqlstate) is outcome
