"""STaR: bootstrap reasoning with reasoning (Zelikman et al. 2022, arXiv 2203.14465), algorithm 1.

    forethought train star --model tiny --problems addition
    forethought train star --model tiny --problems addition --rationalise

Each iteration thinks about fresh problems, keeps the thoughts whose answer is right and learns them. With
`--rationalise` a problem that failed is asked again with its answer shown, and what then succeeds is learned without
the hint. The paper's claim is that lengths of addition are learned one after the other without it, and together with
it. So they are here: in 8 iterations and about 11 minutes of one core, cold start included, three seeds end at 94, 61
and 81 % of 1 to 5 digits without it, at 99, 92 and 98 % with it (`docs/labs.md`).

The paper trains its base anew each time, for more and more steps; here an iteration goes on from the one before, for as
many each time, and `--restart` does as the paper.

A fresh `tiny` has read nothing, so worked examples stand in for the paper's pretraining and few-shot prompt: many of
the `known` easiest levels, `shown` of each other one again and again, and `hinted` of these with the answer in sight.
Some of the last two are learned beside its own thoughts in every iteration, as the released code can keep its prompt in
training: without them a length that it cannot solve yet is forgotten. `--cold-steps 0 --shown 0 --hinted 0` is for a
model that already thinks in our form.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from forethought.engines.local import TinyConfig
from forethought.problems import Task, open_task
from forethought.recipes.curriculum import Curriculum, rule
from forethought.recipes.run import Run, Settings, at_least, batches, begin, levels_of, prompts, step_of
from forethought.recipes.student import Student, hinted
from forethought.search.seeds import derive
from forethought.train import checkpoint
from forethought.train.data import star, supervised
from forethought.train.learner import Learner
from forethought.train.losses import nll
from forethought.types import Datum, Messages, Problem, Sampling, Trace

PROBES = 250
"""Problems of all levels, of which those of the known ones are asked after the cold start."""
SOLVED = 0.95
"""Share of these that must be right."""


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Imitate its own correct thoughts, round after round."""

    model: str = "tiny"
    problems: str = "addition"
    """A task, as `addition:digits=1-5`, or a file of problems."""
    max_tokens: int = 200
    eval_problems: int = 500
    eval_samples: int = 1
    eval_temperature: float = 0.0
    iterations: int = 8
    """Rounds of thinking and learning; 0 stops at the base."""
    fresh: int = 1500
    """Problems thought about in one iteration."""
    tries: int = 3
    """Thoughts about a problem, at most: what failed is tried again."""
    temperature: float = 0.5
    """Of these thoughts; 0, with one try, is close to the paper's."""
    rationalise: bool = False
    """Ask once more, with the answer shown, where every try failed."""
    restart: bool = False
    """Train the base anew in each iteration, as the paper does; else it goes on from the iteration before."""
    steps: int = 200
    """Optimizer steps of an iteration."""
    batch: int = 16
    """Thoughts in one step."""
    lr: float = 1e-3
    """Peak learning rate of an iteration."""
    warmup: int = 20
    """Steps over which the rate rises."""
    known: int = 2
    """Levels, from the easiest, that the cold start teaches in full."""
    easy: int = 7000
    """Worked examples of each of these levels, at most."""
    shown: int = 100
    """Worked examples of each other level, again and again."""
    hinted: int = 200
    """Worked examples of each other level with the answer in sight, so that rationalisation finds a form it knows. The
    known levels have none: a model that may copy the answer is slow to learn to add."""
    cold_lr: float = 2e-3
    """Peak learning rate of the cold start."""
    cold_steps: int = 2000
    """Optimizer steps of the cold start; 0 for a model that already thinks in our form. Where they leave the known
    levels unsolved, up to as many again follow."""
    curriculum: str = ""
    """Which parts of a mixture to think about more often: bounds of success like 0.1-0.9, or learnability."""
    layers: int = 4
    """Of a fresh `tiny`."""
    width: int = 128
    """Of a fresh `tiny`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "fresh", "tries", "steps", "batch")
        at_least(self, 0, "iterations", "shown", "hinted", "cold_steps")
        if self.curriculum:
            rule(self.curriculum)  # refuses what is none
        if self.tries > 1 and self.temperature == 0:
            raise ValueError(f"tries is {self.tries} at temperature 0: they would all be equal; raise temperature")


def main(config: Config, resume: Path | None = None) -> Path:
    """Run the recipe and return its folder; raises KeyboardInterrupt once the place is saved after Ctrl-C."""
    task = open_task(config.problems, question=config.question, answer=config.answer)
    curriculum = Curriculum(config.curriculum, task, config.seed + 1) if config.curriculum else None
    place = checkpoint.latest(resume) if resume else None
    base_folder = (resume or Path()) / "base"
    begun = resume is not None and (base_folder / "config.json").exists()
    shape = TinyConfig(config.layers, config.width, seed=config.seed)
    student = Student.load(
        str(base_folder) if begun else config.model, tiny=shape, dtype=config.dtype, called=config.model
    )

    with begin("star", config, resume, place) as run:
        steps = config.iterations * config.steps + (0 if begun else config.cold_steps)
        thoughts = config.iterations * config.fresh * (config.tries + config.rationalise)
        print(f"at most {thoughts:,} thoughts of {config.max_tokens} tokens, {steps:,} steps -> {run.folder}")
        cold, reminders = lessons(student, task, config)
        if not begun:
            if config.cold_steps:
                cold_start(student, task, config, cold)
            student.save(run.folder / "base")
        student.refresh(0)
        student.examine("base", run, task, config)
        student.prepare(config)
        base = student.weights()
        if place is not None:
            saved = checkpoint.load(place, student.learner(lr=config.lr))
            if curriculum:
                curriculum.restore(saved.state["curriculum"])
            student.refresh(step_of(place))
        for iteration in range(step_of(place), config.iterations):
            data, stats = think(student, run, task, config, iteration, curriculum)
            if config.restart:
                student.restore(base)
            data += random.Random(iteration).sample(reminders, min(len(reminders), config.fresh // 5))
            order = derive(config.seed, "order", iteration) or 0
            label = f"iteration {iteration + 1}: learn"
            learner, metrics = teach(student, config, data, config.lr, config.steps, order, label)
            run.metrics.log(iteration + 1, {**stats, **metrics})
            student.refresh(iteration + 1)
            student.examine(f"iteration {iteration + 1}", run, task, config)
            run.writer.flush()
            state = {"curriculum": curriculum.state()} if curriculum else {}
            checkpoint.save(run.folder, iteration + 1, learner, state=state, tokenizer=student.tokenizer)
            run.raise_if_asked()
    return run.folder


def think(
    student: Student, run: Run, task: Task, config: Config, iteration: int, curriculum: Curriculum | None
) -> tuple[list[Datum], dict[str, float]]:
    """The correct thoughts of one iteration on problems no iteration before has seen, and what became of the rest."""
    name = f"iteration {iteration + 1}"
    fresh = config.fresh
    problems = curriculum.prompts(fresh) if curriculum else prompts(task, fresh, iteration, config.seed + 1)
    groups: list[list[Trace]] = []
    failed = problems
    for number in range(config.tries):
        sampling = Sampling(config.max_tokens, config.temperature, seed=derive(config.seed, "think", iteration, number))
        tried = student.sample(failed, task, 1, sampling, f"{name}: try {number + 1}")
        groups += tried
        if curriculum and number == 0:  # what is tried again has failed already
            curriculum.observe(failed, tried)
        failed = [p for p, group in zip(failed, tried, strict=True) if all(t.reward == 0 for t in group)]
    rationales: list[list[Trace]] = []
    if config.rationalise:
        sampling = replace(sampling, seed=derive(config.seed, "rationalise", iteration))
        rationales = student.sample([hinted(p) for p in failed], task, 1, sampling, f"{name}: rationalise")
    run.keep([*groups, *rationales])
    # What was sampled with the hint in sight is learned without it.
    plain: dict[str, Messages] = {problem.id: problem.messages for problem in problems}
    data, stats = star([*groups, *rationales], student.tokenizer, prompts=plain)
    if not data:
        raise ValueError(
            f"none of {len(groups)} thoughts of iteration {iteration + 1} was right, so there is nothing to learn "
            "from; take easier problems or more worked examples (--easy, --shown, --cold-steps)"
        )
    stats["rationales"] = sum(trace.reward == 1 for group in rationales for trace in group)
    stats |= curriculum.metrics() if curriculum else {}
    stats |= _sound(task, problems, groups, "thoughts") | _sound(task, problems, rationales, "rationales")
    return data, stats


def lessons(student: Student, task: Task, config: Config) -> tuple[list[Datum], list[Datum]]:
    """Worked examples: all that the cold start learns, and those of the levels beyond the known, each once."""
    if not config.cold_steps and (task.worked is None or not config.shown + config.hinted):
        return [], []
    worked = task.worked
    if worked is None:
        raise ValueError(f"{task.name} has no worked examples; give --cold-steps 0 and a model that knows the form")
    # Of a generator that draws levels evenly this is enough for each of six.
    most = max(config.shown, config.hinted) + (config.easy if config.cold_steps else 0)
    pool = task.load("train", count=6 * most, seed=config.seed)
    cold: list[Problem] = []
    shown: list[Problem] = []
    with_hint: list[Problem] = []
    for place, level in enumerate(levels_of(pool).values()):
        distinct = list({problem.messages[-1]["content"]: problem for problem in level}.values())
        some = distinct[: config.easy if place < config.known else config.shown]
        # A level with few examples is repeated: a sixteenth of the most is what it takes to be learned at all.
        cold += some * max(1, config.easy // 16 // max(1, len(some)))
        if place >= config.known:
            shown += some
            with_hint += map(hinted, distinct[: config.hinted])

    def data(problems: Sequence[Problem]) -> list[Datum]:
        return supervised([(problem.messages, worked(problem)) for problem in problems], student.tokenizer)

    return data([*cold, *with_hint] if config.cold_steps else []), data([*shown, *with_hint])


def cold_start(student: Student, task: Task, config: Config, examples: Sequence[Datum]) -> None:
    """Imitate worked examples until the known levels are solved: adding is learned late and at once, at a step that
    differs by hundreds from seed to seed."""
    teach(student, config, examples, config.cold_lr, config.cold_steps, config.seed, "cold start")
    levels = list(levels_of(task.load("train", count=PROBES, seed=config.seed + 2)).values())
    probes = [problem for level in levels[: config.known] for problem in level]
    for more in range(1, 5):
        student.refresh(0)
        groups = student.sample(probes, task, 1, Sampling(config.max_tokens, 0.0, seed=config.seed), "check")
        right = sum(trace.reward == 1 for group in groups for trace in group)
        if right >= SOLVED * len(probes):
            return
        print(f"the cold start left {right} of {len(probes)} problems of the known levels right; it goes on")
        steps = max(1, config.cold_steps // 4)
        teach(student, config, examples, config.cold_lr / 2, steps, config.seed + more, f"cold start, {more} of 4 more")


def teach(
    student: Student, config: Config, data: Sequence[Datum], lr: float, steps: int, order: int, label: str
) -> tuple[Learner, dict[str, float]]:
    """Imitate `data` for some steps with a fresh optimizer; the learner and the metrics of the last step."""
    learner = student.schooled(lr, config.warmup, steps)
    for batch in tqdm(batches(data, config.batch, steps, order), desc=label, unit="step", leave=False):
        metrics = learner.step(batch, nll)
        student.training_tokens += int(metrics["computed"])
    return learner, metrics


def _sound(task: Task, problems: Sequence[Problem], groups: Sequence[Sequence[Trace]], name: str) -> dict[str, Any]:
    """Share of right thoughts whose every step is right too, where the task can tell (a right answer may rest
    on wrong reasoning, and a hint invites that)."""
    if task.labels is None:
        return {}
    known = {problem.id: problem for problem in problems}
    right = [trace for group in groups for trace in group if trace.reward == 1]
    sound = sum(all(label != 0 for label in task.labels(known[t.problem_id], t)) for t in right)
    return {f"sound_{name}": sound / len(right)} if right else {}
