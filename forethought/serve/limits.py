"""Who may come in, how often, with how much, and how many at a time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forethought.serve.config import LOOPBACK
from forethought.serve.errors import ApiError

OPEN_PATHS = ("/health",)
"""What anybody may see."""
BUCKETS = 10_000
"""Callers whose rate is remembered; the one that was away longest is forgotten first."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    name: str
    rate: int
    """Requests a minute; 0 is no limit."""
    operator: bool = False
    """May they see what the server keeps of others, hidden thoughts included?"""


class Keys:
    """The clients' keys. Only their digests are kept, and all are compared, in constant time."""

    def __init__(
        self, keys: dict[str, str], rates: dict[str, int], rate: int = 0, operators: Collection[str] = ()
    ) -> None:
        self._digests = {name: _digest(key) for name, key in keys.items()}
        self._rates, self._rate, self._operators = rates, rate, frozenset(operators)

    @classmethod
    def read(cls, path: str | Path, rate: int = 0) -> Self:
        """From a file of lines `name key [requests a minute] [operator]`; blank ones, and all from `#` on, left out.

        Raises ValueError where it cannot be read, or a line is not of that form.
        """
        keys, rates, operators = dict[str, str](), dict[str, int](), set[str]()
        for number, line in enumerate(lines(path), 1):
            words = line.split()
            if marked := len(words) > 2 and words[-1] == "operator":
                words.pop()
            if len(words) not in (2, 3) or (len(words) == 3 and not words[2].isdigit()) or words[0] in keys:
                form = "name key [requests a minute] [operator]"
                raise ValueError(f"{path}: key {number} is not `{form}` with a name of its own")
            if len(words[1]) < 16:
                raise ValueError(f"{path}: the key of {words[0]!r} is {len(words[1])} characters; give it 16 or more")
            keys[words[0]] = words[1]
            if len(words) == 3:
                rates[words[0]] = int(words[2])
            if marked:
                operators.add(words[0])
        return cls(keys, rates, rate, operators)

    def caller(self, key: str) -> Caller | None:
        """Whose key this is."""
        digest, found = _digest(key), None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return None if found is None else Caller(found, self._rates.get(found, self._rate), found in self._operators)


def lines(path: str | Path) -> list[str]:
    """A file's lines without comments and blank ones; a ValueError where it cannot be read or has none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    found = [bare for line in text.splitlines() if (bare := line.partition("#")[0].strip())]
    if not found:
        raise ValueError(f"{path} has no key in it")
    return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Rates:
    """A bucket of requests a caller, filled at its rate: so many at once, and as many again in a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: Caller) -> dict[str, str]:
        """Count one request; the headers that say what is left. Raises ApiError (429) where nothing is."""
        if not caller.rate:
            return {}
        now = self._clock()
        left, then = self._buckets.pop(caller.name, (float(caller.rate), now))
        left = min(caller.rate, left + (now - then) * caller.rate / 60)
        allowed = left >= 1
        self._buckets[caller.name] = (left - allowed, now)
        if len(self._buckets) > BUCKETS:
            self._buckets.popitem(last=False)
        headers = {
            "x-ratelimit-limit-requests": str(caller.rate),
            "x-ratelimit-remaining-requests": str(int(left - allowed)),
        }
        if not allowed:
            wait = str(max(1, round((1 - left) * 60 / caller.rate)))
            message = f"Rate limit reached: {caller.rate} requests a minute. Try again in {wait} s."
            raise ApiError(429, message, code="rate_limit_exceeded", headers={**headers, "retry-after": wait})
        return headers


class Door:
    """ASGI middleware: a request is let in before any of its body is read, or answered with why not.

    Where there are no keys, the server must be addressed as this machine: a name that another site's owner has pointed
    here is that site's, and its pages could read the answers.
    """

    def __init__(
        self, app: ASGIApp, keys: Keys | None, rate: int, body_bytes: int, open_paths: Collection[str] = ()
    ) -> None:
        self.app, self.keys, self.rate, self.body_bytes = app, keys, rate, body_bytes
        self.open_paths = {*OPEN_PATHS, *open_paths}
        self.rates = Rates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
            return
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.body_bytes:
                error = self._too_large()
                raise HTTPException(error.status, error.message)  # the one that passes through a reader of bodies
            return message

        try:
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            caller = self._caller(headers, scope)
            with suppress(ValueError):
                if int(headers.get(b"content-length", "0")) > self.body_bytes:
                    raise self._too_large()
            told = self.rates.take(caller)
        except ApiError as error:
            await error.reply()(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in told.items()]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        await self.app(scope, limited, telling)

    def _caller(self, headers: dict[bytes, str], scope: Scope) -> Caller:
        if self.keys is None:
            if re.sub(r":\d+$", "", headers.get(b"host", "")).strip("[]") not in LOOPBACK:
                message = "A server without keys is for this machine: ask http://localhost, or give it a file of keys."
                raise ApiError(403, message, code="cross_site")
            return Caller((scope.get("client") or ("",))[0], self.rate, operator=True)
        scheme, _, key = headers.get(b"authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError(401, "You did not provide an API key; send it as `Authorization: Bearer KEY`.")
        caller = self.keys.caller(key.strip())
        if caller is None:
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
        return caller

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self.body_bytes} bytes.", code="request_too_large")


class Gate:
    """So many are worked on together, so many more wait, and the rest are refused at once."""

    def __init__(self, running: int, waiting: int) -> None:
        self.running, self.waiting = running, waiting
        self.inside = 0
        """Tickets that are out: requests at work, and those that wait."""
        self._slots = asyncio.Semaphore(running)

    def ticket(self, *, always: bool = False) -> Ticket:
        """A place, at work or in the queue, until it is left. Raises ApiError (429) where there is none, unless it is
        given `always`."""
        if not always and self.inside >= self.running + self.waiting:
            message = f"The server is busy: {self.inside} requests are under way or waiting. Try again in a moment."
            raise ApiError(429, message, code="server_busy", headers={"retry-after": "2"})
        self.inside += 1
        return Ticket(self)


class Ticket:
    """One request's place. `async with` waits for its turn; at the end, or by `leave`, the place is free again."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._here = gate, True

    async def __aenter__(self) -> None:
        await self._gate._slots.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate._slots.release()
        self.leave()

    def leave(self) -> None:
        """Give the place up; once is enough, twice does no harm."""
        self._gate.inside -= self._here
        self._here = False
