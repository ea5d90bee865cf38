"""HTTP/1.1 to one server: a connection carries one request after another, and costs neither a thread nor a pool.

Not httpx: its pool looks through all connections and requests whenever one comes or goes, which at a thousand of them
took 4 to 16 ms of a core a request, and on a connection of its own a request still took 1.7 ms. This takes 0.4.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

KEPT = 4.0
"""Seconds that an unused connection is kept: less than the 5 after which uvicorn, under vLLM and SGLang, hangs up."""


class Broken(ConnectionError):  # noqa: N818 -- what happened to the connection
    """No connection, or one that ended or spoke no HTTP before the answer was whole."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; the names of its headers are in small letters."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """Raises `ValueError` where the content is no JSON."""
        return json.loads(self.content)


class Origin:
    """Where a server is, how to get there (the environment's proxy, if any), and what every request to it says."""

    def __init__(self, url: str, api_key: str | None) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        # The certificates that httpx trusts: certifi's, or those of SSL_CERT_FILE and SSL_CERT_DIR.
        self.tls = httpx.create_ssl_context() if parts.scheme == "https" else None
        self.proxy = _proxy(parts.scheme, self.host)
        place = parts.netloc.rpartition("@")[2]
        said = {"Host": place, "Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "forethought"}
        if api_key:
            if not (api_key.isascii() and api_key.isprintable()):
                raise ValueError("the api_key has a line break or another character that no header may hold; strip it")
            said["Authorization"] = f"Bearer {api_key}"
        elif parts.username is not None:
            said["Authorization"] = _basic(parts)
        self._before = ""
        if self.proxy is not None and self.tls is None:
            self._before = f"{parts.scheme}://{place}"
            if self.proxy.username is not None:
                said["Proxy-Authorization"] = _basic(self.proxy)
        self._said = "".join(f"{name}: {value}\r\n" for name, value in said.items())

    def head(self, method: str, path: str, length: int) -> bytes:
        """What stands before the content of a request."""
        body = f"Content-Type: application/json\r\nContent-Length: {length}\r\n" if method == "POST" else ""
        return f"{method} {self._before}{quote(path, safe='/%')} HTTP/1.1\r\n{self._said}{body}\r\n".encode()

    async def connect(self, timeout: float) -> Connection:
        """A new connection. Raises `Broken` where there is none within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                if self.proxy is None:
                    name = self.host if self.tls else None
                    return Connection(
                        *await asyncio.open_connection(self.host, self.port, ssl=self.tls, server_hostname=name)
                    )
                return await self._through(self.proxy)
        except Broken:
            raise
        except TimeoutError:
            raise Broken(f"no connection within {timeout:g} s") from None
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise Broken(f"{type(error).__name__}: {error}") from error

    async def _through(self, proxy: SplitResult) -> Connection:
        connection, joined = Connection(*await asyncio.open_connection(proxy.hostname, proxy.port or 80)), False
        try:
            if self.tls is not None:
                place = f"{self.host}:{self.port}"
                key = f"Proxy-Authorization: {_basic(proxy)}\r\n" if proxy.username is not None else ""
                await connection.tunnel(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{key}\r\n".encode())
                await connection.writer.start_tls(self.tls, server_hostname=self.host)
            joined = True
            return connection
        finally:
            if not joined:
                connection.close()


def _proxy(scheme: str, host: str) -> SplitResult | None:
    found = getproxies()
    url = found.get(scheme) or found.get("all")
    if not url or proxy_bypass(host):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"the environment's proxy for {scheme} has the scheme {parts.scheme!r}; only http is spoken")
    return parts


def _basic(parts: SplitResult) -> str:
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


class Connection:
    """One connection. A request that is cancelled or breaks off closes it, so that the server stops."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._used = time.monotonic()

    @property
    def open(self) -> bool:
        """May another request go over it? Not where either side closed it, nor where it was idle for too long."""
        closed = self.writer.is_closing() or self.reader.at_eof()
        return not closed and time.monotonic() - self._used < KEPT

    def close(self) -> None:
        """Close it at once; the server sees it before it writes."""
        self.writer.transport.abort()

    async def ask(self, request: bytes) -> Answer:
        """The answer to a whole request. Raises `Broken` where none came."""
        kept = False
        try:
            self.writer.write(request)
            await self.writer.drain()
            answer, kept = await self._answer()
            self._used = time.monotonic()
            return answer
        except asyncio.IncompleteReadError as error:
            raise Broken(f"disconnected after {len(error.partial)} bytes of an answer's part") from None
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise Broken(f"an answer that is not HTTP: {error}") from None
        except OSError as error:
            raise Broken(f"disconnected ({type(error).__name__}: {error})") from None
        finally:
            if not kept:
                self.close()

    async def tunnel(self, request: bytes) -> None:
        """Have a proxy connect this connection to somewhere else."""
        self.writer.write(request)
        status, _, _ = await self._head()
        if status != 200:
            raise Broken(f"the proxy answers {status} to CONNECT")

    async def _head(self) -> tuple[int, dict[str, str], bool]:
        """Status, headers, and whether the connection stays."""
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        version, status = first.split(" ", 2)[:2]
        if version not in ("HTTP/1.0", "HTTP/1.1"):
            raise ValueError(first[:40])
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError(line[:40])
            headers[name.strip().lower()] = value.strip()
        wish = headers.get("connection", "keep-alive" if version == "HTTP/1.1" else "close")
        return int(status), headers, wish.lower() != "close"

    async def _answer(self) -> tuple[Answer, bool]:
        status, headers, kept = await self._head()
        while 100 <= status < 200:
            status, headers, kept = await self._head()
        if "chunked" in headers.get("transfer-encoding", "").lower():
            content = await self._chunks()
        elif "content-length" in headers:
            content = await self.reader.readexactly(int(headers["content-length"]))
        elif status in (204, 304):
            content = b""
        else:
            content, kept = await self.reader.read(), False
        return Answer(status, headers, content), kept

    async def _chunks(self) -> bytes:
        chunks = []
        while size := int((await self.reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            chunks.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)
        while await self.reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return b"".join(chunks)
