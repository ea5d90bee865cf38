"""Monte Carlo tree search over steps, with PUCT (AlphaZero, arXiv 1712.01815; for thoughts, MCTS-alpha,
arXiv 2309.17179)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from statistics import fmean
from typing import Any, Unpack

from forethought.search.budget import UNLIMITED
from forethought.search.work import PLAIN, Options, Work, in_order, together
from forethought.thought.marks import STEP
from forethought.types import Budget, Engine, Messages, Sampling, Step, Tree
from forethought.verify.verdict import Verify

Priors = Callable[[Messages, tuple[Step, ...], Sequence[Step]], Awaitable[Sequence[float]]]
"""(messages, the thought so far, the moves drawn from it) -> a weight of 0 or more for each move: an action head's,
or one of the two below. They are made to sum to 1."""

C_BASE = 19652
"""Visits at which exploration begins to weigh more (AlphaZero's)."""


async def uniform(messages: Messages, steps: tuple[Step, ...], moves: Sequence[Step]) -> Sequence[float]:
    """No preference: the moves were drawn by the policy, so they stand for its probabilities already."""
    return [1.0] * len(moves)


async def policy(messages: Messages, steps: tuple[Step, ...], moves: Sequence[Step]) -> Sequence[float]:
    """The policy's probability of each move, as the geometric mean over its tokens: long moves are not thereby
    unlikely. Without log-probabilities (a server that does not tell), as `uniform`."""
    if not all(move.logprobs for move in moves):
        return await uniform(messages, steps, moves)
    return [math.exp(fmean(move.logprobs)) for move in moves]


async def mcts(
    messages: Messages,
    engine: Engine,
    *,
    budget: Budget = UNLIMITED,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    simulations: int = 64,
    branch: int = 4,
    depth: int = 40,
    exploration: float = 1.25,
    unvisited: float | None = None,
    priors: Priors = policy,
    at_once: int = 4,
    tree: Tree | None = None,
    **options: Unpack[Options],
) -> Tree:
    """From the root down the move with the highest Q + p sqrt(N) / (1 + n) (log((N + C_BASE + 1) / C_BASE) + c), to a
    node that was not visited yet; it is judged while `branch` next steps are drawn from it, and its score is backed up.

    Q is the mean score below a move, n its visits, N its parent's, p its prior and c `exploration`. `unvisited` is the
    Q of a move without visits: 0 in the papers, the parent's own mean by default (`None`), so that a generous verifier
    does not keep the search in the first line it tried. A score of `None` counts as a visit that taught nothing new:
    that Q is backed up. Moves with the same words are one move with their priors together.

    `at_once` simulations are under way together, each seen by the others as visits worth 0 until its score is there
    (virtual loss), and are backed up in the order they began: the tree is the same however fast the engine was. One
    that comes to a node under way waits. The search ends after `simulations`, or where the budget can judge or grow
    no more.

    No simulation goes to a finished thought twice, nor below a move where all is visited. One that comes to a node
    all of whose moves are so closed widens it: `branch` more steps are drawn there, and the node's own mean is backed
    up. A node where they said nothing new is closed as well, until all are: then each may be widened once more. So
    the budget is spent, and what the policy can say is found in the end, as by drawing whole thoughts.

    `tree` is a tree of the same messages and policy to go on with: its visits and values stand. Say
    `choose=most_visited` for the choice by visits; the default is by score.
    """
    for name, value in (("simulations", simulations), ("branch", branch), ("depth", depth), ("at_once", at_once)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it is at least 1")
    if not exploration >= 0:
        raise ValueError(f"exploration is {exploration}; it is 0 or more")
    if verify is None:
        raise ValueError("the search needs values, and verify is None; give a verifier, or take best_of_n")
    work = Work(messages, engine, budget, verify, sampling, mark=STEP, **options)
    if tree is not None:
        if (tree.messages, tree.policy) != (messages, engine.name):
            raise ValueError(f"the tree to go on with is of {tree.policy} and {tree.messages}; it must be the same")
        work.take_up(tree)
    search = _Puct(work, branch, depth, exploration, unvisited, priors)

    async def simulate() -> None:
        for node, place in enumerate(work.tree.places):
            if place.children and (moves := await search.moves_of(node)):
                search.moves[node] = moves
        if not search.moves:
            search.taken(await search.launch(0))
        await in_order(search.simulations(simulations), at_once, search.taken)

    return await work.finish(simulate(), back_up=False)


Visit = tuple[int, dict[int, float], bool]
"""The leaf of a simulation, the moves found there with their priors, and whether the budget sufficed."""


class _Puct:
    """What the simulations of one search share. It changes only where a simulation starts and where it is taken."""

    def __init__(
        self, work: Work, branch: int, depth: int, exploration: float, unvisited: float | None, priors: Priors
    ) -> None:
        self.work, self.places = work, work.tree.places
        self.branch, self.depth, self.exploration, self.unvisited = branch, depth, exploration, unvisited
        self.priors = priors
        self.moves: dict[int, dict[int, float]] = {}
        """Of each node that was expanded: its moves and their priors."""
        self.barren: set[int] = set()
        """Nodes that were widened and said nothing new, since all were closed for the last time."""
        self.flying: set[int] = set()
        """Leaves of simulations under way."""
        self.pending: Counter[int] = Counter()
        """Of each node, how many simulations under way went through it."""
        self.spent = False

    def simulations(self, count: int) -> Iterator[Coroutine[Any, Any, Visit] | None]:
        while count and self.moves and not self.spent and not self.work.stopped:
            leaf = self.select()
            count -= leaf is not None
            yield None if leaf is None else self.launch(leaf)

    def select(self) -> int | None:
        """The leaf of the next simulation, or the node to be widened; `None` where it is under way."""
        node = 0
        while live := self.live(node):
            node = max(live, key=lambda child: (self.puct(child, live[child]), live[child], -child))
        return None if node in self.flying else node

    def live(self, node: int) -> dict[int, float]:
        """The moves of a node that are not closed, and their priors."""
        return {child: prior for child, prior in self.moves.get(node, {}).items() if not self.closed(child)}

    def closed(self, node: int) -> bool:
        """Is this a thought's end that was visited, a place from which nothing leads on, or one that is barren?"""
        return node in self.barren or (self.places[node].visits > 0 and node not in self.moves)

    def puct(self, child: int, prior: float) -> float:
        """The paper's Q + U of a move, simulations under way counted as visits worth 0."""
        place = self.places[child]
        above = self.places[place.parent].visits + self.pending[place.parent]
        visits = place.visits + self.pending[child]
        q = place.total / visits if visits else self.mean_above(child) if self.unvisited is None else self.unvisited
        rate = math.log((above + C_BASE + 1) / C_BASE) + self.exploration
        return q + rate * prior * math.sqrt(above) / (1 + visits)

    def mean_above(self, node: int) -> float:
        above = self.places[max(self.places[node].parent, 0)]
        return above.total / above.visits if above.visits else 0.0

    def launch(self, leaf: int) -> Coroutine[Any, Any, Visit]:
        """A simulation that has come to `leaf`, to be run."""
        self.flying.add(leaf)
        self.pending.update((0, *self.work.tree.path(leaf)))
        return self.visit(leaf)

    async def visit(self, leaf: int) -> Visit:
        """Judge `leaf` and draw its moves, both at once; of a node that has moves, draw more of them."""
        new = leaf not in self.moves
        starts = [self.work.appraise(leaf)] if leaf and new else []
        if leaf == 0 or (self.work.open(leaf) and len(self.work.tree.path(leaf)) < self.depth):
            starts += [self.work.grow(leaf, judge=False) for _ in range(self.branch)]
        grown = await together(starts)
        return leaf, await self.moves_of(leaf), None not in grown

    async def moves_of(self, node: int) -> dict[int, float]:
        """The moves drawn from `node`, those of the same words as one, and their priors."""
        drawn = [(child, step) for child in self.places[node].children if (step := self.places[child].move)]
        drawn = [(child, step) for child, step in drawn if self.work.alive(child)]
        if not drawn:
            return {}
        steps = self.work.tree.steps(node)
        given = await self.priors(self.work.tree.messages, steps, [step for _, step in drawn])
        if len(given) != len(drawn) or not all(p >= 0 and math.isfinite(p) for p in given) or not sum(given) > 0:
            raise ValueError(
                f"{len(drawn)} moves got the priors {given}; give each one of 0 or more, not all of them 0"
            )
        first: dict[tuple[str, str], int] = {}
        moves: dict[int, float] = {}
        for (child, step), prior in zip(drawn, given, strict=True):
            same = first.setdefault((step.text, step.stop), child)
            moves[same] = moves.get(same, 0.0) + prior / sum(given)
        return moves

    def taken(self, visit: Visit) -> None:
        """Back the leaf's score up, and let the next simulations see its moves."""
        leaf, moves, complete = visit
        self.flying.discard(leaf)
        self.pending.subtract((0, *self.work.tree.path(leaf)))
        self.spent |= not complete
        place, widened = self.places[leaf], leaf in self.moves
        if moves:
            self.moves[leaf] = moves
        if widened and not self.live(leaf):
            self.barren.add(leaf)
            if leaf == 0:
                self.barren.clear()
        if widened or leaf in self.work.verdicts:
            mean = place.total / place.visits if widened else self.mean_above(leaf)
            self.work.tree.back_up(leaf, mean if widened or place.value is None else place.value)
        self.work.ask(max(place.children, default=leaf))
