"""Supervised fine-tuning on worked examples: the cold start that every other recipe begins with.

    forethought train sft --model smollm2-135m --problems sums

teaches the embedded model to think in our form; `docs/LOG.md` has what it gained and in how long.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from forethought.engines.local import TinyConfig
from forethought.problems import open_task
from forethought.recipes.run import Settings, at_least, batches, begin
from forethought.recipes.student import Student
from forethought.thought.marks import direct
from forethought.train import checkpoint
from forethought.train.data import supervised
from forethought.train.losses import nll


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Supervised fine-tuning on worked examples."""

    model: str = "tiny"
    problems: str = "sums"
    """A task, as `sums:terms=3,most=12`, or a file of problems with worked solutions."""
    examples: int = 256
    """Worked examples."""
    direct: bool = False
    """Imitate the bare answers, without a thought: what the thought is worth, by leaving it out."""
    batch: int = 16
    """Examples in one step."""
    steps: int = 16
    """Optimizer steps."""
    lr: float = 2e-4
    """Peak learning rate."""
    warmup: int = 4
    """Steps over which the rate rises."""
    save_every: int = 50
    """Steps between checkpoints; the last step is always kept."""
    layers: int = 4
    """Of a fresh `tiny`."""
    width: int = 192
    """Of a fresh `tiny`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "examples", "batch", "steps", "save_every")


def main(config: Config, resume: Path | None = None) -> Path:
    """Run the recipe and return its folder; raises KeyboardInterrupt once the place is saved after Ctrl-C."""
    task = open_task(config.problems, question=config.question, answer=config.answer)
    worked = (lambda problem: direct(problem.answer)) if config.direct else task.worked
    if worked is None:
        raise ValueError(f"{config.problems} has no worked examples to imitate; take another task, or --direct")
    student = Student.load(
        config.model, tiny=TinyConfig(config.layers, config.width, seed=config.seed), dtype=config.dtype
    )
    student.prepare(config)
    learner = student.schooled(config.lr, config.warmup, config.steps)
    place = checkpoint.latest(resume) if resume else None
    first = 0
    if place:
        saved = checkpoint.load(place, learner)
        first = saved.step
        student.resume(saved.state["spent"])

    with begin("sft", config, resume, place) as run:
        examples = [(p.messages, worked(p)) for p in task.load("train", count=config.examples, seed=config.seed)]
        data = supervised(examples, student.tokenizer)
        plan = batches(data, config.batch, config.steps, config.seed)
        tokens = sum(len(datum.tokens) for batch in plan for datum in batch)
        print(f"{config.steps} steps of {config.batch} examples, {tokens:,} tokens to learn from -> {run.folder}")
        student.examine("as it is", run, task, config)
        for step in tqdm(range(first, config.steps), initial=first, total=config.steps, desc="sft", unit="step"):
            metrics = learner.step(plan[step], nll)
            student.training_tokens += int(metrics["computed"])
            run.metrics.log(step + 1, metrics)
            if run.due(step + 1, config.steps, config.save_every):
                checkpoint.save(
                    run.folder, step + 1, learner, state={"spent": student.spent()}, tokenizer=student.tokenizer
                )
            run.raise_if_asked()
        student.refresh(config.steps)
        student.examine("worked examples", run, task, config)
    return run.folder
