"""Decode steps recorded as CUDA graphs: a step of a small model is hundreds of kernels that take longer to launch than
to run, and a graph launches them all at once.

A graph has one shape, so rows are filled up to the next of `cache.ROWS_GPU`; the spare ones decode a token nobody
reads, in rows of the cache that nobody has. What changes from step to step is copied into the graph's inputs.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from forethought.engines.local.cache import Slots
from forethought.engines.local.prefill import Prefill
from forethought.engines.local.sampling import Draws, draw

SPAN = 128
"""Positions that rows see are so many, or a multiple: one graph serves until the longest row has filled them."""
MOST = 256
"""Graphs that are kept."""
WORTH = 8
"""Steps of a shape before it is recorded: a recording takes as long as many steps launched one by one."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a graph does; its other inputs are numbers."""

    rows: int
    span: int
    """Positions that its rows see."""
    all_greedy: bool
    some_greedy: bool
    divides: bool
    cuts: bool


class Graphs:
    """The graphs of one engine, recorded when first needed; all of them read and write the rows' present cache."""

    def __init__(self, decoder: Any, slots: Slots, prefill: Prefill) -> None:
        self.decoder, self.slots, self.prefill = decoder, slots, prefill
        self._known: dict[_Kind, _Recorded] = {}
        self._seen: collections.Counter[_Kind] = collections.Counter()
        self._over: tuple[Any, ...] = ()
        """What the graphs were recorded over; where any of it is another one now, they are void."""
        self._pool: Any = None

    def step(
        self,
        tokens: Sequence[int],
        positions: np.ndarray,
        lengths: np.ndarray,
        uniforms: np.ndarray,
        draws: Draws,
    ) -> tuple[list[int], list[float]] | None:
        """One more token for the first rows of the cache: the tokens and their log-probabilities; `None` where a step
        of this shape is not recorded yet.

        Of each row: its last token, that token's position in the text, how many tokens the cache holds before it, and
        the number in [0, 1) that it draws with.
        """
        over = (self.slots.kv_LRHTD, self.slots.values_RT, self.prefill.head)
        if not self._over or any(now is not then for now, then in zip(over, self._over, strict=True)):
            self._known.clear()
            self._over, self._pool = over, torch.cuda.graph_pool_handle()
        kind = _Kind(
            self.slots.rounded(len(tokens)),
            min((int(lengths.max()) // SPAN + 1) * SPAN, self.slots.kv_LRHTD.shape[3]),
            draws.all_greedy,
            draws.greedy_B is not None,
            draws.divisor_B1 is not None,
            draws.top_p_B is not None,
        )
        graph = self._known.get(kind)
        if graph is None:
            self._seen[kind] += 1
            if self._seen[kind] < WORTH:
                return None
            if len(self._known) >= MOST:
                self._known.clear()
                self._pool = torch.cuda.graph_pool_handle()  # one that no graph has any more is not taken up again
            graph = self._known[kind] = _Recorded(self, kind, self._pool)
        return graph.replay(tokens, positions, lengths, uniforms, draws)


class _Recorded:
    """One graph with its inputs and outputs."""

    def __init__(self, graphs: Graphs, kind: _Kind, pool: Any) -> None:
        decoder, slots, prefill = graphs.decoder, graphs.slots, graphs.prefill
        device = decoder.device
        # Pinned on the host, where a copy to the device waits for nothing.
        self._ints_host = torch.zeros((3, kind.rows), dtype=torch.int64, pin_memory=True)
        self._uniform_host = torch.zeros(kind.rows, pin_memory=True)
        self._ints, self._uniform_B = self._ints_host.to(device), self._uniform_host.to(device)
        token_B, position_B, length_B = self._ints
        self._draws: Draws | None = None
        self._greedy_B = torch.zeros(kind.rows, dtype=torch.bool, device=device)
        self._divisor_B1 = torch.ones((kind.rows, 1), device=device)
        self._top_p_B = torch.ones(kind.rows, device=device)
        inputs = Draws(
            self._greedy_B if kind.some_greedy else None,
            kind.all_greedy,
            self._divisor_B1 if kind.divides else None,
            self._top_p_B if kind.cuts else None,
        )

        def run() -> tuple[torch.Tensor, torch.Tensor]:
            plan = decoder.plan(position_B, length_B, slots.kv_LRHTD, span=kind.span)
            hidden_BD = decoder.decode(token_B, plan)
            if prefill.head is not None:
                # Made in here, or its memory would be another's by the time the graph reads it.
                row_B = torch.arange(kind.rows, device=device)
                slots.values_RT[row_B, length_B] = prefill.values(hidden_BD)
            return draw(decoder.logits(hidden_BD), self._uniform_B, inputs)

        # Once without recording, as libraries set themselves up at a first call. With all inputs 0 that writes to the
        # first position of every row; what stands there is put back.
        kept = slots.kv_LRHTD[:, : kind.rows, :, 0].clone(), slots.values_RT[: kind.rows, 0].clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run()
        torch.cuda.current_stream().wait_stream(aside)
        slots.kv_LRHTD[:, : kind.rows, :, 0], slots.values_RT[: kind.rows, 0] = kept
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            tokens_B, logprobs_B = run()
            # One tensor comes back in one copy; in float64 a token's number is exact.
            self._out_2B = torch.stack((tokens_B.double(), logprobs_B.double()))

    def replay(
        self,
        tokens: Sequence[int],
        positions: np.ndarray,
        lengths: np.ndarray,
        uniforms: np.ndarray,
        draws: Draws,
    ) -> tuple[list[int], list[float]]:
        count = len(tokens)
        ints = self._ints_host.numpy()
        ints[0, :count], ints[1, :count], ints[2, :count] = tokens, positions, lengths
        ints[:, count:] = 0
        self._uniform_host.numpy()[:count] = uniforms
        self._ints.copy_(self._ints_host, non_blocking=True)
        self._uniform_B.copy_(self._uniform_host, non_blocking=True)
        if draws is not self._draws:
            for held, new in (
                (self._greedy_B, draws.greedy_B),
                (self._divisor_B1, draws.divisor_B1),
                (self._top_p_B, draws.top_p_B),
            ):
                if new is not None:
                    held[:count] = new
            self._draws = draws
        self._graph.replay()
        drawn, logprobs = self._out_2B[:, :count].tolist()
        return [int(token) for token in drawn], logprobs
