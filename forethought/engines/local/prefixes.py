"""The tree of token prefixes whose keys and values are kept, for whoever goes on from one of them."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass(eq=False)
class _Node:
    """A run of tokens behind its parent's, with what was computed for each of them."""

    tokens: tuple[int, ...]
    kv_LHTD: torch.Tensor
    """(2 × layers, key-value heads, T, head width)."""
    values_T: torch.Tensor | None
    parent: _Node | None
    children: dict[int, _Node] = field(default_factory=dict)
    """By their first token."""

    @property
    def bytes(self) -> int:
        return self.kv_LHTD.nbytes + (0 if self.values_T is None else self.values_T.nbytes)


class PrefixTree:
    """A radix tree over token ids, at most `limit` bytes large; what was used least recently goes first.

    A node is touched whenever one below it is, and after it, so that the least recently used node is always a leaf.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._children: dict[int, _Node] = {}
        self._order: collections.OrderedDict[_Node, None] = collections.OrderedDict()

    def __len__(self) -> int:
        """Tokens held."""
        return sum(len(node.tokens) for node in self._order)

    def clear(self) -> None:
        """Forget everything, as new weights demand."""
        self.bytes = 0
        self._children.clear()
        self._order.clear()

    def known(self, tokens: Sequence[int]) -> int:
        """How many of the first of these tokens are held."""
        return sum(count for _, count in self._walk(tuple(tokens)))

    def read(self, tokens: Sequence[int], into_LHTD: torch.Tensor) -> torch.Tensor | None:
        """Copy keys and values of the first tokens, all of them held, to the front of `into_LHTD`.

        Returns the head's values of those tokens (T), or `None` where the engine has no head.
        """
        at = 0
        values: list[torch.Tensor] = []
        path = self._walk(tuple(tokens))
        for node, count in path:
            into_LHTD[:, :, at : at + count] = node.kv_LHTD[:, :, :count]
            if node.values_T is not None:
                values.append(node.values_T[:count])
            at += count
        if at != len(tokens):
            raise LookupError(f"{at} of these {len(tokens)} tokens are held; ask `known` first")
        self._touch([node for node, _ in path])
        return torch.cat(values) if values else None

    def add(self, tokens: Sequence[int], kv_LHTD: torch.Tensor, values_T: torch.Tensor | None, start: int = 0) -> None:
        """Hold these tokens; what is new of them is copied, what there was stays, and what is too much is let go.

        `kv_LHTD` and `values_T` are those of the tokens from `start` on. Where what stands before is not held any more,
        neither is this.
        """
        tokens = tuple(tokens)
        path = self._walk(tokens)
        at = sum(count for _, count in path)
        if at < start:
            return
        nodes = [node for node, _ in path]
        if path and path[-1][1] < len(nodes[-1].tokens) and at < len(tokens):
            nodes[-1] = self._split(*path[-1])
        if at < len(tokens):
            own = slice(at - start, len(tokens) - start)
            own_T = None if values_T is None else values_T[own].clone()
            parent = nodes[-1] if nodes else None
            node = _Node(tokens[at:], kv_LHTD[:, :, own].clone(), own_T, parent)
            (parent.children if parent else self._children)[tokens[at]] = node
            self.bytes += node.bytes
            nodes.append(node)
        self._touch(nodes)
        self.shrink()

    def shrink(self) -> None:
        """Let go of what was used least recently until no more than the limit is held."""
        while self.bytes > self.limit:
            node, _ = self._order.popitem(last=False)
            (node.parent.children if node.parent else self._children).pop(node.tokens[0])
            self.bytes -= node.bytes

    def _walk(self, tokens: tuple[int, ...]) -> list[tuple[_Node, int]]:
        """The nodes along these tokens, each with how many of its own they share."""
        path: list[tuple[_Node, int]] = []
        children, at = self._children, 0
        while at < len(tokens) and (node := children.get(tokens[at])) is not None:
            count = common(node.tokens, tokens[at : at + len(node.tokens)])
            path.append((node, count))
            at += count
            if count < len(node.tokens):
                break
            children = node.children
        return path

    def _touch(self, path: list[_Node]) -> None:
        for node in reversed(path):
            self._order[node] = None
            self._order.move_to_end(node)

    def _split(self, node: _Node, count: int) -> _Node:
        """Cut a node in two behind its first `count` tokens; returns the upper half, which takes its place."""
        head_T = None if node.values_T is None else node.values_T[:count].clone()
        upper = _Node(node.tokens[:count], node.kv_LHTD[:, :, :count].clone(), head_T, node.parent)
        (node.parent.children if node.parent else self._children)[node.tokens[0]] = upper
        node.tokens, node.parent = node.tokens[count:], upper
        node.kv_LHTD = node.kv_LHTD[:, :, count:].clone()
        node.values_T = None if node.values_T is None else node.values_T[count:].clone()
        upper.children[node.tokens[0]] = node
        self._touch([upper])
        return upper


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many first tokens two sequences share; comparing slices is a hundred times faster than token by token."""
    least, most = 0, min(len(a), len(b))
    if a[:most] == b[:most]:
        return most
    while least < most - 1:
        middle = (least + most) // 2
        if a[least:middle] == b[least:middle]:
            least = middle
        else:
            most = middle
    return least
