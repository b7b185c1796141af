"""Importing reports over HTTP."""

from typing import Annotated, Any, Final

from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from probity.kernel.principal import Principal
from probity.runs.errors import WrongField
from probity.runs.imports.bodies import MAX_BYTES, Reports
from probity.runs.imports.service import ImportService
from probity.runs.schemas import NewRunIn, RunOut

_MAX_KEY_CHARS: Final = 180

Text = Annotated[str | None, QueryParameter(min_length=1, max_length=200)]


@post(
    "/import",
    permission="runs:write",
    streamed=True,
    # A form adds a little around its files.
    body_limit=MAX_BYTES + 1024 * 1024,
    summary="Import JUnit XML as one finished run: the raw body, or the files of a multipart form",
)
async def import_run(
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    imports: NamedDependency[ImportService],
    project: Text = None,
    name: Text = None,
    trigger: Annotated[str | None, QueryParameter(pattern="^[a-z][a-z0-9_-]{0,49}$")] = None,
) -> Response[RunOut]:
    new = NewRunIn(project=project, name=name, trigger=trigger, client_run_id=_client_run_id(request.headers.get("idempotency-key")))
    with Reports() as reports:
        await reports.read(request.stream(), request.headers.get("content-type"))
        run, is_new = await imports.import_junit(principal, new, reports)
    return Response(RunOut.of(run), status_code=201 if is_new else 200)


HANDLERS: Final = (import_run,)


def _client_run_id(key: str | None) -> str | None:
    if key is None:
        return None
    if not 1 <= len(key) <= _MAX_KEY_CHARS or not key.isprintable():
        raise WrongField("Idempotency-Key", f"must have 1 to {_MAX_KEY_CHARS} printable characters")
    return f"import:{key}"
