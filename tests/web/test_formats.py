"""Numbers, durations and times read the same everywhere."""

from datetime import UTC, datetime, timedelta

import pytest

from probity.web import formats

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (None, "–"),
        (0, "0 ms"),
        (0.2, "<1 ms"),
        (37.6, "38 ms"),
        (4_200, "4.2 s"),
        (9_960, "10 s"),
        (59_400, "59 s"),
        (64_000, "1m 04s"),
        (7_500_000, "2h 05m"),
        (273_600_000, "3d 04h"),
    ],
)
def test_a_duration_reads_as_people_say_it(milliseconds: float | None, text: str) -> None:
    assert formats.duration(milliseconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(3, "just now"), (42, "42s ago"), (125, "2m ago"), (7200, "2h ago"), (172_800, "2d ago")])
def test_a_recent_moment_is_told_as_its_age(seconds: int, text: str) -> None:
    assert formats.ago(NOW - timedelta(seconds=seconds), NOW) == text


def test_an_old_moment_is_told_as_its_date_and_no_moment_as_never() -> None:
    assert formats.ago(NOW - timedelta(days=40), NOW) == "2026-10-13"
    assert formats.ago(None, NOW) == "never"


def test_thousands_are_apart_and_nouns_agree() -> None:
    assert formats.number(1234567) == "1\u202f234\u202f567"
    assert formats.plural(1, "run") == "1 run"
    assert formats.plural(2, "run") == "2 runs"


@pytest.mark.parametrize(("size_bytes", "text"), [(12, "12 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")])
def test_a_size_has_the_unit_that_keeps_it_short(size_bytes: int, text: str) -> None:
    assert formats.size(size_bytes) == text
