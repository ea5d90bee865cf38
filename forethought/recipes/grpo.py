"""Group-relative policy optimisation (DeepSeekMath, arXiv 2402.03300) and its kin, on the model's own graded thoughts.

    forethought train sft --model smollm2-135m --problems sums --out runs/cold
    forethought train grpo --model runs/cold --problems sums

samples a group of thoughts for each prompt, weighs them by how much better than their group they are, and takes
`updates` optimizer steps on them. The model must be right now and then: a group whose thoughts are all wrong, or all
right, teaches nothing. `docs/LOG.md` has what it gained and in how long. A run that was killed goes on to the bit: what
is left of its rollout is part of the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from forethought.problems import Task, open_task
from forethought.recipes.curriculum import Curriculum, rule
from forethought.recipes.run import Run, Settings, at_least, begin, prompts, step_of
from forethought.recipes.student import Student
from forethought.search.seeds import derive
from forethought.train import checkpoint
from forethought.train.data import grpo
from forethought.train.learner import Learner
from forethought.train.losses import policy_gradient
from forethought.types import Datum, Sampling

METHODS: dict[str, tuple[dict[str, Any], Literal["sequences", "tokens"]]] = {
    "grpo": ({"baseline": "mean", "scale": "std", "length": "sequence"}, "sequences"),
    "dr-grpo": ({"baseline": "mean", "scale": "none", "length": "constant"}, "sequences"),
    "dapo": ({"baseline": "mean", "scale": "std", "length": "token", "truncated": "mask"}, "tokens"),
    "rloo": ({"baseline": "loo", "scale": "none", "length": "token"}, "sequences"),
}
"""How each method weighs a thought's tokens, and what the learner divides their sum by."""


DEAD_STEPS = 5
"""Rollouts without anything to learn from after which the user is told."""


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Reinforce thoughts by how much better than their group they are."""

    model: str
    """A checkpoint that already thinks in our form (`train sft` makes one), smollm2-135m, or a hub name."""
    max_tokens: int = 96
    method: str = "grpo"
    """grpo, dr-grpo, dapo or rloo."""
    steps: int = 40
    """Optimizer steps, at most."""
    tokens: int = 0
    """End with the step that passes so many tokens: sampled, of prompts, and learned from; 0 is no end."""
    prompts: int = 16
    """Problems in one rollout."""
    group: int = 8
    """Thoughts for each of them."""
    updates: int = 1
    """Optimizer steps on one rollout."""
    lr: float = 1e-5
    """Peak learning rate."""
    warmup: int = 4
    """Steps over which the rate rises."""
    clip_low: float = 0.2
    """The probability ratio is clipped below 1 - clip_low."""
    clip_high: float = 0.28
    """The probability ratio is clipped above 1 + clip_high."""
    kl: float = 0.0
    """Weight of the divergence from the model as it was loaded."""
    tis: float = 2.0
    """Cap of the importance weight between sampler and learner; 0 is off."""
    temperature: float = 1.0
    """Of the thoughts that are learned from."""
    curriculum: str = ""
    """Which parts of a mixture to draw from more often: bounds of success like 0.1-0.9, or learnability."""
    save_every: int = 10
    """Steps between checkpoints; the last step is always kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; choose from {', '.join(METHODS)}")
        at_least(self, 1, "steps", "prompts", "updates", "save_every")
        at_least(self, 0, "tokens", "clip_low", "clip_high", "kl", "tis")
        if self.curriculum:
            rule(self.curriculum)  # refuses what is none
        if self.group < 2:
            raise ValueError(f"group is {self.group}; an advantage needs at least 2 thoughts to compare")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; thoughts that differ need one above 0")


def main(config: Config, resume: Path | None = None) -> Path:
    """Run the recipe and return its folder; raises KeyboardInterrupt once the place is saved after Ctrl-C."""
    task = open_task(config.problems, question=config.question, answer=config.answer)
    curriculum = Curriculum(config.curriculum, task, config.seed) if config.curriculum else None
    student = Student.load(config.model, dtype=config.dtype)
    student.prepare(config)
    place = checkpoint.latest(resume) if resume else None
    weigh, normaliser = METHODS[config.method]
    loss = partial(
        policy_gradient,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        kl=config.kl,
        kl_length="token" if normaliser == "tokens" else "sequence",
        tis=config.tis or None,
    )

    with begin("grpo", config, resume, place) as run:
        thoughts = -(-config.steps // config.updates) * config.prompts * config.group
        print(f"{config.steps} steps on {thoughts:,} thoughts of at most {config.max_tokens} tokens -> {run.folder}")
        rates: dict[str, Any] = {"lr": config.lr, "warmup": config.warmup, "temperature": config.temperature}
        learner = student.learner(**rates)
        # The model as it was loaded; a resumed run puts its own weights back only after this.
        reference = student.reference(learner) if config.kl else None
        rest: list[Batch] = []  # what is left of the rollout
        stats: dict[str, float] = {}
        if place is None:
            student.examine("before", run, task, config)
        else:
            saved = checkpoint.load(place, learner)
            student.resume(saved.state["spent"])
            rest, stats = _unpacked(saved.data, saved.state["batches"]), saved.state["stats"]
            if curriculum:
                curriculum.restore(saved.state["curriculum"])
        first = step_of(place)
        done = first
        for step in tqdm(range(first, config.steps), initial=first, total=config.steps, desc="grpo", unit="step"):
            if 0 < config.tokens <= student.tokens:
                break
            began = time.perf_counter()
            if step % config.updates == 0:
                student.refresh(step)
                rest, stats = _roll_out(student, learner, run, task, config, step, weigh, curriculum)
            drawn = time.perf_counter()
            data, proximal = rest.pop(0)
            kept: dict[str, float] = {}
            if data:
                known = reference(data) if reference else None
                kept = learner.step(data, loss, normaliser=normaliser, proximal=proximal, reference=known)
                student.training_tokens += int(kept["computed"])
            seconds = {"seconds_sampling": drawn - began, "seconds_learning": time.perf_counter() - drawn}
            run.metrics.log(step + 1, {**stats, **kept, **seconds, "tokens": student.tokens})
            done = step + 1
            if run.due(done, config.steps, config.save_every) or 0 < config.tokens <= student.tokens:
                run.writer.flush()
                sizes = [(len(batch), rows) for batch, rows in rest]
                state = {"batches": sizes, "stats": stats, "spent": student.spent()}
                state |= {"curriculum": curriculum.state()} if curriculum else {}
                left = [datum for batch, _ in rest for datum in batch]
                checkpoint.save(run.folder, done, learner, state=state, data=left, tokenizer=student.tokenizer)
            run.raise_if_asked()
            if not data and step + 1 == DEAD_STEPS * config.updates and learner.steps == 0:
                print(f"nothing learned in {step + 1} steps: every thought of every group earned the same")
        student.refresh(done)
        student.examine("after", run, task, config)
    return run.folder


Batch = tuple[list[Datum], list[tuple[float, ...]] | None]
"""Data of one optimizer step, and the learner's log-probabilities of them when they were drawn."""


def _roll_out(
    student: Student,
    learner: Learner,
    run: Run,
    task: Task,
    config: Config,
    step: int,
    weigh: dict[str, Any],
    curriculum: Curriculum | None,
) -> tuple[list[Batch], dict[str, float]]:
    """Draw and weigh one rollout, cut into the batches of its optimizer steps."""
    number = step // config.updates
    sampling = Sampling(config.max_tokens, config.temperature, seed=derive(config.seed, "rollout", number))
    known = curriculum.prompts(config.prompts) if curriculum else prompts(task, config.prompts, number, config.seed)
    groups = student.sample(known, task, config.group, sampling, "rollout")
    run.keep(groups)
    data, stats = grpo(groups, student.tokenizer, max_tokens=config.max_tokens, drop_dead=not config.kl, **weigh)
    if curriculum:
        curriculum.observe(known, groups)
        stats |= curriculum.metrics()
    size = -(-len(data) // config.updates)
    cuts = [data[start * size : (start + 1) * size] for start in range(config.updates)]
    # With one update the ratio is 1 by definition; with more, it is taken against the weights that drew the data.
    rows = learner.logprobs(data) if config.updates > 1 and data else None
    return [(cut, rows[i * size : (i + 1) * size] if rows else None) for i, cut in enumerate(cuts)], stats


def _unpacked(data: Sequence[Datum], sizes: Sequence[tuple[int, Any]]) -> list[Batch]:
    batches: list[Batch] = []
    start = 0
    for size, rows in sizes:
        batches.append((list(data[start : start + size]), rows))
        start += size
    return batches
