"""The mail transport over SMTP."""

import ssl
from email.message import EmailMessage
from typing import Final

import aiosmtplib

from probity.kernel.locations import SmtpServer
from probity.kernel.mail import MailRefused, MailServerAway

_TIMEOUT_S: Final = 30.0


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
