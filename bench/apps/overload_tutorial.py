"""The tutorial's pattern under overload: the same statement, five connections, the other defaults of SQLAlchemy."""

from collections.abc import Iterator
from os import environ
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from bench.apps.model import sync_url

WORK = text(f"SELECT pg_sleep({float(environ.get('WORK', '0.02'))})")

engine = create_engine(sync_url(), pool_size=5, max_overflow=0)
SessionLocal = sessionmaker(bind=engine)
app = FastAPI()


def get_db() -> Iterator[Session]:
    """The eight lines that everybody copies."""
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


@app.get("/sync")
def work(db: Annotated[Session, Depends(get_db)]) -> dict[str, bool]:
    db.execute(WORK)
    return {"ok": True}


@app.get("/nothing")
async def nothing() -> dict[str, bool]:
    return {"ok": True}
