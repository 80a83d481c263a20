"""The one `Database` of the application; it lives as long as the process and connects at its first use."""

from fastapi_database import Database

from .models import Base
from .settings import get_settings

settings = get_settings()

db = Database(
    settings.database_url.get_secret_value(),
    models=Base,
    max_connections=settings.database_max_connections,
    queue_timeout=settings.database_queue_timeout,
    echo=settings.database_echo,
)
