"""Mail: in the transaction, delivered to a real SMTP server, retried, held in development, safe from header injection."""

import asyncio
import email
from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.policy import default
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiosmtpd.smtp import SMTP, Envelope, Session
from hypothesis import given
from hypothesis import strategies as st

from probity.kernel.crypto import KeyRing
from probity.kernel.db import Database, execute, fetch_rows, fetch_value
from probity.kernel.errors import Denied
from probity.kernel.locations import SmtpServer, parse_smtp_url
from probity.kernel.mail import (
    DeliverMail,
    InvalidRecipient,
    Mailer,
    MailId,
    MailMessage,
    MailNotFound,
    MailState,
    PruneMail,
    one_address,
    one_line,
)
from probity.kernel.principal import Principal, system_principal
from probity.kernel.secret import Secret
from probity.kernel.smtp import SmtpTransport
from probity.kernel.tasks import TaskRunner
from tests.cluster import TestDatabase
from tests.fakes import FakeClock
from tests.kernel.test_sealed import tables_with

RING = KeyRing([bytes(range(32))])
CANARY = "canary-71c4-reset-link"
HELLO = MailMessage(kind="test.hello", to="ada@example.com", subject="Hello", text=f"Open {CANARY}\n", html=f"<p>{CANARY}</p>")


class Inbox:
    """What the SMTP server took, and what it answers next."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.answers: list[str] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  (aiosmtpd's name)
        if self.answers and (answer := self.answers.pop(0)) != "250":
            return answer
        assert isinstance(envelope.content, bytes)
        self.mails.append(email.message_from_bytes(envelope.content, policy=default))
        return "250 taken"


@pytest_asyncio.fixture
async def smtp() -> AsyncIterator[tuple[Inbox, SmtpServer]]:
    inbox = Inbox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(inbox, hostname="localhost", loop=loop), "127.0.0.1", 0)
    try:
        yield inbox, SmtpServer("127.0.0.1", server.sockets[0].getsockname()[1], None, None, "opportunistic")
    finally:
        server.close()


def a_mailer(db: Database, clock: FakeClock, server: SmtpServer | None, **options: Any) -> Mailer:
    transport = SmtpTransport(server) if server else None
    return Mailer(db, clock, RING, transport=transport, sender="Probity <probity@example.org>", **options)


def a_runner(db: Database, clock: FakeClock, mailer: Mailer) -> TaskRunner:
    return TaskRunner(db, clock, {DeliverMail: mailer.run_deliver, PruneMail: mailer.run_prune})


async def states(db: Database) -> list[tuple[str, int, bool]]:
    async with db.system() as tx:
        rows = await fetch_rows(tx, "select state, attempts, sealed_id is not null as has_text from mail_outbox order by id")
    return [tuple(row) for row in rows]


async def send(db: Database, mailer: Mailer, principal: Principal, message: MailMessage = HELLO) -> MailId:
    async with db.transaction(principal) as tx:
        return await mailer.send(tx, message, org_id=principal.org_id)


async def make_due(db: Database) -> None:
    async with db.system() as tx:
        await execute(tx, "update jobs set run_at = now() - interval '1 s'")


async def test_a_mail_is_delivered_after_the_commit_and_forgotten(
    db: Database, clock: FakeClock, admin: Principal, smtp: tuple[Inbox, SmtpServer]
) -> None:
    inbox, server = smtp
    mailer = a_mailer(db, clock, server)
    mail_id = await send(db, mailer, admin)

    await a_runner(db, clock, mailer).drain()

    (mail,) = inbox.mails
    assert (mail["To"], mail["From"], mail["Subject"]) == ("ada@example.com", "Probity <probity@example.org>", "Hello")
    assert mail["Message-ID"] == f"<{mail_id}@example.org>"
    assert mail.get_body(("plain",)).get_content().split() == HELLO.text.split()  # type: ignore[union-attr]
    assert CANARY in mail.get_body(("html",)).get_content()  # type: ignore[union-attr]
    assert await states(db) == [("sent", 1, False)]
    async with db.system() as tx:
        assert await fetch_value(tx, "select count(*) from sealed_values") == 0


async def test_a_transaction_that_fails_sends_nothing(
    db: Database, clock: FakeClock, admin: Principal, smtp: tuple[Inbox, SmtpServer]
) -> None:
    mailer = a_mailer(db, clock, smtp[1])
    with pytest.raises(KeyError):
        async with db.transaction(admin) as tx:
            await mailer.send(tx, HELLO, org_id=admin.org_id)
            raise KeyError

    assert await a_runner(db, clock, mailer).drain() == 0
    assert await states(db) == []


async def test_a_mail_that_was_delivered_is_not_delivered_again(
    db: Database, clock: FakeClock, admin: Principal, smtp: tuple[Inbox, SmtpServer]
) -> None:
    mailer = a_mailer(db, clock, smtp[1])
    await send(db, mailer, admin)
    runner = a_runner(db, clock, mailer)
    await runner.drain()
    async with db.system() as tx:
        await execute(tx, "update jobs set state = 'queued', finished_at = null")

    await runner.drain()

    assert len(smtp[0].mails) == 1


async def test_a_server_that_is_busy_is_asked_again(
    db: Database, clock: FakeClock, admin: Principal, smtp: tuple[Inbox, SmtpServer]
) -> None:
    inbox, server = smtp
    inbox.answers = ["451 try later", "250"]
    mailer = a_mailer(db, clock, server)
    await send(db, mailer, admin)
    runner = a_runner(db, clock, mailer)

    await runner.drain()
    first = await states(db)
    await make_due(db)
    await runner.drain()

    assert first == [("queued", 1, True)]
    assert await states(db) == [("sent", 2, False)]


async def test_a_refused_mail_fails_at_once(db: Database, clock: FakeClock, admin: Principal, smtp: tuple[Inbox, SmtpServer]) -> None:
    smtp[0].answers = ["554 no"]
    mailer = a_mailer(db, clock, smtp[1])
    await send(db, mailer, admin)

    await a_runner(db, clock, mailer).drain()

    assert await states(db) == [("failed", 1, True)]


async def test_a_server_that_stays_away_fails_the_mail_in_the_end(db: Database, clock: FakeClock, admin: Principal) -> None:
    mailer = a_mailer(db, clock, SmtpServer("127.0.0.1", 9, None, None, "off"))
    await send(db, mailer, admin)
    runner = a_runner(db, clock, mailer)

    for _ in range(DeliverMail.max_attempts):
        await make_due(db)
        await runner.drain()

    assert await states(db) == [("failed", DeliverMail.max_attempts, True)]


async def test_a_password_is_not_sent_without_tls(db: Database, clock: FakeClock, admin: Principal, smtp: tuple[Inbox, SmtpServer]) -> None:
    server = parse_smtp_url(Secret(f"smtp://ada:{CANARY}@127.0.0.1:{smtp[1].port}"))
    mailer = a_mailer(db, clock, server)
    await send(db, mailer, admin)

    await a_runner(db, clock, mailer).drain()

    assert smtp[0].mails == []
    assert await states(db) == [("queued", 1, True)]


async def test_without_a_server_mail_stays_in_the_development_mailbox(
    db: Database, clock: FakeClock, admin: Principal, outsider: Principal
) -> None:
    mailer = a_mailer(db, clock, None, shows_text=True)
    mail_id = await send(db, mailer, admin)

    (entry,) = await mailer.list_mail(admin)
    text = await mailer.read_mail(admin, mail_id)

    assert (entry.id, entry.state, entry.recipient) == (mail_id, MailState.HELD, "ada@example.com")
    assert text.text == HELLO.text
    assert await mailer.list_mail(outsider) == []
    # Nor by who belongs to both organizations, while acting in the other one.
    for stranger in (outsider, msgspec.structs.replace(outsider, org_ids=(*outsider.org_ids, admin.org_id))):
        with pytest.raises(MailNotFound):
            await mailer.read_mail(stranger, mail_id)
    with pytest.raises(Denied):
        await mailer.list_mail(system_principal(admin.org_id))
    assert await a_runner(db, clock, mailer).drain() == 0


async def test_in_production_no_administrator_reads_a_mail(db: Database, clock: FakeClock, admin: Principal) -> None:
    mailer = a_mailer(db, clock, None)
    mail_id = await send(db, mailer, admin)

    with pytest.raises(MailNotFound):
        await mailer.read_mail(admin, mail_id)
    assert [text.text for _, text in await mailer.mailbox_all_tenants()] == [HELLO.text]


async def test_the_text_of_a_mail_is_nowhere_in_plain(
    db: Database, clock: FakeClock, admin: Principal, pg: TestDatabase, smtp: tuple[Inbox, SmtpServer]
) -> None:
    await send(db, a_mailer(db, clock, smtp[1]), admin)

    assert await tables_with(pg, CANARY.encode()) == []


async def test_old_mail_is_forgotten_with_its_text(db: Database, clock: FakeClock, admin: Principal) -> None:
    mailer = a_mailer(db, clock, None)
    await send(db, mailer, admin)
    clock.advance(31 * 86400)
    await send(db, mailer, admin)

    assert await mailer.prune_all_tenants() == 1
    async with db.system() as tx:
        assert await fetch_value(tx, "select count(*) from sealed_values") == 1


@pytest.mark.parametrize(
    "address",
    [
        "", "ada", "@example.com", "ada@", "ada@example.com, eve@example.com", "ada@example.com\r\nBcc: eve@example.com", "ada@exam\nple.com",
        "Ada <ada@example.com>", "ada@example.com>\r\nDATA", "ada eve@example.com", "ada@b@c", "a" * 65 + "@example.com", "ada@" + "x" * 254,
    ],
)  # fmt: skip
def test_what_is_not_one_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidRecipient):
        one_address(address)


@given(subject=st.text(max_size=300))
def test_a_subject_is_always_one_line(subject: str) -> None:
    line = one_line(subject)

    assert 1 <= len(line) <= 200
    assert len(line.splitlines()) == 1


async def test_a_subject_cannot_add_headers(db: Database, clock: FakeClock, admin: Principal, smtp: tuple[Inbox, SmtpServer]) -> None:
    mailer = a_mailer(db, clock, smtp[1])
    evil = MailMessage(
        kind="test", to="ada@example.com", subject="Join Acme\r\nBcc: eve@example.com\r\n\r\nbody", text="x\r\n.\r\nMAIL FROM:<e@e>"
    )
    await send(db, mailer, admin, evil)

    await a_runner(db, clock, mailer).drain()

    (mail,) = smtp[0].mails
    assert mail["Bcc"] is None
    assert mail["Subject"] == "Join Acme Bcc: eve@example.com body"
    assert "MAIL FROM" in mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example.com", ("mail.example.com", 587, None, "opportunistic")),
        ("smtp://ada:p%40ss@mail.example.com:2525", ("mail.example.com", 2525, "ada", "required")),
        ("smtp://ada:pass@mail.example.com?tls=off", ("mail.example.com", 587, "ada", "off")),
        ("smtps://ada:pass@mail.example.com", ("mail.example.com", 465, "ada", "implicit")),
    ],
)
def test_an_smtp_address_is_read(url: str, expected: tuple[object, ...]) -> None:
    server = parse_smtp_url(Secret(url))

    assert (server.host, server.port, server.username, server.tls) == expected


@pytest.mark.parametrize("url", ["http://x", "smtp://", "smtp://x:port", "smtp://x?tls=maybe", "smtp://x?other=1", "mail.example.com"])
def test_a_wrong_smtp_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="smtp://user:password@host:587"):
        parse_smtp_url(Secret(url))
