"""What the operator decides about HTTP. `config` fills it; nothing here reads the environment."""

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network

import msgspec

from probity.kernel.http.dialect import Dialect


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`public_url` is scheme, host and port as users type them; without one, the request's own host counts. Forwarded headers are
    believed only from `trusted_proxies`. `compat_hosts` pins host names to dialects, beside `<dialect>.localhost`."""

    public_url: str | None = None
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    compat_hosts: Mapping[str, Dialect] = {}
    cors_origins: tuple[str, ...] = ()
    body_timeout_s: float = 10.0
    stream_idle_timeout_s: float = 30.0

    @property
    def has_foreign_front_end(self) -> bool:
        """Whether a listed origin is another than our own, so that cookies must travel across sites. Source: webtest.md §2.3."""
        own = (self.public_url or "").rstrip("/").lower()
        return any(origin.rstrip("/").lower() != own for origin in self.cors_origins if origin != "*")

    @property
    def is_https(self) -> bool:
        return self.public_url is not None and self.public_url.startswith("https://")
