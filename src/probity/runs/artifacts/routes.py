"""Artifacts over HTTP."""

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from probity.kernel.errors import Invalid
from probity.kernel.ids import parse_id
from probity.kernel.principal import Principal
from probity.runs.artifacts import rules
from probity.runs.artifacts.service import MAX_BYTES, ArtifactService
from probity.runs.errors import ArtifactNotFound
from probity.runs.models import Artifact, ArtifactId
from probity.runs.service import parse_ref


class ArtifactOut(msgspec.Struct, frozen=True):
    id: UUID
    name: str
    content_type: str
    size_bytes: int
    sha256: str
    created_by: str
    created_at: str
    url: str

    @classmethod
    def of(cls, artifact: Artifact) -> "ArtifactOut":
        return cls(
            id=artifact.id,
            name=artifact.name,
            content_type=artifact.content_type,
            size_bytes=artifact.size_bytes,
            sha256=artifact.sha256,
            created_by=artifact.created_by,
            created_at=artifact.created_at.isoformat().replace("+00:00", "Z"),
            url=f"/api/v1/runs/{artifact.run_id}/artifacts/{artifact.id}",
        )


class ArtifactList(msgspec.Struct, frozen=True):
    data: list[ArtifactOut]
    next_cursor: str | None


@post(
    "/{run:str}/artifacts",
    permission="runs:write",
    or_agent=True,
    streamed=True,
    body_limit=MAX_BYTES,
    summary="Add a file to a run: the raw body, its name in the query",
)
async def upload_artifact(
    run: FromPath[str],
    name: Annotated[str, QueryParameter(min_length=1, max_length=rules.MAX_NAME_CHARS)],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    artifacts: NamedDependency[ArtifactService],
) -> ArtifactOut:
    content_type = request.headers.get("content-type")
    kept = await artifacts.upload(principal, parse_ref(run), name=name, content_type=content_type, chunks=request.stream())
    return ArtifactOut.of(kept)


@get("/{run:str}/artifacts", permission="runs:read", summary="The files of a run")
async def list_artifacts(
    run: FromPath[str], principal: NamedDependency[Principal], artifacts: NamedDependency[ArtifactService]
) -> ArtifactList:
    found = await artifacts.list_artifacts(principal, parse_ref(run))
    return ArtifactList([ArtifactOut.of(artifact) for artifact in found], None)


@get("/{run:str}/artifacts/{artifact:str}", permission="runs:read", summary="Download a file of a run; one byte range may be asked for")
async def download_artifact(
    run: FromPath[str],
    artifact: FromPath[str],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    artifacts: NamedDependency[ArtifactService],
) -> Response[Any]:
    found = await artifacts.get(principal, parse_ref(run), _artifact_id(artifact))
    headers = _headers(found)
    try:
        wanted = rules.byte_range(request.headers.get("range"), found.size_bytes)
    except ValueError as error:
        return Response(b"", status_code=416, headers={"Content-Range": str(error)}, media_type="text/plain")
    first, last = wanted or (0, found.size_bytes - 1)
    length = last - first + 1
    headers["Content-Length"] = str(length)
    if wanted:
        headers["Content-Range"] = f"bytes {first}-{last}/{found.size_bytes}"
    body = await artifacts.read(found, start=first, length=length)
    return Stream(body, status_code=206 if wanted else 200, headers=headers, media_type=found.content_type)


HANDLERS: Final = (upload_artifact, list_artifacts, download_artifact)


def _headers(artifact: Artifact) -> dict[str, str]:
    return {
        "Content-Security-Policy": rules.POLICY,
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": rules.disposition(artifact.name, artifact.content_type),
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "private, max-age=3600, immutable",
        "ETag": f'"{artifact.sha256}"',
        "Accept-Ranges": "bytes",
    }


def _artifact_id(text: str) -> ArtifactId:
    try:
        return parse_id(ArtifactId, text)
    except Invalid as error:
        raise ArtifactNotFound from error
