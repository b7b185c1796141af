"""Identifiers: time-ordered UUIDs that can also be spelled in 24 hexadecimal digits.

The last 4 bytes of an id are the first 4 bytes of SHA-256 over its first 12, so the first 24 hex digits carry the whole id.
Source: design §3; RFC 9562 §5.7 (UUIDv7).
"""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar
from uuid import UUID

from probity.kernel.errors import Invalid

_HEX24: Final = re.compile(r"[0-9a-fA-F]{24}")
_HEX32: Final = re.compile(r"[0-9a-fA-F]{32}")
_DASHED: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

T = TypeVar("T")

_lock = threading.Lock()
_last_ms = 0
_counter = 0


def new_id() -> UUID:
    """Return a new id; ids made by one process sort in the order in which they were made.

    Layout: 48 bits of Unix milliseconds, version 7, a 12-bit counter within the millisecond, variant, 30 random bits, 32 check bits.
    """
    milliseconds, counter = _tick()
    head = bytearray(milliseconds.to_bytes(6, "big"))
    head += (0x7000 | counter).to_bytes(2, "big")
    random = bytearray(os.urandom(4))
    random[0] = 0x80 | (random[0] & 0x3F)
    head += random
    return _with_check(bytes(head))


def hex24(value: UUID) -> str:
    """Return the 24-digit spelling of an id made by `new_id`."""
    return value.hex[:24]


def parse_id(kind: Callable[[UUID], T], text: str) -> T:
    """Read an id in any spelling: dashed, 32 hex digits, or 24 hex digits.

    Raises:
        Invalid: `text` is none of these.
    """
    if _DASHED.fullmatch(text) or _HEX32.fullmatch(text):
        return kind(UUID(text))
    if _HEX24.fullmatch(text):
        return kind(_with_check(bytes.fromhex(text)))
    raise Invalid("invalid id")


def _with_check(head: bytes) -> UUID:
    return UUID(bytes=head + hashlib.sha256(head).digest()[:4])


def _tick() -> tuple[int, int]:
    """Return the millisecond and a counter that never go back, even when the clock does."""
    global _last_ms, _counter
    with _lock:
        now = time.time_ns() // 1_000_000
        if now > _last_ms:
            _last_ms, _counter = now, int.from_bytes(os.urandom(1), "big")
        elif _counter < 0xFFF:
            _counter += 1
        else:  # 4,096 ids within one millisecond: borrow from the next one.
            _last_ms, _counter = _last_ms + 1, 0
        return _last_ms, _counter
