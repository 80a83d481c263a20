"""Where FastAPI is known: dependencies, the route class, installation, problems, health."""
