"""The words for what went wrong: what happened, and what to do. Never what a bug said."""

from datetime import UTC, datetime

import pytest

from probity.kernel.errors import Conflict, Denied, Invalid, NotFound, ProbityError, TooMany, Unauthenticated, Unavailable
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.render import Case
from probity.web.pages import problem_of


def problem(error: ProbityError | None, path: str = "/runs/RUN-1") -> tuple[int, str, str, str]:
    case = Case(error=error, dialect=Dialect.PAGES, request_id="r1", method="GET", path=path, now=datetime(2026, 1, 1, tzinfo=UTC))
    said = problem_of(case)
    assert said.request_id == "r1"
    return said.status, said.title, said.text, said.href


@pytest.mark.parametrize(
    ("error", "status", "title", "href"),
    [
        (Unauthenticated("authentication required"), 401, "You are signed out", "/sign-in"),
        (Denied("no"), 403, "You may not do this", "/runs"),
        (NotFound("no"), 404, "Nothing is here", "/runs"),
        (Conflict("it ended"), 409, "That did not work", "/runs"),
        (Invalid("bad"), 400, "That did not work", "/runs"),
        (TooMany("slow down", retry_after_s=3), 429, "Too many requests", "/runs/RUN-1"),
        (Unavailable("the database is away"), 503, "Not available right now", "/runs/RUN-1"),
        (None, 500, "Something broke here", "/runs"),
    ],
)
def test_every_kind_of_failure_has_its_words_and_a_way_on(error: ProbityError | None, status: int, title: str, href: str) -> None:
    said = problem(error)

    assert (said[0], said[1], said[3]) == (status, title, href)
    assert said[2].endswith((".", "?"))


def test_the_reason_is_a_sentence() -> None:
    assert problem(Conflict("the run has ended"))[2] == "The run has ended."
