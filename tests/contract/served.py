"""Which documented endpoints the application serves."""

import re
from pathlib import Path
from typing import NamedTuple

from litestar import Litestar
from litestar.routes import HTTPRoute

from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import all_rules

HERE = Path(__file__).parent
ENDPOINTS = HERE / "endpoints.tsv"
SERVED = HERE / "served.txt"
DIALECT = {
    "dataguard": Dialect.SUPARBASE,
    "quality": Dialect.AGNOX,
    "secrets": Dialect.BRIDGE,
    "validation": Dialect.ACHILLES,
    "webtest": Dialect.SENTRI,
}


class Endpoint(NamedTuple):
    contract: str
    method: str
    path: str

    @property
    def shape(self) -> tuple[Dialect, str, str]:
        return DIALECT[self.contract], self.method, _shape(self.path)


def documented(mark: str = "S") -> list[Endpoint]:
    """Return the rows of the table with a mark, in its order."""
    rows = (line.split("\t") for line in ENDPOINTS.read_text(encoding="utf-8").splitlines()[1:])
    return [Endpoint(row[0], row[2], row[3]) for row in rows if row[1] == mark]


def served(app: Litestar) -> set[tuple[Dialect, str, str]]:
    """Return the dialect, method and shape of the path of everything that the application answers."""
    found: set[tuple[Dialect, str, str]] = set()
    rules = all_rules(app)
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        for handler in route.route_handlers:
            if handler in rules:
                methods = handler.http_methods
                found |= {(dialect, str(method), _shape(route.path)) for dialect in rules[handler].dialects for method in methods}
    # The gate itself redirects Sentri's legacy paths.
    return found | {(Dialect.SENTRI, "ANY", "/api/{}")}


def _shape(path: str) -> str:
    """Return a path with nameless parameters: `/api/v1/agents/{id}` and `/api/v1/agents/{agent_id:str}` are one."""
    return re.sub(r"\{[^}]*\}", "{}", path).rstrip("/") or "/"
