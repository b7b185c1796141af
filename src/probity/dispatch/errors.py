"""What can go wrong in dispatch. Texts are the contract's where it has one (secrets.md 6.4, 6.14)."""

from probity.kernel.errors import Conflict, Invalid, NotFound, TooMany


class JobNotFound(NotFound):
    code = "dispatch.job_not_found"

    def __init__(self) -> None:
        super().__init__("job not found")


class JobNotOwned(Conflict):
    code = "dispatch.job_not_owned"

    def __init__(self) -> None:
        super().__init__("job not owned by this agent")


class InvalidJob(Invalid):
    code = "dispatch.invalid_job"


class QueueFull(TooMany):
    code = "dispatch.queue_full"

    def __init__(self, whose: str, cap: int) -> None:
        super().__init__(f"the {whose} has {cap} queued jobs; wait until some are done", retry_after_s=30, cap=cap)
