"""What can go wrong between a client and its server."""

from probity.kernel.errors import Denied, Invalid, Unauthenticated, Unavailable


class NotSignedIn(Unauthenticated):
    code = "client.not_signed_in"

    def __init__(self) -> None:
        super().__init__("not signed in; run `probity login --server URL`, or set PROBITY_URL and PROBITY_API_KEY")


class CredentialRejected(Unauthenticated):
    code = "client.credential_rejected"


class UnsafeProfile(Invalid):
    code = "client.unsafe_profile"


class ServerUnreachable(Unavailable):
    code = "client.server_unreachable"


class Refused(Denied):
    """The server said no; `status` is its HTTP status."""

    code = "client.refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, status=status)
        self.status = status
