"""The address of a Probity server as a program is told it."""

import ipaddress
from urllib.parse import urlsplit

from probity.kernel.errors import Invalid


def server_url(text: str, *, insecure: bool = False) -> str:
    """Return `text` as a base address without a trailing slash.

    Credentials travel to this address, so plain http is accepted only for this machine itself or when `insecure` is asked for.

    Raises:
        Invalid: not an http(s) address, carries a password or query, or is plain http to another machine.
    """
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Invalid(f"not a server address: {text!r}; write it like https://probity.example.org")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise Invalid("the server address carries no user, password or query")
    if parts.scheme == "http" and not insecure and not is_loopback(parts.hostname):
        raise Invalid("the server address must be https, because credentials travel to it; --insecure allows http")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def is_loopback(host: str) -> bool:
    """Say whether a host name is this machine; names are not looked up, because an answer can change."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
