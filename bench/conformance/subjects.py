"""Who is asked: one application each, in the environment of its library."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One application of bench/conformance/apps.

    `environment` is the peer of bench/requirements whose virtual environment serves it; None stands for the project's
    own. `not_on` names a database and the reason why the subject is not asked on it.
    """

    name: str
    label: str
    sessions: Literal["sync", "async"]
    library: str | None = None
    environment: str | None = None
    not_on: dict[str, str] = field(default_factory=dict)


SUBJECTS = (
    Subject(name="ours_sync", label="ours, sync", sessions="sync", library="fastapi-database"),
    Subject(name="ours_async", label="ours, async", sessions="async", library="fastapi-database"),
    Subject(name="tutorial", label="tutorial's pattern", sessions="sync"),
    Subject(name="commit_in_dependency", label="commit in the dependency", sessions="sync"),
    Subject(
        name="sqlmodel_tutorial",
        label="SQLModel tutorial",
        sessions="sync",
        library="sqlmodel",
        environment="sqlmodel",
    ),
    Subject(name="handwritten_async", label="hand-written AsyncSession", sessions="async"),
    Subject(
        name="advanced_alchemy",
        label="advanced-alchemy",
        sessions="async",
        library="advanced-alchemy",
        environment="advanced_alchemy",
    ),
    Subject(
        name="fastapi_async_sqlalchemy",
        label="fastapi-async-sqlalchemy",
        sessions="async",
        library="fastapi-async-sqlalchemy",
        environment="fastapi_async_sqlalchemy",
    ),
    Subject(
        name="context_async_sqlalchemy",
        label="context-async-sqlalchemy",
        sessions="async",
        library="context-async-sqlalchemy",
        environment="context_async_sqlalchemy",
    ),
    Subject(
        name="fastapi_toolsets",
        label="fastapi-toolsets",
        sessions="async",
        library="fastapi-toolsets",
        environment="fastapi_toolsets",
        not_on={"sqlite": "its documentation says that the module is for PostgreSQL only"},
    ),
)
BROKEN = Subject(name="broken", label="broken on purpose", sessions="sync")
"""In no table: `--only broken` shows that a check can fail."""

NAMES = [subject.name for subject in (*SUBJECTS, BROKEN)]
