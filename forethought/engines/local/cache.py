"""The keys and values of the rows that are being decoded: rows join, grow, move and leave."""

from __future__ import annotations

import torch

PAGE = 32
"""Positions by which the rows grow. Little enough that hardly any are computed in vain: products run over all of them,
since over a part of each row they would copy that part first."""


class Slots:
    """Keys and values of R rows, all layers in one tensor, so that a row moves in one copy.

    `kv_LRHTD` is (2 × layers, rows, key-value heads, positions, head width): keys of layer i at 2i, values at 2i + 1.
    `values_RT` are the head's values of the same tokens, where the engine has a head.
    """

    def __init__(self, layers: int, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.layers, self.heads, self.width = layers, heads, width
        self.kv_LRHTD = torch.empty((2 * layers, 0, heads, 0, width), dtype=dtype, device=device)
        self.values_RT = torch.empty((0, 0), device=device)

    @property
    def bytes(self) -> int:
        """What the rows take now."""
        return self.kv_LRHTD.nbytes + self.values_RT.nbytes

    @property
    def bytes_per_token(self) -> int:
        """What one position of one row takes, keys and values of all layers and the head's value."""
        return 2 * self.layers * self.heads * self.width * self.kv_LRHTD.element_size() + self.values_RT.element_size()

    def size(self, rows: int, length: int) -> int:
        """What `rows` rows of `length` positions take, by whole pages."""
        return rows * -(-length // PAGE) * PAGE * self.bytes_per_token

    def fit(self, rows: int, length: int, held: int, most: int) -> bool:
        """Have room for `rows` rows of `length` positions and not much more; the first `held` rows stay.

        Rows that are not asked for stay allocated while all take at most `most` bytes. Returns whether the tensors are
        other ones now.
        """
        old = self.kv_LRHTD
        room = -(-length // PAGE) * PAGE
        if rows <= old.shape[1] and room <= old.shape[3] <= 2 * room and self.bytes <= most:
            return False
        if self.size(old.shape[1], room) <= most:
            rows = max(rows, old.shape[1])
        # Unwritten positions are masked, but a mask of 0 times a stray NaN would be NaN.
        new = old.new_zeros((2 * self.layers, rows, self.heads, room, self.width))
        values_RT = self.values_RT.new_zeros((rows, room))
        kept = min(room, old.shape[3])
        new[:, :held, :, :kept] = old[:, :held, :, :kept]
        values_RT[:held, :kept] = self.values_RT[:held, :kept]
        self.kv_LRHTD, self.values_RT = new, values_RT
        return True

    def release(self) -> None:
        """Give the memory back; there are no rows again."""
        self.kv_LRHTD = self.kv_LRHTD.new_empty((2 * self.layers, 0, self.heads, 0, self.width))
        self.values_RT = self.values_RT.new_empty((0, 0))

    def move(self, source: int, target: int, length: int) -> None:
        """Row `source` takes the place of row `target`."""
        self.kv_LRHTD[:, target, :, :length] = self.kv_LRHTD[:, source, :, :length]
        self.values_RT[target, :length] = self.values_RT[source, :length]

    def branch(self, prefix_LHTD: torch.Tensor, values_T: torch.Tensor | None, rows: slice) -> None:
        """Give `rows` a copy each of one prefix, (2 × layers, heads, positions, width)."""
        length = prefix_LHTD.shape[2]
        self.kv_LRHTD[:, rows, :, :length] = prefix_LHTD.unsqueeze(1)
        if values_T is not None:
            self.values_RT[rows, :length] = values_T
