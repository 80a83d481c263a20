"""Which statements only read: those that mean the same inside a transaction and before one. And which keep something.

In PostgreSQL's READ COMMITTED each statement sees what was committed before it began, transaction or not. So a unit of
work needs a transaction only from the first statement on that writes, locks, or depends on one.
"""

from __future__ import annotations

import functools
import re

REMEMBERED = 1024
"""Texts whose answer is remembered. An application sends the same texts over and over."""

# What may stand before an opening parenthesis: words of the language, types, and functions of PostgreSQL that neither
# write nor lock, and give the same answer whenever the transaction began. None whose name an application is likely to
# give to a function of its own, such as log().
_PLAIN = """
    all and any array as between by case cast distinct else end except exists filter from group having in inner
    intersect is join lateral like ilike limit natural not offset on or order outer over partition recursive row
    materialized select similar some then to union using values when where with within bit char character decimal
    float numeric time timestamp varbit varchar varying abs array_agg array_length avg bool_and bool_or cardinality
    ceil ceiling char_length coalesce concat concat_ws count cume_dist date_part date_trunc dense_rank every extract
    first_value floor greatest initcap json_agg jsonb_agg json_build_object jsonb_build_object lag last_value lead
    least length lower lpad ltrim max min mod nth_value ntile nullif percent_rank percentile_cont percentile_disc rank
    round row_number row_to_json rpad rtrim split_part sqrt starts_with stddev stddev_pop stddev_samp string_agg
    strpos substr substring sum to_json to_jsonb trim trunc unnest upper var_pop var_samp variance
"""

# A word of these anywhere may make it a statement that writes or locks, or one that asks when its transaction began.
_TELLING = """
    call copy current_date current_time current_timestamp delete do execute for insert into localtime localtimestamp
    lock merge now today tomorrow truncate uescape update yesterday
"""

_BEFORE_PARENTHESES = frozenset(_PLAIN.split())
_NEVER = frozenset(_TELLING.split())

_WORD = re.compile(r"[^\W\d]\w*")
_SPACE = r"(?:\s|/\*(?:[^*]|\*(?!/))*\*/)*"
_KEPT = re.compile(
    r"\b(?:set_config|setseed|pg_notify|pg_export_snapshot|pg_(?:try_)?advisory_(?:xact_)?lock(?:_shared)?)\"?"
    rf"{_SPACE}\(",
    re.IGNORECASE,
)
_NAMED = r"\w.$\"'\x80-\U0010ffff"  # PostgreSQL takes anything beyond ASCII for a letter
_CALLED = re.compile(rf"(?<![{_NAMED}])([{_NAMED}]*)\s*\(")
_PARTED = re.compile(r"\s\.|\.\s")  # a name in two parts with white space between, as `app . count`


@functools.lru_cache(maxsize=REMEMBERED)
def only_reads(statement: str) -> bool:
    """Tell whether a statement does nothing but read, as far as its text shows.

    Unknown functions may do anything, so they do not pass, nor does anything that is not plain at first sight. What the
    text can not show are functions that a view, a row-level policy or an operator calls, one that is written as an
    attribute (``notes.seen``), and one of the application's that has the name of PostgreSQL's.

    >>> only_reads("SELECT users.id FROM users WHERE users.id = $1::INTEGER")
    True
    >>> only_reads("SELECT users.id FROM users FOR UPDATE"), only_reads("SELECT nextval('ids')")
    (False, False)
    """
    lowered = statement.lstrip().lower()
    if not lowered.startswith(("select", "with")) or ";" in lowered or "--" in lowered or "/*" in lowered:
        return False
    if _PARTED.search(lowered) or not _NEVER.isdisjoint(_WORD.findall(lowered)):
        return False
    # Nothing before a parenthesis is a pair of them, or an operator.
    return all(not name or name in _BEFORE_PARENTHESES for name in _CALLED.findall(lowered))


@functools.lru_cache(maxsize=REMEMBERED)
def keeps_something(statement: str) -> bool:
    """Tell whether a SELECT sets, locks or announces something that would be lost with its transaction, or connection.

    The server does not tell afterwards. Nor does the text where a function of the application's does it.

    >>> keeps_something("SELECT set_config('app.tenant', $1, true)"), keeps_something("SELECT nextval('ids')")
    (True, False)
    """
    return _KEPT.search(statement) is not None
