"""The page of keys: one is made and seen once, and revoked for good."""

import re

import httpx
import msgspec
import pytest

from probity.kernel.principal import Principal
from tests.http_app import TestAuthenticator
from tests.web.test_sign_in import OWN, somebody, submit

__all__ = ["somebody"]

pytestmark = pytest.mark.usefixtures("somebody")


@pytest.fixture
async def signed_in(http: httpx.AsyncClient) -> httpx.AsyncClient:
    """A browser of the administrator."""
    await submit(http)
    http.headers.update(OWN)
    return http


async def make(http: httpx.AsyncClient, **fields: str) -> httpx.Response:
    return await http.post("/keys", data={"name": "nightly", "scope": "read", "days": "90"} | fields)


async def test_a_key_is_shown_once_opens_the_api_and_can_be_revoked(signed_in: httpx.AsyncClient) -> None:
    made = await make(signed_in)
    text = re.search(r"pa_[0-9a-f]{64}", made.text)
    assert text is not None
    bearer = {"authorization": f"Bearer {text[0]}", "cookie": ""}
    listed = await signed_in.get("/keys")
    key_id = re.search(r"/keys/([0-9a-f-]{36})/revoke", listed.text)
    assert key_id is not None

    assert (await signed_in.get("/api/v1/runs", headers=bearer)).status_code == 200
    assert text[0] not in listed.text
    assert (await signed_in.post(f"/keys/{key_id[1]}/revoke")).status_code == 303

    signed_in.cookies.clear()
    assert (await signed_in.get("/api/v1/runs", headers=bearer)).status_code == 401


async def test_every_wrong_field_is_named_and_nothing_is_made(signed_in: httpx.AsyncClient) -> None:
    reply = await make(signed_in, name="", scope="everything", days="1000")

    assert reply.status_code == 400
    for field in ("name", "scope", "days"):
        assert f'href="#{field}"' in reply.text
    assert "No keys yet" in (await signed_in.get("/keys")).text


async def test_only_who_manages_users_sees_keys(http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal) -> None:
    viewer = msgspec.structs.replace(admin, permissions=frozenset({"runs:read"}))

    refused = await http.get("/keys", headers=callers.headers(viewer))
    runs = await http.get("/runs", headers=callers.headers(viewer))

    assert refused.status_code == 403
    assert "You may not do this" in refused.text
    assert 'href="/keys"' not in runs.text
    assert 'href="/agents"' not in runs.text
