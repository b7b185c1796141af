"""Following a run on the command line: output as it comes, then a line that says how it ended."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

import click

from probity.cli.progress import Progress
from probity.client.http import Client
from probity.client.models import Run

EXIT_OF_STATE = {"passed": 0}
HINT_S = 4.0


class Show(StrEnum):
    """What a follower sees while the run goes on."""

    OUTPUT = "output"
    RESULTS = "results"
    NOTHING = "nothing"


def follow(client: Client, ref: str, show: Show) -> Run:
    """Show a run from its beginning until it ends, and return it as it ended."""
    progress = Progress() if show is Show.RESULTS else None
    with _hint_if_it_waits(ref) as begun:
        for message in client.watch(ref, from_start=show is not Show.NOTHING):
            if message.type in ("log", "result", "done") or message.state == "running":
                begun()
            if show is Show.OUTPUT and message.type == "log" and message.text is not None:
                target = sys.stdout if message.stream == "stdout" else sys.stderr
                target.write(message.text)
                target.flush()
            elif progress is not None and message.type == "result" and message.result is not None:
                progress.result(message.result.outcome, message.result.name, message.result.duration_ms)
    return client.get_run(ref)


@contextmanager
def _hint_if_it_waits(ref: str) -> Iterator[Callable[[], None]]:
    """Say after a while that no agent has taken the run; the function that is yielded says that one has."""
    timer = threading.Timer(HINT_S, click.echo, (f"{ref} waits for an agent that can run it (`probity agents list`)",), {"err": True})
    timer.daemon = True
    timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()


def summary(run: Run) -> str:
    """Return one line: `RUN-4 failed: 12 passed, 1 failed in 3.4 s`."""
    totals = run.totals
    counted = [
        ("passed", totals.passed),
        ("failed", totals.failed),
        ("errors", totals.errors),
        ("skipped", totals.skipped),
        ("flaky", totals.flaky),
    ]
    counts = ", ".join(f"{count} {name}" for name, count in counted if count) or "no results"
    took = f" in {run.duration_ms / 1000:.1f} s" if run.duration_ms is not None else ""
    reason = f" ({run.reason_code.replace('_', ' ')})" if run.reason_code else ""
    return f"{run.id} {run.state}{reason}: {counts}{took}"


def failures(client: Client, run: Run) -> list[str]:
    """Return a line per case whose last attempt failed."""
    if not (run.totals.failed or run.totals.errors):
        return []
    last = {result.case: result for result in client.results(run.uuid)}
    bad = [result for result in last.values() if result.outcome in ("failed", "error")]
    return [f"  {result.outcome}: {result.case}" + (f" - {_first_line(result.message)}" if result.message else "") for result in bad]


def report(client: Client, run: Run) -> None:
    """Say on standard error how a run ended."""
    for line in failures(client, run):
        click.echo(line, err=True)
    click.echo(summary(run), err=True)


def exit_code(run: Run) -> int:
    return EXIT_OF_STATE.get(run.state, 1)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else ""
