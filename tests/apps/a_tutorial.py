# ruff: noqa: B008 - it is written as people write it
"""The application of FastAPI's tutorial on SQL databases, as people have it: crud functions with commits of their own.

With GET_DB=copied it runs on the tutorial's own `get_db`; without, on `get_db = db.session`. Nothing else differs.
The second half is the same in its async form.
"""

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Boolean, Column, ForeignKey, Integer, String, create_engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, declarative_base, relationship, selectinload, sessionmaker

from fastapi_database import Database

DATABASE_URL = os.environ["DATABASE_URL"]

Base: Any = declarative_base()
app = FastAPI()

if os.environ.get("GET_DB") == "copied":
    ASYNC_URL = DATABASE_URL.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:")
    engine = create_engine(DATABASE_URL.replace("postgresql:", "postgresql+psycopg:"))
    async_engine = create_async_engine(ASYNC_URL)
    SessionLocal = sessionmaker(autocommit=False, autoflush=False, bind=engine)
    AsyncSessionLocal = async_sessionmaker(async_engine, expire_on_commit=False)

    def get_db() -> Iterator[Session]:
        db = SessionLocal()
        try:
            yield db
        finally:
            db.close()

    async def get_async_db() -> AsyncIterator[AsyncSession]:
        async with AsyncSessionLocal() as session:
            yield session

else:
    database = Database(DATABASE_URL, autoflush=False)
    database.install(app)
    engine = database.engine
    get_db = database.session
    get_async_db = database.async_session


# models.py


class User(Base):
    __tablename__ = "users"

    id = Column(Integer, primary_key=True, index=True)
    email = Column(String, unique=True, index=True)
    hashed_password = Column(String)
    is_active = Column(Boolean, default=True)

    items = relationship("Item", back_populates="owner", order_by="Item.id")


class Item(Base):
    __tablename__ = "items"

    id = Column(Integer, primary_key=True, index=True)
    title = Column(String, index=True)
    description = Column(String, index=True)
    owner_id = Column(Integer, ForeignKey("users.id"))

    owner = relationship("User", back_populates="items")


Base.metadata.create_all(bind=engine)


# schemas.py


class ItemCreate(BaseModel):
    title: str
    description: str | None = None


class ItemOut(ItemCreate):
    model_config = ConfigDict(from_attributes=True)
    id: int
    owner_id: int


class UserCreate(BaseModel):
    email: str
    password: str


class UserOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    email: str
    is_active: bool
    items: list[ItemOut] = []


# crud.py


def get_user(db: Session, user_id: int):
    return db.query(User).filter(User.id == user_id).first()


def get_user_by_email(db: Session, email: str):
    return db.query(User).filter(User.email == email).first()


def get_users(db: Session, skip: int = 0, limit: int = 100):
    return db.query(User).order_by(User.id).offset(skip).limit(limit).all()


def create_user(db: Session, user: UserCreate):
    fake_hashed_password = user.password + "notreallyhashed"
    db_user = User(email=user.email, hashed_password=fake_hashed_password)
    db.add(db_user)
    db.commit()
    db.refresh(db_user)
    return db_user


def get_items(db: Session, skip: int = 0, limit: int = 100):
    return db.query(Item).order_by(Item.id).offset(skip).limit(limit).all()


def create_user_item(db: Session, item: ItemCreate, user_id: int):
    db_item = Item(**item.model_dump(), owner_id=user_id)
    db.add(db_item)
    db.commit()
    db.refresh(db_item)
    return db_item


# main.py


@app.post("/users/", response_model=UserOut)
def post_user(user: UserCreate, db: Session = Depends(get_db)):
    db_user = get_user_by_email(db, email=user.email)
    if db_user:
        raise HTTPException(status_code=400, detail="Email already registered")
    return create_user(db=db, user=user)


@app.post("/users/hasty", response_model=UserOut)
def post_user_hastily(user: UserCreate, db: Session = Depends(get_db)):
    try:
        return create_user(db=db, user=user)
    except IntegrityError:
        db.rollback()
        raise HTTPException(status_code=400, detail="Email already registered") from None


@app.post("/users/ensure", response_model=UserOut)
def ensure_user(user: UserCreate, db: Session = Depends(get_db)):
    try:
        return create_user(db=db, user=user)
    except IntegrityError:
        db.rollback()
        return get_user_by_email(db, email=user.email)


@app.get("/users/", response_model=list[UserOut])
def read_users(skip: int = 0, limit: int = 100, db: Session = Depends(get_db)):
    return get_users(db, skip=skip, limit=limit)


def existing_user(user_id: int, db: Session = Depends(get_db)):
    db_user = get_user(db, user_id=user_id)
    if db_user is None:
        raise HTTPException(status_code=404, detail="User not found")
    return db_user


@app.get("/users/{user_id}", response_model=UserOut)
def read_user(db_user: Any = Depends(existing_user)):
    return db_user


@app.patch("/users/{user_id}", response_model=UserOut)
def deactivate(db_user: Any = Depends(existing_user), db: Session = Depends(get_db)):
    db_user.is_active = False
    db.commit()
    db.refresh(db_user)
    return db_user


@app.post("/users/{user_id}/items/", response_model=ItemOut)
def create_item_for_user(user_id: int, item: ItemCreate, db: Session = Depends(get_db)):
    return create_user_item(db=db, item=item, user_id=user_id)


@app.get("/items/", response_model=list[ItemOut])
def read_items(skip: int = 0, limit: int = 100, db: Session = Depends(get_db)):
    return get_items(db, skip=skip, limit=limit)


@app.delete("/items/{item_id}")
def delete_item(item_id: int, db: Session = Depends(get_db)):
    item = db.get(Item, item_id)
    if not item:
        raise HTTPException(status_code=404, detail="Item not found")
    db.delete(item)
    db.commit()
    return {"ok": True}


# the same with an AsyncSession


@app.post("/async/users/", response_model=UserOut)
async def async_post_user(user: UserCreate, db: AsyncSession = Depends(get_async_db)):
    result = await db.execute(select(User).where(User.email == user.email))
    if result.scalar_one_or_none():
        raise HTTPException(status_code=400, detail="Email already registered")
    db_user = User(email=user.email, hashed_password=user.password + "notreallyhashed")
    db.add(db_user)
    await db.commit()
    await db.refresh(db_user, ["items"])
    return db_user


@app.post("/async/users/ensure", response_model=UserOut)
async def async_ensure_user(user: UserCreate, db: AsyncSession = Depends(get_async_db)):
    try:
        db.add(User(email=user.email, hashed_password=user.password + "notreallyhashed"))
        await db.commit()
    except IntegrityError:
        await db.rollback()
    query = select(User).where(User.email == user.email).options(selectinload(User.items))
    return (await db.execute(query)).scalar_one()


@app.get("/async/users/", response_model=list[UserOut])
async def async_read_users(db: AsyncSession = Depends(get_async_db)):
    result = await db.execute(select(User).order_by(User.id).options(selectinload(User.items)))
    return result.scalars().all()


@app.post("/async/users/{user_id}/items/", response_model=ItemOut)
async def async_create_item(user_id: int, item: ItemCreate, db: AsyncSession = Depends(get_async_db)):
    db_item = Item(**item.model_dump(), owner_id=user_id)
    db.add(db_item)
    await db.commit()
    await db.refresh(db_item)
    return db_item
