"""Work that goes on while things are killed, and a ledger of what the server acknowledged.

Clients behave like real ones: a request that got no answer is sent again, unchanged, until it is answered.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

RETRY_S = 0.05
REFUSED = (400, 401, 403, 404, 413, 422)


@dataclass
class Ledger:
    """What was answered with success; all of it must be there at the end, once."""

    events: dict[str, list[str]] = field(default_factory=dict)
    jobs: set[str] = field(default_factory=set)
    completed: dict[str, str] = field(default_factory=dict)
    runs: set[str] = field(default_factory=set)
    requests: int = 0
    failures: int = 0
    surprises: list[str] = field(default_factory=list)


class Workload:
    """Reporters that ingest and agents that claim and complete, until `stop` is set."""

    def __init__(self, base_url: str, api_key: str, *, seed: int) -> None:
        self._base_url = base_url
        self._key = {"Authorization": f"Bearer {api_key}"}
        self._random = random.Random(seed)
        self.ledger = Ledger()
        self.stop = asyncio.Event()
        self._agents: list[dict[str, str]] = []

    async def run(self, *, reporters: int, claimers: int) -> None:
        limits = httpx.Limits(max_connections=reporters + claimers + 4)
        async with httpx.AsyncClient(base_url=self._base_url, timeout=10, limits=limits) as client:
            for number in range(claimers):
                made = await self._until_answered(client.post, "/api/v1/agents", headers=self._key, json={"name": f"claimer-{number}"})
                self._agents.append({"id": made["id"], "secret": made["agent_secret"]})
            async with asyncio.TaskGroup() as group:
                for number in range(reporters):
                    group.create_task(self._report(client, number))
                for agent in self._agents:
                    group.create_task(self._claim(client, agent))
                group.create_task(self._enqueue(client))

    async def dispatch(self, commands: list[list[str]], pause_s: float) -> None:
        """Send commands to the agent, one run each, until they are used up or `stop` is set."""
        async with httpx.AsyncClient(base_url=self._base_url, timeout=10) as client:
            for command in commands:
                if self.stop.is_set():
                    return
                body = {"command": command, "client_run_id": f"dispatch-{self._random.random()}", "timeout_s": 60}
                made = await self._until_answered(client.post, "/api/v1/runs", headers=self._key, json=body)
                self.ledger.runs.add(made["uuid"])
                await asyncio.sleep(self._random.random() * pause_s)

    async def drain(self, seconds: float) -> None:
        """Claim and complete what is left in the queue, until nothing is for `seconds`."""
        async with httpx.AsyncClient(base_url=self._base_url, timeout=10) as client:
            idle_since = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() - idle_since < seconds:
                worked = [await self._claim_once(client, agent) for agent in self._agents]
                if any(worked):
                    idle_since = asyncio.get_running_loop().time()
                else:
                    await asyncio.sleep(0.2)

    async def _report(self, client: httpx.AsyncClient, number: int) -> None:
        """One external run after another, each reported in batches, each finished."""
        round_ = 0
        while not self.stop.is_set():
            round_ += 1
            made = await self._until_answered(
                client.post,
                "/api/v1/runs",
                headers=self._key,
                json={"name": f"reporter {number}", "kind": "external", "client_run_id": f"{number}-{round_}-{self._random.random()}"},
            )
            run = made["uuid"]
            self.ledger.runs.add(run)
            for batch in range(self._random.randint(1, 6)):
                events = [self._event(number, round_, batch, index) for index in range(self._random.randint(1, 40))]
                await self._until_answered(client.post, f"/api/v1/runs/{run}/events", headers=self._key, json={"events": events})
                self.ledger.events.setdefault(run, []).extend(event["id"] for event in events)
                if self.stop.is_set():
                    return

    def _event(self, number: int, round_: int, batch: int, index: int) -> dict[str, Any]:
        name = f"{number}-{round_}-{batch}-{index}"
        event: dict[str, Any] = {"id": name, "at": "2026-01-01T00:00:00Z"}
        if index % 3 == 0:
            return event | {"type": "log", "stream": "stdout", "text": f"line {name}\n"}
        return event | {"type": "result", "case": f"suite::{name}", "name": name, "outcome": "passed", "duration_ms": 1.5, "attempt": 1}

    async def _enqueue(self, client: httpx.AsyncClient) -> None:
        while not self.stop.is_set():
            # Not repeated when unanswered: a job that was queued without our hearing of it is completed like any other.
            made = await self._attempt(client.post, "/api/v1/jobs", headers=self._key, json={"job_type": "sync", "payload": {}})
            if made is not None and made.status_code == 201:
                self.ledger.jobs.add(made.json()["id"])
            await asyncio.sleep(self._random.random() * 0.02)

    async def _claim(self, client: httpx.AsyncClient, agent: dict[str, str]) -> None:
        while not self.stop.is_set():
            if not await self._claim_once(client, agent):
                await asyncio.sleep(0.02)

    async def _claim_once(self, client: httpx.AsyncClient, agent: dict[str, str]) -> bool:
        headers = {"X-Agent-Secret": agent["secret"]}
        claimed = await self._attempt(client.post, f"/api/v1/agents/{agent['id']}/jobs/claim", headers=headers)
        if claimed is None or claimed.status_code != 200:
            return False
        job = claimed.json()["id"]
        while True:
            path = f"/api/v1/agents/{agent['id']}/jobs/{job}/complete"
            done = await self._attempt(client.post, path, headers=headers, json={"status": "succeeded"})
            if done is not None and done.status_code == 204:
                if job in self.ledger.completed and self.ledger.completed[job] != agent["id"]:
                    self.ledger.surprises.append(f"job {job} was completed by two agents")
                self.ledger.completed[job] = agent["id"]
                return True
            if done is not None and done.status_code == 409:
                return True  # the lease ran out while the server was away, and somebody else has it
            await asyncio.sleep(RETRY_S)

    async def _until_answered(self, send: Callable[..., Awaitable[httpx.Response]], path: str, **request: Any) -> Any:
        while True:
            response = await self._attempt(send, path, **request)
            if response is not None and response.status_code in (200, 201):
                return response.json()
            if response is not None and response.status_code in REFUSED:
                raise AssertionError(f"{path} was refused: {response.status_code} {response.text[:500]}")
            await asyncio.sleep(RETRY_S)

    async def _attempt(self, send: Callable[..., Awaitable[httpx.Response]], path: str, **request: Any) -> httpx.Response | None:
        """Send once; None when the server did not answer. An answer that no contract documents is a surprise."""
        self.ledger.requests += 1
        try:
            response = await send(path, **request)
        except httpx.HTTPError:
            self.ledger.failures += 1
            return None
        if response.status_code == 500 or response.status_code in REFUSED:
            self.ledger.surprises.append(f"{path}: {response.status_code} {response.text[:200]}")
        if response.status_code >= 500:
            self.ledger.failures += 1
        return response
