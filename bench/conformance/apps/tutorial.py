"""The tutorial's pattern: `get_db` yields and closes, the endpoints commit.

FastAPI's documentation before SQLModel, "SQL (Relational) Databases" (until 0.111), sections "Create a dependency" and
"Create data"; with SQLAlchemy 2's words. For a WebSocket, "WebSockets", section "Using Depends and others": the same
dependency.
"""

from collections.abc import Iterator

from fastapi import FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from bench.conformance.apps.model import POOL_OPTIONS, sync_url
from bench.conformance.apps.sync_endpoints import add_endpoints

engine = create_engine(sync_url(), **POOL_OPTIONS)
SessionLocal = sessionmaker(autocommit=False, autoflush=False, bind=engine)
app = FastAPI()


def get_db() -> Iterator[Session]:
    """The eight lines that everybody copies."""
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


def use_before_fork() -> None:
    """Read something at import, as a settings table is read (B18)."""
    with SessionLocal() as session:
        session.execute(text("SELECT 1"))


add_endpoints(app, session=get_db, save=Session.commit, own=SessionLocal.begin, socket_session=True)
