"""A search by its name, as large as a budget of tokens carries: what sweeps, allocations and the command line ask."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from forethought.search import SEARCHES
from forethought.search.best_of_n import best_of_n
from forethought.search.choose import Choose, highest, majority, weighted
from forethought.search.mix import Search
from forethought.search.stop import adaptive_consistency, unanimous_window
from forethought.search.work import Enough


@dataclass(frozen=True, slots=True)
class Parallel:
    """Thoughts drawn from one root, none of which sees another: what can be replayed from a bank of them."""

    choose: Choose
    judged: bool = False
    """Does the choice go by a verifier's scores?"""
    stop: Enough | None = None
    """Asked after each thought, one being under way at a time."""

    def search(self, n: int) -> Search:
        """Up to n thoughts, drawn and chosen so."""
        return partial(best_of_n, n=n, choose=self.choose, stop=self.stop, at_once=None if self.stop is None else 1)


PARALLEL: dict[str, Parallel] = {
    "best-of-n": Parallel(highest, judged=True),
    "majority": Parallel(majority),
    "weighted": Parallel(weighted, judged=True),
    "adaptive-consistency": Parallel(majority, stop=adaptive_consistency),
    "unanimous-window": Parallel(majority, stop=unanimous_window),
}
GUIDED = ("beam", "lookahead", "dvts", "mcts", "particle")
"""Those that cannot run without a verifier."""
NAMES = tuple(dict.fromkeys((*SEARCHES, *PARALLEL)))

LOOKAHEAD = 3
"""Steps ahead; each candidate costs up to so many more."""


def _beams(n: int) -> dict[str, Any]:
    branch = min(4, n)
    return {"n": n // branch * branch, "branch": branch}


_DEEP: dict[str, Any] = {"exploration": 0.1, "unvisited": 0.0, "at_once": 1}
"""Of MCTS under a budget of a few thoughts: as it explores by default, it comes to the end of none."""

_KNOBS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "beam": lambda n, tokens: _beams(n),
    "dvts": lambda n, tokens: _beams(n),
    "lookahead": lambda n, tokens: {**_beams(max(1, n // (LOOKAHEAD + 1))), "k": LOOKAHEAD},
    "mcts": lambda n, tokens: {"simulations": 64 * n, "branch": min(4, n), **_DEEP},
    "particle": lambda n, tokens: {"n": n},
    "revise": lambda n, tokens: {"n": n},
    "mix": lambda n, tokens: {"n": math.isqrt(n), "depth": n // math.isqrt(n)},
    "force": lambda n, tokens: {"least": tokens // 2, "most": tokens},
}
"""Of n thoughts' worth and the tokens they are given, what makes a search that large. `force` makes one long thought of
them; `mcts` ends where its budget does, long before so many simulations unless its steps cost next to nothing."""


def named(name: str) -> str:
    """The search that is called so, `best_of_n` being `best-of-n`; a `ValueError` with the nearest where none is."""
    found = name.strip().replace("_", "-")
    if found in NAMES:
        return found
    near = difflib.get_close_matches(found, NAMES, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"there is no search {name!r}; {meant}there is {', '.join(NAMES)}")


def sized(name: str, tokens: int, price: int) -> Search:
    """The search `name`, so large that with thoughts of `price` tokens (judging included) it spends about `tokens`.

    It is no limit: that is the budget's. Raises ValueError for an unknown name, and for a price or tokens below 1.
    """
    name = named(name)
    if tokens < 1 or price < 1:
        raise ValueError(f"tokens is {tokens} and price {price}; both are at least 1")
    n = max(1, tokens // price)
    return PARALLEL[name].search(n) if name in PARALLEL else partial(SEARCHES[name], **_KNOBS[name](n, tokens))
