"""A critic from solutions whose errors are known: it learns to quote each and to say what should stand there instead.

    forethought train critic --model runs/cold --problems chain:steps=4

Tampered solutions are worked examples with digits changed at known places, as CriticGPT's contractors insert bugs
(arXiv 2407.00215, section 3.1); natural ones are what the model itself writes, right or wrong. The task's step labels
say which lines are errors, and a program writes the critique that is imitated.

What it leaves besides the critic is a store of its own critiques of fresh solutions, each graded by what it found and
what it invented, for a reward model of critiques:

    forethought train verifier --kind bradley_terry --model runs/critic-… --store runs/critic-…
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from forethought.engines.open import described
from forethought.problems import Task, open_task
from forethought.recipes.run import Run, Settings, at_least, batches, begin, prompts
from forethought.recipes.student import Student
from forethought.scaling.measure import gather
from forethought.scaling.stages import Stage
from forethought.scaling.table import table
from forethought.search.seeds import derive
from forethought.thought.steps import split
from forethought.train import checkpoint
from forethought.train.data import supervised
from forethought.train.losses import nll
from forethought.types import Datum, Problem, Sampling, Step, Trace, Verdict
from forethought.verify.critic import ASKED, MARK, critique_prompt, highlights, written

Labels = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Train a critic on tampered solutions and on the model's own."""

    model: str
    """What the critic begins from, and the policy whose solutions it reads: a model that knows the task."""
    problems: str = "chain:steps=4"
    """A task that can work its examples and knows the steps of its thoughts."""
    examples: int = 2000
    """Tampered solutions to learn from."""
    drawn: int = 500
    """Solutions of the model itself to learn from."""
    bugs: int = 3
    """Most digits changed in one solution, one a line; 0 to so many are as likely."""
    asked: str = ASKED
    """What the critic is asked; a model of single characters learns a short one as well and reads it sooner."""
    batch: int = 32
    """Critiques in one step."""
    steps: int = 200
    """Optimizer steps."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup: int = 20
    """Steps over which the rate rises."""
    save_every: int = 100
    """Steps between checkpoints; the last step is always kept."""
    eval_problems: int = 128
    """Fresh solutions, half of them tampered, whose critiques are graded and kept; 0 keeps none."""
    eval_samples: int = 8
    """Critiques of each; every other one begins inside a highlight, as a forced search has them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "examples", "batch", "steps", "save_every")
        at_least(self, 0, "drawn", "bugs")
        if not self.asked.strip():
            raise ValueError("asked is empty; a critic needs to be asked something, if only 'Errors?'")


def main(config: Config, resume: Path | None = None) -> Path:
    """Run the recipe and return its folder; raises KeyboardInterrupt once the place is saved after Ctrl-C.

    Raises ValueError, before anything is learned, where the task cannot work its examples or does not know the steps of
    its thoughts, and where a solution and its critique are longer than the model's context.
    """
    task = open_task(config.problems, question=config.question, answer=config.answer)
    student = Student.load(config.model, dtype=config.dtype)
    student.prepare(config)
    # Before a checkpoint is loaded: they are the solutions of the policy as it was, after a resumption too.
    learn = solutions(student, task, config, config.examples, config.drawn, "learn")
    fresh = solutions(
        student, task, config, config.eval_problems - config.eval_problems // 2, config.eval_problems // 2, "grade"
    )
    data = lessons(learn, task, config, student)
    learner = student.schooled(config.lr, config.warmup, config.steps)
    place = checkpoint.latest(resume) if resume else None
    first = 0
    if place:
        saved = checkpoint.load(place, learner)
        first = saved.step
        student.resume(saved.state["spent"])

    with begin("critic", config, resume, place) as run:
        plan = batches(data, config.batch, config.steps, config.seed)
        print(f"{config.steps} steps of {config.batch} of {len(data):,} critiques -> {run.folder}", flush=True)
        for step in tqdm(range(first, config.steps), initial=first, total=config.steps, desc="critic", unit="step"):
            metrics = learner.step(plan[step], nll)
            student.training_tokens += int(metrics["computed"])
            run.metrics.log(step + 1, metrics)
            if run.due(step + 1, config.steps, config.save_every):
                state = {"spent": student.spent()}
                checkpoint.save(run.folder, step + 1, learner, state=state, tokenizer=student.tokenizer)
            run.raise_if_asked()
        student.refresh(config.steps)
        _finish(config, run, student, task, fresh)
    return run.folder


def solutions(
    student: Student, task: Task, config: Config, tampered: int, drawn: int, use: str
) -> list[tuple[Problem, tuple[Step, ...]]]:
    """Solutions in lines, as a critic reads them: worked examples with up to `config.bugs` changed digits, then what
    the engine's model writes. Another `use` has other problems; those to be graded are held out.

    Raises ValueError where the task cannot make or label them.
    """
    if task.worked is None or task.labels is None:
        raise ValueError(f"{task.name} has no worked examples whose steps are known; a critic needs both, as chain has")
    load = "train" if use == "learn" else "test"
    count = tampered + drawn
    problems = task.load("test", count=count, seed=config.seed) if load == "test" and count else []
    if load == "train":
        problems = prompts(task, count, 0, config.seed)
    found = []
    for problem in problems[:tampered]:
        rng = random.Random(f"{config.seed}/{use}/{problem.id}")
        found.append((problem, lines(tamper(task.worked(problem), rng.randint(0, config.bugs), rng))))
    if drawn:
        sampling = Sampling(config.max_tokens, config.eval_temperature, seed=derive(config.seed, "solutions", use))
        groups = student.sample(problems[tampered:], task, 1, sampling, f"solutions to {use}")
        texts = [trace.text for group in groups for trace in group]
        found += [(problem, lines(text)) for problem, text in zip(problems[tampered:], texts, strict=True)]
    # A solution that holds the mark of a quote cannot be quoted.
    return [(problem, steps) for problem, steps in found if steps and MARK not in "".join(step.text for step in steps)]


def lines(text: str) -> tuple[Step, ...]:
    """A solution as steps of one line each, without tokens."""
    return split(Step(text), lambda tokens: "") if text else ()


def tamper(text: str, bugs: int, rng: random.Random) -> str:
    """The text with one digit changed in each of `bugs` lines, or in all that have a digit where those are fewer."""
    parts = text.splitlines(keepends=True)
    places = [at for at, line in enumerate(parts) if any(c.isdecimal() for c in line)]
    for at in rng.sample(places, min(bugs, len(places))):
        line = parts[at]
        digit = rng.choice([place for place, c in enumerate(line) if c.isdecimal()])
        other = rng.choice([c for c in "0123456789" if c != line[digit]])
        parts[at] = line[:digit] + other + line[digit + 1 :]
    return "".join(parts)


def truth(problem: Problem, steps: tuple[Step, ...], task: Task) -> Labels:
    """The task's own labels of a solution's lines: 1 right, 0 an error, `None` where a line claims nothing."""
    assert task.labels is not None
    return task.labels(problem, Trace(problem.id, problem.messages, steps, ""))


def lessons(
    learn: Sequence[tuple[Problem, tuple[Step, ...]]], task: Task, config: Config, student: Student
) -> list[Datum]:
    """Each solution and the critique that quotes its errors, with what should stand there as the comment."""
    assert task.worked is not None
    examples = []
    for problem, steps in learn:
        right = lines(task.worked(problem))
        errors = [
            (quote(steps, at), f"Should be {right[at].text.strip()}" if at < len(right) else "Should not be there.")
            for at, label in enumerate(truth(problem, steps, task))
            if label == 0
        ]
        examples.append((critique_prompt(problem.messages, steps, config.asked), written(errors)))
    data = supervised(examples, student.tokenizer)
    longest = max(len(datum.tokens) for datum in data)
    if longest > student.engine.context:
        raise ValueError(
            f"a solution of {config.problems} and its critique take {longest} tokens, and {student.name} holds "
            f"{student.engine.context}; take shorter problems, fewer bugs, a shorter --asked or another model"
        )
    return data


def quote(steps: Sequence[Step], at: int) -> str:
    """The shortest beginning of line `at` that is found there and not before; the whole of one that stands before."""
    line = steps[at].text.strip()
    beginnings = (line[:end].rstrip() for end in range(1, len(line)))
    return next((one for one in beginnings if [h.step for h in highlights(f"{MARK}{one}{MARK}", steps)] == [at]), line)


def counts(critique: str, steps: Sequence[Step], labels: Labels) -> tuple[int, int, int]:
    """Errors that the critique located, errors there are, and quotes: those of lines without an error, of text that is
    not there and of the same line once more included."""
    wrong = {at for at, label in enumerate(labels) if label == 0}
    located = {one.step for one in highlights(critique, steps)}
    return len(wrong & located), len(wrong), max(critique.count(MARK) // 2, len(located))


def quality(critique: str, steps: Sequence[Step], labels: Labels) -> float:
    """What a critique is worth, in [0, 1]: the errors that it located, over all errors and all quotes of anything else.
    1 is each error once and nothing besides."""
    hits, errors, quotes = counts(critique, steps, labels)
    return hits / (errors + quotes - hits) if errors or quotes else 1.0


def _finish(
    config: Config, run: Run, student: Student, task: Task, fresh: Sequence[tuple[Problem, tuple[Step, ...]]]
) -> None:
    """Grade and keep the critic's critiques of fresh solutions, and say what they are worth."""
    if not fresh or run.stages:
        return
    seconds = time.perf_counter() - student.began
    traces = asyncio.run(_criticised(config, student, task, fresh))
    run.keep([traces])
    run.writer.flush()
    pools = gather(traces)
    print(f"mean quality {sum(trace.reward or 0.0 for trace in traces) / len(traces):.3f}")
    stage = Stage("critic", pools, training_tokens=student.training_tokens, seconds=seconds)
    ks = tuple(k for k in (1, 2, 4, 8, 16, 32, 64) if k <= config.eval_samples)
    print(table(stage, ks))
    print(run.add(stage, ks, described(config.model), f"critic: {task.name}"))


async def _criticised(
    config: Config, student: Student, task: Task, fresh: Sequence[tuple[Problem, tuple[Step, ...]]]
) -> list[Trace]:
    """Graded critiques, `eval_samples` of each solution; the solution's place stands for the problem."""
    engine: Any = student.engine

    async def one(number: int, at: int) -> Trace:
        problem, steps = fresh[number]
        asked = critique_prompt(problem.messages, steps, config.asked)
        forced = (Step(MARK, sampled=False),) if at % 2 else ()
        seed = derive(config.seed, "critique", number, at)
        step = await engine.sample(asked, forced, Sampling(config.max_tokens, config.eval_temperature, seed=seed))
        trace = Trace(f"critique/{problem.id}", asked, (*forced, step), engine.name, f"{engine.name}/{number}")
        score = quality(trace.text, steps, truth(problem, steps, task)) if step.stop != "error" else None
        return replace(trace, verdicts={"grade": Verdict(score)})

    wanted = [(number, at) for number in range(len(fresh)) for at in range(config.eval_samples)]
    return await asyncio.gather(*(one(number, at) for number, at in wanted))
