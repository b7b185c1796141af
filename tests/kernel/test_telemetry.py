"""Logs are structured, carry the request, and hold no secret."""

import io
import logging
from collections.abc import Iterator

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from probity.kernel.secret import Secret
from probity.kernel.telemetry import configure_logging, scrub

HEX = "0123456789abcdef"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, structlog.get_config()
    out = io.StringIO()
    configure_logging(stream=out)
    yield out
    root.handlers, level = before[0], before[1]
    root.setLevel(level)
    structlog.configure(**before[2])


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("postgresql://user:pw@db/x failed", "[REDACTED_DB_URL] failed"),
        ("rediss://:pw@cache:6379", "[REDACTED_DB_URL]"),
        ("GET /a?token=abcdefgh&x=1", "GET /a?token=***&x=1"),
        ("/cb?code=abc&state=s", "/cb?code=***&state=s"),
        ("/x?access_token=abc", "/x?access_token=***"),
        ("Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abcdefghijklmnop", "Bearer [REDACTED_KEY]"),
        ("key pa_" + HEX * 4, "key [REDACTED_TOKEN]"),
        ("key pk_live_" + HEX * 2, "key [REDACTED_TOKEN]"),
        ("sk-or-v1abcdefghijklmnop", "[REDACTED_KEY]"),
        ("whsec_" + "a" * 24, "[REDACTED_SECRET]"),
        ("ghp_" + "a" * 36, "[REDACTED_TOKEN]"),
        ("$2b$12$" + "a" * 53, "[REDACTED_HASH]"),
        ("$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA", "[REDACTED_HASH]"),
        ("secret AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8 used", "secret [REDACTED_KEY] used"),
        (HEX * 4, "[REDACTED_KEY]"),
        ("an ordinary sentence about /api/v1/agents", "an ordinary sentence about /api/v1/agents"),
        ("019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5b", "019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5b"),
    ],
)
def test_secrets_are_scrubbed_from_text(text: str, scrubbed: str) -> None:
    assert scrub(text) == scrubbed


@given(st.text(max_size=60), st.from_regex(r"\A(?:pa_|ak_|sbp_)[0-9a-f]{40,64}\Z"), st.sampled_from([" ", "\n", '"', ",", ")"]))
def test_no_key_survives_whatever_stands_around_it(before: str, key: str, separator: str) -> None:
    assert key not in scrub(f"{before}{separator}{key}{separator}tail")


def test_a_line_is_one_json_object_with_the_request_of_its_context(stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r1", org_id="o1"):
        structlog.get_logger("probity.test").info("fleet.agent.retired", agent_id="a1", took_ms=3)

    (line,) = lines(stream)
    assert {"event", "level", "timestamp", "request_id", "org_id", "agent_id", "took_ms"} <= line.keys()
    assert (line["event"], line["level"], line["request_id"]) == ("fleet.agent.retired", "info", "r1")


def test_secret_fields_and_values_are_hidden_wherever_they_stand(stream: io.StringIO) -> None:
    structlog.get_logger("t").info(
        "x",
        password="hunter2",
        agent_secret="abc",
        nested={"api_key": "abc", "url": "redis://h:p@x"},
        held=Secret("hunter2"),
        many=["?token=abc"],
    )

    text = stream.getvalue()
    assert "hunter2" not in text and "abc" not in text and "redis://" not in text


def test_secrets_inside_bytes_and_errors_are_hidden_too(stream: io.StringIO) -> None:
    structlog.get_logger("x").warning("odd", raw=b"key pa_" + HEX.encode() * 4, error=ValueError("postgresql://user:pw@db/x"), count=3)

    (line,) = lines(stream)

    assert HEX not in stream.getvalue() and "user:pw" not in stream.getvalue()
    assert line["count"] == 3


def test_libraries_log_through_the_same_pipeline(stream: io.StringIO) -> None:
    logging.getLogger("some.library").warning("connecting to %s", "postgresql://u:p@h/d")

    (line,) = lines(stream)
    assert line["event"] == "connecting to [REDACTED_DB_URL]"


def test_a_traceback_is_scrubbed(stream: io.StringIO) -> None:
    try:
        raise RuntimeError("cannot open postgresql://u:hunter2@h/d")
    except RuntimeError as error:
        structlog.get_logger("t").error("http.bug", exc_info=error)

    (line,) = lines(stream)
    assert "RuntimeError" in str(line["exception"])
    assert "hunter2" not in stream.getvalue()


def test_below_the_level_nothing_is_written(stream: io.StringIO) -> None:
    structlog.get_logger("t").debug("x")

    assert stream.getvalue() == ""
