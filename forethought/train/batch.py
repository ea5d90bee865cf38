"""Trie packing: the sequences of a micro-batch as one row in which every shared token stands once.

Sequences with a common prefix (the samples of one prompt, the paths of one tree) are laid out in depth-first order of
their trie. A token sees its ancestors and itself: `j` is visible from `i` exactly if `j <= i < end[j]`, where `end[j]`
is one past the last token of `j`'s subtree. Position is depth. The hidden states, and so the gradients, are those of
the sequences one by one; only the work that would be repeated is gone.

Shapes: `T` unique tokens of a pack, `M` its targets, one for each (datum, masked token).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from forethought.types import Datum

Rows = Sequence[Sequence[float]]
"""For each datum a value for each of its tokens, as `Datum.logprobs` has them."""


@dataclass(frozen=True, slots=True)
class Pack:
    """One row of T unique tokens and the M targets that are read off it."""

    tokens_T: Tensor
    """int64: token ids in depth-first order."""
    positions_T: Tensor
    """int64: depth in the trie."""
    end_T: Tensor
    """int64: one past the last index of the subtree rooted here."""
    at_M: Tensor
    """int64: index in T of the hidden state that predicts the target."""
    target_M: Tensor
    """int64: the token id to be predicted."""
    weight_M: Tensor
    """float32: the datum's weight of this token."""
    sampler_M: Tensor
    """float32: the sampler's log-probability; nan where the datum has none."""
    proximal_M: Tensor | None
    """float32: the learner's own log-probability when the data were made, where given."""
    reference_M: Tensor | None
    """float32: the reference model's log-probability, where given."""
    datum_M: Tensor
    """int64: which of the packed data this target belongs to."""
    place_M: Tensor
    """int64: the target's index in that datum."""
    naive: int
    """Tokens the same data would cost one by one."""
    here_M: Tensor | None = None
    """int64: index in T of the target itself, where a scalar head is read. Like the next two, for data with labels."""
    label_M: Tensor | None = None
    """float32: what the head should say there; nan where a datum has no labels."""
    pair_M: Tensor | None = None
    """int64: the datum's `pair`; -1 where it is compared with none."""

    @property
    def computed(self) -> int:
        """Tokens that go through the model: T."""
        return len(self.tokens_T)

    def to(self, device: torch.device) -> Pack:
        """The same pack with its tensors on `device`."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def visible(self) -> Tensor:
        """bool [T, T]: may row `i` attend to column `j`?"""
        index = torch.arange(self.computed, device=self.end_T.device)
        return (index[None, :] <= index[:, None]) & (index[:, None] < self.end_T[None, :])


def pack(
    data: Sequence[Datum],
    max_tokens: int,
    *,
    share: bool = True,
    proximal: Rows | None = None,
    reference: Rows | None = None,
) -> list[Pack]:
    """Pack data greedily into rows of at most `max_tokens` unique tokens.

    Data that share a prefix are brought together; otherwise their order is kept. A tree larger than `max_tokens` goes
    on in the next pack, which computes its prefix again. Data of one `pair` are always in one pack: their loss compares
    them.

    Args:
        share: `False` computes every datum on its own, side by side in the same row.
        proximal, reference: log-probabilities for each datum and token, as `Learner.logprobs` returns them.

    Raises:
        ValueError: a datum, or the data of one pair, longer than `max_tokens`, a datum whose first token is a target
            (nothing predicts it), or `proximal`/`reference` rows that are not as long as the data.
    """
    for name, rows in (("proximal", proximal), ("reference", reference)):
        if rows is not None and [len(row) for row in rows] != [len(datum.tokens) for datum in data]:
            raise ValueError(f"{name} must have a value for each token of each of the {len(data)} data")
    for number, datum in enumerate(data):
        if len(datum.tokens) > max_tokens:
            raise ValueError(
                f"datum {number} has {len(datum.tokens)} tokens and a pack holds {max_tokens}; "
                "raise the learner's max_tokens or sample shorter thoughts"
            )
        if datum.mask and datum.mask[0]:
            raise ValueError(f"the first token of datum {number} is a target, but no token before it predicts it")
    packs: list[Pack] = []
    filling: list[tuple[int, int]] = []  # (datum, how many of its tokens the datum before it already brought)
    size = 0
    before: tuple[int, ...] = ()
    for unit in _units(data, _together(data) if share else range(len(data))):
        added, cost = _stacked(data, unit, before, share)
        if filling and size + cost > max_tokens:
            packs.append(_lay_out(data, filling, proximal, reference))
            filling, size = [], 0
            added, cost = _stacked(data, unit, (), share)
        if cost > max_tokens:
            raise ValueError(
                f"the {len(unit)} data of pair {data[unit[0]].pair} take {cost} tokens and a pack holds {max_tokens}; "
                "raise the learner's max_tokens or compare fewer thoughts at once"
            )
        filling += added
        size += cost
        before = data[unit[-1]].tokens
    if filling:
        packs.append(_lay_out(data, filling, proximal, reference))
    return packs


def _units(data: Sequence[Datum], order: Sequence[int]) -> list[list[int]]:
    """What may not be torn apart: the data of one pair, and any other datum by itself, in order of first sight."""
    units: dict[tuple[str, int], list[int]] = {}
    for number in order:
        pair = data[number].pair
        units.setdefault(("datum", number) if pair is None else ("pair", pair), []).append(number)
    return list(units.values())


def _stacked(
    data: Sequence[Datum], unit: Sequence[int], before: Sequence[int], share: bool
) -> tuple[list[tuple[int, int]], int]:
    """Each datum of a unit with how many tokens the one before it brings, and the tokens that the unit adds."""
    added: list[tuple[int, int]] = []
    cost = 0
    for number in unit:
        tokens = data[number].tokens
        shared = _common(before, tokens) if share else 0
        added.append((number, shared))
        cost += len(tokens) - shared
        before = tokens
    return added, cost


def _lay_out(
    data: Sequence[Datum], filling: Sequence[tuple[int, int]], proximal: Rows | None, reference: Rows | None
) -> Pack:
    """The pack of these data, which stand in depth-first order of their trie."""
    tokens: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    path: list[int] = []  # indices in T of the datum at hand
    targets: list[tuple[int, int, int, int, int]] = []
    for number, shared in filling:
        for index in path[shared:]:
            ends[index] = len(tokens)
        del path[shared:]
        datum = data[number]
        for depth in range(shared, len(datum.tokens)):
            path.append(len(tokens))
            tokens.append(datum.tokens[depth])
            positions.append(depth)
            ends.append(0)
        targets += [
            (path[place - 1], path[place], datum.tokens[place], number, place)
            for place, target in enumerate(datum.mask)
            if target
        ]
    for index in path:
        ends[index] = len(tokens)
    columns = [torch.tensor(column) for column in zip(*targets, strict=True)] if targets else _NONE
    at, here, target, owner, place = columns
    labelled = any(data[number].labels for number, _ in filling)
    pairs = [-1 if (pair := data[number].pair) is None else pair for *_, number, _ in targets]

    def gather(rows: Rows) -> Tensor:
        return torch.tensor([rows[n][p] for *_, n, p in targets], dtype=torch.float32)

    return Pack(
        tokens_T=torch.tensor(tokens),
        positions_T=torch.tensor(positions),
        end_T=torch.tensor(ends),
        at_M=at,
        target_M=target,
        weight_M=gather([datum.weights for datum in data]),
        sampler_M=gather([datum.logprobs or [torch.nan] * len(datum.tokens) for datum in data]),
        proximal_M=None if proximal is None else gather(proximal),
        reference_M=None if reference is None else gather(reference),
        datum_M=owner,
        place_M=place,
        naive=sum(len(data[number].tokens) for number, _ in filling),
        here_M=here if labelled else None,
        label_M=gather([datum.labels or [torch.nan] * len(datum.tokens) for datum in data]) if labelled else None,
        pair_M=torch.tensor(pairs, dtype=torch.int64) if labelled else None,
    )


_NONE = [torch.zeros(0, dtype=torch.int64)] * 5


def _together(data: Sequence[Datum]) -> list[int]:
    """Data in depth-first order of their trie, children in order of first sight; a prefix before what extends it."""
    order: list[int] = []
    stack = [(list(range(len(data))), 0)]  # data that agree up to a depth, the next to be laid out on top
    while stack:
        numbers, depth = stack.pop()
        if len(numbers) < 2:
            order += numbers
            continue
        first = data[numbers[0]].tokens
        depth += min(_common(first[depth:], data[number].tokens[depth:]) for number in numbers)
        branches: dict[int | None, list[int]] = {None: []}
        for number in numbers:
            tokens = data[number].tokens
            branches.setdefault(tokens[depth] if depth < len(tokens) else None, []).append(number)
        order += branches.pop(None)
        stack += ((branch, depth) for branch in reversed(branches.values()))
    return order


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences have in common from the start."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
