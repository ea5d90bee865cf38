"""JSON over HTTP to one server: thousands of requests in flight, connections used again, deadlines, retries, counts."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from forethought.engines.http_connection import Answer, Broken, Connection, Origin
from forethought.engines.usage import Usage

LONGEST_WAIT = 60.0
"""Seconds; a server that asks for more in Retry-After is asked again after this long."""
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
    """One event loop's connections."""

    def __init__(self, most: int) -> None:
        self.slots = asyncio.Semaphore(most)
        self.free: list[Connection] = []
        """A stack: the connection used last is the one least likely to have been closed by the server."""
        self.closed = False

    def take(self) -> Connection | None:
        """A connection that is open, if there is one."""
        while self.free:
            connection = self.free.pop()
            if connection.open:
                return connection
            connection.close()
        return None

    def give_back(self, connection: Connection) -> None:
        if self.closed or not connection.open:
            connection.close()
        else:
            self.free.append(connection)


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
        self._origin = Origin(url, api_key)
        self._max_concurrent = max_concurrent
        self._timeout = timeout
        self._deadline = deadline
        self._retries = retries
        self._backoff = backoff
        self._lines: dict[asyncio.AbstractEventLoop, _Line] = {}

    def _line(self) -> _Line:
        loop = asyncio.get_running_loop()
        if loop not in self._lines:
            # A closed loop's connections cannot be closed any more, only let go.
            self._lines = {other: line for other, line in self._lines.items() if not other.is_closed()}
            self._lines[loop] = _Line(self._max_concurrent)
        return self._lines[loop]

    async def close(self) -> None:
        """Close the running loop's connections; those in use close with their request."""
        line = self._lines.pop(asyncio.get_running_loop(), None)
        if line is not None:
            line.closed = True
            while line.free:
                line.free.pop().close()
            await asyncio.sleep(0)  # what was closed leaves the loop in its next turn

    async def _ask(self, line: _Line, method: str, url: str, content: bytes = b"") -> Answer:
        connection = line.take() or await self._origin.connect(min(self._timeout, 10.0))
        answer = await connection.ask(self._origin.head(method, urlsplit(url).path, len(content)) + content)
        line.give_back(connection)
        return answer

    async def get(self, path: str) -> Any:
        """The JSON at `path`, asked once; `None` where there is none to be had."""
        line = self._line()
        with contextlib.suppress(Broken, ValueError, TimeoutError):
            async with line.slots, asyncio.timeout(min(self._timeout, 10.0)):
                answer = await self._ask(line, "GET", self.url + path)
            return answer.json() if answer.status == 200 else None
        return None

    async def post(self, url: str, payload: Mapping[str, Any], holds: str = "choices") -> dict[str, Any]:
        """The answer to `payload`: a JSON object that has `holds`, a list with something in it where it is `choices`.

        Raises `Refused` on 3xx and 4xx, and `Unavailable` when 429, 5xx, a broken connection, a time-out or an answer
        that is no such object came every time, or the deadline passed. A connection is kept while waiting: a busy
        server is asked by fewer at once. Cancelled, the request's connection is closed, so that the server stops.
        """
        attempt, reason, line = 0, "no answer", self._line()
        content = json.dumps(payload, separators=(",", ":")).encode()
        async with line.slots:
            try:
                async with asyncio.timeout(self._deadline):
                    for attempt in range(self._retries + 1):
                        try:
                            return await self._once(line, url, content, holds)
                        except (Unavailable, Broken, TimeoutError) as error:
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

    async def _once(self, line: _Line, url: str, content: bytes, holds: str) -> dict[str, Any]:
        self.usage.requests += 1
        async with asyncio.timeout(self._timeout):
            answer = await self._ask(line, "POST", url, content)
        status = answer.status
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
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    return str(error)


def _message(answer: Answer) -> str:
    """What the server says went wrong, in the places where servers put it."""
    try:
        data = answer.json()
    except ValueError:
        return answer.text[:300].strip() or "(no words)"
    error = data.get("error", data) if isinstance(data, dict) else data
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)[:600]


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks us to wait; 0 where it does not say."""
    value = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
