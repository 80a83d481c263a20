"""Streams of many rows, each in two ways: batches in units of their own, and one cursor of the server's.

They stand under `/sync` and `/async`, by the kind of session. ROWS in the environment says how many rows there are.
"""

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import Select, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.b_watch import Watch
from fastapi_database import Database

ROWS = int(os.environ.get("ROWS", "1000"))
TEXT = 400  # characters of each
BATCH = 1000


class Base(DeclarativeBase): ...


class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


db = Database(models=Base)
db.create_all()
FILL = {  # by the database itself: an application that starts for a minute is a test that waits for a minute
    "postgresql": f"INSERT INTO rows SELECT n, repeat('x', {TEXT}) FROM generate_series(1, {ROWS}) AS n",
    "sqlite": f"INSERT INTO rows WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {ROWS}) "
    f"SELECT n, hex(zeroblob({TEXT // 2})) FROM c",
}
with db.begin() as setup:
    setup.execute(text(FILL[db.engine.dialect.name]))
db.close()
watch = Watch(db)
app = FastAPI()
db.install(app)
app.include_router(watch.router())


def batch_after(last: int, most: int) -> Select[Any]:
    return select(Row.id, Row.text).where(Row.id > last, Row.id <= most).order_by(Row.id).limit(BATCH)


def everything(most: int) -> Select[Any]:
    return select(Row.id, Row.text).where(Row.id <= most).order_by(Row.id).execution_options(yield_per=BATCH)


def lines(rows: Sequence[Any]) -> str:
    return "".join(f"{row.id} {row.text}\n" for row in rows)


@app.get("/sync/one")
def one(session: Annotated[Session, Depends(db.session)]) -> int | None:
    return session.scalar(select(1))


@app.get("/async/one")
async def one_async(session: Annotated[AsyncSession, Depends(db.async_session)]) -> int | None:
    return await session.scalar(select(1))


@app.get("/sync/batches")
def batches(most: int = ROWS) -> StreamingResponse:
    def body() -> Iterator[str]:
        last = 0
        while True:
            with db.begin() as session:
                rows = session.execute(batch_after(last, most)).all()
            if not rows:
                return
            last = rows[-1].id
            yield lines(rows)

    return StreamingResponse(body())


@app.get("/async/batches")
def batches_async(most: int = ROWS) -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        last = 0
        while True:
            async with db.begin() as session:
                rows = (await session.execute(batch_after(last, most))).all()
            if not rows:
                return
            last = rows[-1].id
            yield lines(rows)

    return StreamingResponse(body())


@app.get("/sync/cursor")
def cursor(most: int = ROWS) -> StreamingResponse:
    def body() -> Iterator[str]:
        with db.begin() as session:
            for rows in session.execute(everything(most)).partitions():
                yield lines(rows)

    return StreamingResponse(body())


@app.get("/async/cursor")
def cursor_async(most: int = ROWS) -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        async with db.begin() as session:
            async for rows in (await session.stream(everything(most))).partitions():
                yield lines(rows)

    return StreamingResponse(body())
