"""Attention over a trie, a block of queries at a time against the keys it can see and no others.

A dense mask over T packed tokens costs T x T scores, most of them between strangers: on two cores it took 40 % of a
step of a 135M model. A block of consecutive tokens [a, b) of the depth-first row sees the path to `a` and itself, and
that path is a few contiguous ranges. So keys and values are cut once into pieces at the ranges' ends, each block joins
its pieces, and the work is that of the sequences one by one, less what they share.

On a GPU one fused kernel does it (FlexAttention, compiled at first use): it skips the tiles that nobody sees.

In bfloat16 on a CPU the backward pass of torch's fused kernel takes several times as long as plain products, so there
the products are plain, and their scores (float32, as the kernel has them) are kept, where they are few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from forethought.train.batch import Pack

NAME = "forethought_trie"
BLOCK = 64
"""Queries to a block, about."""
BLOCK_GPU = 512
"""The same where every block costs launches."""
KEYS = 512
"""Most keys of a block whose scores are kept for the backward pass, about as large as a layer's other activations."""


@dataclass(frozen=True, slots=True)
class Block:
    """Queries [start, end) and what they see."""

    start: int
    end: int
    pieces: tuple[int, ...]
    """Which pieces of the keys, in order."""
    bias_QK: Tensor
    """float32: 0 where query sees key, else -inf."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a pack attends; the same for every layer."""

    sizes: tuple[int, ...]
    """Lengths of the pieces that the keys are cut into; they sum to T."""
    blocks: tuple[Block, ...]
    depth: int
    """Longest path, in tokens."""
    mask: BlockMask | None = None
    """Of the fused kernel, which needs no blocks."""


def fuses(config: Any, device: torch.device) -> bool:
    """Can the fused kernel attend for such a model here? It needs Triton, and knows no narrow heads and no dropout."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dropout = getattr(config, "attention_dropout", 0.0)
    return device.type == "cuda" and find_spec("triton") is not None and width >= 16 and not dropout


def plan(pack: Pack, *, fused: bool = False) -> Plan:
    """Cut a pack into blocks, or into the tiles of the fused kernel."""
    device = pack.tokens_T.device
    depth = int(pack.positions_T.max()) + 1
    if fused:
        last_T, count = pack.end_T, len(pack.end_T)

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) & (query < last_T[key])

        mask = create_block_mask(sees, None, None, count, count, device=device)
        return Plan((), (), depth, mask)
    block = BLOCK if device.type == "cpu" else BLOCK_GPU
    end_T = pack.end_T.tolist()
    spans: list[tuple[int, int, list[tuple[int, int]]]] = []
    start = 0
    path: list[int] = []  # ancestors of the next token
    for stop in _stops(end_T, block):
        while path and end_T[path[-1]] <= start:
            path.pop()
        spans.append((start, stop, _ranges([*path, *range(start, stop)])))
        for token in range(start, stop):
            while path and end_T[path[-1]] <= token:
                path.pop()
            path.append(token)
        start = stop
    cuts = sorted({0, len(end_T), *(edge for _, _, ranges in spans for span in ranges for edge in span)})
    numbers = {edge: number for number, edge in enumerate(cuts)}
    index_T = torch.arange(len(end_T), device=device)
    blocks = []
    for start, stop, ranges in spans:
        pieces = tuple(piece for low, high in ranges for piece in range(numbers[low], numbers[high]))
        keys_K = torch.cat([index_T[low:high] for low, high in ranges])
        queries_Q1 = index_T[start:stop, None]
        seen_QK = (keys_K <= queries_Q1) & (queries_Q1 < pack.end_T[keys_K])
        bias_QK = torch.zeros_like(seen_QK, dtype=torch.float32).masked_fill_(~seen_QK, -torch.inf)
        blocks.append(Block(start, stop, pieces, bias_QK))
    sizes = tuple(high - low for low, high in pairwise(cuts))
    return Plan(sizes, tuple(blocks), depth)


@contextmanager
def attending(body: nn.Module) -> Iterator[None]:
    """`body` attends by plan in here; the backward pass belongs inside too, as checkpointing runs layers again."""
    config: Any = body.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    trie: Plan,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention signature: query [1, H, T, D], key and value [1, H_kv, T, D] to [1, T, H, D]."""
    if softcap is not None or s_aux is not None:
        raise ValueError(f"{type(module).__name__} caps its scores or has sinks; the learner's attention lacks both")
    if sliding_window is not None and trie.depth > sliding_window:
        raise ValueError(
            f"a sequence has {trie.depth} tokens and the model's attention slides over {sliding_window}; "
            "the learner takes sequences within the window only"
        )
    heads, kinds, width = query.shape[1], key.shape[1], query.shape[3]
    repeat = heads // kinds
    scale = width**-0.5 if scaling is None else scaling
    if trie.mask is not None:
        with torch.autocast(query.device.type, enabled=False):
            output = _compiled()(
                query.to(value.dtype), key.to(value.dtype), value, block_mask=trie.mask, scale=scale, enable_gqa=True
            )
        return output.transpose(1, 2), None
    keys, values = key[0].split(trie.sizes, dim=1), value[0].split(trie.sizes, dim=1)
    low = value.dtype != torch.float32 and not value.is_cuda and not dropout  # rotated, queries may be float32
    outputs = []
    for block in trie.blocks:
        rows = block.end - block.start
        # Query heads that share a key head stand below one another, so that no key is repeated.
        query_GQD = query[0, :, block.start : block.end].reshape(kinds, repeat * rows, width)
        key_GKD = torch.cat([keys[piece] for piece in block.pieces], dim=1)
        value_GKD = torch.cat([values[piece] for piece in block.pieces], dim=1)
        bias_QK = block.bias_QK.expand(repeat, -1, -1).flatten(0, 1)
        if low and bias_QK.shape[1] <= KEYS:
            output_GQD = _plain(query_GQD, key_GKD, value_GKD, bias_QK, scale)
        else:
            bias_1QK = bias_QK.to(query.dtype)[None]
            output_GQD = scaled_dot_product_attention(
                query_GQD[None], key_GKD[None], value_GKD[None], bias_1QK, dropout, scale=scale
            )[0]
        outputs.append(output_GQD.reshape(heads, rows, -1).transpose(0, 1))
    return torch.cat(outputs)[None], None


@cache
def _compiled() -> Any:
    """The fused kernel, for packs of any length."""
    return torch.compile(flex_attention, dynamic=True)


def _plain(query_GQD: Tensor, key_GKD: Tensor, value_GKD: Tensor, bias_QK: Tensor, scale: float) -> Tensor:
    """The products one after another; scores and their softmax in float32, as the fused kernel has them."""
    with torch.autocast(query_GQD.device.type, enabled=False):
        key_GDK = key_GKD.float().transpose(1, 2)
        share_GQK = torch.baddbmm(bias_QK, query_GQD.float(), key_GDK, alpha=scale).softmax(-1)
        return torch.bmm(share_GQK.to(value_GKD.dtype), value_GKD)


def _stops(end_T: Sequence[int], block: int) -> Iterator[int]:
    """Where blocks end: at a branch once half full, at 2 x `block` tokens at the latest."""
    start = 0
    for token in range(1, len(end_T) + 1):
        last = token == len(end_T)
        branch = not last and end_T[token - 1] == token  # the token before is a leaf
        if last or (branch and token - start >= block // 2) or token - start >= 2 * block:
            yield token
            start = token


def _ranges(tokens: Sequence[int]) -> list[tuple[int, int]]:
    """Rising numbers as the ranges [low, high) they fill."""
    ranges: list[tuple[int, int]] = []
    for token in tokens:
        if ranges and ranges[-1][1] == token:
            ranges[-1] = (ranges[-1][0], token + 1)
        else:
            ranges.append((token, token + 1))
    return ranges


AttentionInterface.register(NAME, _attend)
