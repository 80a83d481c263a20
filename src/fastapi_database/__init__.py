"""The database layer FastAPI does not have: one ``Database``, one session per request, honest answers."""

from fastapi_database import errors
from fastapi_database.core.database import Stats
from fastapi_database.core.transaction import transaction
from fastapi_database.web.database import Database
from fastapi_database.web.route import APIRouter, DatabaseRoute

__all__ = ["APIRouter", "Database", "DatabaseRoute", "Stats", "errors", "transaction"]
