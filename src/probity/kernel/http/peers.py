"""Who sent the request and where to: the peer, or what a trusted proxy says about it."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

Networks = tuple[IPv4Network | IPv6Network, ...]


class Peer(NamedTuple):
    client_ip: str
    scheme: str
    host: str


def peer_of(address: str, scheme: str, headers: Sequence[tuple[bytes, bytes]], trusted: Networks) -> Peer:
    """Return the caller as the server should see it.

    `X-Forwarded-For` is read from the right, past every trusted proxy, so that a caller cannot put an address of its choice in front.
    """
    host = ""
    forwarded: list[str] = []
    forwarded_proto = forwarded_host = None
    for name, value in headers:
        if name == b"host":
            host = value.decode("latin-1")
        elif name == b"x-forwarded-for":
            forwarded += [part.strip() for part in value.decode("latin-1").split(",")]
        elif name == b"x-forwarded-proto":
            forwarded_proto = value.decode("latin-1").strip().lower()
        elif name == b"x-forwarded-host":
            forwarded_host = value.decode("latin-1").strip()
    if not trusted or not _is_trusted(address, trusted):
        return Peer(address, scheme, host)
    client = address
    for hop in reversed(forwarded):
        if _parse(hop) is None:
            break
        client = hop
        if not _is_trusted(hop, trusted):
            break
    return Peer(client, forwarded_proto if forwarded_proto in ("http", "https") else scheme, forwarded_host or host)


def _is_trusted(address: str, trusted: Networks) -> bool:
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in trusted if network.version == parsed.version)


@lru_cache(maxsize=4096)
def _parse(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


@lru_cache(maxsize=4096)
def limit_key(address: str) -> str:
    """Return what an address is counted as: IPv6 callers own a whole network, so they are counted by their /56."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, 56), strict=False))
    return address
