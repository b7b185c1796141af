"""Addresses of services beside the server, read from a setting. Pure, so that a configuration is checked without their libraries."""

from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from probity.kernel.secret import Secret

_PORTS: Final = {"smtp": 587, "smtps": 465}


class SmtpServer(msgspec.Struct, frozen=True):
    """Where mail goes. `tls`: `implicit` (smtps), `required` (STARTTLS or nothing), `opportunistic`, `off`."""

    host: str
    port: int
    username: str | None
    password: Secret | None
    tls: str


def parse_smtp_url(url: Secret) -> SmtpServer:
    """Read `smtp://user:password@host:587`, `smtps://…:465`, optionally `?tls=required|opportunistic|off`.

    With a password, TLS is required unless it is switched off: an attacker on the way must not get it by hiding STARTTLS.

    Raises:
        ValueError: it reads differently; the message does not repeat it.
    """
    wrong = ValueError("smtp://user:password@host:587 or smtps://user:password@host:465")
    try:
        parts = urlsplit(url.reveal())
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise wrong from None
    query = dict(parse_qsl(parts.query))
    default = "implicit" if parts.scheme == "smtps" else "required" if parts.password else "opportunistic"
    tls = query.pop("tls", default)
    if not parts.hostname or query or tls not in ("required", "opportunistic", "off", "implicit"):
        raise wrong
    return SmtpServer(
        host=parts.hostname,
        port=port,
        username=unquote(parts.username) if parts.username else None,
        password=Secret(unquote(parts.password)) if parts.password else None,
        tls=default if parts.scheme == "smtps" else tls,
    )


class S3Location(msgspec.Struct, frozen=True):
    """Where blobs go: `s3://bucket/prefix?endpoint=…&region=…`."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None


def parse_s3_url(url: str) -> S3Location:
    """Read `s3://bucket/prefix?endpoint=…&region=…`.

    Raises:
        ValueError: it reads differently.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    endpoint = query.pop("endpoint", None)
    region = query.pop("region", None)
    if parts.scheme != "s3" or not parts.netloc or query or (endpoint and urlsplit(endpoint).scheme not in ("http", "https")):
        raise ValueError("s3://bucket/prefix?endpoint=https://…&region=…")
    return S3Location(parts.netloc, parts.path.strip("/"), endpoint, region)
