"""Mail: written to an outbox in the transaction of what it tells, delivered by a task after the commit.

Without a mail server everything stays in the development mailbox. A mail may carry a sign-in link, so its text is sealed, shown to
nobody but in development, and forgotten once it was delivered.
"""

import re
from datetime import datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, formataddr, parseaddr
from enum import StrEnum
from typing import ClassVar, Final, NewType, Protocol
from uuid import UUID

import msgspec
import structlog

from probity.kernel.clock import Clock
from probity.kernel.crypto import KeyRing
from probity.kernel.db import Database, Tx, execute, fetch_all, fetch_one
from probity.kernel.errors import Invalid, NotFound, Upstream
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId, Principal
from probity.kernel.sealed import SealedId, SealedStore
from probity.kernel.tasks import Task, TaskContext, enqueue

log = structlog.get_logger(__name__)

MailId = NewType("MailId", UUID)

_PURPOSE: Final = "mail"
_KEPT_FOR: Final = timedelta(days=30)
_SUBJECT_MAX: Final = 200
# One address and nothing that a header or an SMTP command could take for more.
_ADDRESS: Final = re.compile(r"[^\s@,;:<>()\[\]\"\\\x00-\x1f\x7f]{1,64}@[^\s@,;:<>()\[\]\"\\\x00-\x1f\x7f]{1,253}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]+")


class InvalidRecipient(Invalid):
    code = "mail.invalid_recipient"


class MailNotFound(NotFound):
    code = "mail.not_found"


class MailRefused(Exception):
    """The mail server will never take this mail."""


class MailServerAway(Upstream):
    """The mail server does not take mail now; another try may succeed."""

    code = "mail.server_away"


class MailState(StrEnum):
    QUEUED = "queued"
    HELD = "held"
    SENT = "sent"
    FAILED = "failed"


class MailMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. `kind` says why (`identity.password_reset`) and is all that logs see of it."""

    kind: str
    to: str
    subject: str
    text: str
    html: str | None = None


class OutboxEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A mail as a list shows it."""

    id: MailId
    org_id: OrgId | None
    kind: str
    recipient: str
    subject: str
    sealed_id: SealedId | None
    state: MailState
    attempts: int
    last_error: str | None
    created_at: datetime
    sent_at: datetime | None


class MailText(msgspec.Struct, frozen=True):
    text: str
    html: str | None


class DeliverMail(Task, frozen=True):
    """Hand one mail to the mail server."""

    kind: ClassVar[str] = "kernel.deliver_mail"
    mail_id: MailId


class PruneMail(Task, frozen=True):
    """Delete mail older than 30 days."""

    kind: ClassVar[str] = "kernel.prune_mail"


class MailTransport(Protocol):
    async def send(self, message: EmailMessage) -> None:
        """Hand one message over.

        Raises:
            MailRefused: it will never be taken.
            MailServerAway: another try may succeed.
        """
        ...


class Mailer:
    """The outbox and the mailbox.

    Args:
        transport: takes the mail; None leaves it in the development mailbox.
        sender: `probity@example.com` or `Probity <probity@example.com>`.
        shows_text: whether an administrator may read mail that was not sent. Never in production: whoever reads a reset link is that
            person.
    """

    def __init__(
        self, db: Database, clock: Clock, ring: KeyRing, *, transport: MailTransport | None, sender: str, shows_text: bool = False
    ) -> None:
        self._db = db
        self._clock = clock
        self._sealed = SealedStore(ring)
        self._transport = transport
        self._sender = sender
        self._shows_text = shows_text

    async def send(self, tx: Tx, message: MailMessage, *, org_id: OrgId | None = None) -> MailId:
        """Put a mail into the outbox with the caller's transaction. Without `org_id` it is the server's and needs the system role.

        Raises:
            InvalidRecipient: `to` is not exactly one address.
        """
        recipient = one_address(message.to)
        mail_id = MailId(new_id())
        text = msgspec.json.encode(MailText(message.text, message.html))
        sealed_id = await self._sealed.put(tx, org_id, _PURPOSE, text)
        await execute(
            tx,
            """
            insert into mail_outbox (id, org_id, kind, recipient, subject, sealed_id, state, created_at)
            values (:id, :org_id, :kind, :recipient, :subject, :sealed_id, :state, :now)
            """,
            id=mail_id,
            org_id=org_id,
            kind=message.kind,
            recipient=recipient,
            subject=one_line(message.subject),
            sealed_id=sealed_id,
            state=(MailState.QUEUED if self._transport else MailState.HELD).value,
            now=self._clock.now(),
        )
        if self._transport:
            await enqueue(tx, DeliverMail(mail_id), org_id=org_id)
        return mail_id

    async def list_mail(self, principal: Principal, *, limit: int = 50) -> list[OutboxEntry]:
        """Return the newest mails of the caller's organization, newest first, without their texts."""
        principal.require("org:settings")
        async with self._db.transaction(principal) as tx:
            return await fetch_all(
                tx,
                OutboxEntry,
                """
                select id, org_id, kind, recipient, subject, sealed_id, state, attempts, last_error, created_at, sent_at
                  from mail_outbox
                 where org_id = :org_id
                 order by created_at desc, id desc
                 limit :limit
                """,
                org_id=principal.org_id,
                limit=limit,
            )

    async def read_mail(self, principal: Principal, mail_id: MailId) -> MailText:
        """Return the text of a mail that stayed in the development mailbox.

        Raises:
            MailNotFound: no such mail here, or its text is not for administrators.
        """
        principal.require("org:settings")
        async with self._db.transaction(principal) as tx:
            entry = await _find(tx, mail_id)
            # A person of several organizations sees the rows of all of them; the permission is that of the active one.
            if entry is None or entry.org_id != principal.org_id:
                raise MailNotFound("no such mail in the development mailbox", id=str(mail_id))
            if not self._shows_text or entry.sealed_id is None or entry.state is not MailState.HELD:
                raise MailNotFound("no such mail in the development mailbox", id=str(mail_id))
            return await self._text(tx, entry.org_id, entry.sealed_id)

    async def mailbox_all_tenants(self, *, limit: int = 50) -> list[tuple[OutboxEntry, MailText]]:
        """Return the newest mails that were not sent, with their texts; for the operator's command line."""
        async with self._db.system() as tx:
            entries = await fetch_all(
                tx,
                OutboxEntry,
                """
                select id, org_id, kind, recipient, subject, sealed_id, state, attempts, last_error, created_at, sent_at
                  from mail_outbox
                 where state = :held
                   and sealed_id is not null
                 order by created_at desc, id desc
                 limit :limit
                """,
                held=MailState.HELD.value,
                limit=limit,
            )
            return [(entry, await self._text(tx, entry.org_id, entry.sealed_id)) for entry in entries if entry.sealed_id]

    async def run_deliver(self, task: DeliverMail, ctx: TaskContext) -> None:
        """Handler of `DeliverMail`. A repeat after a crash may deliver twice, with the same Message-ID."""
        prepared = await self._prepare_all_tenants(task.mail_id)
        if prepared is None or self._transport is None:
            return
        entry, message = prepared
        try:
            await self._transport.send(message)
        except MailRefused as error:
            log.warning("mail.refused", kind=entry.kind, mail_id=str(entry.id), error=str(error))
            await self._note_all_tenants(entry, MailState.FAILED, str(error))
        except MailServerAway as error:
            state = MailState.FAILED if ctx.attempt >= ctx.max_attempts else MailState.QUEUED
            await self._note_all_tenants(entry, state, error.message)
            raise
        else:
            log.info("mail.sent", kind=entry.kind, mail_id=str(entry.id))
            await self._note_all_tenants(entry, MailState.SENT, None)

    async def run_prune(self, _task: PruneMail, _ctx: TaskContext) -> None:
        """Handler of `PruneMail`; queue it every day."""
        await self.prune_all_tenants()

    async def prune_all_tenants(self) -> int:
        """Delete mail older than 30 days with its text, and return how many."""
        async with self._db.system() as tx:
            return await execute(
                tx,
                """
                with old as (
                    delete from mail_outbox where created_at < :before returning sealed_id
                ), texts as (
                    delete from sealed_values using old where sealed_values.id = old.sealed_id
                )
                select from old
                """,
                before=self._clock.now() - _KEPT_FOR,
            )

    async def _prepare_all_tenants(self, mail_id: MailId) -> tuple[OutboxEntry, EmailMessage] | None:
        """Return a mail that is to be delivered, or None when it was delivered, was removed, or was never to be sent."""
        async with self._db.system() as tx:
            entry = await _find(tx, mail_id)
            if entry is None or entry.sealed_id is None or entry.state not in (MailState.QUEUED, MailState.FAILED):
                return None
            text = await self._text(tx, entry.org_id, entry.sealed_id)
        return entry, compose(entry, text, self._sender)

    async def _note_all_tenants(self, entry: OutboxEntry, state: MailState, error: str | None) -> None:
        async with self._db.system() as tx:
            await execute(
                tx,
                """
                update mail_outbox
                   set state = :state, attempts = attempts + 1, last_error = :error,
                       sent_at = case when :state = 'sent' then :now::timestamptz end
                 where id = :id
                """,
                id=entry.id,
                state=state.value,
                error=error[:500] if error else None,
                now=self._clock.now(),
            )
            if state is MailState.SENT and entry.sealed_id:
                await self._sealed.delete(tx, entry.org_id, entry.sealed_id)

    async def _text(self, tx: Tx, org_id: OrgId | None, sealed_id: SealedId) -> MailText:
        return msgspec.json.decode(await self._sealed.get(tx, org_id, sealed_id, _PURPOSE), type=MailText)


def compose(entry: OutboxEntry, text: MailText, sender: str) -> EmailMessage:
    """Return the message as it goes out. Its Message-ID is the mail's id, so that a repeat is recognized."""
    name, address = parseaddr(sender)
    message = EmailMessage(policy=SMTP)
    message["From"] = formataddr((name, address))
    message["To"] = entry.recipient
    message["Subject"] = entry.subject
    message["Date"] = format_datetime(entry.created_at)
    message["Message-ID"] = f"<{entry.id}@{address.partition('@')[2] or 'localhost'}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text.text)
    if text.html is not None:
        message.add_alternative(text.html, subtype="html")
    return message


def one_address(text: str) -> str:
    """Return the address.

    Raises:
        InvalidRecipient: it is not exactly one address.
    """
    if len(text) > 254 or not _ADDRESS.fullmatch(text):
        raise InvalidRecipient("this is not an e-mail address")
    return text


def one_line(text: str) -> str:
    """Return a subject on one line: names of people and organizations end up here."""
    return _CONTROL.sub(" ", text).strip()[:_SUBJECT_MAX] or "Probity"


async def _find(tx: Tx, mail_id: MailId) -> OutboxEntry | None:
    return await fetch_one(
        tx,
        OutboxEntry,
        """
        select id, org_id, kind, recipient, subject, sealed_id, state, attempts, last_error, created_at, sent_at
          from mail_outbox
         where id = :id
        """,
        id=mail_id,
    )
