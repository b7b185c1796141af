"""Names every wrong field of a JSON body.

msgspec decodes fast and stops at the first mistake. Only when it has refused a body is the type walked field by field; leaves are judged
by msgspec itself, so both always agree on what is accepted. Texts follow the wording that two of the contracts document.
"""

import re
import types
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from probity.kernel.errors import FieldError

_MOST: Final = 200
_AT: Final = re.compile(r" - at `(?P<path>[^`]*)`$")
_EXPECTED: Final = re.compile(r"^Expected `(?P<expected>[^`]+)`, got `(?P<got>[^`]+)`$")
_LENGTH: Final = re.compile(r"^Expected `(?P<kind>\w+)` of length (?P<op><=|>=) (?P<n>\d+)$")
_BOUND: Final = re.compile(r"^Expected `(?:int|float|decimal)` (?P<op><=|>=|<|>) (?P<n>\S+)$")
_MISSING: Final = re.compile(r"^Object missing required field `(?P<name>[^`]+)`$")
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(?P<name>[^`]+)`$")
_NAMES: Final = {
    "str": "string",
    "int": "number",
    "float": "number",
    "bool": "boolean",
    "null": "null",
    "array": "array",
    "object": "object",
}
_UNITS: Final = {"str": "characters", "array": "items", "object": "keys", "bytes": "bytes"}


@lru_cache(maxsize=2048)
def decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """Return the decoder of a body type, made once."""
    return msgspec.json.Decoder(kind)


def field_errors(kind: Any, body: bytes) -> tuple[FieldError, ...]:
    """Return every field of `body` that does not fit `kind`; nothing when the body is accepted.

    Args:
        kind: the annotation that the body is decoded into.
        body: well-formed JSON.
    """
    try:
        decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        found = list(_first(_walk(kind, msgspec.json.decode(body), ()), _MOST))
        return tuple(found) or (_of_message(str(error), kind),)
    return ()


def _first(errors: Iterator[FieldError], most: int) -> Iterator[FieldError]:
    for _, error in zip(range(most), errors, strict=False):
        yield error


def _walk(kind: Any, value: Any, path: tuple[str, ...]) -> Iterator[FieldError]:
    kind, metas = _unwrap(kind)
    if _is_plain_struct(kind) and isinstance(value, dict) and _tag_fits(kind, value):
        yield from _walk_struct(kind, value, path)
        return
    origin, args = get_origin(kind), get_args(kind)
    if origin in (list, set, frozenset) and isinstance(value, list) and args:
        yield from _whole(kind, metas, value, path, [_walk(args[0], item, (*path, str(i))) for i, item in enumerate(value)])
    elif origin is dict and isinstance(value, dict) and len(args) == 2:
        yield from _whole(kind, metas, value, path, [_walk(args[1], item, (*path, key)) for key, item in value.items()])
    elif origin in (Union, types.UnionType):
        yield from _walk_union(kind, metas, value, path)
    else:
        yield from _leaf(_wrap(kind, metas), value, path)


def _whole(kind: Any, metas: tuple[Any, ...], value: Any, path: tuple[str, ...], parts: list[Iterator[FieldError]]) -> Iterator[FieldError]:
    """Judge the items of a container, and when all are well the container itself (its length, its keys)."""
    found = False
    for part in parts:
        for error in part:
            found = True
            yield error
    if not found:
        yield from _leaf(_wrap(kind, metas), value, path)


def _walk_struct(kind: type[msgspec.Struct], value: dict[str, Any], path: tuple[str, ...]) -> Iterator[FieldError]:
    known: set[str | None] = {kind.__struct_config__.tag_field}
    for field in msgspec.structs.fields(kind):
        known.add(field.encode_name)
        if field.encode_name in value:
            yield from _walk(field.type, value[field.encode_name], (*path, field.encode_name))
        elif field.required:
            yield FieldError(".".join((*path, field.encode_name)), f"Invalid input: expected {_name(field.type)}, received undefined")
    if kind.__struct_config__.forbid_unknown_fields:
        for key in value:
            if key not in known:
                yield FieldError(".".join((*path, key)), f'Unrecognized key: "{key}"')


def _walk_union(kind: Any, metas: tuple[Any, ...], value: Any, path: tuple[str, ...]) -> Iterator[FieldError]:
    """Walk into the one member that the value could be; judge the union as a whole when that is not clear."""
    fitting = [member for member in get_args(kind) if _could_be(member, value)]
    if len(fitting) == 1 and not metas:
        yield from _walk(fitting[0], value, path)
    else:
        yield from _leaf(_wrap(kind, metas), value, path)


def _could_be(kind: Any, value: Any) -> bool:
    kind, _ = _unwrap(kind)
    origin = get_origin(kind) or kind
    if isinstance(value, dict):
        return (_is_plain_struct(kind) and _tag_fits(kind, value)) or origin is dict
    if isinstance(value, list):
        return origin in (list, set, frozenset)
    return False


def _leaf(kind: Any, value: Any, path: tuple[str, ...]) -> Iterator[FieldError]:
    try:
        decoder(kind).decode(msgspec.json.encode(value))
    except msgspec.ValidationError as error:
        inner = _of_message(str(error), kind)
        yield FieldError(".".join((*path, *([inner.path] if inner.path else []))), inner.message)


def _of_message(text: str, kind: Any) -> FieldError:
    """Turn msgspec's text into a field and a sentence in the documented wording."""
    match = _AT.search(text)
    path = _dotted(match["path"]) if match else ""
    text = text[: match.start()] if match else text
    if match := _MISSING.match(text):
        return FieldError(_join(path, match["name"]), "Invalid input: expected a value, received undefined")
    if match := _UNKNOWN.match(text):
        return FieldError(_join(path, match["name"]), f'Unrecognized key: "{match["name"]}"')
    if match := _LENGTH.match(text):
        size = "big" if match["op"] == "<=" else "small"
        unit = _UNITS.get(match["kind"], "items")
        return FieldError(path, f"Too {size}: expected {_NAMES.get(match['kind'], match['kind'])} to have {match['op']}{match['n']} {unit}")
    if match := _BOUND.match(text):
        size = "big" if match["op"].startswith("<") else "small"
        return FieldError(path, f"Too {size}: expected number to be {match['op']}{match['n'].removesuffix('.0')}")
    if match := _EXPECTED.match(text):
        return FieldError(path, _type_text(match["expected"], match["got"]))
    if text.startswith("Invalid enum value"):
        return FieldError(path, _options_text(kind))
    if text.startswith("Invalid RFC3339"):
        return FieldError(path, "Invalid ISO datetime")
    return FieldError(path, text)


def _type_text(expected: str, got: str) -> str:
    names = [name for name in expected.split(" | ") if name != "null"]
    wanted = "int" if names == ["int"] and got == "float" else _NAMES.get(names[0] if names else "null", names[0] if names else "null")
    return f"Invalid input: expected {wanted}, received {_NAMES.get(got, got)}"


def _options_text(kind: Any) -> str:
    kind, _ = _unwrap(kind)
    members = [kind] if not get_args(kind) or get_origin(kind) is Literal else list(get_args(kind))
    for member in members:
        inner, _ = _unwrap(member)
        if get_origin(inner) is Literal:
            values: list[object] = list(get_args(inner))
        elif isinstance(inner, type) and issubclass(inner, Enum):
            values = [item.value for item in inner]
        else:
            continue
        return "Invalid option: expected one of " + "|".join(f'"{value}"' for value in values if value is not None)
    return "Invalid option"


def _name(kind: Any) -> str:
    kind, _ = _unwrap(kind)
    origin = get_origin(kind) or kind
    if origin in (Union, types.UnionType):
        return _name(next((arg for arg in get_args(kind) if arg is not type(None)), type(None)))
    if origin in (int, float):
        return "number"
    if origin is bool:
        return "boolean"
    if origin in (list, set, frozenset, tuple):
        return "array"
    if origin is dict or _is_plain_struct(kind):
        return "object"
    return "string"


def _is_plain_struct(kind: Any) -> bool:
    """Structs whose fields can be walked: objects (not arrays), not generic."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct) and not kind.__struct_config__.array_like


def _tag_fits(kind: type[msgspec.Struct], value: dict[str, Any]) -> bool:
    """Say whether an object is of this member of a union; every object is of a struct without a tag."""
    config = kind.__struct_config__
    return config.tag is None or value.get(config.tag_field or "") == config.tag


def _unwrap(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    metas: tuple[Any, ...] = ()
    while True:
        if get_origin(kind) is Annotated:
            kind, *found = get_args(kind)
            metas = (*found, *metas)
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        else:
            return kind, metas


def _wrap(kind: Any, metas: tuple[Any, ...]) -> Any:
    for meta in metas:
        kind = Annotated[kind, meta]
    return kind


def _dotted(path: str) -> str:
    """`$.events[0].id` → `events.0.id`; `$[...]` (a dict's value) keeps its dots."""
    return re.sub(r"\[([^\]]*)\]", r".\1", path).removeprefix("$").removeprefix(".")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
