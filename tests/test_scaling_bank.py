"""A bank replayed: what it tells is what the search online comes to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from search_script import Judge

from forethought.engines.scripted import Reply, Scripted
from forethought.engines.usage import Bill, Usage
from forethought.problems import grade_answer
from forethought.scaling.bank import JUDGE, Drawn, banked, fill, orders, prices, replayed
from forethought.search.choose import Thought, highest, majority
from forethought.search.seeds import derive
from forethought.search.size import PARALLEL, Parallel
from forethought.search.stop import adaptive_consistency
from forethought.types import Budget, Messages, Problem, Sampling, Step, Trace, Verdict, user

ASK = user("2+2?")
SAMPLING = Sampling(12, seed=5)
PROBLEMS = [Problem(f"p/{i}", user(f"{i}?"), str(i % 3)) for i in range(6)]
TABLE = {f"\\boxed{{{i}}}": (i + 1) / 4 for i in range(3)}


def world(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
    """One of three answers, or a thought that goes on until it is cut."""
    said = random.Random(f"{sampling.seed}").choice("00012x")
    return "and so on, for ever" if said == "x" else f"\\boxed{{{said}}}"


class Metered(Scripted):
    """Reports prompts of 7 tokens, as a server does that bills the prompt of several samples to one of them."""

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        Bill.open().book(Usage(prefilled=7 * (self.calls % 4 == 0), requests=1))
        return await super().sample(messages, prefix, sampling)


def grade(problem: Problem, trace: Trace) -> Verdict:
    return grade_answer(problem.answer, trace.text)


def filled(engine: Scripted, n: int = 12) -> list[tuple[list[Trace], int]]:
    async def run() -> list[tuple[list[Trace], int]]:
        return [each async for each in fill(PROBLEMS, engine, n=n, grade=grade, verify=Judge(TABLE), sampling=SAMPLING)]

    return asyncio.run(run())


def test_a_bank_holds_every_thought_with_its_grade_its_verdict_and_the_prompt_once() -> None:
    found = filled(Metered(world))
    assert [traces[0].problem_id for traces, _ in found] == [problem.id for problem in PROBLEMS]
    assert {prompt for _, prompt in found} == {7}
    traces = [trace for group, _ in found for trace in group]
    assert len(traces) == 6 * 12
    for trace in traces:
        judged = trace.verdicts.get(JUDGE)
        assert (None if judged is None else judged.score) == TABLE.get(trace.text)
        assert trace.reward is not None
    with pytest.raises(ValueError, match="needs a seed"):
        asyncio.run(anext(fill(PROBLEMS, Scripted(world), n=1, grade=grade, verify=None, sampling=Sampling())))


@pytest.mark.parametrize("name", PARALLEL)
@pytest.mark.parametrize(("n", "tokens"), [(1, 100), (5, 1000), (12, 1000)])
def test_a_replay_in_the_order_drawn_is_the_search_itself(name: str, n: int, tokens: int) -> None:
    bank = banked((trace for traces, _ in filled(Scripted(world)) for trace in traces), {}, 12)
    for drawn, problem in zip(bank, PROBLEMS, strict=True):
        (told,) = replayed(drawn, range(12), PARALLEL[name], [(n, tokens)])
        sampling = Sampling(12, seed=derive(5, problem.id))
        judge = Judge(TABLE) if PARALLEL[name].judged else None
        search = PARALLEL[name].search(n)
        tree = asyncio.run(
            search(problem.messages, Scripted(world), budget=Budget(tokens=tokens), sampling=sampling, verify=judge)
        )
        right = tree.best is not None and grade_answer(problem.answer, tree.steps(tree.best)[-1].text).score == 1
        assert told.right == right
        assert told.tokens + told.judge == tree.budget.used
        assert told.samples == len(tree.leaves())


def drawn(*rows: tuple[str | None, float | None, bool | None], tokens: int = 10, judge: int = 2) -> Drawn:
    """Rows of (answer or unfinished, score, right)."""
    thoughts = tuple(
        None if answer is None else Thought(place, (), answer, score) for place, (answer, score, _) in enumerate(rows)
    )
    rights, size = tuple(right for *_, right in rows), len(rows)
    return Drawn("p", thoughts, rights, (tokens,) * size, (judge,) * size)


PLAIN, SCORED = Parallel(majority), Parallel(highest, judged=True)


def test_a_budget_cuts_the_thought_that_passes_it() -> None:
    one = drawn(("5", 0.9, False), ("4", 0.1, True), ("4", 0.2, True))
    cut, whole, exact = replayed(one, [0, 1, 2], PLAIN, [(3, 29), (3, 30), (3, 20)])
    assert (cut.right, cut.tokens, cut.samples) == (0, 29, 3)  # one vote each, and the first of the two wins
    assert (whole.right, whole.tokens, whole.samples) == (1, 30, 3)
    assert (exact.right, exact.tokens, exact.samples) == (0, 20, 2)
    (judged,) = replayed(one, [0, 1, 2], SCORED, [(3, 30)])
    assert (judged.right, judged.tokens, judged.judge) == (0, 26, 4)


def test_first_thoughts_are_drawn_in_any_case_and_an_early_stop_comes_after_them() -> None:
    same = drawn(*[("4", 0.5, True)] * 9)
    rule = Parallel(majority, stop=adaptive_consistency)
    (free,) = replayed(same, range(9), rule, [(9, 1000)])
    assert free.samples == 4
    assert [r.samples for r in replayed(same, range(9), rule, [(9, 1000), (1, 5)], least=6)] == [6, 6]
    assert replayed(same, range(9), rule, [(1, 5)], least=6)[0].tokens == 60


def test_nothing_finished_is_wrong_and_what_cannot_be_graded_is_neither() -> None:
    (none,) = replayed(drawn((None, None, False), (None, None, False)), [0, 1], PLAIN, [(2, 100)])
    assert (none.right, none.tokens) == (0, 20)
    (unknown,) = replayed(drawn(("4", 0.5, None)), [0], PLAIN, [(1, 100)])
    assert unknown.right != unknown.right


def test_prices_and_orders() -> None:
    cheap, dear = drawn(*[("4", 0.5, True)] * 9), drawn(("4", 0.5, True), tokens=100, judge=30)
    assert prices([cheap]) == (10, 12, 2)
    assert prices([cheap, dear]) == (10, 12, 30)  # nine in ten
    assert prices([dear]) == (100, 130, 30)
    with pytest.raises(ValueError, match="the bank is empty"):
        prices([])
    assert orders(4, 3)[0].tolist() == [0, 1, 2, 3]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders(4, 3).tolist())
    assert drawn(("4", None, True), ("4", None, None), ("5", None, False)).solved == 0.5


def test_faults_are_left_out_and_untold_tokens_are_booked_at_the_most() -> None:
    steps = [Step("\\boxed{4}"), Step("OSError", stop="error", sampled=False)]
    traces = [Trace("p", ASK, (step,), "m", verdicts={"grade": Verdict(1.0)}) for step in steps]
    (found,) = banked(traces, {"p": 3}, 12)
    assert (found.tokens_N, found.right_N, found.prompt) == ((12,), (True,), 3)
