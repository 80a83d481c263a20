"""Nobody's application: what is wrong here on purpose shows that checks can fail where all that are asked pass.

`commit()` only flushes, as in a test's transaction that is rolled back at the end, and the health endpoints lie.
"""

from collections.abc import Iterator

from fastapi import FastAPI, Response
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from bench.conformance.apps.model import POOL_OPTIONS, sync_url
from bench.conformance.apps.sync_endpoints import add_endpoints


class Flushing(Session):
    """Never commits."""

    def commit(self) -> None:
        """Flush."""
        self.flush()


engine = create_engine(sync_url(), **POOL_OPTIONS)
new_session = sessionmaker(bind=engine, class_=Flushing)
app = FastAPI()


def get_db() -> Iterator[Session]:
    """Give the session that never commits."""
    with new_session() as session:
        yield session


@app.get("/live")
@app.get("/ready")
async def healthy() -> Response:
    """Say that all is well, whatever happens."""
    return Response("fine")


def use_before_fork() -> None:
    """Read something at import."""
    with new_session() as session:
        session.execute(text("SELECT 1"))


add_endpoints(app, session=get_db, save=Session.commit, own=new_session.begin, socket_session=True)
