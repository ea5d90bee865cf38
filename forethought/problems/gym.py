"""The procedural tasks of reasoning-gym (arXiv 2505.24760), those whose scorers can be trusted with a model's answers.

    gym:chain_sum,level=3
    gym:maze,credit=share

Its scorers were written for answers that mean well: nine run the answer as code, some give a point to junk. So only the
tasks of `gym_tasks` are opened, problems are made and scored in a process that can be killed, and full credit alone
counts by default.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import math
import random
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from forethought.problems.code import OPTIONS as PROGRAMS
from forethought.problems.countdown import evaluate
from forethought.problems.generate import DEFAULT_COUNT, Option, split_of, whole
from forethought.problems.grading import final_answer, unjudged
from forethought.problems.gym_tasks import ALLOWED, AUDITED, OWN, REFUSED
from forethought.problems.sandbox import Credit
from forethought.problems.task import Split, Task, check_load
from forethought.problems.workers import Died, Late, Pool, Worker
from forethought.types import Problem, Trace, Verdict, user

OPTIONS: dict[str, Option] = {"level": whole(0, 100), "credit": PROGRAMS["credit"]}

MAKING_SECONDS = 60.0
"""Deadline of one problem."""
SCORING_SECONDS = 5.0
"""Deadline of a scorer; it takes a millisecond."""
LONGEST = 20_000
"""Characters of an answer that a scorer is shown."""
TRIES = 500
"""Draws for one item before its level counts as having no problem in the split."""

_pool = Pool("forethought.problems.gym_worker")


def task(spec: str, name: str, *, level: int = 0, credit: Credit = "all") -> Task:
    """Problems of the reasoning-gym task `name`, all its difficulties at `level` (0 is the easiest) or at their last.

    Item i is a function of (name, level, split, seed, i); a question's hash decides its split. `meta` has level and
    index, and numbers and target where it is a countdown. With `credit="share"` a scorer's partial credit counts, else
    only its 1. Raises ValueError for a task that is not allowed (with what was found) and where the audited version of
    reasoning-gym is not installed; `load` raises it for a level beyond the task's.
    """
    if name not in ALLOWED and name not in OWN:
        raise ValueError(f"gym:{name} is not to be had: {REFUSED.get(name) or _near(name)}")
    try:
        version = importlib.metadata.version("reasoning-gym")
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if version != AUDITED:
        raise ValueError(
            f"gym:{name} needs reasoning-gym {AUDITED}, whose scorers were audited, and there is {version}: "
            "pip install 'forethought[gym]'"
        )

    def item(split: Split, seed: int, place: int) -> Problem:
        rng = random.Random(f"gym:{name}/{level}/{split}/{seed}/{place}")
        for _ in range(TRIES):
            index = rng.getrandbits(31)
            made = _make({"name": name, "level": level, "index": index})
            if "fault" in made:
                raise ValueError(f"gym:{name} makes no problem at level {level}: {made['fault']}")
            if split_of(f"gym:{name}", made["question"]) == split:
                facts = {"target": 24} if name == "puzzle24" else {}
                meta = {"level": level, "index": index, **facts, **made["facts"]}
                return Problem(f"{spec}/{split}/{seed}/{place}", user(made["question"]), made["answer"], meta)
        raise ValueError(f"{spec} has no {split} problem in {TRIES} draws; choose a larger level")

    def load(split: Split, *, count: int | None = None, seed: int = 0) -> list[Problem]:
        check_load(split, count)
        return [item(split, seed, place) for place in range(DEFAULT_COUNT if count is None else count)]

    return Task(spec, load, partial(grade, name=name, credit=credit))


def grade(problem: Problem, trace: Trace, *, name: str, credit: Credit = "all") -> Verdict:
    """The score of the final answer (boxed, or in `<answer>`), in [0, 1].

    0 where the scorer raises, hangs, or says what is no share; `None` where its process dies twice, or makes another
    problem than this one.
    """
    if (verdict := unjudged(trace)) is not None:
        return verdict
    written, note = final_answer(trace.text)
    if written is None:
        return Verdict(score=0.0, note=note)
    answer = written.strip()
    score, note = _judge(name, problem, answer)
    if score is not None and not (math.isfinite(score) and 0 <= score <= 1):
        score, note = 0.0, f"the scorer says {score}, which is no share"
    if score is not None and credit == "all":
        score = float(score == 1)
    return Verdict(score=score, answer=answer, note=note)


def close() -> None:
    """End the idle workers; the next problem starts new ones."""
    _pool.close()


def _judge(name: str, problem: Problem, answer: str) -> tuple[float | None, str]:
    if len(answer) > LONGEST:
        return 0.0, f"refused: longer than {LONGEST} characters"
    if OWN.get(name) == "text":
        return float(_bare(answer) == _bare(problem.answer)), "text"
    if OWN.get(name) == "expression":
        try:
            value = evaluate(answer, problem.meta["numbers"])
        except ValueError as error:
            return 0.0, str(error)
        return float(value == problem.meta["target"]), f"makes {value}"
    where = {"name": name, "level": problem.meta["level"], "index": problem.meta["index"]}
    try:
        return _pool.use(partial(_score, {**where, "gold": problem.answer, "answer": answer}))
    except Died:
        return None, "reasoning-gym's process died twice"


def _score(request: Mapping[str, Any], worker: Worker) -> tuple[float | None, str]:
    worker.say(request)
    if worker.word(time.monotonic() + MAKING_SECONDS) != "read":
        return None, "reasoning-gym makes another problem now: load it anew"
    try:
        told = json.loads(worker.word(time.monotonic() + SCORING_SECONDS))
    except Late:
        worker.kill()
        return 0.0, "the scorer timed out"
    return (0.0, "the scorer raised") if told is None else (told, "reasoning-gym")


def _make(request: Mapping[str, Any]) -> dict[str, Any]:
    def ask(worker: Worker) -> dict[str, Any]:
        worker.say(request)
        try:
            made: dict[str, Any] = json.loads(worker.word(time.monotonic() + MAKING_SECONDS))
        except Late:
            worker.kill()
            return {"fault": f"it takes more than {MAKING_SECONDS:g} s"}
        return made

    try:
        return _pool.use(ask)
    except Died:
        return {"fault": "its process died twice"}


def _bare(text: str) -> str:
    return "".join(text.split()).replace('"', "'")


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, [*ALLOWED, *OWN], n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"there is no such task; {meant}tasks are {', '.join(sorted([*ALLOWED, *OWN]))}"
