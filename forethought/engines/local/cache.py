"""A preallocated key-value cache whose rows join, move and leave."""

from __future__ import annotations

import torch


class SlotCache:
    """Keys and values of R rows, all layers in one tensor, so that a row moves in one copy.

    `kv_LRHTD` is (2 × layers, rows, key-value heads, positions, head width): keys of layer i at 2i, values at 2i + 1.
    """

    def __init__(self, layers: int, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.layers, self.heads, self.width = layers, heads, width
        self.kv_LRHTD = torch.empty((2 * layers, 0, heads, 0, width), dtype=dtype, device=device)

    @property
    def bytes_per_token(self) -> int:
        """What one position of one row takes, keys and values of all layers."""
        return 2 * self.layers * self.heads * self.width * self.kv_LRHTD.element_size()

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` positions; what is held stays."""
        old = self.kv_LRHTD
        if rows <= old.shape[1] and length <= old.shape[3]:
            return
        rows, length = max(rows, old.shape[1]), max(length, old.shape[3])
        new = old.new_zeros((2 * self.layers, rows, self.heads, length, self.width))
        new[:, : old.shape[1], :, : old.shape[3]] = old
        self.kv_LRHTD = new

    def release(self) -> None:
        """Give the memory back; the cache starts empty again."""
        self.kv_LRHTD = self.kv_LRHTD.new_empty((2 * self.layers, 0, self.heads, 0, self.width))

    def move(self, source: int, target: int, length: int) -> None:
        """Row `source` takes the place of row `target`."""
        self.kv_LRHTD[:, target, :, :length] = self.kv_LRHTD[:, source, :, :length]

    def branch(self, prompt_LHTD: torch.Tensor, rows: slice) -> None:
        """Give `rows` a copy each of one prefilled prompt, (2 × layers, heads, positions, width)."""
        self.kv_LRHTD[:, rows, :, : prompt_LHTD.shape[2]] = prompt_LHTD.unsqueeze(1)
