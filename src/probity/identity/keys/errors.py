"""What can go wrong with keys."""

from probity.kernel.errors import Denied, Invalid, NotFound


class KeyNotFound(NotFound):
    code = "identity.key_not_found"

    def __init__(self) -> None:
        super().__init__("API key not found or already revoked")


class KeyExpiryInPast(Invalid):
    code = "identity.key_expiry_in_past"


class KeyNeedsMaker(Denied):
    """A key can do what its maker can, so somebody must have made it."""

    code = "identity.key_needs_maker"
