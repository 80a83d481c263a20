"""A9: neither an answer nor the log shows a parameter or a password, at default settings, tracebacks included."""

import json
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

import pytest
from sqlalchemy import make_url

from apps.a_secrets import SECRET
from apps.a_serving import BACKENDS, Backend, Backends
from fastapi_database import Database
from fastapi_database.errors import ConfigurationError
from support.clients import Answer, Request, burst, keep_alive
from support.postgres import PostgreSQL
from support.run import Run
from support.server import Server

pytest_plugins = ["apps.a_fixtures"]

APP = "apps.a_secrets:create"
HANDLED = ("let-through", "swallow", "wrap", "refuse")
LATER = {"in-background": "POST", "in-stream": "GET"}
SQLITE_TAKES = {"too-long", "wrong-number", "wrong-colour"}
"""SQLite stores a text of any length, also in an INTEGER column, and knows no enumerations."""


@dataclass
class Told:
    """All that a client and the log were told."""

    backend: str
    answers: dict[tuple[str, str, str], Answer] = field(default_factory=dict)
    """By way, case and form."""
    log: str = ""


@pytest.fixture(scope="module", params=BACKENDS)
def told(request: pytest.FixtureRequest, backends: Backends) -> Iterator[Told]:
    """Have every statement fail in every way and form, and stop the server: then its log is complete."""
    backend = backends.make(request.param)
    server = backend.serve(APP)
    told = Told(request.param)
    (cases,) = burst(f"{server.url}/cases", 1)
    for way in (*HANDLED, *LATER):
        # What an error says does not depend on the route: every form lets it through, one of each kind does the rest.
        for prefix in backend.prefixes if way == "let-through" else backend.prefixes[::2]:
            requests = {
                (way, case, prefix): Request(LATER.get(way, "POST"), f"{server.url}{prefix}/{way}/{case}")
                for case in cases.json()
            }
            told.answers |= {key: keep_alive(one)[0] for key, one in requests.items()}
    server.stop()
    told.log = server.log()
    yield told
    backend.close()


def test_a9_each_of_the_statements_fails(told: Told) -> None:
    """So that the other tests look at something."""
    for (way, case, prefix), answer in told.answers.items():
        if way in HANDLED and not (told.backend == "sqlite" and case in SQLITE_TAKES):
            assert answer.status >= 400, (way, case, prefix, answer)
    assert told.log.count("Traceback (most recent call last)") > len(told.answers) / 3


def test_a9_no_answer_shows_a_parameter_of_a_failed_statement(told: Told) -> None:
    shown = [key for key, answer in told.answers.items() if shows(answer)]
    assert not shown


def test_a9_no_log_shows_a_parameter_of_a_failed_statement(told: Told) -> None:
    """Let through, logged by the application, wrapped, from a background task and from a stream."""
    shown: list[tuple[str, str]] = []
    case = ""
    for line in told.log.splitlines():
        case = line if line.startswith("case ") else case
        if SECRET in line:
            shown.append((case, line))
    assert not shown


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg"])
def test_a9_a_password_is_nowhere_when_connecting_fails(postgresql: PostgreSQL, run: Run, driver: str) -> None:
    urls = [url.replace("postgresql", driver, 1) for url in unreachable(postgresql, run).values()]
    server = Server(f"{APP}_many", run=run, env={"URLS": json.dumps(urls)}, args=["--factory"])
    for number, url in enumerate(urls):
        for kind in ("sync", "async"):
            for route in ("database", "plain"):
                path = f"{server.url}/{number}/{kind}/{route}/let-through/unique"
                answer = keep_alive(Request("POST", path))[0]
                assert answer.status in {500, 503}, (hidden(url), answer)
                assert not shows(answer), hidden(url)
        (ready,) = burst(f"{server.url}/{number}/ready", 1)
        assert ready.status == 503
        assert not shows(ready)
    server.stop()
    lines = [hidden(line) for line in server.log().splitlines() if SECRET in line]
    assert not lines
    assert server.log().count(" answered 50") == 4 * len(urls)


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg"])
def test_a9_a_password_is_nowhere_when_the_application_does_not_start(
    postgresql: PostgreSQL, run: Run, driver: str
) -> None:
    url = unreachable(postgresql, run)["wrong password"].replace("postgresql", driver, 1)
    with pytest.raises(RuntimeError, match="refused the login") as failure:
        Server(APP, run=run, env={"DATABASE_URL": url}, args=["--factory"])
    assert SECRET not in str(failure.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{SECRET}@host:port/app",
        f"postgresql://ann:x@{SECRET}@host/app",
        f"postgresql://ann:x:{SECRET}@host:5432x/app",
        f"oracle://ann:{SECRET}@host/app",
        f"ann:{SECRET}@host/app",
        f"postgresql+nothing://ann:{SECRET}@host/app",
    ],
    ids=lambda url: url.replace(SECRET, "SECRET"),
)
def test_a9_a_password_is_nowhere_when_the_url_can_not_be_read(url: str) -> None:
    with pytest.raises(ConfigurationError) as failure:
        Database(url)
    text = "".join(traceback.format_exception(failure.value)).replace(repr(url), "")
    assert SECRET not in text


def test_a9_the_password_of_a_database_that_works_is_nowhere(backend: Backend) -> None:
    """After all that the other tests asked of this server, or at least one failure of its own."""
    for prefix in backend.prefixes:
        keep_alive(Request("POST", f"{backend.server.url}{prefix}/fail/unhandled?name=a9"))
    password = make_url(backend.url).password
    assert "Traceback" in backend.log()
    assert password is None or str(password) not in backend.log()


def unreachable(postgresql: PostgreSQL, run: Run) -> dict[str, str]:
    """Make URLs that hold the secret and do not lead to a database."""
    address, user = f"127.0.0.1:{postgresql.port}/postgres", postgresql.user
    return {
        "wrong password": f"postgresql://{user}:{SECRET}@{address}",
        "encoded": f"postgresql://{user}:{quote(f'p@ss/w:rd%{SECRET}', safe='')}@{address}",
        "in the query": f"postgresql://{user}@{address}?password={SECRET}",
        "of a key": f"postgresql://{user}:{SECRET}@{address}?sslmode=require&sslpassword={SECRET}",
        "nobody there": f"postgresql://{user}:{SECRET}@127.0.0.1:{run.free_port()}/postgres",
        "unknown host": f"postgresql://{user}:{SECRET}@no-such-host.invalid/postgres",
        "unknown database": f"postgresql://{user}:{SECRET}@127.0.0.1:{postgresql.port}/nothing",
        "unknown setting": f"postgresql://{user}:{SECRET}@{address}?nonsense=1",
        "two hosts": f"postgresql://{user}:{SECRET}@127.0.0.1:{postgresql.port},127.0.0.1:1/postgres",
    }


def hidden(text: str) -> str:
    """Keep the secret out of our own messages, where it would look like a leak."""
    return text.replace(SECRET, "SECRET")


def shows(answer: Answer) -> bool:
    return SECRET.encode() in answer.body or SECRET in str(answer.headers.raw)
