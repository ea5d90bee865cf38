"""JSON over HTTP to one server: thousands of requests in flight, connections used again, deadlines, retries, counts.

By aiohttp: httpx's pool looks through all its connections at every request, 4 to 16 ms of a core at a thousand of them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.utils
import json
import random
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from forethought.engines.http_stream import Broken, Reader
from forethought.engines.usage import Usage
from forethought.types import Step

KEPT = 4.0
"""Seconds that an unused connection is kept: less than the 5 after which uvicorn, under vLLM and SGLang, hangs up."""
CONNECT = 30.0
"""Most seconds to connect, and to list the models. Thousands that connect at once on a busy core take more than 10."""
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


def reported(told: Any, *, scoring: bool = False) -> HttpUsage:
    """What the `usage` of one answer says; `scoring`: its prompt was read for log-probabilities alone.

    The HTTP request itself is counted where it is sent.
    """
    if not isinstance(told, dict) or not isinstance(told.get("completion_tokens"), int):
        return HttpUsage(unreported=1)
    cached = _count(told.get("prompt_tokens_details"), "cached_tokens")
    computed = _count(told, "prompt_tokens") - cached
    # OpenAI, vLLM; SGLang.
    reasoning = _count(told.get("completion_tokens_details"), "reasoning_tokens") or _count(told, "reasoning_tokens")
    return HttpUsage(
        prefilled=0 if scoring else computed,
        scored=computed if scoring else 0,
        reused=cached,
        sampled=told["completion_tokens"],
        reasoning=reasoning,
    )


def shares(usage: Usage, steps: Sequence[Step]) -> list[Usage]:
    """One answer's cost by its choices: the prompt goes to the first, drawn tokens to whom they were drawn for, as far
    as the server told their tokens, else in equal parts."""
    told = [len(step.tokens) or len(step.logprobs) for step in steps]
    if sum(told) != usage.sampled:
        told = [usage.sampled // len(steps)] * len(steps)
        told[0] += usage.sampled - sum(told)
    costs = [Usage(sampled=tokens, requests=1) for tokens in told]
    costs[0].prefilled, costs[0].reused = usage.prefilled, usage.reused
    return costs


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
    """`url` down to its version: `http://host:8000` and `…/v1/chat/completions` are both `http://host:8000/v1`.

    A user and password are left out: they are sent as a header, and stand in no message.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(f"{url!r} is no address of a server; give one like http://localhost:8000/v1")
    path = re.sub(r"/(chat/completions|completions|models)$", "", parts.path.rstrip("/"))
    if not re.search(r"/v\d+\w*(/|$)", path):
        path += "/v1"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}"


class _Line(NamedTuple):
    """One event loop's connections, and who may use one."""

    session: aiohttp.ClientSession
    slots: asyncio.Semaphore


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
        # Given with each request: what a session holds, the key too, aiohttp tells the proxy as well.
        self._headers = {"User-Agent": "forethought", "Accept": "application/json"} | _authorization(url, api_key)
        self._proxy = _proxy(url)
        self._tls = ssl.create_default_context() if self.url.startswith("https:") else True
        self._max_concurrent = max_concurrent
        self._timeout = timeout
        self._deadline = deadline
        self._retries = retries
        self._backoff = backoff
        self._lines: dict[asyncio.AbstractEventLoop, _Line] = {}

    async def _line(self) -> _Line:
        for other in [loop for loop in list(self._lines) if loop.is_closed()]:
            if (over := self._lines.pop(other, None)) is not None:
                await over.session.close()  # its connections went with their loop; this says that it is known
        loop = asyncio.get_running_loop()
        if loop not in self._lines:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_concurrent, keepalive_timeout=KEPT, ssl=self._tls),
                timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=min(self._timeout, CONNECT)),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Not trust_env: it asks a thread for the proxy at every request, and sends the passwords of ~/.netrc.
                proxy=self._proxy,
            )
            self._lines[loop] = _Line(session, asyncio.Semaphore(self._max_concurrent))
        return self._lines[loop]

    async def close(self) -> None:
        """Close the running loop's connections; what is in flight on them ends as `Unavailable`."""
        line = self._lines.pop(asyncio.get_running_loop(), None)
        if line is not None:
            await line.session.close()

    async def get(self, path: str) -> Any:
        """The JSON at `path`, asked once; `None` where there is none to be had."""
        line, most = await self._line(), aiohttp.ClientTimeout(total=min(self._timeout, CONNECT))
        with contextlib.suppress(aiohttp.ClientError, ValueError, TimeoutError):
            async with (
                line.slots,
                line.session.get(self.url + path, headers=self._headers, timeout=most, allow_redirects=False) as answer,
            ):
                return json.loads(await answer.read()) if answer.status == 200 else None
        return None

    async def post(
        self, url: str, payload: Mapping[str, Any], holds: str = "choices", reader: Reader | None = None
    ) -> dict[str, Any]:
        """The answer to `payload`: a JSON object that has `holds`, a list with something in it where it is `choices`.

        A `reader` hears a streamed answer as it comes; once it has begun, the request is not repeated.

        Raises `Refused` on 3xx and 4xx, and `Unavailable` when 429, 5xx, a broken connection, a time-out or an answer
        that is no such object came every time, or the deadline passed. A connection is kept while waiting: a busy
        server is asked by fewer at once. Cancelled, the request's connection is closed, so that the server stops.
        """
        attempt, reason, line = 0, "no answer", await self._line()
        async with line.slots:
            try:
                async with asyncio.timeout(self._deadline):
                    for attempt in range(self._retries + 1):
                        if line.session.closed:
                            raise Unavailable(f"{url}: the engine was closed")
                        try:
                            return await self._once(line.session, url, payload, holds, reader)
                        except (Unavailable, Broken, aiohttp.ClientError, TimeoutError) as error:
                            self.usage.failed += 1
                            reason = _words(error, self._timeout)
                            asked = error.wait if isinstance(error, Unavailable) else 0.0
                        except asyncio.CancelledError:
                            self.usage.failed += 1
                            raise
                        if reader is not None and reader.begun:
                            break
                        if attempt < self._retries:
                            # The jitter stands on top of what was asked for, or all would be back at one instant.
                            wait = min(self._backoff * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
                            await asyncio.sleep(min(asked, LONGEST_WAIT) + wait)
            except TimeoutError:
                reason = f"{reason}; its deadline of {self._deadline:g} s passed"
        times = f", asked {attempt + 1} times" if attempt else ""
        raise Unavailable(f"{url}: {reason}{times}")

    async def _once(
        self,
        session: aiohttp.ClientSession,
        url: str,
        payload: Mapping[str, Any],
        holds: str,
        reader: Reader | None = None,
    ) -> dict[str, Any]:
        self.usage.requests += 1
        async with session.post(url, json=payload, headers=self._headers, allow_redirects=False) as answer:
            if reader is None or answer.status != 200:
                content = await answer.read()
            elif not (content := await reader.read(answer.content.iter_any())) and reader.begun:
                return reader.data()
        status, text = answer.status, content.decode(errors="replace")
        if status in (408, 409, 425, 429) or status >= 500:
            raise Unavailable(f"status {status}: {_message(text)}", _retry_after(answer.headers))
        if status >= 300:
            where = f"it is at {answer.headers['Location']}" if "Location" in answer.headers else _message(text)
            raise Refused(status, where)
        try:
            data = json.loads(content)
        except ValueError:
            raise Unavailable(f"an answer that is not JSON: {text[:80]!r}") from None
        if not isinstance(data, dict) or holds not in data:
            raise Unavailable(f"an answer without {holds}: {text[:200]!r}")
        if holds == "choices" and not (isinstance(data[holds], list) and data[holds]):
            raise Unavailable(f"an answer without choices: {text[:200]!r}")
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


def _authorization(url: str, api_key: str | None) -> dict[str, str]:
    """The header for the key or, where there is none, for the user and password of the address."""
    pair, at, _ = urlsplit(url).netloc.rpartition("@")
    if api_key:
        if not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("the api_key has a line break or another character that no header may hold; strip it")
        return {"Authorization": f"Bearer {api_key}"}
    return {"Authorization": "Basic " + base64.b64encode(unquote(pair).encode()).decode()} if at else {}


def _proxy(url: str) -> str | None:
    """The environment's proxy for `url`, if any."""
    parts, found = urlsplit(url), getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if not proxy or proxy_bypass(parts.hostname or ""):
        return None
    scheme, slashes, _ = proxy.rpartition("://")
    if slashes and scheme != "http":
        raise ValueError(f"the environment's proxy for {parts.scheme} has the scheme {scheme!r}; only http is spoken")
    return proxy if slashes else f"http://{proxy}"


def _words(error: Exception, timeout: float) -> str:
    if isinstance(error, aiohttp.ServerDisconnectedError):  # in whose words stands half an answer, where that came
        return "disconnected"
    return str(error) or f"no answer within {timeout:g} s"


def _message(text: str) -> str:
    """What the server says went wrong, in the places where servers put it."""
    try:
        data = json.loads(text)
    except ValueError:
        return text[:300].strip() or "(no words)"
    error = data.get("error", data) if isinstance(data, dict) else data
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)[:600]


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks us to wait; 0 where it does not say."""
    value = headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
