"""Decisions of dispatch: pure."""

from typing import Final

from msgspec.structs import replace

from probity.dispatch.errors import InvalidJob
from probity.dispatch.models import CONTRACT_KINDS, OWN_KINDS, NewJob

_MAX_TIMEOUT_S: Final = 7 * 24 * 3600
_MAX_TAGS: Final = 50


def checked(new: NewJob) -> NewJob:
    """Return the job as it is queued.

    A contract job is claimed again until the sweeper expires it, however often, as its contract has it; a kind of Probity's own needs
    the capability of its name.

    Raises:
        InvalidJob: the kind is unknown or a bound is not kept.
    """
    if new.kind not in CONTRACT_KINDS | OWN_KINDS:
        raise InvalidJob(f"jobs: create: unknown job type {new.kind[:100]!r}", kind=new.kind[:100])
    if not 1 <= new.timeout_s <= _MAX_TIMEOUT_S:
        raise InvalidJob(f"timeout_s must be from 1 to {_MAX_TIMEOUT_S} seconds")
    if len(new.tags) > _MAX_TAGS:
        raise InvalidJob(f"a job may ask for at most {_MAX_TAGS} tags")
    if new.kind in OWN_KINDS:
        return replace(new, capability=new.capability or new.kind)
    return replace(new, max_attempts=1000)
