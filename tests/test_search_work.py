"""What the searches share: who is served first, results in order, the choice of a thought, a tree put together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from forethought.engines.scripted import Scripted
from forethought.search.choose import Choose, Thought, highest, latest, majority, most_visited, weighted
from forethought.search.tree import Growth
from forethought.search.work import PLAIN, Work, in_order, together
from forethought.types import Budget, Node, Sampling, Step, user

ASK = user("What is 2+2?")


def work(tokens: int | None = None, **options: Any) -> Work:
    return Work(ASK, Scripted(["a"]), Budget(tokens=tokens), None, PLAIN, **options)


def test_a_small_call_does_not_overtake_a_large_one_that_waits() -> None:
    served: list[str] = []

    async def run() -> None:
        desk = work(10)
        ready = asyncio.Event()

        async def call(name: str, most: int, wait: bool = False) -> None:
            async with desk.hold(1, judge=False, most=most) as hold:
                served.append(f"{name} {hold.room if hold else None}")
                if wait:
                    await ready.wait()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(call("first", 8, wait=True))
            tasks.create_task(call("large", 5))
            tasks.create_task(call("small", 1))
            await asyncio.sleep(0.001)
            assert served == ["first 8"]
            ready.set()

    asyncio.run(run())
    assert served == ["first 8", "large 5", "small 1"]


def test_a_call_gets_less_than_it_asked_for_only_where_nobody_can_give_back() -> None:
    async def run() -> list[int | None]:
        desk = work(10)
        rooms: list[int | None] = []

        async def call(used: int) -> None:
            async with desk.hold(1, judge=False, most=6) as hold:
                rooms.append(hold.room if hold else None)
                await asyncio.sleep(0.001)
                if hold:
                    desk.account.settle(used, used)
                    hold.room -= used

        await together(call(used) for used in (3, 3, 4, 1))
        return rooms

    # 10, 7 and 4 are left before the second, third and fourth; the third takes all that is left
    assert asyncio.run(run()) == [6, 6, 4, None]


def test_a_result_that_waits_for_its_turn_does_not_keep_the_event_loop_busy() -> None:
    passes = 0

    async def run() -> list[int]:
        nonlocal passes
        loop, late = asyncio.get_running_loop(), asyncio.Event()
        ours = loop._run_once  # type: ignore[attr-defined]

        def counted() -> None:
            nonlocal passes
            passes += 1
            ours()

        loop._run_once = counted  # type: ignore[attr-defined]
        loop.call_later(0.2, late.set)

        async def first() -> int:
            await late.wait()
            return 0

        async def second() -> int:
            return 1

        return await together([first(), second()])

    assert asyncio.run(run()) == [0, 1]
    assert passes < 50


def test_results_come_in_order_and_few_are_under_way_at_once() -> None:
    taken: list[int] = []
    running = most = 0

    async def one(i: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(random.Random(i).randrange(9)):
            await asyncio.sleep(0)
        running -= 1
        return i

    def starts() -> Iterator[Coroutine[Any, Any, int]]:
        for i in range(20):
            assert len(taken) >= i - 2, "a start was asked for before the result it may depend on was taken"
            yield one(i)

    asyncio.run(in_order(starts(), 3, taken.append))
    assert taken == list(range(20))
    assert most == 3


def test_an_error_is_not_kept_waiting_for_its_turn() -> None:
    async def one(i: int) -> None:
        if i:
            raise KeyError("a bug")
        await asyncio.sleep(60)

    with pytest.raises(KeyError):
        asyncio.run(together(map(one, range(3))))


def thought(node: int, answer: str | None, score: float | None, visits: tuple[int, ...] = ()) -> Thought:
    return Thought(node, (), answer, score, visits)


SEVERAL = [
    thought(1, "5", 0.7, (2, 1)),
    thought(2, "4", 0.4, (6, 2)),
    thought(3, "4", 0.6, (6, 3)),
    thought(4, None, 0.9, (1,)),
    thought(5, "6", None, (3,)),
]


@pytest.mark.parametrize(
    ("choose", "node"), [(highest, 4), (majority, 2), (weighted, 3), (most_visited, 3), (latest, 5)]
)
def test_a_choice_is_its_own(choose: Choose, node: int) -> None:
    assert choose(SEVERAL).node == node


def test_choices_without_scores_or_answers_are_still_one_of_the_thoughts() -> None:
    unscored = [thought(1, None, None), thought(2, "5", None), thought(3, "4", None), thought(4, "4", None)]
    assert [choose(unscored).node for choose in (highest, majority, weighted)] == [3, 3, 3]
    assert [choose(unscored[:1]).node for choose in (highest, majority, weighted, most_visited)] == [1] * 4
    scored = [thought(1, None, 0.1), thought(2, None, 0.2)]  # no answer to add up
    assert weighted(scored).node == 2


def test_a_place_whose_sample_never_came_is_left_out_of_the_record() -> None:
    growth = Growth(ASK, "m@1")
    growth.add(0)
    first = growth.add(0, Step("a"))
    growth.add(first)
    last = growth.add(first, Step("b"))
    assert growth.slots(last) == [1, 1]
    tree = growth.freeze(Budget(), best=last)
    assert tree.nodes == (Node(-1, None, children=(1,)), Node(0, Step("a"), children=(2,)), Node(1, Step("b")))
    assert tree.best == 2
    with pytest.raises(ValueError, match="best is node 1"):
        growth.freeze(Budget(), best=1)


def test_a_tree_is_grafted_below_the_root_with_what_was_counted() -> None:
    branch = Growth(ASK, "m@1")
    branch.back_up(branch.add(branch.add(0, Step("b")), Step("c")), 0.5)
    growth = Growth(ASK, "m@1")
    growth.back_up(growth.add(0, Step("a")), 0.25)
    base = growth.graft(branch.freeze(Budget()))
    assert growth.steps(base + 2) == (Step("b"), Step("c"))
    assert growth.freeze(Budget()).nodes == (
        Node(-1, None, None, 2, 0.75, (1, 2)),
        Node(0, Step("a"), None, 1, 0.25),
        Node(0, Step("b"), None, 1, 0.5, (3,)),
        Node(2, Step("c"), None, 1, 0.5),
    )


def test_a_step_ends_a_thought_by_its_end_token_or_the_callers_own_stop_string() -> None:
    plain, stepped = work(), Work(ASK, Scripted(["a"]), Budget(), None, Sampling(stop=("}",)), mark="\n")
    end, line, own = Step("x", stop="end"), Step("x\n", stop="stop"), Step("{x}", stop="stop")
    assert [plain.ends(step) for step in (end, line, own)] == [True, True, True]
    assert [stepped.ends(step) for step in (end, line, own)] == [True, False, True]
    assert [stepped.leads(step) for step in (end, line, own, Step("", stop="stop"))] == [False, True, False, False]
    assert stepped.sampling.stop == ("}", "\n")
    dead = [Step("x", stop="length"), Step("x", stop="budget"), Step("x", stop="error", sampled=False)]
    assert not any(stepped.ends(step) or stepped.leads(step) for step in dead)
