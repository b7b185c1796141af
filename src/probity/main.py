"""Builds the server from its configuration. The only module that knows all domains.

Services exist only while the application runs, because the database is opened at start. `Services` lists them; its field names are the
names under which handlers ask for them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from litestar import Litestar
from litestar.types import ControllerRouterHandler

from probity.audit import routes as audit_routes
from probity.audit.heads import HeadsFile
from probity.audit.sealer import Sealer
from probity.audit.service import AuditService
from probity.config import Config, ConfigError, jwt_key_bytes
from probity.dispatch import hot as dispatch_hot
from probity.dispatch import routes as dispatch_routes
from probity.dispatch import tasks as dispatch_tasks
from probity.dispatch.service import DispatchService
from probity.fleet import hot as fleet_hot
from probity.fleet import routes as fleet_routes
from probity.fleet import tasks as fleet_tasks
from probity.fleet.authenticator import AgentAuthenticator
from probity.fleet.browse.service import FleetBrowser
from probity.fleet.service import FleetService
from probity.identity.keys import routes as key_routes
from probity.identity.keys.service import KeyService
from probity.identity.passwords import Passwords
from probity.identity.service import IdentityService
from probity.identity.sessions import routes as session_routes
from probity.identity.sessions import tasks as session_tasks
from probity.identity.sessions.authenticator import UserAuthenticator
from probity.identity.sessions.service import SignInService
from probity.kernel.blobs import BlobStore, DirectoryBlobStore
from probity.kernel.clock import Clock, SystemClock
from probity.kernel.crypto import KeyRing
from probity.kernel.db import Database
from probity.kernel.errors import Invalid
from probity.kernel.http import health
from probity.kernel.http.application import Running, assemble
from probity.kernel.http.auth import Authenticator, Authenticators
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.health import Check, Features, Readiness
from probity.kernel.http.hot import HotRoute
from probity.kernel.http.settings import HttpSettings
from probity.kernel.http.shutdown import Shutdown
from probity.kernel.http.tiers import TIERS
from probity.kernel.limits import Limiter, LocalLimiter, Overrides, overrides_from
from probity.kernel.locations import parse_s3_url, parse_smtp_url
from probity.kernel.mail import DeliverMail, Mailer, PruneMail
from probity.kernel.principal import AgentId, Principal, UserId
from probity.kernel.redis_limits import RedisLimiter
from probity.kernel.secret import Secret
from probity.kernel.smtp import SmtpTransport
from probity.kernel.tasks import Periodic, TaskRunner
from probity.kernel.telemetry import Metrics
from probity.kernel.uploads import CollectBlobs, Uploads
from probity.kernel.wakeups import BothTransports, PostgresTransport, RedisTransport, Wakeups
from probity.projects.service import ProjectService
from probity.runs import hot as run_hot
from probity.runs import routes as run_routes
from probity.runs import tasks as run_tasks
from probity.runs.artifacts.service import ArtifactService
from probity.runs.browse.service import RunBrowser
from probity.runs.imports.service import ImportService
from probity.runs.ingest.service import IngestService
from probity.runs.live import mount as socket_routes
from probity.runs.live.hub import RunHub
from probity.runs.live.service import LiveService
from probity.runs.live.socketio import SocketGateway
from probity.runs.models import RUN_CHANNEL
from probity.runs.service import RunService
from probity.web import routes as web
from probity.web.pages import Pages


@dataclass(frozen=True)
class Services:
    """Everything that handlers may ask for."""

    readiness: Readiness
    features: Features
    metrics: Metrics
    shutdown: Shutdown
    limiter: Limiter
    db: Database
    fleet_browser: FleetBrowser
    run_browser: RunBrowser
    pages: Pages
    ring: KeyRing
    blobs: BlobStore
    uploads: Uploads
    mailer: Mailer
    audit: AuditService
    identity: IdentityService
    sign_in_service: SignInService
    keys: KeyService
    projects: ProjectService
    user_authenticator: UserAuthenticator
    wakeups: Wakeups
    fleet: FleetService
    dispatch: DispatchService
    runs: RunService
    ingest: IngestService
    live: LiveService
    imports: ImportService
    artifacts: ArtifactService


@dataclass(frozen=True)
class _Frame:
    """What exists before the database is open, and stays the same however often the application is started."""

    config: Config
    clock: Clock
    metrics: Metrics
    shutdown: Shutdown
    limits: Overrides
    pages: Pages
    ring: KeyRing
    heads: HeadsFile
    blobs: BlobStore
    sockets: SocketGateway
    on_seal_failure: Callable[[], None]


def build(
    config: Config,
    *,
    clock: Clock | None = None,
    authenticators: Sequence[Authenticator] = (),
    routes: Sequence[ControllerRouterHandler] = (),
) -> Litestar:
    """Return the application: an ASGI callable that opens the database at start.

    Args:
        clock: the server's time; tests pass one that they move.
        authenticators: asked before the server's own (tests).
        routes: served beside the server's own (tests).
    """
    frame = _frame(config, clock or SystemClock())

    @asynccontextmanager
    async def start() -> AsyncIterator[Running]:
        async with AsyncExitStack() as stack:
            services = await _start_services(frame, stack)
            yield Running(
                services={field.name: getattr(services, field.name) for field in fields(services)},
                authenticator=Authenticators([*authenticators, *_authenticators(services)]),
                limiter=services.limiter,
                hot_routes=_hot_routes(services),
            )

    return assemble(
        routes=[*_routes(config), *socket_routes.routes(frame.sockets), *routes],
        service_names=[field.name for field in fields(Services)],
        start=start,
        settings=_http_settings(config),
        clock=frame.clock,
        metrics=frame.metrics,
        shutdown=frame.shutdown,
        pages=frame.pages.failure,
        tiers=TIERS,
    )


def _frame(config: Config, clock: Clock) -> _Frame:
    metrics = Metrics()
    seal_failures = metrics.counter("audit_seal_failures_total", "Times the audit trail could not be sealed or its heads not written")
    return _Frame(
        config=config,
        clock=clock,
        metrics=metrics,
        shutdown=Shutdown(drain_s=config.http.drain_s),
        limits=overrides_from(config.limits),
        pages=Pages(clock),
        ring=KeyRing.of(config.keys.master, refuse_weak=config.is_production),
        heads=HeadsFile(config.storage.data_dir),
        blobs=_blob_store(config),
        sockets=SocketGateway(),
        on_seal_failure=seal_failures.inc,
    )


async def _start_services(frame: _Frame, stack: AsyncExitStack) -> Services:
    """Open everything, lower layers first; `stack` closes it in the opposite order."""
    config, clock = frame.config, frame.clock
    db = await _open_database(config, stack)
    limiter, checks = _open_limiter(frame, db, stack)
    sealer = await _start_sealer(frame, db, stack)
    passwords = Passwords()
    stack.callback(passwords.close)
    identity = IdentityService(db, clock, passwords)
    sign_in = SignInService(db, clock, passwords, jwt_key_bytes(config.keys.jwt), jwt_ttl_s=config.identity.jwt_ttl_s)
    keys = KeyService(db, clock)
    await _bootstrap(config, identity)
    wakeups = _wakeups(config, db)
    stack.push_async_callback(wakeups.close)
    await wakeups.start()
    fleet = FleetService(db, clock, limiter, heartbeat_interval_s=config.fleet.heartbeat_interval_s)
    dispatch = await _start_dispatch(frame, db, fleet, wakeups, stack)
    projects = ProjectService(db, clock)
    live = await _start_live(frame, db, wakeups, stack)
    runs = RunService(db, clock, dispatch, fleet, projects)
    uploads = Uploads(db, clock, frame.blobs)
    services = Services(
        readiness=Readiness(checks, frame.shutdown),
        features=Features(email=config.mail.smtp_url is not None),
        metrics=frame.metrics,
        shutdown=frame.shutdown,
        limiter=limiter,
        db=db,
        fleet_browser=FleetBrowser(db, clock),
        run_browser=RunBrowser(db),
        pages=frame.pages,
        ring=frame.ring,
        blobs=frame.blobs,
        uploads=uploads,
        mailer=_mailer(config, db, clock, frame.ring),
        audit=AuditService(db, clock, frame.ring, sealer=sealer, heads=frame.heads, names=_ActorNames(identity, fleet)),
        identity=identity,
        sign_in_service=sign_in,
        keys=keys,
        projects=projects,
        user_authenticator=UserAuthenticator(sign_in, keys),
        wakeups=wakeups,
        fleet=fleet,
        dispatch=dispatch,
        runs=runs,
        ingest=IngestService(db, clock),
        live=live,
        imports=ImportService(db, clock, runs),
        artifacts=ArtifactService(db, clock, uploads, frame.blobs),
    )
    await frame.sockets.open(live, services.user_authenticator.authenticate_token, frame.shutdown.stopping)
    tasks = _task_runner(services, clock)
    stack.push_async_callback(tasks.stop, config.http.shutdown_grace_s)
    await tasks.start()
    return services


async def _open_database(config: Config, stack: AsyncExitStack) -> Database:
    db = await Database.open(
        dsn=config.database.url,
        system_dsn=config.database.system_url,
        pool_size=config.database.pool_size,
        system_pool_size=config.database.system_pool_size,
    )
    stack.push_async_callback(db.close)
    return db


def _open_limiter(frame: _Frame, db: Database, stack: AsyncExitStack) -> tuple[Limiter, dict[str, Check]]:
    """Return the limiter, in Redis where there is one, and what must answer before this server gets traffic."""
    redis = frame.config.redis
    if redis.url is None:
        return LocalLimiter(frame.clock, frame.limits), {"postgres": db.ping}
    shared = RedisLimiter(redis.url, redis.namespace, frame.metrics.limiter_failures, frame.limits)
    stack.push_async_callback(shared.close)
    return shared, {"postgres": db.ping, "redis": shared.ping}


async def _start_sealer(frame: _Frame, db: Database, stack: AsyncExitStack) -> Sealer:
    sealer = Sealer(db, frame.clock, frame.ring, frame.heads, on_failure=frame.on_seal_failure)
    await stack.enter_async_context(_running(sealer.run))
    return sealer


async def _start_dispatch(frame: _Frame, db: Database, fleet: FleetService, wakeups: Wakeups, stack: AsyncExitStack) -> DispatchService:
    caps = frame.config.fleet
    dispatch = DispatchService(db, frame.clock, fleet, wakeups, queue_cap=caps.queue_cap_per_org, agent_queue_cap=caps.queue_cap_per_agent)
    # Waiting claims end with the server, not with their time.
    await stack.enter_async_context(_when(frame.shutdown.stopping, dispatch.stop))
    return dispatch


async def _start_live(frame: _Frame, db: Database, wakeups: Wakeups, stack: AsyncExitStack) -> LiveService:
    hub = RunHub(db, stopping=frame.shutdown.stopping)
    wakeups.subscribe(RUN_CHANNEL, hub.wake)
    stack.push_async_callback(hub.close)
    await hub.start()
    wakeups.subscribe(RUN_CHANNEL, frame.sockets.wake)
    stack.push_async_callback(frame.sockets.close)
    return LiveService(db, hub)


@asynccontextmanager
async def identity_beside_the_server(*, url: Secret, system_url: Secret) -> AsyncIterator[IdentityService]:
    """Provide users and passwords to a command that works on the database itself."""
    db = await Database.open(dsn=url, system_dsn=system_url, pool_size=1, system_pool_size=1)
    passwords = Passwords(threads=1)
    try:
        yield IdentityService(db, SystemClock(), passwords)
    finally:
        passwords.close()
        await db.close()


@asynccontextmanager
async def audit_beside_the_server(*, url: Secret, system_url: Secret, ring: KeyRing, data_dir: Path) -> AsyncIterator[AuditService]:
    """Provide the trail to a command that works on the database itself, whether a server runs or not."""
    clock = SystemClock()
    heads = HeadsFile(data_dir)
    db = await Database.open(dsn=url, system_dsn=system_url, pool_size=1, system_pool_size=2)
    passwords = Passwords(threads=1)
    try:
        identity = IdentityService(db, clock, passwords)
        fleet = FleetService(db, clock, LocalLimiter(clock), heartbeat_interval_s=30)
        sealer = Sealer(db, clock, ring, heads)
        yield AuditService(db, clock, ring, sealer=sealer, heads=heads, names=_ActorNames(identity, fleet))
    finally:
        passwords.close()
        await db.close()


async def _bootstrap(config: Config, identity: IdentityService) -> None:
    """Make the first administrator that the settings name.

    Raises:
        ConfigError: they name one that cannot be.
    """
    email, password = config.identity.bootstrap_email, config.identity.bootstrap_password
    if email is None or password is None:
        return
    try:
        await identity.bootstrap(email, password)
    except Invalid as error:
        raise ConfigError([f"PROBITY_ADMIN_EMAIL, PROBITY_ADMIN_PASSWORD: {error.message}"]) from error


def _blob_store(config: Config) -> BlobStore:
    if config.storage.blob_url is None:
        return DirectoryBlobStore(config.storage.data_dir / "blobs")
    # boto3 is an extra: only who asks for S3 needs it.
    from probity.kernel.blobs_s3 import S3BlobStore

    return S3BlobStore(parse_s3_url(config.storage.blob_url))


def _mailer(config: Config, db: Database, clock: Clock, ring: KeyRing) -> Mailer:
    transport = SmtpTransport(parse_smtp_url(config.mail.smtp_url)) if config.mail.smtp_url else None
    return Mailer(db, clock, ring, transport=transport, sender=config.mail.sender, shows_text=not config.is_production)


class _ActorNames:
    """Tells the trail who stands behind an id."""

    def __init__(self, identity: IdentityService, fleet: FleetService) -> None:
        self._identity = identity
        self._fleet = fleet

    async def user_names(self, principal: Principal, ids: Iterable[UserId]) -> Mapping[UserId, str]:
        return await self._identity.user_names(principal, ids)

    async def agent_names(self, principal: Principal, ids: Iterable[AgentId]) -> Mapping[AgentId, str]:
        return await self._fleet.agent_names(principal, ids)


@asynccontextmanager
async def _running(loop: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run a loop of the server until this block ends; it gets the event that tells it to finish."""
    stop = asyncio.Event()
    task = asyncio.create_task(loop(stop))
    try:
        yield
    finally:
        stop.set()
        await task


@asynccontextmanager
async def _when(event: asyncio.Event, call: Callable[[], None]) -> AsyncIterator[None]:
    """Call `call` once the event is set, should that happen before this block ends."""

    async def wait() -> None:
        await event.wait()
        call()

    task = asyncio.create_task(wait())
    try:
        yield
    finally:
        task.cancel()


def _routes(config: Config) -> list[ControllerRouterHandler]:
    """Every route of the server, domain by domain."""
    return [
        *health.routes(),
        *audit_routes.routes(),
        *session_routes.routes(),
        *key_routes.routes(),
        *fleet_routes.routes(allow_direct_mint=config.fleet.allow_direct_mint),
        *dispatch_routes.routes(),
        *run_routes.routes(),
        *web.routes(),
    ]


def _authenticators(services: Services) -> list[Authenticator]:
    """Who is asked who the caller is, in this order."""
    return [AgentAuthenticator(services.fleet), services.user_authenticator]


def _hot_routes(services: Services) -> list[HotRoute]:
    """Routes answered in front of the router."""
    return [
        *fleet_hot.routes(services.fleet),
        *dispatch_hot.routes(services.dispatch),
        *run_hot.routes(services.runs, services.ingest, services.fleet, services.keys),
    ]


def _task_runner(services: Services, clock: Clock) -> TaskRunner:
    """The background work of every domain."""
    return TaskRunner(
        services.db,
        clock,
        {
            CollectBlobs: services.uploads.run_collect,
            DeliverMail: services.mailer.run_deliver,
            PruneMail: services.mailer.run_prune,
            **session_tasks.handlers(services.sign_in_service),
            **fleet_tasks.HANDLERS,
            **dispatch_tasks.HANDLERS,
            **run_tasks.HANDLERS,
        },
        [
            Periodic("kernel.collect_blobs", 3600, CollectBlobs()),
            Periodic("kernel.prune_mail", 86400, PruneMail()),
            *session_tasks.PERIODIC,
            *fleet_tasks.PERIODIC,
            *dispatch_tasks.PERIODIC,
            *run_tasks.PERIODIC,
        ],
        subscriptions=run_tasks.subscriptions(services.runs),
    )


def _wakeups(config: Config, db: Database) -> Wakeups:
    postgres = PostgresTransport(db)
    if config.redis.url is None:
        return Wakeups(db, postgres)
    return Wakeups(db, BothTransports(postgres, RedisTransport(config.redis.url, namespace=config.redis.namespace)))


def _http_settings(config: Config) -> HttpSettings:
    return HttpSettings(
        public_url=config.http.public_url,
        trusted_proxies=config.http.trusted_proxies,
        compat_hosts={host: Dialect(name) for host, name in config.http.compat_hosts.items()},
        cors_origins=config.http.cors_origins,
        body_timeout_s=config.http.body_timeout_s,
    )
