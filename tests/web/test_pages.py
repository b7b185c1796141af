"""The frame of the pages: files, headers, errors, and the way to the sign-in."""

import gzip
import hashlib
import re
from pathlib import Path

import httpx
import pytest

from probity.kernel.principal import Principal
from probity.web.assets import DIRECTORY, Assets
from tests.http_app import TestAuthenticator


async def test_a_named_file_may_be_kept_for_ever_and_comes_compressed(http: httpx.AsyncClient) -> None:
    href = Assets().href("app.css")

    reply = await http.get(href, headers={"accept-encoding": "gzip"})

    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert reply.headers["content-encoding"] == "gzip"
    assert reply.headers["content-type"] == "text/css; charset=utf-8"
    assert reply.content == (DIRECTORY / "app.css").read_bytes()


@pytest.mark.parametrize("name", ["nothing.css", "vendor/README.md", "../pages.py", "..%2fpages.py", "vendor/%2e%2e/%2e%2e/pages.py"])
async def test_nothing_but_the_listed_files_is_served(http: httpx.AsyncClient, name: str) -> None:
    assert (await http.get(f"/static/{name}")).status_code == 404


async def test_pages_allow_no_inline_script_and_no_inline_style(http: httpx.AsyncClient) -> None:
    reply = await http.get("/nowhere")

    policy = reply.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "unsafe-inline" not in policy
    assert "frame-ancestors 'none'" in policy


async def test_an_unknown_page_is_a_page_with_the_way_back(http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal) -> None:
    reply = await http.get("/nowhere", headers=callers.headers(admin) | {"cookie": "probity_theme=dark"})

    assert reply.status_code == 404
    assert "Nothing is here" in reply.text
    assert 'href="/runs"' in reply.text
    assert 'data-theme="dark"' in reply.text
    assert reply.headers["x-request-id"] in reply.text


async def test_the_start_page_leads_to_the_sign_in_and_from_there_to_the_runs(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal
) -> None:
    anonymous = await http.get("/")
    signed_in = await http.get("/", headers=callers.headers(admin))

    assert (anonymous.status_code, anonymous.headers["location"]) == (303, "/sign-in")
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/runs")


def test_the_files_stay_within_the_weight_that_a_page_may_have() -> None:
    scripts = sum(path.stat().st_size for path in DIRECTORY.glob("*.js"))
    library = sum(path.stat().st_size for path in (DIRECTORY / "vendor").glob("*.js"))
    app = (DIRECTORY / "app.js").stat().st_size

    # A page loads the shell and either the list library or the scripts of a run.
    assert max(app + library, scripts) < 60_000
    assert (DIRECTORY / "app.css").stat().st_size < 40_000


def test_vendored_files_are_the_published_ones() -> None:
    listed = dict(re.findall(r"\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|", (DIRECTORY / "vendor" / "README.md").read_text()))
    present = {path.name: path for path in (DIRECTORY / "vendor").iterdir() if path.name != "README.md"}

    assert listed == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in present.items()}


def test_templates_hold_no_inline_style_or_script() -> None:
    for template in Path(DIRECTORY.parent).rglob("*.html"):
        text = template.read_text()
        assert not re.search(r"\sstyle=|<style|<script(?![^>]*\ssrc=)|\son\w+=", text), template.name


def test_compressed_files_are_the_files() -> None:
    assets = Assets()
    asset = assets.find("app.js")

    assert asset is not None
    assert gzip.decompress(asset.compressed) == asset.content
