"""Commit in the dependency: `get_db` yields, then commits, or rolls back on an exception.

FastAPI's documentation, "Dependencies with yield", with a commit after the `yield`: the pattern of many templates.
"""

from collections.abc import Iterator

from fastapi import FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from bench.conformance.apps.model import POOL_OPTIONS, sync_url
from bench.conformance.apps.sync_endpoints import add_endpoints

engine = create_engine(sync_url(), **POOL_OPTIONS)
SessionLocal = sessionmaker(bind=engine)
app = FastAPI()


def get_db() -> Iterator[Session]:
    """Commit where the tutorial only closes."""
    db = SessionLocal()
    try:
        yield db
        db.commit()
    except BaseException:
        db.rollback()
        raise
    finally:
        db.close()


def use_before_fork() -> None:
    """Read something at import, as a settings table is read (B18)."""
    with SessionLocal() as session:
        session.execute(text("SELECT 1"))


add_endpoints(app, session=get_db, save=Session.flush, own=SessionLocal.begin, socket_session=True)
