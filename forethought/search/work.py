"""One search at work: its tree, its account, and the calls that grow the one and are booked in the other.

Every call is a task that reserves the most it can cost, calls, and settles what it did cost; cut off, it settles the
most that was at risk. So a search is its paper's loop over `Work.grow`, and no search books anything itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypedDict, TypeVar

from forethought.engines.usage import Bill, Usage, judging
from forethought.search.budget import Account, spent
from forethought.search.choose import Choose, Thought, highest
from forethought.search.seeds import derive
from forethought.search.tree import Growth, finished
from forethought.thought.tools import Tools
from forethought.types import Action, Budget, Engine, Messages, Sampling, Step, Stop, Tree, Verdict
from forethought.verify.verdict import Verify
from forethought.verify.vote import answer_of

PLAIN = Sampling()

Enough = Callable[[Sequence[Thought]], bool]
"""Asked after each finished thought, with all so far in the order they were asked for: should the search end?"""

T = TypeVar("T")


class Options(TypedDict, total=False):
    """What every search takes beside its own knobs."""

    verify_tokens: int
    """The most that one call of `verify` computes (0): reserved with the sample, so that what starts can be judged."""
    answer: Callable[[str], str | None]
    """What a thought votes for (`verify.vote.answer_of`)."""
    choose: Choose
    """Which finished thought is `Tree.best` (`choose.highest`)."""
    stop: Enough | None
    """When to end before the search's own end (`None`: never)."""
    tools: Tools | None
    """What thoughts may call (`None`: nothing). A call, what it gave and what is drawn behind it come as one child."""


@dataclass(slots=True)
class Hold:
    """Tokens reserved for some samples and, maybe, one verdict on where they led."""

    room: int
    """For the samples that are still to be drawn."""
    judge: int
    """For the verdict, until it has come."""
    risk: int | None = None
    """What the call in flight may be spending; `None` between calls."""
    drawn: int = 0
    """Samples asked for so far."""


class Work:
    """A search's tree and account. With a `mark`, thoughts grow in steps that end there (a stop string of each sample).

    A thought is finished where the model ended it: by its end token, or by a stop string of the caller's own.
    """

    def __init__(
        self,
        messages: Messages,
        engine: Engine,
        budget: Budget,
        verify: Verify | None,
        sampling: Sampling,
        *,
        mark: str = "",
        verify_tokens: int = 0,
        answer: Callable[[str], str | None] = answer_of,
        choose: Choose = highest,
        stop: Enough | None = None,
        tools: Tools | None = None,
    ) -> None:
        if verify_tokens < 0:
            raise ValueError(f"verify_tokens is {verify_tokens}; it is the most a call of verify computes, 0 or more")
        self.tree = Growth(messages, engine.name)
        self.account = Account(budget)
        self.verdicts: dict[int, Verdict] = {}
        self.notes: list[str] = []
        self.stopped = False
        """Has `stop` said that this is enough?"""
        self.sampling = replace(sampling, stop=(*sampling.stop, mark)) if mark else sampling
        self._messages, self._engine, self._verify = messages, engine, verify
        self._verify_tokens = verify_tokens if verify else 0
        self._mark, self._own = mark, sampling.stop
        self._answer, self._choose, self._stop, self._tools = answer, choose, stop, tools
        self._answers: dict[int, str | None] = {}
        self._heard = 0
        self._turn, self._settled = asyncio.Lock(), asyncio.Event()
        self._asked = self._refused = self._ended = 0
        self._faults: list[str] = []

    # What has grown

    def ends(self, step: Step | None) -> bool:
        """Is this the last step of a thought?"""
        if step is None or not step.sampled or step.action == "tool" or not finished(step):
            return False
        return step.stop == "end" or not self._mark or any(own in step.text for own in self._own)

    def leads(self, step: Step | None) -> bool:
        """Can a thought go on from here? Not from its end, a limit, a fault, or a step that added nothing."""
        return step is not None and step.stop == "stop" and bool(step.text) and not self.ends(step)

    def finished(self, node: int) -> bool:
        """Is this node a thought's end?"""
        return self.ends(self.tree.places[node].step)

    def open(self, node: int) -> bool:
        """Can a thought go on from this node?"""
        return self.leads(self.tree.places[node].step)

    def alive(self, node: int) -> bool:
        """Has a thought come here without running into a limit or a fault?"""
        return self.open(node) or self.finished(node)

    def thoughts(self, upto: int | None = None) -> list[Thought]:
        """The finished thoughts in the order they were asked for, `upto` a node (included)."""
        places = self.tree.places[: None if upto is None else upto + 1]
        return [self._thought(node) for node in range(1, len(places)) if self.finished(node)]

    def _thought(self, node: int) -> Thought:
        steps = self.tree.steps(node)
        if node not in self._answers:
            self._answers[node] = self._answer("".join(step.text for step in steps))
        visits = tuple(self.tree.places[index].visits for index in self.tree.path(node))
        return Thought(node, steps, self._answers[node], self.tree.places[node].value, visits)

    def ask(self, upto: int | None = None) -> bool:
        """Should the search end here? Asks `stop` after each thought that has finished since."""
        if self._stop is not None and not self.stopped and (thoughts := self.thoughts(upto)):
            since = range(min(self._heard + 1, len(thoughts)), len(thoughts) + 1)
            self.stopped = any(self._stop(thoughts[:count]) for count in since)
            self._heard = len(thoughts)
        return self.stopped

    # What is called and booked

    async def grow(self, parent: int, sampling: Sampling | None = None, *, judge: bool = True) -> int | None:
        """Draw a child of `parent` and have it judged where it leads on or ends; `None` where the budget is spent.

        Its place, and so its seed, are those of the moment of the call.
        """
        node = self.tree.add(parent)
        most = (sampling or self.sampling).max_tokens
        async with self.hold(1, judge=judge, most=most) as hold:
            if hold is None:
                return None
            await self.draw(hold, node, sampling)
            if judge and self.alive(node):
                await self.judge(hold, node, self.tree.steps(node))
        return node

    async def appraise(self, node: int) -> int | None:
        """Have `node`, drawn before, judged; `None` where the budget is spent."""
        async with self.hold(0, judge=True) as hold:
            if hold is None:
                return None
            await self.judge(hold, node, self.tree.steps(node))
        return node

    async def draw(self, hold: Hold, node: int, sampling: Sampling | None = None) -> tuple[Step, ...]:
        """The step that leads to `node`, a place without one, from `hold`, behind the calls that come with it."""
        wanted = sampling or self.sampling
        drawn = replace(wanted, seed=derive(self.sampling.seed, *self.tree.slots(node)))
        steps = await self.sample(hold, self.tree.steps(node), drawn)
        place = self.tree.places[node]
        *before, place.step = steps
        place.before = tuple(before)
        return steps

    async def sample(self, hold: Hold, prefix: tuple[Step, ...], sampling: Sampling) -> tuple[Step, ...]:
        """One sample from `hold`, the calls of tools that it makes and what they give before its last step.

        `sampling.max_tokens` is for all that is drawn; its stop is `budget` where the hold was too small for that. What
        tools give costs no tokens, as a prompt costs none. Where the engine refuses to go on behind it, for it does not
        fit in the context, the thought ends at the call, with `length`.
        """
        tools, left = self._tools, min(sampling.max_tokens, hold.room)
        cut: Stop = "budget" if left < sampling.max_tokens else "length"
        given: tuple[Step, ...] = ()
        if tools and prefix and prefix[-1].action == "tool":
            given = (await self._call(tools, prefix),)
        while True:
            steps = (*prefix, *given)
            stops = tools.stops(steps) if tools else ()
            seed = derive(sampling.seed, "call", len(given)) if given else sampling.seed
            room = hold.room
            try:
                step = await self._sample(
                    hold, steps, replace(sampling, max_tokens=left, stop=(*sampling.stop, *stops), seed=seed)
                )
            except ValueError as refused:
                if len(given) < 2:
                    raise
                self.notes.append(f"a thought was cut at a call: {refused}")
                hold.risk, given, step = None, given[:-2], replace(given[-2], stop="length")
                self._ended += 1
                break
            left -= room - hold.room
            if not left and (step.stop == "length" or step.action == "tool"):
                step = replace(step, stop=cut)
            if not tools or step.action != "tool" or step.stop != "stop":
                break
            given = (*given, step, await self._call(tools, (*steps, step)))
        hold.room -= left
        self._settle(left, 0, calls=0)
        return (*given, step)

    async def _sample(self, hold: Hold, prefix: tuple[Step, ...], sampling: Sampling) -> Step:
        """One call of the engine, for `sampling.max_tokens` of the hold at most."""
        self._asked += hold.drawn > 0
        hold.drawn += 1
        most = room = hold.risk = sampling.max_tokens
        step = await self._engine.sample(self._messages, prefix, sampling)
        if self._tools and (step := self._tools.marked(step, prefix)).action == "tool":
            # Of a server that tells no tokens: all that was reserved would leave nothing to go on with.
            most = min(room, len(step.text.encode()))
        cost = spent(step, most)
        self._settle(min(cost, room), cost)
        hold.room, hold.risk = hold.room - min(cost, room), None
        self._ended += 1
        if step.stop == "error":
            self._faults.append(step.text)
        return step

    async def _call(self, tools: Tools, steps: tuple[Step, ...]) -> Step:
        """What the tool gives that the last of `steps` calls, its time metered."""
        bill, began = Bill.open(), time.monotonic()
        given = await tools.answer(steps)
        bill.book(Usage(tool_calls=1, tool_seconds=time.monotonic() - began))
        return given

    async def judge(self, hold: Hold, node: int, steps: tuple[Step, ...]) -> None:
        """What `verify` says of `steps`, as the verdict on `node`."""
        if self._verify is None:
            return
        hold.risk = hold.judge
        with judging():
            verdict = await self._verify(self._messages, steps)
        self._settle(hold.judge, verdict.cost)
        hold.judge, hold.risk = 0, None
        self.verdicts[node], self.tree.places[node].value = verdict, verdict.score

    @asynccontextmanager
    async def hold(self, samples: int, *, judge: bool, most: int | None = None) -> AsyncIterator[Hold | None]:
        """Reserve for `samples` samples (of `most` tokens each) and a verdict; `None` where that cannot be.

        First come, first served: a call gets all it asks for as soon as those before it have settled enough, and less
        only when none of them can give anything back. So who gets how much does not depend on who was faster.
        """
        kept = self._verify_tokens if judge else 0
        wanted = samples * (most or self.sampling.max_tokens) + kept
        self._asked += samples > 0
        granted = await self._reserve(wanted) if wanted else 0
        if granted < kept + (samples > 0):
            self._settle(granted, 0, calls=0)
            self._refused += samples > 0
            yield None
            return
        hold = Hold(granted - kept, kept)
        try:
            yield hold
        finally:
            self._settle(hold.room + hold.judge, hold.risk or 0, calls=int(hold.risk is not None))

    async def _reserve(self, tokens: int) -> int:
        async with self._turn:
            while self.account.left is not None and self.account.left < tokens and self.account.snapshot().held:
                self._settled.clear()
                await self._settled.wait()
            return self.account.reserve(tokens)

    def _settle(self, reserved: int, used: int, calls: int = 1) -> None:
        self.account.settle(reserved, used, calls)
        self._settled.set()

    def take_up(self, tree: Tree) -> None:
        """Go on with what a search before this one has grown: a leaf that it left behind leads on again."""
        base = self.tree.graft(tree)
        for place in self.tree.places[base + 1 :]:
            if place.step and place.step.stop == "budget" and place.step.text.endswith(self._mark):
                place.step = replace(place.step, stop="stop")

    def write(self, parent: int, text: str, action: Action) -> int:
        """A child of `parent` that we wrote; it is left out of the tree again where nothing follows it."""
        return self.tree.add(parent, Step(text, stop="stop", action=action, sampled=False))

    # How it ends

    async def finish(self, growing: Awaitable[None], *, back_up: bool = True) -> Tree:
        """Run the search to its end, or until the seconds run out, and freeze its tree.

        `back_up`: count each finished thought's score on its path; False where the search has done so itself.
        """
        limit = asyncio.timeout(self.account.seconds_left)
        try:
            async with limit:
                await growing
        except TimeoutError:
            if not limit.expired():
                raise
        for thought in self.thoughts() if back_up else ():
            if thought.score is not None:
                self.tree.back_up(thought.node, thought.score)
        return self.freeze(self.thoughts())

    def freeze(self, thoughts: Sequence[Thought]) -> Tree:
        """The tree as it stands, its best one of `thoughts`, and in words what went wrong.

        A leaf at the step mark is no finished thought, and whoever reads it later cannot tell by its text: it was left
        behind for what else the budget bought, and its stop says so.
        """
        places = self.tree.places
        for place in reversed(places):
            step = place.step
            if step is None or step.stop != "stop" or any(places[child].step for child in place.children):
                continue
            if not step.sampled:
                place.step = None
            elif not self.ends(step):
                place.step = replace(step, stop="budget")
        best = self._choose(thoughts).node if thoughts else None
        budget, asked = self.account.snapshot(), self._asked
        notes = [f"{len(self._faults)} of {asked} samples failed: {self._faults[0]}"] if self._faults else []
        if cut := asked - self._ended - self._refused:
            notes.append(f"{cut} of {asked} samples cut off after {budget.seconds} seconds")
        if self._refused:
            notes.append(f"{self._refused} of {asked} samples not started: the budget was spent")
        notes += dict.fromkeys(self.notes)
        if best is None and any(place.step and place.step.stop != "error" for place in places):
            notes.append("no thought finished")
        return self.tree.freeze(budget, best, "; ".join(dict.fromkeys(notes)))


async def in_order(
    starts: Iterable[Coroutine[Any, Any, T] | None], at_once: int | None, taken: Callable[[T], None]
) -> None:
    """Run what `starts` gives, `at_once` of them at a time (`None`: all), and hand each result to `taken`.

    Results are taken in the order of the starts, and the next start is asked for only then: what depends on results
    does not depend on who was faster. A start of `None` waits for the next result; where there is none to wait for,
    this ends. The first error cancels the rest and propagates.
    """
    running: deque[asyncio.Task[T]] = deque()
    upcoming = iter(starts)
    try:
        while True:
            while (at_once is None or len(running) < at_once) and (start := next(upcoming, None)) is not None:
                running.append(asyncio.create_task(start))
            if not running:
                return
            while not running[0].done():
                # Those that are done were looked at; with them the wait would end at once, again and again.
                waiting = [task for task in running if not task.done()]
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if failed := [error for task in done if (error := task.exception())]:
                    raise failed[0]
            taken(running.popleft().result())
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def together(starts: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in order; the first error cancels the rest and propagates."""
    results: list[T] = []
    await in_order(starts, None, results.append)
    return results
