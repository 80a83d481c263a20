"""Models as people wrote them before SQLAlchemy 1.4, and three rows of them."""

from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import Column, ForeignKey, Integer, String
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import declarative_base, relationship

from apps.c_cases import Kind, opened, work
from fastapi_database import Database

Base: Any = declarative_base()


class Account(Base):
    """Written as before SQLAlchemy 1.4: no annotations, `Column`, `relationship` by name."""

    __tablename__ = "accounts"
    id = Column(Integer, primary_key=True)
    owner = Column(String(50), nullable=False)
    cents = Column(Integer, nullable=False, default=0)
    entries = relationship("Entry", back_populates="account", cascade="all, delete-orphan")

    @hybrid_property
    def euros(self) -> float:
        return self.cents / 100

    @euros.inplace.expression
    @classmethod
    def _euros(cls) -> Any:
        return cls.cents / 100.0


class Entry(AsyncAttrs, Base):
    __tablename__ = "entries"
    id = Column(Integer, primary_key=True)
    account_id = Column(Integer, ForeignKey("accounts.id"), nullable=False)
    account = relationship("Account", back_populates="entries")


class AccountOut(BaseModel):
    owner: str
    euros: float


def accounts(request: pytest.FixtureRequest) -> tuple[Kind, Database]:
    """Store three accounts in an empty database, for a fixture with `params=EVERY_DRIVER, ids="-".join`."""
    kind, db = opened(request, Base)
    work(db, kind, lambda session: session.add_all(Account(owner=f"o{n}", cents=n * 100) for n in (1, 2, 3)))
    return kind, db
