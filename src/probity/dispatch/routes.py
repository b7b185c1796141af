"""HTTP of dispatch: the job routes of the secrets contract, and renewal, waiting and cancelling of our own."""

from typing import Any

from litestar import Request, Response, Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from probity.dispatch.models import JobId
from probity.dispatch.schemas import ClaimedOut, CompleteIn, JobOut, NewJobIn, QueuedOut, RenewalOut
from probity.dispatch.service import MAX_WAIT_S, DispatchService
from probity.fleet.service import presented
from probity.kernel.errors import Invalid
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.exchange import client_ip
from probity.kernel.http.groups import route_group
from probity.kernel.ids import parse_id
from probity.kernel.principal import Principal


@post("/jobs", permission="jobs:create", status_code=201)
async def create_job(
    data: JSONBody[NewJobIn], principal: NamedDependency[Principal], dispatch: NamedDependency[DispatchService]
) -> QueuedOut:
    """Queue a job for an agent."""
    return QueuedOut.of(await dispatch.enqueue_job(principal, data.model()))


@get("/jobs/{job_id:str}", permission="jobs:create")
async def get_job(job_id: FromPath[str], principal: NamedDependency[Principal], dispatch: NamedDependency[DispatchService]) -> JobOut:
    """Show where a job stands."""
    return JobOut.of(await dispatch.get_job(principal, parse_id(JobId, job_id)))


@post("/jobs/{job_id:str}/cancel", permission="jobs:create", status_code=200)
async def cancel_job(job_id: FromPath[str], principal: NamedDependency[Principal], dispatch: NamedDependency[DispatchService]) -> JobOut:
    """Cancel a job: at once while it waits, at its agent's next renewal while it runs. Safe to repeat."""
    return JobOut.of(await dispatch.cancel(principal, parse_id(JobId, job_id)))


@post("/agents/{agent_id:str}/jobs/claim", agent=True, status_code=200)
async def claim_job(
    agent_id: FromPath[str],
    request: Request[Any, Any, Any],
    dispatch: NamedDependency[DispatchService],
    wait: FromQuery[float] = 0.0,
) -> Response[ClaimedOut | None]:
    """Lease the best waiting job for 30 s; 204 when there is none, at once or after `wait` seconds (at most 60)."""
    credential = presented(agent_id, request.headers.get)
    job = await dispatch.claim(credential, address=client_ip(request), wait_s=wait_seconds(wait))
    return Response(None, status_code=204) if job is None else Response(ClaimedOut.of(job), status_code=200)


@post("/agents/{agent_id:str}/jobs/{job_id:str}/renew", agent=True, status_code=200)
async def renew_job(
    agent_id: FromPath[str], job_id: FromPath[str], request: Request[Any, Any, Any], dispatch: NamedDependency[DispatchService]
) -> RenewalOut:
    """Extend the lease of a held job by 30 s from now; `cancel` asks the agent to stop it."""
    credential = presented(agent_id, request.headers.get)
    return RenewalOut.of(await dispatch.renew(credential, job_id_of(job_id), address=client_ip(request)))


@post("/agents/{agent_id:str}/jobs/{job_id:str}/complete", agent=True, status_code=204)
async def complete_job(
    agent_id: FromPath[str],
    job_id: FromPath[str],
    data: JSONBody[CompleteIn],
    request: Request[Any, Any, Any],
    dispatch: NamedDependency[DispatchService],
) -> None:
    """End a held job. Repeating it is answered as the first time and changes nothing."""
    credential = presented(agent_id, request.headers.get)
    await dispatch.complete(credential, job_id_of(job_id), data.model(), address=client_ip(request))


def routes() -> list[Router]:
    return [
        route_group(Dialect.BRIDGE, "/api/v1", [create_job, claim_job, renew_job, complete_job], tags=["Jobs"]),
        route_group(Dialect.OWN, "/api/v1", [get_job, cancel_job], tags=["Jobs"]),
    ]


def job_id_of(text: str) -> JobId:
    try:
        return parse_id(JobId, text)
    except Invalid as error:
        raise Invalid("invalid job id") from error


def wait_seconds(wait: float) -> float:
    """Return how long a claim may wait; more than the longest wait means the longest.

    Raises:
        Invalid: it is negative or no number.
    """
    if not wait >= 0:
        raise Invalid(f"wait must be from 0 to {MAX_WAIT_S:.0f} seconds")
    return min(wait, MAX_WAIT_S)
