"""All peers must answer the same, byte for byte: otherwise the comparison means nothing."""

import re
from collections.abc import Sequence

from bench.server import Server
from bench.subjects import ENDPOINTS, MISSING, POST, Endpoint

Answer = tuple[int, str, bytes]


def check_same_answers(servers: Sequence[Server]) -> None:
    """Stop the run with both answers if two peers differ in status, content type or body."""
    first, *others = servers
    for endpoint in (*ENDPOINTS, MISSING):
        for request in endpoint.requests:
            expected = _comparable(endpoint, first.ask(request))
            for other in others:
                answer = _comparable(endpoint, other.ask(request))
                if answer != expected:
                    raise SystemExit(
                        f"{endpoint.title}: different answers are not compared\n"
                        f"{first.peer.name}: {expected}\n{other.peer.name}: {answer}\n{other.log_tail()}"
                    )


def _comparable(endpoint: Endpoint, answer: Answer) -> Answer:
    """Leave out the id that the database chose for a new row."""
    status, content_type, body = answer
    return status, content_type, re.sub(rb'"id":\d+', b'"id":0', body) if endpoint is POST else body
