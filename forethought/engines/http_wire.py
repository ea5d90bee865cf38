"""JSON over HTTP to one server: thousands of requests in flight, connections used again, deadlines, retries, counts."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import random
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from forethought.engines.usage import Usage

LONGEST_WAIT = 60.0
"""Seconds; a server that asks for more in Retry-After is asked again after this long."""
KEPT = 4.0
"""Seconds that an unused connection is kept: less than the 5 after which uvicorn, under vLLM and SGLang, hangs up."""
FILES = 64
"""Open files that this process may need besides connections."""


@dataclass(slots=True)
class HttpUsage(Usage):
    """What a server said it computed, on the local engine's record. Nothing is guessed: what it did not say is
    counted in `failed` and `unreported`, and a server that says nothing of its prefix cache has `reused` 0."""

    requests: int = 0
    """HTTP requests, repeated ones and those for token ids included."""
    failed: int = 0
    """Of these, those that were cancelled, broke off, timed out or got a 429, a 5xx or garbage."""
    unreported: int = 0
    """Answers that came without a count of tokens."""
    reasoning: int = 0
    """Of the tokens sampled, those spent on hidden reasoning, as far as reported."""

    def report(self, told: Any, *, scoring: bool = False) -> None:
        """Book the `usage` of one answer; `scoring`: its prompt was read for log-probabilities alone."""
        if not isinstance(told, dict) or not isinstance(told.get("completion_tokens"), int):
            self.unreported += 1
            return
        cached = _count(told.get("prompt_tokens_details"), "cached_tokens")
        computed = _count(told, "prompt_tokens") - cached
        self.reused += cached
        if scoring:
            self.scored += computed
        else:
            self.prefilled += computed
        self.sampled += told["completion_tokens"]
        # OpenAI, vLLM; SGLang.
        self.reasoning += _count(told.get("completion_tokens_details"), "reasoning_tokens") or _count(
            told, "reasoning_tokens"
        )


def _count(told: Any, name: str) -> int:
    value = told.get(name) if isinstance(told, dict) else None
    return value if isinstance(value, int) else 0


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


class _Line:
    """One event loop's connections. Each is an httpx client of its own: a pool of httpx looks through all of its
    connections and requests whenever one comes or goes, which at thousands of them takes longer than the server."""

    def __init__(self, most: int) -> None:
        self.slots = asyncio.Semaphore(most)
        self.clients: list[httpx.AsyncClient] = []
        self.free: list[httpx.AsyncClient] = []
        """A stack: the connection used last is the one least likely to have been closed by the server."""


class Wire:
    """One server, from any event loop: each loop has its own connections, and the next one starts afresh.

    `timeout` (seconds) is for one attempt; `deadline` (seconds, or None) for a request with all its attempts and
    pauses, from when it leaves: waiting for one of the `max_concurrent` connections is not the server's fault.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        max_concurrent: int,
        timeout: float,
        deadline: float | None,
        retries: int,
        backoff: float,
    ) -> None:
        self.url = base_url(url)
        self.root = re.sub(r"/v\d+\w*(/.*)?$", "", self.url)
        """The address without its version: where servers have what OpenAI does not."""
        _check_files(max_concurrent)
        self.usage = HttpUsage()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._max_concurrent = max_concurrent
        self._timeout = timeout
        self._deadline = deadline
        self._retries = retries
        self._backoff = backoff
        self._verify = httpx.create_ssl_context()
        self._lines: dict[asyncio.AbstractEventLoop, _Line] = {}

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx.AsyncClient]:
        loop = asyncio.get_running_loop()
        if loop not in self._lines:
            # A closed loop's connections cannot be closed any more, only let go.
            self._lines = {other: line for other, line in self._lines.items() if not other.is_closed()}
            self._lines[loop] = _Line(self._max_concurrent)
        line = self._lines[loop]
        async with line.slots:
            if line.free:
                client = line.free.pop()
            else:
                client = httpx.AsyncClient(
                    headers=self._headers,
                    verify=self._verify,
                    timeout=httpx.Timeout(None, connect=min(self._timeout, 10.0)),
                    limits=httpx.Limits(max_connections=1, keepalive_expiry=KEPT),
                )
                line.clients.append(client)
            try:
                yield client
            finally:
                line.free.append(client)

    async def close(self) -> None:
        """Close the running loop's connections."""
        line = self._lines.pop(asyncio.get_running_loop(), None)
        for client in line.clients if line else ():
            await client.aclose()

    async def get(self, path: str) -> Any:
        """The JSON at `path`, asked once; `None` where there is none to be had."""
        with contextlib.suppress(httpx.HTTPError, ValueError, TimeoutError):
            async with self._connection() as client, asyncio.timeout(min(self._timeout, 10.0)):
                answer = await client.get(self.url + path)
            return answer.json() if answer.status_code == 200 else None
        return None

    async def post(self, url: str, payload: Mapping[str, Any], holds: str = "choices") -> dict[str, Any]:
        """The answer to `payload`: a JSON object that has `holds`, a list with something in it where it is `choices`.

        Raises `Refused` on 3xx and 4xx, and `Unavailable` when 429, 5xx, a broken connection, a time-out or an answer
        that is no such object came every time, or the deadline passed. A connection is kept while waiting: a busy
        server is asked by fewer at once. Cancelled, the request's connection is closed, so that the server stops.
        """
        attempt, reason = 0, "no answer"
        async with self._connection() as client:
            try:
                async with asyncio.timeout(self._deadline):
                    for attempt in range(self._retries + 1):
                        try:
                            return await self._once(client, url, payload, holds)
                        except (Unavailable, httpx.RequestError, TimeoutError) as error:
                            self.usage.failed += 1
                            reason = _words(error, self._timeout)
                            asked = error.wait if isinstance(error, Unavailable) else 0.0
                        except asyncio.CancelledError:
                            self.usage.failed += 1
                            raise
                        if attempt < self._retries:
                            # The jitter stands on top of what was asked for, or all would be back at one instant.
                            wait = min(self._backoff * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
                            await asyncio.sleep(min(asked, LONGEST_WAIT) + wait)
            except TimeoutError:
                reason = f"{reason}; its deadline of {self._deadline:g} s passed"
        times = f", asked {attempt + 1} times" if attempt else ""
        raise Unavailable(f"{url}: {reason}{times}")

    async def _once(
        self, client: httpx.AsyncClient, url: str, payload: Mapping[str, Any], holds: str
    ) -> dict[str, Any]:
        self.usage.requests += 1
        async with asyncio.timeout(self._timeout):
            answer = await client.post(url, json=payload)
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
        if not isinstance(data, dict) or holds not in data:
            raise Unavailable(f"an answer without {holds}: {answer.text[:200]!r}")
        if holds == "choices" and not (isinstance(data[holds], list) and data[holds]):
            raise Unavailable(f"an answer without choices: {answer.text[:200]!r}")
        return data


def _check_files(connections: int) -> None:
    """Refuse more connections than this process may have open files."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and connections + FILES > limit:
        raise ValueError(
            f"max_concurrent is {connections}, and this process may open {limit} files: lower it, or raise the limit "
            f"(ulimit -n {connections + FILES})"
        )


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
