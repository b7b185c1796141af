"""On a real socket: slow callers, long headers, large bodies, streams that end when the server goes away."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from litestar import get
from litestar.response import Stream
from structlog.testing import capture_logs

from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import route_group
from probity.kernel.http.server import PatientProtocol
from probity.kernel.http.settings import HttpSettings
from tests.fakes import FakeClock
from tests.http_app import TestAuthenticator, served
from tests.kernel.http.conftest import at, build_app


class Impatient(PatientProtocol):
    head_timeout_s = 0.5


@pytest.fixture
def address(callers: TestAuthenticator, clock: FakeClock) -> Iterator[tuple[str, int]]:
    with served(build_app(callers, clock, settings=HttpSettings(body_timeout_s=0.5)), protocol=Impatient) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


def talk(address: tuple[str, int], *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send the parts with a pause after each; return everything that comes back until the server closes."""
    with socket.create_connection(address, timeout=5) as conn:
        for part in parts:
            conn.sendall(part)
            time.sleep(pause_s)
        received = b""
        while chunk := conn.recv(65536):
            received += chunk
        return received


def test_headers_that_never_end_are_closed_with_408(address: tuple[str, int]) -> None:
    assert talk(address, b"GET / HTTP/1.1\r\nHost: x\r\n").startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_says_nothing_is_closed(address: tuple[str, int]) -> None:
    assert talk(address).startswith(b"HTTP/1.1 408 ")


def test_the_second_request_of_a_connection_gets_its_own_time(address: tuple[str, int]) -> None:
    path = at(Dialect.BRIDGE, "/conflict").encode()
    first = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n"

    received = talk(address, first, b"GET / HTTP/1.1\r\n", pause_s=0.4)

    assert received.startswith(b"HTTP/1.1 409 ")
    assert b"HTTP/1.1 408 " in received


def test_a_connection_goes_on_after_head(address: tuple[str, int]) -> None:
    path = at(Dialect.OWN, "/limited").encode()

    received = talk(
        address,
        b"HEAD " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        pause_s=0.2,
    )
    head, _, after = received.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: " in head
    assert after.startswith(b"HTTP/1.1 200 ")


def test_head_of_an_endless_stream_ends_with_its_headers(callers: TestAuthenticator, clock: FakeClock) -> None:
    async def forever() -> AsyncIterator[bytes]:
        while True:
            yield b": tick\n\n"
            await asyncio.sleep(0.05)

    @get("/endless", public=True)
    async def endless() -> Stream:
        return Stream(forever(), media_type="text/event-stream")

    with (
        served(build_app(callers, clock, routes=[route_group(Dialect.OWN, "/api/v1", [endless])])) as url,
        httpx.Client(timeout=3) as client,
    ):
        reply = client.head(f"{url}/api/v1/endless")
        after = client.get(f"{url}/api/v1/nothing")

    assert (reply.status_code, reply.content, after.status_code) == (200, b"", 401)


def test_a_broken_chunk_is_the_callers_fault(callers: TestAuthenticator, clock: FakeClock) -> None:
    path = at(Dialect.OWN, "/own-items").encode()
    with served(build_app(callers, clock)) as url, capture_logs() as entries:
        talk(
            ("127.0.0.1", int(url.rpartition(":")[2])),
            b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"zz\r\n{}\r\n0\r\n\r\n",
            pause_s=0.2,
        )

    assert [entry["status"] for entry in entries if entry["event"] == "http.request"] == [499]


def test_headers_without_end_are_cut_at_64_kib(address: tuple[str, int]) -> None:
    received = talk(address, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"y" * 1000) for n in range(80)))

    assert received.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("dialect", [Dialect.ACHILLES, Dialect.BRIDGE, Dialect.OWN])
def test_a_slow_body_is_408_in_the_dialect_and_the_connection_closes(address: tuple[str, int], dialect: Dialect) -> None:
    path = at(dialect, "/own-items").encode()
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"

    received = talk(address, head, b'{"name":', b'"a",', b'"size":', pause_s=0.2)

    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not arrive in time" in received


def test_a_slow_body_on_a_hot_route_is_408(address: tuple[str, int]) -> None:
    head = b"POST /api/v1/secrets/hot/a/touch HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"

    assert talk(address, head, b"x").startswith(b"HTTP/1.1 408 ")


def test_20_megabytes_are_refused_and_the_connection_goes_on(address: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as client:
        refused = client.post(at(Dialect.OWN, "/own-items"), content=b"x" * 20_000_000)
        after = client.get(at(Dialect.OWN, "/limited"))

    assert (refused.status_code, after.status_code) == (413, 200)


def test_forwarded_headers_of_a_local_caller_are_not_believed(address: tuple[str, int], clock: FakeClock) -> None:
    base = f"http://{address[0]}:{address[1]}"
    path = at(Dialect.OWN, "/limited")

    statuses = [httpx.get(base + path, headers={"X-Forwarded-For": f"1.2.3.{n}"}).status_code for n in range(4)]

    assert statuses == [200, 200, 200, 429]


STOPPING = """
import sys
from collections.abc import AsyncIterator

import uvicorn
from litestar import get
from litestar.response import Stream

from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import route_group
from probity.kernel.http.server import ServerOptions, uvicorn_config
from probity.kernel.http.shutdown import Shutdown
from tests.fakes import FakeClock
from tests.http_app import TestAuthenticator
from tests.kernel.http.conftest import build_app

shutdown = Shutdown(drain_s=float(sys.argv[2]))

@get("/stream", public=True)
async def stream() -> Stream:
    async def lines() -> AsyncIterator[bytes]:
        yield b"data: first\\n\\n"
        await shutdown.stopping.wait()
        yield b"data: last\\n\\n"
    return Stream(lines(), media_type="text/event-stream")

@get("/gate", public=True)
async def gate() -> dict[str, bool]:
    return {"draining": shutdown.is_draining}

app = build_app(TestAuthenticator(), FakeClock(), routes=[route_group(Dialect.OWN, "/", [stream, gate])], shutdown=shutdown)
uvicorn.Server(uvicorn_config(app, ServerOptions(host="127.0.0.1", port=int(sys.argv[1]), grace_s=20))).run()
"""


def start_stopping(tmp_path: Path, drain_s: float) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = tmp_path / "stopping.py"
    script.write_text(STOPPING)
    root = Path(__file__).parents[3]
    environ = os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}"}
    process = subprocess.Popen([sys.executable, str(script), str(port), str(drain_s)], env=environ, stdout=subprocess.DEVNULL)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the server did not start")


def test_sigterm_ends_open_streams_with_a_last_event_at_once(tmp_path: Path) -> None:
    process, url = start_stopping(tmp_path, drain_s=0)
    with httpx.stream("GET", f"{url}/stream", timeout=10) as reply:
        lines = reply.iter_lines()
        assert next(lines) == "data: first"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]

    process.wait(timeout=10)
    assert rest == ["data: last"]
    assert time.monotonic() - began < 3


def test_the_readiness_gate_closes_before_the_server_stops(tmp_path: Path) -> None:
    process, url = start_stopping(tmp_path, drain_s=2.0)

    process.send_signal(signal.SIGTERM)
    said: list[bool] = []
    # Only connecting may fail, and only once the gate was seen closed.
    with suppress(httpx.ConnectError):
        while not any(said):
            said.append(httpx.get(f"{url}/gate").json()["draining"])

    assert said[-1] is True
    process.wait(timeout=20)


def test_the_server_speaks_https_with_a_certificate(callers: TestAuthenticator, clock: FakeClock, tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    with served(build_app(callers, clock), tls_cert=cert, tls_key=key) as url:
        reply = httpx.get(
            url.replace("http://", "https://") + at(Dialect.OWN, "/limited"), verify=ssl.create_default_context(cafile=str(cert))
        )

    assert reply.status_code == 200
    assert reply.headers["strict-transport-security"] == "max-age=31536000"


def self_signed(tmp_path: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return cert_path, key_path
