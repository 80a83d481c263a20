"""What can be set from outside: by environment variables of the same names, or by a file `.env`."""

from functools import lru_cache

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The settings of the café; `DATABASE_URL=postgresql://...` moves it to another database."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    # A URL may carry a password: SecretStr keeps it out of logs and tracebacks that print the settings.
    database_url: SecretStr = SecretStr("sqlite:///cafe.db")
    database_max_connections: int = Field(default=10, ge=1)
    database_queue_timeout: float = Field(default=5.0, gt=0)  # seconds in the queue for a connection, then 503
    database_echo: bool = False  # show the SQL

    registration_open: bool = True


@lru_cache
def get_settings() -> Settings:
    """Read the settings once; every later call, and every request, gets the same object."""
    return Settings()
