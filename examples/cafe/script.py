"""The café without a web server: `python -m examples.cafe.script`, or `... --async` for the same in asyncio.

The same `Database` and the same models. `db.begin()` opens a window (a session), commits at the end of the
block, and rolls back if the block raises.
"""

import asyncio
import sys

from sqlalchemy import select

from .database import db
from .models import User


def main() -> None:
    """Make the tables, add John Doe, print everybody's name."""
    db.create_all()
    with db.begin() as session:
        session.add(User(name="John Doe"))
    with db.begin() as session:
        print(*session.scalars(select(User.name).order_by(User.id)), sep="\n")
    db.close()


async def main_async() -> None:
    """Do the same with the async session."""
    await db.acreate_all()
    async with db.begin() as session:
        session.add(User(name="John Doe"))
    async with db.begin() as session:
        print(*await session.scalars(select(User.name).order_by(User.id)), sep="\n")
    await db.aclose()


if __name__ == "__main__":
    if "--async" in sys.argv[1:]:
        asyncio.run(main_async())
    else:
        main()
