"""Password hashing: argon2id, in a few threads of its own so that sign-ins never stall the server or fill its memory."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, TypeVarTuple

import argon2
import bcrypt

from probity.identity.errors import SignInBusy
from probity.kernel.secret import Secret

T = TypeVar("T")
Args = TypeVarTuple("Args")

# 19 MiB, two passes, one lane: the second configuration of the OWASP password storage cheat sheet (2024).
_HASHER: Final = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, hash_len=32, salt_len=16)
_BCRYPT: Final = ("$2a$", "$2b$", "$2y$")
# More waiting sign-ins than this would wait longer than a person does.
_MOST_WAITING: Final = 100


class Passwords:
    """Hashes and verifies passwords. One object per server; `close()` ends its threads."""

    def __init__(self, *, threads: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1), thread_name_prefix="password")
        self._waiting = 0
        # What an unknown account's password is compared with, so that it takes as long as a known one's.
        self._dummy = _HASHER.hash(os.urandom(16).hex())

    async def hash(self, password: Secret) -> str:
        """Return the hash to store."""
        return await self._run(_hash, password)

    async def verify(self, stored: str | None, password: Secret) -> bool:
        """Return whether `password` is the stored one. Without a stored hash the answer is no, after the same amount of work."""
        matches = await self._run(_verify, stored or self._dummy, password)
        return matches and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Return whether a hash that just matched should be replaced by one of today's kind."""
        return stored.startswith(_BCRYPT) or _HASHER.check_needs_rehash(stored)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, function: Callable[[*Args], T], *args: *Args) -> T:
        if self._waiting >= _MOST_WAITING:
            raise SignInBusy
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        finally:
            self._waiting -= 1


def _hash(password: Secret) -> str:
    return _HASHER.hash(_bytes(password))


def _verify(stored: str, password: Secret) -> bool:
    if stored.startswith(_BCRYPT):
        try:
            # bcrypt reads 72 bytes; the library refuses more instead of cutting like the servers that made these hashes.
            return bcrypt.checkpw(_bytes(password)[:72], stored.encode())
        except ValueError:
            return False
    try:
        return _HASHER.verify(stored, _bytes(password))
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def _bytes(password: Secret) -> bytes:
    return password.reveal().encode("utf-8", "surrogatepass")
