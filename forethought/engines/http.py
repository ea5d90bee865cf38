"""The engine over any OpenAI-compatible server: vLLM, SGLang, llama.cpp, a hosted one.

A search asks for one sample at a time. Equal samples that are asked for in the same turn of the event loop leave as
one request with `n`, so that the server reads their prompt once; seeded ones leave one by one, thousands at a time.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from forethought.engines.http_body import PATHS, Api, body, dispensable, step_of
from forethought.engines.http_score import FIELDS, by_position, by_text
from forethought.engines.http_stream import Reader
from forethought.engines.http_tokens import Prompts
from forethought.engines.http_wire import HttpUsage, Refused, Unavailable, Wire, reported, shares
from forethought.engines.usage import Bill, Usage
from forethought.thought.tokens import Tokenizer, plain
from forethought.types import Messages, Sampling, Step

MOST = 128
"""Most samples in one request: OpenAI's own limit."""
STREAM = {"stream": True, "stream_options": {"include_usage": True}}

logger = logging.getLogger(__name__)


Draw = list[asyncio.Future[Step]]
"""Who waits for one draw of the server: equal samples with an equal seed are the same draw."""


@dataclass(frozen=True, slots=True)
class _Ask:
    """What samples must share to be the same draw, or to leave in one request where they have no seed."""

    messages: str
    prefix: tuple[Step, ...]
    """Text alone where the server is sent text, tokens too where it is sent those."""
    sampling: Sampling


class HttpEngine:
    """A model behind an OpenAI-compatible server.

    `url` is the server's, with or without `/v1`. `api` "chat" lets the server apply its chat template and goes on
    with a prefix by `continue_final_message` (vLLM, SGLang; llama.cpp does so by itself), or asks for the rest in
    words where that is refused; "completions" sends the plain text of the turns and is exact about the prefix's text;
    "tokens" sends token ids (vLLM, SGLang, llama.cpp) and is exact about its tokens: the chat template's from the
    server's `/tokenize`, or from `tokenizer`, each step's as it was sampled.

    `max_concurrent` requests are in flight at most, each on a connection that is used again. `timeout` (seconds) is
    for one attempt, `retries` how often it is repeated after a 429, a 5xx, a broken connection, a time-out or garbage,
    `backoff` (seconds) the first pause, doubled each time, jittered, and added to what Retry-After asks for;
    `deadline` (seconds, None for none) is for a request with all of that, from when it leaves. `logprobs` asks for
    each token's log-probability: it is kept where the draw is at temperature 1 or greedy, since servers give it at 1,
    and it is how tokens are counted where a server tells no ids. `extra` goes into every request as it is
    (`{"top_k": 20}`). No key is read from the environment: it would be sent to whatever `url` is.

    Coalescing: the equal samples of one turn of the loop that have no seed become one request with `n`; those with
    the same seed, or greedy, share one draw. Other seeds are a request each: a seed names one draw, whatever is asked
    for beside it, and only some servers give the choices of one request seeds of their own. A server that refuses
    `n`, or sends fewer, is from then on asked singly.

    `usage` is what the server reported; `lacks` are the request fields that it was seen to refuse.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        api: Api = "chat",
        tokenizer: Tokenizer | None = None,
        max_concurrent: int = 128,
        timeout: float = 600.0,
        deadline: float | None = None,
        retries: int = 4,
        backoff: float = 0.5,
        logprobs: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if not model:
            raise ValueError("model is empty; name the model as the server does (GET /v1/models lists them)")
        if api not in PATHS:
            raise ValueError(f"api is {api!r}; it must be one of {', '.join(PATHS)}")
        if tokenizer is not None and api != "tokens":
            raise ValueError(f"a tokenizer is given and api is {api!r}, which sends text; say api='tokens'")
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent is {max_concurrent}; at least 1 request must be allowed")
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline is {deadline}; it is in seconds, above 0, or None for none")
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
            deadline=deadline,
            retries=retries,
            backoff=backoff,
        )
        self._prompts = Prompts(self._wire, model, tokenizer)
        self._want_logprobs = logprobs
        self._extra = dict(extra or {})
        self._shows_stop = False
        self._costs: dict[asyncio.Future[Step], Usage] = {}
        self._pending: dict[tuple[asyncio.AbstractEventLoop, _Ask], list[tuple[int | None, asyncio.Future[Step]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The server's address, down to its version."""
        return self._wire.url

    @property
    def usage(self) -> HttpUsage:
        """Tokens and requests so far, as the server reported them; `usage.copy()` and `-` are the cost of a stretch."""
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
        """One continuation of `prefix`. `tokens` are those the server tells (vLLM, SGLang, llama.cpp), else empty.

        A server that stays unavailable, lets the deadline pass or withholds a text is a step with `stop="error"`. A
        wrong key, an unknown model or a request that the server refuses raises `ValueError`. Cancelled, the request's
        connection is closed as soon as nobody waits for it, so that the server stops.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Step] = loop.create_future()
        ask = self._ask(messages, prefix, replace(sampling, seed=None))
        if (loop, ask) not in self._pending:
            self._pending[loop, ask] = []
            loop.call_soon(self._leave, loop, messages, ask)
        self._pending[loop, ask].append((sampling.seed, future))
        bill = Bill.open()
        try:
            return await future
        finally:
            bill.book(self._costs.pop(future, Usage()))

    async def stream(
        self,
        messages: Messages,
        prefix: Sequence[Step],
        sampling: Sampling,
        heard: Callable[[str, float], None],
        schema: str | None = None,
    ) -> Step:
        """As `sample`, in a request of its own; each piece is told as it comes, token by token with log-probabilities
        where the server tells both at this temperature, else with not-a-number; a server that streams nothing is heard
        at the end. Raises ValueError for a `schema`: a request that has one is handed to the server as it is.
        """
        if schema is not None:
            raise ValueError("this engine holds no answer to a schema; ask the server itself")
        ask = self._ask(messages, prefix, sampling)
        before = "".join(step.text for step in prefix)
        reader = Reader(self.api, before, heard, tells=sampling.temperature in (0, 1))
        bill = Bill.open()
        try:
            choices, usage = await self._choices(messages, ask, 1, reader)
        except Unavailable as gone:
            return Step(text=str(gone), stop="error", sampled=False)
        step = step_of(choices[0], self.api, before, sampling, self._shows_stop)
        bill.book(shares(usage, [step])[0])
        if not reader.begun and step.stop != "error":
            heard(step.text, math.nan)
        return step

    def _ask(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> _Ask:
        if self.api == "tokens":
            steps = tuple(Step(step.text, step.tokens) for step in prefix)
        else:
            steps = (Step("".join(step.text for step in prefix)),)
        return _Ask(json.dumps(messages, sort_keys=True), steps, sampling)

    async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
        """Log-probability, at temperature 1, of every token of every step.

        Needs vLLM's `prompt_logprobs`, or `echo` with `logprobs` (SGLang, "completions"); `ValueError` where the
        server has neither. With "tokens", exactly the steps' tokens. Else as the server cuts their text: an end token
        that closed a step is not part of its text and has no entry. Raises `ConnectionError` where the server stays
        unavailable.
        """
        texts = [step.text for step in steps]
        if not any(texts) and not any(step.tokens for step in steps):
            return tuple(() for _ in steps)
        one = Sampling(max_tokens=1, temperature=0)
        lacks = self.lacks if self.api == "chat" else frozenset({"return_token_ids"})
        ids, spans = await self._render(messages, steps)
        payload = body(self.api, self.name, messages, "".join(texts), one, 1, lacks, False, self._extra, ids)
        try:
            data = await self._wire.post(self.url + PATHS[self.api], payload | FIELDS[self.api])
        except Refused as refused:
            raise await self._wrong(refused) from None
        usage = reported(data.get("usage"), scoring=True)
        self.usage.add(usage)
        Bill.open().book(Usage(scored=usage.scored, reused=usage.reused, requests=1))
        if self.api == "tokens":
            return by_position(data, ids, spans)
        return by_text(data, self.api, plain(messages), texts)

    async def _render(self, messages: Messages, steps: Sequence[Step]) -> tuple[Sequence[int], list[tuple[int, int]]]:
        """Token ids of the prompt, and each step's span in them; none where the server is sent text."""
        if self.api != "tokens":
            return (), []
        try:
            return await self._prompts.render(messages, steps)
        except Refused as refused:
            raise await self._wrong(refused) from None

    def _leave(self, loop: asyncio.AbstractEventLoop, messages: Messages, ask: _Ask) -> None:
        """The turn is over: the samples that gathered under `ask` leave, in as few requests as may be."""
        unseeded: list[Draw] = []
        shared: dict[int | None, Draw] = {}
        for seed, future in self._pending.pop((loop, ask)):
            if future.done():  # given up before it left
                continue
            if ask.sampling.temperature == 0:
                shared.setdefault(None, []).append(future)
            elif seed is None:
                unseeded.append([future])
            else:
                shared.setdefault(seed, []).append(future)
        most = 1 if "n" in self.lacks else MOST
        for start in range(0, len(unseeded), most):
            self._start(loop, messages, ask, unseeded[start : start + most])
        for seed, draw in shared.items():
            self._start(loop, messages, replace(ask, sampling=replace(ask.sampling, seed=seed)), [draw])

    def _start(self, loop: asyncio.AbstractEventLoop, messages: Messages, ask: _Ask, draws: list[Draw]) -> None:
        """Send one request as a task that ends early when nobody waits for it any more."""
        futures = [future for draw in draws for future in draw]
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

    async def _serve(self, loop: asyncio.AbstractEventLoop, messages: Messages, ask: _Ask, draws: list[Draw]) -> None:
        try:
            choices, usage = await self._choices(messages, ask, len(draws))
        except Unavailable as gone:
            fault = Step(text=str(gone), stop="error", sampled=False)
            for draw in draws:
                _give(draw, fault)
            return
        prefix = "".join(step.text for step in ask.prefix)
        steps = [step_of(choice, self.api, prefix, ask.sampling, self._shows_stop) for choice in choices]
        for draw, step, cost in zip(draws, steps, shares(usage, steps), strict=False):
            if waiting := [future for future in draw if not future.done()]:
                self._costs[waiting[0]] = cost
            _give(draw, step)
        if rest := draws[len(steps) :]:
            self._note({"n"})
            for draw in rest:
                self._start(loop, messages, ask, [draw])

    async def _choices(
        self, messages: Messages, ask: _Ask, n: int, reader: Reader | None = None
    ) -> tuple[list[Any], HttpUsage]:
        """The server's choices, at most `n`, and their cost; fields that it refuses are left out and, if that helped,
        remembered."""
        extra = self._extra if reader is None else self._extra | STREAM
        lacks, prefix = self.lacks, "".join(step.text for step in ask.prefix)
        ids, _ = await self._render(messages, ask.prefix)
        while True:
            # A list that is shorter than `n` is the caller's to complete: so is one of 1, where `n` was refused.
            want, wanted = 1 if "n" in lacks else n, self._want_logprobs
            payload = body(self.api, self.name, messages, prefix, ask.sampling, want, lacks, wanted, extra, ids)
            try:
                data = await self._wire.post(self.url + PATHS[self.api], payload, reader=reader)
            except Refused as refused:
                fewer = dispensable(payload, refused.message, self._extra) if refused.status in (400, 422) else None
                if not fewer:
                    raise await self._wrong(refused) from None
                lacks |= fewer
                continue
            usage = reported(data.get("usage"))
            self.usage.add(usage)
            self._note(lacks)
            choices = sorted(data["choices"], key=_index)[:n]
            self._shows_stop |= any(_shows(choice, ask.sampling.stop) for choice in choices)
            return choices, usage

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


def _give(draw: Draw, step: Step) -> None:
    for future in draw:
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
