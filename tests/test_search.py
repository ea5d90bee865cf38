"""Best-of-n: its golden tree, its choice, and its spending."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from forethought.engines.scripted import Scripted, always, endless
from forethought.search.best_of_n import best_of_n
from forethought.search.seeds import derive
from forethought.search.tree import Growth
from forethought.types import Budget, Messages, Node, Sampling, Step, Tree, Verdict, user
from forethought.verify.vote import answer_of

ASK = user("What is 2+2?")


def says(*replies: Any, **options: Any) -> Scripted:
    return Scripted(list(replies), **options)


def grow(engine: Any, **options: Any) -> Tree:
    return asyncio.run(best_of_n(ASK, engine, **options))


def texts(tree: Tree) -> list[str]:
    return [node.step.text for node in tree.nodes if node.step]


async def length(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
    """A judge that likes long thoughts, cannot judge a question, and computes 3 tokens to say so."""
    text = steps[-1].text
    return Verdict(None if "?" in text else len(text) / 100, cost=3)


def test_growth_freezes_into_the_tree_it_grew() -> None:
    growth = Growth(ASK, "m@1")
    first = growth.add(0, Step("a"))
    second = growth.add(first, Step("b"), value=0.5)
    third = growth.add(0, Step("c"))
    growth.back_up(second, 0.5)
    growth.back_up(third, 0.25)
    tree = growth.freeze(Budget(used=3), best=second)
    assert tree.nodes == (
        Node(-1, None, None, 2, 0.75, (1, 3)),
        Node(0, Step("a"), None, 1, 0.5, (2,)),
        Node(1, Step("b"), 0.5, 1, 0.5),
        Node(0, Step("c"), None, 1, 0.25),
    )
    assert tree.steps(second) == (Step("a"), Step("b"))
    with pytest.raises(ValueError, match="no node 9"):
        growth.add(9, Step("d"))
    with pytest.raises(ValueError, match="best is node 4"):
        growth.freeze(Budget(), best=4)


def test_golden_tree_of_a_judged_search() -> None:
    engine = says("\\boxed{4}", "so \\boxed{4}", "what? \\boxed{5}")
    tree = grow(engine, verify=length, n=3, sampling=Sampling(max_tokens=20, seed=1))
    steps = [replace(step, logprobs=()) for node in tree.nodes if (step := node.step)]
    assert steps == [Step(text, tokens=tuple(map(ord, text))) for text in texts(tree)]
    assert [(node.parent, node.value, node.visits, node.total, node.children) for node in tree.nodes] == [
        (-1, None, 2, 0.21, (1, 2, 3)),
        (0, 0.09, 1, 0.09, ()),
        (0, 0.12, 1, 0.12, ()),
        (0, None, 0, 0.0, ()),
    ]
    assert tree.best == 2
    assert tree.policy == "scripted"
    assert tree.messages == ASK
    assert tree.budget == Budget(used=9 + 12 + 15 + 3 * 3, calls=6)
    assert tree.note == ""


def test_without_a_judge_the_majority_chooses_and_its_first_thought_answers() -> None:
    tree = grow(says("\\boxed{5}", "\\boxed{4}", "two twos: \\boxed{4}", "no idea"), n=4)
    assert tree.best == 2
    assert grow(says("no idea", "none"), n=2).best == 1


def test_the_vote_reads_answers_as_it_is_told() -> None:
    replies = ("#### 5", "it is\n#### 4", "#### 4")
    assert grow(says(*replies), n=3).best == 1
    assert grow(says(*replies), n=3, answer=partial(answer_of, mark="####")).best == 2


def test_where_no_thought_could_be_judged_the_majority_chooses() -> None:
    tree = grow(says("? \\boxed{5}", "? \\boxed{4}", "? \\boxed{4}"), n=3, verify=length)
    assert [node.value for node in tree.nodes] == [None] * 4
    assert tree.best == 2


def test_an_unfinished_thought_is_neither_judged_nor_chosen() -> None:
    engine = says("a very long thought \\boxed{5}", "\\boxed{4}", OSError("gone"), "\\boxed{5} and so on and on")
    tree = grow(engine, n=4, verify=length, sampling=Sampling(max_tokens=10))
    assert [step.stop for node in tree.nodes if (step := node.step)] == ["length", "end", "error", "length"]
    assert [node.value for node in tree.nodes[1:]] == [None, 0.09, None, None]
    assert tree.best == 2
    assert tree.note == "1 of 4 samples failed: OSError: gone"


def test_a_stop_string_finishes_a_thought() -> None:
    tree = grow(says("\\boxed{4} and more"), n=1, sampling=Sampling(stop=("}",)))
    assert tree.best == 1
    assert texts(tree) == ["\\boxed{4}"]


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        (Scripted(always(OSError("gone"))), {}),
        (Scripted(endless()), {}),
        (Scripted(endless(), delay=60.0), {"budget": Budget(seconds=0.05)}),
    ],
    ids=["always fails", "never stops", "never answers"],
)
def test_a_search_ends_and_says_that_none_finished(engine: Scripted, options: dict[str, Any]) -> None:
    tree = grow(engine, n=3, verify=length, sampling=Sampling(max_tokens=8), **options)
    assert tree.best is None
    assert tree.budget.held == 0


def test_a_search_ends_on_an_engine_that_says_nothing() -> None:
    tree = grow(Scripted(always("")), n=2)
    assert texts(tree) == ["", ""]
    assert tree.best == 1


def test_all_chains_are_asked_for_at_once() -> None:
    engine = says("a", delay=0.01)
    grow(engine, n=16)
    assert engine.most_in_flight == 16


def test_chain_i_has_the_same_seed_whatever_n() -> None:
    few, many = says("a"), says("a")
    grow(few, n=2, sampling=Sampling(seed=5))
    grow(many, n=6, sampling=Sampling(seed=5), budget=Budget(tokens=300))
    seeds = [sampling.seed for _, _, sampling in many.asked]
    assert seeds == [derive(5, i) for i in range(6)]
    assert len(set(seeds)) == 6
    assert [sampling.seed for _, _, sampling in few.asked] == seeds[:2]
    unseeded = says("a")
    grow(unseeded, n=2)
    assert [sampling.seed for _, _, sampling in unseeded.asked] == [None, None]


def test_the_budget_cuts_the_last_chain_and_the_rest_do_not_start() -> None:
    engine = Scripted(endless())
    tree = grow(engine, n=5, sampling=Sampling(max_tokens=10), budget=Budget(tokens=25))
    assert [(len(step.tokens), step.stop) for node in tree.nodes if (step := node.step)] == [
        (10, "length"),
        (10, "length"),
        (5, "budget"),
    ]
    assert tree.budget == Budget(tokens=25, used=25, calls=3)
    assert tree.note == "2 of 5 samples not started: the budget was spent; no thought finished"


def test_a_length_that_the_budget_did_not_cause_stays_a_length() -> None:
    full = Step("ab", tokens=(1, 2), stop="length")  # the context was full before the grant was
    tree = grow(says(full), n=1, sampling=Sampling(max_tokens=10), budget=Budget(tokens=5))
    assert tree.nodes[1].step == full


def test_what_a_chain_leaves_unused_starts_later_ones() -> None:
    engine = says("\\boxed{4}", delay=0.001)
    tree = grow(engine, n=10, sampling=Sampling(max_tokens=40), budget=Budget(tokens=100))
    assert engine.most_in_flight == 2
    assert len(tree.nodes) == 11
    assert tree.budget == Budget(tokens=100, used=90, calls=10)


def test_tokens_of_a_silent_server_are_booked_at_their_most() -> None:
    tree = grow(says(Step("\\boxed{4}")), n=4, sampling=Sampling(max_tokens=30), budget=Budget(tokens=60))
    assert tree.budget == Budget(tokens=60, used=60, calls=2)


@pytest.mark.parametrize("seed", range(30))
def test_no_search_exceeds_its_budget_or_loses_a_finished_thought(seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.randint(0, 40) for _ in range(12)]
    stops = ["end", "end", "stop", "length", "error"]

    class Ragged:
        """Answers out of order, with steps of any length and stop."""

        name = "ragged"
        finished = 0

        async def sample(self, messages: Messages, prefix: Any, sampling: Sampling) -> Step:
            wanted, stop = lengths[(sampling.seed or 0) % 12], stops[(sampling.seed or 0) % 5]
            for _ in range((sampling.seed or 0) % 7):
                await asyncio.sleep(0)
            if wanted >= sampling.max_tokens:
                wanted, stop = sampling.max_tokens, "length"
            self.finished += stop in ("end", "stop")
            return Step("x" * wanted, tokens=(1,) * wanted, stop=stop)  # type: ignore[arg-type]

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        await asyncio.sleep(0)
        return Verdict(0.5, cost=draw.randint(0, 6))

    limit = draw.randint(1, 300)
    options: dict[str, Any] = {"verify": judge, "verify_tokens": 6} if seed % 2 else {}
    engine: Any = Ragged()
    tree = grow(engine, n=12, sampling=Sampling(max_tokens=30, seed=seed), budget=Budget(tokens=limit), **options)
    assert tree.budget.used <= limit
    assert tree.budget.held == 0
    ended = [i for i, node in enumerate(tree.nodes) if node.step and node.step.stop in ("end", "stop")]
    assert len(ended) == engine.finished
    assert (tree.best in ended) if ended else tree.best is None
    assert not options or all(tree.nodes[i].value == 0.5 for i in ended)


def test_the_judge_has_its_share_of_the_budget_reserved() -> None:
    engine = says("\\boxed{4}", delay=0.001)
    options: dict[str, Any] = {"verify": length, "verify_tokens": 3, "sampling": Sampling(max_tokens=10)}
    tree = grow(engine, n=5, budget=Budget(tokens=30), **options)
    assert [sampling.max_tokens for _, _, sampling in engine.asked] == [10, 10, 3]
    assert tree.budget == Budget(tokens=30, used=9 + 3 + 9 + 3 + 3, calls=5)
    assert len(grow(engine, n=1, budget=Budget(tokens=3), **options).nodes) == 1


def test_seconds_cut_the_slow_and_keep_what_has_ended() -> None:
    class Slow(Scripted):
        async def sample(self, messages: Messages, prefix: Any, sampling: Sampling) -> Step:
            self.delay = 0.0 if self.calls < 2 else 60.0
            return await super().sample(messages, prefix, sampling)

    engine = Slow(always("\\boxed{4}"))
    began = time.monotonic()
    tree = grow(engine, n=5, sampling=Sampling(max_tokens=50), budget=Budget(seconds=0.1))
    assert time.monotonic() - began < 5
    assert texts(tree) == ["\\boxed{4}"] * 2
    assert tree.best == 1
    assert tree.note == "3 of 5 samples cut off after 0.1 seconds"
    assert tree.budget == Budget(seconds=0.1, used=2 * 9 + 3 * 50, calls=5)
    assert engine.in_flight == 0


def test_a_thought_whose_judge_was_cut_off_is_kept() -> None:
    async def slow(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        await asyncio.sleep(60)
        raise AssertionError("cancelled long before")

    tree = grow(says("\\boxed{4}"), n=2, verify=slow, verify_tokens=5, budget=Budget(seconds=0.05))
    assert tree.best == 1
    assert tree.budget == Budget(seconds=0.05, used=2 * 9 + 2 * 5, calls=4)


def test_a_value_error_passes_and_stops_the_other_chains() -> None:
    class Picky(Scripted):
        async def sample(self, messages: Messages, prefix: Any, sampling: Sampling) -> Step:
            if self.calls == 1:
                raise ValueError("a prompt of 9000 tokens; the context holds 2048")
            return await super().sample(messages, prefix, sampling)

    engine = Picky(always("a"), delay=60.0)
    with pytest.raises(ValueError, match="prompt of 9000 tokens"):
        grow(engine, n=4)
    assert engine.in_flight == 0


def test_cancelling_a_search_cancels_its_samples() -> None:
    async def run() -> int:
        engine = says("a", delay=60.0)
        task = asyncio.create_task(best_of_n(ASK, engine, n=4))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return engine.in_flight

    assert asyncio.run(run()) == 0


@pytest.mark.parametrize(("options", "named"), [({"n": 0}, "n is 0"), ({"verify_tokens": -1}, "verify_tokens is -1")])
def test_knobs_that_cannot_be_are_refused(options: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        grow(says("a"), **options)
