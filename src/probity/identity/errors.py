"""What can go wrong in identity."""

from probity.kernel.errors import Conflict, Denied, Invalid, NotFound, TooMany, Unauthenticated


class InvalidCredentials(Unauthenticated):
    """The one answer to every failed sign-in, so that it tells nothing about the account."""

    code = "identity.invalid_credentials"

    def __init__(self) -> None:
        super().__init__("Invalid email or password.")


class MissingCredentials(Invalid):
    code = "identity.missing_credentials"

    def __init__(self) -> None:
        super().__init__("Invalid email or password.")


class NoOrganization(Denied):
    code = "identity.no_organization"

    def __init__(self) -> None:
        super().__init__("You are not a member of any workspace. Please contact your administrator.")


class SignInBusy(TooMany):
    """More passwords are waiting to be checked than the server can check in a reasonable time."""

    code = "identity.sign_in_busy"

    def __init__(self) -> None:
        super().__init__("too many people are signing in at the moment; try again in a few seconds", retry_after_s=3)


class WeakPassword(Invalid):
    code = "identity.weak_password"


class InvalidEmail(Invalid):
    code = "identity.invalid_email"

    def __init__(self) -> None:
        super().__init__("A valid email address is required.")


class EmailTaken(Conflict):
    code = "identity.email_taken"

    def __init__(self) -> None:
        super().__init__("An account with this email already exists.")


class SlugTaken(Conflict):
    code = "identity.slug_taken"


class UserNotFound(NotFound):
    code = "identity.user_not_found"

    def __init__(self) -> None:
        super().__init__("User not found.")


class RoleNotFound(NotFound):
    code = "identity.role_not_found"
