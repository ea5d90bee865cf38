"""Searches by name, as large as their tokens."""

from __future__ import annotations

import asyncio
import random

import pytest
from search_script import Judge

from forethought.engines.scripted import Reply, Scripted
from forethought.search import SEARCHES
from forethought.search.size import _KNOBS, NAMES, PARALLEL, named, sized
from forethought.thought.marks import CLOSE
from forethought.types import Budget, Messages, Sampling, Step, user

ASK = user("2+2?")


def walker(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
    """Steps of ten characters and, one time in three, an answer."""
    draw = random.Random(f"{sampling.seed} {len(prefix)}")
    return f"{CLOSE}\\boxed{{{draw.randrange(2)}}}" if draw.random() < 0.34 else "a step on\n"


def test_every_search_has_a_size() -> None:
    assert {*_KNOBS, *PARALLEL} == {*SEARCHES, *PARALLEL} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [1, 30, 400])
def test_every_search_keeps_to_the_tokens_it_is_sized_for(name: str, tokens: int) -> None:
    engine = Scripted(walker)
    search = sized(name, tokens, 25)
    budget = Budget(tokens=tokens)
    tree = asyncio.run(
        search(ASK, engine, budget=budget, verify=Judge(), sampling=Sampling(20, seed=0), verify_tokens=1)
    )
    assert engine.tokens <= tree.budget.used <= tokens
    assert engine.tokens or tokens == 1  # which buys no thought and its verdict


@pytest.mark.parametrize(("tokens", "calls"), [(9, 1), (39, 3), (400, 40)])
def test_a_vote_is_as_wide_as_its_tokens_carry(tokens: int, calls: int) -> None:
    engine = Scripted(["\\boxed{4}"])
    asyncio.run(sized("majority", tokens, 10)(ASK, engine))
    assert engine.calls == calls


def test_names_are_read_with_either_line_and_the_nearest_is_told() -> None:
    assert named(" best_of_n") == "best-of-n"
    with pytest.raises(ValueError, match="no search 'mtcs'; did you mean 'mcts'"):
        named("mtcs")
    with pytest.raises(ValueError, match="price 0"):
        sized("mcts", 10, 0)
