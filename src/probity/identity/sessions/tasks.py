"""Background work of sessions."""

from collections.abc import Mapping
from typing import ClassVar, Final

from probity.identity.sessions.service import SignInService
from probity.kernel.tasks import Handler, Periodic, Task, TaskContext


class SweepSessions(Task, frozen=True):
    """Delete sessions that ended a week ago."""

    kind: ClassVar[str] = "identity.sweep_sessions"


PERIODIC: Final = (Periodic("identity.sweep_sessions", 3600.0, SweepSessions()),)


def handlers(sign_in: SignInService) -> Mapping[type[Task], Handler]:
    async def sweep(_: SweepSessions, context: TaskContext) -> None:
        await sign_in.sweep()

    return {SweepSessions: sweep}
