"""What holds of every search: its budget, its thoughts, its end, and the same tree however fast the engine was."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import pytest

from forethought.engines.scripted import Scripted, always, endless, spelled
from forethought.engines.usage import Bill, Usage, counting
from forethought.search import SEARCHES
from forethought.search.stop import adaptive_consistency
from forethought.thought.marks import CLOSE
from forethought.types import FINISHED, Budget, Messages, Sampling, Step, Tree, Verdict, user

ASK = user("What is 2+2?")
SMALL: dict[str, dict[str, Any]] = {
    "beam": {"n": 4, "branch": 2, "rounds": 5},
    "lookahead": {"n": 4, "branch": 2, "rounds": 5, "k": 2},
    "dvts": {"n": 6, "branch": 2, "rounds": 5, "at_once": 2},
    "mcts": {"simulations": 14, "branch": 2, "depth": 5, "at_once": 3},
    "particle": {"n": 4, "rounds": 5},
    "revise": {"n": 3},
    "mix": {"n": 3, "depth": 2},
    "force": {"least": 12, "most": 40, "waits": 3},
}
EVERY = {name: partial(search, **SMALL.get(name, {"n": 5})) for name, search in SEARCHES.items()}
GUIDED = ("beam", "lookahead", "dvts", "mcts", "particle")
every = pytest.mark.parametrize("name", EVERY)


class World:
    """An engine and a judge that say anything, fixed by the sample's seed and its prefix, as slow as they like."""

    name = "world"

    def __init__(self, seed: int, speed: int) -> None:
        self.seed, self.speed = seed, random.Random(speed)
        self.tokens = self.calls = self.ended = self.in_flight = 0
        self.judged: list[tuple[Step, ...]] = []

    async def dawdle(self) -> None:
        self.calls += 1
        self.in_flight += 1
        try:
            for _ in range(self.speed.randrange(6)):
                await asyncio.sleep(0)
        finally:
            self.in_flight -= 1

    async def sample(self, messages: Messages, prefix: Any, sampling: Sampling) -> Step:
        await self.dawdle()
        draw = random.Random(f"{self.seed} {sampling.seed} {[step.text for step in prefix]}")
        words = "x" * draw.randrange(8)
        text = draw.choice([f"{words}\n"] * 5 + [f"\\boxed{{{draw.randrange(2)}}}"] * 3 + ["", f"{words}{CLOSE}"])
        step = spelled(text, sampling)
        if draw.random() < 0.1:
            step = Step("OSError: gone", stop="error", sampled=False)
        elif draw.random() < 0.05 and sampling.stop:
            step = Step("", stop="stop", tokens=(7,))
        if not step.tokens and step.sampled:
            step = replace(step, tokens=(0,))  # an end token
        self.tokens += len(step.tokens)
        self.ended += step.stop == "end" and sampling.temperature > 0
        return step

    async def logprobs(self, messages: Messages, steps: Any) -> tuple[tuple[float, ...], ...]:
        raise AssertionError("no search asks for these")

    async def verify(self, messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        await self.dawdle()
        self.judged.append(steps)
        draw = random.Random(f"{self.seed} {[step.text for step in steps]}")
        cost = draw.randrange(4)
        self.tokens += cost
        return Verdict(draw.choice([None, 0.0, 0.25, 0.5, 0.75, 1.0]), cost=cost, note="look again")


def grow(name: str, engine: Any, **options: Any) -> Tree:
    if name in GUIDED:
        options.setdefault("verify", World(0, 0).verify)
    return asyncio.run(EVERY[name](ASK, engine, **options))


def wild(name: str, seed: int, speed: int, **options: Any) -> tuple[Tree, World]:
    world = World(seed, speed)
    sampling = Sampling(max_tokens=10, seed=seed)
    return grow(name, world, verify=world.verify, verify_tokens=3, sampling=sampling, **options), world


@every
@pytest.mark.parametrize("seed", range(12))
def test_it_keeps_to_its_budget_books_each_token_and_loses_no_thought(name: str, seed: int) -> None:
    limit = random.Random(seed).choice([1, 5, 14, 30, 60, 120, 250, 10_000])
    tree, world = wild(name, seed, seed, budget=Budget(tokens=limit))
    assert tree.budget == Budget(tokens=limit, used=world.tokens, calls=world.calls)
    assert tree.budget.used <= limit
    ended = [i for i, node in enumerate(tree.nodes) if node.step and node.step.stop == "end"]
    assert len(ended) == world.ended
    assert (tree.best in ended) if ended else (tree.best is None and bool(tree.note))
    for i, node in enumerate(tree.nodes[1:], start=1):
        assert node.step is not None
        assert 0 <= node.parent < i
        assert i in tree.nodes[node.parent].children
        assert node.step.sampled or node.step.stop == "error" or node.children, "text of ours that nothing follows"


@every
@pytest.mark.parametrize("seed", range(24))
def test_the_same_seed_gives_the_same_tree_however_fast_the_engine_was(name: str, seed: int) -> None:
    limit = random.Random(seed).choice([20, 50, 65, 80, 100, 130, None])
    options: dict[str, Any] = {"budget": Budget(tokens=limit)}
    if "at_once" in signature(SEARCHES[name]).parameters and seed % 2:
        options |= {"stop": partial(adaptive_consistency, confidence=0.7), "at_once": 2}
    first, *others = (wild(name, seed, speed, **options)[0] for speed in range(3))
    assert others == [first, first]


@every
def test_no_leaf_calls_itself_finished_that_the_model_did_not_end(name: str) -> None:
    left = set()
    for seed in range(6):
        tree, _ = wild(name, seed, seed, budget=Budget(tokens=random.Random(seed).choice([40, 150, 600])))
        steps = [step for leaf in tree.leaves() if (step := tree.nodes[leaf].step)]
        assert {step.stop for step in steps if step.stop in FINISHED} <= {"end"}
        left |= {step.stop for step in steps if step.text.endswith("\n")}
    assert left == {"budget"} or name not in GUIDED


@every
def test_a_judge_is_told_of_each_path_once_and_only_of_paths_that_grew(name: str) -> None:
    for seed in range(6):
        _, world = wild(name, seed, seed)
        assert len(world.judged) <= world.calls - len(world.judged)
        assert all(steps[-1].sampled and steps[-1].stop in ("stop", "end") for steps in world.judged)


ENGINES: dict[str, Scripted] = {
    "always fails": Scripted(always(OSError("gone"))),
    "never stops": Scripted(endless("on and on ")),
    "never stops but breaks lines": Scripted(endless("on\n")),
    "stops at once": Scripted(always("")),
    "says nothing and goes on": Scripted(always(Step("", stop="stop"))),
    "says nothing, for nothing": Scripted(always(Step("", stop="stop", sampled=False))),
    "never answers": Scripted(endless("on\n"), delay=60.0),
    "never closes": Scripted(always("<think> hm")),
}


@every
@pytest.mark.parametrize("kind", ENGINES)
def test_it_ends_on_any_engine(name: str, kind: str) -> None:
    options = {"budget": Budget(seconds=0.03)} if kind == "never answers" else {}
    began = time.monotonic()
    tree = grow(name, ENGINES[kind], sampling=Sampling(max_tokens=12), **options)
    assert time.monotonic() - began < 30
    assert tree.budget.held == 0
    assert ENGINES[kind].in_flight == 0
    if kind in ("stops at once", "never closes"):
        assert tree.best is not None
    elif kind in ("always fails", "never stops", "never answers"):
        assert (tree.best, bool(tree.note)) == (None, True)


@every
def test_seconds_keep_the_thoughts_that_have_ended(name: str) -> None:
    class Tiring(Scripted):
        async def sample(self, messages: Messages, prefix: Any, sampling: Sampling) -> Step:
            self.delay = 0.0 if self.calls < 2 else 60.0
            return await super().sample(messages, prefix, sampling)

    engine = Tiring(always("\\boxed{4}"))
    limit = Budget(seconds=0.1)
    tree = grow(name, engine, sampling=Sampling(max_tokens=50), budget=limit)
    assert [node.step.text for node in tree.nodes if node.step and node.step.sampled] == ["\\boxed{4}"] * 2
    assert tree.best is not None
    assert engine.in_flight == 0
    if engine.calls > 2:
        assert tree.budget.used >= 2 * 9 + 40  # what was under way, at its most
        assert "cut off after 0." in tree.note


@every
def test_a_verdict_that_could_not_be_reached_is_no_score(name: str) -> None:
    async def mute(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        return Verdict(None)

    tree = grow(name, Scripted(["on\n", "\\boxed{4}", "\\boxed{4}", "\\boxed{5}"]), verify=mute)
    assert {node.value for node in tree.nodes} == {None}
    assert tree.best is not None


@every
def test_a_value_error_of_the_judge_passes_and_ends_all_calls(name: str) -> None:
    async def picky(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        raise ValueError("a thought of 9000 tokens; the judge holds 2048")

    engine = Scripted(["\\boxed{4}", "on\n"], delay=0.001)
    with pytest.raises(ValueError, match="9000 tokens"):
        grow(name, engine, verify=picky)
    assert engine.in_flight == 0


@every
def test_a_bug_of_the_engine_propagates_even_as_a_time_out(name: str) -> None:
    class Broken(Scripted):
        async def sample(self, messages: Messages, prefix: Any, sampling: Sampling) -> Step:
            raise TimeoutError("not ours")

    with pytest.raises(TimeoutError, match="not ours"):
        grow(name, Broken(["a"]), budget=Budget(seconds=60.0))


@every
def test_cancelling_a_search_cancels_its_calls(name: str) -> None:
    async def run() -> int:
        engine = Scripted(["on\n"], delay=60.0)
        task = asyncio.create_task(EVERY[name](ASK, engine, verify=World(0, 0).verify))
        await asyncio.sleep(0.005)
        assert engine.in_flight
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return engine.in_flight

    assert asyncio.run(run()) == 0


@every
def test_what_the_judge_computes_is_metered_as_the_judges(name: str) -> None:
    own, computed = Usage(), 0

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        nonlocal computed
        computed += 3
        Bill.open(own).book(Usage(scored=3))
        return Verdict(0.5, cost=3)

    engine = Scripted(["on\n", "\\boxed{4}"])
    with counting() as usage:
        tree = grow(name, engine, verify=judge)
    assert 0 < usage.judged == computed
    assert tree.budget.used == computed + engine.tokens


@pytest.mark.parametrize("name", GUIDED)
def test_a_search_that_follows_scores_needs_a_judge(name: str) -> None:
    with pytest.raises(ValueError, match="verify is None"):
        asyncio.run(EVERY[name](ASK, Scripted(["a"])))
