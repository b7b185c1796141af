"""The services behind the pages, on the test database."""

from tests.runs.conftest import dispatch, fleet, ingest, runs, wakeups

__all__ = ["dispatch", "fleet", "ingest", "runs", "wakeups"]
