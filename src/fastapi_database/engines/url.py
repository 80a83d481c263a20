"""Database URLs, in the forms people have them, without ever showing a password."""

from __future__ import annotations

import re

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from fastapi_database.errors import InvalidURL

_ALIASES = {"postgres": "postgresql"}  # hosting providers hand out postgres://, which SQLAlchemy refuses
_SCHEME = re.compile(r"(?P<backend>[A-Za-z0-9_]+)(?P<driver>\+[A-Za-z0-9_]+)?://(?P<rest>.*)", re.DOTALL)
_HOSTS = re.compile(r"(?P<login>[^/?]*@)?(?P<hosts>[^/?@]*,[^/?@]*)(?P<rest>[/?].*)?", re.DOTALL)

_HOST = re.compile(r"(?:\[(?P<ip>[^\]]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d+))?")


def parse(url: object) -> URL:
    """Read a URL; also libpq's list of hosts, ``postgresql://a:5432,b:5432/app``.

    >>> parse("postgres://ann:secret@db1,db2:5433/app")
    postgresql://ann:***@/app?host=db1%2Cdb2&port=5432%2C5433

    A Pydantic URL (``PostgresDsn``) is taken too. Raises :class:`InvalidURL`, with the password left out.
    """
    if isinstance(url, URL):
        return url.set(drivername=_scheme(url.drivername))
    if callable(unicode_string := getattr(url, "unicode_string", None)):
        url = str(unicode_string())
    if not isinstance(url, str):
        raise InvalidURL(f"the database URL is a {type(url).__name__}; it must be a str or a sqlalchemy.URL")
    match = _SCHEME.fullmatch(url.strip())
    if match is None:
        raise InvalidURL(
            "the database URL can not be read: it must look like dialect://user:password@host:port/database, "
            "for example sqlite:///app.db or postgresql://ann:secret@localhost:5432/app"
        )
    text = f"{_scheme(match['backend'] + (match['driver'] or ''))}://{match['rest']}"
    try:
        return _split_hosts(text, match["rest"]) or make_url(text)
    except (ArgumentError, ValueError):
        # `from None`: the original message may quote the part of the URL that holds the password.
        raise InvalidURL(
            f"the {match['backend']}:// URL can not be read. Usual causes: a port that is not a number, or a "
            "password with @, :, / or % in it that is not percent-encoded (urllib.parse.quote does it)"
        ) from None


def _scheme(drivername: str) -> str:
    backend, plus, driver = drivername.partition("+")
    return _ALIASES.get(backend.lower(), backend.lower()) + plus + driver


def _split_hosts(text: str, rest: str) -> URL | None:
    """Rewrite libpq's list of hosts into the two lists that SQLAlchemy and every driver read."""
    match = _HOSTS.fullmatch(rest)
    if match is None:
        return None
    prefix = text[: -len(rest)]
    url = make_url(f"{prefix}{match['login'] or ''}{match['rest'] or ''}")
    hosts = [_HOST.fullmatch(host) for host in match["hosts"].split(",")]
    if not all(hosts):
        raise ValueError("a host in the list can not be read")
    pairs = [(h["ip"] or h["name"], h["port"] or "5432") for h in hosts if h is not None]
    return url.update_query_dict({"host": ",".join(h for h, _ in pairs), "port": ",".join(p for _, p in pairs)})
