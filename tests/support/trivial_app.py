"""The smallest application that shows the harness works: no database in it."""

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


@app.get("/")
async def root() -> dict[str, str]:
    return {"greeting": os.environ.get("GREETING", "hello")}


@app.post("/echo", status_code=201)
async def echo(body: dict[str, object]) -> dict[str, object]:
    return body


@app.get("/endless")
async def endless() -> StreamingResponse:
    async def ticks() -> AsyncIterator[str]:
        try:
            while True:
                yield "tick\n"
                await asyncio.sleep(0.01)
        finally:
            print("the stream ended", flush=True)

    return StreamingResponse(ticks())
