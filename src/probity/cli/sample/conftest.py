"""The sample suite: what an installation can prove about itself. It needs nothing but pytest."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message

import pytest


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: str
    took_s: float

    def json(self) -> object:
        return json.loads(self.body)


def lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class Server:
    """The server that dispatched this suite."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        request = urllib.request.Request(self.url + path, data=body, headers=dict(headers or {}))
        started = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return Reply(reply.status, lower(reply.headers), reply.read().decode(), time.monotonic() - started)
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, lower(error.headers), error.read().decode(), time.monotonic() - started)


@pytest.fixture(scope="session")
def server() -> Server:
    return Server(os.environ["SAMPLE_URL"])
