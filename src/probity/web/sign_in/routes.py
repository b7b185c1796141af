"""The pages' own sign-in and sign-out."""

from typing import Final

from litestar import Response, Router, get, post
from litestar.di import NamedDependency
from litestar.response import Redirect

from probity.identity.errors import InvalidCredentials, MissingCredentials
from probity.identity.sessions.models import Caller, SessionKind
from probity.identity.sessions.service import SIGN_IN, SignInService
from probity.kernel.http.csrf import session_cookie_name
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.exchange import client_ip, correlation_id, is_https, origin_of, set_cookies
from probity.kernel.http.failures import CsrfRejected
from probity.kernel.http.groups import route_group
from probity.kernel.principal import Principal
from probity.kernel.secret import Secret
from probity.web.forms import FormProblem
from probity.web.pages import PageRequest, Pages
from probity.web.sign_in import cookies
from probity.web.sign_in.rules import is_own_form, safe_next

_WRONG: Final = FormProblem(
    "The email or the password is wrong", "Check both and try again. After five wrong tries an account rests for a while.", {}
)
_FIELDS: Final = {"email": "Enter your email address.", "password": "Enter your password."}


def routes() -> list[Router]:
    return [route_group(Dialect.PAGES, "/", [sign_in_page, sign_in, sign_out])]


@get("/sign-in", public=True, include_in_schema=False)
async def sign_in_page(
    request: PageRequest, principal: NamedDependency[Principal], pages: NamedDependency[Pages]
) -> Response[str] | Redirect:
    """Ask who it is. Whoever is signed in already goes straight on."""
    wanted = request.query_params.get("next", "")
    if not principal.is_anonymous:
        return Redirect(safe_next(wanted), status_code=303)
    return _form(request, principal, pages, wanted)


@post("/sign-in", status_code=200, public=True, csrf=False, limits=(SIGN_IN,), include_in_schema=False)
async def sign_in(
    request: PageRequest,
    principal: NamedDependency[Principal],
    pages: NamedDependency[Pages],
    sign_in_service: NamedDependency[SignInService],
) -> Response[str] | Redirect:
    """Check the password, open a session and go on to where the reader wanted to be."""
    _refuse_foreign(request)
    form = await request.form()
    email, password, wanted = (str(form.get(name, "")) for name in ("email", "password", "next"))
    missing = {name: text for name, text in _FIELDS.items() if not form.get(name)}
    if missing:
        return _form(request, principal, pages, wanted, email, FormProblem("Something is missing", "", missing), status=400)
    try:
        signed_in = await sign_in_service.sign_in(
            email,
            Secret(password),
            kind=SessionKind.UI,
            caller=Caller(client_ip(request), request.headers.get("user-agent")),
            correlation_id=correlation_id(request),
        )
    except (InvalidCredentials, MissingCredentials):
        return _form(request, principal, pages, wanted, email, _WRONG, status=401)
    set_cookies(request, [cookies.opened(signed_in, https=is_https(request))])
    return Redirect(safe_next(wanted), status_code=303)


@post("/sign-out", status_code=303, public=True, csrf=False, include_in_schema=False)
async def sign_out(request: PageRequest, sign_in_service: NamedDependency[SignInService]) -> Redirect:
    """End the session of this browser."""
    _refuse_foreign(request)
    https = is_https(request)
    cookie = request.cookies.get(session_cookie_name(https=https))
    if cookie:
        await sign_in_service.sign_out_cookie(cookie, correlation_id=correlation_id(request))
    set_cookies(request, [cookies.closed(https=https)])
    return Redirect("/sign-in", status_code=303)


def _form(
    request: PageRequest,
    principal: Principal,
    pages: Pages,
    wanted: str,
    email: str = "",
    problem: FormProblem | None = None,
    *,
    status: int = 200,
) -> Response[str]:
    return pages.page(
        request, principal, "sign_in/sign_in.html", title="Sign in", status=status, next_path=wanted, email=email[:320], problem=problem
    )


def _refuse_foreign(request: PageRequest) -> None:
    headers = request.headers
    if not is_own_form(fetch_site=headers.get("sec-fetch-site"), origin=headers.get("origin"), own_origin=origin_of(request)):
        raise CsrfRejected("this form was not sent by a page of this server")
