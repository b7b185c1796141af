"""The files that pages load: read once, addressed by their content, so that a browser may keep them for ever."""

import gzip
import hashlib
from pathlib import Path
from typing import Final

import msgspec

DIRECTORY: Final = Path(__file__).parent / "static"
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Asset(msgspec.Struct, frozen=True):
    content: bytes
    compressed: bytes
    content_type: str
    version: str


class Assets:
    """Every servable file below `static/`, in memory: a few dozen KB, and no path from a request ever meets the file system."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._files = {
            path.relative_to(directory).as_posix(): _read(path) for path in sorted(directory.rglob("*")) if path.suffix in _TYPES
        }

    def find(self, name: str) -> Asset | None:
        return self._files.get(name)

    def href(self, name: str) -> str:
        """Return the address of an asset. A name that does not exist is a mistake in a template and raises KeyError."""
        return f"/static/{name}?v={self._files[name].version}"


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(
        content=content,
        # mtime=0: the same file gives the same bytes on every server.
        compressed=gzip.compress(content, 9, mtime=0),
        content_type=_TYPES[path.suffix],
        version=hashlib.sha256(content).hexdigest()[:12],
    )
