import asyncio

import bcrypt
import pytest

from probity.identity.errors import SignInBusy
from probity.identity.passwords import Passwords
from probity.kernel.secret import Secret


async def test_a_password_is_hashed_with_argon2id(passwords: Passwords) -> None:
    stored = await passwords.hash(Secret("Correct-horse7"))

    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.verify(stored, Secret("Correct-horse7"))
    assert not await passwords.verify(stored, Secret("correct-horse7"))
    assert not passwords.is_outdated(stored)


async def test_a_bcrypt_hash_is_verified_and_counts_as_outdated(passwords: Passwords) -> None:
    stored = bcrypt.hashpw(b"Correct-horse7", bcrypt.gensalt(4)).decode()

    assert await passwords.verify(stored, Secret("Correct-horse7"))
    assert not await passwords.verify(stored, Secret("wrong"))
    assert passwords.is_outdated(stored)


@pytest.mark.parametrize("stored", [None, "", "nonsense", "$argon2id$broken", "$2b$12$short"])
async def test_without_a_good_hash_no_password_matches(passwords: Passwords, stored: str | None) -> None:
    assert not await passwords.verify(stored, Secret("Correct-horse7"))


@pytest.mark.parametrize("password", ["", "x" * 100_000, "\x00", "\ud800", "päß"])
async def test_any_text_can_be_checked(passwords: Passwords, password: str) -> None:
    old = bcrypt.hashpw(b"Correct-horse7", bcrypt.gensalt(4)).decode()

    assert not await passwords.verify(await passwords.hash(Secret("Correct-horse7")), Secret(password))
    assert not await passwords.verify(old, Secret(password))


async def test_too_many_waiting_sign_ins_are_turned_away() -> None:
    passwords = Passwords(threads=1)
    try:
        outcomes = await asyncio.gather(*(passwords.verify(None, Secret("x")) for _ in range(110)), return_exceptions=True)
    finally:
        passwords.close()

    assert sum(isinstance(outcome, SignInBusy) for outcome in outcomes) == 10
    assert sum(outcome is False for outcome in outcomes) == 100
