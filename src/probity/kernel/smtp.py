"""The mail transport over SMTP."""

import ssl
from email.message import EmailMessage
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import aiosmtplib
import msgspec

from probity.kernel.mail import MailRefused, MailServerAway
from probity.kernel.secret import Secret

_TIMEOUT_S: Final = 30.0
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


class SmtpTransport:
    """Opens a connection per mail: mail is rare, and a kept connection would be stale when it is needed.

    Args:
        trust: certificates that are trusted; the system's when not given.
    """

    def __init__(self, server: SmtpServer, *, trust: ssl.SSLContext | None = None) -> None:
        self._server = server
        self._trust = trust

    async def send(self, message: EmailMessage) -> None:
        server = self._server
        try:
            await aiosmtplib.send(
                message,
                hostname=server.host,
                port=server.port,
                username=server.username,
                password=server.password.reveal() if server.password else None,
                use_tls=server.tls == "implicit",
                start_tls={"required": True, "off": False, "implicit": False}.get(server.tls),
                tls_context=self._trust,
                timeout=_TIMEOUT_S,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _refusal(error.recipients[0].code, error.recipients[0].message) from error
        except aiosmtplib.SMTPAuthenticationError as error:
            # Wrong credentials are put right by an operator; the mail waits for that.
            raise MailServerAway("the mail server does not accept our credentials") from error
        except aiosmtplib.SMTPResponseException as error:
            raise _refusal(error.code, error.message) from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise MailServerAway("the mail server does not answer or offers no TLS", reason=type(error).__name__) from error


def _refusal(code: int, message: str) -> MailRefused | MailServerAway:
    """Source: RFC 5321 §4.2.1: 5yz is permanent, 4yz may pass."""
    said = f"the mail server said {code} {message}"[:300]
    return MailRefused(said) if 500 <= code < 600 else MailServerAway(said)
