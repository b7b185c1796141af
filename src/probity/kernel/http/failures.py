"""What can go wrong before a handler runs. Each dialect words these itself."""

from probity.kernel.errors import Denied, Invalid, NotFound, ProbityError, RequestTimeout, TooLarge, TooMany, UnsupportedMedia
from probity.kernel.limits import Policy, Verdict


class InvalidInput(Invalid):
    """The input was understood and is wrong; `fields` names every wrong field."""

    code = "invalid_input"


class MalformedJson(Invalid):
    code = "malformed_json"


class EmptyBody(Invalid):
    code = "empty_body"


class WrongMediaType(UnsupportedMedia):
    code = "wrong_media_type"


class BodyTooLarge(TooLarge):
    code = "body_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes", limit_bytes=limit_bytes)


class SlowBody(RequestTimeout):
    code = "slow_body"

    def __init__(self) -> None:
        super().__init__("the body did not arrive in time")


class ClientGone(ProbityError):
    """The caller hung up while sending; nobody reads the reply."""

    code = "client_gone"


class UnknownPath(NotFound):
    code = "unknown_path"

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"no such path: {method} {path}", method=method, path=path)


class CsrfRejected(Denied):
    """A write that a browser sent with a session cookie, without proof that one of our pages sent it."""

    code = "csrf_rejected"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class LimitReached(TooMany):
    code = "rate_limited"

    def __init__(self, policy: Policy, verdict: Verdict) -> None:
        seconds = -int(-verdict.retry_after_s // 1)
        message = (policy.message or "too many requests; try again later").replace("{minutes}", str(-(-seconds // 60)))
        super().__init__(message, retry_after_s=seconds, policy=policy.name)
        self.policy = policy
        self.verdict = verdict
