"""What can go wrong in the fleet. Texts are the contract's (secrets.md 2.4, 6.4)."""

from probity.kernel.errors import Conflict, Denied, Invalid, NotFound, ProbityError, Unauthenticated


class AgentNotFound(NotFound):
    code = "fleet.agent_not_found"

    def __init__(self) -> None:
        super().__init__("agent not found")


class AgentNameTaken(Conflict):
    code = "fleet.agent_name_taken"

    def __init__(self, name: str) -> None:
        super().__init__("an agent with this name exists; choose another name or revoke it first", name=name)


class InvalidAgent(Invalid):
    code = "fleet.invalid_agent"


class InvalidPublicKey(Invalid):
    code = "fleet.invalid_public_key"


class SecretMissing(Unauthenticated):
    code = "fleet.agent_secret_missing"

    def __init__(self) -> None:
        super().__init__("X-Agent-Secret header required")


class AgentRejected(Unauthenticated):
    """One text for every reason, so that nobody can probe which agents exist."""

    code = "fleet.agent_rejected"

    def __init__(self) -> None:
        super().__init__("agent auth rejected")


class TokenNotFound(NotFound):
    code = "fleet.enrollment_token_not_found"

    def __init__(self) -> None:
        super().__init__("enrollment token not found or not revocable")


class DirectMintDisabled(Denied):
    code = "direct_agent_mint_disabled"

    def __init__(self) -> None:
        super().__init__("agents are added with an enrollment token here; SB_ALLOW_DIRECT_AGENT_MINT=true allows this")


class EnrollmentRefused(ProbityError):
    """A machine may not join. `code` is what its contract puts on the wire; `reason` goes to the audit trail, if any."""

    reason: str | None = None


class EnrollmentTokenInvalid(EnrollmentRefused, Unauthenticated):
    code = "enrollment_token_invalid"
    reason = "token_invalid"

    def __init__(self) -> None:
        super().__init__("the enrollment token is not valid")


class EnrollmentTokenExpired(EnrollmentRefused, Unauthenticated):
    code = "enrollment_token_expired"
    reason = "token_expired"

    def __init__(self) -> None:
        super().__init__("the enrollment token has expired; make a new one")


class EnrollmentTokenRevoked(EnrollmentRefused, Denied):
    code = "enrollment_token_revoked"
    reason = "token_revoked"

    def __init__(self) -> None:
        super().__init__("the enrollment token was revoked; make a new one")


class EnrollmentTokenConsumed(EnrollmentRefused, Conflict):
    code = "enrollment_token_already_consumed"
    reason = "token_already_consumed"

    def __init__(self) -> None:
        super().__init__("the enrollment token was used as often as it allows; make a new one")


class EnrollmentNameRequired(EnrollmentRefused, Invalid):
    code = "agent_name_required"

    def __init__(self) -> None:
        super().__init__("agent_name is required")


class EnrollmentNameTaken(EnrollmentRefused, Conflict):
    code = "agent_name_taken"

    def __init__(self) -> None:
        super().__init__("an agent with this name exists; choose another name or revoke it first")
