"""The embedded engine: continuous batching over a Hugging Face checkpoint held in this process.

Here is what callers see and what asyncio needs; `loop` computes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from forethought.engines.local.generic import GenericDecoder
from forethought.engines.local.grammar import Grammar, Vocabulary
from forethought.engines.local.llama import LlamaDecoder, supports
from forethought.engines.local.loop import Loop
from forethought.engines.local.requests import Given, Sample
from forethought.engines.local.stops import Spelling
from forethought.engines.local.threads import COMPUTE, SMALL, hand_over, set_threads
from forethought.engines.usage import Bill, Usage
from forethought.thought.tokens import Tokenizer, rendered
from forethought.types import Messages, Sampling, Step

CACHE_BYTES = 2 << 30
"""Most memory for keys and values, of running rows and of kept prefixes together; on a GPU a quarter of what is free
where that is more."""
MAX_ROWS = {"cpu": 128, "cuda": 512}
"""Most samples that are decoded together."""


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the machine multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capable = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if capable else torch.float32


class LocalEngine:
    """An `Engine` over a checkpoint in memory.

    `dtype` "auto" is bfloat16 where the machine is fast at it and the model is not small. The engine keeps its own
    copy of the weights: call `update` after training has changed them. At most `max_rows` samples are decoded together
    (256 for models below 10 million parameters, else 128; on a GPU 512), and `cache_bytes` (2 GiB; on a GPU a quarter
    of what is free, where that is more) bounds keys and values: rows that do not fit wait, and prefixes of earlier
    requests, kept for whoever continues them, make way for rows.

    Reproducibility: with a seed per request, the same requests submitted together give the same steps. In fp32 a row's
    numbers may differ in the last bits when other rows share its batch, since products are blocked by batch size.
    """

    _driving = 0
    """Engines of this process that have work now; they share one thread."""

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        name: str,
        dtype: torch.dtype | str = "auto",
        max_rows: int | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        device = next(model.parameters()).device
        if cache_bytes is None:
            free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
            cache_bytes = max(CACHE_BYTES, free // 4)
        if cache_bytes < 1:
            raise ValueError(f"cache_bytes is {cache_bytes}; keys and values need some, by default {CACHE_BYTES}")
        self._parameters = sum(parameter.numel() for parameter in model.parameters())
        set_threads(self._parameters)
        if isinstance(dtype, str):
            if dtype not in ("auto", "fp32", "bf16"):
                raise ValueError(f"dtype is {dtype!r}; it can be auto, fp32 or bf16")
            small = self._parameters < SMALL and device.type == "cpu"
            auto = torch.float32 if small else fast_dtype(device)
            dtype = {"auto": auto, "fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
        self.tokenizer = tokenizer
        self.usage = Usage()
        self._name, self._update = name, 0
        self._vocabulary: Vocabulary | None = None
        self._decoder = (LlamaDecoder if supports(model.config) else GenericDecoder)(model, dtype)
        self._loop = Loop(
            self._decoder,
            ends=_end_tokens(model, tokenizer),
            decode=self.decode,
            max_rows=max_rows or max(MAX_ROWS.get(device.type, 128), 256 if self._parameters < SMALL else 0),
            cache_bytes=cache_bytes,
        )
        self._driver: asyncio.Task[None] | None = None
        self._waiters: dict[Sample | Given, tuple[asyncio.Future[Any], Bill]] = {}

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

    @property
    def native(self) -> bool:
        """Does our own forward pass serve this model, or transformers', slower?"""
        return isinstance(self._decoder, LlamaDecoder)

    @property
    def peak_cache_bytes(self) -> int:
        """Most memory that keys and values have taken so far, prefixes included."""
        return self._loop.peak_bytes

    def update(self, model: Any, step: int) -> None:
        """Take over the weights of `model` (a checkpoint of the same shape), now at training step `step`."""
        self._must_rest("weights were swapped")
        self._decoder.load(model)
        self._loop.tree.clear()
        self._update = step

    def attach(self, weight_D: torch.Tensor, bias: float = 0.0) -> None:
        """Give the engine a scalar head over the last hidden states, for `values`; it replaces the one there was.

        Raises ValueError where the weight is not as wide as the model.
        """
        self._must_rest("a head was attached")
        width = self._decoder.hidden
        if tuple(weight_D.shape) != (width,):
            raise ValueError(f"the head's weight has the shape {tuple(weight_D.shape)}; {self._name} needs ({width},)")
        self._loop.prefill.head = (weight_D.detach().to(self._decoder.device, torch.float32, copy=True), float(bias))
        self._loop.tree.clear()  # it holds tokens without their values

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text, special ones left out."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        """One continuation of `prefix`, its tokens and their log-probabilities exact.

        Raises ValueError where the prompt leaves no room in the context.
        """
        return await self._draw(messages, prefix, sampling)

    async def stream(
        self,
        messages: Messages,
        prefix: Sequence[Step],
        sampling: Sampling,
        heard: Callable[[str, float], None],
        schema: str | None = None,
    ) -> Step:
        """As `sample`; each token is told while the next ones are drawn, as the text that it completed and its
        log-probability: `""` for the end token, and where a character is still open.

        A stop string is part of what is told. With a JSON `schema` the text is held to it: log-probabilities are then
        those among the tokens that the schema allows. Raises ValueError, before anything is computed, for a schema
        that cannot be held.
        """
        grammar = None if schema is None else await self.held(schema)
        spelling = Spelling(self.decode)
        return await self._draw(
            messages,
            prefix,
            sampling,
            heard=lambda token, logprob: heard(spelling.text(token), logprob),
            grammar=grammar,
        )

    async def held(self, schema: str) -> Grammar:
        """What holds a text to this JSON schema; a ValueError where that cannot be done."""
        if self._vocabulary is None:
            self._vocabulary = await asyncio.to_thread(Vocabulary, self.tokenizer, self._loop.ends)
        return await asyncio.to_thread(self._vocabulary.grammar, schema)

    async def _draw(
        self,
        messages: Messages,
        prefix: Sequence[Step],
        sampling: Sampling,
        heard: Callable[[int, float], None] | None = None,
        grammar: Grammar | None = None,
    ) -> Step:
        tokens, _ = await rendered(self.tokenizer, messages, prefix)
        room = self.context - len(tokens)
        if room < 1:
            raise ValueError(
                f"the prompt and its steps take {len(tokens)} tokens and {self._name} holds {self.context}; "
                "shorten the prompt or take a model with a longer context"
            )
        seed = random.getrandbits(63) if sampling.seed is None else sampling.seed
        row = Sample(tokens, min(sampling.max_tokens, room), sampling, seed, grammar=grammar)
        if heard is not None:
            loop = asyncio.get_running_loop()

            def told(token: int, logprob: float) -> None:
                loop.call_soon_threadsafe(heard, token, logprob)

            row.heard = told
        await self._answer(row)
        assert row.stop is not None
        if row.stop == "error":
            return Step(row.text or "", stop="error", sampled=False)
        text = self.decode(row.tokens) if row.text is None else row.text
        return Step(text=text, tokens=tuple(row.tokens), logprobs=tuple(row.logprobs), stop=row.stop)

    async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
        """Log-probability of every token of every step at temperature 1, one tuple a step."""
        request = await self._given(messages, steps, values=False)
        await self._answer(request)
        return request.result

    async def values(self, messages: Messages, steps: Sequence[Step]) -> tuple[float, ...]:
        """What the attached head says at the last token of each step, as it comes out of the head (no sigmoid).

        Tokens that were sampled, or whose values were asked for before, are not computed again.

        Raises ValueError where no head is attached, or where a step has no token.
        """
        if self._loop.prefill.head is None:
            raise ValueError(f"{self._name} has no head to read values from; attach one, or train a verifier first")
        request = await self._given(messages, steps, values=True)
        if empty := [number for number, (start, end) in enumerate(request.spans) if start == end]:
            raise ValueError(f"step {empty[0]} has no token, so it has no value; leave empty steps out")
        await self._answer(request)
        return request.result

    async def _given(self, messages: Messages, steps: Sequence[Step], *, values: bool) -> Given:
        tokens, spans = await rendered(self.tokenizer, messages, steps)
        if len(tokens) > self.context:
            raise ValueError(f"the thought takes {len(tokens)} tokens and {self._name} holds {self.context}; cut it")
        return Given(tokens, spans, values)

    async def _answer(self, request: Sample | Given) -> None:
        """Queue the request and wait until it is answered; cancelled, it leaves at the loop's next round."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiters[request] = (future, Bill.open(self.usage))
        if isinstance(request, Sample):
            self._loop.samples.append(request)
        else:
            self._loop.given.append(request)
        if self._driver is None or self._driver.done():
            self._driver = loop.create_task(self._drive())
        try:
            await future
        except asyncio.CancelledError:
            request.cancelled = True
            raise

    async def _drive(self) -> None:
        """Work until nothing is left. Compute runs in a thread; the event loop stays free."""
        loop = asyncio.get_running_loop()
        hand_over()
        LocalEngine._driving += 1
        try:
            while self._loop.busy:
                # Whoever was woken by the last round gets to ask again before the next one is put together.
                await asyncio.sleep(0)
                for request in await loop.run_in_executor(COMPUTE, self._rounds):
                    future, bill = self._waiters.pop(request)
                    bill.book(request.usage)
                    if not future.done():
                        future.set_result(None)
        except Exception as fault:
            # The requests must not wait for ever on a driver that is gone.
            for future, _ in self._waiters.values():
                if not future.done():
                    future.set_exception(fault)
            raise
        finally:
            LocalEngine._driving -= 1
            if not LocalEngine._driving:
                COMPUTE.submit(hand_over).result()
            elif self._loop.busy:
                # A round that is still at work must not find its rows gone; else another engine's keeps nobody waiting.
                COMPUTE.submit(int).result()
            self._loop.forget()
            for request, (_, bill) in self._waiters.items():
                bill.book(request.usage)
            self._waiters.clear()

    def _rounds(self) -> list[Sample | Given]:
        """Rounds of work until there is something to tell or somebody waits, another engine too: a change of threads
        costs a small model a tenth of a token."""
        set_threads(self._parameters)
        work = self._loop
        left = work.round()
        while work.rows and not (left or work.samples or work.given or any(row.cancelled for row in work.rows)):
            if LocalEngine._driving > 1:
                break
            left = work.round()
        return left

    def _must_rest(self, what: str) -> None:
        if self._loop.busy:
            raise RuntimeError(f"{what} while samples were being drawn; await them first")


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a turn: the tokenizer's own and those of the generation config."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = set(named if isinstance(named, (list, tuple)) else [named])
    return frozenset(int(token) for token in {*ends, tokenizer.eos_token_id} if token is not None)
