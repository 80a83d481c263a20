"""`Session` written by hand with care: `def` endpoints commit themselves, nothing is read again after a commit.

The tutorial's pattern with what SQLAlchemy's documentation of sessions recommends for a web request: objects are
not expired by the commit, so no `refresh` asks for what INSERT … RETURNING has brought. Default pool.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session, sessionmaker

from bench.apps.model import LISTED, User, UserIn, UserOut, sync_url

engine = create_engine(sync_url())
SessionLocal = sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


def get_db() -> Iterator[Session]:
    """Close the session when the request is done."""
    with SessionLocal() as db:
        yield db


SessionDep = Annotated[Session, Depends(get_db)]


@app.get("/users", response_model=list[UserOut])
def list_users(db: SessionDep) -> Sequence[User]:
    return db.scalars(select(User).order_by(User.id).limit(LISTED)).all()


@app.get("/users/{user_id}", response_model=UserOut)
def get_user(user_id: int, db: SessionDep) -> User:
    user = db.get(User, user_id)
    if user is None:
        raise HTTPException(404, "User not found")
    return user


@app.post("/users", status_code=201, response_model=UserOut)
def create_user(user: UserIn, db: SessionDep) -> User:
    row = User(name=user.name, email=user.email)
    db.add(row)
    db.commit()
    return row
