"""FastAPI's own tutorial with SQLModel: fastapi.tiangolo.com/tutorial/sql-databases/, "Update the App with Multiple
Models" (docs_src/sql_databases/tutorial002_an_py310.py), default pool.

The tutorial gives SQLite `check_same_thread=False`, which SQLAlchemy's pool does by itself for a file; here it stays.
`order_by` is ours: all peers list the same rows in the same order.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlmodel import Field, Session, SQLModel, create_engine, select

from bench.apps.model import LISTED, sync_url

url = sync_url()
engine = create_engine(url, connect_args={"check_same_thread": False} if url.drivername == "sqlite" else {})
app = FastAPI()


class UserBase(SQLModel):
    """What a client writes and reads."""

    name: str
    email: str | None = None


class User(UserBase, table=True):
    """The one table."""

    __tablename__ = "users"

    id: int | None = Field(default=None, primary_key=True)


class UserCreate(UserBase):
    """The body of POST /users."""


class UserPublic(SQLModel):
    """What every endpoint answers, in the order of all peers."""

    id: int
    name: str
    email: str | None


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]


@app.get("/users", response_model=list[UserPublic])
def list_users(session: SessionDep) -> Sequence[User]:
    return session.exec(select(User).order_by(User.id).limit(LISTED)).all()


@app.get("/users/{user_id}", response_model=UserPublic)
def get_user(user_id: int, session: SessionDep) -> User:
    user = session.get(User, user_id)
    if not user:
        raise HTTPException(status_code=404, detail="User not found")
    return user


@app.post("/users", status_code=201, response_model=UserPublic)
def create_user(user: UserCreate, session: SessionDep) -> User:
    db_user = User.model_validate(user)
    session.add(db_user)
    session.commit()
    session.refresh(db_user)
    return db_user
