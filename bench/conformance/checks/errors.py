"""A4, A5, A7, A8, A9: what an error does, what it says, and what it never says."""

from bench.conformance.checks.check import BOTH, Check, Observed, counted, mark_of, verdict
from bench.conformance.served import Served

STATUSES = (400, 401, 404, 409, 422, 500, 503)
OTHERS = {
    "exception": "/crashes",
    "dependency": "/dependency-raises",
    "function-scoped exit": "/exit-raises",
    "invalid answer": "/invalid-answer",
}
SECRET = "s3cr3t-7f"
WRONG = {
    "foreign key": ({"label_id": 999}, 409),
    "not null": ({"name": None}, 422),
    "check": ({"amount": -1}, 422),
    "too long": ({"name": "x" * 20}, 422),
}


async def errors_store_nothing(served: Served) -> Observed:
    """One INSERT, then each kind of error with each status: which of them left the row behind?"""
    left: dict[str, int] = {}
    wrong = 0
    for kind, paths in {
        "returned": [f"/returned/{status}" for status in STATUSES],
        "raised": [f"/raised/{status}" for status in STATUSES],
        **{kind: [path] for kind, path in OTHERS.items()},
    }.items():
        for path in paths:
            mark = mark_of(served, f"a4{path}")
            answer = await served.ask("POST", f"{path}?mark={mark}")
            wrong += answer.status < 400
            if served.database.rows(mark):
                left[kind] = left.get(kind, 0) + 1
    total = 2 * len(STATUSES) + len(OTHERS)
    rows = "; ".join(f"{kind}: {count}" for kind, count in left.items())
    value = f"{sum(left.values())} of {total} errors stored the row" + (f" ({rows})" if rows else "")
    return verdict(not left and not wrong, value + (f"; {wrong} not answered as an error" if wrong else ""))


async def swallowed_failure_is_told(served: Served) -> Observed:
    """INSERT, a statement that fails and whose exception is swallowed, 200; then the same inside a savepoint."""
    mark = mark_of(served, "a5")
    plain = await served.ask("POST", f"/swallows?mark={mark}plain")
    inner = await served.ask("POST", f"/swallows-in-savepoint?mark={mark}savepoint")
    lost, kept = served.database.rows(f"{mark}plain") == 0, served.database.rows(f"{mark}savepoint") == 1
    lied = 200 <= plain.status < 300 and lost
    value = f"{plain.status}, row {'absent' if lost else 'stored'}; savepoint: {inner.status}, row "
    return verdict(not lied and inner.status == 200 and kept, value + ("stored" if kept else "absent"))


async def the_rule(served: Served) -> Observed:
    """A returned answer below 400 commits, 303 too; an exception rolls back even where its handler answers 200."""
    mark = mark_of(served, "a7")
    forms = {"200": ("/returned/200", 1), "303": ("/redirects", 1), "handled": ("/handled", 0)}
    found, right = [], True
    for name, (path, wanted) in forms.items():
        answer = await served.ask("POST", f"{path}?mark={mark}{name}")
        rows = served.database.rows(f"{mark}{name}")
        right &= rows == wanted and answer.status == (303 if name == "303" else 200)
        kind = "exception handled as 200" if name == "handled" else f"returned {name}"
        found.append(f"{kind}: row {'stored' if rows else 'absent'}")
    return verdict(right, "; ".join(found))


async def conflicts_are_answered(served: Served) -> Observed:
    """50 clients at once store the same unique value; then each other constraint is violated once."""
    path, body = "/labels", {"name": mark_of(served, "a8")}
    answers = await served.burst(path, 50, concurrency=50, method="POST", json=body)
    conflicts = [answer for answer in answers if answer.status == 409]
    named = all(b"name" in answer.body for answer in conflicts)
    right = len(conflicts) == 49 and sum(answer.status == 201 for answer in answers) == 1 and named
    others = []
    for kind, (wrong, wanted) in WRONG.items():
        if kind == "too long" and served.database.kind == "sqlite":
            continue  # SQLite takes a text of any length
        answer = await served.ask("POST", "/strict", wrong)
        right &= answer.status == wanted
        others.append(f"{kind} {answer.status or 'none'}")
    return verdict(right, f"{counted(answers)}{'' if named else ', field not named'}; {', '.join(others)}")


async def secrets_stay_secret(served: Served) -> Observed:
    """A statement fails whose parameter is a secret, and a unique value is one: is it in an answer or in the log?"""
    answers = [await served.ask("POST", "/leaks", {"name": SECRET})]
    answers += [await served.ask("POST", "/labels", {"name": SECRET}) for _ in range(2)]
    in_body = any(SECRET.encode() in answer.body for answer in answers)
    in_log = served.log().count(SECRET)
    failed = answers[0].status >= 400 and answers[2].status >= 400
    value = f"in the answer: {'yes' if in_body else 'no'}; in the log: {in_log} times"
    return verdict(failed and not in_body and not in_log, value)


CHECKS = (
    Check(
        number="A4",
        sentence="An error stores nothing, whether it is returned or raised, in the endpoint, a dependency or later",
        ask=errors_store_nothing,
    ),
    Check(
        number="A5",
        sentence="A swallowed failure is never answered 2xx with the row absent; inside a savepoint the row is stored",
        ask=swallowed_failure_is_told,
    ),
    Check(
        number="A7",
        sentence="A returned answer below 400 commits (303 too); an exception rolls back, whatever its handler answers",
        ask=the_rule,
    ),
    Check(
        number="A8",
        sentence="A unique value 50 times at once: 1 x 201, 49 x 409 naming the field; other violations 409 or 422",
        ask=conflicts_are_answered,
    ),
    Check(
        number="A9",
        sentence="A secret among the parameters of a failed statement is neither in the answer nor in the log",
        ask=secrets_stay_secret,
        databases=BOTH,
    ),
)
