"""URLs, from the form people have them in to the one the drivers read. That they connect is tested with C4."""

import os

import pytest
from sqlalchemy import make_url

from fastapi_database.engines import dialect_for
from fastapi_database.engines.url import parse
from fastapi_database.errors import InvalidURL

LISTS = {
    "postgresql://a:1,b:2/app": ("a,b", "1,2"),
    "postgresql://a,b:2/app": ("a,b", "5432,2"),
    "postgresql://[::1]:1,[fe80::2],c/app": ("::1,fe80::2,c", "1,5432,5432"),
    "postgres://ann:s3cr3t@a,b": ("a,b", "5432,5432"),
    "postgresql+asyncpg://ann@a,b/app?sslmode=require": ("a,b", "5432,5432"),
}


@pytest.mark.parametrize("text", LISTS)
def test_a_list_of_hosts_becomes_two_lists(text: str) -> None:
    url = parse(text)
    assert (url.host, url.query["host"], url.query["port"]) == (None, *LISTS[text])
    assert url.get_backend_name() == "postgresql"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://ann:se,cret@localhost/app",
        "postgresql://localhost/a,b",
        "postgresql://localhost/app?options=-c%20search_path%3Da,b",
        "postgresql://localhost/app?host=a,b",
        "sqlite:///a,b.db",
    ],
)
def test_a_comma_elsewhere_is_no_list_of_hosts(text: str) -> None:
    assert parse(text) == make_url(text)


def test_everything_else_is_left_as_it_is() -> None:
    for text in ("postgresql://ann:p%40ss%2Fw%3Ard%25@[::1]:5433/app?sslmode=require", "sqlite:////tmp/x.db"):
        assert parse(text) == make_url(text)
        assert parse(make_url(text)) == make_url(text)
    assert parse("postgresql://ann:p%40ss%2Fw%3Ard%25@localhost/app").password == "p@ss/w:rd%"


@pytest.mark.parametrize(
    "text", ["postgresql://a:x,b:2/app", "postgresql://[::1,b/app", "postgresql://a:1,,b/app", "postgresql://a:1,/app"]
)
def test_a_list_that_can_not_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidURL):
        parse(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("postgresql://db1/app", ("db1", 5432)),
        ("postgresql://db1:5433/app", ("db1", 5433)),
        ("postgresql://[::1]:5433/app", ("::1", 5433)),
        ("postgresql:///app", ("localhost", 5432)),
        ("postgresql:///app?host=db1&port=5433", ("db1", 5433)),
        ("postgresql:///app?host=db1:5433&host=db2:5434", ("db1", 5433)),
        ("postgresql://db1:5433,db2:5434/app", ("db1", 5433)),
        ("postgresql://[::1]:5433,db2/app", ("::1", 5433)),
        ("postgresql:///app?host=/run/postgresql", "/run/postgresql/.s.PGSQL.5432"),
        ("postgresql:///app?host=/run/postgresql&port=5433", "/run/postgresql/.s.PGSQL.5433"),
        ("sqlite:///app.db", os.path.abspath("app.db")),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
    ],
)
def test_the_address_is_where_a_probe_knocks_while_every_connection_is_busy(text: str, address: object) -> None:
    assert dialect_for(text).address() == address
