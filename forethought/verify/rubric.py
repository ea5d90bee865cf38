"""Criteria and rules with weights, judged by a language model (Rubrics as Rewards, arXiv 2507.17746, section 3)."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought.problems import files
from forethought.types import Engine, Messages, Sampling, Step, Verdict, user
from forethought.verify.generative import Read, ask, presented
from forethought.verify.verdict import Verify, drawn, judged
from forethought.verify.vote import answer_of

WEIGHTS = {"essential": 1.0, "important": 0.7, "optional": 0.3, "pitfall": 0.9}
"""The paper's words for how much a criterion counts."""
MOST = 10
"""The best rating of an implicit rubric; 1 is the worst."""

GREEDY = Sampling(temperature=0)

_RATING = re.compile(r"\brating\b[\s:=*]{0,6}(-?\d+(?:\.\d+)?)", re.IGNORECASE)
_BARE = re.compile(r"\s*(\d+(?:\.\d+)?)(?:\s*/\s*10)?\s*\.?\s*")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that a good thought does."""

    text: str
    """A sentence that is true of a good thought. A pitfall says what it avoids: "Does not round before the end."."""
    weight: float = 1.0
    name: str = ""
    """What its part of the verdict is called; the text where it is empty."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("a criterion is empty; say in a sentence what a good thought does")
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ValueError(
                f"the weight of {self.text!r:.80} is {self.weight}; it must be above 0 and finite (word a pitfall as "
                "what a good thought does not do)"
            )

    @property
    def label(self) -> str:
        """Its name, or its text."""
        return self.name or self.text


def rule(text: str, unless: Sequence[str] = (), *, weight: float = 1.0, name: str = "") -> Criterion:
    """A rule as a criterion: where one of its exceptions is the case it counts as kept."""
    worded = f"Keeps this rule: {text.strip()}"
    if unless:
        listed = "\n".join(f"({number}) {one.strip()}" for number, one in enumerate(unless, 1))
        worded += f"\nThe rule does not hold, and counts as kept, where one of these is the case:\n{listed}"
    return Criterion(worded, weight, name)


def load(path: Path | str) -> tuple[Criterion, ...]:
    """The criteria of a `.jsonl` file (an object a line) or a `.yaml` one (a list, or one under `criteria`).

    An object has `criterion`, and may have `weight` (a number above 0, or one of `WEIGHTS`' words) and `name`. Or it
    has a `rule`, and may have its exceptions, a list of texts, under `unless`; without a name it is called by its place
    in the file, `rule 3`.

    Raises:
        ValueError: the file is missing, empty or of another kind, a row is broken (by its place), or names repeat.
    """
    rows = files.listed(Path(path), "criteria")
    criteria = tuple(_criterion(where, _worded(where, row, place)) for place, (where, row) in enumerate(rows, 1))
    _check(criteria, str(path))
    return criteria


def explicit(
    engine: Engine,
    criteria: Sequence[Criterion],
    *,
    read: Read = "logprobs",
    answer: Callable[[str], str | None] = answer_of,
) -> Verify:
    """Each criterion is a Yes or No of its own: `score` is Σ weight · p(Yes) / Σ weight, `parts` has each p(Yes).

    `read="words"` makes them 0 or 1, as in the paper. A criterion whose answer cannot be read is left out of both sums
    and named in the note; where none can, the score is `None`.
    """
    criteria = tuple(criteria)
    _check(criteria, "the rubric")

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        told = await asyncio.gather(
            *(ask(engine, _question(messages, steps, criterion), read=read) for criterion in criteria)
        )
        met = [(one, verdict.score) for one, verdict in zip(criteria, told, strict=True) if verdict.score is not None]
        unread = [one.label for one, verdict in zip(criteria, told, strict=True) if verdict.score is None]
        cost = sum(verdict.cost for verdict in told)
        note = f"not judged: {', '.join(unread)}" if unread else ""
        if not met:
            return Verdict(None, note=note, cost=cost)
        score = sum(one.weight * share for one, share in met) / sum(one.weight for one, _ in met)
        return Verdict(score, note=note, parts={one.label: share for one, share in met}, cost=cost)

    return judged(judge, answer=answer)


def implicit(
    engine: Engine,
    criteria: Sequence[Criterion],
    *,
    sampling: Sampling = GREEDY,
    answer: Callable[[str], str | None] = answer_of,
) -> Verify:
    """The judge sees all criteria with their weights and gives one rating of 1 to 10; `score` is (rating - 1) / 9.

    `parts["rating"]` is the rating, `note` what the judge wrote.
    """
    criteria = tuple(criteria)
    _check(criteria, "the rubric")
    listed = "\n".join(f"- ({one.weight:g}) {one.text.strip()}" for one in criteria)

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        prompt = user(
            f"{presented(messages, steps)}\n\nHow well does the solution meet these criteria, each with its weight?\n"
            f'{listed}\n\nEnd with the line "Rating: N", N from 1 (meets none) to {MOST} (meets all).'
        )
        reply = await engine.sample(prompt, (), sampling)
        given = None if reply.stop == "error" else rating(reply.text)
        note, cost = reply.text.strip(), drawn([reply])
        if given is None:
            return Verdict(None, note=f"no rating from 1 to {MOST} in {note[:200]!r}", cost=cost)
        return Verdict((given - 1) / (MOST - 1), note=note, parts={"rating": given}, cost=cost)

    return judged(judge, answer=answer)


def rating(text: str) -> float | None:
    """The rating that a judge's reply gives: the number after "Rating", or the number that it is.

    `None` where there is none, where several differ, and where it is not from 1 to 10.
    """
    bare = _BARE.fullmatch(text)
    found = {float(number) for number in ([bare[1]] if bare else _RATING.findall(text))}
    return found.pop() if len(found) == 1 and all(1 <= number <= MOST for number in found) else None


def _question(messages: Messages, steps: Sequence[Step], criterion: Criterion) -> Messages:
    return user(
        f"{presented(messages, steps)}\n\nCriterion: {criterion.text.strip()}\n"
        "Does the solution meet the criterion (Yes/No)?"
    )


def _check(criteria: Sequence[Criterion], what: str) -> None:
    if not criteria:
        raise ValueError(f"{what} has no criterion; it needs at least one")
    labels = [one.label for one in criteria]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"{what} has {twice[0]!r:.80} twice; give each criterion a name of its own")


def _worded(where: str, row: Any, place: int) -> Any:
    """A rule with its exceptions as a criterion; anything else as it is."""
    if not isinstance(row, dict) or "rule" not in row:
        return row
    words, unless = row["rule"], row.get("unless", [])
    if "criterion" in row or not isinstance(words, str) or not words.strip():
        raise ValueError(f"{where}: {row!r:.80} is no `rule` in words; a row has a rule or a criterion, not both")
    if not isinstance(unless, list) or not all(isinstance(one, str) and one.strip() for one in unless):
        raise ValueError(f"{where}: `unless` is {unless!r:.80}; it must be a list of exceptions in words")
    others = {key: value for key, value in row.items() if key not in ("rule", "unless")}
    return {"criterion": rule(words, unless).text, "name": f"rule {place}", **others}


def _criterion(where: str, row: Any) -> Criterion:
    if not isinstance(row, dict) or not isinstance(row.get("criterion"), str):
        raise ValueError(f"{where}: {row!r:.80} is no object with a `criterion` in words, or a `rule`")
    if unknown := set(row) - {"criterion", "weight", "name"}:
        raise ValueError(f"{where}: it knows no {', '.join(sorted(map(str, unknown)))}; only criterion, weight, name")
    weight, name = row.get("weight", 1.0), row.get("name", "")
    if isinstance(weight, str):
        weight = WEIGHTS.get(weight.lower(), weight)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ValueError(f"{where}: the weight is {weight!r}; it must be a number above 0, or {', '.join(WEIGHTS)}")
    if not isinstance(name, str):
        raise ValueError(f"{where}: the name is {name!r}; it must be a text")
    try:
        return Criterion(row["criterion"], float(weight), name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
