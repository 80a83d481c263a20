"""Units of work, admission and life cycle. Knows SQLAlchemy and nothing of FastAPI."""
