"""The one loop that serves samples, log-probabilities and a head's values together, a round at a time, without asyncio.

A round answers the given tokens that wait, draws one token for every row, and lets waiting samples join. Whatever it
runs through the model it first looks up in the prefix tree, so that a token is computed once for all who share it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from forethought.engines.local.cache import Slots
from forethought.engines.local.contexts import PADDING, Contexts, SharedAttention, worth
from forethought.engines.local.graphs import Graphs
from forethought.engines.local.prefill import PREFILL_TOKENS, Prefill, Wanted
from forethought.engines.local.prefixes import PrefixTree
from forethought.engines.local.requests import Given, Sample
from forethought.engines.local.sampling import Draws, draw, uniforms
from forethought.engines.local.stops import Stops


class Loop:
    """The state of one engine between rounds. Requests may be added from another thread; all else is for one thread."""

    def __init__(
        self,
        decoder: Any,
        *,
        ends: frozenset[int],
        decode: Callable[[Sequence[int]], str],
        max_rows: int,
        cache_bytes: int,
    ) -> None:
        self.decoder, self.ends, self.stops = decoder, ends, Stops(decode)
        self.max_rows, self.cache_bytes = max_rows, cache_bytes
        self.slots = Slots(decoder.layers, decoder.kv_heads, decoder.width, decoder.dtype, decoder.device)
        self.contexts: Contexts | None = None
        self.tree = PrefixTree(cache_bytes)
        self.prefill = Prefill(decoder, self.slots, self.tree)
        self.graphs = Graphs(decoder, self.slots, self.prefill) if decoder.records else None
        self.samples: collections.deque[Sample] = collections.deque()
        self.given: collections.deque[Given] = collections.deque()
        self.rows: list[Sample] = []
        self.peak_bytes = 0
        self._reserved = 0
        """What the rows take when all are as long as they may become."""
        self._fresh: _Batch | None = None

    @property
    def busy(self) -> bool:
        """Is there anything to do?"""
        return bool(self.samples or self.given or self.rows)

    def forget(self) -> None:
        """Drop every request, its cost settled, and the rows' memory; prefixes stay."""
        for row in self.rows:
            self._settle(row)
        self.samples.clear()
        self.given.clear()
        self.rows.clear()
        self._fresh = None
        self.contexts = None
        if self.graphs is None:  # graphs were recorded over that memory
            self.slots.release()
        self.tree.limit = max(0, self.cache_bytes - self.slots.bytes)
        self.tree.shrink()

    @torch.inference_mode()
    def round(self) -> list[Sample | Given]:
        """One round of work; returns the requests that are answered, or were cancelled, and have left."""
        left = self._drop_cancelled()
        left += self._answer_given()
        if self.rows:
            self._decode()
        self._admit()
        self.peak_bytes = max(
            self.peak_bytes, self.slots.bytes + self.tree.bytes + (self.contexts.bytes if self.contexts else 0)
        )
        for index in reversed(range(len(self.rows))):
            if self.rows[index].stop is not None:
                left.append(self._leave(index))
        return left

    def _drop_cancelled(self) -> list[Sample | Given]:
        left: list[Sample | Given] = []
        for queue in (self.samples, self.given):
            for _ in range(len(queue)):  # others may be adding at the far end
                request: Any = queue.popleft()
                (left if request.cancelled else queue).append(request)
        gone = [index for index, row in enumerate(self.rows) if row.cancelled]
        return [*left, *(self._leave(index) for index in reversed(gone))]

    # ---- given tokens

    def _answer_given(self) -> list[Sample | Given]:
        """Answer what waits, as much of it as one prefill takes."""
        batch: list[Given] = []
        tokens = 0
        while self.given and (not batch or tokens + len(self.given[0].tokens) <= PREFILL_TOKENS):
            batch.append(self.given.popleft())
            tokens += len(batch[-1].tokens)
        unique: dict[tuple[Any, ...], Wanted] = {}
        for request in batch:
            if not request.spans:
                continue
            # A token's probability is read off the hidden state before it; a value is kept with its own token.
            reuse = len(request.tokens) if request.values else request.spans[0][0] - 1
            unique.setdefault((request.tokens, reuse), Wanted(request.tokens, reuse, request))
        self.prefill.run(unique.values())
        for (_, reuse), wanted in unique.items():
            assert wanted.kv_LHTD is not None
            # Of scored tokens only what stands before them is likely to be asked for again.
            kept = min(reuse + 1, len(wanted.tokens))
            self.tree.add(wanted.tokens[:kept], wanted.kv_LHTD, wanted.values_T)
        for request in batch:
            if not request.spans:
                continue
            reuse = len(request.tokens) if request.values else request.spans[0][0] - 1
            wanted = unique[request.tokens, reuse]
            request.usage.reused = max(0, len(request.tokens) - request.usage.scored)
            request.result = _values(request, wanted) if request.values else self._logprobs(request, wanted)
        return list(batch)

    def _logprobs(self, request: Given, wanted: Wanted) -> tuple[tuple[float, ...], ...]:
        assert wanted.hidden_TD is not None
        ids_T = torch.tensor(request.tokens, device=self.decoder.device)
        told: list[tuple[float, ...]] = []
        for start, end in request.spans:
            logits_SV = self.decoder.logits(wanted.hidden_TD[start - 1 - wanted.known : end - 1 - wanted.known]).float()
            logprobs_S = logits_SV.log_softmax(dim=-1).gather(1, ids_T[start:end].unsqueeze(1)).squeeze(1)
            told.append(tuple(logprobs_S.tolist()))
        return tuple(told)

    # ---- rows

    def _admit(self) -> None:
        """Let waiting samples join as long as rows and memory last, in their order, equal prefixes computed once.

        They join an eighth of the rows at a time, so that prefills are products worth their while.
        """
        free = self.max_rows - len(self.rows)
        if not self.samples or (self.rows and free < min(self.max_rows // 8, len(self.samples))):
            return
        joined: list[Sample] = []
        groups: dict[tuple[int, ...], list[Sample]] = {}
        longest = max((len(row.prefix) + row.limit for row in self.rows), default=0)
        new = 0
        while self.samples and len(joined) < free:
            row = self.samples[0]
            length, rows = max(longest, len(row.prefix) + row.limit), len(self.rows) + len(joined) + 1
            new += 0 if row.prefix in groups else len(row.prefix)
            if rows > 1 and self.slots.size(rows, length) > self.cache_bytes:
                break
            if joined and new > PREFILL_TOKENS:
                break
            longest = length
            joined.append(self.samples.popleft())
            groups.setdefault(row.prefix, []).append(row)
        if not joined:
            return
        self._reserved = self.slots.size(len(self.rows) + len(joined), longest)
        self.tree.limit = max(0, self.cache_bytes - self._reserved)  # rows come first
        self.tree.shrink()
        wanted = {prefix: Wanted(prefix, len(prefix) - 1, group[0]) for prefix, group in groups.items()}
        self.prefill.run(wanted.values())
        for item in wanted.values():
            assert item.kv_LHTD is not None
            self.tree.add(item.tokens, item.kv_LHTD, item.values_T)
        self._share(groups, wanted)
        joined = [row for group in groups.values() for row in group]
        held = max(row.length for row in (*self.rows, *joined)) + 1
        self._fit(len(self.rows) + len(joined), held)
        last_PD = torch.stack([item.hidden_TD[-1] for item in wanted.values() if item.hidden_TD is not None])
        sizes_P = torch.tensor([len(group) for group in groups.values()], device=last_PD.device)
        for prefix, group in groups.items():
            item, start, shared = wanted[prefix], len(self.rows), group[0].shared
            assert item.kv_LHTD is not None
            values_T = None if item.values_T is None else item.values_T[shared:]
            self.slots.branch(item.kv_LHTD[:, :, shared:], values_T, slice(start, start + len(group)))
            self.rows += group
            for row in group:
                row.usage.reused = max(0, len(prefix) - row.usage.prefilled)
        self._fresh = None
        logits_BV = self.decoder.logits(last_PD).repeat_interleave(sizes_P, 0)
        self._append(joined, logits_BV, _Batch(joined, self.decoder.device))

    def _share(self, groups: dict[tuple[int, ...], list[Sample]], wanted: dict[tuple[int, ...], Wanted]) -> None:
        """Store the prompts of these new rows once for each group, where that pays, and say so in the rows."""
        sizes = [(len(prefix), len(group)) for prefix, group in groups.items()]
        if not self.rows:
            places = worth(sizes, self.slots.bytes_per_token // self.slots.layers) if self.decoder.shares else 0
            self.contexts = Contexts(places) if places else None
        if (contexts := self.contexts) is None:
            return
        # A prompt with more rows than there are places stands there several times.
        parts = [
            (prefix, group[at : at + contexts.places])
            for prefix, group in groups.items()
            for at in range(0, len(group), contexts.places)
        ]
        stored = len({row.place // contexts.places for row in self.rows}) + len(parts)
        count = len(self.rows) + sum(rows for _, rows in sizes)
        longest = max([*contexts.lengths, *(length for length, _ in sizes)])
        own = max(row.limit for group in (self.rows, *groups.values()) for row in group)
        taken = stored * longest * self.slots.bytes_per_token + self.slots.size(count, own)
        if stored * contexts.places > PADDING * count or taken > self.cache_bytes:
            self._part()
            return
        self._reserved = max(self._reserved, taken)
        prompts = [kv for prefix, _ in parts if (kv := wanted[prefix].kv_LHTD) is not None]
        for index, (prefix, rows) in zip(contexts.add(prompts, self.rows), parts, strict=True):
            for at, row in enumerate(rows):
                row.shared, row.place = len(prefix), index * contexts.places + at

    def _part(self) -> None:
        """Give every row its own copy of its prompt."""
        contexts, self.contexts = self.contexts, None
        if contexts is None or not self.rows:
            return
        old_LRHTD, old_RT = self.slots.kv_LRHTD, self.slots.values_RT
        self.slots.release()
        longest = max(row.length + row.shared for row in self.rows) + 1
        self.slots.fit(len(self.rows), longest, held=0, most=self._reserved)
        for index, row in enumerate(self.rows):
            own, length, shared = slice(index, index + 1), row.length, row.shared
            both_LHTD = torch.cat((contexts.of(row), old_LRHTD[:, index, :, :length]), dim=2)
            values_T = torch.cat((old_RT.new_zeros(shared), old_RT[index, :length]))
            self.slots.branch(both_LHTD, values_T, own)
            row.shared = row.place = 0

    def _decode(self) -> None:
        """One more token for every row."""
        batch = self._fresh = self._fresh or _Batch(self.rows, self.decoder.device)
        if self._fit(len(self.rows), int((batch.lengths + batch.counts).max())):
            batch.plan = None
        device = self.decoder.device
        positions, lengths = batch.prefixes + batch.counts - 1, batch.lengths + batch.counts - 1
        last = [row.tokens[-1] for row in self.rows]
        if self.graphs is not None and not batch.held:
            uniform = uniforms(batch.seeds, batch.counts)
            drawn = self.graphs.step(last, positions, lengths, uniform, batch.draws)
            if drawn is not None:
                self._take(self.rows, *drawn, batch)
                return
        if batch.plan is None or self.graphs is not None:  # graphs go on without telling the plan
            shared = None
            if self.contexts is not None:
                places = torch.tensor([row.place for row in self.rows], device=device)
                shared = SharedAttention(self.contexts, places)
            batch.plan = self.decoder.plan(
                torch.from_numpy(positions).to(device),
                torch.from_numpy(lengths).to(device),
                self.slots.kv_LRHTD,
                shared,
            )
        hidden_BD = self.decoder.decode(torch.tensor(last, device=device), batch.plan)
        if self.prefill.head is not None:
            at_B = torch.from_numpy(lengths).to(device)
            self.slots.values_RT[torch.arange(len(self.rows), device=device), at_B] = self.prefill.values(hidden_BD)
        self._append(self.rows, self.decoder.logits(hidden_BD), batch)

    def _fit(self, rows: int, length: int) -> bool:
        """Room for so many rows of this length; the tree may have what they and their prompts do not take."""
        shared = self.contexts.bytes if self.contexts else 0
        most = max(self._reserved, self.cache_bytes - self.tree.bytes) - shared
        moved = self.slots.fit(rows, length, len(self.rows), most)
        self.tree.limit = max(0, self.cache_bytes - max(self._reserved, self.slots.bytes + shared))
        self.tree.shrink()
        return moved

    def _append(self, rows: list[Sample], logits_BV: torch.Tensor, batch: _Batch) -> None:
        """Draw the next token of each row."""
        uniform_B = torch.from_numpy(uniforms(batch.seeds, batch.counts)).to(logits_BV.device)
        for index in batch.held:
            rows[index].grammar.mask(logits_BV[index])  # type: ignore[union-attr]  # it has one, or were not held
        tokens_B, logprobs_B = draw(logits_BV, uniform_B, batch.draws)
        self._take(rows, tokens_B.tolist(), logprobs_B.tolist(), batch)

    def _take(self, rows: list[Sample], tokens: list[int], logprobs: list[float], batch: _Batch) -> None:
        """Append what was drawn to each row and see whether it ends there."""
        batch.counts += 1
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if row.heard is not None:
                row.heard(token, logprob)
            if row.grammar is not None and (fault := row.grammar.take(token)):
                row.stop, row.text = "error", fault
            elif token in self.ends:
                row.stop = "end"
            elif row.sampling.stop and (text := self.stops.text(row.tokens, row.sampling.stop)) is not None:
                row.stop, row.text = "stop", text
            elif len(row.tokens) >= row.limit:
                row.stop = "length"

    def _settle(self, row: Sample) -> None:
        row.usage.sampled = len(row.tokens)
        row.usage.flops += self.prefill.flops(len(row.tokens) - 1, len(row.prefix))

    def _leave(self, index: int) -> Sample:
        """Row `index` leaves; the last row takes its place. A thought that may go on leaves its prefix in the tree."""
        row = self.rows[index]
        self._settle(row)
        if not row.cancelled and (row.stop != "end" or self.prefill.head is not None):
            # The last token was drawn and never run through the model.
            values_T = None if self.prefill.head is None else self.slots.values_RT[index]
            told = (*row.prefix, *row.tokens[:-1])
            self.tree.add(told, self.slots.kv_LRHTD[:, index], values_T, start=row.shared)
        last = len(self.rows) - 1
        if index != last:
            moved = self.rows[last]
            self.slots.move(last, index, moved.length)
            self.rows[index] = moved
        self.rows.pop()
        self._fresh = None
        return row


class _Batch:
    """What the rows of one batch are drawn with, as arrays; made anew when rows join or leave."""

    def __init__(self, rows: Sequence[Sample], device: torch.device) -> None:
        self.prefixes = np.array([len(row.prefix) for row in rows])
        self.lengths = self.prefixes - np.array([row.shared for row in rows])
        """Tokens of the prefixes that stand in the rows themselves."""
        self.counts = np.array([len(row.tokens) for row in rows])
        self.seeds = np.array([row.seed & 0xFFFFFFFFFFFFFFFF for row in rows], dtype=np.uint64)
        self.draws = Draws.of([row.sampling for row in rows], device)
        self.held = [index for index, row in enumerate(rows) if row.grammar is not None]
        self.plan: Any = None


def _values(request: Given, wanted: Wanted) -> tuple[float, ...]:
    assert wanted.values_T is not None
    told = wanted.values_T[[end - 1 for _, end in request.spans]]
    return tuple(told.tolist())
