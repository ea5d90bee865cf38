"""The pages' shell: headers, who may have data, and that the API stands before everything."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from browser import Browser
from serving import Running, Talking, served, server, thinker

from forethought.pages.shell import ASSETS, PAGES

KEY, OWNER = "sk-alice-0123456789", "sk-owner-0123456789"


@pytest.fixture
def keys(tmp_path: Path) -> str:
    path = tmp_path / "keys.txt"
    path.write_text(f"alice {KEY}\nowner {OWNER} 600 operator\n")
    return str(path)


def test_pages_and_assets_are_open_and_strict(keys: str) -> None:
    with server(served(Talking(thinker())), keys=keys) as there:
        for path in ("/", *(f"/{name}" for name in PAGES), *(f"/assets/{name}" for name in ASSETS)):
            reply = httpx.get(f"{there.url}{path}", follow_redirects=True)
            assert reply.status_code == 200, path
            policy = dict(rule.strip().split(" ", 1) for rule in reply.headers["content-security-policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert policy["require-trusted-types-for"] == "'script'"
            assert reply.headers["x-content-type-options"] == "nosniff"
        assert httpx.get(f"{there.url}/assets/../shell.py").status_code == 401
        assert httpx.get(f"{there.url}/pages/ask").status_code == 401
        bearer = {"authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{there.url}/assets/shell.py", headers=bearer).status_code == 404


def test_pages_shadow_nothing_of_the_api() -> None:
    with server(served(Talking(thinker()))) as there:
        paths = [getattr(route, "path", "") for route in there.app.routes]
        assert not [path for path in paths if "{" in path and not path.startswith(("/v1/", "/pages/"))]
        assert httpx.get(f"{there.url}/v1/nothing").json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://localhost"}, 403),
        ({"sec-fetch-site": "same-origin", "host": "evil.example", "origin": "http://evil.example"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": ""}, 403),
        ({"host": "[::1"}, 403),
        ({"host": "localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
    ],
)
def test_other_sites_get_no_data(running: Running, headers: dict[str, str], status: int) -> None:
    reply = httpx.get(f"{running.url}/pages/ask", headers=headers)
    assert reply.status_code == status
    assert status == 403 or reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/responses/resp_1", "/metrics", "/openapi.json"])
def test_a_name_that_was_pointed_here_is_answered_nothing(running: Running, path: str) -> None:
    reply = httpx.get(f"{running.url}{path}", headers={"host": "evil.example:8000"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "cross_site")
    assert httpx.get(f"{running.url}{path}").status_code in (200, 404)
    assert httpx.get(f"{running.url}/health", headers={"host": "evil.example:8000"}).status_code == 200


def test_no_page_loads_others_scripts(running: Running) -> None:
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
        assert httpx.get(f"{running.url}{path}").status_code == 404


def test_with_keys_any_name_of_the_server_will_do(keys: str) -> None:
    with server(served(Talking(thinker())), keys=keys) as there:
        headers = {"authorization": f"Bearer {KEY}", "host": "think.example", "origin": "https://think.example"}
        assert httpx.get(f"{there.url}/pages/ask", headers=headers).status_code == 200
        # A proxy may ask for the server by another name; what the browser says of the site stands above that.
        told = {**headers, "host": "inside:8000", "sec-fetch-site": "same-origin"}
        assert httpx.get(f"{there.url}/pages/ask", headers=told).status_code == 200


@pytest.fixture(scope="module")
def running() -> object:
    with server(served(Talking(thinker())), examples=("2 + 2 = ?",)) as there:
        yield there


def test_in_a_browser_a_page_talks_to_its_own_server_alone(browser: Browser, running: Running) -> None:
    browser.open(running.url)
    browser.until("!document.getElementById('go').disabled")
    assert browser.ask("location.pathname") == "/ask"
    assert browser.ask("document.querySelector('nav [aria-current]').textContent") == "Ask"
    assert browser.hosts() == {running.url.removeprefix("http://")}
    assert browser.complaints() == []


def test_in_a_browser_a_key_is_asked_for_and_kept_in_the_tab(browser: Browser, keys: str) -> None:
    with server(served(Talking(thinker())), keys=keys) as there:
        browser.open(f"{there.url}/ask")
        door = "document.getElementById('door')"
        for typed in ("sk-nobody-0123456789", KEY):
            browser.until(f"{door}.open")
            browser.ask(f"document.getElementById('key').value = '{typed}'; {door}.querySelector('button').click()")
        browser.until("!document.getElementById('go').disabled")
        assert browser.ask("sessionStorage.length + localStorage.length + document.cookie.length") == 1
        browser.open(f"{there.url}/ask")
        browser.until("!document.getElementById('go').disabled")
        browser.ask("document.getElementById('forget').click()")
        browser.until(f"document.readyState === 'complete' && {door}.open")
        assert browser.ask("sessionStorage.length") == 0
