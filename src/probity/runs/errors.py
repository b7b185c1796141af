"""What can go wrong with runs."""

from probity.kernel.errors import Conflict, Denied, FieldError, Invalid, NotFound, TooLarge
from probity.runs.models import RunState


class RunNotFound(NotFound):
    code = "run.not_found"

    def __init__(self) -> None:
        super().__init__("not found")


class RunNotInProgress(Conflict):
    code = "run.not_in_progress"

    def __init__(self, state: RunState) -> None:
        super().__init__("Run is not in progress", state=state.value)


class RunMismatch(Conflict):
    """The same idempotency key was used for something else before."""

    code = "run.key_reused"

    def __init__(self, key: str) -> None:
        super().__init__("this idempotency key belongs to another request; use a new key", key=key)


class ClientIdTaken(RunMismatch):
    """Somebody else took the `client_run_id` after we had looked."""


class NotThisAgentsRun(Denied):
    code = "run.other_agent"

    def __init__(self) -> None:
        super().__init__("an agent may only write to the run of a job that it holds or held")


class ArtifactNotFound(NotFound):
    code = "artifact.not_found"

    def __init__(self) -> None:
        super().__init__("not found")


class ReportTooLarge(TooLarge):
    code = "import.too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"a report may have at most {limit_bytes} bytes; split it into several requests", limit_bytes=limit_bytes)


class ReportEmpty(Invalid):
    code = "import.empty"

    def __init__(self) -> None:
        super().__init__("send JUnit XML as the body, or as one or more files of a multipart form")


class WrongField(Invalid):
    """One field of the input is wrong."""

    code = "invalid"

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}", fields=(FieldError(path, message),))
