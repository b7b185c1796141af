from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.identity import rules
from probity.identity.errors import InvalidEmail, WeakPassword

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("password", "text"),
    [
        ("Sh0rt!", "Password must be at least 8 characters."),
        ("A1!" + "a" * 126, "Password is too long."),
        ("lower-case7", "Password must contain at least one uppercase letter."),
        ("UPPER-CASE7", "Password must contain at least one lowercase letter."),
        ("No-digits-here", "Password must contain at least one digit."),
        ("Nothing5pecial", "Password must contain at least one special character."),
        ("Password123!", "This password is too common. Please choose a stronger one."),
    ],
)
def test_a_weak_password_is_told_what_it_lacks(password: str, text: str) -> None:
    with pytest.raises(WeakPassword, match=text.replace(".", r"\.")):
        rules.check_password(password)


def test_a_good_password_passes() -> None:
    rules.check_password("Correct-horse7")


def test_whoever_runs_the_server_chooses_the_kinds_of_characters() -> None:
    rules.check_operators_password("correct horse battery")
    for weak in ("short", "x" * 129, "password1"):
        with pytest.raises(WeakPassword):
            rules.check_operators_password(weak)


def test_an_address_is_trimmed_and_lower_case() -> None:
    assert rules.normal_email("  Ada@Example.TEST ") == "ada@example.test"


@pytest.mark.parametrize("text", ["", "ada", "ada@x", "a b@c.test", "@c.test", "a@b.c", "a\x00@b.test"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidEmail):
        rules.normal_email(text)


def test_the_fifth_failure_locks_for_fifteen_minutes() -> None:
    assert [rules.failures_after(count, NOW)[1] for count in range(4)] == [None] * 4
    assert rules.failures_after(4, NOW) == (5, NOW + timedelta(minutes=15))


def test_one_more_failure_after_a_lock_locks_again() -> None:
    assert rules.failures_after(5, NOW) == (6, NOW + timedelta(minutes=15))


@given(st.text(max_size=200))
def test_a_short_name_is_always_fit_for_an_address(name: str) -> None:
    slug = rules.slug_of(name)

    assert 1 <= len(slug) <= 50
    assert all(word.isascii() and word.isalnum() and word == word.lower() for word in slug.split("-"))
