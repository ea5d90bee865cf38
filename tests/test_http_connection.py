"""What lies between the http engine and a server: how answers end, certificates, proxies, what a key may be."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from http_server import ASKED

from forethought.engines import http_wire
from forethought.engines.http import HttpEngine
from forethought.types import Sampling, Step

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

FOUR = b'{"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}'
LENGTH = b"Content-Length: %d\r\n" % len(FOUR)
OK = b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\r\n" + FOUR
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n9;x=y\r\n" + FOUR[:9] + b"\r\n%X\r\n" % len(FOUR[9:]) + FOUR[9:]


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


async def request(reader: asyncio.StreamReader) -> bytes:
    """The head of a whole request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length or 0))
    return head


async def ask(engine: HttpEngine, times: int = 1) -> list[Step]:
    async with engine:
        return [await engine.sample(ASKED, (), Sampling()) for _ in range(times)]


def asked(answer: bytes, times: int) -> tuple[list[Step], int, int]:
    """The steps, the connections they took and the requests that failed; a connection without a length is closed."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            try:
                await request(reader)
            except asyncio.IncompleteReadError:
                return
            for at in range(0, len(answer), 7):
                writer.write(answer[at : at + 7])
                await writer.drain()
            if not answer.endswith((OK, b"0\r\n\r\n")):
                return

    async def work(port: int) -> tuple[list[Step], int]:
        engine = HttpEngine(f"http://127.0.0.1:{port}", "qwen", retries=0)
        return await ask(engine, times), engine.usage.failed

    steps, failed = use(serve, work)
    return steps, connections, failed


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (OK, 1),
        (b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 1),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 1),
        (b"HTTP/1.1 200 OK\r\n\r\n" + FOUR, 3),
        (b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\n" + FOUR, 3),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\n" + LENGTH + b"\r\n" + FOUR, 3),
    ],
    ids=["length", "chunked", "continue", "to the end", "1.0", "close"],
)
def test_an_answer_is_read_to_its_end_and_only_a_closed_connection_is_replaced(answer: bytes, connections: int) -> None:
    steps, opened, failed = asked(answer, 3)
    assert [step.text for step in steps] == ["4"] * 3
    assert (opened, failed) == (connections, 0)


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (b"", "disconnected"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "disconnected"),
        (b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\r\n" + FOUR[:-1], "not completed"),
        (b"HTTP/1.1 200 OK\r\n" + CHUNKED, "not completed"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "Expected HTTP"),
    ],
    ids=["nothing", "half a head", "half a body", "chunks without an end", "not HTTP"],
)
def test_what_is_no_whole_answer_is_a_fault(answer: bytes, named: str) -> None:
    (step,), _, failed = asked(answer, 1)
    assert (step.stop, failed) == ("error", 1)
    assert named in step.text


def test_a_connection_that_was_idle_for_long_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_wire, "KEPT", 0.02)
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await request(reader)
        writer.write(OK)
        await reader.read()  # until the other side closes; a second request would stay unanswered

    async def work(port: int) -> list[Step]:
        async with HttpEngine(f"http://127.0.0.1:{port}", "qwen", retries=0, timeout=2) as engine:
            first = await engine.sample(ASKED, (), Sampling())
            await asyncio.sleep(0.05)
            return [first, await engine.sample(ASKED, (), Sampling())]

    assert [step.text for step in use(serve, work)] == ["4", "4"]
    assert connections == 2


def test_closing_the_engine_ends_what_is_in_flight_and_what_waits() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def work(port: int) -> list[Step]:
        engine = HttpEngine(f"http://127.0.0.1:{port}", "qwen", max_concurrent=1, backoff=0.001)
        tasks = [asyncio.create_task(engine.sample(ASKED, (), Sampling(seed=seed))) for seed in range(2)]
        while not engine.usage.requests:
            await asyncio.sleep(0.005)
        await engine.close()
        return list(await asyncio.gather(*tasks))

    for step in use(serve, work):
        assert step.stop == "error"
        assert "the engine was closed" in step.text


def test_a_key_with_a_line_break_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="the api_key has a line break") as refused:
        HttpEngine("http://x/v1", "qwen", api_key="sk-secret\nX-Other: 1")
    assert "secret" not in str(refused.value)


def test_a_user_and_password_of_the_address_are_sent_and_not_shown() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request(reader))

    async def work(port: int) -> tuple[Step, str]:
        engine = HttpEngine(f"http://me:p%40ss@127.0.0.1:{port}/a b/v1", "qwen", retries=0)
        return (await ask(engine))[0], engine.url

    step, url = use(serve, work)
    assert seen[0].startswith(b"POST /a%20b/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Basic bWU6cEBzcw==\r\n" in seen[0]
    assert "disconnected" in step.text
    assert "me:" not in step.text + url


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


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(OK)
    await writer.drain()


def test_https_is_spoken_to_whom_the_certificate_names(certificate: ssl.SSLContext) -> None:
    async def work(port: int) -> list[Step]:
        hosts = ("localhost", "127.0.0.1")
        return [(await ask(HttpEngine(f"https://{host}:{port}", "qwen", retries=0)))[0] for host in hosts]

    named, other = use(answers, work, tls=certificate)
    assert named.text == "4"
    assert other.stop == "error"
    assert "certificate is not valid for '127.0.0.1'" in other.text


def test_a_proxy_gets_the_whole_address(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request(reader))
        writer.write(OK)
        await writer.drain()

    async def work(port: int) -> list[Step]:
        monkeypatch.setenv("http_proxy", f"http://u:p@127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        through = HttpEngine("http://outside.org:8000/v1", "qwen", api_key="k")
        past = HttpEngine(f"http://127.0.0.1:{port}", "qwen")
        return await ask(through) + await ask(past)

    assert [step.text for step in use(serve, work)] == ["4", "4"]
    assert seen[0].startswith(
        b"POST http://outside.org:8000/v1/chat/completions HTTP/1.1\r\nHost: outside.org:8000\r\n"
    )
    assert b"\r\nAuthorization: Bearer k\r\n" in seen[0]
    assert b"\r\nProxy-Authorization: Basic dTpw\r\n" in seen[0]
    assert seen[1].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")


def test_https_goes_through_a_proxys_tunnel(certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        if len(seen) == 1:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.drain()
            await writer.start_tls(certificate)
            seen.append(await request(reader))
            writer.write(OK)
        else:
            writer.write(b"HTTP/1.1 403 No\r\n\r\n")
        await writer.drain()

    async def work(port: int) -> list[Step]:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "")
        return [(await ask(HttpEngine("https://localhost/v1", "qwen", api_key="k", retries=0)))[0] for _ in range(2)]

    joined, refused = use(serve, work)
    assert joined.text == "4"
    assert "403" in refused.text
    assert seen[0].startswith(b"CONNECT localhost:443 HTTP/1.1\r\n")
    assert b"Bearer" not in seen[0]  # the key is the server's, not the proxy's
    assert seen[1].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")


def test_a_proxy_that_is_not_spoken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ValueError, match="has the scheme 'socks5'; only http is spoken"):
        HttpEngine("http://x/v1", "qwen")
