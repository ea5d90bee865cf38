"""Searches by name, as large as their tokens."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest
from search_script import Judge

from forethought.engines.scripted import Reply, Scripted
from forethought.search import SEARCHES
from forethought.search.mcts import mcts
from forethought.search.mix import Search
from forethought.search.size import _KNOBS, NAMES, PARALLEL, named, sized
from forethought.thought.marks import CLOSE
from forethought.types import Budget, Messages, Sampling, Step, Verdict, user

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


def test_a_tree_search_comes_to_an_end_on_a_budget_of_a_few_deep_thoughts() -> None:
    def deep(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        return f"step {len(prefix)} {(sampling.seed or 0) % 9}\n" if len(prefix) < 8 else "\\boxed{4}"

    async def surer_of_less(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        return Verdict(0.9 ** len(steps), cost=1)

    def ends(search: Search, seed: int) -> bool:
        options = {"budget": Budget(tokens=400), "verify_tokens": 1, "sampling": Sampling(20, seed=seed)}
        return asyncio.run(search(ASK, Scripted(deep), verify=surer_of_less, **options)).best is not None

    assert [ends(sized("mcts", 400, 90), seed) for seed in range(5)] == [True] * 5
    assert [ends(partial(mcts, branch=4), seed) for seed in range(5)] == [False] * 5  # it spreads out instead


def test_names_are_read_with_either_line_and_the_nearest_is_told() -> None:
    assert named(" best_of_n") == "best-of-n"
    with pytest.raises(ValueError, match="no search 'mtcs'; did you mean 'mcts'"):
        named("mtcs")
    with pytest.raises(ValueError, match="price 0"):
        sized("mcts", 10, 0)
