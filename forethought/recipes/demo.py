"""The road of o1 in small: a model as it is, a cold start, learning from its own thoughts, and thinking wider.

    forethought demo
    forethought demo --model tiny

Every stage answers the same held-out problems several times, so that one page shows what learning bought and what a
vote over more thoughts buys on top. `docs/LOG.md` has the gains and the minutes of the machine they were measured on.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from forethought.engines.local import TinyConfig
from forethought.problems import Task, open_task
from forethought.recipes.run import Run, at_least, batches, begin, step_of
from forethought.recipes.student import Student
from forethought.search.seeds import derive
from forethought.train import checkpoint
from forethought.train.data import star, supervised
from forethought.train.losses import nll
from forethought.types import Datum, Problem, Sampling


@dataclass(frozen=True)
class Config:
    """Teach a model to think, let it think longer, and see what both bought. Unset numbers suit the model."""

    model: str = "smollm2-135m"
    """smollm2-135m, tiny, a checkpoint's folder, or a hub name."""
    problems: str | None = None
    """A task with worked examples, as `sums:terms=3,most=12`."""
    examples: int | None = None
    """Worked examples of the cold start."""
    cold_steps: int | None = None
    """Optimizer steps on them."""
    cold_lr: float | None = None
    """Peak learning rate of the cold start."""
    rounds: int | None = None
    """Times it thinks and learns from its own correct thoughts."""
    fresh: int | None = None
    """New problems in each round."""
    samples: int | None = None
    """Thoughts for each of them."""
    lr: float | None = None
    """Peak learning rate of learning from them."""
    batch: int | None = None
    """Thoughts in one step."""
    epochs: int | None = None
    """Times it goes through its own right thoughts."""
    max_tokens: int | None = None
    """Longest thought."""
    eval_problems: int = 200
    """Held-out problems."""
    eval_samples: int | None = None
    """Thoughts for each of them: the widest vote."""
    eval_temperature: float = 1.0
    """Of these thoughts."""
    layers: int = 4
    """Of a fresh `tiny`."""
    width: int = 128
    """Of a fresh `tiny`."""
    dtype: str = "auto"
    """auto, bf16 or fp32."""
    sinks: tuple[str, ...] = ()
    """More places for metrics: trackio, tensorboard, wandb."""
    seed: int = 0
    """Of problems, order and samples."""
    out: str = ""
    """The run's folder; runs/demo-TIME by default."""

    def __post_init__(self) -> None:
        at_least(self, 1, "examples", "cold_steps", "fresh", "samples", "batch", "epochs", "max_tokens", "eval_samples")
        at_least(self, 0, "rounds", "eval_problems", "eval_temperature")

    def settled(self) -> Settled:
        """The same with every unset number filled in for its model."""
        preset = PRESETS["tiny" if self.model == "tiny" else "pretrained"]
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return Settled(**{**preset, **given})


@dataclass(frozen=True, kw_only=True)
class Settled(Config):
    """Every number known."""

    problems: str
    examples: int
    cold_steps: int
    cold_lr: float
    rounds: int
    fresh: int
    samples: int
    lr: float
    batch: int
    epochs: int
    max_tokens: int
    eval_samples: int


PRESETS: dict[str, dict[str, Any]] = {
    "pretrained": {
        "problems": "sums:terms=4,most=20",
        "examples": 256,
        "cold_steps": 16,
        "cold_lr": 3e-4,
        "rounds": 1,
        "fresh": 800,
        "samples": 2,
        "lr": 1e-4,
        "batch": 16,
        "epochs": 1,
        "max_tokens": 64,
        "eval_samples": 8,
    },
    "tiny": {
        "problems": "chain:steps=4,modulus=7",
        "examples": 4800,
        "cold_steps": 150,
        "cold_lr": 2e-3,
        "rounds": 1,
        "fresh": 1000,
        "samples": 4,
        "lr": 3e-4,
        "batch": 32,
        "epochs": 2,
        "max_tokens": 64,
        "eval_samples": 64,
    },
}
"""Found by measuring; `docs/LOG.md` has the tries."""

WARMUP = 3
"""Steps over which the rate rises in each stage."""


def main(config: Config, resume: Path | None = None) -> Path:
    """Walk the road and return the run's folder; raises KeyboardInterrupt once the place is saved after Ctrl-C."""
    settled = config.settled()
    began = time.perf_counter()
    task = open_task(settled.problems)
    if task.worked is None:
        raise ValueError(f"{settled.problems} has no worked examples to begin with; choose a task that has")
    student = Student.load(
        settled.model, tiny=TinyConfig(settled.layers, settled.width, seed=settled.seed), dtype=settled.dtype
    )
    pool = task.load("train", count=settled.examples + settled.rounds * settled.fresh, seed=settled.seed)
    place = checkpoint.latest(resume) if resume else None

    with begin("demo", settled, resume, place) as run:
        print(estimate(settled, run.folder))
        if place is not None:
            saved = checkpoint.load(place, student.learner(lr=1.0))
            student.resume(saved.state["spent"])
            student.refresh(step_of(place))
        # A few samples tell that it knows nothing yet, and cost as much as many of the thoughts that follow.
        student.examine("as it is", run, task, replace(settled, eval_samples=min(8, settled.eval_samples)))
        for stage in range(max(0, step_of(place) - 1), settled.rounds + 1):
            if stage >= step_of(place):
                learn(student, run, to_learn(student, run, task, pool, settled, stage), settled, stage)
            name = "worked examples" if stage == 0 else "own thoughts" + (f" {stage}" if settled.rounds > 1 else "")
            student.examine(name, run, task, settled)
            run.raise_if_asked()
        print(f"{(time.perf_counter() - began) / 60:.1f} minutes; the report: {run.folder / 'report.html'}")
    return run.folder


def estimate(config: Settled, folder: Path) -> str:
    """What the road will cost, in tokens at most."""
    measured = (config.rounds + 2) * config.eval_problems * config.eval_samples
    thought = config.rounds * config.fresh * config.samples
    return (
        f"{config.model} on {config.problems}: {config.examples} worked examples, {thought:,} thoughts to learn from, "
        f"{measured:,} to measure, each of at most {config.max_tokens} tokens -> {folder}"
    )


def to_learn(student: Student, run: Run, task: Task, pool: list[Problem], config: Settled, stage: int) -> list[Datum]:
    """What a stage imitates: worked examples first, then its own right thoughts on problems it has not seen."""
    if stage == 0:
        assert task.worked is not None
        return supervised([(p.messages, task.worked(p)) for p in pool[: config.examples]], student.tokenizer)
    start = config.examples + (stage - 1) * config.fresh
    problems = pool[start : start + config.fresh]
    sampling = Sampling(config.max_tokens, 1.0, seed=derive(config.seed, "think", stage))
    groups = student.sample(problems, task, config.samples, sampling, "think")
    run.keep(groups)
    data, stats = star(groups, student.tokenizer, seed=config.seed)
    print(f"{stats['correct']:.0f} of {len(problems) * config.samples} thoughts were right; {len(data)} differ")
    if not data:
        raise ValueError("no thought was right, so there is nothing to learn from; choose easier problems")
    return data


def learn(student: Student, run: Run, data: list[Datum], config: Settled, stage: int) -> None:
    """Imitate `data` and save the place."""
    steps, lr = -(-len(data) * config.epochs // config.batch), config.lr
    if stage == 0:
        steps, lr = config.cold_steps, config.cold_lr
    learner = student.schooled(lr, WARMUP, steps)
    bar = tqdm(batches(data, config.batch, steps, config.seed + stage), desc="learn", unit="step", leave=False)
    for batch in bar:
        metrics = learner.step(batch, nll)
        student.training_tokens += int(metrics["computed"])
        bar.set_postfix(loss=f"{metrics['loss']:.3f}")
    last = {f"last_{name}": metrics[name] for name in ("loss", "entropy", "grad_norm")}
    run.metrics.log(stage + 1, {"steps": steps, "data": len(data), **last})
    student.refresh(stage + 1)
    run.writer.flush()
    state = {"spent": student.spent()}
    checkpoint.save(run.folder, stage + 1, learner, state=state, tokenizer=student.tokenizer, keep=1)
