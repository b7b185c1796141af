"""The reference of the HTTP interface as one page: rendered here, no script, nothing loaded from elsewhere."""

from collections.abc import Iterator
from html import escape
from itertools import groupby
from typing import Any, Final, NamedTuple

import msgspec

_METHODS: Final = ("get", "post", "put", "patch", "delete")
_STYLE: Final = """
:root{color-scheme:light dark}body{font:16px/1.55 system-ui,sans-serif;margin:0 auto;max-width:64rem;padding:2rem 1rem}
code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{overflow:auto;padding:.75rem;border:1px solid #8886;border-radius:6px}
summary{cursor:pointer;padding:.4rem 0;overflow-wrap:anywhere}details{border-bottom:1px solid #8883}details>div{padding:0 0 1rem 1rem}
.m{display:inline-block;min-width:4.2rem;font-weight:600}.a{opacity:.75;font-size:.9em}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.2rem .75rem .2rem 0;vertical-align:top}nav a{margin-right:1rem}a{color:inherit}
"""


class _Operation(NamedTuple):
    tag: str
    path: str
    method: str
    body: dict[str, Any]


def docs_page(document: dict[str, Any]) -> str:
    """Return the page of an OpenAPI document."""
    operations = sorted(_operations(document))
    tags = [(tag, list(group)) for tag, group in groupby(operations, key=lambda operation: operation.tag)]
    contents = "".join(f'<a href="#{_anchor(tag)}">{escape(tag)}</a>' for tag, _ in tags)
    sections = "".join(
        f'<section><h2 id="{_anchor(tag)}">{escape(tag)}</h2>{"".join(map(_operation, group))}</section>' for tag, group in tags
    )
    schemas = "".join(
        f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code></summary><div>{_json(schema)}</div></details>'
        for name, schema in sorted(document.get("components", {}).get("schemas", {}).items())
    )
    info = document["info"]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])} API <small>{escape(info['version'])}</small></h1><p>{escape(info.get('description', ''))}</p>"
        f'<p>For programs: <a href="/openapi.json">OpenAPI 3.1</a>. Every reply carries <code>X-Request-Id</code>.</p>'
        f"<nav aria-label=Sections>{contents}<a href='#schemas'>Schemas</a></nav><main>{sections}"
        f"<section><h2 id=schemas>Schemas</h2>{schemas}</section></main></body></html>"
    )


def _operations(document: dict[str, Any]) -> Iterator[_Operation]:
    for path, item in document.get("paths", {}).items():
        for method in _METHODS:
            if method in item:
                tags = item[method].get("tags") or ["Other"]
                yield _Operation(tags[0], path, method, item[method])


def _operation(operation: _Operation) -> str:
    body = operation.body
    rows = "".join(
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(parameter['in'])}"
        f"{', required' if parameter.get('required') else ''}</td><td>{escape(parameter.get('description', ''))}</td></tr>"
        for parameter in body.get("parameters", [])
    )
    replies = "".join(
        f"<tr><td><code>{escape(status)}</code></td><td>{escape(reply.get('description', ''))}</td><td>{_schemas(reply)}</td></tr>"
        for status, reply in sorted(body.get("responses", {}).items())
    )
    return (
        f"<details><summary><span class=m>{operation.method.upper()}</span> <code>{escape(operation.path)}</code> "
        f"{escape(body.get('summary', ''))} <span class=a>{escape(body.get('x-access', ''))}</span></summary><div>"
        f"<p>{escape(body.get('description', ''))}</p>"
        f"<p class=a>Dialects: {escape(', '.join(body.get('x-dialects', [])))}</p>"
        + (f"<h4>Parameters</h4><table>{rows}</table>" if rows else "")
        + (f"<h4>Body</h4>{_schemas(body['requestBody'])}" if "requestBody" in body else "")
        + f"<h4>Replies</h4><table>{replies}</table></div></details>"
    )


def _schemas(part: dict[str, Any]) -> str:
    """Return links to the named schemas of a body or reply, or the schema itself where it has no name."""
    shown = []
    for media_type, content in part.get("content", {}).items():
        schema = content.get("schema", {})
        name = schema.get("$ref", "").rpartition("/")[2]
        shown.append(f'<a href="#schema-{escape(name)}">{escape(name)}</a>' if name else f"{escape(media_type)} {_json(schema)}")
    return " ".join(shown)


def _json(value: Any) -> str:
    return f"<pre>{escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())}</pre>"


def _anchor(tag: str) -> str:
    return "tag-" + "".join(character if character.isalnum() else "-" for character in tag.lower())
