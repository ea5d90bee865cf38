"""Prompts that many rows continue, their keys and values stored once: attention reads them for all rows together.

A product over one prompt and sixty-four rows takes a tenth of the time of sixty-four products over copies, and the
copies' memory is saved. Over few rows and short prompts the way there and back costs more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

WORTH_BYTES = 4 << 20
"""What copies must take more than shared prompts do, in one layer, for sharing to pay."""
PADDING = 4
"""So many places a row at most: every prompt has as many as the one with the most rows needs."""


def worth(sizes: Sequence[tuple[int, int]], bytes_per_layer: int) -> int:
    """Places for each prompt where sharing pays for these (prompt's length, rows), else 0."""
    most = max(rows for _, rows in sizes)
    saved = sum(length * (rows - 1) for length, rows in sizes) * bytes_per_layer
    return most if saved >= WORTH_BYTES and len(sizes) * most <= PADDING * sum(rows for _, rows in sizes) else 0


class Contexts:
    """C prompts with `places` rows each, at most; the row at place p continues prompt p // places."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.lengths: list[int] = []
        self.kv_LCHTD: torch.Tensor | None = None
        """(2 × layers, prompts, key-value heads, positions, head width), zero behind the end of each prompt."""

    @property
    def bytes(self) -> int:
        """What the prompts take."""
        return 0 if self.kv_LCHTD is None else self.kv_LCHTD.nbytes

    def add(self, prompts: Sequence[torch.Tensor], rows: Sequence[Any]) -> list[int]:
        """Take in new prompts (each 2 × layers, heads, its positions, width); returns the index of each.

        Prompts that none of `rows` continues any more are let go, and the places of the rows set anew.
        """
        live = sorted({row.place // self.places for row in rows})
        for row in rows:
            row.place = live.index(row.place // self.places) * self.places + row.place % self.places
        lengths = [*(self.lengths[index] for index in live), *(prompt.shape[2] for prompt in prompts)]
        layers, heads, _, width = prompts[0].shape
        kv_LCHTD = prompts[0].new_zeros((layers, len(lengths), heads, max(lengths), width))
        for at, index in enumerate(live):
            assert self.kv_LCHTD is not None
            kv_LCHTD[:, at, :, : lengths[at]] = self.kv_LCHTD[:, index, :, : lengths[at]]
        for at, prompt in enumerate(prompts, len(live)):
            kv_LCHTD[:, at, :, : lengths[at]] = prompt
        self.lengths, self.kv_LCHTD = lengths, kv_LCHTD
        return list(range(len(live), len(lengths)))

    def of(self, row: Any) -> torch.Tensor:
        """Keys and values (2 × layers, heads, positions, width) of the prompt that a row continues."""
        assert self.kv_LCHTD is not None
        index = row.place // self.places
        return self.kv_LCHTD[:, index, :, : self.lengths[index]]


class SharedAttention:
    """The part of a decode step's attention that goes to shared prompts, for rows at fixed places."""

    def __init__(self, contexts: Contexts, place_B: torch.Tensor) -> None:
        kv_LCHTD = contexts.kv_LCHTD
        assert kv_LCHTD is not None
        _, self.prompts, self.kv_heads, self.length, self.width = kv_LCHTD.shape
        self.places = contexts.places
        count = self.prompts * self.places
        # Rows that fill all places in order need no gathering.
        self.place_B = None if place_B.tolist() == list(range(count)) else place_B
        self.layers = [
            (keys.flatten(0, 1).transpose(1, 2), values.flatten(0, 1))
            for keys, values in zip(kv_LCHTD[::2], kv_LCHTD[1::2], strict=True)
        ]
        ends_C = torch.tensor(contexts.lengths, device=kv_LCHTD.device)
        beyond_CT = torch.arange(self.length, device=kv_LCHTD.device) >= ends_C.unsqueeze(1)
        bias_CT = torch.zeros(beyond_CT.shape, dtype=kv_LCHTD.dtype, device=kv_LCHTD.device)
        bias_CT.masked_fill_(beyond_CT, float("-inf"))
        self.bias_X1T = bias_CT.repeat_interleave(self.kv_heads, 0).unsqueeze(1)

    def scores(self, layer: int, q_BHGW: torch.Tensor, scale: float) -> torch.Tensor:
        """Scaled products of queries (B, key-value heads, group, width) with their prompts, (B, …, positions)."""
        keys_XWT, _ = self.layers[layer]
        return self._out(torch.baddbmm(self.bias_X1T, self._in(q_BHGW), keys_XWT, alpha=scale), q_BHGW.shape[2])

    def mix(self, layer: int, weights_BHGT: torch.Tensor) -> torch.Tensor:
        """Their prompts' values in these proportions, (B, key-value heads, group, width)."""
        _, values_XTW = self.layers[layer]
        return self._out(torch.bmm(self._in(weights_BHGT), values_XTW), weights_BHGT.shape[2])

    def _in(self, x_BHGY: torch.Tensor) -> torch.Tensor:
        """Rows to (prompts × heads, places × group, …)."""
        _, heads, group, size = x_BHGY.shape
        if self.place_B is not None:
            spread = x_BHGY.new_zeros((self.prompts * self.places, heads, group, size))
            x_BHGY = spread.index_copy_(0, self.place_B, x_BHGY)
        x = x_BHGY.view(self.prompts, self.places, heads, group, size).transpose(1, 2)
        return x.reshape(self.prompts * heads, self.places * group, size)

    def _out(self, x_XRY: torch.Tensor, group: int) -> torch.Tensor:
        """And back."""
        size = x_XRY.shape[-1]
        x = x_XRY.view(self.prompts, self.kv_heads, self.places, group, size).transpose(1, 2)
        x = x.reshape(self.prompts * self.places, self.kv_heads, group, size)
        return x if self.place_B is None else x.index_select(0, self.place_B)
