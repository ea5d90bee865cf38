"""What a task is: a plain record of callables, its options bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from forethought.types import Problem, Trace, Verdict

Split = Literal["train", "test"]


class Load(Protocol):
    """Reads or makes problems."""

    def __call__(self, split: Split, *, count: int | None = None, seed: int = 0) -> list[Problem]:
        """The first `count` problems of a split (`None`: the task's own number).

        Item i depends on (seed, i) alone, never on `count`. Raises `ValueError` for a split other than train and
        test, a count below 1, and a level that has no problem in the split.
        """
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of problem whose answers can be checked."""

    name: str
    """The spec it was opened with, e.g. `addition:digits=3`."""
    load: Load
    grade: Callable[[Problem, Trace], Verdict]
    """Training time: may read the answer."""
    worked: Callable[[Problem], str] | None = None
    """The text of a whole worked example (`thought.marks.compose`); `None` where the task cannot make one."""
    finite: bool = False
    """Is there a last problem (a file's), or can more always be made?"""
    labels: Callable[[Problem, Trace], tuple[float | None, ...]] | None = None
    """True labels, one for each step of the trace: 1 right, 0 wrong, `None` where the step claims nothing; `None`
    where the task does not know them."""
    parts: tuple[tuple[str, float], ...] = ()
    """Of a mixture: the spec and the weight of each part, in the order of `meta["part"]`."""
    streams: Callable[[Split, int], list[Iterator[Problem]]] | None = None
    """Of a mixture: (split, seed) to all that each part has, problem by problem; no question comes twice from them."""


def check_load(split: str, count: int | None) -> None:
    """Refuse, as every `load` does, a split or a count that does not exist."""
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; it must be 'train' or 'test'")
    if count is not None and count < 1:
        raise ValueError(f"count is {count}; ask for at least 1 problem, or None for the task's own number")
