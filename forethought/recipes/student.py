"""The model that a recipe teaches: its weights, the engine that samples from them, and how it is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from forethought.engines.local import LocalEngine, TinyConfig, load_model
from forethought.engines.local.quiet import quiet
from forethought.engines.models import MODELS
from forethought.engines.open import find
from forethought.problems import Task
from forethought.recipes.run import Run
from forethought.rollout import collect
from forethought.scaling.cost import inference_flops, training_flops
from forethought.scaling.measure import gather
from forethought.scaling.stages import Stage
from forethought.scaling.table import table
from forethought.search.best_of_n import best_of_n
from forethought.train.learner import Learner
from forethought.types import Problem, Sampling, Trace


@dataclass
class Student:
    """A model, the engine over it, and what has been spent since the last measurement."""

    name: str
    model: Any
    """Float32 weights, the ones that learn."""
    tokenizer: Any
    engine: LocalEngine
    """Samples from a copy of the weights, taken at the last `refresh`."""
    autocast: str
    training_tokens: int = 0
    sampled_tokens: int = 0
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def load(cls, name: str, *, tiny: TinyConfig | None = None, dtype: str = "auto") -> Student:
        """The model called `name`, or a run's newest one; `dtype` is what it computes in: auto, bf16 or fp32."""
        source = find(name).value
        model, tokenizer = load_model(source, tiny=tiny)
        label = source.rstrip("/").rpartition("/")[2]
        engine = LocalEngine(model, tokenizer, name=label, dtype=dtype)
        low = str(engine.dtype) == "torch.bfloat16"
        return cls(label, model, tokenizer, engine, "bf16" if low else "fp32")

    def learner(self, **options: Any) -> Learner:
        """A fresh optimizer over the weights."""
        return Learner(self.model, autocast=self.autocast, **options)  # type: ignore[arg-type]  # checked there

    def schooled(self, lr: float, warmup: int, steps: int) -> Learner:
        """A fresh optimizer whose rate rises to `lr` and falls to nothing over `steps` steps."""
        return self.learner(lr=lr, warmup=min(warmup, steps - 1), decay="linear", total=steps + 1)

    def weights(self) -> dict[str, Any]:
        """A copy of the weights, to `restore` later."""
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def restore(self, weights: dict[str, Any]) -> None:
        """Put a copy of the weights back."""
        self.model.load_state_dict(weights)

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face checkpoint."""
        with quiet():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def refresh(self, step: int) -> None:
        """The engine samples from the weights as they are now, at training step `step`."""
        self.engine.update(self.model, step)

    def sample(
        self,
        problems: Sequence[Problem],
        task: Task,
        n: int,
        sampling: Sampling,
        label: str,
    ) -> list[list[Trace]]:
        """`n` graded thoughts for each problem, all asked for at once, under a progress bar."""
        with tqdm(total=len(problems) * n, desc=label, unit="thought", leave=False, smoothing=0.1) as bar:
            groups = collect(
                problems,
                self.engine,
                search=partial(best_of_n, n=n),
                grade=task.grade,
                sampling=sampling,
                concurrency=max(1, len(problems)),
                progress=lambda traces: bar.update(len(traces)),
            )
        self.sampled_tokens += sum(len(step.tokens) for group in groups for trace in group for step in trace.steps)
        return groups

    def measure(
        self, name: str, problems: Sequence[Problem], task: Task, n: int, sampling: Sampling, note: str = ""
    ) -> tuple[Stage, list[list[Trace]]]:
        """What the model can do now, as a stage that carries what was spent on learning since the last one."""
        learned, sampled = self.training_tokens, self.sampled_tokens
        seconds = time.perf_counter() - self.began
        groups = self.sample(problems, task, n, sampling, f"measure: {name}")
        stage = Stage(
            name=name,
            pools=gather((trace for group in groups for trace in group), problems),
            training_tokens=learned,
            sampled_tokens=sampled,
            train_flops=self._flops(training_flops, learned),
            sample_flops=self._flops(inference_flops, sampled),
            seconds=seconds,
            note=note,
        )
        self.training_tokens = self.sampled_tokens = 0
        self.began = time.perf_counter()
        return stage, groups

    def examine(self, name: str, run: Run, task: Task, config: Any) -> None:
        """Measure on `config.eval_problems` held-out problems, print the table and bring the run's report up to date.

        Nothing is done where there are none to measure on, or where this stage was measured before an interruption.
        """
        if not config.eval_problems or any(stage.name == name for stage in run.stages):
            return
        problems = task.load("test", count=config.eval_problems, seed=config.seed)
        sampling = Sampling(config.max_tokens, config.eval_temperature, seed=config.seed)
        stage, groups = self.measure(name, problems, task, config.eval_samples, sampling)
        run.keep(groups)
        run.writer.flush()
        ks = tuple(k for k in (1, 2, 4, 8, 16, 32, 64) if k <= config.eval_samples)
        print(table(stage, ks))
        print(run.add(stage, ks, described(config.model), f"{run.recipe}: {task.name}"))

    def _flops(self, formula: Callable[..., float], tokens: int) -> float:
        total = sum(parameter.numel() for parameter in self.model.parameters())
        embedded = self.model.get_input_embeddings().weight
        tied = self.model.get_output_embeddings().weight is embedded
        # The embedding table multiplies nothing; a head that is tied to it does.
        return formula(total if tied else total - embedded.numel(), tokens)


def described(name: str) -> str:
    """What the model honestly is, for the report."""
    return f"{name}: {MODELS[name].what}" if name in MODELS else name


def hinted(problem: Problem) -> Problem:
    """The problem with its answer shown, as rationalisation samples it (arXiv 2203.14465, section 3.2)."""
    *before, last = problem.messages
    shown = {**last, "content": f"{last['content']} ({problem.answer})"}
    return replace(problem, messages=(*before, shown))  # type: ignore[arg-type]  # a TypedDict spread is a dict to mypy
