"""HTTP/1.1 as servers and proxies speak it, byte by byte."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from forethought.engines.http_connection import Answer, Broken, Connection, Origin

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def use(serve: Serve, work: Callable[[int], Awaitable[Any]], tls: ssl.SSLContext | None = None) -> Any:
    """`work` with the port of a server that handles each connection by `serve`."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    async def run() -> Any:
        async with asyncio.timeout(10):
            server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
            async with server:
                return await work(server.sockets[0].getsockname()[1])

    return asyncio.run(run())


def says(*answers: bytes) -> Serve:
    """Each request's answer, in pieces of one byte; then the end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            for at in range(len(answer)):
                writer.write(answer[at : at + 1])
                await writer.drain()

    return serve


def asked(serve: Serve, times: int = 1) -> list[Answer]:
    async def work(port: int) -> list[Answer]:
        origin = Origin(f"http://127.0.0.1:{port}/v1", None)
        connection = await origin.connect(5)
        return [await connection.ask(origin.head("GET", "/v1/models", 0)) for _ in range(times)]

    return list(use(serve, work))


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (OK, b"{}"),
        (b"HTTP/1.1 200 OK\r\ncontent-LENGTH:2\r\n\r\n{}", b"{}"),
        (
            b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n1A\r\n" + b"a" * 26 + b"\r\n0\r\n\r\n",
            b"{}" + b"a" * 26,
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\n4\r\n0\r\nTrailer: 1\r\n\r\n", b"4"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
def test_an_answer_is_read_to_its_end_and_no_further(answer: bytes, content: bytes) -> None:
    first, second = asked(says(answer, OK), times=2)
    assert (first.content, second.content) == (content, b"{}")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nto the end",
        b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nto the end",
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 10\r\n\r\nto the end",
    ],
)
def test_a_connection_that_the_server_closes_is_not_used_again(answer: bytes) -> None:
    async def work(port: int) -> tuple[bytes, bool]:
        origin = Origin(f"http://127.0.0.1:{port}", None)
        connection = await origin.connect(5)
        said = await connection.ask(origin.head("GET", "/", 0))
        return said.content, connection.open

    assert use(says(answer), work) == (b"to the end", False)


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (b"", "disconnected after 0 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "disconnected after"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "disconnected after 2 bytes"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 fine\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "not HTTP: no colon"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 70000 + b"\r\n\r\n", "not HTTP"),
    ],
)
def test_what_is_no_answer_is_named(answer: bytes, named: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    with pytest.raises(Broken, match=named):
        asked(serve)


def test_nobody_there_is_named() -> None:
    async def work(port: int) -> Connection:
        return await Origin("http://127.0.0.1:9", None).connect(5)

    with pytest.raises(Broken, match="ConnectionRefusedError"):
        use(says(OK), work)


def test_a_key_with_a_line_break_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="the api_key has a line break") as refused:
        Origin("http://x/v1", "sk-secret\nX-Other: 1")
    assert "secret" not in str(refused.value)


def test_a_user_and_password_of_the_address_are_sent_and_its_path_is_quoted() -> None:
    head = Origin("http://me:p%40ss@x.org:8080/v1", None).head("POST", "/a b/v1/ü%20", 3).decode()
    assert head.startswith("POST /a%20b/v1/%C3%BC%20 HTTP/1.1\r\nHost: x.org:8080\r\n")
    assert "\r\nAuthorization: Basic bWU6cEBzcw==\r\n" in head
    assert head.endswith("\r\nContent-Length: 3\r\n\r\n")


# --- proxies and certificates ---


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A certificate of `localhost` that SSL_CERT_FILE makes us trust."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make a certificate with")
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout {key} -out {pem}"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*made.split(), *name], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, key)
    return context


def test_https_is_spoken_to_whom_the_certificate_names(certificate: ssl.SSLContext) -> None:
    async def work(port: int) -> tuple[bytes, str]:
        origin = Origin(f"https://localhost:{port}", None)
        answer = await (await origin.connect(5)).ask(origin.head("GET", "/", 0))
        with pytest.raises(Broken) as refused:
            await Origin(f"https://127.0.0.1:{port}", None).connect(5)
        return answer.content, str(refused.value)

    content, refusal = use(says(OK), work, tls=certificate)
    assert content == b"{}"
    assert "certificate is not valid for '127.0.0.1'" in refusal


def test_a_proxy_gets_the_whole_address(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen = await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)

    async def work(port: int) -> bytes:
        monkeypatch.setenv("http_proxy", f"http://u:p@127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "inside.org")
        assert Origin("http://inside.org/v1", None).proxy is None
        origin = Origin("http://outside.org:8000/v1", "k")
        return (await (await origin.connect(5)).ask(origin.head("GET", "/v1/models", 0))).content

    assert use(serve, work) == b"{}"
    assert seen.startswith(b"GET http://outside.org:8000/v1/models HTTP/1.1\r\nHost: outside.org:8000\r\n")
    assert b"\r\nAuthorization: Bearer k\r\n" in seen
    assert b"\r\nProxy-Authorization: Basic dTpw\r\n" in seen


def test_https_goes_through_a_proxys_tunnel(certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        said = {1: b"200 Connection established\r\n\r\n", 3: b"403 No\r\n\r\n", 4: b"200"}[len(seen)]
        writer.write(b"HTTP/1.1 " + said)
        await writer.drain()
        if len(seen) == 1:
            await writer.start_tls(certificate)
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK)
            await writer.drain()

    async def work(port: int) -> bytes:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "")
        origin = Origin("https://localhost/v1", "k")
        content = (await (await origin.connect(5)).ask(origin.head("GET", "/v1/models", 0))).content
        with pytest.raises(Broken, match="the proxy answers 403 to CONNECT"):
            await origin.connect(5)
        with pytest.raises(Broken, match="IncompleteReadError"):
            await origin.connect(5)
        return content

    assert use(serve, work) == b"{}"
    assert seen[0].startswith(b"CONNECT localhost:443 HTTP/1.1\r\n")
    assert b"Bearer" not in seen[0]  # the key is the server's, not the proxy's
    assert seen[1].startswith(b"GET /v1/models HTTP/1.1\r\n")


def test_a_proxy_that_is_not_spoken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ValueError, match="has the scheme 'socks5'; only http is spoken"):
        Origin("http://x/v1", None)
