"""Settings: read once from the environment into one frozen `Config`, a section per part of the server.

Names are `PROBITY_*` and the names that the five contracts document. Every secret `X` may also be given as `X_FILE`, a path.
`docs/configuration.md` is generated from the table in this module; a test compares them.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from probity.kernel.limits import overrides_from
from probity.kernel.locations import parse_s3_url, parse_smtp_url
from probity.kernel.secret import Secret

T = TypeVar("T")

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
# Values that stand in examples and compose files all over the world; as keys they are public.
_DEVELOPMENT_KEYS: Final = frozenset({"", "changeme", "change-me", "secret", "development", "dev", "test", "password", "probity"})


class ConfigError(Exception):
    """One or more settings are wrong; `problems` names each with its remedy."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("wrong settings:\n" + "\n".join(f"  - {problem}" for problem in problems))
        self.problems = problems


@dataclass(frozen=True)
class DatabaseConfig:
    url: Secret
    system_url: Secret
    migration_url: Secret | None
    pool_size: int
    system_pool_size: int


@dataclass(frozen=True)
class HttpConfig:
    host: str
    port: int
    public_url: str
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    compat_hosts: Mapping[str, str]
    cors_origins: tuple[str, ...]
    shutdown_grace_s: float
    drain_s: float
    body_timeout_s: float
    tls_cert: Path | None
    tls_key: Path | None

    @property
    def is_https(self) -> bool:
        return self.public_url.startswith("https://")


@dataclass(frozen=True)
class KeysConfig:
    """Key material. `master` wraps stored secrets (the last one is current); `jwt` signs sign-in tokens."""

    master: tuple[Secret, ...]
    jwt: Secret


@dataclass(frozen=True)
class RedisConfig:
    url: Secret | None
    namespace: str


@dataclass(frozen=True)
class StorageConfig:
    data_dir: Path
    blob_url: str | None


@dataclass(frozen=True)
class MailConfig:
    smtp_url: Secret | None
    sender: str


@dataclass(frozen=True)
class IdentityConfig:
    jwt_ttl_s: int
    bootstrap_email: str | None
    bootstrap_password: Secret | None


@dataclass(frozen=True)
class FleetConfig:
    allow_direct_mint: bool
    heartbeat_interval_s: int
    queue_cap_per_org: int
    queue_cap_per_agent: int


@dataclass(frozen=True)
class LogConfig:
    level: str
    json: bool


@dataclass(frozen=True)
class Config:
    is_production: bool
    database: DatabaseConfig
    http: HttpConfig
    keys: KeysConfig
    redis: RedisConfig
    storage: StorageConfig
    mail: MailConfig
    identity: IdentityConfig
    fleet: FleetConfig
    log: LogConfig
    limits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """One documented variable: its name first, then other names it goes by."""

    names: tuple[str, ...]
    default: str
    about: str
    is_secret: bool = False


def load(environ: Mapping[str, str]) -> Config:
    """Read every setting from `environ`.

    Raises:
        ConfigError: some are wrong; all of them are named at once.
    """
    reader = _Reader(environ)
    production = reader.choice("PROBITY_ENV", {"production": True, "development": False, "dev": False})
    config = Config(
        is_production=production,
        database=DatabaseConfig(
            url=reader.secret("DATABASE_URL"),
            system_url=reader.secret("DATABASE_SYSTEM_URL"),
            migration_url=reader.optional_secret("DATABASE_MIGRATION_URL"),
            pool_size=reader.integer("DATABASE_MAX_CONNS", 1, 1000),
            system_pool_size=reader.integer("DATABASE_SYSTEM_MAX_CONNS", 1, 200),
        ),
        http=HttpConfig(
            host=reader.text("PROBITY_HOST"),
            port=reader.integer("PROBITY_PORT", 0, 65535),
            public_url=reader.parsed("PROBITY_PUBLIC_URL", _origin),
            trusted_proxies=reader.parsed("PROBITY_TRUSTED_PROXIES", _networks),
            compat_hosts=reader.parsed("PROBITY_COMPAT_HOSTS", _host_map),
            cors_origins=reader.words("CORS_ORIGIN"),
            shutdown_grace_s=reader.parsed("PROBITY_SHUTDOWN_GRACE", duration_s),
            drain_s=reader.integer("PROBITY_DRAIN", 0, 600),
            body_timeout_s=reader.parsed("PROBITY_BODY_TIMEOUT", duration_s),
            tls_cert=reader.path("PROBITY_TLS_CERT"),
            tls_key=reader.path("PROBITY_TLS_KEY"),
        ),
        keys=KeysConfig(
            master=reader.parsed("PROBITY_MASTER_KEYS", _master_keys, is_secret=True),
            jwt=reader.parsed("SB_JWT_SECRET", _jwt_key, is_secret=True),
        ),
        redis=RedisConfig(url=reader.optional_secret("REDIS_URL"), namespace=reader.text("REDIS_NAMESPACE")),
        storage=StorageConfig(
            data_dir=Path(reader.text("PROBITY_DATA_DIR")).absolute(), blob_url=reader.parsed("PROBITY_BLOB_URL", _blob_url)
        ),
        mail=MailConfig(smtp_url=reader.parsed("SMTP_URL", _smtp_url, is_secret=True), sender=reader.text("EMAIL_FROM")),
        identity=IdentityConfig(
            jwt_ttl_s=int(reader.parsed("SB_JWT_TOKEN_TTL", duration_s)),
            bootstrap_email=reader.text("SB_BOOTSTRAP_ADMIN_EMAIL") or None,
            bootstrap_password=reader.optional_secret("SB_BOOTSTRAP_ADMIN_PASSWORD"),
        ),
        fleet=FleetConfig(
            allow_direct_mint=reader.flag("SB_ALLOW_DIRECT_AGENT_MINT"),
            heartbeat_interval_s=reader.integer("PROBITY_HEARTBEAT_INTERVAL", 5, 3600),
            queue_cap_per_org=reader.integer("PROBITY_QUEUE_CAP", 1, 10_000_000),
            queue_cap_per_agent=reader.integer("PROBITY_AGENT_QUEUE_CAP", 1, 1_000_000),
        ),
        log=LogConfig(
            level=reader.choice("LOG_LEVEL", {name: name for name in ("debug", "info", "warning", "error")}),
            json=reader.choice("PROBITY_LOG_FORMAT", {"json": True, "console": False}),
        ),
        limits={name: value for name, value in environ.items() if name.startswith("PROBITY_LIMIT_")},
    )
    try:
        overrides_from(config.limits)
    except ValueError as error:
        reader.problems.append(str(error))
    if production:
        reader.refuse_development_keys()
    if reader.problems:
        raise ConfigError(reader.problems)
    return config


def load_database(environ: Mapping[str, str]) -> DatabaseConfig | None:
    """Read only where the database is, for commands that need nothing else; None when no DATABASE_… is set.

    Raises:
        ConfigError: some of it is missing or wrong.
    """
    reader = _Reader(environ)
    migration_url = reader.optional_secret("DATABASE_MIGRATION_URL")
    url = reader.optional_secret("DATABASE_URL") or migration_url
    system_url = reader.optional_secret("DATABASE_SYSTEM_URL") or url
    if reader.problems:
        raise ConfigError(reader.problems)
    if url is None or system_url is None:
        return None
    return DatabaseConfig(url=url, system_url=system_url, migration_url=migration_url, pool_size=1, system_pool_size=1)


def load_master_keys(environ: Mapping[str, str]) -> tuple[Secret, ...] | None:
    """Read only the keys that seal and sign, for commands that work beside the server; None when they are not set.

    Raises:
        ConfigError: they are wrong.
    """
    reader = _Reader(environ)
    if reader.optional_secret("PROBITY_MASTER_KEYS") is None:
        return None
    keys = reader.parsed("PROBITY_MASTER_KEYS", _master_keys, is_secret=True)
    if reader.problems:
        raise ConfigError(reader.problems)
    return keys


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting(("PROBITY_ENV", "SB_ENV"), "production", "`production` or `development`; development relaxes cookies and key checks"),
    Setting(("DATABASE_URL",), "", "PostgreSQL address with the role `probity_app`; `probity up` fills it in", is_secret=True),
    Setting(("DATABASE_SYSTEM_URL",), "", "the same database with the role `probity_system`", is_secret=True),
    Setting(
        ("DATABASE_MIGRATION_URL",), "", "the same database with the role that owns the tables; for `probity db migrate`", is_secret=True
    ),
    Setting(("DATABASE_MAX_CONNS",), "10", "connections of the application role per server process"),
    Setting(("DATABASE_SYSTEM_MAX_CONNS",), "4", "connections of the system role per server process"),
    Setting(("PROBITY_HOST",), "127.0.0.1", "address to listen on"),
    Setting(("PROBITY_PORT",), "8484", "port to listen on"),
    Setting(("PROBITY_PUBLIC_URL",), "http://127.0.0.1:8484", "address under which browsers and agents reach the server"),
    Setting(("PROBITY_TRUSTED_PROXIES",), "", "addresses or networks whose forwarded headers are believed; none by default"),
    Setting(("PROBITY_COMPAT_HOSTS",), "", "`host=dialect` pairs, comma separated; `<dialect>.localhost` works without"),
    Setting(("CORS_ORIGIN", "ALLOWED_ORIGINS"), "", "origins that browsers may call from, comma separated"),
    Setting(("PROBITY_SHUTDOWN_GRACE", "API_SHUTDOWN_GRACE"), "15s", "how long a stopping server waits for requests and tasks"),
    Setting(("PROBITY_DRAIN",), "0", "seconds that a stopping server goes on serving with `/readyz` at 503, for balancers to notice"),
    Setting(
        ("PROBITY_BODY_TIMEOUT",),
        "10s",
        "how long a request body may take to arrive; uploads may take longer, with pauses of at most 30 seconds",
    ),
    Setting(("PROBITY_TLS_CERT",), "", "path of a certificate chain (PEM) to serve https without a proxy"),
    Setting(("PROBITY_TLS_KEY",), "", "path of its private key (PEM)"),
    Setting(
        ("PROBITY_MASTER_KEYS", "SB_WRAP_MASTER_KEY"),
        "",
        "base64 of 32 bytes, or several separated by commas: the last one seals, all of them open",
        is_secret=True,
    ),
    Setting(("SB_JWT_SECRET", "PROBITY_JWT_SECRET"), "", "at least 32 bytes (base64 or raw); signs sign-in tokens", is_secret=True),
    Setting(("REDIS_URL",), "", "Redis or Valkey for limits and fan-out between servers", is_secret=True),
    Setting(("REDIS_NAMESPACE",), "probity", "prefix of every key in Redis"),
    Setting(("PROBITY_DATA_DIR",), ".probity", "directory for blobs, the audit heads and, with `probity up`, PostgreSQL"),
    Setting(("PROBITY_BLOB_URL",), "", "`s3://bucket/prefix?endpoint=…` instead of the data directory"),
    Setting(("SMTP_URL",), "", "`smtp://user:password@host:587`; without it mail stays in the development mailbox", is_secret=True),
    Setting(("EMAIL_FROM",), "probity@localhost", "sender of mail"),
    Setting(("SB_JWT_TOKEN_TTL",), "8h", "how long a sign-in token lives"),
    Setting(("PROBITY_ADMIN_EMAIL", "SB_BOOTSTRAP_ADMIN_EMAIL"), "", "first administrator, made at the first start"),
    Setting(("PROBITY_ADMIN_PASSWORD", "SB_BOOTSTRAP_ADMIN_PASSWORD"), "", "the first administrator's password", is_secret=True),
    Setting(("SB_ALLOW_DIRECT_AGENT_MINT",), "true", "whether `POST /api/v1/agents` makes agents without an enrolment token"),
    Setting(("PROBITY_HEARTBEAT_INTERVAL",), "30", "seconds between heartbeats that agents are told to keep"),
    Setting(("PROBITY_QUEUE_CAP",), "100000", "queued jobs an organization may have"),
    Setting(("PROBITY_AGENT_QUEUE_CAP",), "1000", "queued jobs that may name one agent"),
    Setting(("LOG_LEVEL",), "info", "`debug`, `info`, `warning` or `error`"),
    Setting(("PROBITY_LOG_FORMAT",), "json", "`json` or `console`"),
)


class _Reader:
    """Reads settings by any of their names and collects what is wrong."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._settings = {name: setting for setting in SETTINGS for name in setting.names}
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        return self._raw(name)[1]

    def secret(self, name: str) -> Secret:
        value = self._raw(name)[1]
        if not value:
            self.problems.append(f"{name} is required (or {name}_FILE with the path of a file that holds it)")
        return Secret(value)

    def optional_secret(self, name: str) -> Secret | None:
        value = self._raw(name)[1]
        return Secret(value) if value else None

    def integer(self, name: str, least: int, most: int) -> int:
        def parse(text: str) -> int:
            value = int(text)
            if not least <= value <= most:
                raise ValueError
            return value

        return self.parsed(name, parse, hint=f"a whole number from {least} to {most}")

    def flag(self, name: str) -> bool:
        def parse(text: str) -> bool:
            lowered = text.lower()
            if lowered not in _TRUE | _FALSE:
                raise ValueError
            return lowered in _TRUE

        return self.parsed(name, parse, hint="true or false")

    def choice(self, name: str, choices: Mapping[str, T]) -> T:
        return self.parsed(name, lambda text: choices[text.lower()], hint="one of " + ", ".join(choices))

    def path(self, name: str) -> Path | None:
        value = self._raw(name)[1]
        return Path(value) if value else None

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(word.strip() for word in self._raw(name)[1].split(",") if word.strip())

    def parsed(self, name: str, parse: Callable[[str], T], *, hint: str = "", is_secret: bool = False) -> T:
        """Parse a value; on failure note the problem and go on with the default, so that one start names every problem."""
        spelled, value = self._raw(name)
        try:
            return parse(value)
        except (ValueError, KeyError) as error:
            said = hint or str(error).strip("'\"")
            self.problems.append(f"{spelled} is {'not valid' if is_secret or not value else repr(value)}; it must be {said}")
            default = self._settings[name].default
            return parse(default) if default else None  # type: ignore[return-value]  # never seen: load() raises

    def refuse_development_keys(self) -> None:
        for name in ("SB_JWT_SECRET", "PROBITY_MASTER_KEYS"):
            spelled, value = self._raw(name)
            key = jwt_key_bytes(Secret(value.rpartition(",")[2]))
            if value.strip().lower() in _DEVELOPMENT_KEYS or len(set(key)) < 8:
                self.problems.append(f"{spelled} is a development key; make one with `openssl rand -base64 32`")

    def _raw(self, name: str) -> tuple[str, str]:
        """Return the name under which the setting was given and its value ('' or the default when it was not)."""
        setting = self._settings[name]
        for alias in setting.names:
            if alias in self._environ and self._environ[alias].strip():
                return alias, self._environ[alias].strip()
            path = self._environ.get(f"{alias}_FILE", "") if setting.is_secret else ""
            if path:
                try:
                    return alias, Path(path).read_text(encoding="utf-8").strip()
                except OSError as error:
                    self._problem_once(f"{alias}_FILE: cannot read {path!r}: {error.strerror}")
        return setting.names[0], setting.default

    def _problem_once(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def duration_s(text: str) -> float:
    """Read `30`, `30s`, `15m`, `8h` or `2d` as seconds.

    Raises:
        ValueError: it is none of these.
    """
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        raise ValueError("a duration such as 30s, 15m or 8h") from None
    if not 0 < value < 10**9:
        raise ValueError("a duration above zero, such as 30s, 15m or 8h")
    return value


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("an address such as https://probity.example.com")
    return text.rstrip("/")


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(word.strip(), strict=False) for word in text.split(",") if word.strip())
    except ValueError:
        raise ValueError("addresses or networks such as 10.0.0.0/8, comma separated") from None


def _blob_url(text: str) -> str | None:
    if text:
        parse_s3_url(text)
    return text or None


def _smtp_url(text: str) -> Secret | None:
    if not text:
        return None
    parse_smtp_url(Secret(text))
    return Secret(text)


def _host_map(text: str) -> dict[str, str]:
    pairs = [pair.strip() for pair in text.split(",") if pair.strip()]
    result: dict[str, str] = {}
    for pair in pairs:
        host, sep, dialect = pair.partition("=")
        if not sep or dialect not in ("achilles", "agnox", "suparbase", "bridge", "sentri"):
            raise ValueError("host=dialect pairs with achilles, agnox, suparbase, bridge or sentri")
        result[host.strip().lower()] = dialect
    return result


def _master_keys(text: str) -> tuple[Secret, ...]:
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys or any(len(_decoded(key)) != 32 for key in keys):
        raise ValueError("base64 of 32 bytes each, comma separated (`openssl rand -base64 32`)")
    return tuple(Secret(key) for key in keys)


def _jwt_key(text: str) -> Secret:
    if len(jwt_key_bytes(Secret(text))) < 32:
        raise ValueError("at least 32 bytes (`openssl rand -base64 32`)")
    return Secret(text)


def jwt_key_bytes(secret: Secret) -> bytes:
    """Return the signing key: base64-decoded if that gives at least 32 bytes, otherwise as it stands. Source: secrets.md §2.2."""
    decoded = _decoded(secret.reveal())
    return decoded if len(decoded) >= 32 else secret.reveal().encode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
