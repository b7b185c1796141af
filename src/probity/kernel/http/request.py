"""The request class: bodies are decoded strictly into the handler's type, and every wrong field is named."""

from typing import Any, Final

import msgspec
from litestar import Request

from probity.kernel.http.dialect import Dialect
from probity.kernel.http.exchange import exchange_of
from probity.kernel.http.failures import EmptyBody, InvalidInput, MalformedJson, WrongMediaType
from probity.kernel.http.validation import decoder, field_errors

# Dialects that read JSON whatever the content type says. Cookie writes are guarded by origin, not by content type.
_ANY_MEDIA_TYPE: Final = frozenset({Dialect.BRIDGE, Dialect.SENTRI, Dialect.SUPARBASE})


class ProbityRequest(Request[Any, Any, Any]):
    """Litestar would convert bodies leniently (`"5"` for 5) and stop at the first mistake; here both ways in agree with msgspec."""

    async def body(self) -> bytes:
        body = await super().body()
        if not body and self._needs_data():
            raise EmptyBody("the body is empty; send a JSON object")
        return body

    async def json(self) -> Any:
        if self.route_handler.parsed_data_field is None:
            return await super().json()
        body = await self.body()
        return parse(body, self.route_handler.parsed_data_field.raw, self._media_type(), exchange_of(self.scope).dialect)

    def _needs_data(self) -> bool:
        field = self.route_handler.parsed_data_field
        return field is not None and not field.has_default and not field.is_optional

    def _media_type(self) -> str | None:
        header = self.headers.get("content-type")
        return None if header is None else header.partition(";")[0].strip().lower()


def parse(body: bytes, kind: Any, media_type: str | None, dialect: Dialect) -> Any:
    """Decode a JSON body into `kind`.

    Raises:
        WrongMediaType: the dialect insists on JSON and something else is declared.
        MalformedJson: not JSON.
        InvalidInput: JSON, but wrong; names every wrong field.
    """
    if not _is_json(media_type) and dialect not in _ANY_MEDIA_TYPE:
        if dialect is Dialect.ACHILLES:
            # Its server skips other bodies, so the fields are simply missing.
            body = b"{}"
        elif dialect is not Dialect.AGNOX or media_type != "text/plain":
            raise WrongMediaType(f"send application/json, not {media_type}", media_type=media_type)
    try:
        try:
            return decoder(kind).decode(body)
        except msgspec.ValidationError as error:
            # The first mistake may come before the point where the text stops being JSON; the walk then raises DecodeError.
            raise InvalidInput("the body has wrong fields", fields=field_errors(kind, body)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJson(f"the body is not valid JSON: {error}") from error


def _is_json(media_type: str | None) -> bool:
    return media_type is None or media_type == "application/json" or media_type.endswith("+json")
