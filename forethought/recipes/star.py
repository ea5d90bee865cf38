"""STaR: bootstrap reasoning with reasoning (Zelikman et al. 2022, arXiv 2203.14465), algorithm 1.

    forethought train star --model tiny --problems addition
    forethought train star --model tiny --problems addition --rationalise

Each iteration thinks about fresh problems, keeps the thoughts whose answer is right and trains the base on them:
always the base, not the model of the iteration before. With `--rationalise` a problem that failed is asked again with
its answer shown, and what then succeeds is learned without the hint. The paper's claim is that lengths of addition are
learned one after the other without it, and together with it; `docs/LOG.md` has how far `tiny` follows (3 digits from 19
to 43 % in 5 iterations), `docs/labs.md` the lab that puts the claim to the test.

A fresh `tiny` has read nothing, so worked examples stand in for the paper's pretraining and few-shot prompt: many of
the `known` easiest levels, `shown` of each other one, again and again. `--cold-steps 0` skips them for a model that
already thinks in our form.
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
from forethought.recipes.run import Run, Settings, at_least, batches, begin, levels_of, prompts, step_of
from forethought.recipes.student import Student, hinted
from forethought.search.seeds import derive
from forethought.train import checkpoint
from forethought.train.data import star, supervised
from forethought.train.losses import nll
from forethought.types import Datum, Messages, Problem, Sampling, Trace


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Imitate its own correct thoughts, restarting from the base each round."""

    model: str = "tiny"
    problems: str = "addition"
    """A task, as `addition:digits=1-5`, or a file of problems."""
    max_tokens: int = 200
    eval_problems: int = 500
    eval_samples: int = 1
    eval_temperature: float = 0.0
    iterations: int = 12
    """Rounds of thinking and learning; 0 stops at the base."""
    fresh: int = 800
    """Problems thought about in one iteration."""
    samples: int = 4
    """Thoughts for each of them."""
    temperature: float = 1.0
    """Of these thoughts; 0, with one sample, is close to the paper's."""
    rationalise: bool = False
    """Ask again, with the answer shown, where every thought failed."""
    per_problem: int = 4
    """Most thoughts of one problem to learn from."""
    restart: bool = True
    """Train the base each time; `--no-restart` goes on from the iteration before."""
    first_steps: int = 150
    """Optimizer steps of the first iteration."""
    grow: float = 1.1
    """Each iteration takes this many times the steps of the one before."""
    batch: int = 16
    """Thoughts in one step."""
    lr: float = 5e-4
    """Peak learning rate of an iteration: a base that knows something loses it to a rate as high as its own was."""
    warmup: int = 20
    """Steps over which the rate rises."""
    known: int = 2
    """Levels, from the easiest, that the cold start teaches in full."""
    easy: int = 7000
    """Worked examples of each of these levels, at most."""
    shown: int = 100
    """Worked examples of each other level."""
    hints: float = 0.1
    """Share of worked examples that are shown with the hint too, so that rationalisation finds a form it knows."""
    cold_lr: float = 2e-3
    """Peak learning rate of the cold start."""
    cold_steps: int = 2600
    """Optimizer steps of the cold start; 0 for a model that already thinks in our form."""
    layers: int = 4
    """Of a fresh `tiny`."""
    width: int = 128
    """Of a fresh `tiny`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "fresh", "samples", "per_problem", "first_steps", "batch")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples is {self.samples} at temperature 0: they would all be equal; raise temperature")
        if self.grow <= 0:
            raise ValueError(f"grow is {self.grow}; it must be above 0")

    def steps(self, iteration: int) -> int:
        """Optimizer steps of an iteration, counted from 0."""
        return round(self.first_steps * self.grow**iteration)


def main(config: Config, resume: Path | None = None) -> Path:
    """Run the recipe and return its folder; raises KeyboardInterrupt once the place is saved after Ctrl-C."""
    task = open_task(config.problems, question=config.question, answer=config.answer)
    place = checkpoint.latest(resume) if resume else None
    base_folder = (resume or Path()) / "base"
    begun = resume is not None and (base_folder / "config.json").exists()
    shape = TinyConfig(config.layers, config.width, seed=config.seed)
    student = Student.load(
        str(base_folder) if begun else config.model, tiny=shape, dtype=config.dtype, called=config.model
    )

    with begin("star", config, resume, place) as run:
        total = sum(map(config.steps, range(config.iterations)))
        thoughts = config.iterations * config.fresh * config.samples * (2 if config.rationalise else 1)
        print(f"at most {thoughts:,} thoughts of {config.max_tokens} tokens, {total:,} steps -> {run.folder}")
        if not begun:
            cold_start(student, task, config)
            student.save(run.folder / "base")
        student.refresh(0)
        student.examine("base", run, task, config)
        student.adapt(config.lora_rank, config.seed)
        base = student.weights()
        if place is not None:
            checkpoint.load(place, student.learner(lr=config.lr))
            student.refresh(step_of(place))
        for iteration in range(step_of(place), config.iterations):
            data, stats = think(student, run, task, config, iteration)
            if config.restart:
                student.restore(base)
            steps = config.steps(iteration)
            learner = student.schooled(config.lr, config.warmup, steps)
            plan = batches(data, config.batch, steps, derive(config.seed, "order", iteration) or 0)
            for batch in tqdm(plan, desc=f"iteration {iteration + 1}: learn", unit="step", leave=False):
                metrics = learner.step(batch, nll)
                student.training_tokens += int(metrics["computed"])
            run.metrics.log(iteration + 1, {**stats, **metrics})
            student.refresh(iteration + 1)
            student.examine(f"iteration {iteration + 1}", run, task, config)
            run.writer.flush()
            checkpoint.save(run.folder, iteration + 1, learner, state={}, tokenizer=student.tokenizer)
            run.raise_if_asked()
    return run.folder


def think(
    student: Student, run: Run, task: Task, config: Config, iteration: int
) -> tuple[list[Datum], dict[str, float]]:
    """The correct thoughts of one iteration on problems no iteration before has seen, and what became of the rest."""
    problems = prompts(task, config.fresh, iteration, config.seed + 1)
    sampling = Sampling(config.max_tokens, config.temperature, seed=derive(config.seed, "think", iteration))
    groups = student.sample(problems, task, config.samples, sampling, f"iteration {iteration + 1}: think")
    run.keep(groups)
    rationales: list[list[Trace]] = []
    if config.rationalise:
        failed = [p for p, group in zip(problems, groups, strict=True) if all(t.reward == 0 for t in group)]
        other = replace(sampling, seed=derive(config.seed, "rationalise", iteration))
        asked = [hinted(p) for p in failed]
        rationales = student.sample(asked, task, config.samples, other, f"iteration {iteration + 1}: rationalise")
        run.keep(rationales)
    # What was sampled with the hint in sight is learned without it.
    plain: dict[str, Messages] = {problem.id: problem.messages for problem in problems}
    data, stats = star(
        [*groups, *rationales], student.tokenizer, per_problem=config.per_problem, prompts=plain, seed=config.seed
    )
    if not data:
        raise ValueError(
            f"none of {len(problems) * config.samples} thoughts of iteration {iteration + 1} was right, so there is "
            "nothing to learn from; take easier problems or more worked examples (--easy, --shown, --cold-steps)"
        )
    stats["rationales"] = sum(trace.reward == 1 for group in rationales for trace in group)
    stats |= _sound(task, problems, groups, "thoughts") | _sound(task, problems, rationales, "rationales")
    return data, stats


def cold_start(student: Student, task: Task, config: Config) -> None:
    """Teach the form by worked examples, some of them with the hint."""
    if not config.cold_steps:
        return
    if task.worked is None:
        raise ValueError(f"{task.name} has no worked examples; give --cold-steps 0 and a model that knows the form")
    rng = random.Random(config.seed)
    pool = task.load("train", count=6 * (config.easy + config.shown), seed=config.seed)
    chosen: list[Problem] = []
    for place, level in enumerate(levels_of(pool).values()):
        distinct = list({problem.messages[-1]["content"]: problem for problem in level}.values())
        some = distinct[: config.easy if place < config.known else config.shown]
        # A level with few examples is repeated: a sixteenth of the most is what it takes to be learned at all.
        chosen += some * max(1, config.easy // 16 // max(1, len(some)))
    examples = [(problem.messages, task.worked(problem)) for problem in chosen]
    examples += [(hinted(p).messages, task.worked(p)) for p in chosen if rng.random() < config.hints]
    data = supervised(examples, student.tokenizer)
    learner = student.schooled(config.cold_lr, config.warmup, config.cold_steps)
    for batch in tqdm(batches(data, config.batch, config.cold_steps, config.seed), desc="cold start", unit="step"):
        student.training_tokens += int(learner.step(batch, nll)["computed"])


def _sound(task: Task, problems: Sequence[Problem], groups: Sequence[Sequence[Trace]], name: str) -> dict[str, Any]:
    """Share of right thoughts whose every step is right too, where the task can tell (a right answer may rest
    on wrong reasoning, and a hint invites that)."""
    if task.labels is None:
        return {}
    known = {problem.id: problem for problem in problems}
    right = [trace for group in groups for trace in group if trace.reward == 1]
    sound = sum(all(label != 0 for label in task.labels(known[t.problem_id], t)) for t in right)
    return {f"sound_{name}": sound / len(right)} if right else {}
