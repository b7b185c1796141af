"""Templates to HTML. One environment; a name that a template misses is an error, never an empty space."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from probity.kernel.clock import Clock, rfc3339_millis
from probity.runs.browse.models import COUNT_LIMIT
from probity.web import formats, text
from probity.web.assets import Assets
from probity.web.shell import Shell

# The words of the states, each shown beside its own icon. What is missing here is shown as it is.
STATE_WORDS: Final = {
    "queued": "Queued",
    "running": "Running",
    "passed": "Passed",
    "failed": "Failed",
    "error": "Error",
    "aborted": "Aborted",
    "skipped": "Skipped",
    "xfailed": "Expected failure",
    "xpassed": "Unexpected pass",
    "flaky": "Flaky",
    "online": "Online",
    "stale": "Silent",
    "offline": "Offline",
    "revoked": "Revoked",
    "active": "Active",
    "expired": "Expired",
}


class Renderer:
    def __init__(self, assets: Assets, clock: Clock) -> None:
        self._clock = clock
        self._environment = Environment(
            loader=PackageLoader("probity.web", "."),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals.update(asset=assets.href, STATE_WORDS=STATE_WORDS, COUNT_LIMIT=COUNT_LIMIT)
        self._environment.filters.update(
            absolute=formats.absolute,
            ago=self._ago,
            duration=formats.duration,
            elapsed=self._elapsed,
            first_line=text.first_line,
            iso=rfc3339_millis,
            number=formats.number,
            plain=text.plain,
            plural=formats.plural,
            second=_second,
            size=formats.size,
            traceback=text.traceback,
        )

    def html(self, template: str, shell: Shell | None, context: Mapping[str, Any]) -> str:
        """Return the page; `shell` is None for fragments."""
        return self._environment.get_template(template).render(shell=shell, **context)

    def _ago(self, moment: datetime | None) -> str:
        return formats.ago(moment, self._clock.now())

    def _elapsed(self, start: datetime | None, end: datetime | None) -> str:
        return formats.duration(formats.elapsed(start, end, self._clock.now()))


def _second(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
