"""C7: SQLModel's tables and response models work."""

from typing import Annotated, Any

import pytest
import sqlmodel
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from apps.c_cases import EVERY_DRIVER, ROUTERS, endpoint, router, url_for, work
from fastapi_database import Database


class Hero(sqlmodel.SQLModel, table=True):
    id: int | None = sqlmodel.Field(default=None, primary_key=True)
    name: str = sqlmodel.Field(index=True)
    team_id: int | None = sqlmodel.Field(default=None, foreign_key="team.id")
    team: "Team" = sqlmodel.Relationship(back_populates="heroes")


class Team(sqlmodel.SQLModel, table=True):
    id: int | None = sqlmodel.Field(default=None, primary_key=True)
    name: str
    heroes: list[Hero] = sqlmodel.Relationship(back_populates="team")


class HeroOut(sqlmodel.SQLModel):
    name: str


class TeamOut(sqlmodel.SQLModel):
    id: int
    name: str
    heroes: list[HeroOut]


@pytest.mark.parametrize("name", ROUTERS)
def test_c7_sqlmodel_tables_and_answers(request: pytest.FixtureRequest, name: str) -> None:
    for number, (kind, driver) in enumerate(EVERY_DRIVER):
        db = Database(url_for(request, driver), models=sqlmodel.SQLModel)
        db.create_all()
        app, routes = FastAPI(), router(name)
        db.install(app)

        def create(team: Team, session: Annotated[Session, Depends(db.session)]) -> Team:
            session.add(team)
            session.flush()
            return team

        async def create_async(team: Team, session: Annotated[AsyncSession, Depends(db.async_session)]) -> Team:
            session.add(team)
            await session.flush()
            return team

        def teams(session: Session) -> Any:
            found = session.scalars(sqlmodel.select(Team).order_by(sqlmodel.col(Team.id))).all()
            return [team for team in found if team.heroes is not None]

        made: Any = create if kind == "sync" else create_async
        routes.add_api_route("/", made, methods=["POST"], response_model=Team)
        routes.add_api_route("/", endpoint(db, kind, teams), response_model=list[TeamOut])
        app.include_router(routes)
        with TestClient(app) as client:
            answer = client.post("/", json={"name": f"team {number}"})
            assert (answer.status_code, answer.json()["name"]) == (200, f"team {number}")
            identity = answer.json()["id"]
            work(db, kind, lambda session, identity=identity: session.add(Hero(name="h", team_id=identity)))
            found = [team for team in client.get("/").json() if team["id"] == identity]
            assert found == [{"id": identity, "name": f"team {number}", "heroes": [{"name": "h"}]}]
        db.close()
