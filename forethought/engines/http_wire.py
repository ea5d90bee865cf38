"""JSON over HTTP to one server: bounded concurrency, retries with back-off, and a count of what it said it used."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

LONGEST_WAIT = 60.0
"""Seconds; a server that asks for more in Retry-After is asked again after this long."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server said it computed. Nothing here is guessed: what it did not say is counted in `unreported`."""

    requests: int = 0
    """HTTP requests for samples and log-probabilities, repeated ones included."""
    failed: int = 0
    """Of these, those that broke off, timed out or got a 429, a 5xx or garbage; what they computed is unknown."""
    unreported: int = 0
    """Answers that came without a count of tokens."""
    prompt: int = 0
    """Prompt tokens, as far as reported."""
    completion: int = 0
    """Completion tokens, as far as reported, reasoning included."""
    reasoning: int = 0
    """Of the completion tokens, those spent on hidden reasoning, as far as reported."""

    def __str__(self) -> str:
        said = f"{self.prompt} prompt and {self.completion} completion tokens in {self.requests} requests"
        unknown = self.failed + self.unreported
        return f"{said}, and an unknown number in {unknown} of them" if unknown else said


class Refused(Exception):  # noqa: N818 -- an answer, not a fault
    """The server understood and said no: status 3xx or 4xx."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Unavailable(ConnectionError):  # noqa: N818 -- as Refused
    """No usable answer came, however often it was asked; the message says what came last."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait
        """Seconds that the server asked us to stay away."""


def base_url(url: str) -> str:
    """`url` down to its version: `http://host:8000` and `…/v1/chat/completions` are both `http://host:8000/v1`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address of a server; give one like http://localhost:8000/v1")
    path = re.sub(r"/(chat/completions|completions|models)$", "", parts.path.rstrip("/"))
    if not re.search(r"/v\d+\w*(/|$)", path):
        path += "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


class Wire:
    """One server, from any event loop: each loop has its own connections, and the next one starts afresh."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        max_concurrent: int,
        timeout: float,
        retries: int,
        backoff: float,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self.url = base_url(url)
        self.usage = Usage()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._max_concurrent = max_concurrent
        self._timeout = timeout
        self._retries = retries
        self._backoff = backoff
        self._transport = transport
        self._lines: dict[asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, asyncio.Semaphore]] = {}

    def _line(self) -> tuple[httpx.AsyncClient, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        if loop not in self._lines:
            # A closed loop's connections cannot be closed any more, only let go.
            self._lines = {other: line for other, line in self._lines.items() if not other.is_closed()}
            client = httpx.AsyncClient(
                headers=self._headers,
                timeout=httpx.Timeout(self._timeout, connect=min(self._timeout, 10.0), pool=None),
                limits=httpx.Limits(max_connections=self._max_concurrent),
                transport=self._transport,
            )
            self._lines[loop] = (client, asyncio.Semaphore(self._max_concurrent))
        return self._lines[loop]

    async def close(self) -> None:
        """Close the running loop's connections."""
        client, _ = self._lines.pop(asyncio.get_running_loop(), (None, None))
        if client is not None:
            await client.aclose()

    async def get(self, path: str) -> Any:
        """The JSON at `path`, asked once; `None` where there is none to be had."""
        client, _ = self._line()
        with contextlib.suppress(httpx.HTTPError, ValueError, TimeoutError):
            async with asyncio.timeout(min(self._timeout, 10.0)):
                answer = await client.get(self.url + path)
            return answer.json() if answer.status_code == 200 else None
        return None

    async def post(self, path: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to `payload`: a JSON object with `choices`.

        Raises `Refused` on 3xx and 4xx, and `Unavailable` when 429, 5xx, a broken connection, a time-out or an answer
        that is no such object came every time. A slot is kept while waiting: a busy server is asked by fewer at once.
        """
        client, slots = self._line()
        async with slots:
            for attempt in range(self._retries + 1):
                try:
                    return await self._once(client, path, payload)
                except (Unavailable, httpx.RequestError, TimeoutError) as error:
                    self._count(failed=1)
                    reason = _words(error, self._timeout)
                    asked = error.wait if isinstance(error, Unavailable) else 0.0
                if attempt < self._retries:
                    # The jitter stands on top of what was asked for, or all would be back at the same instant.
                    wait = min(self._backoff * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
                    await asyncio.sleep(min(asked, LONGEST_WAIT) + wait)
        times = f", asked {self._retries + 1} times" if self._retries else ""
        raise Unavailable(f"{self.url}{path}: {reason}{times}")

    async def _once(self, client: httpx.AsyncClient, path: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        self._count(requests=1)
        async with asyncio.timeout(self._timeout):
            answer = await client.post(self.url + path, json=payload)
        status = answer.status_code
        if status in (408, 409, 425, 429) or status >= 500:
            raise Unavailable(f"status {status}: {_message(answer)}", _retry_after(answer.headers))
        if status >= 300:
            where = f"it is at {answer.headers['location']}" if "location" in answer.headers else _message(answer)
            raise Refused(status, where)
        try:
            data = answer.json()
        except ValueError:
            raise Unavailable(f"an answer that is not JSON: {answer.text[:80]!r}") from None
        if not isinstance(data, dict) or not isinstance(data.get("choices"), list) or not data["choices"]:
            raise Unavailable(f"an answer without choices: {answer.text[:200]!r}")
        usage = data.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            details = usage.get("completion_tokens_details") or {}
            self._count(
                prompt=usage.get("prompt_tokens") or 0,
                completion=usage["completion_tokens"],
                reasoning=details.get("reasoning_tokens") or 0,
            )
        else:
            self._count(unreported=1)
        return data

    def _count(self, **more: int) -> None:
        old = self.usage
        self.usage = Usage(**{name: getattr(old, name) + more.get(name, 0) for name in Usage.__slots__})


def _words(error: Exception, timeout: float) -> str:
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return f"no answer within {timeout:g} s"
    return str(error) if isinstance(error, Unavailable) else f"{type(error).__name__}: {error}".removesuffix(": ")


def _message(answer: httpx.Response) -> str:
    """What the server says went wrong, in the places where servers put it."""
    try:
        data = answer.json()
    except ValueError:
        return answer.text[:300].strip() or "(no words)"
    error = data.get("error", data) if isinstance(data, dict) else data
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)[:600]


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds that the server asks us to wait; 0 where it does not say."""
    value = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
