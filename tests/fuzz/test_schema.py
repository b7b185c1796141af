"""Schema fuzzing: requests made from the OpenAPI document, right and wrong, find no 5xx that is not documented.

`make fuzz` makes hundreds per operation and prints the seed; `make test` makes a few.
"""

import asyncio
import os
import random
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from probity.kernel.db import Database
from probity.kernel.principal import AgentId, CredentialKind, OrgId, Principal, PrincipalKind
from tests.http_app import TestAuthenticator
from tests.people import make_member

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(3600)]
IS_LONG = bool(os.environ.get("PROBITY_FUZZ"))
EXAMPLES = int(os.environ.get("PROBITY_FUZZ_EXAMPLES", "300" if IS_LONG else "5"))
SEED = int(os.environ.get("PROBITY_FUZZ_SEED", "0")) or (random.randrange(2**32) if IS_LONG else 1)
# Streams stay open when they succeed.
STREAMS = {("GET", "/api/v1/runs/{run}/events")}


def operations(document: dict[str, Any]) -> Iterator[Any]:
    schema = schemathesis.openapi.from_dict(document)
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]  # a document of ours has no invalid operation
        if (operation.method.upper(), operation.path) not in STREAMS:
            yield operation


@pytest_asyncio.fixture
async def people(db: Database, callers: TestAuthenticator, admin: Principal, org: OrgId) -> list[dict[str, str]]:
    """Headers of nobody, of an administrator and of an agent."""
    await make_member(db, admin)
    agent = Principal(
        kind=PrincipalKind.AGENT,
        actor="agent:00000000-0000-7000-8000-000000000000",
        org_ids=(org,),
        active_org=org,
        credential=CredentialKind.AGENT_SECRET,
        agent_id=AgentId(org),
    )
    return [{}, callers.headers(admin), callers.headers(admin), callers.headers(agent)]


async def test_no_request_ends_in_an_undocumented_5xx(
    http: httpx.AsyncClient, people: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    document = (await http.get("/openapi.json")).json()
    found: list[str] = []
    statuses: Counter[int] = Counter()
    for operation in operations(document):
        await asyncio.to_thread(_fuzz, operation, http, people, found, statuses, asyncio.get_running_loop())
    with capsys.disabled():
        print(f"\nschema fuzzing: seed {SEED}, replies by status {dict(sorted(statuses.items()))}")  # to repeat a run
    assert statuses.keys() >= {200, 400, 401, 404}
    assert not found, f"seed {SEED}:\n" + "\n".join(found)


def _fuzz(
    operation: Any,
    http: httpx.AsyncClient,
    people: list[dict[str, str]],
    found: list[str],
    statuses: Counter[int],
    loop: asyncio.AbstractEventLoop,
) -> None:
    modes = [operation.as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)]

    # Each operation has a seed of its own, so that one can be repeated without the others.
    @seed(SEED ^ zlib.crc32(operation.label.encode()))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(*modes), caller=st.sampled_from(people))
    def run(case: Any, caller: dict[str, str]) -> None:
        reply = asyncio.run_coroutine_threadsafe(_send(http, case, caller), loop).result(timeout=60)
        if reply is not None:
            statuses[reply.status_code] += 1
        documented = operation.definition.raw.get("responses", {})
        if reply is not None and reply.status_code >= 500 and str(reply.status_code) not in documented:
            found.append(
                f"{operation.label}: {reply.status_code} {reply.text[:200]} for {case.path_parameters} {case.query} {case.body!r:.300}"
            )

    try:
        run()
    except schemathesis.errors.SchemathesisError as error:
        if "negative" not in str(error).lower() and "unsatisfiable" not in str(error).lower():
            raise


async def _send(http: httpx.AsyncClient, case: Any, caller: dict[str, str]) -> httpx.Response | None:
    arguments = case.as_transport_kwargs(base_url="http://probity.test")
    headers = {str(name): str(value) for name, value in (arguments.get("headers") or {}).items()} | caller
    try:
        return await http.request(
            arguments["method"],
            arguments["url"],
            params=arguments.get("params"),
            headers={name: value for name, value in headers.items() if value.isascii() and value.isprintable()},
            **({"json": arguments["json"]} if "json" in arguments else {"content": _bytes(arguments.get("data"))}),
            timeout=30,
        )
    except (httpx.InvalidURL, UnicodeEncodeError, ValueError):
        return None  # cannot be put on a wire at all


def _bytes(data: Any) -> bytes | None:
    if data is None or isinstance(data, bytes):
        return data
    return str(data).encode("utf-8", "surrogatepass")
