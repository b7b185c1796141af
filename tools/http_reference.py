"""Write docs/errors.md and docs/limits.md from the code: `PYTHONPATH=src python tools/http_reference.py`."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import probity
from probity import main
from probity.config import load
from probity.fleet.service import HEARTBEAT_LIMIT
from probity.kernel.errors import STATUS, ProbityError, status_of
from probity.kernel.http.groups import all_rules
from probity.kernel.http.tiers import TIERS
from probity.kernel.limits import Algorithm, Per, Policy

DOCS = Path(__file__).parents[1] / "docs"
_NOWHERE = "postgresql://nowhere/probity"
_ENVIRON = {
    "PROBITY_ENV": "development",
    "DATABASE_URL": _NOWHERE,
    "DATABASE_SYSTEM_URL": _NOWHERE,
    "PROBITY_MASTER_KEYS": "bWFzdGVyLWtleS1vZi10aGUtdGVzdHMtMzItYnl0ZXM=",
    "SB_JWT_SECRET": "signing-key-of-the-reference-at-least-32-bytes",
}
# Beside the server: what they raise never crosses the wire.
_PROGRAMS = ("__main__", "agent", "cli", "client")
_ALGORITHM = {
    Algorithm.FIXED_WINDOW: "fixed window; refused calls count",
    Algorithm.SLIDING_WINDOW: "sliding window; refused calls do not count",
    Algorithm.BUCKET: "refilling bucket",
}
_PER = {
    Per.IP: "address",
    Per.USER: "person, else address",
    Per.MEMBER: "person",
    Per.ORGANIZATION: "organization, else address",
    Per.AGENT: "agent, else address",
}


def errors() -> str:
    """Return the page of error codes."""
    for module in pkgutil.walk_packages(probity.__path__, "probity."):
        if module.name.split(".")[1] not in _PROGRAMS:
            importlib.import_module(module.name)
    rows = sorted((status_of(kind("")), kind.code, _about(kind)) for kind in STATUS)
    known = {code for _, code, _ in rows}
    specific = sorted(
        {
            (_status(kind), kind.code, _about(kind))
            for kind in _subclasses(ProbityError)
            if "code" in kind.__dict__ and kind.code not in known
        }
    )
    table = "".join(f"| `{code}` | {status} | {about} |\n" for status, code, about in [*rows, *specific] if status != 500)
    return (
        "# Error codes\n\n"
        "Endpoints of Probity's own answer errors as RFC 9457 problem details whose `code` is one of these and stays what it is. The five\n"
        "contracts answer in their own shape; there the status tells the same. Every reply carries `X-Request-Id`; quote it when you ask for help.\n\n"
        f"| Code | Status | Meaning |\n|---|---|---|\n{table}"
    )


def limits() -> str:
    """Return the page of rate limits."""
    rows = "".join(
        f"| `{policy.name}` | {policy.limit} / {_duration(policy.window_s)} | {_PER[policy.per]} | {_ALGORITHM[policy.algorithm]} "
        f"| {where} | `{_variable(policy)}` |\n"
        for policy, where in sorted(_policies().items(), key=lambda item: item[0].name)
    )
    return (
        "# Rate limits\n\n"
        "The numbers are those of the contracts. Each is a setting: `PROBITY_LIMIT_<NAME>=calls/seconds`, such as\n"
        "`PROBITY_LIMIT_AUTH_LOGIN=30/60`. A refused call is answered with 429 and `Retry-After` in the shape of its dialect. With `REDIS_URL` all\n"
        "servers share the budgets; while Redis is away calls pass, and `probity_limiter_failures_total` counts them. Without Redis each server\n"
        "grants the budget on its own.\n\n"
        f"| Name | Budget | Per | How | Where | Setting |\n|---|---|---|---|---|---|\n{rows}"
    )


def _subclasses(kind: type[ProbityError]) -> Iterator[type[ProbityError]]:
    """Return the kinds of the server; what the programs beside it raise never crosses the wire."""
    for child in kind.__subclasses__():
        if child.__module__.startswith("probity.") and child.__module__.split(".")[1] not in _PROGRAMS:
            yield child
            yield from _subclasses(child)


def _status(kind: type[ProbityError]) -> int:
    return next((STATUS[base] for base in kind.__mro__ if base in STATUS), 500)


def _about(kind: type[ProbityError]) -> str:
    """Return the first paragraph of the docstring, else the name in words or the error's own text, whichever says more."""
    text = (kind.__dict__.get("__doc__") or "").strip().partition("\n\n")[0]
    if text:
        return re.sub(r"\s+", " ", text).replace("|", "\\|")
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
    try:
        said = kind().message  # type: ignore[call-arg]  # most errors have one text and make it themselves
    except TypeError:
        return name
    return max(name, said, key=len)


def _policies() -> dict[Policy, str]:
    found: dict[Policy, str] = {}
    for dialect, policies in TIERS.items():
        for policy in policies:
            found[policy] = f"every {dialect} route" + (
                f" that is called with a `{policy.bearer}…` key, valid or not" if policy.bearer else ""
            )
    # Counted by the service, after the credential.
    found[HEARTBEAT_LIMIT] = "`POST /api/v1/agents/{agent_id}/heartbeat`"
    app = main.build(load(_ENVIRON))
    for handler, rule in all_rules(app).items():
        for policy in (*rule.limits, *(policy for policies in rule.pinned_limits.values() for policy in policies)):
            method = "/".join(sorted(map(str, getattr(handler, "http_methods", ()))))
            path = next(route.path for route in app.routes if handler in getattr(route, "route_handlers", ()))
            where = f"`{method} {re.sub(r':[a-z]+}', '}', path)}`"
            known = found.get(policy, "")
            if not known.startswith("every"):
                found[policy] = ", ".join(sorted({*filter(None, known.split(", ")), where}))
    return found


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"


def _variable(policy: Policy) -> str:
    return "PROBITY_LIMIT_" + policy.name.upper().replace(":", "_").replace("-", "_")


if __name__ == "__main__":
    (DOCS / "errors.md").write_text(errors(), encoding="utf-8")
    (DOCS / "limits.md").write_text(limits(), encoding="utf-8")
