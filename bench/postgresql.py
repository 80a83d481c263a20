"""A PostgreSQL server for one run: the one that the environment names, or one of our own on disk.

Finding and starting it is the tests' code. Their servers live in memory and forget everything in a power cut;
ours lies in the temporary directory, and its durability is what PostgreSQL ships with.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
DURABLE = ["fsync", "synchronous_commit", "full_page_writes", "autovacuum", "shared_buffers", "max_wal_size"]


@contextmanager
def postgresql() -> Iterator[str]:
    """Yield the URL of a running server; end it afterwards if it is our own."""
    sys.path.insert(0, str(TESTS))
    from support.postgres import VARIABLE, private_server
    from support.run import Run

    if url := os.environ.get(VARIABLE):
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="bench-postgresql-") as directory:
        Path(directory).chmod(0o711)  # as root the server is run as another user, who has to get through
        server = private_server(Run(Path(directory)))
        try:
            for name, shipped in server.execute("SELECT name, boot_val FROM pg_settings WHERE name = ANY(%s)", DURABLE):
                server.execute(f"ALTER SYSTEM SET {name} = '{shipped}'")  # over the tests' configuration file
            server.restart()
            yield server.url()
        finally:
            server.close()
