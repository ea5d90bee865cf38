"""The embedded engine: continuous batching over a Hugging Face checkpoint held in this process.

Requests that wait together are admitted together, in the order they came; equal prefixes are prefilled once and their
keys and values copied to each branch. Between two decode steps, rows that finished leave and waiting ones join.
"""

from __future__ import annotations

import asyncio
import collections
import os
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from forethought.engines.local.generic import GenericDecoder
from forethought.engines.local.llama import LlamaDecoder, supports
from forethought.engines.local.sampling import draw, uniforms
from forethought.thought.tokens import Tokenizer, render
from forethought.types import Messages, Sampling, Step, Stop

SMALL = 10_000_000
"""Models below this many parameters run faster on one thread than on two."""
PREFILL_TOKENS = 8192
"""Most padded tokens in one prefill product."""
CACHE_BYTES = 4 << 30
"""Most memory for keys and values; rows beyond it wait."""


@dataclass(eq=False)
class _Row:
    """One request: waiting, then a row of the batch."""

    prefix: tuple[int, ...]
    limit: int
    sampling: Sampling
    seed: int
    future: asyncio.Future[Step]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop: Stop | None = None
    text: str | None = None


@dataclass(eq=False)
class _Score:
    """A request for the log-probabilities of tokens that are given."""

    tokens: tuple[int, ...]
    spans: list[tuple[int, int]]
    future: asyncio.Future[tuple[tuple[float, ...], ...]]


@dataclass
class Usage:
    """Tokens this engine has computed and sampled since it was made."""

    prefilled: int = 0
    """Prompt and prefix tokens run through the model."""
    reused: int = 0
    """Prompt and prefix tokens that another branch had computed already."""
    sampled: int = 0
    scored: int = 0
    """Tokens run through the model for their log-probabilities alone."""


def set_threads(parameters: int) -> None:
    """One torch thread for models so small that two cost more, else as many as the machine has cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = 1 if parameters < SMALL else cores
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the machine multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capable = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if capable else torch.float32


class LocalEngine:
    """An `Engine` over a checkpoint in memory.

    `dtype` "auto" is bfloat16 where the machine is fast at it and the model is not small. The engine keeps its own
    copy of the weights: call `update` after training has changed them.

    Reproducibility: with a seed per request, the same requests submitted together give the same steps. In fp32 a row's
    numbers may differ in the last bits when other rows share its batch, since products are blocked by batch size.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        name: str,
        dtype: torch.dtype | str = "auto",
        max_rows: int | None = None,
    ) -> None:
        self._parameters = sum(parameter.numel() for parameter in model.parameters())
        set_threads(self._parameters)
        device = next(model.parameters()).device
        if isinstance(dtype, str):
            if dtype not in ("auto", "fp32", "bf16"):
                raise ValueError(f"dtype is {dtype!r}; it can be auto, fp32 or bf16")
            small = self._parameters < SMALL and device.type == "cpu"
            auto = torch.float32 if small else fast_dtype(device)
            dtype = {"auto": auto, "fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
        self.tokenizer = tokenizer
        self.usage = Usage()
        self._name, self._update = name, 0
        self._decoder = (LlamaDecoder if supports(model.config) else GenericDecoder)(model, dtype)
        self._cache = self._decoder.new_cache()
        self._max_rows = max_rows or (256 if self._parameters < SMALL else 128)
        self._ends = _end_tokens(model, tokenizer)
        self._waiting: collections.deque[_Row] = collections.deque()
        self._scores: collections.deque[_Score] = collections.deque()
        self._rows: list[_Row] = []
        self._prefixes: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = {}
        self._driver: asyncio.Task[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="forethought-local")

    @property
    def name(self) -> str:
        """The model and its training step, e.g. `tiny@40`; without a step before the first update."""
        return f"{self._name}@{self._update}" if self._update else self._name

    @property
    def context(self) -> int:
        """Longest prompt and thought together, in tokens."""
        return self._decoder.context

    @property
    def dtype(self) -> torch.dtype:
        """The number format the engine computes in."""
        return self._decoder.dtype

    def update(self, model: Any, step: int) -> None:
        """Take over the weights of `model` (a checkpoint of the same shape), now at training step `step`."""
        if self._rows or self._waiting:
            raise RuntimeError("weights were swapped while samples were being drawn; await them first")
        self._decoder.load(model)
        self._update = step

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text, special ones left out."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        """One continuation of `prefix`, its tokens and their log-probabilities exact.

        Raises ValueError where the prompt leaves no room in the context.
        """
        tokens, _ = render(self.tokenizer, messages, prefix)
        room = self.context - len(tokens)
        if room < 1:
            raise ValueError(
                f"the prompt and its steps take {len(tokens)} tokens and {self._name} holds {self.context}; "
                "shorten the prompt or take a model with a longer context"
            )
        loop = asyncio.get_running_loop()
        seed = random.getrandbits(63) if sampling.seed is None else sampling.seed
        row = _Row(tokens, min(sampling.max_tokens, room), sampling, seed, loop.create_future())
        self._waiting.append(row)
        self._wake(loop)
        return await row.future

    async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
        """Log-probability of every token of every step at temperature 1, one tuple a step."""
        tokens, spans = render(self.tokenizer, messages, steps)
        if len(tokens) > self.context:
            raise ValueError(f"the thought takes {len(tokens)} tokens and {self._name} holds {self.context}; cut it")
        loop = asyncio.get_running_loop()
        score = _Score(tokens, spans, loop.create_future())
        self._scores.append(score)
        self._wake(loop)
        return await score.future

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._driver is None or self._driver.done():
            self._driver = loop.create_task(self._drive())

    async def _drive(self) -> None:
        """Admit, score and decode until nothing is left. Compute runs in a thread; the event loop stays free."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting or self._rows or self._scores:
                # Whoever was woken by the last step gets to ask again before the next one is put together.
                await asyncio.sleep(0)
                self._drop_cancelled()
                work = await loop.run_in_executor(self._pool, self._rounds)
                for future, result in work:
                    if not future.done():
                        future.set_result(result)
        except Exception as fault:
            # The requests must not wait for ever on a driver that is gone.
            requests: list[_Row | _Score] = [*self._waiting, *self._rows, *self._scores]
            for request in requests:
                if not request.future.done():
                    request.future.set_exception(fault)
            raise
        finally:
            self._pool.submit(int).result()  # a round that is still at work must not find its rows gone
            self._waiting.clear()
            self._rows.clear()
            self._scores.clear()
            self._prefixes.clear()
            self._cache.release()

    def _drop_cancelled(self) -> None:
        self._waiting = collections.deque(row for row in self._waiting if not row.future.cancelled())
        for index in reversed(range(len(self._rows))):
            if self._rows[index].future.cancelled():
                self._leave(index)

    def _rounds(self) -> list[tuple[asyncio.Future[Any], Any]]:
        """Rounds of work until there is something to tell or somebody waits: a change of threads costs a small model a
        tenth of a token."""
        done = self._work()
        while self._rows and not (done or self._waiting or self._scores or self._cancelled()):
            done = self._work()
        return done

    def _cancelled(self) -> bool:
        return any(row.future.cancelled() for row in self._rows)

    @torch.inference_mode()
    def _work(self) -> list[tuple[asyncio.Future[Any], Any]]:
        """One round: score what waits, admit what fits, decode one token for every row."""
        done: list[tuple[asyncio.Future[Any], Any]] = []
        while self._scores:
            score = self._scores.popleft()
            done.append((score.future, self._score(score)))
        if self._rows:
            lengths_B = torch.tensor([len(row.prefix) + len(row.tokens) - 1 for row in self._rows])
            last_B = torch.tensor([row.tokens[-1] for row in self._rows])
            device = self._decoder.device
            logits_BV = self._decoder.decode(last_B.to(device), lengths_B.to(device), self._cache)
            self._append(self._rows, logits_BV)
        self._admit()
        for index in reversed(range(len(self._rows))):
            row = self._rows[index]
            if row.stop is not None:
                done.append((row.future, self._step(row)))
                self._leave(index)
        return list(reversed(done))

    def _admit(self) -> None:
        """Let waiting requests join, as long as rows and memory last; each distinct prefix is prefilled once.

        They join an eighth of the rows at a time, so that prefills are products worth their while.
        """
        free = self._max_rows - len(self._rows)
        if self._rows and free < min(self._max_rows // 8, len(self._waiting)):
            return
        joined: list[_Row] = []
        length = self._cache.kv_LRHTD.shape[3]
        while self._waiting and len(joined) < free:
            row = self._waiting[0]
            longest = max(length, len(row.prefix) + row.limit)
            rows = len(self._rows) + len(joined) + 1
            if rows > 1 and rows * longest * self._cache.bytes_per_token > CACHE_BYTES:
                break
            length = longest
            joined.append(self._waiting.popleft())
        if not joined:
            return
        self._cache.reserve(len(self._rows) + len(joined), length)
        groups: dict[tuple[int, ...], list[_Row]] = {}
        for row in joined:
            groups.setdefault(row.prefix, []).append(row)
        self._prefill([prefix for prefix in groups if prefix not in self._prefixes])
        order: list[torch.Tensor] = []
        for prefix, branches in groups.items():
            kv, logits_V = self._prefixes[prefix]
            start = len(self._rows)
            self._cache.branch(kv, slice(start, start + len(branches)))
            self._rows += branches
            order += [logits_V] * len(branches)
            self.usage.reused += len(prefix) * len(branches)
        self._append(self._rows[-len(joined) :], torch.stack(order))
        wanted = {row.prefix for row in tuple(self._waiting)}  # the event loop may be adding to it
        self._prefixes = {prefix: held for prefix, held in self._prefixes.items() if prefix in wanted}

    def _prefill(self, prefixes: list[tuple[int, ...]]) -> None:
        """Keys, values and next-token logits of new prefixes, kept until the last request that wants them joins."""
        for chunk in _chunks(prefixes, PREFILL_TOKENS):
            padded_PT = torch.zeros((len(chunk), max(map(len, chunk))), dtype=torch.long)
            for index, prefix in enumerate(chunk):
                padded_PT[index, : len(prefix)] = torch.tensor(prefix)
            hidden_PTD, kv = self._decoder.prefill(padded_PT.to(self._decoder.device), keep=True)
            assert kv is not None
            last_PD = torch.stack([hidden_PTD[index, len(prefix) - 1] for index, prefix in enumerate(chunk)])
            logits_PV = self._decoder.logits(last_PD)
            for index, prefix in enumerate(chunk):
                self._prefixes[prefix] = (kv[:, index, :, : len(prefix)].clone(), logits_PV[index])
                self.usage.prefilled += len(prefix)
                self.usage.reused -= len(prefix)  # the first branch is the one that paid

    def _append(self, rows: list[_Row], logits_BV: torch.Tensor) -> None:
        """Draw the next token of each row and see whether it ends there."""
        uniform_B = torch.from_numpy(uniforms([row.seed for row in rows], [len(row.tokens) for row in rows]))
        settings = torch.tensor([(row.sampling.temperature, row.sampling.top_p) for row in rows])
        device = logits_BV.device
        tokens_B, logprobs_B = draw(
            logits_BV, settings[:, 0].to(device), settings[:, 1].to(device), uniform_B.to(device)
        )
        self.usage.sampled += len(rows)
        for row, token, logprob in zip(rows, tokens_B.tolist(), logprobs_B.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if token in self._ends:
                row.stop = "end"
            elif row.sampling.stop and (text := self._stopped(row)) is not None:
                row.stop, row.text = "stop", text
            elif len(row.tokens) >= row.limit:
                row.stop = "length"

    def _stopped(self, row: _Row) -> str | None:
        """The row's text up to and with the stop string it has just run into, or `None`."""
        # A stop string of n characters lies within the last n tokens, and one may begin inside the token before.
        reach = max(map(len, row.sampling.stop)) + 1
        tail = self.decode(row.tokens[-reach:])
        if not any(stop in tail for stop in row.sampling.stop):
            return None
        text = self.decode(row.tokens)
        hits = [at + len(stop) for stop in row.sampling.stop if (at := text.find(stop)) >= 0]
        return text[: min(hits)] if hits else None

    @torch.inference_mode()
    def _leave(self, index: int) -> None:
        """Row `index` leaves; the last row takes its place."""
        last = len(self._rows) - 1
        if index != last:
            row = self._rows[last]
            self._cache.move(last, index, len(row.prefix) + len(row.tokens))
            self._rows[index] = row
        self._rows.pop()

    def _step(self, row: _Row) -> Step:
        text = self.decode(row.tokens) if row.text is None else row.text
        assert row.stop is not None
        return Step(text=text, tokens=tuple(row.tokens), logprobs=tuple(row.logprobs), stop=row.stop)

    def _score(self, score: _Score) -> tuple[tuple[float, ...], ...]:
        tokens_T = torch.tensor(score.tokens, device=self._decoder.device)
        hidden_1TD, _ = self._decoder.prefill(tokens_T.unsqueeze(0), keep=False)
        self.usage.scored += len(score.tokens)
        spans: list[tuple[float, ...]] = []
        for start, end in score.spans:
            logits_SV = self._decoder.logits(hidden_1TD[0, start - 1 : end - 1]).float()
            logprobs_S = logits_SV.log_softmax(dim=-1).gather(1, tokens_T[start:end].unsqueeze(1)).squeeze(1)
            spans.append(tuple(logprobs_S.tolist()))
        return tuple(spans)


def _chunks(prefixes: Iterable[tuple[int, ...]], most: int) -> list[list[tuple[int, ...]]]:
    """Prefixes in batches of at most `most` tokens, padding counted; one that is longer stands alone."""
    chunks: list[list[tuple[int, ...]]] = []
    width = 0
    for prefix in prefixes:
        width = max(width, len(prefix))
        if not chunks or (len(chunks[-1]) + 1) * width > most:
            chunks.append([])
            width = len(prefix)
        chunks[-1].append(prefix)
    return chunks


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a turn: the tokenizer's own and those of the generation config."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = set(named if isinstance(named, (list, tuple)) else [named])
    return frozenset(int(token) for token in {*ends, tokenizer.eos_token_id} if token is not None)
