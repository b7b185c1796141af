"""Reading a live stream: the format, and connections that break."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.client.errors import CredentialRejected, Refused, ServerUnreachable
from probity.client.http import Client
from probity.client.profile import Profile
from probity.client.sse import ServerSentEvent, parse


def test_events_are_read_as_the_standard_says() -> None:
    lines = [
        ": comment",
        "id: 1",
        "data: a",
        "data:b",
        "",
        "event: named",
        "data: c",
        "",
        "id",
        "data: d",
        "",
        "retry: 5",
        "",
        "data: cut off",
    ]

    assert list(parse(lines)) == [
        ServerSentEvent("a\nb", "message", "1"),
        ServerSentEvent("c", "named", "1"),
        ServerSentEvent("d", "message", ""),
    ]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n"))))
def test_any_lines_can_be_read(lines: list[str]) -> None:
    list(parse(lines))


class Script:
    """What the server sends on each connection; the last entry may end the run."""

    def __init__(self, *connections: list[str] | int) -> None:
        self.connections = list(connections)
        self.asked: list[str | None] = []


@contextmanager
def serving(script: Script) -> Iterator[Client]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.asked.append(self.headers.get("Last-Event-ID"))
            step = script.connections.pop(0) if script.connections else 503
            if isinstance(step, int):
                body = json.dumps({"error": "said so"}).encode()
                self.send_response(step)
                self.send_header("Content-Length", str(len(body) if step != 204 else 0))
                self.end_headers()
                self.wfile.write(body if step != 204 else b"")
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write("".join(step).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        with Client(Profile(f"http://127.0.0.1:{server.server_address[1]}", "pa_key")) as client:
            yield client
    finally:
        server.shutdown()
        server.server_close()


def log(number: int, text: str = "x") -> str:
    return f"id: {number}\ndata: {json.dumps({'type': 'log', 'seq': number, 'text': text, 'stream': 'stdout'}, ensure_ascii=False)}\n\n"


DONE = 'id: 9\ndata: {"type":"done","seq":9,"state":"passed"}\n\n'


def test_a_broken_stream_goes_on_where_it_broke() -> None:
    script = Script([log(1), log(2), "id: 3\ndata: {cut"], 503, [log(3)], [DONE])
    with serving(script) as client:
        messages = list(client.watch("RUN-1"))

    assert [message.seq for message in messages] == [1, 2, 3, 9]
    assert script.asked == [None, "2", "2", "3"]


def test_nothing_more_ends_the_watch() -> None:
    with serving(Script([log(1)], 204)) as client:
        assert [message.seq for message in client.watch("RUN-1")] == [1]


def test_line_separators_in_texts_do_not_split_events() -> None:
    with serving(Script([log(1, "a\u2028b\x85c\x0bd"), DONE])) as client:
        assert next(client.watch("RUN-1")).text == "a\u2028b\x85c\x0bd"


@pytest.mark.parametrize(("status", "error"), [(404, Refused), (401, CredentialRejected), (403, Refused)])
def test_a_refusal_is_not_repeated(status: int, error: type[Exception]) -> None:
    script = Script(status)
    with serving(script) as client, pytest.raises(error, match="said so"):
        list(client.watch("RUN-1"))
    assert len(script.asked) == 1


def test_an_absent_server_is_named() -> None:
    with Client(Profile("http://127.0.0.1:9", "pa_key")) as client, pytest.raises(ServerUnreachable, match="no answer"):
        client.list_runs()
