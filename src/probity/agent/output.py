"""Output of a command on its way to the log: text from bytes, without secrets, in batches, within limits. No I/O of its own."""

import codecs
import re
from collections import deque
from collections.abc import Iterable
from typing import Final, Literal

Stream = Literal["stdout", "stderr", "system"]

SHORTEST_SECRET_CHARS: Final = 4
MASK: Final = "***"
# Of output past the limit the end is kept as well, because that is where test programs say what failed.
TAIL_BYTES: Final = 65_536
LOG_TEXT_CHARS: Final = 16_384


class Masker:
    """Replaces secret values in a stream of text, also where a value is split between two pieces."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = _spellings(secrets)
        self._pattern = re.compile("|".join(map(re.escape, self._secrets))) if self._secrets else None
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what can be shown already; an end that may be the start of a secret waits for the next piece."""
        if self._pattern is None:
            return text
        text = self._held + text
        cut = len(text) - max(_overlap(text, secret) for secret in self._secrets)
        # A secret that is complete may still grow into a longer one, so a match across the cut waits as a whole.
        cut = min([cut, *(found.start() for found in self._pattern.finditer(text) if found.start() < cut < found.end())])
        self._held = text[cut:]
        return self.once(text[:cut])

    def end(self) -> str:
        held, self._held = self._held, ""
        return self.once(held)

    def once(self, text: str) -> str:
        """Mask a text that is complete."""
        return self._pattern.sub(MASK, text) if self._pattern else text


def _spellings(secrets: Iterable[str]) -> list[str]:
    """Return the values to look for, longest first: each value, and the lines of a value that has several (keys, certificates)."""
    found = set()
    for secret in secrets:
        lines = [line.strip() for line in secret.splitlines()]
        found |= {text for text in (secret, secret.strip(), *lines) if len(text) >= SHORTEST_SECRET_CHARS}
    return sorted(found, key=lambda text: (-len(text), text))


def _overlap(text: str, secret: str) -> int:
    """Return the length of the longest end of `text` that begins `secret`."""
    for length in range(min(len(text), len(secret) - 1), 0, -1):
        if secret.startswith(text[-length:]):
            return length
    return 0


class StreamText:
    """Bytes of one stream to text: characters are never split, bad bytes become U+FFFD, secrets are masked."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._masker = Masker(secrets)

    def feed(self, data: bytes) -> str:
        # PostgreSQL stores no NUL, so it is replaced where the text is made.
        return self._masker.feed(self._decoder.decode(data).replace("\0", "\ufffd"))

    def end(self) -> str:
        return self._masker.feed(self._decoder.decode(b"", True)) + self._masker.end()


class OutputCap:
    """Lets through the first `limit_bytes` of output and keeps the last `TAIL_BYTES` of the rest."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._tail: deque[tuple[Stream, bytes]] = deque()
        self._tail_bytes = 0
        self.total_bytes = 0

    @property
    def exceeded(self) -> bool:
        return self.total_bytes > self._limit_bytes

    def admit(self, stream: Stream, data: bytes) -> bytes:
        """Return the part of `data` that is within the limit."""
        room = max(0, self._limit_bytes - self.total_bytes)
        self.total_bytes += len(data)
        rest = data[room:]
        if rest:
            self._keep(stream, rest)
        return data[:room]

    def tail(self) -> tuple[int, list[tuple[Stream, bytes]]]:
        """Return how many bytes are lost, and the kept end of what came after the limit."""
        lost = max(0, self.total_bytes - self._limit_bytes - self._tail_bytes)
        return lost, list(self._tail)

    def _keep(self, stream: Stream, data: bytes) -> None:
        data = data[-TAIL_BYTES:]
        self._tail.append((stream, data))
        self._tail_bytes += len(data)
        while self._tail_bytes > TAIL_BYTES:
            oldest_stream, oldest = self._tail.popleft()
            surplus = self._tail_bytes - TAIL_BYTES
            self._tail_bytes -= min(surplus, len(oldest))
            if len(oldest) > surplus:
                self._tail.appendleft((oldest_stream, oldest[surplus:]))


class LogBatch:
    """Collects text until it is sent: neighbours of one stream become one piece, long ones are split."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Stream, list[str]]] = []
        self.chars = 0

    def add(self, stream: Stream, text: str) -> None:
        if not text:
            return
        self.chars += len(text)
        if self._pieces and self._pieces[-1][0] == stream:
            self._pieces[-1][1].append(text)
        else:
            self._pieces.append((stream, [text]))

    def take(self) -> list[tuple[Stream, str]]:
        pieces, self._pieces, self.chars = self._pieces, [], 0
        return [(stream, part) for stream, texts in pieces for part in _split("".join(texts))]


def _split(text: str) -> list[str]:
    return [text[start : start + LOG_TEXT_CHARS] for start in range(0, len(text), LOG_TEXT_CHARS)]
