"""Ours with sync sessions: `Depends(db.session)` in `def` endpoints; README, "A complete application".

Outside a request and for each message of a socket: `db.begin()`, reference "Which session where".
"""

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.orm import Session

from bench.conformance.apps.model import POOL, WAIT, Base, database_url
from bench.conformance.apps.sync_endpoints import add_endpoints
from fastapi_database import Database

db = Database(database_url(), models=Base, max_connections=POOL, queue_timeout=WAIT)
app = FastAPI()
db.install(app)
app.include_router(db.health())


def use_before_fork() -> None:
    """Read something at import, as a settings table is read (B18)."""
    with db.begin() as session:
        session.execute(text("SELECT 1"))


add_endpoints(app, session=db.session, save=Session.flush, own=db.begin)
