"""The tree of kept prefixes against a model that remembers everything and looks at every token."""

from __future__ import annotations

import random

import pytest
import torch

from forethought.engines.local.prefixes import PrefixTree, common

LAYERS, HEADS, WIDTH = 4, 1, 2
EACH = LAYERS * HEADS * WIDTH * 4 + 4
"""Bytes of a token's keys and values and of the head's value."""

Tokens = tuple[int, ...]


def keys(tokens: Tokens) -> torch.Tensor:
    """What a model would have computed: for each token something that only this prefix gives."""
    out = torch.empty((LAYERS, HEADS, len(tokens), WIDTH))
    for at in range(len(tokens)):
        number = hash(tokens[: at + 1]) % 9973
        out[:, :, at] = torch.arange(number, number + LAYERS * WIDTH).view(LAYERS, 1, WIDTH)
    return out


def values(tokens: Tokens) -> torch.Tensor:
    return keys(tokens)[0, 0, :, 0] + 0.5


def read(tree: PrefixTree, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor | None]:
    into = torch.full((LAYERS, HEADS, len(tokens) + 3, WIDTH), -1.0)
    told = tree.read(tokens, into)
    assert (into[:, :, len(tokens) :] == -1).all(), "nothing is written behind what was asked for"
    return into[:, :, : len(tokens)], told


class Flat:
    """The same promises, kept without a tree: a list of runs of tokens, each with all that stands before it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.runs: list[tuple[int, Tokens]] = []
        """(start, tokens): the run is `tokens[start:]`; from what was used least recently to what was used last."""

    def path(self, tokens: Tokens) -> list[tuple[int, Tokens]]:
        on = [run for run in self.runs if shared(run[1], tokens) > run[0]]
        return sorted(on)

    def known(self, tokens: Tokens) -> int:
        return max((shared(run, tokens) for _, run in self.runs), default=0)

    def use(self, path: list[tuple[int, Tokens]]) -> None:
        for run in reversed(path):  # parents after their children, so that they go later
            if run in self.runs:
                self.runs.remove(run)
            self.runs.append(run)

    def add(self, tokens: Tokens) -> None:
        known, path = self.known(tokens), self.path(tokens)
        if known < len(tokens):
            if path and known < len(path[-1][1]):
                start, run = path.pop()
                self.runs[self.runs.index((start, run))] = (known, run)
                path.append((start, run[:known]))
            path.append((known, tokens))
        self.use(path)
        self.shrink()

    def shrink(self) -> None:
        while self.size * EACH > self.limit:
            _, run = self.runs.pop(0)
            assert not any(shared(other, run) == len(run) for _, other in self.runs), "a parent goes after its children"

    @property
    def size(self) -> int:
        return sum(len(run) - start for start, run in self.runs)


def shared(a: Tokens, b: Tokens) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@pytest.mark.parametrize("seed", range(12))
def test_the_tree_holds_what_a_plain_list_of_runs_would(seed: int) -> None:
    draw = random.Random(seed)
    limit = draw.choice([0, 7, 30, 200]) * EACH
    tree, flat = PrefixTree(limit), Flat(limit)
    said: list[Tokens] = [()]
    for _ in range(300):
        tokens = draw.choice(said)[: draw.randrange(12)] + tuple(draw.choices((1, 2, 3), k=draw.randrange(6)))
        said.append(tokens)
        move = draw.random()
        if move < 0.5:
            start = min(flat.known(tokens), draw.randrange(4))
            kept = values(tokens)[start:]
            tree.add(tokens, keys(tokens)[:, :, start:], kept, start=start)
            flat.add(tokens)
        elif move < 0.9:
            held = tokens[: tree.known(tokens)]
            told_LHTD, told_T = read(tree, held)
            torch.testing.assert_close(told_LHTD, keys(held), rtol=0, atol=0)
            assert held == () or told_T is not None
            if told_T is not None:
                torch.testing.assert_close(told_T, values(held), rtol=0, atol=0)
            flat.use(flat.path(held))
        elif move < 0.99:
            tree.limit = flat.limit = draw.choice([limit, limit // 2])
            tree.shrink()
            flat.shrink()
        else:
            tree.clear()
            flat.runs.clear()
        assert len(tree) == flat.size
        assert tree.bytes == flat.size * EACH <= tree.limit
        for asked in draw.choices(said, k=5):
            assert tree.known(asked) == flat.known(asked)


def test_what_is_kept_is_a_copy() -> None:
    tree, computed = PrefixTree(1 << 20), keys((1, 2, 3))
    tree.add((1, 2, 3), computed, None)
    computed.zero_()
    torch.testing.assert_close(read(tree, (1, 2, 3))[0], keys((1, 2, 3)), rtol=0, atol=0)
    assert read(tree, (1, 2, 3))[1] is None, "an engine without a head has no values"


def test_a_cut_leaves_no_memory_of_the_whole_behind() -> None:
    """A view of a long run would keep all of it alive, whatever `bytes` says."""
    tree = PrefixTree(1 << 20)
    tree.add(tuple(range(100)), keys(tuple(range(100))), values(tuple(range(100))))
    tree.add((0, 1, 7), keys((0, 1, 7)), values((0, 1, 7)))
    parts = [*(node.kv_LHTD for node in tree._order), *(node.values_T for node in tree._order)]
    assert sum(part.untyped_storage().nbytes() for part in parts if part is not None) == tree.bytes


def test_a_continuation_of_what_was_let_go_is_not_kept() -> None:
    tree = PrefixTree(1 << 20)
    tree.add((1, 2, 3, 4), keys((1, 2, 3, 4))[:, :, 2:], None, start=2)
    assert (len(tree), tree.bytes) == (0, 0)


def test_reading_more_than_is_held_is_refused() -> None:
    tree = PrefixTree(1 << 20)
    tree.add((1, 2), keys((1, 2)), None)
    with pytest.raises(LookupError, match="2 of these 3 tokens are held"):
        read(tree, (1, 2, 3))


def test_shared_beginnings_are_measured_like_token_by_token() -> None:
    draw = random.Random(0)
    for _ in range(500):
        a, b = (tuple(draw.choices((0, 1), weights=(9, 1), k=draw.randrange(20))) for _ in range(2))
        assert common(a, b) == shared(a, b)
