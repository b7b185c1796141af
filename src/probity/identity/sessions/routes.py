"""Sign-in, sign-out and `me`, where Secrets Bridge and Sentri meet (contracts/collisions.md).

Pinned, each contract holds to the letter. At the root the reply is the union, and what the caller presents decides which cookies it gets.
"""

from typing import Any, Final

from litestar import Request, Response, Router, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from probity.identity.errors import InvalidCredentials, MissingCredentials
from probity.identity.sessions import cookies, schemas
from probity.identity.sessions.authenticator import session_credentials
from probity.identity.sessions.models import Caller, SessionKind, SignedIn
from probity.identity.sessions.schemas import BridgeSignedIn, Me, Message, SentriSignedIn, SignInBody, UnionSignedIn
from probity.identity.sessions.service import SIGN_IN, SignInService
from probity.kernel.errors import Denied, Unauthenticated
from probity.kernel.http.csrf import CSRF_COOKIE, new_cookie, new_token
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.exchange import choose_dialect, client_ip, cookie_suffix, correlation_id, is_https, pinned_dialect, set_cookies
from probity.kernel.http.failures import InvalidInput
from probity.kernel.http.groups import route_group
from probity.kernel.limits import Algorithm, Policy
from probity.kernel.principal import Principal
from probity.kernel.secret import Secret

AnyRequest = Request[Any, Any, Any]

# Sources: secrets.md §4, webtest.md §4.
SIGN_OUT: Final = Policy("auth:logout", limit=30, window_s=60, quiet=True)
SENTRI_SIGN_IN: Final = Policy(
    "sentri:login",
    limit=10,
    window_s=900,
    algorithm=Algorithm.FIXED_WINDOW,
    message="Too many sign-in attempts. Try again in {minutes} minutes.",
    quiet=True,
)


class ForeignSignIn(Denied):
    """Another site's form tried to sign a visitor in, perhaps to an account of its own."""

    code = "identity.foreign_sign_in"

    def __init__(self) -> None:
        super().__init__("sign-in from another site is refused")


@post("/login", status_code=200, public=True, csrf=False, limits=(SIGN_IN,), pinned_limits={Dialect.SENTRI: (SENTRI_SIGN_IN,)})
async def sign_in(
    data: JSONBody[SignInBody], request: AnyRequest, sign_in_service: NamedDependency[SignInService]
) -> UnionSignedIn | BridgeSignedIn | SentriSignedIn:
    """Sign in with an address and a password."""
    pin = pinned_dialect(request)
    is_sentri_client = CSRF_COOKIE in request.cookies or "x-csrf-token" in request.headers
    if is_sentri_client:
        choose_dialect(request, Dialect.SENTRI)
    _refuse_foreign_form(request)
    signed_in = await _sign_in(data, request, sign_in_service, pin)
    https = is_https(request)
    for_sentri = pin is Dialect.SENTRI or (pin is None and (is_sentri_client or "origin" not in request.headers))
    for_bridge = pin is Dialect.BRIDGE or (pin is None and not is_sentri_client)
    if for_bridge:
        set_cookies(request, cookies.bridge(signed_in, https=https))
    if for_sentri:
        set_cookies(request, cookies.sentri(signed_in, cookie_suffix(request)))
    if pin is None and is_sentri_client:
        _ensure_csrf_cookie(request)
    match pin:
        case Dialect.SENTRI:
            return schemas.sentri_signed_in(signed_in)
        case Dialect.BRIDGE:
            return schemas.bridge_signed_in(signed_in)
        case _:
            return schemas.union_signed_in(signed_in)


@post("/logout", status_code=200, public=True, csrf=False, limits=(SIGN_OUT,), pinned_limits={Dialect.SENTRI: ()})
async def sign_out(
    request: AnyRequest, principal: NamedDependency[Principal], sign_in_service: NamedDependency[SignInService]
) -> Response[Message | None]:
    """Revoke every session that the request carries a credential of, and clear the cookies."""
    pin = pinned_dialect(request)
    if pin is Dialect.SENTRI and principal.is_anonymous:
        raise Unauthenticated("authentication required")
    presented = list(session_credentials(request))
    await sign_in_service.sign_out([(item.form, item.text) for item in presented], correlation_id=correlation_id(request))
    https = is_https(request)
    is_sentri = pin is Dialect.SENTRI or (pin is None and any(item.cookie in (None, cookies.SENTRI) for item in presented))
    if pin is not Dialect.SENTRI:
        set_cookies(request, cookies.clear_bridge(https=https))
    if is_sentri:
        set_cookies(request, cookies.clear_sentri(cookie_suffix(request)))
    if any(item.cookie is not None and item.cookie.endswith(cookies.UI) for item in presented):
        set_cookies(request, cookies.clear_ui(https=https))
    if is_sentri:
        return Response(Message("Signed out successfully."))
    return Response(None, status_code=204)


@get("/me", authenticated=True)
async def get_me(request: AnyRequest, principal: NamedDependency[Principal], sign_in_service: NamedDependency[SignInService]) -> Me:
    """Return the signed-in person; also where a browser first gets its `_csrf` cookie at the root."""
    if pinned_dialect(request) is None:
        _ensure_csrf_cookie(request)
    return schemas.me(await sign_in_service.account(principal))


def routes() -> list[Router]:
    return [
        route_group(Dialect.BRIDGE, "/api/v1/auth", [sign_in, sign_out], also=(Dialect.SENTRI,), tags=["Sign-in"]),
        route_group(Dialect.SENTRI, "/api/v1/auth", [get_me], tags=["Sign-in"]),
    ]


async def _sign_in(data: SignInBody, request: AnyRequest, service: SignInService, pin: Dialect | None) -> SignedIn:
    """Sign in, with refusals as the pinned contract states them."""
    kind = {Dialect.BRIDGE: SessionKind.BRIDGE, Dialect.SENTRI: SessionKind.SENTRI}.get(pin or Dialect.OWN, SessionKind.ROOT)
    try:
        email, password = data.texts()
        return await service.sign_in(
            email,
            Secret(password),
            kind=kind,
            caller=Caller(client_ip(request), request.headers.get("user-agent")),
            correlation_id=correlation_id(request),
        )
    except InvalidInput as error:
        if pin is Dialect.SENTRI:
            raise MissingCredentials from error
        raise
    except (MissingCredentials, InvalidCredentials) as error:
        if pin is Dialect.BRIDGE:
            raise Unauthenticated("invalid credentials") from error
        raise


def _refuse_foreign_form(request: AnyRequest) -> None:
    """Refuse what another site's page can send without asking us first: a form. Scripts of allowed origins send JSON, after a preflight."""
    if request.headers.get("sec-fetch-site") == "cross-site" and "json" not in request.headers.get("content-type", ""):
        raise ForeignSignIn


def _ensure_csrf_cookie(request: AnyRequest) -> None:
    """Hand out the double-submit token at the root; under Sentri's pin the gate does so with every reply."""
    if CSRF_COOKIE not in request.cookies:
        set_cookies(request, [new_cookie(new_token(), cookie_suffix(request))])
