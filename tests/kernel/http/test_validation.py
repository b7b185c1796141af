"""The walk over a body's type names every wrong field, and agrees with msgspec on what is accepted."""

import enum
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.kernel.errors import FieldError
from probity.kernel.http.validation import field_errors


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Step(msgspec.Struct):
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=5)]
    index: Annotated[int, msgspec.Meta(ge=0, lt=10)] = 0


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    a: int
    b: str = ""


class Body(msgspec.Struct, rename="camel"):
    display_name: Annotated[str, msgspec.Meta(min_length=1, max_length=8)]
    colour: Colour
    steps: Annotated[list[Step], msgspec.Meta(max_length=3)] = []
    strict: Strict | None = None
    labels: dict[str, int] = {}
    due: datetime | None = None
    owner: UUID | None = None
    kind: Literal["x", "y"] = "x"
    ratio: float | None = None
    either: int | str | None = None
    pattern: Annotated[str, msgspec.Meta(pattern="^[a-z]+$")] = "a"
    loose: Any = None


scalars = st.none() | st.booleans() | st.integers(-20, 20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4), max_leaves=8
)
steps = st.fixed_dictionaries({}, optional={"title": scalars, "index": scalars, "extra": scalars})
bodies = st.fixed_dictionaries(
    {},
    optional={
        "displayName": st.sampled_from(["ok", "", "far too long", 5, None]),
        "colour": st.sampled_from(["red", "green", 1]),
        "steps": st.lists(steps | scalars, max_size=5) | anything,
        "strict": st.fixed_dictionaries({}, optional={"a": scalars, "b": scalars, "c": scalars}) | anything,
        "labels": st.dictionaries(st.text(max_size=3), scalars, max_size=3) | anything,
        "due": st.sampled_from(["2026-01-01T00:00:00Z", "yesterday", 1, None]),
        "owner": st.sampled_from(["12345678-1234-5678-1234-567812345678", "x", 1]),
        "kind": st.sampled_from(["x", "z", 0]),
        "ratio": scalars,
        "either": anything,
        "pattern": st.sampled_from(["abc", "A1", 5]),
        "loose": anything,
        "unknown": anything,
    },
)


@given(bodies | anything)
def test_both_agree_on_what_is_accepted(body: Any) -> None:
    raw = msgspec.json.encode(body)
    try:
        msgspec.json.decode(raw, type=Body)
        accepted = True
    except msgspec.ValidationError:
        accepted = False

    assert (field_errors(Body, raw) == ()) is accepted


@given(bodies)
def test_correcting_what_is_named_leaves_nothing_to_name(body: dict[str, Any]) -> None:
    """Every wrong top-level field is in the first answer: with those put right, there is no second."""
    good: dict[str, Any] = {"displayName": "ok", "colour": "red"}
    errors = field_errors(Body, msgspec.json.encode(body))
    wrong = {error.path.partition(".")[0] for error in errors}
    corrected = {name: value for name, value in body.items() if name not in wrong} | {name: good[name] for name in wrong & good.keys()}

    assert field_errors(Body, msgspec.json.encode(corrected)) == ()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"colour": "red"}, [("displayName", "Invalid input: expected string, received undefined")]),
        ({"displayName": "", "colour": "red"}, [("displayName", "Too small: expected string to have >=1 characters")]),
        ({"displayName": "123456789", "colour": "red"}, [("displayName", "Too big: expected string to have <=8 characters")]),
        ({"displayName": 5, "colour": "red"}, [("displayName", "Invalid input: expected string, received number")]),
        ({"displayName": "a", "colour": "x"}, [("colour", 'Invalid option: expected one of "red"|"blue"')]),
        ({"displayName": "a", "colour": "red", "kind": "z"}, [("kind", 'Invalid option: expected one of "x"|"y"')]),
        ({"displayName": "a", "colour": "red", "due": "x"}, [("due", "Invalid ISO datetime")]),
        ({"displayName": "a", "colour": "red", "owner": "x"}, [("owner", "Invalid UUID")]),
        ({"displayName": "a", "colour": "red", "labels": {"n": "x"}}, [("labels.n", "Invalid input: expected number, received string")]),
        (
            {"displayName": "a", "colour": "red", "strict": {"b": 1, "c": 2}},
            [
                ("strict.a", "Invalid input: expected number, received undefined"),
                ("strict.b", "Invalid input: expected string, received number"),
                ("strict.c", 'Unrecognized key: "c"'),
            ],
        ),
        (
            {"displayName": "a", "colour": "red", "steps": [{"title": "", "index": 10}, {"title": "ok"}, {"index": -1.5}]},
            [
                ("steps.0.title", "Too small: expected string to have >=1 characters"),
                ("steps.0.index", "Too big: expected number to be <=9"),
                ("steps.2.title", "Invalid input: expected string, received undefined"),
                ("steps.2.index", "Invalid input: expected int, received number"),
            ],
        ),
        (
            {"displayName": "a", "colour": "red", "steps": [{"title": "a"}] * 4},
            [("steps", "Too big: expected array to have <=3 items")],
        ),
        ([], [("", "Invalid input: expected object, received array")]),
    ],
)
def test_texts_are_the_documented_ones(body: Any, expected: list[tuple[str, str]]) -> None:
    assert field_errors(Body, msgspec.json.encode(body)) == tuple(FieldError(path, message) for path, message in expected)


def test_thousands_of_wrong_items_make_a_bounded_answer() -> None:
    body = {"displayName": "a", "colour": "red", "steps": [{}] * 5000}

    assert len(field_errors(Body, msgspec.json.encode(body))) == 200
