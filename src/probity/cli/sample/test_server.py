"""Does the server answer, and does it refuse what it should?"""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

JSON = {"content-type": "application/json"}


def test_the_server_is_healthy(server: Any) -> None:
    reply = server.ask("/api/health")

    assert reply.status == 200
    assert reply.json()["db"] is True


def test_every_part_is_ready(server: Any) -> None:
    reply = server.ask("/readyz")

    assert reply.status == 200, reply.body


def test_an_answer_takes_less_than_a_second(server: Any) -> None:
    assert server.ask("/healthz").took_s < 1


def test_twenty_callers_at_once_are_all_answered(server: Any) -> None:
    with ThreadPoolExecutor(20) as callers:
        replies = list(callers.map(lambda _: server.ask("/healthz"), range(20)))

    assert [reply.status for reply in replies] == [200] * 20


def test_each_request_has_its_own_id(server: Any) -> None:
    first, second = (server.ask("/healthz").headers["x-request-id"] for _ in range(2))

    assert first
    assert first != second


def test_a_browser_must_not_guess_content_types(server: Any) -> None:
    assert server.ask("/healthz").headers["x-content-type-options"] == "nosniff"


def test_strangers_see_nothing_of_the_api(server: Any) -> None:
    reply = server.ask("/api/v1/agents")

    assert reply.status == 401


def test_an_unknown_person_cannot_sign_in(server: Any) -> None:
    body = b'{"email": "%s@example.org", "password": "not the password"}' % uuid.uuid4().hex.encode()

    assert server.ask("/api/v1/auth/login", body=body, headers=JSON).status == 401


def test_broken_input_is_refused_without_a_traceback(server: Any) -> None:
    reply = server.ask("/api/v1/auth/login", body=b'{"email": ', headers=JSON)

    assert reply.status in {400, 422}
    assert "Traceback" not in reply.body


def test_figures_for_monitoring_are_there(server: Any) -> None:
    assert "probity_http_request_duration_seconds" in server.ask("/metrics").body
