"""Compute-optimal allocation: a problem's difficulty is estimated from its first thoughts, and the search goes on as
was best for such problems (arXiv 2408.03314, section 3). `scaling.allocation` finds out what was best."""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Unpack, get_args

from forethought.search.best_of_n import best_of_n
from forethought.search.budget import UNLIMITED, Account
from forethought.search.choose import Thought
from forethought.search.size import GUIDED, PARALLEL, Parallel, named, sized
from forethought.search.tree import Growth
from forethought.search.work import PLAIN, Options, Work, in_order, together
from forethought.types import Budget, Engine, Messages, Sampling, Tree
from forethought.verify.verdict import Verify

FORMAT = 1
Measure = Literal["agreement", "score"]
"""How easy a problem looks: the share of its first thoughts that agree, or their mean score by the verifier."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do with a problem, its first thoughts included where the search can use them."""

    search: str
    """One of `size.NAMES`."""
    tokens: int
    """What it is given at most; where it cannot use the first thoughts, beside what they cost."""


@dataclass(frozen=True)
class Allocation:
    """Which search to go on with, by how easy a problem looks and by the budget."""

    measure: Measure
    probe: int
    """First thoughts, from which the estimate is made."""
    edges: tuple[float, ...]
    """Rising; E edges part the estimates into E + 1 bins, the hardest first. An estimate on an edge is above it."""
    budgets: tuple[int, ...]
    """Rising, tokens a problem."""
    choices: tuple[tuple[Choice, ...], ...]
    """For each budget, one for each bin."""
    price: int
    """Tokens of a thought, by which searches are sized."""
    judged_price: int
    """The same with its verdict."""
    verify_tokens: int = 0
    """The most that one verdict costs."""
    average: bool = False
    """Is a budget what such problems take on average, rather than the most that one may take?"""
    model: str = ""
    verify: str = ""
    """The verifier it was measured with; `""` for none."""

    def __post_init__(self) -> None:
        wrong = ""
        if self.measure not in get_args(Measure):
            wrong = f"measure is {self.measure!r}; it is agreement or score"
        elif self.probe < 1 or self.price < 1 or self.judged_price < 1 or self.verify_tokens < 0:
            wrong = "probe, price and judged_price are at least 1, verify_tokens at least 0"
        elif not self.budgets or list(self.budgets) != sorted(set(self.budgets)) or self.budgets[0] < 1:
            wrong = f"budgets are {self.budgets}; they rise, from at least 1"
        elif list(self.edges) != sorted(self.edges):
            wrong = f"edges are {self.edges}; they rise"
        elif [len(row) for row in self.choices] != [len(self.edges) + 1] * len(self.budgets):
            wrong = f"there must be {len(self.edges) + 1} choices for each of {len(self.budgets)} budgets"
        if wrong:
            raise ValueError(wrong)
        for row in self.choices:
            for choice in row:
                if named(choice.search) != choice.search or choice.tokens < 1:
                    raise ValueError(f"{choice} is no choice: its tokens are at least 1")

    def choice(self, ease: float, tokens: int) -> Choice:
        """What to do with a problem that looks so easy, under a budget of `tokens`: as at the largest budget that was
        measured and is no larger, at the smallest where all are."""
        row = self.choices[max(0, bisect_right(self.budgets, tokens) - 1)]
        return row[bisect_right(self.edges, ease)]

    @property
    def needs_judge(self) -> bool:
        """Does it go anywhere by a verifier's scores?"""
        names = {choice.search for row in self.choices for choice in row}
        judged = {name for name, rule in PARALLEL.items() if rule.judged} | set(GUIDED)
        return self.measure == "score" or bool(names & judged)


def save(path: str | Path, allocation: Allocation) -> Path:
    """Write the file, all of it or nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps({"format": FORMAT, **asdict(allocation)}, indent=1) + "\n", encoding="utf-8")
    os.replace(new, path)
    return path


def load(path: str | Path) -> Allocation:
    """The allocation that `save` wrote; a `ValueError` where the file is not one."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        if (version := record.pop("format", None)) != FORMAT:
            raise ValueError(f"it is of format {version!r}, and this forethought reads {FORMAT}")
        record["choices"] = tuple(tuple(Choice(**choice) for choice in row) for row in record["choices"])
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in record.items()}
        return Allocation(**fields)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); `forethought allocate` writes one") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not an allocation: {error}") from error


def ease(thoughts: Sequence[Thought], drawn: int, measure: Measure) -> float:
    """How easy a problem looks by the finished ones of its `drawn` first thoughts.

    `agreement`: the share of all drawn that gave the leading answer. `score`: the mean of the verifier's scores, one of
    `None` left out; 0 where there is none.
    """
    if measure == "agreement":
        votes = Counter(thought.answer for thought in thoughts if thought.answer is not None)
        return max(votes.values(), default=0) / drawn
    scores = [thought.score for thought in thoughts if thought.score is not None]
    return fmean(scores) if scores else 0.0


async def auto(
    messages: Messages,
    engine: Engine,
    *,
    allocation: Allocation,
    spend: int | None = None,
    budget: Budget = UNLIMITED,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    **options: Unpack[Options],
) -> Tree:
    """`allocation.probe` thoughts, and then what the allocation says of problems that look so, all under one budget.

    `spend` is which of the allocation's budgets to go by, the limit of tokens where it is not given. Where those are
    averages some problems take more: let the limit be as large as the largest choice, or none.

    A parallel strategy goes on with these thoughts as its first, judged now where it needs that and they were not. Any
    other search starts beside them in the same tree, with what is left; its best thought is the tree's, or theirs where
    it has none. What is chosen by, and when to end, is the strategy's: `choose` and `stop` cannot be given.

    Raises:
        ValueError: neither `spend` nor a limit of tokens is given, or the allocation needs a verifier and there is
            none.
    """
    by = spend or budget.tokens
    if by is None:
        raise ValueError("an allocation is by budget: give spend=..., or a limit of tokens, Budget(tokens=...)")
    if verify is None and allocation.needs_judge:
        raise ValueError(f"this allocation goes by a verifier ({allocation.verify or 'any'}), and verify is None")
    if given := {"choose", "stop"} & options.keys():
        raise ValueError(f"{sorted(given)[0]} is the strategy's; an allocation takes none")
    options.setdefault("verify_tokens", allocation.verify_tokens)
    clock = Account(budget)
    judge = verify if allocation.measure == "score" else None
    first = await best_of_n(
        messages, engine, budget=budget, verify=judge, sampling=sampling, n=allocation.probe, **options
    )
    seen = Work(messages, engine, first.budget, None, sampling, **options)
    seen.tree.graft(first)
    looks = ease(seen.thoughts(), allocation.probe, allocation.measure)
    choice = allocation.choice(looks, by)
    seconds = clock.seconds_left
    used, most = first.budget.used, math.inf if budget.tokens is None else budget.tokens
    if seconds == 0 or used >= most:
        return first
    rule = PARALLEL.get(choice.search)
    if rule is None:
        limit = used + choice.tokens
    else:  # the first thoughts are to be judged even where they have used up what the strategy is given
        limit = max(choice.tokens, used + allocation.probe * max(1, options["verify_tokens"]))
    rest = replace(first.budget, tokens=int(min(most, limit)), seconds=seconds)
    if rule is not None:
        n = choice.tokens // (allocation.judged_price if rule.judged else allocation.price)
        tree = await _more(first, engine, rest, verify, sampling, rule, n, options)
        return replace(tree, budget=_limits(tree.budget, budget))
    price = allocation.price if verify is None else allocation.judged_price
    search = sized(choice.search, choice.tokens, price)
    tree = await search(messages, engine, budget=rest, verify=verify, sampling=sampling, **options)
    both = Growth(messages, engine.name)
    both.graft(first)
    base = both.graft(tree)
    best = first.best if tree.best is None else base + tree.best
    notes = dict.fromkeys(note for note in (first.note, tree.note) if note)
    return both.freeze(_limits(tree.budget, budget), best, "; ".join(notes))


def _limits(spent: Budget, asked: Budget) -> Budget:
    """What was spent, under the limits that were asked for."""
    return replace(spent, tokens=asked.tokens, seconds=asked.seconds)


async def _more(
    first: Tree,
    engine: Engine,
    budget: Budget,
    verify: Verify | None,
    sampling: Sampling,
    rule: Parallel,
    n: int,
    options: Options,
) -> Tree:
    """`best_of_n` by `rule`, of n chains of which `first` has the first ones."""
    judge = verify if rule.judged else None
    own: Options = {**options, "choose": rule.choose, "stop": rule.stop}
    work = Work(first.messages, engine, budget, judge, sampling, **own)
    # `finish` counts every thought's score on its path, those of `first` among them.
    work.tree.graft(replace(first, nodes=tuple(replace(node, visits=0, total=0.0) for node in first.nodes)))

    async def growing() -> None:
        drawn = range(1, len(first.nodes))
        if judge is not None:
            unjudged = [node for node in drawn if work.finished(node) and work.tree.places[node].value is None]
            await together(work.appraise(node) for node in unjudged)
        work.ask()
        chains = (work.grow(0) for _ in range(n - len(first.nodes[0].children)) if not work.stopped)
        await in_order(chains, None if rule.stop is None else 1, taken)

    def taken(node: int | None) -> None:
        if node is not None:
            work.ask(node)

    return await work.finish(growing())
