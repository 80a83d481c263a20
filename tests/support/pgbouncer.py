"""A real PgBouncer in transaction mode, in front of the tests' PostgreSQL."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from sqlalchemy import make_url

from support.postgres import PostgreSQL, server_user
from support.run import Run

SERVERS = 3
"""Connections to the server, for any number of clients of one database."""
PATIENCE = 30.0
INI = """
[databases]
* = host=127.0.0.1 port={server} user={user} password={password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {servers}
max_client_conn = 500
logfile = {directory}/log
pidfile =
"""


class NoPgBouncerError(Exception):
    """No PgBouncer on this machine."""


class PgBouncer:
    """One that runs until `close`; databases are those of the server behind it."""

    def __init__(self, run: Run, postgresql: PostgreSQL) -> None:
        binary = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if binary is None:
            raise NoPgBouncerError(
                "no PgBouncer: there is no `pgbouncer` on the PATH (Debian: apt-get install pgbouncer)"
            )
        self.port = run.free_port()
        self._directory = run.directory / f"pgbouncer-{self.port}"
        self._directory.mkdir()
        ini = self._directory / "pgbouncer.ini"
        ini.write_text(
            INI.format(
                server=postgresql.port,
                user=postgresql.user,
                password=postgresql.password,
                port=self.port,
                servers=SERVERS,
                directory=self._directory,
            )
        )
        user = server_user()  # PgBouncer refuses root as well
        if user is not None:
            for path in (self._directory, ini):
                shutil.chown(path, user)
        with (self._directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [binary, "--quiet", str(ini)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                start_new_session=True,
                user=None if user is None else pwd.getpwnam(user).pw_uid,
                group=None if user is None else pwd.getpwnam(user).pw_gid,
                extra_groups=None if user is None else [],
            )
        run.adopt(self._process.pid, how=signal.SIGKILL)
        self._wait()

    def url(self, of_the_server: str) -> str:
        """Give the URL of a database by way of this pooler."""
        return make_url(of_the_server).set(port=self.port).render_as_string(hide_password=False)

    def log(self) -> str:
        """Give all that it has written."""
        files: list[Path] = [self._directory / "output", self._directory / "log"]
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"PgBouncer does not run:\n{self.log()}")
            time.sleep(0.01)
