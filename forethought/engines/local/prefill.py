"""Prefill: tokens that are given run through the model, each of them once for all who share it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from forethought.engines.local.cache import Slots
from forethought.engines.local.prefixes import PrefixTree, common
from forethought.engines.local.requests import Given, Sample

PREFILL_TOKENS = 8192
"""Most tokens in one prefill, padding to the longest counted."""
WORTH = 8
"""Tokens that several new prefixes must share to be computed ahead of them: a wave costs as much as a few tokens."""


@dataclass(eq=False)
class Wanted:
    """Tokens to have computed, and what came of it."""

    tokens: tuple[int, ...]
    reuse: int
    """At most so many may come from the tree: the last hidden states of the others are needed."""
    payer: Sample | Given
    known: int = 0
    """So many did."""
    hidden_TD: torch.Tensor | None = None
    """Last hidden states from `known` on."""
    kv_LHTD: torch.Tensor | None = None
    values_T: torch.Tensor | None = None


class Prefill:
    """Sequences looked up in the prefix tree; what it does not hold is computed, their sizes and costs noted."""

    def __init__(self, decoder: Any, slots: Slots, tree: PrefixTree) -> None:
        self.decoder, self.slots, self.tree = decoder, slots, tree
        self.head: tuple[torch.Tensor, float] | None = None
        """Weight (D) and bias of a scalar head over the last hidden states."""

    def run(self, wanted: Iterable[Wanted]) -> None:
        """Compute what of these sequences is not in the tree; first, and once, what several of them share."""
        wanted = list(wanted)
        while shared := self._shared(wanted):
            if self.slots.size(1, sum(len(item.tokens) for item in shared)) > self.tree.limit:
                break
            self._compute(shared)
            for item in shared:
                assert item.kv_LHTD is not None
                self.tree.add(item.tokens, item.kv_LHTD, item.values_T)
            if any(self.tree.known(item.tokens) < len(item.tokens) for item in shared):
                break  # the tree is too small to hand them on
        for batch in _chunks(wanted, PREFILL_TOKENS):
            self._compute(batch)

    def _shared(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """Prefixes that two or more of these have in common and the tree does not hold, the shortest of each family."""
        ordered = sorted(wanted, key=lambda item: item.tokens)
        families: list[tuple[int, Wanted]] = []
        open_family = False
        for before, item in itertools.pairwise(ordered):
            # The last token of a sequence is always its own to compute, and its hidden state cannot be handed on.
            size = min(common(before.tokens, item.tokens), before.reuse, item.reuse)
            if size - self.tree.known(item.tokens[:size]) < WORTH:
                open_family = False
            elif open_family:
                families[-1] = (min(size, families[-1][0]), families[-1][1])
            else:
                families.append((size, before))
                open_family = True
        return [Wanted(item.tokens[:size], size, item.payer) for size, item in families]

    def _compute(self, batch: Sequence[Wanted]) -> None:
        """Run the tokens that the tree does not hold through the model, all sequences side by side."""
        length = max(len(item.tokens) for item in batch)
        slots = self.slots
        shape = (2 * slots.layers, len(batch), slots.heads, length, slots.width)
        kv_LRHTD = torch.zeros(shape, dtype=self.decoder.dtype, device=self.decoder.device)
        held: list[torch.Tensor | None] = []
        for row, item in enumerate(batch):
            item.known = min(self.tree.known(item.tokens), item.reuse)
            held.append(self.tree.read(item.tokens[: item.known], kv_LRHTD[:, row]))
            item.kv_LHTD, item.values_T = kv_LRHTD[:, row, :, : len(item.tokens)], held[-1]
        run = [row for row, item in enumerate(batch) if item.known < len(item.tokens)]
        if not run:
            return
        kv = kv_LRHTD if len(run) == len(batch) else kv_LRHTD[:, run]
        hidden = self.decoder.prefill(
            [batch[row].tokens[batch[row].known :] for row in run], [batch[row].known for row in run], kv
        )
        for at, row in enumerate(run):
            item = batch[row]
            item.hidden_TD = hidden[at]
            item.kv_LHTD = kv[:, at, :, : len(item.tokens)]
            if self.head is not None:
                fresh_T = self.values(hidden[at])
                values_T = held[row]
                item.values_T = fresh_T if values_T is None else torch.cat((values_T, fresh_T))
            count = len(item.tokens) - item.known
            if isinstance(item.payer, Given):
                item.payer.usage.scored += count
            else:
                item.payer.usage.prefilled += count
            item.payer.usage.flops += self.flops(count, item.known)

    def values(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        assert self.head is not None
        weight_D, bias = self.head
        return self.decoder.normed(hidden_ND).float() @ weight_D + bias  # type: ignore[no-any-return]

    def flops(self, tokens: int, start: int) -> float:
        """Of `tokens` tokens behind `start` others: 2 a weight, and 4 a layer, a unit of width and a position seen."""
        decoder = self.decoder
        seen = tokens * start + tokens * (tokens + 1) / 2
        flops: float = 2.0 * decoder.weights * tokens + 4.0 * decoder.layers * decoder.heads * decoder.width * seen
        return flops


def _chunks(wanted: Sequence[Wanted], most: int) -> list[list[Wanted]]:
    """Sequences of like length together, at most `most` tokens with padding; one that is longer stands alone."""
    chunks: list[list[Wanted]] = []
    for item in sorted(wanted, key=lambda item: len(item.tokens)):
        if not chunks or (len(chunks[-1]) + 1) * len(item.tokens) > most:
            chunks.append([])
        chunks[-1].append(item)
    return chunks
