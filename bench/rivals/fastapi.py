"""A plain FastAPI handler that does one durable update: what a heartbeat costs when nothing else is done for it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI, Response


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["RIVAL_URL"], min_size=4, max_size=20) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/api/v1/agents/{agent_id}/heartbeat", status_code=204)
async def heartbeat(agent_id: str) -> Response:
    """Note a sign of life; whoever calls is believed."""
    await app.state.pool.execute("update agents set last_seen_at = now(), status = 'active' where id = $1", agent_id)
    return Response(status_code=204)
