"""The keys and values of the rows that are being decoded: rows join, grow, move and leave."""

from __future__ import annotations

import torch

PAGE = 32
"""Positions by which the rows grow. Little enough that hardly any are computed in vain: products run over all of them,
since over a part of each row they would copy that part first."""
PAGE_GPU = 256
"""The first page where steps are recorded (`graphs`), over rows of one length; each next one doubles it."""
ROWS_GPU = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Rows of a recorded step (`graphs`); above the last, whole multiples of it."""


class Slots:
    """Keys and values of R rows, all layers in one tensor, so that a row moves in one copy.

    `kv_LRHTD` is (2 × layers, rows, key-value heads, positions, head width): keys of layer i at 2i, values at 2i + 1.
    `values_RT` are the head's values of the same tokens, where the engine has a head.
    """

    def __init__(self, layers: int, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.layers, self.heads, self.width = layers, heads, width
        self._steps = device.type == "cuda"
        self.page = PAGE_GPU if self._steps else PAGE
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
        return self.rounded(rows) * self._room(length) * self.bytes_per_token

    def rounded(self, rows: int) -> int:
        """How many there are room for where so many are asked for."""
        if not self._steps:
            return rows
        return next((size for size in ROWS_GPU if size >= rows), -(-rows // ROWS_GPU[-1]) * ROWS_GPU[-1])

    def _room(self, length: int) -> int:
        """Positions there are room for in a row where so many are asked for."""
        pages = -(-length // self.page)
        return self.page * (1 << (pages - 1).bit_length() if self._steps else pages)

    def fit(self, rows: int, length: int, held: int, most: int) -> bool:
        """Have room for `rows` rows of `length` positions and not much more; the first `held` rows stay.

        Rows that are not asked for stay allocated while all take at most `most` bytes. Returns whether the tensors are
        other ones now.
        """
        old = self.kv_LRHTD
        rows, room = self.rounded(rows), self._room(length)
        wasteful = old.shape[3] > 2 * room and not self._steps  # a recorded step sees what it needs
        if rows <= old.shape[1] and room <= old.shape[3] and not wasteful and self.bytes <= most:
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
