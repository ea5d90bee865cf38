"""The engine over any OpenAI-compatible server: vLLM, SGLang, llama.cpp, a hosted one.

A search asks for one sample at a time. Equal samples that are asked for in the same turn of the event loop leave as
one request with `n`, so that the server reads their prompt once.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import httpx

from forethought.engines.http_body import PATHS, Api, body, dispensable, scored, step_of
from forethought.engines.http_wire import Refused, Unavailable, Usage, Wire
from forethought.thought.tokens import plain
from forethought.types import Messages, Sampling, Step

MOST = 128
"""Most samples in one request: OpenAI's own limit."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Draw:
    """One draw of the server, and who waits for it: equal samples with an equal seed are the same draw."""

    seed: int | None
    waiting: list[asyncio.Future[Step]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Ask:
    """What samples must share to leave in one request."""

    messages: str
    prefix: str
    sampling: Sampling
    """Without its seed."""


class HttpEngine:
    """A model behind an OpenAI-compatible server.

    `url` is the server's, with or without `/v1`. `api` "chat" lets the server apply its chat template and goes on
    with a prefix by `continue_final_message` (vLLM, SGLang; llama.cpp does so by itself), or asks for the rest in
    words where that is refused; "completions" sends the plain text of the turns and is exact about the prefix.
    `timeout` (seconds) is for one request, `retries` how often it is repeated after a 429, a 5xx, a broken connection,
    a time-out or garbage, `backoff` (seconds) the first pause, doubled each time, jittered, and added to what
    Retry-After asks for. `logprobs` asks for each token's log-probability: it is kept where the draw is at temperature
    1 or greedy, since servers give it at 1, and it is how tokens are counted where a server tells no ids. `extra` goes
    into every request as it is (`{"top_k": 20}`). No key is read from the environment: it would be sent to whatever
    `url` is.

    Coalescing: of the equal samples of one turn of the loop, those without a seed become one request with `n`; those
    whose seeds follow one another too, with the first seed and `n` (vLLM seeds choice i with `seed + i`); those with
    the same seed, or greedy, share one draw. A server that refuses `n`, or sends fewer, is from then on asked singly.

    `usage` is what the server reported; `lacks` are the request fields that it was seen to refuse.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        api: Api = "chat",
        max_concurrent: int = 64,
        timeout: float = 600.0,
        retries: int = 4,
        backoff: float = 0.5,
        logprobs: bool = True,
        extra: Mapping[str, Any] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not model:
            raise ValueError("model is empty; name the model as the server does (GET /v1/models lists them)")
        if api not in PATHS:
            raise ValueError(f"api is {api!r}; it must be one of {', '.join(PATHS)}")
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent is {max_concurrent}; at least 1 request must be allowed")
        if timeout <= 0 or retries < 0 or backoff < 0:
            raise ValueError(f"timeout {timeout} must be above 0, retries {retries} and backoff {backoff} 0 or more")
        self.name = model
        self.api: Api = api
        self.lacks: frozenset[str] = frozenset()
        self._wire = Wire(
            url,
            api_key=api_key,
            max_concurrent=max_concurrent,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            transport=transport,
        )
        self._want_logprobs = logprobs
        self._extra = dict(extra or {})
        self._shows_stop = False
        self._pending: dict[tuple[asyncio.AbstractEventLoop, _Ask], list[tuple[int | None, asyncio.Future[Step]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The server's address, down to its version."""
        return self._wire.url

    @property
    def usage(self) -> Usage:
        """Tokens and requests so far, as the server reported them."""
        return self._wire.usage

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the running loop's connections; the engine can be used again, and opens new ones."""
        await self._wire.close()

    async def models(self) -> tuple[str, ...]:
        """The names the server lists; none where it lists none."""
        data = await self._wire.get("/models")
        rows = data.get("data") if isinstance(data, dict) else None
        return tuple(row["id"] for row in rows or () if isinstance(row, dict) and isinstance(row.get("id"), str))

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        """One continuation of `prefix`. `tokens` are those the server tells (vLLM, llama.cpp), else empty.

        A server that stays unavailable, or withholds a text, is a step with `stop="error"`. A wrong key, an unknown
        model or a request that the server refuses raises `ValueError`.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Step] = loop.create_future()
        text = "".join(step.text for step in prefix)
        ask = _Ask(json.dumps(messages, sort_keys=True), text, replace(sampling, seed=None))
        if (loop, ask) not in self._pending:
            self._pending[loop, ask] = []
            loop.call_soon(self._leave, loop, messages, ask)
        self._pending[loop, ask].append((sampling.seed, future))
        return await future

    async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
        """Log-probability, at temperature 1, of every token of every step, as the server cuts their text.

        Needs vLLM's `prompt_logprobs` (chat), or `echo` with `logprobs` (completions); `ValueError` where the server
        has neither. An end token that closed a step is not part of its text and has no entry. Raises
        `ConnectionError` where the server stays unavailable.
        """
        texts = [step.text for step in steps]
        if not any(texts):
            return tuple(() for _ in texts)
        one = Sampling(max_tokens=1, temperature=0)
        lacks = frozenset({"return_token_ids"})
        payload = body(self.api, self.name, messages, "".join(texts), one, 1, lacks, False, self._extra)
        payload |= {"echo": True, "logprobs": 1} if self.api == "completions" else {"prompt_logprobs": 0}
        try:
            data = await self._wire.post(PATHS[self.api], payload)
        except Refused as refused:
            raise await self._wrong(refused) from None
        return scored(data, self.api, plain(messages), texts)

    def _leave(self, loop: asyncio.AbstractEventLoop, messages: Messages, ask: _Ask) -> None:
        """The turn is over: the samples that gathered under `ask` leave, in as few requests as may be."""
        draws: list[_Draw] = []
        shared: dict[int | None, _Draw] = {}
        for seed, future in self._pending.pop((loop, ask)):
            if ask.sampling.temperature == 0:
                seed = None
            if seed is None and ask.sampling.temperature > 0:
                draws.append(_Draw(None, [future]))
                continue
            if seed not in shared:
                shared[seed] = _Draw(seed)
                draws.append(shared[seed])
            shared[seed].waiting.append(future)
        draws.sort(key=lambda draw: -1 if draw.seed is None else draw.seed)
        most = 1 if "n" in self.lacks else MOST
        requests: list[list[_Draw]] = []
        for draw in draws:
            last = requests[-1] if requests else []
            if last and len(last) < most and draw.seed == (None if last[-1].seed is None else last[-1].seed + 1):
                last.append(draw)
            else:
                requests.append([draw])
        for request in requests:
            self._start(loop, messages, ask, request)

    def _start(self, loop: asyncio.AbstractEventLoop, messages: Messages, ask: _Ask, draws: list[_Draw]) -> None:
        """Send one request as a task that ends early when nobody waits for it any more."""
        futures = [future for draw in draws for future in draw.waiting]
        task = loop.create_task(self._serve(loop, messages, ask, draws))
        self._tasks.add(task)

        def abandoned(_: asyncio.Future[Step]) -> None:
            if all(future.done() for future in futures):
                task.cancel()

        def settled(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            for future in futures:
                if task.cancelled():
                    future.cancel()
                elif error is not None and not future.done():
                    future.set_exception(error)

        for future in futures:
            future.add_done_callback(abandoned)
        task.add_done_callback(settled)

    async def _serve(self, loop: asyncio.AbstractEventLoop, messages: Messages, ask: _Ask, draws: list[_Draw]) -> None:
        sampling = replace(ask.sampling, seed=draws[0].seed)
        try:
            choices = await self._choices(messages, ask.prefix, sampling, len(draws))
        except Unavailable as gone:
            fault = Step(text=str(gone), stop="error", sampled=False)
            for draw in draws:
                _give(draw, fault)
            return
        steps = [step_of(choice, self.api, ask.prefix, sampling, self._shows_stop) for choice in choices]
        for draw, step in zip(draws, steps, strict=False):
            _give(draw, step)
        if rest := draws[len(steps) :]:
            self._note({"n"})
            for draw in rest:
                self._start(loop, messages, ask, [draw])

    async def _choices(self, messages: Messages, prefix: str, sampling: Sampling, n: int) -> list[Any]:
        """The server's choices, at most `n`; fields that it refuses are left out and, if that helped, remembered."""
        lacks = self.lacks
        while True:
            # A list that is shorter than `n` is the caller's to complete: so is one of 1, where `n` was refused.
            want = 1 if "n" in lacks else n
            payload = body(
                self.api, self.name, messages, prefix, sampling, want, lacks, self._want_logprobs, self._extra
            )
            try:
                data = await self._wire.post(PATHS[self.api], payload)
            except Refused as refused:
                fewer = dispensable(payload, refused.message, self._extra) if refused.status in (400, 422) else None
                if not fewer:
                    raise await self._wrong(refused) from None
                lacks |= fewer
                continue
            self._note(lacks)
            choices = sorted(data["choices"], key=_index)[:n]
            self._shows_stop |= any(_shows(choice, sampling.stop) for choice in choices)
            return choices

    def _note(self, lacks: set[str] | frozenset[str]) -> None:
        for name in sorted(lacks - self.lacks):
            logger.warning("%s refuses %r: asking without it from now on", self.url, name)
        self.lacks |= lacks

    async def _wrong(self, refused: Refused) -> ValueError:
        """What the user must change."""
        status, message = refused.status, refused.message
        if status in (401, 403):
            return ValueError(f"{self.url} refuses the key ({status}): {message}; give the api_key of this server")
        if status == 404 or self.name in message:
            names = await self.models()
            if names and self.name not in names:
                near = difflib.get_close_matches(self.name, names, n=1, cutoff=0.0)[0]
                return ValueError(f"{self.url} has no model {self.name!r}; did you mean {near!r}? It has {len(names)}")
        if status == 404:
            return ValueError(f"{self.url}{PATHS[self.api]} is not there (404): {message}; check url, and api")
        return ValueError(f"{self.url} refuses the request ({status}): {message}")


def connect(address: str, **options: Any) -> HttpEngine:
    """The engine for `http://host:port/v1#model-name`, as a `--model` has it; `options` are `HttpEngine`'s."""
    url, _, model = address.partition("#")
    return HttpEngine(url, model, **options)


def _give(draw: _Draw, step: Step) -> None:
    for future in draw.waiting:
        if not future.done():
            future.set_result(step)


def _index(choice: Any) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if isinstance(index, int) else 0


def _shows(choice: Any, stops: Sequence[str]) -> bool:
    """Did this server leave a stop string at the end of the text?"""
    message = choice.get("message", choice) if isinstance(choice, dict) else None
    text = (message.get("content") or message.get("text")) if isinstance(message, dict) else None
    return isinstance(text, str) and any(text.endswith(stop) for stop in stops)
