"""Bearer tokens: the person keeps the token, the database keeps only its hash."""

import hashlib
import secrets

from fastapi import Response

from .models import User

TOKEN_HEADER = "Bearer-Token"  # noqa: S105  the name of a header, no secret


def give_token(user: User, response: Response) -> None:
    """Give the user a new token, shown once in a header of this response; an older one stops working."""
    token = secrets.token_urlsafe(32)
    user.token_hash = hash_token(token)
    response.headers[TOKEN_HEADER] = token
    response.headers["Cache-Control"] = "no-store"


def hash_token(token: str) -> str:
    """Hash a token for storage and look-up.

    One round of SHA-256 is right here, and a slow salted password hash would only cost time: those protect
    short secrets that people choose, while nobody guesses 256 random bits, however fast the hash.
    """
    return hashlib.sha256(token.encode()).hexdigest()
